package dev.espalier.adapter;

import static dev.espalier.Check.check;

import dev.espalier.io.Fields;
import dev.espalier.nn.Layer;
import dev.espalier.nn.Parameter;
import dev.espalier.rank.Importance;
import dev.espalier.rank.Orthogonality;
import dev.espalier.rank.TripletBudget;
import dev.espalier.rank.TripletBudget.Triplets;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Generator;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.atomic.AtomicLong;
import org.jspecify.annotations.Nullable;

/**
 * AdaLoRA: a change of weight in the form of a singular value decomposition, whose least important triplets are taken away while
 * it trains, until a budget for all layers together is met.
 *
 * <p>Zhang et al., <i>AdaLoRA: Adaptive Budget Allocation for Parameter-Efficient Fine-Tuning</i>, arXiv:2303.10512, eq. 3, 4
 * and 8 to 11, algorithm 1.
 *
 * <pre>{@code
 * y = x Wᵀ + b + c ((drop(x) Aᵀ) ∘ E) Bᵀ,    c = lora_alpha / (init_r + 1e-5)
 * loss + orth_reg_weight · mean(‖A Aᵀ - I‖, ‖Bᵀ B - I‖ of all layers)
 * score of triplet k = s(E_k) + mean s(A_k,:) + mean s(B_:,k),    s = Ī Ū of I = |w ∂L/∂w|
 * budget(t) = target + (init - target) (1 - (t - tinit) / (total - tfinal - tinit))³
 * x [.., in]    W [out, in]    A [r, in]    E [r, 1]    B [out, r]    y [.., out]
 * }</pre>
 *
 * <p>The paper's P, Λ, Q are our B, E, A. A, B start at N(0, 0.02²), E at zero. A triplet is taken away by E_k = 0, and may
 * come back until step total - tfinal. Files hold the triplets whose E is not zero: exactly what computes. Checked against PEFT
 * 0.21: files in both directions, and its allocator over a whole schedule.
 */
public final class Adalora implements Adapter, LoraExpressible {

    /**
     * AdaLoRA's settings, by the names of PEFT in brackets.
     *
     * @param initR [init_r] rank of each layer at the start, at least 1
     * @param targetR [target_r] mean rank at the end, 1 to init_r
     * @param alpha [lora_alpha] numerator of the scale; the initial rank if it is not positive
     * @param dropout [lora_dropout] in [0, 1)
     * @param tinit steps before the budget begins to fall, at least 0
     * @param tfinal steps at the end in which ranks stay, at least 0
     * @param deltaT steps between allocations, at least 1
     * @param beta1 decay of the sensitivity, in (0, 1)
     * @param beta2 decay of its uncertainty, in (0, 1)
     * @param orthRegWeight [orth_reg_weight] weight of the penalty, at least 0
     * @param totalStep [total_step] steps of the training; 0 for those of the run
     * @param rankPattern [rank_pattern] which of init_r triplets are left, by the path of E
     */
    public record Config(
            int initR,
            int targetR,
            double alpha,
            double dropout,
            long tinit,
            long tfinal,
            long deltaT,
            double beta1,
            double beta2,
            double orthRegWeight,
            long totalStep,
            Map<String, List<Boolean>> rankPattern) {

        /** PEFT's defaults. */
        public static final Config DEFAULT = new Config(12, 8, 8, 0, 0, 0, 1, 0.85, 0.85, 0.5, 0, Map.of());

        /** Checks ranges. */
        public Config {
            check(initR >= 1, "init_r must be at least 1, found %d; try 12", initR);
            check(targetR >= 1, "target_r must be at least 1, found %d; try 8", targetR);
            Lora.Config.DEFAULT.withDropout(dropout);
            check(Double.isFinite(alpha), "lora_alpha must be finite, found %s; try twice the rank", alpha);
            check(tinit >= 0 && tfinal >= 0, "tinit and tfinal must be at least 0, found %d and %d", tinit, tfinal);
            check(deltaT >= 1, "deltaT must be at least 1, found %d; try 1", deltaT);
            Importance.checkBeta("beta1", beta1);
            Importance.checkBeta("beta2", beta2);
            Orthogonality.checkWeight(orthRegWeight, 0.5);
            check(totalStep >= 0, "total_step must be at least 1, or 0 for the run's, found %d", totalStep);
            rankPattern = Collections.unmodifiableMap(new LinkedHashMap<>(rankPattern));
        }

        Config with(long total, Map<String, List<Boolean>> pattern) {
            return new Config(
                    initR, targetR, alpha, dropout, tinit, tfinal, deltaT, beta1, beta2, orthRegWeight, total, pattern);
        }

        TripletBudget.Plan plan() {
            return new TripletBudget.Plan(targetR, tinit, tfinal, deltaT, beta1, beta2, totalStep);
        }
    }

    /** How AdaLoRA is set up, read and written. */
    public static final class Type implements AdapterType<Config> {

        @Override
        public About about() {
            return new About(
                    "adalora",
                    "adapter",
                    "a change as singular triplets, the least important of which are taken away during training",
                    "Zhang et al., AdaLoRA: Adaptive Budget Allocation for Parameter-Efficient Fine-Tuning, arXiv:2303.10512",
                    """
                    y = x Wᵀ + b + c ((drop(x) Aᵀ) ∘ E) Bᵀ,  c = lora_alpha / (init_r + 1e-5)
                    A [init_r, in], E [init_r, 1], B [out, init_r] trained: init_r (in + out + 1) parameters a layer at first""",
                    "any optimizer, modules_to_save and bias; linear layers only; no initializer",
                    "A, E and B of the triplets that are left, in PEFT's format (ADALORA); export --to lora is exact",
                    true);
        }

        @Override
        public Map<String, String> meanings() {
            return Map.ofEntries(
                    Map.entry("r", "not looked at: PEFT's configuration has it beside init_r"),
                    Map.entry("init_r", "rank of each layer at the start, at least 1"),
                    Map.entry("target_r", "mean rank of the layers at the end, 1 to init_r"),
                    Map.entry("lora_alpha", "numerator of the scale; the initial rank where it is not above 0"),
                    Map.entry("lora_dropout", "share of the input dropped in training, in [0, 1)"),
                    Map.entry("tinit", "steps before the budget begins to fall, at least 0"),
                    Map.entry("tfinal", "steps at the end in which the ranks stay as they are, at least 0"),
                    Map.entry("deltaT", "steps between allocations, at least 1"),
                    Map.entry("beta1", "decay of the mean sensitivity, in (0, 1)"),
                    Map.entry("beta2", "decay of its uncertainty, in (0, 1)"),
                    Map.entry("orth_reg_weight", "weight of the penalty on dependent components, at least 0"),
                    Map.entry("total_step", "steps of the training; 0 for those of the run"),
                    Map.entry("rank_pattern", "which triplets are left, by path; written by training"));
        }

        @Override
        public String peftType() {
            return "ADALORA";
        }

        @Override
        public Config read(Fields f) {
            Config usual = Config.DEFAULT;
            f.ignore("r"); // PEFT's configuration has it and its AdaLoRA does not look at it
            Map<String, List<Boolean>> pattern = new LinkedHashMap<>();
            f.map("rank_pattern", Map.of()).forEach((path, kept) -> {
                if (!(kept instanceof List<?> list) || !list.stream().allMatch(Boolean.class::isInstance)) {
                    throw f.fault("rank_pattern", "should have a list of true and false for each layer");
                }
                pattern.put(path, list.stream().map(Boolean.class::cast).toList());
            });
            return new Config(
                    f.integer("init_r", usual.initR()),
                    f.integer("target_r", usual.targetR()),
                    f.number("lora_alpha", usual.alpha()),
                    f.number("lora_dropout", usual.dropout()),
                    f.longInteger("tinit", usual.tinit()),
                    f.longInteger("tfinal", usual.tfinal()),
                    f.longInteger("deltaT", usual.deltaT()),
                    f.number("beta1", usual.beta1()),
                    f.number("beta2", usual.beta2()),
                    f.number("orth_reg_weight", usual.orthRegWeight()),
                    f.longInteger("total_step", usual.totalStep()),
                    pattern);
        }

        @Override
        public Map<String, @Nullable Object> write(Config config) {
            Map<String, @Nullable Object> json = Lora.Config.DEFAULT.write();
            double alpha = config.alpha();
            json.put("lora_alpha", alpha == Math.rint(alpha) ? (Object) (long) alpha : (Object) alpha);
            json.put("lora_dropout", config.dropout());
            json.put("init_r", config.initR());
            json.put("target_r", config.targetR());
            json.put("tinit", config.tinit());
            json.put("tfinal", config.tfinal());
            json.put("deltaT", config.deltaT());
            json.put("beta1", config.beta1());
            json.put("beta2", config.beta2());
            json.put("orth_reg_weight", config.orthRegWeight());
            // PEFT refuses a file without steps for the budget to fall in; an adapter that never trained has no number
            // yet.
            json.put("total_step", config.totalStep() == 0 ? config.tinit() + config.tfinal() + 1 : config.totalStep());
            json.put("rank_pattern", config.rankPattern().isEmpty() ? null : config.rankPattern());
            return json;
        }

        @Override
        public void check(Config config, List<Site> sites) {
            Lora.Config.of(config.initR(), 1).fit(sites);
            dev.espalier.Check.check(
                    config.targetR() <= config.initR(),
                    "target_r is %d, above init_r %d, from which ranks are only taken away; try init_r %d",
                    config.targetR(),
                    config.initR(),
                    config.targetR() + (config.targetR() + 1) / 2);
        }

        @Override
        public Made create(Config config, List<Site> sites, Seed seed) {
            AtomicLong total = new AtomicLong(config.totalStep());
            return Made.each(sites, site -> new Adalora(config, total, site, seed));
        }

        @Override
        public Parts parts(Config config, Attached adapter, Seed seed) {
            Map<String, Triplets> layers = triplets(adapter.made());
            return new Parts(
                    List.of(new TripletBudget(config.plan(), layers, total(adapter.made()))),
                    Orthogonality.terms(
                            config.orthRegWeight(),
                            layers.values(),
                            each -> List.of(each.a().tensor(), each.b().tensor().t())),
                    Map.of());
        }

        /** The triplets whose E is not zero; all of an adapter that was never trained. */
        @Override
        public Saved<Config> saved(Config config, Made made) {
            Map<String, Triplets> layers = triplets(made);
            long total = total(made).get();
            boolean trained =
                    layers.values().stream().anyMatch(each -> each.open().any());
            if (!trained
                    || layers.values().stream().allMatch(each -> each.open().all())) {
                return new Saved<>(config.with(total, config.rankPattern()), made.tensors());
            }
            Map<String, List<Boolean>> pattern = new LinkedHashMap<>();
            Map<String, Tensor> tensors = new LinkedHashMap<>();
            layers.forEach((path, each) -> {
                each.left().forEach((leaf, left) -> tensors.put(Made.key(path, leaf), left));
                String key = path + ".lora_E";
                pattern.put(key, each.pattern(config.rankPattern().get(key)));
            });
            return new Saved<>(config.with(total, pattern), tensors);
        }

        private static Map<String, Triplets> triplets(Made made) {
            Map<String, Triplets> layers = new LinkedHashMap<>();
            made.adapters().forEach((path, adapter) -> layers.put(path, ((Adalora) adapter).triplets));
            return layers;
        }

        private static AtomicLong total(Made made) {
            return ((Adalora) made.adapters().values().iterator().next()).total;
        }
    }

    private final Triplets triplets; // A [r, in], B [out, r], E [r, 1]
    private final double scale; // c
    private final double dropout;
    private final AtomicLong total; // steps, known once a training has begun; the layers have it in common

    private Adalora(Config config, AtomicLong total, Site site, Seed seed) {
        Layer layer = site.linear("adalora");
        List<Boolean> pattern = config.rankPattern().get(site.path() + ".lora_E");
        long r = pattern == null
                ? config.initR()
                : pattern.stream().filter(left -> left).count();
        this.scale = (config.alpha() > 0 ? config.alpha() : config.initR()) / (config.initR() + 1e-5);
        this.dropout = config.dropout();
        this.total = total;
        Seed here = seed.named(site.path());
        try (Scope scope = Scope.open();
                Generator forA = here.named("lora_A").generator();
                Generator forB = here.named("lora_B").generator()) {
            triplets = new Triplets(
                    site.frozen(forA.normal(0, 0.02, r, layer.inFeatures())),
                    site.frozen(forB.normal(0, 0.02, layer.outFeatures(), r)),
                    site.frozen(Tensor.zeros(DType.FLOAT32, r, 1)));
        }
        parameters().values().forEach(p -> p.trainable(r > 0)); // a layer may have no rank left
    }

    @Override
    public Tensor forward(Tensor x, Base base) {
        return Base.onRows(x, rows -> {
            Tensor y = base.forward(rows); // [n, out]
            DType dtype = y.dtype();
            Tensor dropped = dropout > 0 ? rows.dropout(dropout, base.layer().isTraining()) : rows;
            Tensor e = triplets.e().tensor().to(dtype);
            Tensor down = dropped.linear(triplets.a().tensor(), null).mul(e.t()); // [n, r]
            return y.addmm_(down, triplets.b().tensor().to(dtype).t(), scale);
        });
    }

    @Override
    public LoraFactors toLora() {
        Tensor scaled = triplets.a().tensor().mul(triplets.e().tensor()); // [r, in]
        return new LoraFactors(scaled, triplets.b().tensor(), scale, null);
    }

    @Override
    public Map<String, Parameter> parameters() {
        return triplets.named();
    }
}
