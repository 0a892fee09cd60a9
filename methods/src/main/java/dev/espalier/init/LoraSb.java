package dev.espalier.init;

import static dev.espalier.Check.check;

import dev.espalier.adapter.Attached;
import dev.espalier.adapter.Calibration;
import dev.espalier.adapter.Initializer;
import dev.espalier.adapter.LayerSampler;
import dev.espalier.adapter.LoraXs;
import dev.espalier.adapter.Method;
import dev.espalier.adapter.Site;
import dev.espalier.io.Fields;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Svd;
import dev.espalier.tensor.Tensor;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/**
 * LoRA-SB: LoRA-XS that begins one approximate step of full fine-tuning ahead.
 *
 * <p>Ponkshe, Singhal et al., <i>Initialization using Update Approximation is a Silver Bullet for Extremely Efficient Low-Rank
 * Fine-Tuning</i>, arXiv:2411.19557, algorithm 1.
 *
 * <pre>{@code
 * G = -eta0 sign(Σ dL/dW) over a few batches ≈ U_r Σ_r V_rᵀ,   B = U_r,   A = V_rᵀ,   R = Σ_r / s,   y = x (W + s B R A)ᵀ + b
 * W, G [out, in]    A [r, in]    B [out, r]    R [r, r]
 * }</pre>
 *
 * <p>G is what the first step of AdamW would add, and unlike other starts this one is meant to change the function. Departures:
 * the authors leave R = Σ_r whatever s is, and round the frames to bfloat16; gradients are taken without dropout; batches are
 * whole and count alike, where the authors cut the last one and divide each by its size. eta0 is a setting of its own: the
 * default is the first rate of their arithmetic recipe, 1e-4 / (0.02 · 1563 steps). Checked against the authors' code (37b33d4).
 */
public final class LoraSb implements Initializer {

    /**
     * LoRA-SB's settings.
     *
     * @param batches training batches that the update is estimated on, at least 1
     * @param eta0 size of each entry of the update, positive
     * @param svd how its singular vectors are found
     */
    public record Config(int batches, double eta0, Svd svd) {

        /** About the authors' 50 samples, in batches of 8. */
        public static final Config DEFAULT = new Config(7, 3.2e-6, Svd.EXACT);

        /** Checks the ranges. */
        public Config {
            check(batches >= 1, "batches must be at least 1, found %d; try 7", batches);
            check(eta0 > 0 && Double.isFinite(eta0), "eta0 must be positive and finite, found %s; try 3.2e-6", eta0);
        }
    }

    private final Config config;

    /** With the usual settings. */
    public LoraSb() {
        this(Config.DEFAULT);
    }

    /** With settings. */
    public LoraSb(Config config) {
        this.config = config;
    }

    @Override
    public About about() {
        return new About(
                "lora-sb",
                "initializer",
                "LoRA-XS that begins one approximate step of full fine-tuning ahead",
                "Ponkshe, Singhal et al., Initialization using Update Approximation is a Silver Bullet for Extremely Efficient"
                        + " Low-Rank Fine-Tuning, arXiv:2411.19557",
                """
                G = -eta0 sign(Σ dL/dW) [out, in] over a few batches ≈ U_r Σ_r V_rᵀ,  B = U_r,  A = V_rᵀ,  R = Σ_r / s
                y = x (W + s B R A)ᵀ + b,  A and B frozen, R [r, r] trained""",
                "lora-xs alone; any optimizer, without weight decay; not with a layer sampler; needs training data",
                "A, B and R of each layer; exactly a plain LoRA with B R for B",
                true);
    }

    @Override
    public Map<String, String> meanings() {
        return Map.of(
                "batches", "training batches that the update is estimated on, at least 1; all there are if fewer",
                "eta0", "size of each entry of the update, above 0: the learning rate at the first step of the warm-up",
                "svd", "exact, or randomised with r + 10 probes for layers wider than a thousand or so");
    }

    @Override
    public List<Fields.Field> fields() {
        return Fields.askedBy(LoraSb::read);
    }

    @Override
    public @Nullable Initializer named(String name) {
        return name.equals("lora-sb") ? this : null;
    }

    @Override
    public boolean isRepeatable() {
        return false; // needs the data
    }

    @Override
    public Initializer configured(Fields f) {
        return new LoraSb(read(f));
    }

    private static Config read(Fields f) {
        Config usual = Config.DEFAULT;
        return new Config(
                f.integer("batches", usual.batches()), f.number("eta0", usual.eta0()), f.choice("svd", usual.svd()));
    }

    @Override
    public String adapter() {
        return "lora-xs";
    }

    /** The paper's rank for language models. */
    @Override
    public Map<String, Object> adapterDefaults() {
        return Map.of("r", 96);
    }

    @Override
    public @Nullable String objection(Method other) {
        return other instanceof LayerSampler<?>
                ? "its start is one step of all layers together, and a layer sampler would leave most of them standing there; use it with lora-xs alone"
                : null;
    }

    @Override
    public void initialize(Attached adapter, Calibration calibration, Seed seed) {
        List<Site> sites = adapter.sites();
        sites.forEach(site -> LoraXs.on(adapter, site, "lora-sb"));
        Map<String, Tensor> gradients = WeightGradients.sum("LoRA-SB", sites, calibration, config.batches());
        try (Grad off = Grad.off()) {
            for (Site site : sites) {
                try (Scope scope = Scope.open()) {
                    LoraXs xs = LoraXs.on(adapter, site, "lora-sb");
                    Tensor sum = gradients.get(site.path());
                    Tensor update = sum == null ? site.layer().weight().zerosLike() : update(sum, config.eta0());
                    long r = xs.toLora().rank();
                    List<Tensor> svd = LoraXs.leading(config.svd(), update, r, seed.named(site.path()));
                    Tensor diagonal = Tensor.eye(r, svd.get(1).dtype())
                            .to(update.device())
                            .mul(svd.get(1).div(xs.scale()));
                    xs.start(svd.get(2), svd.get(0), diagonal);
                }
            }
        }
    }

    /** -eta0 sign(sum), float32 at least; 0 where the sum is. */
    static Tensor update(Tensor sum, double eta0) {
        return sum.sign()
                .to(sum.dtype() == DType.FLOAT64 ? DType.FLOAT64 : DType.FLOAT32)
                .mul(-eta0);
    }
}
