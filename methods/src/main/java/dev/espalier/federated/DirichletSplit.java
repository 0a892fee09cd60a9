package dev.espalier.federated;

import static dev.espalier.Check.check;

import dev.espalier.tensor.Seed;
import java.util.ArrayList;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.function.Function;

/**
 * Deals examples out to clients so that labels are spread unevenly.
 *
 * <p>Hsu, Qi, Brown, <i>Measuring the Effects of Non-Identical Data Distribution for Federated Visual Classification</i>,
 * arXiv:1909.06335, section 3: the shares of the clients in each label are a draw from a symmetric Dirichlet distribution, the more
 * uneven the smaller its concentration.
 */
public final class DirichletSplit {

    private DirichletSplit() {}

    /**
     * Deals out, as a pure function of the examples and the seed.
     *
     * @param label by which shares are drawn
     * @param concentration above 0
     * @return a list for each client, in the order of the examples
     * @throws dev.espalier.EspalierException if a client gets nothing
     */
    public static <T> List<List<T>> of(
            List<T> examples, Function<T, ?> label, int clients, double concentration, Seed seed) {
        Map<Object, List<Integer>> strata = new LinkedHashMap<>();
        for (int i = 0; i < examples.size(); i++) {
            strata.computeIfAbsent(label.apply(examples.get(i)), l -> new ArrayList<>())
                    .add(i);
        }
        Random random = new Random(seed.named("dirichlet").value()); // specified to the bit, unlike newer generators
        List<List<Integer>> dealt = new ArrayList<>();
        for (int k = 0; k < clients; k++) {
            dealt.add(new ArrayList<>());
        }
        for (List<Integer> stratum : strata.values()) {
            Collections.shuffle(stratum, random);
            double[] shares = shares(clients, concentration, random);
            double sum = 0;
            int from = 0;
            for (int k = 0; k < clients; k++) {
                sum += shares[k];
                int to = k == clients - 1 ? stratum.size() : (int) Math.round(sum * stratum.size());
                dealt.get(k).addAll(stratum.subList(from, Math.max(from, to)));
                from = Math.max(from, to);
            }
        }
        List<List<T>> result = new ArrayList<>();
        for (int k = 0; k < clients; k++) {
            Collections.sort(dealt.get(k));
            check(
                    !dealt.get(k).isEmpty(),
                    "client %d of %d has no data: %d examples of %d labels were dealt out with concentration %s; lower clients, such as to %d, raise concentration, or take another seed",
                    k + 1,
                    clients,
                    examples.size(),
                    strata.size(),
                    concentration,
                    Math.max(1, Math.min(clients / 2, examples.size() / 20)));
            result.add(dealt.get(k).stream().map(examples::get).toList());
        }
        return result;
    }

    /** A draw from Dirichlet(concentration, ..): gamma variates over their sum. */
    private static double[] shares(int n, double concentration, Random random) {
        double[] logs = new double[n];
        double largest = Double.NEGATIVE_INFINITY;
        for (int k = 0; k < n; k++) {
            logs[k] = logGamma(concentration, random);
            largest = Math.max(largest, logs[k]);
        }
        double sum = 0;
        for (int k = 0; k < n; k++) {
            logs[k] = Math.exp(logs[k] - largest); // small concentrations would all be 0 otherwise
            sum += logs[k];
        }
        for (int k = 0; k < n; k++) {
            logs[k] /= sum;
        }
        return logs;
    }

    /** Logarithm of a variate from Gamma(shape, 1): Marsaglia and Tsang 2000, below shape 1 with their u^(1/shape). */
    private static double logGamma(double shape, Random random) {
        double boost = shape < 1 ? Math.log(1 - random.nextDouble()) / shape : 0;
        double d = (shape < 1 ? shape + 1 : shape) - 1.0 / 3;
        double c = 1 / Math.sqrt(9 * d);
        while (true) {
            double x = random.nextGaussian();
            double v = 1 + c * x;
            if (v > 0) {
                v = v * v * v;
                if (Math.log(1 - random.nextDouble()) < 0.5 * x * x + d - d * v + d * Math.log(v)) {
                    return Math.log(d * v) + boost;
                }
            }
        }
    }
}
