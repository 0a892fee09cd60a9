package dev.espalier.model;

import static dev.espalier.Check.check;

import dev.espalier.EspalierException;
import dev.espalier.io.Fields;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Device;
import dev.espalier.tensor.Tensor;
import java.util.List;

/**
 * Rotary position embedding: each pair (x[i], x[i + E/2]) of a head is turned by position · frequency[i].
 *
 * <p>Su et al., <i>RoFormer</i>, arXiv:2104.09864, in the half-split layout of Hugging Face's checkpoints. Scalings that
 * stretch the context: {@code linear} (Chen et al., arXiv:2306.15595), {@code llama3} (Llama 3.1's, by wavelength) and
 * {@code yarn} (Peng et al., arXiv:2309.00071, eq. 17 to 24).
 */
final class Rope {

    /** Ways of stretching. */
    enum Type {
        DEFAULT,
        LINEAR,
        LLAMA3,
        YARN
    }

    /**
     * What config.json says about RoPE.
     *
     * @param type way of stretching
     * @param theta base of the wavelengths
     * @param factor how far the context is stretched; at least 1 but for {@code DEFAULT}
     * @param originalPositions context before stretching ({@code llama3}, {@code yarn})
     * @param lowFreqFactor {@code llama3}: original / this is the wavelength above which all is stretched
     * @param highFreqFactor {@code llama3}: original / this is the wavelength below which nothing is
     * @param betaFast {@code yarn}: rotations within the original context above which nothing is stretched
     * @param betaSlow {@code yarn}: rotations below which all is
     * @param truncate {@code yarn}: whether the borders are rounded outwards to whole pairs
     * @param attentionFactor what cosines and sines are multiplied by; 1 but for {@code yarn}
     */
    record Config(
            Type type,
            double theta,
            double factor,
            double originalPositions,
            double lowFreqFactor,
            double highFreqFactor,
            double betaFast,
            double betaSlow,
            boolean truncate,
            double attentionFactor) {

        Config {
            check(
                    theta > 0 && Double.isFinite(theta),
                    "config.json: rope_theta is %s; it must be a positive number, such as 10000",
                    theta);
            check(
                    factor >= 1 && Double.isFinite(factor),
                    "config.json: the RoPE factor is %s; it must be at least 1",
                    factor);
            check(
                    originalPositions >= 1,
                    "config.json: original_max_position_embeddings is %s; it must be at least 1",
                    originalPositions);
            check(
                    type != Type.LLAMA3 || (lowFreqFactor > 0 && highFreqFactor > lowFreqFactor),
                    "config.json: high_freq_factor is %s and low_freq_factor is %s; the first must be the larger, and both"
                            + " positive",
                    highFreqFactor,
                    lowFreqFactor);
            check(
                    type != Type.YARN || (betaSlow > 0 && betaFast >= betaSlow && theta != 1),
                    "config.json: beta_fast is %s and beta_slow is %s; the first must not be the smaller, and both positive",
                    betaFast,
                    betaSlow);
            check(
                    attentionFactor > 0 && Double.isFinite(attentionFactor),
                    "config.json: attention_factor is %s; it must be positive",
                    attentionFactor);
        }

        /**
         * Reads either form: {@code rope_parameters} (transformers 5), or {@code rope_theta} beside {@code rope_scaling}
         * (transformers 4).
         */
        static Config read(String where, Fields config, int maxPositions) {
            boolean newForm = config.has("rope_parameters");
            Fields rope = config.fields(newForm ? "rope_parameters" : "rope_scaling");
            double theta = rope.number("rope_theta", config.number("rope_theta", 10_000));
            String name = rope.has("rope_type") ? rope.string("rope_type") : rope.string("type", "default");
            check(
                    rope.number("partial_rotary_factor", config.number("partial_rotary_factor", 1)) == 1,
                    "%s: partial_rotary_factor is not supported for this family; only models that turn whole heads are",
                    where);
            Type type = switch (name) {
                case "default" -> Type.DEFAULT;
                case "linear" -> Type.LINEAR;
                case "llama3" -> Type.LLAMA3;
                case "yarn" -> Type.YARN;
                default ->
                    throw new EspalierException(
                            "%s: the RoPE type '%s' is not supported; supported are default, linear, llama3 and yarn"
                                    .formatted(where, name));
            };
            double original = config.number(
                    "original_max_position_embeddings", rope.number("original_max_position_embeddings", maxPositions));
            double factor = switch (type) {
                case DEFAULT -> 1;
                case LINEAR, LLAMA3 -> rope.number("factor");
                case YARN -> rope.number("factor", maxPositions / original);
            };
            return new Config(
                    type,
                    theta,
                    factor,
                    original,
                    type == Type.LLAMA3 ? rope.number("low_freq_factor") : 1,
                    type == Type.LLAMA3 ? rope.number("high_freq_factor") : 4,
                    positiveOr(rope.number("beta_fast", 32), 32),
                    positiveOr(rope.number("beta_slow", 1), 1),
                    rope.bool("truncate", true),
                    type == Type.YARN ? attentionFactor(rope, factor) : 1);
        }

        /** YaRN's temperature on the logits, put on cosines and sines: arXiv:2309.00071, eq. 22. */
        private static double attentionFactor(Fields rope, double factor) {
            double mscale = rope.number("mscale", 0);
            double mscaleAll = rope.number("mscale_all_dim", 0);
            double inferred = mscale != 0 && mscaleAll != 0
                    ? temperature(factor, mscale) / temperature(factor, mscaleAll)
                    : temperature(factor, 1);
            return rope.number("attention_factor", inferred);
        }

        private static double temperature(double factor, double mscale) {
            return factor <= 1 ? 1 : 0.1 * mscale * Math.log(factor) + 1;
        }

        private static double positiveOr(double value, double otherwise) {
            return value == 0 ? otherwise : value;
        }
    }

    /** Cosines and signed sines of some positions, ready to be applied: each [B or 1, T, 1, E]. */
    record Table(Tensor cos, Tensor sin) {

        /** x [B, T, heads, E], turned. */
        Tensor apply(Tensor x) {
            // (x1, x2) -> (x1 cos - x2 sin, x2 cos + x1 sin): the halves change places, the sign is in the sines.
            return x.mul(cos).addcmul(x.roll(x.size(-1) / 2, -1), sin);
        }
    }

    private final float[] frequencies; // [E/2]
    private final double attentionFactor;

    Rope(Config config, int headDim) {
        frequencies = frequencies(config, headDim);
        attentionFactor = config.attentionFactor();
    }

    /** @param positions int64 [B or 1, T] */
    Table table(Tensor positions, DType dtype, Device device) {
        Tensor turns = Tensor.of(frequencies, 1, 1, frequencies.length).to(device);
        Tensor angles = positions.to(device).to(DType.FLOAT32).unsqueeze(-1).mul(turns); // [B, T, E/2]
        Tensor cos = angles.cos();
        Tensor sin = angles.sin();
        if (attentionFactor != 1) {
            cos = cos.mul(attentionFactor);
            sin = sin.mul(attentionFactor);
        }
        return new Table(whole(cos, cos, dtype), whole(sin.neg(), sin, dtype));
    }

    private static Tensor whole(Tensor first, Tensor second, DType dtype) {
        return Tensor.cat(List.of(first, second), -1).unsqueeze(2).to(dtype);
    }

    /** What each pair turns by from one position to the next: [E/2]. */
    static float[] frequencies(Config c, int headDim) {
        int pairs = headDim / 2;
        float[] result = new float[pairs];
        double[] range = c.type() == Type.YARN ? correctionRange(c, headDim) : new double[] {0, 1};
        for (int i = 0; i < pairs; i++) {
            // Rounded to float where transformers rounds, so that angles agree at large positions too.
            double plain = 1 / (float) Math.pow(c.theta(), 2f * i / headDim);
            result[i] = (float)
                    switch (c.type()) {
                        case DEFAULT -> plain;
                        case LINEAR -> plain / c.factor();
                        case LLAMA3 -> llama3(c, plain);
                        case YARN -> {
                            double ramp = Math.max(0, Math.min(1, (i - range[0]) / (range[1] - range[0])));
                            yield plain / c.factor() * ramp + plain * (1 - ramp);
                        }
                    };
        }
        return result;
    }

    /** Short waves stay, long ones are stretched, and between the two borders one goes over into the other. */
    private static double llama3(Config c, double plain) {
        double wavelength = 2 * Math.PI / plain;
        if (wavelength > c.originalPositions() / c.lowFreqFactor()) {
            return plain / c.factor();
        } else if (wavelength < c.originalPositions() / c.highFreqFactor()) {
            return plain;
        }
        double smooth =
                (c.originalPositions() / wavelength - c.lowFreqFactor()) / (c.highFreqFactor() - c.lowFreqFactor());
        return (1 - smooth) * plain / c.factor() + smooth * plain;
    }

    /** The pairs between which YaRN's ramp rises: those that turn betaFast and betaSlow times in the original context. */
    private static double[] correctionRange(Config c, int headDim) {
        double low = pairThatTurns(c.betaFast(), c, headDim);
        double high = pairThatTurns(c.betaSlow(), c, headDim);
        if (c.truncate()) {
            low = Math.floor(low);
            high = Math.ceil(high);
        }
        low = Math.max(low, 0);
        high = Math.min(high, headDim - 1);
        return new double[] {low, high == low ? high + 0.001 : high};
    }

    private static double pairThatTurns(double times, Config c, int headDim) {
        return headDim * Math.log(c.originalPositions() / (times * 2 * Math.PI)) / (2 * Math.log(c.theta()));
    }
}
