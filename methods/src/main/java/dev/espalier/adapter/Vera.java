package dev.espalier.adapter;

import static dev.espalier.Check.check;

import dev.espalier.io.Fields;
import dev.espalier.io.TensorSource;
import dev.espalier.nn.Parameter;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Generator;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.function.ToLongFunction;
import org.jspecify.annotations.Nullable;

/**
 * VeRA: LoRA whose two factors are random, frozen and the same for all layers; a layer trains how much of each rank and of each
 * output it takes.
 *
 * <p>Kopiczko et al., <i>VeRA: Vector-based Random Matrix Adaptation</i>, ICLR 2024, arXiv:2310.11454, eq. 2.
 *
 * <pre>{@code
 * y = x Wᵀ + base bias + Λ_b (Λ_d (drop(x) A_sᵀ) B_sᵀ),    A_s = A[:, :in],  B_s = B[:out, :]
 * x [.., in]    A [r, largest in]    B [largest out, r]    Λ_d = diag(d), d [r]    Λ_b = diag(b), b [out]    y [.., out]
 * }</pre>
 *
 * <p>d starts at {@code d_initial}, b at zero: no change yet. A and then B are drawn from {@code Generator.of(projection_prng_key)},
 * uniform in ±√(6 / fan_in), with fan_in the largest in, then r: PEFT's very numbers, which {@link Generator} specifies to the
 * bit. With {@code save_projection} false only the key is kept and they are drawn again. Checked against PEFT 0.21.
 */
public final class Vera implements Adapter, LoraExpressible {

    private static final String A = "vera_A";
    private static final String B = "vera_B";

    /**
     * VeRA's settings, by PEFT's names.
     *
     * @param r rank of the random factors, at least 1
     * @param key [projection_prng_key] seed of A and B
     * @param saveProjection [save_projection] whether A and B go into the file
     * @param dropout [vera_dropout] in [0, 1)
     * @param dInitial [d_initial] first value of d
     * @param initWeights [init_weights] false for b = 1 and d from N(0, 1), so that it is not zero at the start
     */
    public record Config(
            int r, long key, boolean saveProjection, double dropout, double dInitial, boolean initWeights) {

        /** PEFT's defaults. */
        public static final Config DEFAULT = new Config(256, 0, true, 0, 0.1, true);

        /** Checks ranges. */
        public Config {
            check(r >= 1, "r must be at least 1, found %d; try 256", r);
            check(dropout >= 0 && dropout < 1, "vera_dropout must lie in [0, 1), found %s; try 0", dropout);
            check(
                    dInitial != 0 && Double.isFinite(dInitial),
                    "d_initial must be finite and not 0, where nothing would ever train, found %s; try 0.1",
                    dInitial);
        }

        /** Some rank, all else as usual. */
        public static Config of(int r) {
            return new Config(r, 0, true, 0, 0.1, true);
        }

        /** The same, with or without A and B in the file. */
        public Config withSaveProjection(boolean save) {
            return new Config(r, key, save, dropout, dInitial, initWeights);
        }
    }

    /** How VeRA is set up, read and written. */
    public static final class Type implements AdapterType<Config> {

        @Override
        public About about() {
            return new About(
                    "vera",
                    "adapter",
                    "two random factors for all layers, and a trained scale for each rank and each output",
                    "Kopiczko et al., VeRA: Vector-based Random Matrix Adaptation, ICLR 2024, arXiv:2310.11454",
                    """
                    y = x Wᵀ + base bias + diag(b) B diag(d) A drop(x)
                    A [r, in], B [out, r] random and shared; d [r], b [out] trained: r + out parameters a layer""",
                    "any optimizer, modules_to_save and bias; linear layers only, no initializer",
                    "d and b of each layer, and A and B once unless save_projection is false, in PEFT's format (VERA)",
                    true);
        }

        @Override
        public Map<String, String> meanings() {
            return Map.of(
                    "r", "rank of the random factors, at least 1; much larger than LoRA's, it costs r numbers a layer",
                    "projection_prng_key", "seed of the random factors, any integer",
                    "save_projection", "keep the random factors in the file; false keeps their seed only",
                    "vera_dropout", "share of the input dropped in training, in [0, 1)",
                    "d_initial", "first value of d, not 0; 0.1 or less",
                    "init_weights", "false starts with b = 1 and random d instead of no change");
        }

        @Override
        public String peftType() {
            return "VERA";
        }

        @Override
        public Config read(Fields f) {
            Config usual = Config.DEFAULT;
            return new Config(
                    f.integer("r", usual.r()),
                    f.longInteger("projection_prng_key", usual.key()),
                    f.bool("save_projection", usual.saveProjection()),
                    f.number("vera_dropout", usual.dropout()),
                    f.number("d_initial", usual.dInitial()),
                    f.bool("init_weights", usual.initWeights()));
        }

        @Override
        public Map<String, @Nullable Object> write(Config config) {
            Map<String, @Nullable Object> json = new LinkedHashMap<>();
            json.put("r", config.r());
            json.put("projection_prng_key", config.key());
            json.put("save_projection", config.saveProjection());
            json.put("vera_dropout", config.dropout());
            json.put("d_initial", config.dInitial());
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
            long in = largest(sites, site -> site.linear("vera").inFeatures());
            long out = largest(sites, site -> site.layer().outFeatures());
            Parameter a;
            Parameter b;
            try (Scope scope = Scope.open();
                    Generator generator = Generator.of(config.key())) {
                a = sites.get(0).frozen(uniform(generator, config.r(), in));
                b = sites.get(0).frozen(uniform(generator, out, config.r()));
            }
            Map<String, Parameter> shared = new LinkedHashMap<>();
            shared.put(A, a);
            shared.put(B, b);
            Map<String, Adapter> adapters = new LinkedHashMap<>();
            sites.forEach(site -> adapters.put(site.path(), new Vera(config, site, a, b, seed)));
            return new Made(adapters, shared);
        }

        /** Kaiming's uniform for rectifiers: ±√(6 / fan_in), in the order of operations that PEFT has. */
        private static Tensor uniform(Generator generator, long rows, long columns) {
            double bound = Math.sqrt(3) * (Math.sqrt(2) / Math.sqrt((double) columns));
            return generator.uniform(-bound, bound, rows, columns);
        }

        private static long largest(List<Site> sites, ToLongFunction<Site> width) {
            return sites.stream().mapToLong(width).max().orElseThrow();
        }

        @Override
        public Saved<Config> saved(Config config, Made made) {
            Map<String, Tensor> tensors = made.tensors();
            if (!config.saveProjection()) {
                made.shared().keySet().forEach(name -> tensors.remove(Made.key(name)));
            }
            return new Saved<>(config, tensors);
        }

        /** A and B as they were drawn, where the file has them not. */
        @Override
        public @Nullable Map<String, Tensor> restored(Config config, Made made, TensorSource file) {
            if (config.saveProjection() || file.tensors().containsKey(Made.key(A))) {
                return null;
            }
            Map<String, Tensor> drawn = new LinkedHashMap<>();
            made.shared().forEach((name, p) -> drawn.put(Made.key(name), p.tensor()));
            return drawn;
        }
    }

    private final Parameter a; // [r, largest in], shared and frozen
    private final Parameter b; // [largest out, r], likewise
    private final Parameter lambdaD; // d [r]
    private final Parameter lambdaB; // b [out]
    private final long in;
    private final long out;
    private final double dropout;

    private Vera(Config config, Site site, Parameter a, Parameter b, Seed seed) {
        this.a = a;
        this.b = b;
        this.in = site.layer().inFeatures();
        this.out = site.layer().outFeatures();
        this.dropout = config.dropout();
        try (Scope scope = Scope.open();
                Generator generator =
                        seed.named(site.path()).named("vera_lambda_d").generator()) {
            boolean usual = config.initWeights();
            this.lambdaD = site.trained(
                    usual ? Tensor.full(config.dInitial(), DType.FLOAT32, config.r()) : generator.randn(config.r()));
            this.lambdaB = site.trained(usual ? Tensor.zeros(DType.FLOAT32, out) : Tensor.ones(DType.FLOAT32, out));
        }
    }

    /** Λ_d A_s and Λ_b B_s: scaling a factor costs one pass over it, scaling activations one over all tokens. */
    @Override
    public LoraFactors toLora() {
        Tensor d = lambdaD.tensor().unsqueeze(1); // [r, 1]
        Tensor l = lambdaB.tensor().unsqueeze(1); // [out, 1]
        return new LoraFactors(
                a.tensor().narrow(1, 0, in).mul(d), b.tensor().narrow(0, 0, out).mul(l), 1, null);
    }

    @Override
    public Tensor forward(Tensor x, Base base) {
        return toLora().forward(x, base, dropout);
    }

    @Override
    public Map<String, Parameter> parameters() {
        Map<String, Parameter> named = new LinkedHashMap<>();
        named.put("vera_lambda_b", lambdaB);
        named.put("vera_lambda_d", lambdaD);
        return named;
    }
}
