package dev.espalier.compress;

import static dev.espalier.Check.check;

import dev.espalier.adapter.Targets;
import dev.espalier.io.Fields;
import dev.espalier.io.TensorSource;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Tensor;
import java.util.LinkedHashMap;
import java.util.Map;

/**
 * Round to nearest: each weight becomes the nearest of 2^b evenly spaced values of its group.
 *
 * <p>The baseline of Frantar et al., <i>GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers</i>,
 * arXiv:2210.17323, sections 2 and 4.
 *
 * <pre>{@code
 * s = (max(w, 0) - min(w, 0)) / (2^b - 1) in float16,  z = round(-min(w, 0) / s)       of each group of inputs in a row
 * code = clamp(round(w / s) + z, 0, 2^b - 1),           w' = (code - z) s
 * w [out, in]    s, z [out, groups]
 * }</pre>
 *
 * <p>Zero is always a value, so what was pruned stays zero. The last group of a row may be shorter. Expected numbers are derived
 * by hand.
 */
public final class RoundToNearest implements WeightCompressor<RoundToNearest.Config>, Coded {

    /**
     * Settings.
     *
     * @param bits b, 2 to 8
     * @param groupSize [group_size] inputs of a row that share s and z, at least 1
     * @param targets layers
     */
    public record Config(int bits, int groupSize, Targets targets) {

        /** 4 bits in groups of 128. */
        public static final Config DEFAULT = new Config(4, 128, Targets.ALL);

        /** Checks ranges. */
        public Config {
            check(bits >= 2 && bits <= 8, "bits must lie in [2, 8], found %d; try 4", bits);
            check(groupSize >= 1, "group_size must be at least 1, found %d; try 128", groupSize);
        }
    }

    @Override
    public About about() {
        return new About(
                "rtn",
                "compressor",
                "round-to-nearest quantisation in groups",
                "Baseline of Frantar et al., GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers,"
                        + " arXiv:2210.17323",
                """
                s = (max(w, 0) - min(w, 0)) / (2^b - 1),  z = round(-min(w, 0) / s)
                code = clamp(round(w / s) + z, 0, 2^b - 1),  w' = (code - z) s
                w [out, in]; s (float16), z (b bits) for each group of inputs in a row""",
                "eora, which compensates it; then any adapter",
                "a model folder with w', and codes.safetensors with codes, z and s packed to the bit",
                false);
    }

    @Override
    public Map<String, String> meanings() {
        Map<String, String> meanings = new LinkedHashMap<>(TARGETS);
        meanings.put("bits", "of a code, 2 to 8");
        meanings.put("group_size", "inputs of a row that share scale and zero, at least 1");
        return meanings;
    }

    @Override
    public Config read(Fields f) {
        return new Config(
                f.integer("bits", Config.DEFAULT.bits()),
                f.integer("group_size", Config.DEFAULT.groupSize()),
                Targets.read(f));
    }

    @Override
    public Targets targets(Config config) {
        return config.targets();
    }

    @Override
    public Compressed compress(Config config, Tensor w, String path) {
        long out = w.size(0);
        long in = w.size(1);
        long groups = (in + config.groupSize() - 1) / config.groupSize();
        int top = (1 << config.bits()) - 1;
        Tensor grouped = w.pad(0, groups * config.groupSize() - in)
                .view(out, groups, config.groupSize()); // zeros change no range
        Tensor high = grouped.amax(2, true).relu();
        Tensor low = grouped.neg().amax(2, true).relu(); // -min
        Tensor scale = high.add(low).div(top).to(DType.FLOAT16); // [out, groups, 1]
        check(
                scale.isFinite().all(),
                "the weights of %s reach %s, too far for scales in float16; mend the weights first",
                path,
                w.abs().max().item());
        Tensor s = scale.to(DType.FLOAT32);
        Tensor safe = s.maskedFill(s.eq(0), 1); // w' = 0 there
        Tensor zero = low.div(safe).round().clamp(0, top);
        Tensor codes = grouped.div(safe).round().add(zero).clamp(0, top);
        Tensor packed = codes.flatten(1, 2).narrow(1, 0, in).to(DType.UINT8).reshape(-1);
        Map<String, Tensor> file = new LinkedHashMap<>();
        file.put("codes", Bits.pack(packed, config.bits()));
        file.put("zeros", Bits.pack(zero.to(DType.UINT8).reshape(-1), config.bits()));
        file.put("scales", scale.reshape(out, groups));
        file.put("format", Tensor.of(new long[] {out, in, config.bits(), config.groupSize()}));
        double bits = config.bits() + (double) groups * (config.bits() + 16) / in;
        return new Compressed(values(codes, zero, s, in), bits, file);
    }

    @Override
    public Tensor decode(TensorSource file, String path) {
        long[] f = file.read(path + ".format").longs();
        long out = f[0];
        long in = f[1];
        int bits = (int) f[2];
        Tensor s = file.read(path + ".scales").to(DType.FLOAT32).unsqueeze(2); // [out, groups, 1]
        long groups = s.size(1);
        Tensor codes = Bits.unpack(file.read(path + ".codes"), bits, out * in)
                .view(out, in)
                .to(DType.FLOAT32)
                .pad(0, groups * f[3] - in)
                .view(out, groups, f[3]);
        Tensor zero = Bits.unpack(file.read(path + ".zeros"), bits, out * groups)
                .view(out, groups, 1)
                .to(DType.FLOAT32);
        return values(codes, zero, s, in);
    }

    /** (code - z) s: codes [out, groups, size] to [out, in]. */
    private static Tensor values(Tensor codes, Tensor zero, Tensor s, long in) {
        return codes.sub(zero).mul(s).flatten(1, 2).narrow(1, 0, in).contiguous();
    }
}
