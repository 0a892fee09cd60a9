package dev.espalier.merge;

import static dev.espalier.Check.check;

import dev.espalier.nn.Module;
import dev.espalier.nn.Parameter;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Generator;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import java.util.ArrayList;
import java.util.List;

/**
 * The conditional variational autoencoder of ICM-LoRA, over sequences of numbers.
 *
 * <pre>{@code
 * encoder: n x [convolution of 7, stride 2 - batch norm - leaky ReLU], linear to h, beside c: μ, log σ² [B, h]
 * decoder: [z ; c] by a linear to [B, P_1, L' / 2ⁿ], n x [transposed convolution of 7, stride 2 - batch norm - ELU],
 *          a convolution of 7 to one channel: [B, L']
 * L' = L rounded up to 2ⁿ    P: n channels, a palindrome in the paper    c [B, d]    z = μ + σ ∘ ε
 * }</pre>
 *
 * <p>Parameters have the names of the authors' checkpoint.
 */
final class Cvae extends Module {

    private static final int WIDTH = 7;

    /** A convolution, or the transpose of one, by stride 2 or 1. */
    private static final class Conv extends Module {
        private final Parameter weight; // [out, in, 7], transposed [in, out, 7]
        private final Parameter bias; // [out]
        private final boolean up;
        private final int stride;

        Conv(long in, long out, int stride, boolean up, Generator g, DType dtype) {
            this.up = up;
            this.stride = stride;
            long fanIn = WIDTH * (up ? out : in);
            weight = parameter("weight", uniform(g, fanIn, dtype, up ? in : out, up ? out : in, WIDTH));
            bias = parameter("bias", uniform(g, fanIn, dtype, out));
        }

        Tensor forward(Tensor x) {
            return up
                    ? x.convTranspose1d(weight.tensor(), bias.tensor(), stride, WIDTH / 2, stride - 1L)
                    : x.conv1d(weight.tensor(), bias.tensor(), stride, WIDTH / 2);
        }
    }

    /** Batch norm of channels; its running values do not train. */
    private static final class Norm extends Module {
        private final Parameter weight; // [channels]
        private final Parameter bias;
        private final Parameter mean;
        private final Parameter variance;

        Norm(long channels, DType dtype) {
            weight = parameter("weight", Tensor.ones(dtype, channels));
            bias = parameter("bias", Tensor.zeros(dtype, channels));
            mean = parameter("running_mean", Tensor.zeros(dtype, channels));
            variance = parameter("running_var", Tensor.ones(dtype, channels));
        }

        Tensor forward(Tensor x) {
            return x.batchNorm(
                    weight.tensor(), bias.tensor(), mean.tensor(), variance.tensor(), isTraining(), 0.1, 1e-5);
        }
    }

    /** y = x Wᵀ + b with PyTorch's start. */
    private static final class Map extends Module {
        private final Parameter weight; // [out, in]
        private final Parameter bias; // [out]

        Map(long in, long out, Generator g, DType dtype) {
            weight = parameter("weight", uniform(g, in, dtype, out, in));
            bias = parameter("bias", uniform(g, in, dtype, out));
        }

        Tensor forward(Tensor x) {
            return x.linear(weight.tensor(), bias.tensor());
        }
    }

    private static Tensor uniform(Generator g, long fanIn, DType dtype, long... shape) {
        double bound = 1 / Math.sqrt((double) fanIn);
        return g.uniform(-bound, bound, shape).to(dtype);
    }

    private final List<Conv> down = new ArrayList<>();
    private final List<Norm> downNorms = new ArrayList<>();
    private final List<Conv> up = new ArrayList<>();
    private final List<Norm> upNorms = new ArrayList<>();
    private final Conv last;
    private final Map toLatent;
    private final Map mu;
    private final Map logVariance;
    private final Map toDecode;
    private final long length; // L'
    private final long deepest; // L' / 2ⁿ
    private final long first; // channels at the deepest point of the decoder

    /**
     * A fresh one.
     *
     * @param numbers L
     * @param condition d
     * @param latent h
     * @param channels P, of the encoder; those of the decoder in reverse
     */
    Cvae(long numbers, long condition, int latent, List<Integer> channels, DType dtype, Seed seed) {
        long step = 1L << channels.size();
        length = (numbers + step - 1) / step * step;
        deepest = length / step;
        first = channels.get(channels.size() - 1);
        try (Scope scope = Scope.open();
                Generator g = seed.named("cvae").generator()) {
            long in = 1;
            for (int i = 0; i < channels.size(); i++) {
                down.add(child("encoder." + i + ".0", new Conv(in, channels.get(i), 2, false, g, dtype)));
                downNorms.add(child("encoder." + i + ".1", new Norm(channels.get(i), dtype)));
                in = channels.get(i);
            }
            toLatent = child("to_latent", new Map(deepest * in, latent, g, dtype));
            mu = child("fc_mu", new Map(latent + condition, latent, g, dtype));
            logVariance = child("fc_var", new Map(latent + condition, latent, g, dtype));
            toDecode = child("to_decode", new Map(latent + condition, deepest * first, g, dtype));
            for (int i = channels.size() - 1; i >= 0; i--) {
                boolean ends = i == 0;
                long out = channels.get(ends ? 0 : i - 1);
                String name = ends ? "final_layer." : "decoder." + (channels.size() - 1 - i) + ".";
                up.add(child(name + "0", new Conv(channels.get(i), out, 2, true, g, dtype)));
                upNorms.add(child(name + "1", new Norm(out, dtype)));
            }
            last = child("final_layer.3", new Conv(channels.get(0), 1, 1, false, g, dtype));
        }
    }

    /** L'. */
    long length() {
        return length;
    }

    /** L' / 2ⁿ: values of a channel at the deepest point. */
    long deepest() {
        return deepest;
    }

    /** What trains: all but the running values of norms. */
    java.util.Map<String, Parameter> trained() {
        java.util.Map<String, Parameter> all = new java.util.LinkedHashMap<>(namedParameters());
        all.keySet().removeIf(name -> name.contains(".running_"));
        return all;
    }

    /**
     * What the encoder says of sequences.
     *
     * @param mu μ [B, h]
     * @param logVariance log σ² [B, h]
     */
    record Code(Tensor mu, Tensor logVariance) {

        /** z = μ + σ ∘ ε, ε [B, h] from N(0, 1). */
        Tensor at(Tensor noise) {
            return mu.add(logVariance.mul(0.5).exp().mul(noise));
        }

        /** KL divergence from N(0, I), summed over h and in the mean over B. */
        Tensor divergence() {
            return logVariance
                    .add(1)
                    .sub(mu.square())
                    .sub(logVariance.exp())
                    .sum(1, false)
                    .mul(-0.5)
                    .mean();
        }
    }

    /**
     * Encodes sequences.
     *
     * @param x [B, L']
     * @param c [B, d]
     */
    Code encode(Tensor x, Tensor c) {
        check(
                !isTraining() || x.size(0) * deepest > 1,
                "a batch of one sequence of %d numbers leaves one value a channel, of which there is no variance; train with batch 2 or more",
                length);
        Tensor y = x.unsqueeze(1); // [B, 1, L']
        for (int i = 0; i < down.size(); i++) {
            y = downNorms.get(i).forward(down.get(i).forward(y)).leakyRelu(0.01);
        }
        Tensor both = Tensor.cat(List.of(toLatent.forward(y.flatten(1, 2)), c), 1); // [B, h + d]
        return new Code(mu.forward(both), logVariance.forward(both));
    }

    /**
     * Decodes.
     *
     * @param z [B, h]
     * @param c [B, d]
     * @return [B, L']
     */
    Tensor decode(Tensor z, Tensor c) {
        Tensor y = toDecode.forward(Tensor.cat(List.of(z, c), 1)).view(z.size(0), first, deepest);
        for (int i = 0; i < up.size(); i++) {
            y = upNorms.get(i).forward(up.get(i).forward(y)).elu();
        }
        return last.forward(y).select(1, 0);
    }
}
