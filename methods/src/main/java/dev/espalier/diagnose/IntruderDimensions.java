package dev.espalier.diagnose;

import static dev.espalier.Check.check;

import dev.espalier.EspalierException;
import dev.espalier.adapter.AdaptedModel;
import dev.espalier.adapter.Attached;
import dev.espalier.adapter.Base;
import dev.espalier.adapter.LoraFactors;
import dev.espalier.adapter.Site;
import dev.espalier.io.Fields;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Tensor;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/**
 * Intruder dimensions: leading singular vectors of an adapted weight that resemble none of the pretrained one's.
 *
 * <p>Shuttleworth et al., <i>LoRA vs Full Fine-tuning: An Illusion of Equivalence</i>, NeurIPS 2025, arXiv:2410.21228, algorithm 1,
 * and the repair of its section on scaling intruders.
 *
 * <pre>{@code
 * W0 = U0 S0 V0ᵀ,   Wt = W0 + ΔW = U S Vᵀ                              W0, Wt [out, in]
 * c_j = max_i |⟨u_j, u0_i⟩|,   j = 1 .. k;   j is an intruder where c_j < eps
 * repair: ΔW + (λ - 1) Σ_{j in I} S_j u_j v_jᵀ,   of rank r + |I|       λ = 1: as it was, 0: taken out
 * }</pre>
 *
 * <p>The triplets are those of Wt, not of ΔW, as the first author confirmed: taking them out takes some of W0 too. Hugging Face PEFT
 * truncates the repair to rank r; here it is exact. PEFT tests GPT-2's layers and embeddings on the wrong side; here all weights are
 * seen as [out, in]. Singular vectors of nearly equal values turn freely and look like intruders: {@code gap} is the smallest
 * relative distance of an intruder's value to its neighbours'. The repair shrinks ΔW as well; a merge of the adapter alone, by {@code
 * linear} with the ratio of norms as its weight, is the control to compare with. Checked by hand on planted intruders.
 */
public final class IntruderDimensions implements Diagnosis.Repair<IntruderDimensions.Config> {

    /** Which singular vectors are compared. */
    public enum Side {
        /** Of the output. */
        LEFT,
        /** Of the input. */
        RIGHT
    }

    /**
     * Settings.
     *
     * @param k leading vectors tested, at least 1
     * @param eps cosine below which one is an intruder, at least 0
     * @param lambda factor on intruders in a repair, at least 0
     * @param side which vectors are compared
     */
    public record Config(int k, double eps, double lambda, Side side) {

        /** The paper's; lambda as in PEFT. */
        public static final Config DEFAULT = new Config(10, 0.5, 0.75, Side.LEFT);

        /** Checks ranges. */
        public Config {
            check(k >= 1, "k must be at least 1, found %d; try 10", k);
            check(eps >= 0 && Double.isFinite(eps), "eps must be at least 0 and finite, found %s; try 0.5", eps);
            check(
                    lambda >= 0 && Double.isFinite(lambda),
                    "lambda must be at least 0 and finite, found %s; try 0.75, which keeps three quarters",
                    lambda);
        }
    }

    @Override
    public About about() {
        return new About(
                "intruder-dimensions",
                "diagnosis",
                "leading singular vectors of an adapted weight that resemble no pretrained one",
                "Shuttleworth et al., LoRA vs Full Fine-tuning: An Illusion of Equivalence, NeurIPS 2025, arXiv:2410.21228",
                """
                Wt = W0 + ΔW = U S Vᵀ,  c_j = max_i |⟨u_j, u0_i⟩| for j <= k,  an intruder where c_j < eps
                repair: ΔW + (λ - 1) Σ S_j u_j v_jᵀ over intruders""",
                "any adapter that merges; the repair, any that is exactly a plain LoRA",
                "nothing; a repair is a plain LoRA of rank r + number of intruders",
                true);
    }

    @Override
    public Map<String, String> meanings() {
        return Map.of(
                "k", "leading vectors of each layer that are tested, at least 1",
                "eps", "cosine below which a vector is an intruder, at least 0; usually 0 to 1",
                "lambda", "factor that a repair puts on intruders: 1 leaves them, 0 takes them out, above 1 amplifies",
                "side", "vectors compared: left (of the output) or right (of the input)");
    }

    @Override
    public Config read(Fields f) {
        Config usual = Config.DEFAULT;
        return new Config(
                f.integer("k", usual.k()),
                f.number("eps", usual.eps()),
                f.number("lambda", usual.lambda()),
                f.choice("side", usual.side()));
    }

    /**
     * What one layer holds.
     *
     * @param cosines c_1 .. c_k
     * @param values S_1 .. S_m
     * @param intruders indices j from 0
     * @param svd U, S, Vᵀ of Wt, on the chosen side
     */
    private record Found(List<Double> cosines, List<Double> values, List<Integer> intruders, List<Tensor> svd) {

        /** Share of the intruders in the tested vectors' energy, the sum of squared singular values. */
        double energy() {
            double all = 0;
            double theirs = 0;
            for (int j = 0; j < cosines.size(); j++) {
                double square = values.get(j) * values.get(j);
                all += square;
                theirs += intruders.contains(j) ? square : 0;
            }
            return all == 0 ? 0 : theirs / all;
        }

        /** Null without intruders. */
        @Nullable
        Double gap() {
            double gap = Double.POSITIVE_INFINITY;
            for (int j : intruders) {
                double own = values.get(j);
                double above = j == 0 ? Double.POSITIVE_INFINITY : values.get(j - 1) - own;
                double below = j + 1 == values.size() ? own : own - values.get(j + 1);
                gap = Math.min(gap, Math.min(above, below) / own);
            }
            return intruders.isEmpty() ? null : gap;
        }
    }

    private static Attached adapter(AdaptedModel model) {
        check(
                model.active().size() == 1,
                "intruder dimensions are those of one adapter, and %d are active; activate one",
                model.active().size());
        return model.adapter(model.active().get(0));
    }

    @Override
    public Report examine(Config config, AdaptedModel model) {
        Attached adapter = adapter(model);
        List<List<@Nullable Object>> rows = new ArrayList<>();
        int intruders = 0;
        int infected = 0;
        int tested = 0;
        for (Site site : adapter.sites()) {
            try (Grad off = Grad.off();
                    Scope scope = Scope.open()) {
                Found found = find(config, adapter, site);
                List<@Nullable Object> row = new ArrayList<>();
                row.add(site.path());
                row.add(found.intruders().size());
                row.add(found.energy());
                row.add(found.gap());
                row.add(found.cosines());
                rows.add(row);
                intruders += found.intruders().size();
                infected += found.intruders().isEmpty() ? 0 : 1;
                tested += found.cosines().size();
            }
        }
        Map<String, Object> totals = new LinkedHashMap<>();
        totals.put("intruders", intruders);
        totals.put("tested", tested);
        totals.put("infected_layers", infected);
        totals.put("layers", rows.size());
        totals.put("k", config.k());
        totals.put("eps", config.eps());
        return new Report(List.of("layer", "intruders", "energy", "gap", "cosines"), rows, totals);
    }

    private static Found find(Config config, Attached adapter, Site site) {
        Base ground = new Base.Ground(site.layer());
        Tensor before = ground.affine().weight(); // W0 [out, in]
        Tensor after = adapter.on(site.path(), ground).affine().weight(); // Wt [out, in]
        boolean left = config.side() == Side.LEFT;
        Tensor u0 = (left ? before : before.t()).svd().get(0);
        List<Tensor> svd = (left ? after : after.t()).svd();
        long k = Math.min(config.k(), svd.get(1).numel());
        double[] c =
                svd.get(0).narrow(1, 0, k).t().matmul(u0).abs().amax(1, false).doubles();
        List<Double> cosines = new ArrayList<>();
        List<Integer> intruders = new ArrayList<>();
        for (int j = 0; j < k; j++) {
            cosines.add(c[j]);
            if (c[j] < config.eps()) {
                intruders.add(j);
            }
        }
        List<Double> values = new ArrayList<>();
        for (double s : svd.get(1).doubles()) {
            values.add(s);
        }
        return new Found(cosines, values, intruders, svd);
    }

    @Override
    public Map<String, LoraFactors> repair(Config config, AdaptedModel model) {
        Attached adapter = adapter(model);
        Map<String, LoraFactors> repaired = new LinkedHashMap<>();
        for (Site site : adapter.sites()) {
            try (Grad off = Grad.off();
                    Scope scope = Scope.open()) {
                LoraFactors factors = adapter.exactFactors(site.path());
                if (factors == null) {
                    throw new EspalierException(
                            "%s is not exactly a plain LoRA on %s, so its repair would be none; write it as one first, by export --to lora --rank 16"
                                    .formatted(adapter.spec().type().name(), site.path()));
                }
                Found found = find(config, adapter, site);
                LoraFactors made = found.intruders().isEmpty() || config.lambda() == 1
                        ? factors
                        : factors.plus(correction(config, found));
                Tensor bias = made.bias();
                repaired.put(
                        site.path(),
                        new LoraFactors(
                                scope.promote(made.a().clone()),
                                scope.promote(made.b().clone()),
                                made.scale(),
                                bias == null ? null : scope.promote(bias.clone())));
            }
        }
        return repaired;
    }

    /** (λ - 1) Σ_{j in I} S_j u_j v_jᵀ as factors. */
    private static LoraFactors correction(Config config, Found found) {
        long[] indices =
                found.intruders().stream().mapToLong(Integer::longValue).toArray();
        Tensor index = Tensor.of(indices, indices.length).to(found.svd().get(0).device());
        Tensor u = found.svd().get(0).indexSelect(1, index);
        Tensor s = found.svd().get(1).indexSelect(0, index).mul(config.lambda() - 1);
        Tensor vt = found.svd().get(2).indexSelect(0, index);
        return config.side() == Side.LEFT
                ? new LoraFactors(vt, u.mul(s), 1, null)
                : new LoraFactors(u.t(), vt.t().mul(s), 1, null); // of the transposed weight
    }
}
