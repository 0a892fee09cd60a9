package dev.espalier.init;

import static dev.espalier.Check.check;

import dev.espalier.adapter.Attached;
import dev.espalier.adapter.Calibration;
import dev.espalier.adapter.Initializer;
import dev.espalier.adapter.LowRank;
import dev.espalier.adapter.Site;
import dev.espalier.io.Fields;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/**
 * FILA: LoRA that starts with what a weight keeps for the data to be forgotten rather than for the data to be retained.
 *
 * <p>Cha et al., <i>Towards Robust and Parameter-Efficient Knowledge Unlearning for LLMs</i>, ICLR 2025, arXiv:2408.06621, section
 * 3.3.
 *
 * <pre>{@code
 * F = F^f / (F^r + eps),   F^f = Σ_b n_b (dL_b/dW)² / Σ_b n_b over batches to be forgotten, F^r likewise to be retained
 * d_i = √(Σ_j F_ij),   diag(d) W = U S Vᵀ
 * A0 = √(S_r / s) V_rᵀ,   B0 = diag(1 / (d + inverse_eps)) U_r √(S_r / s),   y = x (W - s B0 A0 + s B A)ᵀ + b
 * W, F [out, in]    d [out]    A0 [r, in]    B0 [out, r]    L_b a mean over n_b target tokens
 * }</pre>
 *
 * <p>Up to inverse_eps, B0 A0 is the product of rank r that is nearest to W with rows weighted by d². The paper puts W - s B0 A0 in
 * the network; we leave the network alone and keep A0, B0 in the adapter, so that the original model stays at hand. As the authors'
 * code F depends on the batch size (that of {@code train}; 1 is nearest to the Fisher information) and eps outweighs a typical F^r:
 * {@code relative_eps} measures it by F^r itself. We square in float32 and in evaluation mode, and decompose exactly; they use the
 * model's type, training mode, and a randomised decomposition. Checked by derivation in its test.
 */
public final class Fila implements Initializer {

    /**
     * Settings.
     *
     * @param eps added to F^r, above 0
     * @param relativeEps [relative_eps] instead of eps: this share of the mean of F^r, above 0; 0: eps as it is
     * @param inverseEps [inverse_eps] added to d where it divides, at least 0
     */
    public record Config(double eps, double relativeEps, double inverseEps) {

        /** The authors'. */
        public static final Config DEFAULT = new Config(1e-5, 0, 1e-5);

        /** Checks ranges. */
        public Config {
            check(eps > 0 && Double.isFinite(eps), "eps must be above 0 and finite, found %s; try 1e-5", eps);
            check(
                    relativeEps >= 0 && Double.isFinite(relativeEps),
                    "relative_eps must be above 0 and finite, or 0 for none, found %s; try 1e-3",
                    relativeEps);
            check(
                    inverseEps >= 0 && Double.isFinite(inverseEps),
                    "inverse_eps must be at least 0 and finite, found %s; try 1e-5",
                    inverseEps);
        }
    }

    private final Config config;

    /** With the authors' settings. */
    public Fila() {
        this(Config.DEFAULT);
    }

    /** With settings. */
    public Fila(Config config) {
        this.config = config;
    }

    @Override
    public About about() {
        return new About(
                "fila",
                "initializer",
                "LoRA that starts with what a weight keeps for the data to be forgotten",
                "Cha et al., Towards Robust and Parameter-Efficient Knowledge Unlearning for LLMs, arXiv:2408.06621",
                """
                F = F^f / (F^r + eps) [out, in],  d = √(row sums of F),  diag(d) W = U S Vᵀ
                A0 = √(S_r / s) V_rᵀ,  B0 = diag(1 / d) U_r √(S_r / s),  y = x (W - s B0 A0 + s B A)ᵀ + b""",
                "lora, rslora, dora; any optimizer; needs data to forget and data to retain",
                "a plain LoRA of twice the rank, [A; A0] and [B, -B0]",
                true);
    }

    @Override
    public String verb() {
        return "unlearn";
    }

    @Override
    public Map<String, String> meanings() {
        return Map.of(
                "eps", "added to the Fisher information of what is retained, above 0",
                "relative_eps", "instead of eps: this share of its mean, above 0; 0 for eps as it is",
                "inverse_eps", "added to the row weights where they divide, at least 0");
    }

    @Override
    public List<Fields.Field> fields() {
        return Fields.askedBy(Fila::read);
    }

    @Override
    public @Nullable Initializer named(String name) {
        return name.equals("fila") ? this : null;
    }

    @Override
    public boolean isRepeatable() {
        return false; // needs the data
    }

    @Override
    public Initializer configured(Fields f) {
        return new Fila(read(f));
    }

    private static Config read(Fields f) {
        Config usual = Config.DEFAULT;
        return new Config(
                f.number("eps", usual.eps()),
                f.number("relative_eps", usual.relativeEps()),
                f.number("inverse_eps", usual.inverseEps()));
    }

    @Override
    public void initialize(Attached adapter, Calibration calibration, Seed seed) {
        Calibration kept = calibration.retained();
        check(
                calibration.batches() > 0 && kept.batches() > 0,
                "FILA weighs data to be forgotten against data to be retained, and there are none; unlearn by a recipe with task.forget and task.retain");
        List<Site> sites = Starts.sites(adapter);
        sites.forEach(site -> Starts.checkRank("FILA", adapter, site));
        try (Scope all = Scope.open()) {
            long batches = calibration.batches(); // as many of what is retained, from the start again if they are fewer
            Map<String, Tensor> forget = WeightGradients.squares("FILA", sites, calibration, batches);
            Map<String, Tensor> retain = WeightGradients.squares("FILA", sites, kept, batches);
            for (Site site : sites) {
                try (Grad off = Grad.off();
                        Scope scope = Scope.open()) {
                    Tensor f = forget.get(site.path());
                    Tensor r = retain.get(site.path());
                    if (f == null || r == null || !f.ne(0).any()) {
                        continue; // the loss does not depend on it: it starts as usual
                    }
                    LowRank lowRank = adapter.lowRank(site.path());
                    Start start = start(
                            site.layer().weight(),
                            relative(f, r),
                            lowRank.a().shape()[0],
                            lowRank.scale(),
                            config.inverseEps());
                    adapter.start(site.path(), start.a(), start.b());
                }
            }
        }
    }

    /** F [out, in]. */
    private Tensor relative(Tensor forget, Tensor retain) {
        Tensor wide = retain.to(DType.FLOAT64);
        double eps =
                config.relativeEps() > 0 ? config.relativeEps() * wide.mean().item() : config.eps();
        return forget.to(DType.FLOAT64).div(wide.add(eps));
    }

    /** A0 [r, in], B0 [out, r]. */
    record Start(Tensor a, Tensor b) {}

    /** The start from a weight [out, in] and F [out, in]. */
    static Start start(Tensor weight, Tensor f, long r, double scale, double inverseEps) {
        Tensor d = f.sum(1, true).sqrt(); // [out, 1]: rows are outputs
        List<Tensor> svd = weight.to(DType.FLOAT64).mul(d).svd();
        Tensor root = svd.get(1).narrow(0, 0, r).div(scale).sqrt(); // √(S_r / s)
        Tensor a = svd.get(2).narrow(0, 0, r).mul(root.unsqueeze(1));
        Tensor b = svd.get(0).narrow(1, 0, r).mul(root).div(d.add(inverseEps));
        return new Start(a, b);
    }
}
