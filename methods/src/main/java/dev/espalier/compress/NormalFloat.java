package dev.espalier.compress;

import static dev.espalier.Check.check;

import dev.espalier.EspalierException;
import dev.espalier.io.TensorSource;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Tensor;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.stream.DoubleStream;
import java.util.stream.IntStream;

/**
 * NormalFloat codes with doubly quantised scales.
 *
 * <p>Dettmers et al., <i>QLoRA: Efficient Finetuning of Quantized LLMs</i>, arXiv:2305.14314, section 3, as Guo et al.
 * (arXiv:2311.12023) generalise it to other widths:
 *
 * <pre>{@code
 * v_i = Φ⁻¹(p_i) / Φ⁻¹(o),  p = linspace(1 - o, 1/2, 2^(b-1)) without its last, then linspace(1/2, o, 2^(b-1) + 1)
 * a = max |w| of a block            o_s = min a over the weight            t = a - o_s
 * u = max t of a group, rounded to its type                                z = round(t (2^b0 - 1) / u)
 * â = z u / (2^b0 - 1) + o_s        code = nearest v to w / â              w' = v[code] â
 * w [out, in] row by row, in blocks of B0, B1 blocks a group
 * }</pre>
 *
 * <p>Codes are taken by the decoded scale â, so a value beyond it becomes the end level; ties go to the lower level; a block
 * whose â is 0 is 0. A last block or group that is not full is quantised as it is. QLoRA itself subtracts the mean of a instead
 * of the minimum and encodes by a. Levels checked against bitsandbytes' table, codes against LQ-LoRA's code.
 *
 * @param bits b, 2 to 8
 * @param scaleBits b0, 2 to 8
 * @param scaleType type of u: float32, float16 or bfloat16
 * @param block B0, at least 1
 * @param group B1, at least 1
 */
public record NormalFloat(int bits, int scaleBits, DType scaleType, int block, int group) {

    /** QLoRA's: 4 bits, scales of 8, blocks of 64, groups of 256; 4.127 bits a weight. */
    public static final NormalFloat NF4 = new NormalFloat(4, 8, DType.FLOAT32, 64, 256);

    private static final double TOP = 1 - (1.0 / 30 + 1.0 / 32) / 2; // o: the same for every width
    private static final double FLAT = Math.scalb(1.0, -24); // a group whose scales differ by less has one scale

    /** Checks ranges. */
    public NormalFloat {
        check(bits >= 2 && bits <= 8, "bits must lie in [2, 8], found %d; try 4", bits);
        check(scaleBits >= 2 && scaleBits <= 8, "scale_bits must lie in [2, 8], found %d; try 8", scaleBits);
        check(
                List.of(DType.FLOAT32, DType.FLOAT16, DType.BFLOAT16).contains(scaleType),
                "scale_types must be float32, float16 or bfloat16, found %s; try float32",
                scaleType);
        check(block >= 1, "block_sizes must be at least 1, found %d; try 64", block);
        check(group >= 1, "group_sizes must be at least 1, found %d; try 256", group);
    }

    /**
     * All combinations.
     *
     * @param scaleTypes among fp32, fp16, bf16
     */
    static List<NormalFloat> grid(
            List<Integer> bits,
            List<Integer> scaleBits,
            List<String> scaleTypes,
            List<Integer> blocks,
            List<Integer> groups) {
        List<NormalFloat> all = new ArrayList<>();
        for (int b : bits) {
            for (int b0 : scaleBits) {
                for (String b1 : scaleTypes) {
                    for (int block : blocks) {
                        groups.forEach(group -> all.add(new NormalFloat(b, b0, scaleType(b1), block, group)));
                    }
                }
            }
        }
        check(
                !all.isEmpty(),
                "there is no format on offer; give bits, scale_bits, scale_types, block_sizes and group_sizes a value each");
        return all;
    }

    private static DType scaleType(String name) {
        return switch (name) {
            case "fp32" -> DType.FLOAT32;
            case "fp16" -> DType.FLOAT16;
            case "bf16" -> DType.BFLOAT16;
            default ->
                throw new EspalierException(
                        "scale_types must be among fp32, fp16 and bf16, found %s; try fp32".formatted(name));
        };
    }

    /** The 2^bits levels, rising from -1 to 1: float32. */
    public Tensor levels() {
        int half = 1 << (bits - 1);
        double[] p = DoubleStream.concat(
                        IntStream.range(0, half - 1).mapToDouble(i -> 1 - TOP + (TOP - 0.5) * i / (half - 1)),
                        IntStream.rangeClosed(0, half).mapToDouble(i -> 0.5 + (TOP - 0.5) * i / half))
                .toArray();
        Tensor quantiles = Tensor.of(p).ndtri();
        return quantiles.div(quantiles.max().item()).to(DType.FLOAT32);
    }

    /** Places of the nearest levels: uint8. */
    Tensor encode(Tensor x) {
        Tensor v = levels();
        long n = v.numel();
        Tensor between = v.narrow(0, 0, n - 1).add(v.narrow(0, 1, n - 1)).mul(0.5);
        return x.bucketize(between).to(DType.UINT8);
    }

    /** Bits that n weights take: codes, codes of scales, u. Not counted are 32 for o_s. */
    public long storedBits(long n) {
        return n * bits + blocks(n) * scaleBits + groups(n) * 8L * scaleType.bytes();
    }

    private long blocks(long n) {
        return (n + block - 1) / block;
    }

    private long groups(long n) {
        return (blocks(n) + group - 1) / group;
    }

    /**
     * A quantised weight.
     *
     * @param shape of the weight
     * @param codes uint8 [n]
     * @param z codes of the blocks' scales: uint8 [blocks]
     * @param u scales of the groups [groups]
     * @param offset o_s: float32 []
     */
    @SuppressWarnings("ArrayRecordComponent") // carried, never compared
    public record Quantized(NormalFloat format, long[] shape, Tensor codes, Tensor z, Tensor u, Tensor offset) {

        /** â of each block: float32 [blocks]. */
        Tensor scales() {
            long groups = u.numel();
            long blocks = z.numel();
            Tensor padded = z.to(DType.FLOAT32).pad(0, groups * format.group - blocks);
            return format.scales(padded.view(groups, format.group), u.to(DType.FLOAT32), offset)
                    .flatten(0, 1)
                    .narrow(0, 0, blocks);
        }

        /** The weight that the codes mean: float32. */
        public Tensor values() {
            long n = codes.numel();
            long blocks = z.numel();
            Tensor v = format.levels().indexSelect(0, codes.to(DType.INT64)).pad(0, blocks * format.block - n);
            return v.view(blocks, format.block)
                    .mul(scales().unsqueeze(1))
                    .flatten(0, 1)
                    .narrow(0, 0, n)
                    .reshape(shape);
        }

        /** For a file: {@code codes} and {@code scales} packed to the bit, {@code group_scales}, {@code offset}, {@code format}. */
        Map<String, Tensor> packed() {
            Map<String, Tensor> all = new LinkedHashMap<>();
            all.put("codes", Bits.pack(codes, format.bits));
            all.put("scales", Bits.pack(z, format.scaleBits));
            all.put("group_scales", u);
            all.put("offset", offset);
            all.put("format", Tensor.of(new long[] {
                shape[0], shape[1], format.bits, format.scaleBits, format.block, format.group
            }));
            return all;
        }

        /** What {@link #packed} kept. */
        static Quantized read(TensorSource file, String path) {
            long[] f = file.read(path + ".format").longs();
            Tensor u = file.read(path + ".group_scales");
            NormalFloat format = new NormalFloat((int) f[2], (int) f[3], u.dtype(), (int) f[4], (int) f[5]);
            long n = Math.multiplyExact(f[0], f[1]);
            return new Quantized(
                    format,
                    new long[] {f[0], f[1]},
                    Bits.unpack(file.read(path + ".codes"), format.bits, n),
                    Bits.unpack(file.read(path + ".scales"), format.scaleBits, format.blocks(n)),
                    u,
                    file.read(path + ".offset"));
        }
    }

    /** z u / (2^b0 - 1) + o_s: z [groups, B1], u [groups]. */
    private Tensor scales(Tensor z, Tensor u, Tensor offset) {
        Tensor column = u.unsqueeze(1);
        Tensor codes = Tensor.where(column.gt(FLAT), z.div(perUnit(column)), z.zerosLike());
        return codes.add(offset);
    }

    /** (2^b0 - 1) / u, and 1 where u is next to nothing. */
    private Tensor perUnit(Tensor u) {
        Tensor safe = Tensor.where(u.gt(FLAT), u, Tensor.ones(DType.FLOAT32, u.shape()));
        return Tensor.full((1 << scaleBits) - 1, DType.FLOAT32).div(safe);
    }

    /**
     * Quantises a weight.
     *
     * @param w [out, in] float32
     * @param path the layer's, for messages
     */
    public Quantized quantize(Tensor w, String path) {
        long n = w.numel();
        long blocks = blocks(n);
        long groups = groups(n);
        Tensor padded = w.reshape(-1).pad(0, blocks * block - n).view(blocks, block); // zeros raise no maximum
        Tensor a = padded.abs().amax(1, false); // [blocks]
        Tensor offset = a.min();
        Tensor t = a.sub(offset).pad(0, groups * group - blocks).view(groups, group);
        Tensor u = t.amax(1, false).to(scaleType); // [groups]
        Tensor wide = u.to(DType.FLOAT32);
        check(
                wide.isFinite().all(),
                "the weights of %s reach %s, which %s cannot hold or scale; set scale_types to float32, or mend the weights",
                path,
                a.max().item(),
                scaleType);
        Tensor column = wide.unsqueeze(1);
        Tensor z = Tensor.where(column.gt(FLAT), t.mul(perUnit(column)), t.zerosLike())
                .round() // half to even
                .clamp(0, (1 << scaleBits) - 1);
        Tensor scale =
                scales(z, wide, offset).flatten(0, 1).narrow(0, 0, blocks).unsqueeze(1); // â [blocks, 1]
        Tensor none = scale.eq(0);
        Tensor x = padded.div(scale.maskedFill(none, 1)).maskedFill(none, 0);
        return new Quantized(
                this,
                w.shape(),
                encode(x).flatten(0, 1).narrow(0, 0, n),
                z.flatten(0, 1).narrow(0, 0, blocks).to(DType.UINT8),
                u,
                offset);
    }
}
