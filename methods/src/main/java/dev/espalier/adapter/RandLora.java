package dev.espalier.adapter;

import static dev.espalier.Check.check;

import dev.espalier.io.Fields;
import dev.espalier.io.TensorSource;
import dev.espalier.nn.Parameter;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Generator;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.GradientHook;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import org.jspecify.annotations.Nullable;

/**
 * RandLoRA: a sum of random low-rank products, the same for all layers, whose ranks add up to the layer's; only diagonal scales
 * are trained.
 *
 * <p>Albert et al., <i>RandLoRA: Full-rank parameter-efficient fine-tuning of large models</i>, ICLR 2025, arXiv:2502.00987, eq. 4.
 *
 * <pre>{@code
 * ΔW = s Σ_j B_j Λ_j A Γ_j  (in ≤ out),    ΔW = s Σ_j Γ_j Aᵀ Λ_j B_jᵀ  (in > out),    j = 1 .. n = ⌈m / r⌉
 * m = min(in, out), M = max(in, out)    A [r, m], B_j [M, r] frozen, cut out of shared ones    Λ_j = diag(λ_j), λ [r, n]
 * Γ_j = diag(γ_j), γ [n, m]    s = randlora_alpha / r
 * }</pre>
 *
 * <p>λ starts at zero, γ at 1/m: no change yet. A smaller r means more bases and more parameters. As in PEFT (and the authors' three
 * code bases) A's side is laid out with j running fastest and B's with the rank running fastest, so that term t of the sum pairs
 * rank t / n of A and scales j = t mod n with rank t mod r of B_(t / r): the card's B_j[:, k] is column k n + j of the flat B.
 * Nothing of the size of n r × m is kept for the backward pass but the product of A and its scales.
 *
 * <p>The bases are PEFT's on a machine with bfloat16: A and then B_1, B_2, ... from {@code Generator.of(projection_prng_key)}, bfloat16
 * uniform in ±1/√m_max and ±1/√r, each divided by its standard deviation in bfloat16; the sparse kinds are
 * float32. {@link Generator} has the bits. Checked against PEFT 0.21.
 */
public final class RandLora implements Adapter, LoraExpressible {

    private static final String A = "randlora_A";
    private static final String B = "randlora_B";

    /** What the scale s is. */
    public enum ScaleForm {
        /** alpha / r: PEFT. */
        ALPHA_OVER_R,
        /** alpha / (r √n), n of the layer: the authors' code for language models. */
        ALPHA_OVER_R_SQRT_N
    }

    /**
     * RandLoRA's settings, by PEFT's names.
     *
     * @param r rank of each basis, at least 1
     * @param alpha [randlora_alpha] numerator of the scale, positive
     * @param dropout [randlora_dropout] in [0, 1)
     * @param key [projection_prng_key] seed of the bases
     * @param saveProjection [save_projection] whether the bases go into the file
     * @param sparse bases of -1, 0 and 1, two thirds of them 0
     * @param verySparse [very_sparse] likewise, with a share of 1 - 1/√m_max
     * @param initWeights [init_weights] false for random λ, so that it is not zero at the start
     * @param scaleForm [scale_form] s; files have the first form, with λ divided by √n where it was the second
     */
    public record Config(
            int r,
            double alpha,
            double dropout,
            long key,
            boolean saveProjection,
            boolean sparse,
            boolean verySparse,
            boolean initWeights,
            ScaleForm scaleForm) {

        /** PEFT's defaults. */
        public static final Config DEFAULT =
                new Config(32, 640, 0, 0, true, false, false, true, ScaleForm.ALPHA_OVER_R);

        /** Checks ranges. */
        public Config {
            check(r >= 1, "r must be at least 1, found %d; try 32", r);
            check(
                    alpha > 0 && Double.isFinite(alpha),
                    "randlora_alpha must be positive and finite, found %s; try 20 times the rank",
                    alpha);
            check(dropout >= 0 && dropout < 1, "randlora_dropout must lie in [0, 1), found %s; try 0", dropout);
        }

        /** Some rank and alpha, all else as usual. */
        public static Config of(int r, double alpha) {
            return new Config(r, alpha, 0, 0, true, false, false, true, ScaleForm.ALPHA_OVER_R);
        }

        /** The same, with or without the bases in the file. */
        public Config withSaveProjection(boolean save) {
            return new Config(r, alpha, dropout, key, save, sparse, verySparse, initWeights, scaleForm);
        }

        /** The same with sparse or very sparse bases. */
        public Config withSparse(boolean third, boolean root) {
            return new Config(r, alpha, dropout, key, saveProjection, third, root, initWeights, scaleForm);
        }

        /** The same with random λ. */
        public Config withRandomStart() {
            return new Config(r, alpha, dropout, key, saveProjection, sparse, verySparse, false, scaleForm);
        }

        /** The same with another form of the scale. */
        public Config withScaleForm(ScaleForm form) {
            return new Config(r, alpha, dropout, key, saveProjection, sparse, verySparse, initWeights, form);
        }

        private double scale(long n) {
            return scaleForm == ScaleForm.ALPHA_OVER_R ? alpha / r : alpha / (r * Math.sqrt((double) n));
        }
    }

    /** How RandLoRA is set up, read and written. */
    public static final class Type implements AdapterType<Config> {

        @Override
        public About about() {
            return new About(
                    "randlora",
                    "adapter",
                    "random low-rank products for all layers, scaled into a change of full rank",
                    "Albert et al., RandLoRA: Full-rank parameter-efficient fine-tuning of large models, ICLR 2025, arXiv:2502.00987",
                    """
                    ΔW = s Σ_j B_j diag(λ_j) A diag(γ_j), j = 1 .. n = ⌈m / r⌉, m = min(in, out), s = randlora_alpha / r
                    A [r, m], B_j [max(in, out), r] random and shared; λ [r, n], γ [n, m] trained: n (r + m) a layer""",
                    "any optimizer, modules_to_save and bias; linear layers only, no initializer",
                    "λ and γ of each layer, and the bases unless save_projection is false, in PEFT's format (RANDLORA)",
                    true);
        }

        @Override
        public Map<String, String> meanings() {
            return Map.of(
                    "r", "rank of each basis, at least 1; a smaller one means more bases and more parameters",
                    "randlora_alpha",
                            "numerator of the scale, above 0; 20 r is usual with alpha_over_r, 2 r with the other",
                    "randlora_dropout", "share of the input dropped in training, in [0, 1)",
                    "projection_prng_key", "seed of the bases, any integer",
                    "save_projection", "keep the bases in the file, once a layer as PEFT does; false keeps their seed",
                    "sparse", "bases of -1, 0 and 1, two thirds of them 0",
                    "very_sparse", "the same with a share of 1 - 1/√m of zeros, m the largest smaller width",
                    "init_weights", "false starts with random λ instead of no change",
                    "scale_form", "alpha_over_r (PEFT), or alpha_over_r_sqrt_n (the authors' code, with alpha = 2 r)");
        }

        @Override
        public String peftType() {
            return "RANDLORA";
        }

        @Override
        public Config read(Fields f) {
            Config usual = Config.DEFAULT;
            return new Config(
                    f.integer("r", usual.r()),
                    f.number("randlora_alpha", usual.alpha()),
                    f.number("randlora_dropout", usual.dropout()),
                    f.longInteger("projection_prng_key", usual.key()),
                    f.bool("save_projection", usual.saveProjection()),
                    f.bool("sparse", usual.sparse()),
                    f.bool("very_sparse", usual.verySparse()),
                    f.bool("init_weights", usual.initWeights()),
                    f.choice("scale_form", usual.scaleForm()));
        }

        @Override
        public Map<String, @Nullable Object> write(Config config) {
            Map<String, @Nullable Object> json = new LinkedHashMap<>();
            json.put("r", config.r());
            json.put("randlora_alpha", Patterns.whole(config.alpha()));
            json.put("randlora_dropout", config.dropout());
            json.put("projection_prng_key", config.key());
            json.put("save_projection", config.saveProjection());
            json.put("sparse", config.sparse());
            json.put("very_sparse", config.verySparse());
            json.put("init_weights", config.initWeights());
            json.put("bias", "none");
            json.put("fan_in_fan_out", false);
            return json;
        }

        @Override
        public Set<String> unknownToPeft() {
            return Set.of("exclude_modules");
        }

        @Override
        public Made create(Config config, List<Site> sites, Seed seed) {
            long in = 0;
            long out = 0;
            for (Site site : sites) {
                in = Math.max(in, site.linear("randlora").inFeatures());
                out = Math.max(out, site.layer().outFeatures());
            }
            Parameter a;
            Parameter b;
            try (Scope scope = Scope.open()) {
                List<Tensor> bases = RandomBases.of(config, Math.min(in, out), Math.max(in, out));
                a = sites.get(0).frozen(bases.get(0));
                b = sites.get(0).frozen(bases.get(1));
            }
            Map<String, Parameter> shared = new LinkedHashMap<>();
            shared.put(A, a);
            shared.put(B, b);
            Map<String, Adapter> adapters = new LinkedHashMap<>();
            sites.forEach(site -> adapters.put(site.path(), new RandLora(config, site, a, b, seed)));
            return new Made(adapters, shared);
        }

        /** PEFT writes the bases once for the network and once for every layer. */
        @Override
        public Saved<Config> saved(Config config, Made made) {
            Map<String, Tensor> tensors = made.tensors();
            made.shared().forEach((name, p) -> {
                if (!config.saveProjection()) {
                    tensors.remove(Made.key(name));
                } else {
                    made.adapters().keySet().forEach(path -> tensors.put(Made.key(path, name), p.tensor()));
                }
            });
            if (config.scaleForm() != ScaleForm.ALPHA_OVER_R) {
                made.adapters().forEach((path, adapter) -> {
                    Tensor lambda = ((RandLora) adapter).lambda.tensor();
                    tensors.put(Made.key(path, "randlora_lambda"), lambda.div(Math.sqrt((double) lambda.size(1))));
                });
            }
            return new Saved<>(config.withScaleForm(ScaleForm.ALPHA_OVER_R), tensors);
        }

        /** The bases of the file, which must be the same for all layers; or as they were drawn, where it has none. */
        @Override
        public @Nullable Map<String, Tensor> restored(Config config, Made made, TensorSource file) {
            Map<String, Tensor> bases = new LinkedHashMap<>();
            made.shared().forEach((name, p) -> {
                if (!file.tensors().containsKey(Made.key(name))) {
                    if (!config.saveProjection()) {
                        bases.put(Made.key(name), p.tensor());
                    }
                    return;
                }
                Tensor basis = file.read(Made.key(name));
                bases.put(Made.key(name), basis);
                made.adapters()
                        .keySet()
                        .forEach(path -> checkShared(file, basis, Made.key(path, name), Made.key(name)));
            });
            return bases;
        }
    }

    private final Parameter a; // [r, 1, largest m], shared and frozen
    private final Parameter b; // [largest M, largest n, r], likewise
    private final Parameter lambda; // λ [r, n]
    private final Parameter gamma; // γ [n, m]
    private final boolean wide; // in > out
    private final long most; // M
    private final double scale; // s
    private final double dropout;
    private final GradientHook hook = new GradientHook(this::carry);

    private RandLora(Config config, Site site, Parameter a, Parameter b, Seed seed) {
        long in = site.layer().inFeatures();
        long out = site.layer().outFeatures();
        long m = Math.min(in, out);
        long n = -Math.floorDiv(-m, config.r());
        this.a = a;
        this.b = b;
        this.wide = in > out;
        this.most = Math.max(in, out);
        this.scale = config.scale(n);
        this.dropout = config.dropout();
        try (Scope scope = Scope.open();
                Generator generator =
                        seed.named(site.path()).named("randlora_lambda").generator()) {
            boolean usual = config.initWeights();
            this.lambda =
                    site.trained(usual ? Tensor.zeros(DType.FLOAT32, config.r(), n) : generator.randn(config.r(), n));
            this.gamma = site.trained(Tensor.full(1.0 / (usual ? Math.max(n, m) : most), DType.FLOAT32, n, m));
        }
    }

    private static void checkShared(TensorSource file, Tensor basis, String key, String shared) {
        if (file.tensors().containsKey(key)) {
            try (Scope scope = Scope.open()) {
                check(
                        file.read(key).equal(basis),
                        "%s: %s is not %s, which all layers share; save the adapter again with PEFT",
                        file.where(),
                        key,
                        shared);
            }
        }
    }

    /** A cut to the layer [r, 1, m]. */
    private Tensor cutA() {
        return a.tensor().narrow(2, 0, gamma.tensor().size(1));
    }

    /** P[k, j, :] = λ_kj A_k ∘ γ_j [r, n, m], a leaf: recorded, it would keep n r × m numbers more. */
    private Tensor scaled() {
        Tensor p;
        try (Grad off = Grad.off()) {
            p = lambda.tensor().unsqueeze(2).mul(gamma.tensor()).mul(cutA());
        }
        if (lambda.isTrainable()) {
            p.requiresGrad_(true).registerHook(hook);
        }
        return p;
    }

    /** From the gradient G of P: dλ_kj = Σ_i G_kji A_ki γ_ji and dγ_ji = Σ_k G_kji A_ki λ_kj. */
    private void carry(Tensor gradient) {
        Tensor ga = gradient.mul(cutA()); // [r, n, m]
        lambda.tensor().backward(ga.mul(gamma.tensor()).sum(2, false));
        gamma.tensor().backward(ga.mul(lambda.tensor().unsqueeze(2)).sum(0, false));
    }

    /** The sum as one product of rank n r. */
    @Override
    public LoraFactors toLora() {
        long n = gamma.tensor().size(0);
        Tensor p = scaled().flatten(0, 1); // [r n, m]
        Tensor flat = b.tensor().narrow(0, 0, most).narrow(1, 0, n).flatten(1, 2); // [M, n r]
        return wide ? new LoraFactors(flat.t(), p.t(), scale, null) : new LoraFactors(p, flat, scale, null);
    }

    @Override
    public Tensor forward(Tensor x, Base base) {
        return toLora().forward(x, base, dropout);
    }

    @Override
    public Map<String, Parameter> parameters() {
        Map<String, Parameter> named = new LinkedHashMap<>();
        named.put("randlora_lambda", lambda);
        named.put("randlora_gamma", gamma);
        return named;
    }

    @Override
    public void close() {
        Adapter.super.close();
        hook.close();
    }
}
