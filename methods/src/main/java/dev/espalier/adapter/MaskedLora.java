package dev.espalier.adapter;

import dev.espalier.io.Fields;
import dev.espalier.nn.Parameter;
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
 * A LoRA whose product is zero wherever the weight was when it was attached, so that a pruned layer stays as sparse as it is.
 *
 * <p>Zhang et al., <i>Train Small, Infer Large: Memory-Efficient LoRA Training for Large Language Models</i>, ICLR 2025,
 * arXiv:2502.13533, section 3, for weights that are pruned without structure; SQFT (arXiv:2410.03750) has the same.
 *
 * <pre>{@code
 * y = x (W + s (B A) ∘ M)ᵀ + b,    M = 1 where W ≠ 0,    s = lora_alpha / r
 * x [.., in]    W, M [out, in]    A [r, in]    B [out, r]    y [.., out]
 * }</pre>
 *
 * <p>M is kept with the factors, so that what was trained on pruned weights says the same on whole ones ({@code export --to
 * whole}). The product [out, in] is formed in each pass; its rank is above r. Checked by hand derivation.
 */
public final class MaskedLora implements Adapter, Mergeable {

    /**
     * Settings.
     *
     * @param r rank, at least 1
     * @param alpha [lora_alpha] numerator of the scale, above 0
     * @param dropout [lora_dropout] in [0, 1)
     */
    public record Config(int r, double alpha, double dropout) {

        /** LoRAM's. */
        public static final Config DEFAULT = new Config(8, 16, 0.05);

        /** Checks ranges. */
        public Config {
            Lora.Config.of(r, alpha).withDropout(dropout);
        }
    }

    /** How it is set up, read and written. */
    public static final class Type implements AdapterType<Config> {

        @Override
        public About about() {
            return new About(
                    "masked-lora",
                    "adapter",
                    "a LoRA that leaves the zeros of a pruned weight zero",
                    "Zhang et al., Train Small, Infer Large: Memory-Efficient LoRA Training for Large Language Models,"
                            + " arXiv:2502.13533",
                    """
                    y = x (W + s (B A) ∘ M)ᵀ + b,  M = 1 where W ≠ 0,  s = lora_alpha / r
                    W, M [out, in] frozen, A [r, in] and B [out, r] trained: r (in + out) parameters a layer""",
                    "a base that loram or prune-2-4 has masked; any optimizer; linear layers only",
                    "A, B and M of each layer, of our own type (ESPALIER_MASKED_LORA); export --to lora by a rank, with its error",
                    true);
        }

        @Override
        public Map<String, String> meanings() {
            return Map.of(
                    "r", "rank, 1 to the layer's smaller width",
                    "lora_alpha", "numerator of the scale s, above 0",
                    "lora_dropout", "share of the input dropped in training, in [0, 1)");
        }

        @Override
        public String peftType() {
            return "ESPALIER_MASKED_LORA";
        }

        @Override
        public Config read(Fields f) {
            Config usual = Config.DEFAULT;
            return new Config(
                    f.integer("r", usual.r()),
                    f.number("lora_alpha", usual.alpha()),
                    f.number("lora_dropout", usual.dropout()));
        }

        @Override
        public Map<String, @Nullable Object> write(Config config) {
            Map<String, @Nullable Object> json = new LinkedHashMap<>();
            json.put("r", config.r());
            json.put("lora_alpha", config.alpha());
            json.put("lora_dropout", config.dropout());
            return json;
        }

        @Override
        public void check(Config config, List<Site> sites) {
            Lora.Config.of(config.r(), config.alpha()).fit(sites);
        }

        @Override
        public boolean changesAnyBaseAlike() {
            return true;
        }

        @Override
        public Made create(Config config, List<Site> sites, Seed seed) {
            return Made.each(sites, site -> new MaskedLora(config, site, seed));
        }
    }

    private final Factors factors;
    private final Parameter mask; // M [out, in] uint8

    private MaskedLora(Config config, Site site, Seed seed) {
        site.linear("masked-lora");
        factors = new Factors(config.r(), config.alpha() / config.r(), config.dropout(), site, seed);
        try (Grad off = Grad.off();
                Scope scope = Scope.open()) {
            mask = new Parameter(site.layer().weight().ne(0).to(DType.UINT8).contiguous());
        }
    }

    /** s (B A) ∘ M [out, in]. */
    private Tensor change() {
        Tensor product = factors.factors().product();
        return product.mul(mask.tensor().to(product.dtype()));
    }

    @Override
    public Tensor forward(Tensor x, Base base) {
        return Base.onRows(x, rows -> {
            Tensor y = base.forward(rows); // [n, out]
            Tensor dropped = factors.dropped(rows, base);
            return y.add_(dropped.linear(change().to(y.dtype()), null));
        });
    }

    @Override
    public Base.Affine merge(Base.Affine base) {
        return new Base.Affine(base.weight().add(change()), base.bias());
    }

    @Override
    public Map<String, Parameter> parameters() {
        Map<String, Parameter> all = factors.named();
        all.put("mask", mask);
        return all;
    }
}
