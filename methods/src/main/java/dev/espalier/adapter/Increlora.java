package dev.espalier.adapter;

import static dev.espalier.Check.check;

import dev.espalier.io.Fields;
import dev.espalier.nn.Layer;
import dev.espalier.nn.Parameter;
import dev.espalier.rank.ChangeGradient;
import dev.espalier.rank.GrowingFactors;
import dev.espalier.rank.Growth;
import dev.espalier.rank.Importance;
import dev.espalier.rank.Orthogonality;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/**
 * IncreLoRA: a LoRA of rank 1 that gets more ranks during training where they matter most.
 *
 * <p>Zhang et al., <i>IncreLoRA: Incremental Parameter Allocation Method for Parameter-Efficient Fine-tuning</i>,
 * arXiv:2308.12043.
 *
 * <pre>{@code
 * y = x Wᵀ + b + ((drop(x) Aᵀ) ∘ E) Bᵀ · lora_alpha / (r + 1e-5)
 * loss + orth_reg_weight · mean(‖A Aᵀ - I‖, ‖Bᵀ B - I‖ of all layers)
 * score of a layer = Ī Ū of I = Σ |ΔW ∘ ∂L/∂ΔW| / √(out in)
 * x [.., in]    W [out, in]    A [R, in]    E [R, 1]    B [out, R]    y [.., out]
 * }</pre>
 *
 * <p>Of the R components r are live, the others a reserve that learns ahead at a fixed E of 1e-5. Every {@code interval} steps
 * the reserves of the {@code top_h} best layers go live (their E begins to learn) and get a fresh reserve, until the live ranks
 * are {@code target_r} on average; then, or when training ends, the reserves' E is 0. What comes late has a warm-up of its own.
 * ∂L/∂ΔW is made from the gradient at the layer's output, so that ΔW is not formed in the forward pass, and over all batches of
 * a step. Growth ends when the target is met or passed; the authors' code tests for equality. Checked by hand derivation.
 */
public final class Increlora implements Adapter, LoraExpressible, Growth.Layer {

    /**
     * IncreLoRA's settings.
     *
     * @param initR [init_r] ranks at the start, at least 1
     * @param targetR [target_r] mean of the ranks at the end, at least init_r
     * @param rankStep [rank_step] ranks that a layer gets at a time, at least 1; 0 for half of target_r
     * @param topH [top_h] layers that grow at a time, at least 1; 0 for as many as end growth in the first half of training
     * @param initWarmup [init_warmup] steps before growth, at least 0
     * @param interval steps between growths, at least 1
     * @param beta1 decay of the sensitivity, in (0, 1)
     * @param beta2 decay of its uncertainty, in (0, 1)
     * @param orthRegWeight [orth_reg_weight] weight of the penalty, at least 0
     * @param alpha [lora_alpha] numerator of the scale; the initial rank if it is not positive
     * @param dropout [lora_dropout] in [0, 1)
     * @param advance [advance_learning] whether the reserve learns before it is live
     * @param restartWarmup [restart_warmup] whether what comes late has a schedule of its own, else the full rate to the end
     * @param keepScale [keep_scale] whether the scale stays that of the initial rank
     * @param ranks [rank_pattern] live ranks by path of the layer; others have init_r
     */
    public record Config(
            int initR,
            int targetR,
            int rankStep,
            int topH,
            long initWarmup,
            long interval,
            double beta1,
            double beta2,
            double orthRegWeight,
            double alpha,
            double dropout,
            boolean advance,
            boolean restartWarmup,
            boolean keepScale,
            Map<String, Integer> ranks) {

        /** The authors' scripts for the small tasks. */
        public static final Config DEFAULT =
                new Config(1, 2, 0, 0, 100, 100, 0.85, 0.85, 0.1, 32, 0, true, true, false, Map.of());

        /** Checks ranges. */
        public Config {
            check(initR >= 1, "init_r must be at least 1, found %d; try 1", initR);
            check(
                    targetR >= initR,
                    "target_r must be at least init_r = %d, found %d; try %d",
                    initR,
                    targetR,
                    2 * initR);
            check(
                    rankStep > 0 || (rankStep == 0 && targetR >= 2 && targetR <= 8 && targetR % 2 == 0),
                    "rank_step must be at least 1, found %d; 0 means half of target_r and is for 2, 4, 6 and 8 alone, not %d",
                    rankStep,
                    targetR);
            check(topH >= 0, "top_h must be at least 1, or 0 to have it chosen, found %d", topH);
            check(initWarmup >= 0, "init_warmup must be at least 0, found %d; try 100", initWarmup);
            check(interval >= 1, "interval must be at least 1, found %d; try 100", interval);
            Importance.checkBeta("beta1", beta1);
            Importance.checkBeta("beta2", beta2);
            Orthogonality.checkWeight(orthRegWeight, 0.1);
            check(Double.isFinite(alpha), "lora_alpha must be finite, found %s; try 32", alpha);
            Lora.Config.DEFAULT.withDropout(dropout);
            ranks = Patterns.ranks(ranks);
        }

        Config withRanks(Map<String, Integer> live) {
            return new Config(
                    initR,
                    targetR,
                    rankStep,
                    topH,
                    initWarmup,
                    interval,
                    beta1,
                    beta2,
                    orthRegWeight,
                    alpha,
                    dropout,
                    advance,
                    restartWarmup,
                    keepScale,
                    live);
        }

        /** Ranks that a layer gets at a time. */
        int step() {
            return rankStep == 0 ? targetR / 2 : rankStep;
        }

        Growth.Plan plan() {
            return new Growth.Plan(
                    targetR, step(), topH, initWarmup, interval, beta1, beta2, restartWarmup, orthRegWeight > 0);
        }
    }

    /** How IncreLoRA is set up, read and written. */
    public static final class Type implements AdapterType<Config> {

        @Override
        public About about() {
            return new About(
                    "increlora",
                    "adapter",
                    "a LoRA of rank 1 that gets more ranks during training where they matter most",
                    "Zhang et al., IncreLoRA: Incremental Parameter Allocation Method for Parameter-Efficient Fine-tuning,"
                            + " arXiv:2308.12043",
                    """
                    y = x Wᵀ + b + ((drop(x) Aᵀ) ∘ E) Bᵀ · lora_alpha / (r + 1e-5)
                    A [r, in], E [r, 1], B [out, r] trained: r (in + out + 1) parameters a layer, r = init_r at first""",
                    "optimizers that take on parameters during training, such as adamw; not with patience; linear layers only",
                    "A, E and B of the live ranks of each layer, of our own type (INCRELORA); export --to lora is exact",
                    true);
        }

        @Override
        public Map<String, String> meanings() {
            return Map.ofEntries(
                    Map.entry("init_r", "ranks of each layer at the start, at least 1"),
                    Map.entry("target_r", "mean of the layers' ranks at the end, at least init_r"),
                    Map.entry("rank_step", "ranks that a layer gets at a time, at least 1; 0 for half of target_r"),
                    Map.entry(
                            "top_h",
                            "layers that grow at a time, at least 1; 0: growth ends in the first half of training"),
                    Map.entry("init_warmup", "steps before growth, at least 0"),
                    Map.entry("interval", "steps between growths, at least 1"),
                    Map.entry("beta1", "decay of the mean sensitivity, in (0, 1)"),
                    Map.entry("beta2", "decay of its uncertainty, in (0, 1)"),
                    Map.entry("orth_reg_weight", "weight of the penalty on dependent components, at least 0"),
                    Map.entry("lora_alpha", "numerator of the scale; the initial rank where it is not above 0"),
                    Map.entry("lora_dropout", "share of the input dropped in training, in [0, 1)"),
                    Map.entry("advance_learning", "let components learn before they are live"),
                    Map.entry(
                            "restart_warmup",
                            "a schedule of its own for what comes late, else the full rate to the end"),
                    Map.entry("keep_scale", "keep the initial rank in the scale when ranks grow"),
                    Map.entry("rank_pattern", "live ranks by path of the layer; written by training"));
        }

        @Override
        public String peftType() {
            return "INCRELORA";
        }

        @Override
        public Config read(Fields f) {
            Config usual = Config.DEFAULT;
            return new Config(
                    f.integer("init_r", usual.initR()),
                    f.integer("target_r", usual.targetR()),
                    f.integer("rank_step", usual.rankStep()),
                    f.integer("top_h", usual.topH()),
                    f.longInteger("init_warmup", usual.initWarmup()),
                    f.longInteger("interval", usual.interval()),
                    f.number("beta1", usual.beta1()),
                    f.number("beta2", usual.beta2()),
                    f.number("orth_reg_weight", usual.orthRegWeight()),
                    f.number("lora_alpha", usual.alpha()),
                    f.number("lora_dropout", usual.dropout()),
                    f.bool("advance_learning", usual.advance()),
                    f.bool("restart_warmup", usual.restartWarmup()),
                    f.bool("keep_scale", usual.keepScale()),
                    f.integerMap("rank_pattern", usual.ranks()));
        }

        @Override
        public Map<String, @Nullable Object> write(Config config) {
            Map<String, @Nullable Object> json = new LinkedHashMap<>();
            json.put("init_r", config.initR());
            json.put("target_r", config.targetR());
            json.put("rank_step", config.rankStep());
            json.put("top_h", config.topH());
            json.put("init_warmup", config.initWarmup());
            json.put("interval", config.interval());
            json.put("beta1", config.beta1());
            json.put("beta2", config.beta2());
            json.put("orth_reg_weight", config.orthRegWeight());
            json.put("lora_alpha", config.alpha());
            json.put("lora_dropout", config.dropout());
            json.put("advance_learning", config.advance());
            json.put("restart_warmup", config.restartWarmup());
            json.put("keep_scale", config.keepScale());
            json.put("rank_pattern", config.ranks());
            json.put("bias", "none");
            return json;
        }

        @Override
        public void check(Config config, List<Site> sites) {
            Lora.Config.of(config.initR(), 1).fit(sites);
        }

        @Override
        public Made create(Config config, List<Site> sites, Seed seed) {
            return Made.each(sites, site -> new Increlora(config, site, seed));
        }

        @Override
        public Parts parts(Config config, Attached adapter, Seed seed) {
            Map<String, Increlora> layers = layers(adapter.made());
            return new Parts(
                    List.of(new Growth(config.plan(), layers, path -> Made.key(path, ""))),
                    Orthogonality.terms(config.orthRegWeight(), layers.values(), each -> {
                        GrowingFactors.Parts all = each.factors.all();
                        return List.of(all.a(), all.b().t());
                    }),
                    Map.of());
        }

        /** The live components. */
        @Override
        public Saved<Config> saved(Config config, Made made) {
            Map<String, Tensor> tensors = new LinkedHashMap<>();
            layers(made).forEach((path, each) -> {
                GrowingFactors.Parts live = each.factors.live();
                tensors.put(Made.key(path, "lora_A"), live.a());
                tensors.put(Made.key(path, "lora_B"), live.b());
                tensors.put(Made.key(path, "lora_E"), live.e());
            });
            return new Saved<>(
                    config.withRanks(made.ranks(config.initR(), each -> ((Increlora) each).factors.rank())), tensors);
        }

        private static Map<String, Increlora> layers(Made made) {
            Map<String, Increlora> layers = new LinkedHashMap<>();
            made.adapters().forEach((path, adapter) -> layers.put(path, (Increlora) adapter));
            return layers;
        }
    }

    private final Config config;
    private final GrowingFactors factors;
    private final ChangeGradient gradient;

    private Increlora(Config config, Site site, Seed seed) {
        Layer layer = site.linear("increlora");
        this.config = config;
        DType dtype = layer.dtype() == DType.FLOAT64 ? DType.FLOAT64 : DType.FLOAT32;
        gradient = new ChangeGradient(dtype);
        factors = new GrowingFactors(
                seed.named(site.path()),
                layer.inFeatures(),
                layer.outFeatures(),
                dtype,
                layer.weightParameter().tensor().device(),
                config.ranks().getOrDefault(site.path(), config.initR()),
                config.advance());
    }

    @Override
    public GrowingFactors factors() {
        return factors;
    }

    @Override
    public ChangeGradient gradient() {
        return gradient;
    }

    /** lora_alpha / (r + 1e-5). */
    double scale() {
        double alpha = config.alpha() > 0 ? config.alpha() : config.initR();
        return alpha / ((config.keepScale() ? config.initR() : factors.rank()) + 1e-5);
    }

    @Override
    public Tensor forward(Tensor x, Base base) {
        return Base.onRows(x, rows -> {
            Tensor y = base.forward(rows); // [n, out]
            boolean training = base.layer().isTraining();
            Tensor dropped = config.dropout() > 0 ? rows.dropout(config.dropout(), training) : rows;
            GrowingFactors.Parts all = factors.all();
            Tensor down =
                    dropped.linear(all.a(), null).mul(all.e().to(y.dtype()).t()); // [n, R]
            y.addmm_(down, all.b().to(y.dtype()).t(), scale());
            return training ? gradient.observe(dropped, y) : y;
        });
    }

    /** I = Σ |ΔW ∘ ∂L/∂ΔW| / √(out in), float64, of the passes since it was last asked. */
    @Override
    public Tensor sensitivity() {
        try (Grad off = Grad.off();
                Scope scope = Scope.open()) {
            return scope.promote(gradient.sensitivity(change(factors.all()).product()));
        }
    }

    private LoraFactors change(GrowingFactors.Parts parts) {
        return new LoraFactors(parts.a(), parts.b().mul(parts.e().t()), scale(), null);
    }

    @Override
    public LoraFactors toLora() {
        return change(factors.live());
    }

    @Override
    public Map<String, Parameter> parameters() {
        return factors.named();
    }

    @Override
    public void close() {
        gradient.close();
        Adapter.super.close();
    }
}
