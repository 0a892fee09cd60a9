package dev.espalier.init;

import static dev.espalier.Check.check;

import dev.espalier.adapter.Attached;
import dev.espalier.adapter.Calibration;
import dev.espalier.adapter.Initializer;
import dev.espalier.adapter.LowRank;
import dev.espalier.adapter.Site;
import dev.espalier.io.Fields;
import dev.espalier.tensor.Generator;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Svd;
import dev.espalier.tensor.Tensor;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/**
 * LoRA-GA: LoRA whose first step goes where a full step would go.
 *
 * <p>Wang, Yu, Li, <i>LoRA-GA: Low-Rank Adaptation with Gradient Approximation</i>, arXiv:2407.05000, section 3.
 *
 * <pre>{@code
 * G = dL/dW over a few batches = U S Vᵀ,   A0 = c V[:, :r]ᵀ,   B0 = c U[:, r:2r],   c = out^(1/4) / √gamma
 * y = x (W - s B0 A0 + s B A)ᵀ + b,   s = lora_alpha / √r
 * W, G [out, in]    A, A0 [r, in]    B, B0 [out, r]    2 r <= min(out, in)
 * }</pre>
 *
 * <p>One step of gradient descent then moves the weight by -lr s² c² times the best approximation of G of rank 2r, to first
 * order. Departures: W - s B0 A0 stays in the adapter, so the authors' norm_clip for low precisions is not needed; gradients are
 * taken without dropout; a layer without gradient, and an embedding, start as usual. Start values are checked against the
 * authors' code (commit 89af7de); PEFT's {@code lora_ga} is another formula, and is not meant.
 */
public final class LoraGa implements Initializer {

    private static final int PROBES_PER_RANK = 4; // as the authors' code, with their four power iterations
    private static final int POWER_ITERATIONS = 4;

    /** Which of the 2r leading pairs of singular vectors A takes; B takes the others. */
    public enum Direction {
        /** A the first r. */
        ARB2R,
        /** B the first r. */
        A2RBR,
        /** B the even ones from 0, A the odd ones. */
        ARBR,
        /** Drawn. */
        RANDOM
    }

    /** The length c of the rows of A and the columns of B. */
    public enum Scale {
        /** out^(1/4) / √stable_gamma: activations and gradients keep their size at any rank and width. */
        STABLE,
        /** 1. */
        UNIT,
        /** 1 / s. */
        GD,
        /** The mean of √(σ_i / s) over the r leading singular values of W. */
        WEIGHTS
    }

    /**
     * LoRA-GA's settings.
     *
     * @param batches training batches that the gradient is estimated on, at least 1
     * @param direction who takes which singular vectors
     * @param scale how long they are made
     * @param gamma [stable_gamma] divides the squared length, positive
     * @param svd how they are found
     */
    public record Config(int batches, Direction direction, Scale scale, double gamma, Svd svd) {

        /** The authors' package. */
        public static final Config DEFAULT = new Config(64, Direction.ARB2R, Scale.STABLE, 16, Svd.EXACT);

        /** Checks the ranges. */
        public Config {
            check(batches >= 1, "batches must be at least 1, found %d; try 64", batches);
            check(
                    gamma > 0 && Double.isFinite(gamma),
                    "stable_gamma must be positive and finite, found %s; try 16",
                    gamma);
        }
    }

    private final Config config;

    /** With the authors' settings. */
    public LoraGa() {
        this(Config.DEFAULT);
    }

    /** With settings. */
    public LoraGa(Config config) {
        this.config = config;
    }

    /** Its settings. */
    Config config() {
        return config;
    }

    @Override
    public About about() {
        return new About(
                "lora-ga",
                "initializer",
                "LoRA whose first step goes where a full step would go",
                "Wang, Yu, Li, LoRA-GA: Low-Rank Adaptation with Gradient Approximation, NeurIPS 2024, arXiv:2407.05000",
                """
                G = dL/dW [out, in] over a few batches = U S Vᵀ,  A0 = c V[:, :r]ᵀ,  B0 = c U[:, r:2r],  c = out^(1/4) / √gamma
                y = x (W - s B0 A0 + s B A)ᵀ + b,  s = lora_alpha / √r,  2 r <= min(out, in)""",
                "lora (with use_rslora, which it sets), rslora, dora; any optimizer, without weight decay; needs training data",
                "a plain LoRA of twice the rank, [A; A0] and [B, -B0]",
                true);
    }

    @Override
    public Map<String, String> meanings() {
        return Map.of(
                "batches", "training batches that the gradient is estimated on, at least 1; all there are if fewer",
                "direction",
                        "who takes which of the 2r leading singular vectors: arb2r (A the first r), a2rbr, arbr (in turn) or random",
                "scale", "length of the vectors: stable (out^(1/4) / √gamma), unit, gd (1 / s) or weights (as PiSSA's)",
                "stable_gamma", "divides the squared length in stable, above 0",
                "svd", "exact, or randomised with 4r probes for layers wider than a thousand or so");
    }

    @Override
    public List<Fields.Field> fields() {
        return Fields.askedBy(LoraGa::read);
    }

    @Override
    public @Nullable Initializer named(String name) {
        return name.equals("lora-ga") ? this : null;
    }

    @Override
    public boolean isRepeatable() {
        return false; // needs the data
    }

    @Override
    public Initializer configured(Fields f) {
        return new LoraGa(read(f));
    }

    private static Config read(Fields f) {
        Config usual = Config.DEFAULT;
        return new Config(
                f.integer("batches", usual.batches()),
                f.choice("direction", usual.direction()),
                f.choice("scale", usual.scale()),
                f.number("stable_gamma", usual.gamma()),
                f.choice("svd", usual.svd()));
    }

    /** The paper's s and alpha. */
    @Override
    public Map<String, Object> adapterDefaults() {
        return Map.of("use_rslora", true, "lora_alpha", 16);
    }

    @Override
    public void initialize(Attached adapter, Calibration calibration, Seed seed) {
        List<Site> sites = Starts.sites(adapter);
        for (Site site : sites) {
            long rank = Starts.rank(adapter, site);
            long width = Starts.width(site);
            check(
                    2 * rank <= width,
                    "LoRA-GA needs a rank of at most %d on %s, half its smaller width, found %d; set r or rank_pattern for it",
                    width / 2,
                    site.path(),
                    rank);
        }
        Map<String, Tensor> gradients = WeightGradients.sum("LoRA-GA", sites, calibration, config.batches());
        try (Grad off = Grad.off()) {
            for (Site site : sites) {
                try (Scope scope = Scope.open()) {
                    Tensor g = gradients.get(site.path());
                    if (g != null && g.ne(0).any()) {
                        LowRank lowRank = adapter.lowRank(site.path());
                        long r = lowRank.a().shape()[0];
                        Start start =
                                start(config, g, site.layer().weight(), r, lowRank.scale(), seed.named(site.path()));
                        adapter.start(site.path(), start.a(), start.b());
                    }
                }
            }
        }
    }

    /** A0 [r, in] and B0 [out, r]. */
    record Start(Tensor a, Tensor b) {}

    /** The start for a gradient G and a weight W [out, in], rank r and scale s. */
    static Start start(Config config, Tensor g, Tensor w, long r, double s, Seed seed) {
        long width = Math.min(g.size(0), g.size(1));
        List<Tensor> svd =
                config.svd().of(g, Math.min(PROBES_PER_RANK * r, width), POWER_ITERATIONS, seed.named("lora-ga"));
        Tensor order =
                order(config.direction(), r, seed.named("lora-ga.direction")).to(g.device()); // A's, then B's
        double c = length(config, w, r, s);
        return new Start(
                svd.get(2).indexSelect(0, order.narrow(0, 0, r)).mul(c),
                svd.get(0).indexSelect(1, order.narrow(0, r, r)).mul(c));
    }

    /** Numbers 0 to 2r - 1: the first r are A's. */
    private static Tensor order(Direction direction, long r, Seed seed) {
        Tensor all = Tensor.arange(2 * r);
        return switch (direction) {
            case ARB2R -> all;
            case A2RBR -> all.roll(r, 0);
            case ARBR -> all.reshape(r, 2).t().flip(0).reshape(2 * r); // 1, 3, .., 0, 2, ..
            case RANDOM -> {
                try (Generator generator = seed.generator()) {
                    yield generator.uniform(0, 1, 2 * r).sort(0, false).get(1);
                }
            }
        };
    }

    private static double length(Config config, Tensor w, long r, double s) {
        return switch (config.scale()) {
            case STABLE -> Math.pow((double) w.size(0), 0.25) / Math.sqrt(config.gamma());
            case UNIT -> 1;
            case GD -> 1 / s;
            case WEIGHTS -> {
                long width = Math.min(w.size(0), w.size(1));
                Tensor values = config.svd()
                        .of(w, Math.min(PROBES_PER_RANK * r, width), POWER_ITERATIONS, new Seed(0))
                        .get(1);
                yield values.narrow(0, 0, r).div(s).sqrt().mean().item();
            }
        };
    }
}
