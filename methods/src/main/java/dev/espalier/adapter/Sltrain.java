package dev.espalier.adapter;

import static dev.espalier.Check.check;

import dev.espalier.io.Fields;
import dev.espalier.nn.Embedding;
import dev.espalier.nn.Module;
import dev.espalier.nn.Parameter;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Device;
import dev.espalier.tensor.Generator;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import java.util.Collections;
import java.util.IdentityHashMap;
import java.util.LinkedHashMap;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.SplittableRandom;
import org.jspecify.annotations.Nullable;

/**
 * SLTrain: a weight that is learnt from nothing as a product of low rank plus a few free entries at fixed random places.
 *
 * <p>Han et al., <i>SLTrain: a sparse plus low-rank approach for parameter and memory efficient pretraining</i>, NeurIPS 2024,
 * arXiv:2406.02214, eq. 1 and algorithm 1.
 *
 * <pre>{@code
 * y = x Wᵀ + b,    W = s B A + S,    s = lora_alpha / r,    S[o, c] = v_k at the k-th place (o, c) of Ω, else 0
 * x [.., in]    A [r, in]    B [out, r]    v, Ω [⌊δ out in⌋]    b [out]    y [.., out]
 * }</pre>
 *
 * <p>Nothing is frozen underneath: the layer's own weight and bias have no part in it. A and v start uniform in ±1/√in, b in
 * ±1/√out, B at zero, so that W = S at first. Ω is drawn once without replacement, kept as int32 row-major numbers o in + c,
 * ascending, and written with the rest. W is assembled for each use and its gradients are those that libtorch records, so it
 * lives from the layer's forward to its backward pass; the authors assemble it a second time instead. Checked by the card's
 * formulas for the gradients.
 */
public final class Sltrain implements Adapter, Mergeable {

    /**
     * SLTrain's settings.
     *
     * @param r rank, at least 1
     * @param delta δ, the share of free entries, in [0, 1]
     * @param alpha [lora_alpha] numerator of the scale, positive
     * @param rest [train_rest] whether all other parameters of the network train as they are: embeddings, norms, head
     */
    public record Config(int r, double delta, double alpha, boolean rest) {

        /** The authors' smallest model. */
        public static final Config DEFAULT = new Config(128, 0.03, 32, true);

        /** Checks ranges. */
        public Config {
            Lora.Config.of(r, alpha);
            check(delta >= 0 && delta <= 1, "delta must lie in [0, 1], found %s; try 0.03", delta);
        }

        /** Free entries of a weight: the product in double, cut off. */
        long entries(long out, long in) {
            return (long) (delta * (in * out));
        }
    }

    /** How SLTrain is set up, read and written. */
    public static final class Type implements AdapterType<Config> {

        @Override
        public About about() {
            return new About(
                    "sltrain",
                    "adapter",
                    "weights learnt from nothing as low rank plus sparse: for pre-training",
                    "Han et al., SLTrain: a sparse plus low-rank approach for parameter and memory efficient pretraining,"
                            + " NeurIPS 2024, arXiv:2406.02214",
                    """
                    y = x Wᵀ + b,  W = (lora_alpha / r) B A + S,  S with ⌊δ out in⌋ free entries at fixed random places
                    A [r, in], B [out, r], v, b [out] trained: r (in + out) + ⌊δ out in⌋ (+ out) parameters a layer""",
                    "any optimizer; other parameters train as they are; what the network knew in these layers is not used",
                    "A, B, v, places and bias of each layer and the other trained parameters, of our own type (SLTRAIN)",
                    true);
        }

        @Override
        public Map<String, String> meanings() {
            return Map.of(
                    "r", "rank, 1 to the layer's smaller width",
                    "delta", "share of the weight's entries that are free, in [0, 1]",
                    "lora_alpha", "numerator of the scale s = lora_alpha / r, above 0; balances the two parts",
                    "train_rest", "train all other parameters of the network as they are");
        }

        @Override
        public String peftType() {
            return "SLTRAIN";
        }

        @Override
        public Config read(Fields f) {
            Config usual = Config.DEFAULT;
            return new Config(
                    f.integer("r", usual.r()),
                    f.number("delta", usual.delta()),
                    f.number("lora_alpha", usual.alpha()),
                    f.bool("train_rest", usual.rest()));
        }

        @Override
        public Map<String, @Nullable Object> write(Config config) {
            Map<String, @Nullable Object> json = new LinkedHashMap<>();
            json.put("r", config.r());
            json.put("delta", config.delta());
            json.put("lora_alpha", config.alpha());
            json.put("train_rest", config.rest());
            return json;
        }

        @Override
        public void check(Config config, List<Site> sites) {
            Lora.Config.of(config.r(), config.alpha()).fit(sites);
        }

        @Override
        public Made create(Config config, List<Site> sites, Seed seed) {
            return Made.each(sites, site -> new Sltrain(config, site, seed));
        }

        /** All that belongs to no adapted layer; tied parameters once. */
        @Override
        public Set<String> trained(Config config, List<Site> sites, Module network) {
            if (!config.rest()) {
                return Set.of();
            }
            Set<Parameter> known = Collections.newSetFromMap(new IdentityHashMap<>());
            sites.forEach(site -> {
                known.add(site.layer().weightParameter());
                known.add(site.layer().biasParameter());
            });
            Set<String> paths = new LinkedHashSet<>();
            network.namedParameters().forEach((path, p) -> {
                if (known.add(p)) {
                    paths.add(path);
                }
            });
            return paths;
        }
    }

    private final double scale; // s
    private final Parameter a; // A [r, in]
    private final Parameter b; // B [out, r]
    private final Parameter values; // v [n]
    private final Parameter places; // Ω int32 [n]
    private final @Nullable Parameter bias; // b [out]

    private Sltrain(Config config, Site site, Seed seed) {
        check(
                !(site.layer() instanceof Embedding),
                "sltrain is for linear layers, and %s is an embedding; take it out of target_modules",
                site.path());
        long in = site.layer().inFeatures();
        long out = site.layer().outFeatures();
        check(
                in * out <= Integer.MAX_VALUE,
                "%s has %d entries, and places are kept as 32-bit numbers; at most %d will do",
                site.path(),
                in * out,
                Integer.MAX_VALUE);
        scale = config.alpha() / config.r();
        DType wide = site.layer().dtype() == DType.FLOAT64 ? DType.FLOAT64 : DType.FLOAT32;
        Device device = site.layer().weightParameter().tensor().device();
        int n = (int) config.entries(out, in);
        Seed here = seed.named(site.path());
        double bound = 1 / Math.sqrt((double) in);
        try (Scope scope = Scope.open();
                Generator forA = here.named("lora_A").generator();
                Generator forV = here.named("sparse_values").generator();
                Generator forBias = here.named("sltrain_bias").generator()) {
            a = trained(forA.uniform(-bound, bound, config.r(), in), wide, device);
            b = trained(Tensor.zeros(DType.FLOAT32, out, config.r()), wide, device);
            values = trained(forV.uniform(-bound, bound, n), wide, device);
            Tensor drawn = n == 0
                    ? Tensor.zeros(DType.INT32, 0)
                    : Tensor.of(draw(here.named("sparse_index"), n, (int) (in * out)), n);
            places = new Parameter(drawn.to(device));
            double biasBound = 1 / Math.sqrt((double) out);
            bias = site.layer().biasParameter() == null
                    ? null
                    : trained(forBias.uniform(-biasBound, biasBound, out), wide, device);
        }
    }

    private static Parameter trained(Tensor value, DType dtype, Device device) {
        Parameter p = new Parameter(value.to(dtype).to(device));
        p.trainable(p.tensor().numel() > 0);
        return p;
    }

    /**
     * n of the numbers 0 to total - 1, ascending, every set as likely as any other: each number in turn is taken with the
     * probability places left / numbers left (Knuth, <i>The Art of Computer Programming</i> 2, 3.4.2, algorithm S).
     */
    private static int[] draw(Seed seed, int n, int total) {
        SplittableRandom random = new SplittableRandom(seed.value());
        int[] drawn = new int[n];
        int taken = 0;
        for (int i = 0; taken < n; i++) {
            if (random.nextInt(total - i) < n - taken) {
                drawn[taken++] = i;
            }
        }
        return drawn;
    }

    /** W = s B A + S [out, in]. */
    private Tensor weight() {
        Tensor low = b.tensor().matmul(a.tensor().mul(scale)); // [out, in]
        return low.reshape(-1)
                .indexAdd(0, places.tensor().to(DType.INT64), values.tensor())
                .view(low.shape());
    }

    @Override
    public Tensor forward(Tensor x, Base base) {
        Tensor weight = weight().to(x.dtype());
        return x.linear(weight, bias == null ? null : bias.tensor().to(x.dtype()));
    }

    /** W and b, whatever was there. */
    @Override
    public Base.Affine merge(Base.Affine base) {
        return new Base.Affine(weight(), bias == null ? null : bias.tensor().clone());
    }

    @Override
    public Map<String, Parameter> parameters() {
        Map<String, Parameter> named = new LinkedHashMap<>();
        named.put("lora_A", a);
        named.put("lora_B", b);
        named.put("sparse_values", values);
        named.put("sparse_index", places);
        if (bias != null) {
            named.put("sltrain_bias", bias);
        }
        return named;
    }
}
