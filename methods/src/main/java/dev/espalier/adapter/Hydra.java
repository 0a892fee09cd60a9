package dev.espalier.adapter;

import static dev.espalier.Check.check;

import dev.espalier.io.Fields;
import dev.espalier.nn.Layer;
import dev.espalier.nn.Parameter;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Generator;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/**
 * Hydra: a low-rank branch beside the layer and one behind it.
 *
 * <p>Kim et al., <i>Hydra: Multi-head Low-rank Adaptation for Parameter Efficient Fine-tuning</i>, arXiv:2309.06922.
 *
 * <pre>{@code
 * y = h + s ((x A_pᵀ + c_p) B_pᵀ + d_p) + s ((h A_sᵀ + c_s) B_sᵀ + d_s),    h = x Wᵀ + b
 * x [.., in]    W [out, in]    A_p [r_p, in], B_p [out, r_p] beside    A_s [r_s, out], B_s [out, r_s] behind    y, h [.., out]
 * W' = W + s (B_p A_p + B_s A_s W)    b' = b + s (B_p c_p + d_p) + s (B_s (A_s b + c_s) + d_s)
 * }</pre>
 *
 * <p>A starts Kaiming-uniform, all else at zero; c and d are there with {@code branch_bias}. These are the authors' language models;
 * {@code start: normal} and {@code start: xavier} with biases are their CLIP and VTAB ones, of which the first one's trained s is
 * not here. Forward and merged weight are checked against the authors' code. A plain LoRA made of it holds A_s W of the layer as it
 * is now.
 */
public final class Hydra implements Adapter, LoraExpressible {

    /** How A starts. */
    public enum Start {
        /** Uniform in ±1/√f, f being the width that the branch reads. */
        KAIMING,
        /** N(0, 0.02²). */
        NORMAL,
        /** Uniform in ±√(6 / (f + r)). */
        XAVIER
    }

    /**
     * Hydra's settings.
     *
     * @param parallel [r_p] rank of the branch beside the layer; 0 for none
     * @param sequential [r_s] rank of the branch behind it; 0 for none, but not both
     * @param scale s, positive
     * @param dropout share dropped between A and B, in [0, 1)
     * @param bias [branch_bias] whether c and d are there
     * @param start of A
     */
    public record Config(int parallel, int sequential, double scale, double dropout, boolean bias, Start start) {

        /** The paper's ranks for vision, all else as for language. */
        public static final Config DEFAULT = of(2, 2);

        /** Checks the ranges. */
        public Config {
            check(
                    parallel >= 0 && sequential >= 0 && parallel + sequential > 0,
                    "r_p and r_s must be at least 0 and not both 0, found %d and %d; try 2 and 2",
                    parallel,
                    sequential);
            check(scale > 0 && Double.isFinite(scale), "scale must be positive and finite, found %s; try 1", scale);
            check(dropout >= 0 && dropout < 1, "dropout must lie in [0, 1), found %s; try 0", dropout);
        }

        /** Both branches, without biases. */
        public static Config of(int parallel, int sequential) {
            return new Config(parallel, sequential, 1, 0, false, Start.KAIMING);
        }

        /** The same with another scale, with or without biases. */
        public Config with(double s, boolean biases) {
            return new Config(parallel, sequential, s, dropout, biases, start);
        }
    }

    /** How Hydra is set up, read and written. */
    public static final class Type implements AdapterType<Config> {

        @Override
        public About about() {
            return new About(
                    "hydra",
                    "adapter",
                    "a low-rank branch beside the layer and one behind it",
                    "Kim et al., Hydra: Multi-head Low-rank Adaptation for Parameter Efficient Fine-tuning, arXiv:2309.06922",
                    """
                    y = h + s (x A_pᵀ) B_pᵀ + s (h A_sᵀ) B_sᵀ,  h = x Wᵀ + b;  with branch_bias also vectors after each A and B
                    A_p [r_p, in], B_p [out, r_p], A_s [r_s, out], B_s [out, r_s] trained: r_p (in + out) + 2 r_s out a layer""",
                    "any optimizer, modules_to_save and bias; linear layers only, no initializer",
                    "A and B of both branches of each layer; export --to lora is exact, at rank r_p + r_s, with lora_bias where"
                            + " the bias changes",
                    true);
        }

        @Override
        public Map<String, String> meanings() {
            return Map.of(
                    "r_p", "rank of the branch beside the layer, 0 (none) to the layer's smaller width",
                    "r_s", "rank of the branch behind the layer, 0 (none) to its output's width; not both 0",
                    "scale", "s, which multiplies both branches, above 0; the paper's for images lie in 0.1 to 4.5",
                    "dropout", "share dropped between A and B in training, in [0, 1)",
                    "branch_bias",
                            "whether each A and B has a bias; a layer without one cannot take them up when merged",
                    "start", "of A: kaiming, normal (standard deviation 0.02) or xavier");
        }

        @Override
        public String peftType() {
            return "HYDRA";
        }

        @Override
        public Config read(Fields f) {
            Config usual = Config.DEFAULT;
            return new Config(
                    f.integer("r_p", usual.parallel()),
                    f.integer("r_s", usual.sequential()),
                    f.number("scale", usual.scale()),
                    f.number("dropout", usual.dropout()),
                    f.bool("branch_bias", usual.bias()),
                    f.choice("start", usual.start()));
        }

        @Override
        public Map<String, @Nullable Object> write(Config config) {
            Map<String, @Nullable Object> json = new LinkedHashMap<>();
            json.put("r_p", config.parallel());
            json.put("r_s", config.sequential());
            json.put("scale", config.scale());
            json.put("dropout", config.dropout());
            json.put("branch_bias", config.bias());
            json.put("start", config.start().name().toLowerCase(Locale.ROOT));
            json.put("bias", "none");
            return json;
        }

        @Override
        public void check(Config config, List<Site> sites) {
            for (Site site : sites) {
                long out = site.linear("hydra").outFeatures();
                long width = Math.min(out, site.layer().inFeatures());
                fits("r_p", config.parallel(), width, site);
                fits("r_s", config.sequential(), out, site);
            }
        }

        private static void fits(String name, int rank, long most, Site site) {
            dev.espalier.Check.check(
                    rank <= most,
                    "%s is %d, above the width %d of %s [%d, %d], where a higher rank adds nothing; try %d",
                    name,
                    rank,
                    most,
                    site.path(),
                    site.layer().outFeatures(),
                    site.layer().inFeatures(),
                    most);
        }

        @Override
        public Made create(Config config, List<Site> sites, Seed seed) {
            return Made.each(sites, site -> new Hydra(config, site, seed));
        }
    }

    /** A branch: A [r, f], B [out, r], and perhaps c [r] and d [out]. */
    private record Branch(
            Parameter a,
            Parameter b,
            @Nullable Parameter c,
            @Nullable Parameter d) {

        static Branch of(Config config, int rank, long width, Site site, Seed seed, String name) {
            long out = site.layer().outFeatures();
            try (Scope scope = Scope.open();
                    Generator generator =
                            seed.named(site.path()).named(name + "_A").generator()) {
                double bound = Math.sqrt(6.0 / (width + rank));
                Tensor start = switch (config.start()) {
                    case KAIMING -> generator.kaimingUniform(rank, width);
                    case NORMAL -> generator.normal(0, 0.02, rank, width);
                    case XAVIER -> generator.uniform(-bound, bound, rank, width);
                };
                return new Branch(
                        site.trained(start),
                        site.trained(Tensor.zeros(DType.FLOAT32, out, rank)),
                        config.bias() ? site.trained(Tensor.zeros(DType.FLOAT32, rank)) : null,
                        config.bias() ? site.trained(Tensor.zeros(DType.FLOAT32, out)) : null);
            }
        }

        /** x Aᵀ + c [n, r]. */
        Tensor down(Tensor x) {
            return x.linear(a.tensor(), c == null ? null : c.tensor());
        }

        /** B z + d [out] for z = what the bias comes to after A [r]; null for none. */
        @Nullable
        Tensor shift(@Nullable Tensor before) {
            Tensor z = before;
            if (c != null) {
                z = z == null ? c.tensor() : z.add(c.tensor());
            }
            Tensor moved = z == null ? null : b.tensor().matmul(z);
            return d == null || moved == null ? moved : moved.add(d.tensor());
        }
    }

    private final Layer layer;
    private final @Nullable Branch parallel;
    private final @Nullable Branch sequential;
    private final double scale; // s
    private final double dropout;

    /** Hydra on one layer. */
    Hydra(Config config, Site site, Seed seed) {
        layer = site.linear("hydra");
        scale = config.scale();
        dropout = config.dropout();
        int p = config.parallel();
        int s = config.sequential();
        parallel = p == 0 ? null : Branch.of(config, p, layer.inFeatures(), site, seed, "lora");
        sequential = s == 0 ? null : Branch.of(config, s, layer.outFeatures(), site, seed, "hydra");
    }

    @Override
    public Tensor forward(Tensor x, Base base) {
        return Base.onRows(x, rows -> {
            Tensor h = base.forward(rows); // [n, out], fresh; the branch behind reads it as it is
            boolean training = base.layer().isTraining();
            Tensor y = sequential == null ? h : added(h, sequential.down(h), sequential, training);
            return parallel == null ? y : added(y, parallel.down(rows), parallel, training);
        });
    }

    private Tensor added(Tensor y, Tensor down, Branch branch, boolean training) {
        Tensor up = branch.b.tensor().to(y.dtype()).t();
        Tensor sum = y.addmm(down.dropout(dropout, training), up, scale);
        return branch.d == null ? sum : sum.add(branch.d.tensor().to(y.dtype()), scale);
    }

    /** Of the layer's weight and bias as they are now; other adapters below it are not seen. */
    @Override
    public LoraFactors toLora() {
        return over(Base.Affine.of(layer));
    }

    @Override
    public Base.Affine merge(Base.Affine base) {
        return over(base).merge(base);
    }

    /** A_p over A_s W [r_p + r_s, in], B_p beside B_s [out, r_p + r_s], and what the bias gains, by s. */
    private LoraFactors over(Base.Affine base) {
        List<Tensor> down = new ArrayList<>();
        List<Tensor> up = new ArrayList<>();
        Tensor shift = null;
        if (parallel != null) {
            down.add(parallel.a.tensor());
            up.add(parallel.b.tensor());
            shift = parallel.shift(null);
        }
        if (sequential != null) {
            Tensor a = sequential.a.tensor();
            down.add(a.matmul(base.weight()));
            up.add(sequential.b.tensor());
            Tensor more = sequential.shift(base.bias() == null ? null : a.matmul(base.bias()));
            shift = shift == null || more == null ? (shift == null ? more : shift) : shift.add(more);
        }
        return new LoraFactors(Tensor.cat(down, 0), Tensor.cat(up, 1), scale, shift);
    }

    @Override
    public Map<String, Parameter> parameters() {
        Map<String, Parameter> named = new LinkedHashMap<>();
        put(named, "lora", parallel);
        put(named, "hydra", sequential);
        return named;
    }

    private static void put(Map<String, Parameter> into, String name, @Nullable Branch branch) {
        if (branch != null) {
            into.put(name + "_A.weight", branch.a);
            into.put(name + "_B.weight", branch.b);
            if (branch.c != null && branch.d != null) {
                into.put(name + "_A.bias", branch.c);
                into.put(name + "_B.bias", branch.d);
            }
        }
    }
}
