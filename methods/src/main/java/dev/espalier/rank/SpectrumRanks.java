package dev.espalier.rank;

import static dev.espalier.Check.check;

import dev.espalier.tensor.DType;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Tensor;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Comparator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.function.Supplier;

/**
 * Ranks for layers from their weights' spectra, settled once, before training.
 *
 * <p>Azizi, Kundu, Pedram, <i>LaMDA</i>, arXiv:2406.12832: LaMDA++'s "normalised spectrum analysis". With e(k) the share of Σ σ²
 * that the k largest singular values hold, layers are compared with those of their own kind, whose paths differ in numbers alone.
 */
public final class SpectrumRanks {

    /** Who gets which rank. */
    public enum Rule {
        /** All the same. */
        SAME,
        /** {@link SpectrumRanks#grouped}: LaMDA++. */
        GROUPED,
        /** {@link SpectrumRanks#threshold}. */
        THRESHOLD;

        /**
         * Ranks by path; none where all are to have the mean.
         *
         * @param weights [out, in] of the layers, by path, asked for one at a time
         * @param mean of the ranks
         * @param candidates for {@link #GROUPED}
         */
        public Map<String, Integer> ranks(Map<String, Supplier<Tensor>> weights, int mean, List<Integer> candidates) {
            if (this == SAME) {
                return Map.of();
            }
            Map<String, double[]> energies = new LinkedHashMap<>();
            weights.forEach((path, weight) -> {
                try (Grad off = Grad.off();
                        Scope scope = Scope.open()) {
                    energies.put(path, energy(weight.get().svdvals()));
                }
            });
            return this == GROUPED ? grouped(energies, candidates) : threshold(energies, mean);
        }
    }

    private SpectrumRanks() {}

    /**
     * Candidates whose mean is r.
     *
     * @param set an odd number of rising ranks, symmetric around r; none: r/2, r, 3r/2
     * @throws dev.espalier.EspalierException if it is not
     */
    public static List<Integer> symmetric(List<Integer> set, int r) {
        List<Integer> usual = List.of(r - r / 2, r, r + r / 2);
        List<Integer> ranks = set.isEmpty() ? usual : List.copyOf(set);
        boolean fits = ranks.size() % 2 == 1 && ranks.get(0) >= 1;
        for (int i = 0; i < ranks.size(); i++) {
            fits &= ranks.get(i) + ranks.get(ranks.size() - 1 - i) == 2 * r;
            fits &= i == 0 || ranks.get(i) > ranks.get(i - 1);
        }
        check(
                fits,
                "rank_set must be an odd number of rising ranks, symmetric around r, which is %d, found %s; try %s",
                r,
                ranks,
                r == 1 ? "an r of 2 or more" : usual);
        return ranks;
    }

    /** e(1), .., e(q) of singular values [q], which fall. */
    public static double[] energy(Tensor values) {
        double[] e = values.to(DType.FLOAT64).square().cumsum(0).doubles();
        double all = e[e.length - 1];
        for (int k = 0; k < e.length; k++) {
            e[k] = all == 0 ? 1 : e[k] / all;
        }
        return e;
    }

    /**
     * The layers to which the largest of some ranks would add the most energy over the smallest get it, and so on down in groups
     * of one size; what a division leaves over joins the middle group. Ties keep the layers' order.
     *
     * @param energies of the layers, by path
     * @param candidates an odd number of ranks, rising, at most the layers' widths
     */
    public static Map<String, Integer> grouped(Map<String, double[]> energies, List<Integer> candidates) {
        int m = candidates.size();
        Map<String, Integer> ranks = new LinkedHashMap<>();
        for (List<Map.Entry<String, double[]>> kind : kinds(energies)) {
            kind.sort(Comparator.comparingDouble(layer -> {
                double[] e = layer.getValue();
                return e[candidates.get(0) - 1] - e[candidates.get(m - 1) - 1]; // minus the gain
            }));
            int next = 0;
            for (int group = m - 1; group >= 0; group--) {
                int size = kind.size() / m + (group == m / 2 ? kind.size() % m : 0);
                for (int i = 0; i < size; i++) {
                    ranks.put(kind.get(next++).getKey(), candidates.get(group));
                }
            }
        }
        return ranks;
    }

    /**
     * The least rank of each layer that holds a common share of its energy, the share being the largest that the mean rank allows:
     * again and again the layer that holds least gets one more.
     *
     * @param energies of the layers, by path
     * @param mean of the ranks of each kind, at most the layers' widths
     */
    public static Map<String, Integer> threshold(Map<String, double[]> energies, int mean) {
        Map<String, Integer> ranks = new LinkedHashMap<>();
        for (List<Map.Entry<String, double[]>> kind : kinds(energies)) {
            int[] own = new int[kind.size()];
            Arrays.fill(own, 1);
            for (long left = (long) (mean - 1) * own.length; left > 0; left--) {
                int poorest = 0;
                for (int i = 1; i < own.length; i++) {
                    poorest = held(kind.get(i), own[i]) < held(kind.get(poorest), own[poorest]) ? i : poorest;
                }
                own[poorest]++;
            }
            for (int i = 0; i < own.length; i++) {
                ranks.put(kind.get(i).getKey(), own[i]);
            }
        }
        return ranks;
    }

    /** The share that a rank holds; more than all where no higher one is left. */
    private static double held(Map.Entry<String, double[]> layer, int rank) {
        double[] e = layer.getValue();
        return rank < e.length ? e[rank - 1] : 2;
    }

    /** Layers whose paths differ in numbers alone together. */
    private static Iterable<List<Map.Entry<String, double[]>>> kinds(Map<String, double[]> energies) {
        Map<String, List<Map.Entry<String, double[]>>> kinds = new LinkedHashMap<>();
        energies.entrySet()
                .forEach(
                        layer -> kinds.computeIfAbsent(layer.getKey().replaceAll("\\d+", "#"), key -> new ArrayList<>())
                                .add(layer));
        return kinds.values();
    }
}
