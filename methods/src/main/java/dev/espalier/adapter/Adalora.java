package dev.espalier.adapter;

import static dev.espalier.Check.check;

import dev.espalier.io.Fields;
import dev.espalier.nn.Embedding;
import dev.espalier.nn.Parameter;
import dev.espalier.rank.Importance;
import dev.espalier.rank.Orthogonality;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Generator;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import dev.espalier.train.Callback;
import dev.espalier.train.LossTerm;
import dev.espalier.train.StepContext;
import dev.espalier.train.TrainingRun;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
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
            check(
                    orthRegWeight >= 0 && Double.isFinite(orthRegWeight),
                    "orth_reg_weight must be at least 0 and finite, found %s; try 0.5",
                    orthRegWeight);
            check(totalStep >= 0, "total_step must be at least 1, or 0 for the run's, found %d", totalStep);
            rankPattern = Collections.unmodifiableMap(new LinkedHashMap<>(rankPattern));
        }

        Config with(long total, Map<String, List<Boolean>> pattern) {
            return new Config(
                    initR, targetR, alpha, dropout, tinit, tfinal, deltaT, beta1, beta2, orthRegWeight, total, pattern);
        }

        /** Ranks of all layers together that step t, from 0, may leave. */
        long budget(long t, long total, long init, long target) {
            if (t <= tinit) {
                return init;
            }
            double rest = 1 - (double) (t - tinit) / (total - tfinal - tinit);
            return (long) ((init - target) * (rest * rest * rest) + target);
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
            long[] total = {config.totalStep()};
            return Made.each(sites, site -> new Adalora(config, total, site, seed));
        }

        @Override
        public Parts parts(Config config, Attached adapter, Seed seed) {
            Map<String, Adalora> layers = layers(adapter.made());
            LossTerm apart = (step, outcome) -> {
                List<Tensor> rows = new ArrayList<>();
                layers.values().forEach(each -> {
                    rows.add(each.a.tensor());
                    rows.add(each.b.tensor().t());
                });
                return Orthogonality.penalty(rows).mul(config.orthRegWeight());
            };
            return new Parts(
                    List.of(new Allocator(config, layers)),
                    config.orthRegWeight() == 0 ? List.of() : List.of(apart),
                    Map.of());
        }

        /** The triplets whose E is not zero; all of an adapter that was never trained. */
        @Override
        public Saved<Config> saved(Config config, Made made) {
            Map<String, Adalora> layers = layers(made);
            boolean trained = layers.values().stream()
                    .anyMatch(each -> each.e.tensor().detach().ne(0).any());
            boolean cut = trained
                    && layers.values().stream()
                            .anyMatch(each -> !each.e.tensor().detach().ne(0).all());
            long total = layers.values().iterator().next().total[0];
            if (!cut) {
                return new Saved<>(config.with(total, config.rankPattern()), made.tensors());
            }
            Map<String, List<Boolean>> pattern = new LinkedHashMap<>();
            Map<String, Tensor> tensors = new LinkedHashMap<>();
            layers.forEach((path, each) -> {
                Tensor left = each.left();
                each.parameters()
                        .forEach((leaf, p) ->
                                tensors.put(Made.key(path, leaf), p.tensor().indexSelect(p == each.b ? 1 : 0, left)));
                List<Boolean> before = config.rankPattern()
                        .getOrDefault(
                                path + ".lora_E",
                                Collections.nCopies((int) each.e.tensor().numel(), true));
                double[] e = each.e.tensor().doubles();
                List<Boolean> now = new ArrayList<>();
                int next = 0;
                for (boolean was : before) {
                    now.add(was && e[next++] != 0);
                }
                pattern.put(path + ".lora_E", now);
            });
            return new Saved<>(config.with(total, pattern), tensors);
        }

        private static Map<String, Adalora> layers(Made made) {
            Map<String, Adalora> layers = new LinkedHashMap<>();
            made.adapters().forEach((path, adapter) -> layers.put(path, (Adalora) adapter));
            return layers;
        }
    }

    /** Takes triplets away step by step. */
    private static final class Allocator implements Callback {
        private final Config config;
        private final Map<String, Adalora> layers;
        private final Importance importance;
        private final Map<String, Tensor> frozen = new LinkedHashMap<>(); // by path, bool [r, 1]: what stays at the end

        Allocator(Config config, Map<String, Adalora> layers) {
            this.config = config;
            this.layers = layers;
            this.importance = new Importance(config.beta1(), config.beta2());
        }

        private long total() {
            return layers.values().iterator().next().total[0];
        }

        @Override
        public void beforeTraining(TrainingRun run, long stepsDone) {
            long total = config.totalStep() == 0 ? run.totalSteps() : config.totalStep();
            check(
                    config.tinit() < total - config.tfinal(),
                    "tinit %d and tfinal %d leave none of the %d steps for the budget to fall in; their sum must be below %d",
                    config.tinit(),
                    config.tfinal(),
                    total,
                    total);
            layers.values().iterator().next().total[0] = total;
        }

        @Override
        public void afterUpdate(StepContext step) {
            allocate(step.step() - 1);
        }

        void allocate(long t) {
            long end = total() - config.tfinal();
            try (Grad off = Grad.off();
                    Scope scope = Scope.open()) {
                long init = layers.values().stream()
                        .mapToLong(each -> each.e.tensor().numel())
                        .sum();
                long target = Math.min(init, (long) config.targetR() * layers.size());
                if (t < end) {
                    layers.forEach(this::observe);
                    if (t > config.tinit() && t % config.deltaT() == 0) {
                        mask(init - config.budget(t, total(), init, target));
                    }
                } else if (t == end) {
                    mask(init - target);
                    layers.forEach((path, each) ->
                            frozen.put(path, each.e.tensor().detach().ne(0).keep()));
                    importance.reset();
                } else {
                    frozen.forEach((path, stays) ->
                            Objects.requireNonNull(layers.get(path)).keep(stays));
                }
            }
        }

        private void observe(String path, Adalora layer) {
            layer.parameters().forEach((leaf, p) -> {
                Tensor gradient = p.tensor().grad();
                if (gradient != null) {
                    importance.observe(
                            path + "." + leaf, p.tensor().detach().mul(gradient).abs());
                }
            });
        }

        /** Zeroes E wherever the score is not above the {@code gone}-th smallest of all layers. */
        private void mask(long gone) {
            if (gone == 0) {
                return;
            }
            Map<String, Tensor> scores = new LinkedHashMap<>(); // [r] each
            layers.forEach((path, layer) -> scores.put(
                    path,
                    importance
                            .score(path + ".lora_E")
                            .reshape(-1)
                            .add(importance.score(path + ".lora_A").mean(1, false))
                            .add(importance.score(path + ".lora_B").mean(0, false))));
            double[] sorted = Tensor.cat(List.copyOf(scores.values()), 0).doubles();
            Arrays.sort(sorted);
            double threshold = sorted[(int) gone - 1];
            scores.forEach((path, score) -> Objects.requireNonNull(layers.get(path))
                    .keep(score.gt(threshold).unsqueeze(1)));
        }

        @Override
        public Map<String, Tensor> state() {
            Map<String, Tensor> all = new LinkedHashMap<>(importance.state());
            frozen.forEach((path, stays) -> all.put("stays." + path, stays));
            return all;
        }

        @Override
        public void load(TrainingRun run, Map<String, Tensor> state) {
            importance.load(state);
            layers.keySet().forEach(path -> {
                Tensor stays = state.get("stays." + path);
                if (stays != null) {
                    frozen.put(path, stays.clone().keep());
                }
            });
        }
    }

    private final Parameter a; // A [r, in]
    private final Parameter e; // E [r, 1]
    private final Parameter b; // B [out, r]
    private final double scale; // c
    private final double dropout;
    private final long[] total; // steps, known once a training has begun; the layers have it in common

    private Adalora(Config config, long[] total, Site site, Seed seed) {
        check(
                !(site.layer() instanceof Embedding),
                "adalora is for linear layers, and %s is an embedding; take it out of target_modules",
                site.path());
        List<Boolean> pattern = config.rankPattern().get(site.path() + ".lora_E");
        long r = pattern == null
                ? config.initR()
                : pattern.stream().filter(left -> left).count();
        this.scale = (config.alpha() > 0 ? config.alpha() : config.initR()) / (config.initR() + 1e-5);
        this.dropout = config.dropout();
        this.total = total;
        DType wide = site.layer().dtype() == DType.FLOAT64 ? DType.FLOAT64 : DType.FLOAT32;
        Seed here = seed.named(site.path());
        try (Scope scope = Scope.open();
                Generator forA = here.named("lora_A").generator();
                Generator forB = here.named("lora_B").generator()) {
            a = parameter(forA.normal(0, 0.02, r, site.layer().inFeatures()).to(wide), site);
            e = parameter(Tensor.zeros(wide, r, 1), site);
            b = parameter(forB.normal(0, 0.02, site.layer().outFeatures(), r).to(wide), site);
        }
    }

    private static Parameter parameter(Tensor value, Site site) {
        Parameter p =
                new Parameter(value.to(site.layer().weightParameter().tensor().device()));
        p.trainable(value.numel() > 0); // a layer may have no rank left
        return p;
    }

    /** Zeroes E wherever {@code stays} [r, 1] is false. */
    private void keep(Tensor stays) {
        Tensor value = e.tensor().detach();
        value.copy_(value.maskedFill(stays.logicalNot(), 0));
    }

    /** Numbers of the triplets whose E is not zero, int64. */
    private Tensor left() {
        return e.tensor().detach().reshape(-1).ne(0).nonzero().reshape(-1);
    }

    @Override
    public Tensor forward(Tensor x, Base base) {
        return Base.onRows(x, rows -> {
            Tensor y = base.forward(rows); // [n, out]
            DType dtype = y.dtype();
            Tensor dropped = dropout > 0 ? rows.dropout(dropout, base.layer().isTraining()) : rows;
            Tensor down =
                    dropped.linear(a.tensor(), null).mul(e.tensor().to(dtype).t()); // [n, r]
            return y.addmm_(down, b.tensor().to(dtype).t(), scale);
        });
    }

    @Override
    public LoraFactors toLora() {
        return new LoraFactors(a.tensor().mul(e.tensor()), b.tensor(), scale, null);
    }

    @Override
    public Map<String, Parameter> parameters() {
        Map<String, Parameter> named = new LinkedHashMap<>();
        named.put("lora_A", a);
        named.put("lora_B", b);
        named.put("lora_E", e);
        return named;
    }
}
