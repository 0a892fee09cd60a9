package dev.espalier.federated;

import static dev.espalier.Check.check;

/**
 * How much privacy the steps of one client have cost: Rényi differential privacy of the subsampled Gaussian mechanism at integer
 * orders, turned into (ε, δ).
 *
 * <p>Mironov, Talwar, Zhang, <i>Rényi Differential Privacy of the Sampled Gaussian Mechanism</i>, arXiv:1908.10530, section 3.3;
 * Canonne, Kamath, Steinke, <i>The Discrete Gaussian for Differential Privacy</i>, arXiv:2004.00010, proposition 12.
 *
 * <pre>{@code
 * rdp(a) = 1 / (a-1) · ln Σ_{k=0..a} C(a,k) (1-q)^(a-k) q^k exp(k (k-1) / (2 σ²)),    a / (2 σ²) for q = 1
 * ε(δ)   = min_a [ steps · rdp(a) + ln((a-1)/a) - (ln δ + ln a) / (a-1) ],    a = 2 .. 256, at least 0
 * }</pre>
 *
 * <p>Valid, and looser than accountants with fractional orders or numerical ones (PRV) where σ is small: an ε is to be told with
 * the accountant's name. Checked against Opacus 1.6 restricted to these orders.
 */
public final class RenyiAccountant {

    /** What to call it beside an ε. */
    public static final String NAME = "Renyi, integer orders";

    static final int LEAST_ORDER = 2;
    static final int MOST_ORDER = 256;

    /** A noise beyond which nothing would be learnt. */
    private static final double MOST_SIGMA = 1e5;

    private static final double[] LOG_FACTORIAL = logFactorials();

    private final double[] spent = new double[MOST_ORDER + 1]; // by order

    /** Nothing spent yet. */
    public RenyiAccountant() {}

    /**
     * Adds steps.
     *
     * @param q chance of a record to be in a step's batch, in (0, 1]
     * @param sigma noise in units of the clip norm, at least 0
     */
    public void add(double q, double sigma, long steps) {
        for (int a = LEAST_ORDER; a <= MOST_ORDER; a++) {
            spent[a] += steps * rdp(a, q, sigma);
        }
    }

    /** ε at a δ of all steps so far. */
    public double epsilon(double delta) {
        double least = Double.POSITIVE_INFINITY;
        for (int a = LEAST_ORDER; a <= MOST_ORDER; a++) {
            least = Math.min(least, spent[a] + Math.log((a - 1.0) / a) - (Math.log(delta) + Math.log(a)) / (a - 1.0));
        }
        return Math.max(0, least);
    }

    /** ε of so many equal steps. */
    static double epsilon(double q, double sigma, long steps, double delta) {
        RenyiAccountant accountant = new RenyiAccountant();
        accountant.add(q, sigma, steps);
        return accountant.epsilon(delta);
    }

    /**
     * The least noise with which so many steps stay within ε, by bisection to five digits, rounded up.
     *
     * @throws dev.espalier.EspalierException if no noise is enough
     */
    public static double sigma(double epsilon, double delta, double q, long steps) {
        checkReachable(epsilon, delta, epsilon(q, MOST_SIGMA, steps, delta));
        double low = 0;
        double high = 1;
        while (epsilon(q, high, steps, delta) > epsilon) {
            low = high;
            high *= 2;
        }
        while (high - low > 1e-5 * high) {
            double middle = (low + high) / 2;
            if (epsilon(q, middle, steps, delta) > epsilon) {
                low = middle;
            } else {
                high = middle;
            }
        }
        return high;
    }

    /** Stops if even nothing spent is more than an ε at a δ: orders are bounded. */
    static void checkReachable(double epsilon, double delta) {
        checkReachable(epsilon, delta, new RenyiAccountant().epsilon(delta));
    }

    private static void checkReachable(double epsilon, double delta, double least) {
        check(
                least <= epsilon,
                "epsilon %s cannot be reached at delta %s by any noise: with Renyi orders up to %d the least is %.4f; raise epsilon, such as to 6, or delta",
                epsilon,
                delta,
                MOST_ORDER,
                least);
    }

    /** Rényi divergence of one step at an integer order of at least 2. */
    static double rdp(int order, double q, double sigma) {
        if (sigma == 0) {
            return Double.POSITIVE_INFINITY;
        }
        if (q == 1) {
            return order / (2 * sigma * sigma);
        }
        double in = Math.log(q);
        double out = Math.log1p(-q);
        double[] terms = new double[order + 1];
        double largest = Double.NEGATIVE_INFINITY;
        for (int k = 0; k <= order; k++) {
            terms[k] = LOG_FACTORIAL[order]
                    - LOG_FACTORIAL[k]
                    - LOG_FACTORIAL[order - k]
                    + (order - k) * out
                    + k * in
                    + k * (k - 1.0) / (2 * sigma * sigma);
            largest = Math.max(largest, terms[k]);
        }
        if (Double.isInfinite(largest)) {
            return Double.POSITIVE_INFINITY; // next to no noise
        }
        double sum = 0;
        for (double term : terms) {
            sum += Math.exp(term - largest);
        }
        return (largest + Math.log(sum)) / (order - 1.0);
    }

    private static double[] logFactorials() {
        double[] logs = new double[MOST_ORDER + 1];
        for (int n = 2; n <= MOST_ORDER; n++) {
            logs[n] = logs[n - 1] + Math.log(n);
        }
        return logs;
    }
}
