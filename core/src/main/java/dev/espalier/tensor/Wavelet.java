package dev.espalier.tensor;

import java.util.ArrayList;
import java.util.List;

/** Orthonormal wavelets of Daubechies' family, periodised: n values have n / 2 coefficients in each of two bands. */
public enum Wavelet {
    /** Of two taps: db1. */
    HAAR,
    /** Of four. */
    DB2;

    /** h, the low-pass filter. */
    private double[] low() {
        double three = Math.sqrt(3);
        double norm = 4 * Math.sqrt(2);
        return this == HAAR
                ? new double[] {Math.sqrt(0.5), Math.sqrt(0.5)}
                : new double[] {(1 + three) / norm, (3 + three) / norm, (3 - three) / norm, (1 - three) / norm};
    }

    /** h, the low-pass filter, or the high-pass filter (-1)ᵏ h[K - 1 - k]. */
    private double[] filter(boolean high) {
        double[] low = low();
        double[] filter = low.clone();
        for (int k = 0; high && k < low.length; k++) {
            filter[k] = (k % 2 == 0 ? 1 : -1) * low[low.length - 1 - k];
        }
        return filter;
    }

    /**
     * What coefficients of one band stand for, x[m] = Σ_i c_i h[m - 2 i] around the end: the transpose of the analysis.
     *
     * @param coefficients [rows, n]
     * @param high whether they are of the high band
     * @return [rows, 2 n]
     */
    public Tensor synthesis(Tensor coefficients, boolean high) {
        double[] h = filter(high);
        List<Tensor> phases = new ArrayList<>(); // even places, odd places
        for (int phase = 0; phase < 2; phase++) {
            Tensor sum = coefficients.mul(h[phase]);
            for (int k = 1; 2 * k + phase < h.length; k++) {
                sum = sum.add(coefficients.roll(k, 1), h[2 * k + phase]);
            }
            phases.add(sum);
        }
        return Tensor.stack(phases, 2).view(coefficients.size(0), 2 * coefficients.size(1));
    }
}
