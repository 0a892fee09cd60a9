package dev.espalier.merge;

import static dev.espalier.Check.check;

import dev.espalier.adapter.LoraFactors;
import dev.espalier.io.Fields;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.KMeans;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;

/**
 * LoRA-LEGO: the ranks of all adapters are pooled and clustered, and the cluster means are the ranks of the merged one.
 *
 * <p>Zhao et al., <i>Merging LoRAs like Playing LEGO: Pushing the Modularity of LoRA to Extremes Through Rank-Wise Clustering</i>,
 * ICLR 2025, arXiv:2409.16167, section 3.
 *
 * <pre>{@code
 * m_ij = √s_i [row j of A_i ; column j of B_i] [in + out], with weight w_i           the pool, R = Σ r_i units
 * S_1 .. S_k by k-means,   μ_c = mean of S_c
 * μ_c <- μ_c · (mean of ‖m‖ over S_c) / ‖μ_c‖                                        parameter reweighting
 * A* = the first in entries of μ_c by rows [k, in],   B* = √(r / k) the last out by columns [out, k]     output reweighting
 * }</pre>
 *
 * <p>Averages are taken between like units only, so that unrelated skills do not overwrite each other. On one adapter with k below r it
 * prunes ranks. No code of the authors' is known, and the norm of the reweighting (the largest entry's) is that of two independent
 * implementations; the tests are derived by hand. Units have a gauge freedom, (c a, b / c) being the same update: {@code
 * align_signs} and {@code balance} fix it before clustering, which the paper does not.
 */
public final class LoraLego implements Merger<LoraLego.Config> {

    /** The norm that the parameter reweighting keeps. */
    public enum Norm {
        /** The largest magnitude. */
        INF,
        /** Euclidean. */
        L2
    }

    /**
     * Settings.
     *
     * @param k clusters, which is the rank of the result; 0 for the mean rank of the adapters
     * @param norm that the parameter reweighting keeps
     * @param parameterReweighting [parameter_reweighting] whether a mean is as long as its members
     * @param outputReweighting [output_reweighting] whether the result is multiplied by √(r / k)
     * @param sourceRank [source_rank] r of the output reweighting; 0 for the mean rank of the adapters
     * @param restarts of k-means
     * @param iterations of k-means, at most
     * @param alignSigns [align_signs] whether units are turned so that their largest entry is positive
     * @param balance whether a and b of a unit are made equally long
     */
    public record Config(
            int k,
            Norm norm,
            boolean parameterReweighting,
            boolean outputReweighting,
            double sourceRank,
            int restarts,
            int iterations,
            boolean alignSigns,
            boolean balance) {

        /** The paper's, as far as it is known. */
        public static final Config DEFAULT = new Config(0, Norm.INF, true, true, 0, 10, 300, false, false);

        /** Checks ranges. */
        public Config {
            check(k >= 0, "k must be at least 1, or 0 for the mean rank of the adapters, found %d; try 8", k);
            check(
                    sourceRank >= 0 && Double.isFinite(sourceRank),
                    "source_rank must be positive, or 0 for the mean rank of the adapters, found %s; try 8",
                    sourceRank);
            check(restarts >= 1, "restarts must be at least 1, found %d; try 10", restarts);
            check(iterations >= 1, "iterations must be at least 1, found %d; try 300", iterations);
        }

        /** The same with so many clusters. */
        public Config withK(int clusters) {
            return new Config(
                    clusters,
                    norm,
                    parameterReweighting,
                    outputReweighting,
                    sourceRank,
                    restarts,
                    iterations,
                    alignSigns,
                    balance);
        }

        /** The same with the two reweightings on or off. */
        public Config withReweighting(boolean parameters, boolean outputs) {
            return new Config(k, norm, parameters, outputs, sourceRank, restarts, iterations, alignSigns, balance);
        }
    }

    @Override
    public About about() {
        return new About(
                "lora-lego",
                "merger",
                "clusters the ranks of all adapters; the cluster means are the merged ranks",
                "Zhao et al., Merging LoRAs like Playing LEGO: Pushing the Modularity of LoRA to Extremes Through Rank-Wise"
                        + " Clustering, ICLR 2025, arXiv:2409.16167",
                """
                units m_ij = √s_i [row j of A_i ; column j of B_i] [in + out], k-means into k clusters with means μ_c
                μ_c <- μ_c · mean ‖m‖ / ‖μ_c‖,  A* [k, in] and √(k / r) B* [out, k] from μ_c""",
                "adapters of any ranks that are plain LoRAs, of one base, with positive weights; one alone is pruned to rank k",
                "a plain LoRA of rank k, with lora_alpha = r",
                true);
    }

    @Override
    public Map<String, String> meanings() {
        return Map.of(
                "k", "clusters, and so the rank of the result, 1 to the sum of the ranks; 0 for their mean",
                "norm", "norm that a mean keeps of its members: inf (the largest entry) or l2",
                "parameter_reweighting", "make each mean as long as its members are on average",
                "output_reweighting", "multiply the result by √(r / k)",
                "source_rank", "r of the output reweighting, above 0; 0 for the mean rank of the adapters",
                "restarts", "starts of k-means, at least 1",
                "iterations", "of k-means at most, at least 1",
                "align_signs", "turn units so that their largest entry is positive before clustering",
                "balance", "make a and b of each unit equally long before clustering");
    }

    @Override
    public Config read(Fields f) {
        Config usual = Config.DEFAULT;
        return new Config(
                f.integer("k", usual.k()),
                f.choice("norm", usual.norm()),
                f.bool("parameter_reweighting", usual.parameterReweighting()),
                f.bool("output_reweighting", usual.outputReweighting()),
                f.number("source_rank", usual.sourceRank()),
                f.integer("restarts", usual.restarts()),
                f.integer("iterations", usual.iterations()),
                f.bool("align_signs", usual.alignSigns()),
                f.bool("balance", usual.balance()));
    }

    @Override
    public Map<String, LoraFactors> merge(Config config, List<Source> sources, Seed seed) {
        sources.forEach(source -> check(
                source.weight() > 0,
                "lora-lego weighs how much a unit counts in its cluster, so the weight of %s must be positive, found %s; try 1",
                source.name(),
                source.weight()));
        return Merger.byLayer(sources, (path, parts) -> layer(config, path, parts, seed.named(path)));
    }

    private static LoraFactors layer(Config config, String path, List<Part> parts, Seed seed) {
        long in = parts.get(0).factors().a().size(1);
        Pool pool = pool(config, parts);
        int total = pool.weights().length;
        double mean = total / (double) parts.size();
        int k = config.k() > 0 ? config.k() : (int) Math.round(mean);
        check(k <= total, "k is %d, but the adapters have %d ranks on %s to cluster; try %d", k, total, path, total);
        KMeans.Clustering clusters =
                KMeans.of(pool.units(), pool.weights(), k, config.restarts(), config.iterations(), seed);
        List<Tensor> means = new ArrayList<>();
        clusters.groups().forEach(members -> means.add(mean(config, pool, members)));
        Tensor mu = Tensor.stack(means, 0); // [k, in + out]
        double r = config.sourceRank() > 0 ? config.sourceRank() : mean;
        double output = config.outputReweighting() ? Math.sqrt(r / k) : 1;
        DType dtype = parts.get(0).factors().a().dtype();
        Tensor a = mu.narrow(1, 0, in); // [k, in]
        Tensor b = mu.narrow(1, in, mu.size(1) - in).t().mul(output); // [out, k]
        return new LoraFactors(a.contiguous().to(dtype), b.contiguous().to(dtype), 1, null);
    }

    /**
     * All ranks of one layer.
     *
     * @param units [R, in + out], float64
     * @param weights one a unit
     */
    @SuppressWarnings("ArrayRecordComponent") // private, never compared
    private record Pool(Tensor units, double[] weights) {}

    private static Pool pool(Config config, List<Part> parts) {
        List<Tensor> units = new ArrayList<>();
        List<Double> weights = new ArrayList<>();
        for (Part part : parts) {
            double root = Math.sqrt(part.factors().scale());
            Tensor a = part.factors().a().to(DType.FLOAT64).mul(root); // [r, in]
            Tensor b = part.factors().b().to(DType.FLOAT64).t().mul(root); // [r, out]
            if (config.balance()) {
                Tensor ratio = b.norm(1, true).div(a.norm(1, true)).sqrt(); // [r, 1]
                Tensor usable = ratio.isFinite().logicalAnd(ratio.gt(0));
                Tensor c = Tensor.where(usable, ratio, Tensor.ones(DType.FLOAT64, ratio.shape()));
                a = a.mul(c);
                b = b.div(c);
            }
            Tensor both = Tensor.cat(List.of(a, b), 1); // [r, in + out]
            if (config.alignSigns()) {
                Tensor largest = both.gather(1, both.abs().argmax(1).unsqueeze(1)); // [r, 1]
                both = both.mul(largest.ge(0).to(DType.FLOAT64).mul(2).sub(1));
            }
            units.add(both);
            for (int j = 0; j < part.factors().rank(); j++) {
                weights.add(part.weight());
            }
        }
        return new Pool(
                Tensor.cat(units, 0),
                weights.stream().mapToDouble(Double::doubleValue).toArray());
    }

    /** μ_c [in + out], as long as its members on average if so wanted. */
    private static Tensor mean(Config config, Pool pool, List<Integer> members) {
        int n = members.size();
        double[] share = members.stream().mapToDouble(i -> pool.weights()[i]).toArray();
        double mass = java.util.Arrays.stream(share).sum();
        Tensor w = Tensor.of(share, n, 1).div(mass); // [n, 1]
        Tensor rows = pool.units()
                .indexSelect(
                        0,
                        Tensor.of(members.stream().mapToLong(Integer::longValue).toArray(), n)); // [n, in + out]
        Tensor mu = rows.mul(w).sum(0, false); // [in + out]
        if (!config.parameterReweighting()) {
            return mu;
        }
        double wanted = norm(config, rows).mul(w).sum().item();
        double found = norm(config, mu.unsqueeze(0)).item();
        return mu.mul(wanted / Math.max(found, 1e-12));
    }

    /** Of each row, [n, 1]. */
    static Tensor norm(Config config, Tensor rows) {
        return config.norm() == Norm.INF ? rows.abs().amax(1, true) : rows.norm(1, true);
    }
}
