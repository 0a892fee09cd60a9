package dev.espalier.adapter;

import static dev.espalier.Check.check;

import dev.espalier.io.Fields;
import dev.espalier.nn.Parameter;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.GradientHook;
import dev.espalier.tensor.RandomBasis;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.SharedBasis;
import dev.espalier.tensor.Tensor;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Objects;
import org.jspecify.annotations.Nullable;

/**
 * NOLA: LoRA whose two factors are mixtures of random matrices that nobody stores; only the coefficients are trained.
 *
 * <p>Koohpayegani et al., <i>NOLA: Compressing LoRA using Linear Combination of Random Basis</i>, ICLR 2024, arXiv:2310.02556, eq. 3.
 *
 * <pre>{@code
 * y = x Wᵀ + b + s (drop(x) Aᵀ) Bᵀ,    A = A_0 + c_A Σ_i α_i A_i,    B = c_B Σ_i β_i B_i,    i = 1 .. k,    s = alpha / r
 * x [.., in]    W [out, in]    A_i [r, in], B_i [out, r] random, entries uniform in [-1, 1)    α, β [k]    y [.., out]
 * frozen_a0: A_0 Kaiming-uniform and frozen, α = β = 0, c_A = c_B = 1/√k          (the authors' code for language models)
 * mean:      A_0 = 0, α = β = 1/k, c_A = 1/√(in r), c_B = 1/√(r out)              (their code for images, with alpha = 1)
 * }</pre>
 *
 * <p>The random matrices are {@link RandomBasis}es, which specifies them to the bit, of {@code new
 * Seed(basis_seed).named("A").at(in)} and {@code .named("B").at(out)}: layers of one width share them, as in the authors' code for
 * images, and {@link SharedBasis} says when they are held and when made again. A_0 is that of {@code named(path).named("A0")},
 * times 1/√in; the authors keep A_0 and draw from torch's generator, of which our files could say nothing. No pass keeps A and B's
 * history: dα_i = c_A ⟨A_i, dA⟩ by hand. The authors' quantised coefficients are not here, for their release has none. Checked
 * against the authors' layer (GPT and ViT code) with its bases handed over.
 */
public final class Nola implements Adapter, LoraExpressible {

    /** How α and β start, and how the bases are scaled. */
    public enum Init {
        /** From a frozen random A_0 and zeros: no change yet. */
        FROZEN_A0,
        /** From the mean of the bases: a small change. */
        MEAN
    }

    /**
     * NOLA's settings.
     *
     * @param k [num_basis] matrices of each basis, at least 1
     * @param r rank, at least 1; it costs time and no parameters
     * @param alpha numerator of the scale, positive
     * @param dropout [nola_dropout] in [0, 1)
     * @param init how it starts
     * @param seed [basis_seed] of the random matrices; null for one from the run's seed, which files then hold
     */
    public record Config(
            int k,
            int r,
            double alpha,
            double dropout,
            Init init,
            @Nullable Long seed) {

        /** The authors' GPT-2 M script, with their code's basis size. */
        public static final Config DEFAULT = new Config(1024, 8, 8, 0, Init.FROZEN_A0, null);

        /** Checks ranges. */
        public Config {
            check(k >= 1, "num_basis must be at least 1, found %d; try 1024", k);
            check(r >= 1, "r must be at least 1, found %d; try 8", r);
            check(alpha > 0 && Double.isFinite(alpha), "alpha must be positive and finite, found %s; try r", alpha);
            check(dropout >= 0 && dropout < 1, "nola_dropout must lie in [0, 1), found %s; try 0", dropout);
        }

        /** Some sizes, all else as usual. */
        public static Config of(int k, int r, double alpha) {
            return new Config(k, r, alpha, 0, Init.FROZEN_A0, null);
        }

        /** The same with another start. */
        public Config withInit(Init other) {
            return new Config(k, r, alpha, dropout, other, seed);
        }

        /** The same with given random matrices. */
        public Config withSeed(long value) {
            return new Config(k, r, alpha, dropout, init, value);
        }
    }

    /** How NOLA is set up, read and written. */
    public static final class Type implements AdapterType<Config> {

        @Override
        public About about() {
            return new About(
                    "nola",
                    "adapter",
                    "a LoRA whose factors are mixtures of random matrices made from a seed",
                    "Koohpayegani et al., NOLA: Compressing LoRA using Linear Combination of Random Basis, ICLR 2024, arXiv:2310.02556",
                    """
                    y = x Wᵀ + b + s B A drop(x),  A = A_0 + Σ_i α_i A_i / √k,  B = Σ_i β_i B_i / √k,  s = alpha / r
                    A_i [r, in], B_i [out, r] random; α [k], β [k] trained: 2 k parameters a layer, whatever r and its size""",
                    "any optimizer, modules_to_save and bias; linear layers only, no initializer",
                    "α and β of each layer and the seed, of our own type (NOLA); export --to lora is exact",
                    true);
        }

        @Override
        public Map<String, String> meanings() {
            return Map.of(
                    "num_basis", "random matrices for each factor, k, at least 1; 2 k parameters a layer",
                    "r", "rank, at least 1; a higher one costs time and no parameters",
                    "alpha", "numerator of the scale s = alpha / r, above 0",
                    "nola_dropout", "share of the input dropped in training, in [0, 1)",
                    "init", "frozen_a0 (no change at the start), or mean (the authors' code for images)",
                    "basis_seed", "seed of the random matrices, any integer; by default from the run's seed",
                    "generator", "what makes the random matrices of the seed: " + RandomBasis.GENERATOR);
        }

        @Override
        public String peftType() {
            return "NOLA";
        }

        @Override
        public Config read(Fields f) {
            Config usual = Config.DEFAULT;
            Config config = new Config(
                    f.integer("num_basis", usual.k()),
                    f.integer("r", usual.r()),
                    f.number("alpha", usual.alpha()),
                    f.number("nola_dropout", usual.dropout()),
                    f.choice("init", usual.init()),
                    f.orNull("basis_seed", Fields::longInteger));
            if (!f.string("generator", RandomBasis.GENERATOR).equals(RandomBasis.GENERATOR)) {
                throw f.fault("generator", "is not known here; only " + RandomBasis.GENERATOR + " is");
            }
            return config;
        }

        @Override
        public Map<String, @Nullable Object> write(Config config) {
            Map<String, @Nullable Object> json = new LinkedHashMap<>();
            json.put("num_basis", config.k());
            json.put("r", config.r());
            json.put("alpha", config.alpha());
            json.put("nola_dropout", config.dropout());
            json.put("init", config.init().name().toLowerCase(Locale.ROOT));
            json.put("basis_seed", config.seed());
            json.put("generator", RandomBasis.GENERATOR);
            json.put("bias", "none");
            return json;
        }

        @Override
        public Made create(Config config, List<Site> sites, Seed seed) {
            Long own = config.seed();
            Config seeded =
                    own != null ? config : config.withSeed(seed.named("nola").value());
            Seed bases = new Seed(Objects.requireNonNull(seeded.seed()));
            Map<Integer, SharedBasis> ofA = new LinkedHashMap<>(); // by in
            Map<Integer, SharedBasis> ofB = new LinkedHashMap<>(); // by out
            return Made.each(sites, site -> {
                int in = Math.toIntExact(site.linear("nola").inFeatures());
                int out = Math.toIntExact(site.layer().outFeatures());
                return new Nola(
                        seeded,
                        site,
                        bases,
                        ofA.computeIfAbsent(in, n -> shared(bases.named("A").at(n), config.k(), config.r(), n)),
                        ofB.computeIfAbsent(out, n -> shared(bases.named("B").at(n), config.k(), n, config.r())));
            });
        }

        private static SharedBasis shared(Seed seed, int k, int rows, int columns) {
            return new SharedBasis(new RandomBasis(seed, k, rows, columns));
        }

        /** The seed that was drawn goes into the file. */
        @Override
        public Saved<Config> saved(Config config, Made made) {
            return new Saved<>(
                    made.adapters().values().stream()
                            .map(adapter -> config.withSeed(((Nola) adapter).seed.value()))
                            .findFirst()
                            .orElse(config),
                    made.tensors());
        }
    }

    private final SharedBasis basisA; // A_i [r, in]
    private final SharedBasis basisB; // B_i [out, r]
    private final @Nullable RandomBasis startA; // A_0 [r, in]
    private final double scaleA; // c_A
    private final double scaleB; // c_B
    private final double scale; // s
    private final double dropout;
    private final Seed seed;
    private final Parameter alpha; // α [k]
    private final Parameter beta; // β [k]
    private final GradientHook hookA;
    private final GradientHook hookB;

    private Nola(Config config, Site site, Seed seed, SharedBasis basisA, SharedBasis basisB) {
        int in = Math.toIntExact(site.layer().inFeatures());
        int out = Math.toIntExact(site.layer().outFeatures());
        int r = config.r();
        boolean mean = config.init() == Init.MEAN;
        this.seed = seed;
        this.basisA = basisA;
        this.basisB = basisB;
        this.startA = mean ? null : new RandomBasis(seed.named(site.path()).named("A0"), 1, r, in);
        this.scaleA = 1 / Math.sqrt(mean ? (double) in * r : config.k());
        this.scaleB = 1 / Math.sqrt(mean ? (double) r * out : config.k());
        this.scale = config.alpha() / r;
        this.dropout = config.dropout();
        try (Scope scope = Scope.open()) {
            double start = mean ? 1.0 / config.k() : 0;
            this.alpha = site.trained(Tensor.full(start, DType.FLOAT32, config.k()));
            this.beta = site.trained(Tensor.full(start, DType.FLOAT32, config.k()));
        }
        this.hookA =
                new GradientHook(g -> alpha.tensor().backward(basisA.products(g).mul(scaleA)));
        this.hookB =
                new GradientHook(g -> beta.tensor().backward(basisB.products(g).mul(scaleB)));
    }

    /** A [r, in] and B [out, r], leaves whose gradients the hooks carry on. */
    @Override
    public LoraFactors toLora() {
        Tensor a;
        Tensor b;
        try (Grad off = Grad.off()) {
            a = basisA.combine(alpha.tensor()).mul(scaleA);
            b = basisB.combine(beta.tensor()).mul(scaleB);
            if (startA != null) {
                a.add_(startA.matrix(0).to(a.dtype()).to(a.device()), 1 / Math.sqrt((double) a.size(1)));
            }
        }
        if (alpha.isTrainable()) {
            a.requiresGrad_(true).registerHook(hookA);
            b.requiresGrad_(true).registerHook(hookB);
        }
        return new LoraFactors(a, b, scale, null);
    }

    @Override
    public Tensor forward(Tensor x, Base base) {
        return toLora().forward(x, base, dropout);
    }

    @Override
    public Map<String, Parameter> parameters() {
        Map<String, Parameter> named = new LinkedHashMap<>();
        named.put("nola_alpha", alpha);
        named.put("nola_beta", beta);
        return named;
    }

    /** With one layer's adapter those of all layers end, and the bases with them. */
    @Override
    public void close() {
        Adapter.super.close();
        basisA.close();
        basisB.close();
        hookA.close();
        hookB.close();
    }
}
