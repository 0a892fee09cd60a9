package dev.espalier.adapter;

import static dev.espalier.Check.check;

import dev.espalier.io.Fields;
import dev.espalier.nn.Parameter;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Generator;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/**
 * LoKr: a frozen linear map plus the Kronecker product of two small trained maps.
 *
 * <p>Yeh et al., <i>Navigating Text-To-Image Customization: From LyCORIS Fine-Tuning to Model Evaluation</i>,
 * arXiv:2309.14859, section 3.3.
 *
 * <pre>{@code
 * y = x Wᵀ + b + x ΔWᵀ,    ΔW = s w1 ⊗ w2,    s = alpha / r
 * x [.., in = m n]    W, ΔW [out = p q, in]    w1 [p, m]    w2 [q, n]    y [.., out]
 * x ΔWᵀ = s w1 X w2ᵀ  as [p, q], with X [m, n] the input in rows of n
 * }</pre>
 *
 * <p>w2 is a product w2a [q, r] w2b [r, n] if {@code r < max(q, n) / 2}; with {@code decompose_both} w1 likewise. ΔW is not formed
 * but to merge. w1 (or its first factor) starts at 0, the rest Kaiming-uniform (a = √5): no change yet. The scale counts
 * where nothing is of low rank too, as in PEFT 0.21, against which it was checked.
 */
public final class Lokr implements Adapter, Mergeable {

    /**
     * LoKr's settings, by the names of PEFT in brackets.
     *
     * @param lycoris rank, scale and dropout
     * @param decomposeBoth [decompose_both] whether w1 is a product of low rank too, where that is smaller
     * @param decomposeFactor [decompose_factor] p and m where it divides out and in, else a bound on them; -1 for the most
     *     square split
     * @param rankDropoutScale [rank_dropout_scale] whether rows that do not drop out grow so that the mean stays
     * @param init [init_weights] {@code true} starts w1 at 0, {@code lycoris} w2 instead, {@code false} neither, for tests
     */
    public record Config(
            Lycoris lycoris, boolean decomposeBoth, int decomposeFactor, boolean rankDropoutScale, String init) {

        private static final List<String> STARTS = List.of("true", "lycoris", "false");

        /** PEFT's defaults. */
        public static final Config DEFAULT = new Config(Lycoris.DEFAULT, false, -1, false, "true");

        /** Checks ranges. */
        public Config {
            check(
                    decomposeFactor == -1 || decomposeFactor >= 1,
                    "decompose_factor must be at least 1, or -1 for the most square split, found %d; try -1",
                    decomposeFactor);
            check(STARTS.contains(init), "init_weights must be true, false or lycoris, found %s; try true", init);
        }

        /** LoKr of some rank and alpha. */
        public static Config of(int r, double alpha) {
            return new Config(Lycoris.of(r, alpha), false, -1, false, "true");
        }

        /** The same with w1 of low rank too, or not. */
        public Config withDecomposeBoth(boolean both) {
            return new Config(lycoris, both, decomposeFactor, rankDropoutScale, init);
        }

        /** The same split otherwise. */
        public Config withDecomposeFactor(int factor) {
            return new Config(lycoris, decomposeBoth, factor, rankDropoutScale, init);
        }

        /** The same with another start. */
        public Config withInit(String start) {
            return new Config(lycoris, decomposeBoth, decomposeFactor, rankDropoutScale, start);
        }
    }

    /** How LoKr is set up, read and written. */
    public static final class Type implements AdapterType<Config> {

        @Override
        public About about() {
            return new About(
                    "lokr",
                    "adapter",
                    "a frozen layer plus the Kronecker product of two small maps",
                    "Yeh et al., Navigating Text-To-Image Customization: From LyCORIS Fine-Tuning to Model Evaluation,"
                            + " arXiv:2309.14859",
                    """
                    y = x Wᵀ + b + x ΔWᵀ,  ΔW = s w1 ⊗ w2,  s = alpha / r
                    W [out = p q, in = m n] frozen, w1 [p, m] and w2 [q, n] trained, w2 = w2a [q, r] w2b [r, n] if r < max(q, n) / 2""",
                    "any optimizer, trained heads (modules_to_save); not with bias, embeddings or initialisers of factors",
                    "w1 and w2 of each layer or their factors, in PEFT's format (LOKR)",
                    true);
        }

        @Override
        public Map<String, String> meanings() {
            Map<String, String> all = new HashMap<>(Lycoris.MEANINGS);
            all.put("decompose_both", "make w1 a product of low rank too, where that is smaller");
            all.put(
                    "decompose_factor",
                    "p and m where it divides out and in, at least 1; -1 for the most square split");
            all.put("rank_dropout_scale", "rows that do not drop out grow so that the mean stays");
            all.put("init_weights", "true starts w1 at 0, lycoris w2 instead, false neither, for tests");
            return all;
        }

        @Override
        public String peftType() {
            return "LOKR";
        }

        @Override
        public Config read(Fields f) {
            Config d = Config.DEFAULT;
            Object init = f.any("init_weights");
            return new Config(
                    Lycoris.read(f),
                    f.bool("decompose_both", d.decomposeBoth()),
                    f.integer("decompose_factor", d.decomposeFactor()),
                    f.bool("rank_dropout_scale", d.rankDropoutScale()),
                    init == null ? d.init() : init.toString().toLowerCase(Locale.ROOT));
        }

        @Override
        public Map<String, @Nullable Object> write(Config config) {
            Map<String, @Nullable Object> json = config.lycoris().write();
            json.put("decompose_both", config.decomposeBoth());
            json.put("decompose_factor", config.decomposeFactor());
            json.put("rank_dropout_scale", config.rankDropoutScale());
            json.put(
                    "init_weights",
                    config.init().equals("lycoris") ? config.init() : (Object) Boolean.valueOf(config.init()));
            return json;
        }

        @Override
        public void check(Config config, List<Site> sites) {
            config.lycoris().fit(sites);
        }

        @Override
        public Made create(Config config, List<Site> sites, Seed seed) {
            return Made.each(sites, site -> new Lokr(config, site, seed));
        }
    }

    private final Lycoris settings;
    private final boolean keepsMean;
    private final double scale; // s
    private final Map<String, Parameter> named = new LinkedHashMap<>();
    private final List<Parameter> w1; // [p, m], or [p, r] and [r, m]
    private final List<Parameter> w2; // [q, n], or [q, r] and [r, n]

    /** LoKr on one layer. */
    public Lokr(Config config, Site site, Seed seed) {
        settings = config.lycoris();
        keepsMean = config.rankDropoutScale();
        scale = settings.scaleAt(site.path());
        long r = settings.rankAt(site.path());
        long[] in = split(site.linear("lokr").inFeatures(), config.decomposeFactor()); // m, n
        long[] out = split(site.layer().outFeatures(), config.decomposeFactor()); // p, q
        boolean low1 = config.decomposeBoth() && r < Math.max(out[0], in[0]) / 2.0;
        boolean low2 = r < Math.max(out[1], in[1]) / 2.0;
        try (Scope scope = Scope.open();
                Generator generator = seed.named(site.path()).named("lokr").generator()) {
            // The first factor of w1 starts at 0, or with "lycoris" the last one of w2.
            boolean zero1 = config.init().equals("true");
            boolean zero2 = config.init().equals("lycoris");
            w1 = low1
                    ? List.of(
                            named("lokr_w1_a", site, generator, zero1, out[0], r),
                            named("lokr_w1_b", site, generator, false, r, in[0]))
                    : List.of(named("lokr_w1", site, generator, zero1, out[0], in[0]));
            w2 = low2
                    ? List.of(
                            named("lokr_w2_a", site, generator, false, out[1], r),
                            named("lokr_w2_b", site, generator, zero2, r, in[1]))
                    : List.of(named("lokr_w2", site, generator, zero2, out[1], in[1]));
        }
    }

    private Parameter named(String name, Site site, Generator generator, boolean zero, long rows, long columns) {
        Parameter p = site.trained(
                zero ? Tensor.zeros(DType.FLOAT32, rows, columns) : generator.kaimingUniform(rows, columns));
        named.put(name, p);
        return p;
    }

    /**
     * Two factors of a width, the first one no larger than the second unless it was asked for: the most square pair whose
     * first is at most {@code factor}, or {@code factor} itself if that divides; -1 for no bound.
     */
    static long[] split(long width, int factor) {
        if (factor > 0 && width % factor == 0) {
            return new long[] {factor, width / factor};
        }
        long bound = factor == -1 ? width : factor;
        long first = 1;
        for (long d = 2; d * d <= width && d <= bound; d++) {
            if (width % d == 0) {
                first = d;
            }
        }
        return new long[] {first, width / first};
    }

    @Override
    public Tensor forward(Tensor x, Base base) {
        Tensor left = product(w1); // [p, m]
        long m = left.size(1);
        Tensor block = x.reshape(-1, m, x.size(-1) / m); // X [N, m, n]
        for (int i = w2.size() - 1; i >= 0; i--) {
            block = block.linear(w2.get(i).tensor(), null); // X w2ᵀ [N, m, q], by way of [N, m, r]
        }
        Tensor y = base.forward(x); // [.., out]
        Tensor change = left.mul(scale).to(block.dtype()).matmul(block).reshape(y.shape()); // from [N, p, q]
        return y.add(settings.thinned(change, keepsMean, base));
    }

    /** W to W + s w1 ⊗ w2. */
    @Override
    public Base.Affine merge(Base.Affine base) {
        Tensor one = product(w1); // [p, m]
        Tensor two = product(w2).mul(scale); // [q, n]
        Tensor blocks = one.unsqueeze(1).unsqueeze(3).mul(two.unsqueeze(1)); // [p, q, m, n]
        return new Base.Affine(base.weight().add(blocks.reshape(base.weight().shape())), base.bias());
    }

    private static Tensor product(List<Parameter> factors) {
        Tensor first = factors.get(0).tensor();
        return factors.size() == 1 ? first : first.matmul(factors.get(1).tensor());
    }

    @Override
    public Map<String, Parameter> parameters() {
        return named;
    }
}
