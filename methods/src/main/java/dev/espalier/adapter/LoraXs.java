package dev.espalier.adapter;

import static dev.espalier.Check.check;

import dev.espalier.io.Fields;
import dev.espalier.nn.Embedding;
import dev.espalier.nn.Parameter;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Generator;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Svd;
import dev.espalier.tensor.Tensor;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/**
 * LoRA-XS: a small trained matrix between two frozen frames.
 *
 * <p>Bałazy, Banaei, Aberer, Tabor, <i>LoRA-XS: Low-Rank Adaptation with Extremely Small Number of Parameters</i>,
 * arXiv:2405.17604, section 3.
 *
 * <pre>{@code
 * y = x Wᵀ + b + s ((drop(x) Aᵀ) Rᵀ) Bᵀ,    s = lora_alpha / r,    W ≈ U_r Σ_r V_rᵀ,   A = Σ_r V_rᵀ,   B = U_r
 * x [.., in]    W [out, in]    A [r, in] and B [out, r] frozen    R [r, r] trained    y [.., out]
 * }</pre>
 *
 * <p>R starts at N(0, sigma²). The paper writes x A R B with other orientations; this is its code's. Saved are A and B too, for
 * whoever finds them anew by a decomposition may find other signs, and R goes with these. The forward pass is checked against the
 * authors' code of LoRA-SB (37b33d4), which has it; the start by its singular values.
 */
public final class LoraXs implements Adapter, LoraExpressible {

    private static final int OVERSAMPLING = 10;
    private static final int POWER_ITERATIONS = 10;

    /**
     * LoRA-XS's settings.
     *
     * @param r rank, at least 1
     * @param alpha [lora_alpha] numerator of the scale, positive
     * @param dropout [lora_dropout] in [0, 1)
     * @param sigma standard deviation of R at the start, at least 0
     * @param svd how the weight is decomposed
     * @param initWeights [init_weights] whether A and B start from the weight; in files false, for the file has them
     */
    public record Config(int r, double alpha, double dropout, double sigma, Svd svd, boolean initWeights) {

        /** The paper's for mathematics, where alpha is r. */
        public static final Config DEFAULT = of(64);

        /** Checks the ranges. */
        public Config {
            check(r >= 1, "r must be at least 1, found %d; try 64", r);
            check(
                    alpha > 0 && Double.isFinite(alpha),
                    "lora_alpha must be positive and finite, found %s; try the rank",
                    alpha);
            check(dropout >= 0 && dropout < 1, "lora_dropout must lie in [0, 1), found %s; try 0", dropout);
            check(
                    sigma >= 0 && Double.isFinite(sigma),
                    "sigma must be at least 0 and finite, found %s; try 1e-5",
                    sigma);
        }

        /** Some rank, with s = 1. */
        public static Config of(int r) {
            return new Config(r, r, 0, 1e-5, Svd.EXACT, true);
        }

        /** The same with another alpha. */
        public Config withAlpha(double value) {
            return new Config(r, value, dropout, sigma, svd, initWeights);
        }
    }

    /** How LoRA-XS is set up, read, written and started. */
    public static final class Type implements AdapterType<Config>, Initializer {

        @Override
        public About about() {
            return new About(
                    "lora-xs",
                    "adapter",
                    "a small trained matrix between two frozen frames",
                    "Bałazy et al., LoRA-XS: Low-Rank Adaptation with Extremely Small Number of Parameters, arXiv:2405.17604",
                    """
                    y = x Wᵀ + b + s ((drop(x) Aᵀ) Rᵀ) Bᵀ,  s = lora_alpha / r,  A = Σ_r V_rᵀ and B = U_r of W, frozen
                    A [r, in], B [out, r], R [r, r] trained: r² parameters a layer, whatever its width""",
                    "any optimizer, lora-sb as its initializer, modules_to_save; not for embeddings",
                    "A, B and R of each layer; exactly a plain LoRA with B R for B",
                    true);
        }

        @Override
        public Map<String, String> meanings() {
            return Map.of(
                    "r", "rank, 1 to the layer's smaller width",
                    "lora_alpha", "numerator of the scale s, above 0; the rank if not given, so that s = 1",
                    "lora_dropout", "share of the input dropped in training, in [0, 1)",
                    "sigma", "standard deviation of R at the start, at least 0",
                    "svd", "exact, or randomised for layers wider than a thousand or so",
                    "init_weights", "true: A and B start from the weight; false in files, which hold them");
        }

        @Override
        public List<Fields.Field> fields() {
            return AdapterType.super.fields();
        }

        @Override
        public String peftType() {
            return "LORA_XS";
        }

        @Override
        public Config read(Fields f) {
            Config usual = Config.DEFAULT;
            int r = f.integer("r", usual.r());
            return new Config(
                    r,
                    f.number("lora_alpha", r),
                    f.number("lora_dropout", usual.dropout()),
                    f.number("sigma", usual.sigma()),
                    f.choice("svd", usual.svd()),
                    f.bool("init_weights", usual.initWeights()));
        }

        @Override
        public Map<String, @Nullable Object> write(Config config) {
            Map<String, @Nullable Object> json = new LinkedHashMap<>();
            json.put("r", config.r());
            json.put("lora_alpha", config.alpha());
            json.put("lora_dropout", config.dropout());
            json.put("sigma", config.sigma());
            json.put("svd", config.svd().name().toLowerCase(java.util.Locale.ROOT));
            json.put("init_weights", config.initWeights());
            json.put("bias", "none");
            return json;
        }

        @Override
        public Saved<Config> saved(Config c, Made made) {
            return new Saved<>(new Config(c.r(), c.alpha(), c.dropout(), c.sigma(), c.svd(), false), made.tensors());
        }

        @Override
        public void check(Config config, List<Site> sites) {
            for (Site site : sites) {
                long width = Math.min(site.layer().inFeatures(), site.layer().outFeatures());
                dev.espalier.Check.check(
                        config.r() <= width,
                        "r is %d, above the width %d of %s [%d, %d], which has no more singular vectors; try %d",
                        config.r(),
                        width,
                        site.path(),
                        site.layer().outFeatures(),
                        site.layer().inFeatures(),
                        width);
            }
        }

        @Override
        public Made create(Config config, List<Site> sites, Seed seed) {
            return Made.each(sites, site -> new LoraXs(config, site, seed));
        }

        @Override
        public String initializer(Config config) {
            return config.initWeights() ? name() : "";
        }

        @Override
        public @Nullable Initializer named(String name) {
            return name.equals(name()) ? this : null;
        }

        /** Whoever has the weights finds frames again, but perhaps with other signs. */
        @Override
        public boolean isRepeatable() {
            return false;
        }

        @Override
        public String adapter() {
            return name();
        }

        /** A = Σ_r V_rᵀ, B = U_r. */
        @Override
        public void initialize(Attached adapter, Calibration calibration, Seed seed) {
            for (Site site : adapter.sites()) {
                try (Grad off = Grad.off();
                        Scope scope = Scope.open()) {
                    LoraXs xs = on(adapter, site, name());
                    long r = xs.a.shape()[0];
                    List<Tensor> svd = leading(xs.svd, site.layer().weight(), r, seed.named(site.path()));
                    xs.a.tensor().copy_(svd.get(2).mul(svd.get(1).unsqueeze(1)));
                    xs.b.tensor().copy_(svd.get(0));
                }
            }
        }
    }

    /** U_r [out, r], S_r [r], V_rᵀ [r, in]. */
    public static List<Tensor> leading(Svd svd, Tensor matrix, long r, Seed seed) {
        long width = Math.min(matrix.size(0), matrix.size(1));
        List<Tensor> all = svd.of(matrix, Math.min(r + OVERSAMPLING, width), POWER_ITERATIONS, seed.named("lora-xs"));
        return List.of(
                all.get(0).narrow(1, 0, r),
                all.get(1).narrow(0, 0, r),
                all.get(2).narrow(0, 0, r));
    }

    /**
     * The LoRA-XS on a layer.
     *
     * @param method that wants to start it, for the message if another kind is there
     */
    public static LoraXs on(Attached adapter, Site site, String method) {
        if (adapter.at(site.path()) instanceof LoraXs xs) {
            return xs;
        }
        throw new dev.espalier.EspalierException("%s starts lora-xs, and %s carries %s; use it with lora-xs"
                .formatted(method, site.path(), adapter.spec().type().name()));
    }

    private final Parameter a; // A [r, in]
    private final Parameter b; // B [out, r]
    private final Parameter latent; // R [r, r]
    private final double scale; // s
    private final double dropout;
    private final Svd svd;

    /** LoRA-XS on one layer: A and B are zero until something starts them. */
    public LoraXs(Config config, Site site, Seed seed) {
        check(
                !(site.layer() instanceof Embedding),
                "lora-xs cannot be put on the embedding %s; leave it out of the targets",
                site.path());
        scale = config.alpha() / config.r();
        dropout = config.dropout();
        svd = config.svd();
        Tensor weight = site.layer().weightParameter().tensor();
        DType wide = weight.dtype() == DType.FLOAT64 ? DType.FLOAT64 : DType.FLOAT32;
        try (Scope scope = Scope.open();
                Generator generator = seed.named(site.path()).named("lora_R").generator()) {
            a = new Parameter(
                    Tensor.zeros(wide, config.r(), site.layer().inFeatures()).to(weight.device()));
            b = new Parameter(
                    Tensor.zeros(wide, site.layer().outFeatures(), config.r()).to(weight.device()));
            latent = new Parameter(generator
                    .normal(0, config.sigma(), config.r(), config.r())
                    .to(wide)
                    .to(weight.device()));
        }
        latent.trainable(true);
    }

    /** Sets A [r, in], B [out, r] and R [r, r]. */
    public void start(Tensor frameA, Tensor frameB, Tensor middle) {
        try (Grad off = Grad.off()) {
            a.tensor().copy_(frameA);
            b.tensor().copy_(frameB);
            latent.tensor().copy_(middle);
        }
    }

    @Override
    public Tensor forward(Tensor x, Base base) {
        return Base.onRows(x, rows -> {
            Tensor y = base.forward(rows); // [n, out], fresh
            Tensor thin = rows.dropout(dropout, dropout > 0 && base.layer().isTraining());
            Tensor middle = thin.linear(a.tensor(), null).linear(latent.tensor(), null); // [n, r]
            return y.addmm_(middle, b.tensor().to(y.dtype()).t(), scale);
        });
    }

    /** A and B R. */
    @Override
    public LoraFactors toLora() {
        return new LoraFactors(a.tensor(), b.tensor().matmul(latent.tensor()), scale, null);
    }

    @Override
    public Map<String, Parameter> parameters() {
        Map<String, Parameter> named = new LinkedHashMap<>();
        named.put("lora_A.weight", a);
        named.put("lora_B.weight", b);
        named.put("lora_R.weight", latent);
        return named;
    }

    /** The factor s in s B R A. */
    public double scale() {
        return scale;
    }
}
