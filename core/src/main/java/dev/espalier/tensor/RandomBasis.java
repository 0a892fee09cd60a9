package dev.espalier.tensor;

import static dev.espalier.Check.check;

import java.util.Arrays;
import java.util.function.IntConsumer;
import java.util.stream.IntStream;

/**
 * Random matrices W_0, ..., W_{k-1} of one shape that are never held: each use makes their entries again, a few at a time.
 *
 * <p>The generator is called {@value #GENERATOR}. To the bit: with γ = 9e3779b97f4a7c15, mix(z) the finaliser of SplitMix64 as in
 * {@link Seed}, and all sums modulo 2⁶⁴, matrix i has the state s = {@code seed.at(i).value()}, and its words are mix(s + γ),
 * mix(s + 2γ), ...: what {@code new java.util.SplittableRandom(s).nextLong()} gives. Entries in row-major order take 24 bits
 * each, the highest of a word and then the next: entry 2n is (the highest 24 bits of word n) · 2⁻²³ - 1, entry 2n + 1 is (the next 24 bits)
 * · 2⁻²³ - 1. They are uniform on the multiples of 2⁻²³ in [-1, 1), exact in float32, and the same on every device, number of
 * threads and element type.
 *
 * @param seed of the basis; different bases need different ones
 * @param k number of matrices
 * @param rows of each
 * @param columns of each
 */
public record RandomBasis(Seed seed, int k, int rows, int columns) {

    /** The generator's name in files. */
    public static final String GENERATOR = "splitmix64";

    private static final double STEP = 0x1p-23;

    /** Entries of one matrix that a task makes at a time: few enough for the cache. */
    private static final int BLOCK = 1 << 12;

    /** Checks that there is something. */
    public RandomBasis {
        check(k >= 1 && rows >= 1 && columns >= 1, "a basis of %d matrices [%d, %d] is empty", k, rows, columns);
        check(
                (long) rows * columns <= Integer.MAX_VALUE,
                "a basis matrix [%d, %d] does not fit a Java array",
                rows,
                columns);
    }

    /** W_i [rows, columns], float32. */
    public Tensor matrix(int i) {
        float[] entries = new float[rows * columns];
        make(entries, 0, i);
        return Tensor.of(entries, rows, columns);
    }

    /** All of W [k, rows columns], float32, a matrix in each row: for those who would rather hold them. */
    public Tensor matrices() {
        int size = rows * columns;
        check(entries() <= Integer.MAX_VALUE, "%d matrices [%d, %d] do not fit a Java array", k, rows, columns);
        float[] entries = new float[k * size];
        parallel(k, i -> make(entries, i * size, i));
        return Tensor.of(entries, k, size);
    }

    /** Numbers in all matrices. */
    public long entries() {
        return (long) k * rows * columns;
    }

    /** The entries of W_i, from a place on. */
    private void make(float[] into, int from, int i) {
        long state = seed.at(i).value();
        for (int e = 0; e < rows * columns; e++) {
            into[from + e] = (float) entry(state, e);
        }
    }

    /**
     * Σ_i c_i W_i, summed in float64.
     *
     * @param coefficients c [k]
     * @return [rows, columns] of the coefficients' type and device, not recorded
     */
    public Tensor combine(Tensor coefficients) {
        double[] c = values(coefficients, k);
        double[] sum = new double[rows * columns];
        long[] states = states();
        parallel((sum.length + BLOCK - 1) / BLOCK, block -> {
            int from = block * BLOCK;
            int to = Math.min(sum.length, from + BLOCK);
            for (int i = 0; i < k; i++) {
                addTo(sum, from, to, states[i], c[i]);
            }
        });
        return Tensor.of(sum, rows, columns).to(coefficients.dtype()).to(coefficients.device());
    }

    /**
     * The gradient of {@link #combine}: ⟨W_i, G⟩ for every i, summed in float64.
     *
     * @param gradient G [rows, columns]
     * @return [k] of the gradient's type and device, not recorded
     */
    public Tensor products(Tensor gradient) {
        double[] g = values(gradient, rows * columns);
        double[] products = new double[k];
        long[] states = states();
        parallel(k, i -> products[i] = product(g, states[i]));
        return Tensor.of(products, k).to(gradient.dtype()).to(gradient.device());
    }

    /** sum_e += c · entry e, for e from an even number on. */
    private static void addTo(double[] sum, int from, int to, long state, double c) {
        double step = c * STEP; // c (n 2⁻²³ - 1): scaled once
        int e = from;
        for (; e + 1 < to; e += 2) {
            long word = word(state, e >> 1);
            sum[e] += step * (word >>> 40) - c;
            sum[e + 1] += step * ((word >>> 16) & 0xffffff) - c;
        }
        if (e < to) {
            sum[e] += step * (word(state, e >> 1) >>> 40) - c;
        }
    }

    private static double product(double[] g, long state) {
        double even = 0;
        double odd = 0;
        int e = 0;
        for (; e + 1 < g.length; e += 2) {
            long word = word(state, e >> 1);
            even += g[e] * ((word >>> 40) * STEP - 1);
            odd += g[e + 1] * (((word >>> 16) & 0xffffff) * STEP - 1);
        }
        return even + odd + (e < g.length ? g[e] * entry(state, e) : 0);
    }

    private static double entry(long state, int e) {
        long word = word(state, e >> 1);
        return ((e & 1) == 0 ? word >>> 40 : (word >>> 16) & 0xffffff) * STEP - 1;
    }

    private static long word(long state, long n) {
        return Seed.mix(state + n * Seed.GAMMA); // which adds one more
    }

    private long[] states() {
        long[] states = new long[k];
        Arrays.setAll(states, i -> seed.at(i).value());
        return states;
    }

    private static double[] values(Tensor t, int count) {
        check(t.numel() == count, "a basis needs %d numbers here, found %s", count, Arrays.toString(t.shape()));
        return t.doubles();
    }

    private static void parallel(int tasks, IntConsumer task) {
        IntStream.range(0, tasks).parallel().forEach(task);
    }
}
