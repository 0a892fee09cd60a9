package dev.espalier.tensor;

import java.util.Arrays;

/**
 * Numbers in 8 bits, block by block, with more places near zero.
 *
 * <p>Dettmers et al., <i>8-bit Optimizers via Block-wise Quantization</i>, arXiv:2110.02861, section 1.3, with the tables of
 * bitsandbytes: seven decades from 10⁻⁶ to 1, of which decade i has 2ⁱ magnitudes (signed) or 2ⁱ⁺¹ (unsigned), the middles of
 * equal cells between a tenth of the decade and all of it; besides 0 and 1.
 *
 * <pre>{@code
 * absmax = the largest magnitude of a block,   code = the entry nearest to x / absmax (half-way: the lower),   x ≈ entry · absmax
 * }</pre>
 */
public final class DynamicQuantizer {

    /** For numbers of either sign. */
    public static final DynamicQuantizer SIGNED = new DynamicQuantizer(true);

    /** For numbers from 0 on. */
    public static final DynamicQuantizer UNSIGNED = new DynamicQuantizer(false);

    /** Numbers that share a scale. */
    public static final int BLOCK = 256;

    private static final int DECADES = 7;

    private final double[] entries; // ascending

    private DynamicQuantizer(boolean signed) {
        entries = entries(signed);
    }

    /**
     * Codes and scales of numbers.
     *
     * @param codes uint8 [n]
     * @param absmax float32 [⌈n / 256⌉]
     */
    public record Quantized(Tensor codes, Tensor absmax) {}

    /** How many blocks n numbers make. */
    public static long blocks(long n) {
        return (n + BLOCK - 1) / BLOCK;
    }

    /** The 256 entries, ascending. */
    public double[] table() {
        return entries.clone();
    }

    private static double[] entries(boolean signed) {
        double[] table = new double[256];
        int size = 0;
        table[size++] = 0;
        table[size++] = 1;
        for (int decade = 0; decade < DECADES; decade++) {
            int levels = 1 << (signed ? decade : decade + 1);
            for (int level = 0; level < levels; level++) {
                double middle = (0.1 + 0.9 * (level + 0.5) / levels) * Math.pow(10, decade - DECADES + 1);
                table[size++] = middle;
                if (signed) {
                    table[size++] = -middle;
                }
            }
        }
        Arrays.sort(table);
        return table;
    }

    /** Rounds numbers to entries. */
    public Quantized quantize(Tensor values) {
        Tensor flat = values.reshape(-1).to(DType.FLOAT32);
        long n = flat.numel();
        Tensor rows = flat.pad(0, blocks(n) * BLOCK - n).view(blocks(n), BLOCK);
        Tensor absmax = rows.abs().amax(1, true); // [blocks, 1]
        Tensor scaled = rows.div(absmax.maskedFill(absmax.eq(0), 1));
        float[] middles = new float[255];
        for (int i = 0; i < middles.length; i++) {
            middles[i] = (float) ((entries[i] + entries[i + 1]) / 2);
        }
        Tensor codes = scaled.bucketize(Tensor.of(middles).to(values.device())).to(DType.UINT8);
        return new Quantized(codes.reshape(-1).narrow(0, 0, n).contiguous(), absmax.reshape(-1));
    }

    /** Numbers again, float32 [n]. */
    public Tensor dequantize(Quantized quantized) {
        long n = quantized.codes().numel();
        Tensor table = Tensor.of(entries).to(DType.FLOAT32).to(quantized.codes().device());
        Tensor scaled = table.indexSelect(0, quantized.codes().to(DType.INT64));
        Tensor rows = scaled.pad(0, blocks(n) * BLOCK - n).view(blocks(n), BLOCK);
        return rows.mul(quantized.absmax().unsqueeze(1)).reshape(-1).narrow(0, 0, n);
    }
}
