package dev.espalier.compress;

import java.util.List;

/**
 * Singular values of many weights, and the one threshold on them that gives each its rank.
 *
 * <pre>{@code
 * z_i = (s_i - s_q) / (s_1 - s_q)    r(k) = #{i : z_i ≥ k}    p(k) = q - r(k)    ERR(k) = Σ p(k) / Σ q
 * }</pre>
 *
 * @param all one a weight
 */
record Spectra(List<Spectrum> all) {

    /** The grid k is searched on: steps of 1 / 200. */
    private static final int STEPS = 200;

    /** Copies. */
    Spectra {
        all = List.copyOf(all);
    }

    /**
     * Singular values of one weight.
     *
     * @param values s_1 ≥ ... ≥ s_q, in float32 as the threshold is compared
     */
    @SuppressWarnings("ArrayRecordComponent") // carried, never compared
    record Spectrum(float[] values) {

        /** q. */
        int width() {
            return values.length;
        }

        /** r(k): all where all singular values are the same. */
        int rank(double k) {
            float least = values[values.length - 1];
            float range = values[0] - least;
            if (!(range > 0)) {
                return values.length;
            }
            int r = 0;
            while (r < values.length && (values[r] - least) / range >= (float) k) {
                r++;
            }
            return r;
        }

        /** Whether the share of the rank that goes is above a bound. */
        boolean isLow(double k, double minRatio) {
            return (double) (width() - rank(k)) / width() > minRatio;
        }

        /** √ Σ s_i² over i > r: what the best approximation of rank r misses. */
        double tail(int r) {
            double sum = 0;
            for (int i = r; i < values.length; i++) {
                sum += (double) values[i] * values[i];
            }
            return Math.sqrt(sum);
        }
    }

    /**
     * ERR(k).
     *
     * @param minRatio weights that lose no larger share keep all of their rank and count so; below 0 for none
     */
    double reduction(double k, double minRatio) {
        long gone = 0;
        long whole = 0;
        for (Spectrum s : all) {
            gone += s.isLow(k, minRatio) ? s.width() - s.rank(k) : 0;
            whole += s.width();
        }
        return (double) gone / whole;
    }

    /** The k of the grid whose ERR is closest to a target, the smallest of several. */
    double search(double target, double minRatio) {
        double best = 0;
        double distance = Double.POSITIVE_INFINITY;
        for (int i = 0; i <= STEPS; i++) {
            double k = (double) i / STEPS;
            double d = Math.abs(reduction(k, minRatio) - target);
            if (d < distance) {
                distance = d;
                best = k;
            }
        }
        return best;
    }
}
