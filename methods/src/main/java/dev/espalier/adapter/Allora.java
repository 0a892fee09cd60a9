package dev.espalier.adapter;

import static dev.espalier.Check.check;

import dev.espalier.io.Fields;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import dev.espalier.train.Callback;
import dev.espalier.train.StepContext;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/**
 * ALLoRA: a LoRA without scale and dropout, whose outputs learn the faster the less they have been changed yet.
 *
 * <p>Huang, Balestriero, <i>ALLoRA: Adaptive Learning Rate Mitigates LoRA Fatal Flaws</i>, arXiv:2410.09692, section 4.
 *
 * <pre>{@code
 * y = x Wᵀ + b + (x Aᵀ) Bᵀ
 * c_i = 1 / √(‖(B A)_i‖ + 1/η²)                         a constant in each pass, η at the start
 * ∂L/∂A = Bᵀ diag(c) g,   ∂L/∂B = diag(c) g Aᵀ,   g = ∂L/∂(B A);   ∂L/∂x without c
 * x [.., in]    W [out, in]    A [rank, in]    B [out, rank]    c [out]    y [.., out]
 * }</pre>
 *
 * <p>The passes are ordinary ones: with z = c ∘ ((x̄ Aᵀ) Bᵀ) the branch is (x Āᵀ) B̄ᵀ + (z - z̄), where a bar means that no
 * gradient passes. Under Adam, which a constant factor of a gradient does not touch, the first step is that of a LoRA at the base
 * rate and not at η times it, as with plain descent; {@code update_rows} (ours, not the paper's) multiplies B's updates by c
 * instead of its gradients, so that the rate of a row is what the paper means it to be. What the output-dependent variant takes as
 * a constant is our reading ({@code variant}). Checked by hand derivation; no code has been published.
 */
public final class Allora implements OnFactors {

    /** What the factor depends on. */
    public enum Variant {
        /** The rows of B A, as published. */
        ROWS,
        /** Each output of each token: 1 / √(|f_i(x)| + 1/η²), of the paper's ablation. */
        OUTPUTS
    }

    /**
     * ALLoRA's settings.
     *
     * @param r rank, at least 1
     * @param eta2 [eta_squared] η², square of the largest gain, above 0
     * @param dropout [lora_dropout] in [0, 1); the method has none
     * @param variant what the factor depends on
     * @param updateRows [update_rows] whether c multiplies B's updates instead of its gradients
     */
    public record Config(int r, double eta2, double dropout, Variant variant, boolean updateRows) {

        /** The paper's listing, without dropout. */
        public static final Config DEFAULT = new Config(16, 4, 0, Variant.ROWS, false);

        /** Checks ranges. */
        public Config {
            Lora.Config.of(r, 1).withDropout(dropout);
            check(eta2 > 0 && Double.isFinite(eta2), "eta_squared must be above 0 and finite, found %s; try 4", eta2);
            check(
                    !updateRows || variant == Variant.ROWS,
                    "update_rows multiplies rows of B, and the variant outputs has a factor for each token; use variant rows");
        }
    }

    /** How ALLoRA is set up, read and written. */
    public static final class Type implements AdapterType<Config> {

        @Override
        public About about() {
            return new About(
                    "allora",
                    "adapter",
                    "a LoRA without scale and dropout whose outputs learn the faster the less they have changed",
                    "Huang, Balestriero, ALLoRA: Adaptive Learning Rate Mitigates LoRA Fatal Flaws, arXiv:2410.09692",
                    """
                    y = x Wᵀ + b + (x Aᵀ) Bᵀ,  gradients of output i times c_i = 1 / √(‖(B A)_i‖ + 1/η²)
                    A [r, in] and B [out, r] trained: r (in + out) parameters a layer; under Adam the first steps are LoRA's""",
                    "any optimizer, any initializer, trained heads and biases; linear layers only",
                    "A and B of each layer, of our own type (ALLORA); export --to lora is exact (lora_alpha = r)",
                    true);
        }

        @Override
        public Map<String, String> meanings() {
            return Map.of(
                    "r", "rank, 1 to the layer's smaller width",
                    "eta_squared", "η², square of the largest gain of a gradient, above 0; 1, 2 or 4 in the paper",
                    "lora_dropout", "share of the input dropped in training, in [0, 1); the paper's ablation has 0.05",
                    "variant",
                            "what the factor depends on: rows (of B A, as published) or outputs (our reading of ALLoRA-OD)",
                    "update_rows", "multiply B's updates by c instead of its gradients, which Adam undoes; ours");
        }

        @Override
        public String peftType() {
            return "ALLORA";
        }

        @Override
        public Config read(Fields f) {
            Config usual = Config.DEFAULT;
            return new Config(
                    f.integer("r", usual.r()),
                    f.number("eta_squared", usual.eta2()),
                    f.number("lora_dropout", usual.dropout()),
                    f.choice("variant", usual.variant()),
                    f.bool("update_rows", usual.updateRows()));
        }

        @Override
        public Map<String, @Nullable Object> write(Config config) {
            Map<String, @Nullable Object> json = new LinkedHashMap<>();
            json.put("r", config.r());
            json.put("eta_squared", config.eta2());
            json.put("lora_dropout", config.dropout());
            json.put("variant", config.variant().name().toLowerCase(java.util.Locale.ROOT));
            json.put("update_rows", config.updateRows());
            json.put("bias", "none");
            return json;
        }

        @Override
        public void check(Config config, List<Site> sites) {
            Lora.Config.of(config.r(), config.r()).fit(sites);
        }

        @Override
        public Made create(Config config, List<Site> sites, Seed seed) {
            return Made.each(sites, site -> new Allora(config, site, seed));
        }

        @Override
        public Parts parts(Config config, Attached adapter, Seed seed) {
            if (!config.updateRows()) {
                return Parts.NONE;
            }
            List<Allora> layers = adapter.made().adapters().values().stream()
                    .map(Allora.class::cast)
                    .toList();
            return Parts.of(new Rows(layers));
        }
    }

    /** Multiplies the rows of each update of B by what c was before it. */
    private record Rows(List<Allora> layers, List<Tensor> before) implements Callback {

        Rows(List<Allora> layers) {
            this(layers, new ArrayList<>());
        }

        @Override
        public void afterBackward(StepContext step) {
            layers.forEach(each -> before.add(each.b().tensor().detach().clone().keep()));
        }

        @Override
        public void afterUpdate(StepContext step) {
            for (int i = 0; i < layers.size(); i++) {
                Allora layer = layers.get(i);
                Tensor now = layer.b().tensor().detach();
                Tensor moved = now.sub(before.get(i)); // [out, r]
                now.copy_(before.get(i)); // c is that of the row as it was
                now.add_(moved.mul(layer.rowFactors().unsqueeze(1)));
                before.get(i).close();
            }
            before.clear();
        }
    }

    private final Config config;
    private final Factors factors;

    /** ALLoRA on one layer, its tensors drawn as those of a LoRA. */
    Allora(Config config, Site site, Seed seed) {
        this.config = config;
        site.linear("allora");
        factors = new Factors(config.r(), 1, config.dropout(), site, seed);
    }

    @Override
    public Tensor forward(Tensor x, Base base) {
        return Base.onRows(x, rows -> {
            Tensor y = base.forward(rows); // [n, out]
            Tensor dropped = factors.dropped(rows, base);
            Tensor a = a().tensor();
            Tensor b = b().tensor();
            Tensor through = dropped.linear(a.detach(), null)
                    .matmul(b.detach().to(y.dtype()).t()); // [n, out]
            if (!Grad.isOn()) { // nobody learns from this pass
                return y.add_(through);
            }
            Tensor z = dropped.detach().linear(a, null).matmul(b.to(y.dtype()).t()); // [n, out]
            z = z.mul(factor(z).to(y.dtype()));
            return y.add_(through).add_(z.sub(z.detach()));
        });
    }

    /** c [out], or [n, out] for outputs: a constant. */
    private Tensor factor(Tensor z) {
        if (config.updateRows()) {
            return Tensor.scalar(1, z.dtype());
        }
        return config.variant() == Variant.ROWS ? rowFactors() : gain(z.detach().abs());
    }

    /** c_i = 1 / √(‖(B A)_i‖ + 1/η²) [out], without the product: ‖(B A)_i‖² = (B (A Aᵀ)) ∘ B summed over a row. */
    Tensor rowFactors() {
        try (Grad off = Grad.off();
                Scope scope = Scope.open()) {
            Tensor a = a().tensor();
            Tensor b = b().tensor();
            Tensor squares = b.matmul(a.matmul(a.t())).mul(b).sum(1, false); // [out]
            return scope.promote(gain(squares.relu().sqrt()));
        }
    }

    private Tensor gain(Tensor size) {
        DType wide = size.dtype() == DType.FLOAT64 ? DType.FLOAT64 : DType.FLOAT32;
        return size.to(wide).add(1 / config.eta2()).rsqrt();
    }

    @Override
    public Factors factors() {
        return factors;
    }
}
