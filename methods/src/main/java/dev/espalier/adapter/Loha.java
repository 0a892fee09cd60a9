package dev.espalier.adapter;

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
import java.util.Map;
import org.jspecify.annotations.Nullable;

/**
 * LoHa: a frozen linear map plus the element-wise product of two trained maps of low rank, whose own rank can be r².
 *
 * <p>Hyeon-Woo et al., <i>FedPara: Low-Rank Hadamard Product for Communication-Efficient Federated Learning</i>,
 * arXiv:2108.06098, proposition 1; for fine-tuning Yeh et al., <i>Navigating Text-To-Image Customization: From LyCORIS
 * Fine-Tuning to Model Evaluation</i>, arXiv:2309.14859.
 *
 * <pre>{@code
 * y = x Wᵀ + b + x ΔWᵀ,    ΔW = s (w1a w1b) * (w2a w2b),    s = alpha / r
 * x [.., in]    W, ΔW [out, in]    w1a, w2a [out, r]    w1b, w2b [r, in]    y [.., out]
 * }</pre>
 *
 * <p>w2b starts at 0, the others Kaiming-uniform (a = √5): no change yet. Dropout of rows divides what it keeps by the
 * expected share, where PEFT divides by the share drawn, which can be 0. Checked against PEFT 0.21.
 */
public final class Loha implements Adapter, Mergeable {

    /**
     * LoHa's settings.
     *
     * @param lycoris rank, scale and dropout
     * @param init [init_weights] whether w2b starts at 0; else at random, for tests
     */
    public record Config(Lycoris lycoris, boolean init) {

        /** PEFT's defaults. */
        public static final Config DEFAULT = new Config(Lycoris.DEFAULT, true);

        /** LoHa of some rank and alpha. */
        public static Config of(int r, double alpha) {
            return new Config(Lycoris.of(r, alpha), true);
        }
    }

    /** How LoHa is set up, read and written. */
    public static final class Type implements AdapterType<Config> {

        @Override
        public About about() {
            return new About(
                    "loha",
                    "adapter",
                    "a frozen layer plus the element-wise product of two maps of low rank",
                    "Hyeon-Woo et al., FedPara: Low-Rank Hadamard Product for Communication-Efficient Federated Learning,"
                            + " arXiv:2108.06098",
                    """
                    y = x Wᵀ + b + x ΔWᵀ,  ΔW = s (w1a w1b) * (w2a w2b),  s = alpha / r
                    W [out, in] frozen, w1a, w2a [out, r] and w1b, w2b [r, in] trained: 2 r (in + out) parameters a layer""",
                    "any optimizer, trained heads (modules_to_save); not with bias, embeddings or initialisers of factors",
                    "the four factors of each layer, in PEFT's format (LOHA)",
                    true);
        }

        @Override
        public Map<String, String> meanings() {
            Map<String, String> all = new HashMap<>(Lycoris.MEANINGS);
            all.put("init_weights", "true starts w2b at 0, false at random, for tests");
            return all;
        }

        @Override
        public String peftType() {
            return "LOHA";
        }

        @Override
        public Config read(Fields f) {
            return new Config(Lycoris.read(f), f.bool("init_weights", Config.DEFAULT.init()));
        }

        @Override
        public Map<String, @Nullable Object> write(Config config) {
            Map<String, @Nullable Object> json = config.lycoris().write();
            json.put("init_weights", config.init());
            return json;
        }

        @Override
        public void check(Config config, List<Site> sites) {
            config.lycoris().fit(sites);
        }

        @Override
        public Made create(Config config, List<Site> sites, Seed seed) {
            return Made.each(sites, site -> new Loha(config, site, seed));
        }
    }

    private final Lycoris settings;
    private final double scale; // s
    private final Parameter w1a; // [out, r]
    private final Parameter w1b; // [r, in]
    private final Parameter w2a; // [out, r]
    private final Parameter w2b; // [r, in]

    /** LoHa on one layer. */
    public Loha(Config config, Site site, Seed seed) {
        settings = config.lycoris();
        scale = settings.scaleAt(site.path());
        long in = site.linear("loha").inFeatures();
        long out = site.layer().outFeatures();
        long r = settings.rankAt(site.path());
        try (Scope scope = Scope.open();
                Generator generator = seed.named(site.path()).named("hada").generator()) {
            w1a = site.trained(generator.kaimingUniform(out, r));
            w1b = site.trained(generator.kaimingUniform(r, in));
            w2a = site.trained(generator.kaimingUniform(out, r));
            w2b = site.trained(config.init() ? Tensor.zeros(DType.FLOAT32, r, in) : generator.kaimingUniform(r, in));
        }
    }

    @Override
    public Tensor forward(Tensor x, Base base) {
        Tensor change = x.linear(change(), null); // [.., out]
        return base.forward(x).add(settings.thinned(change, true, base));
    }

    /** W to W + ΔW. */
    @Override
    public Base.Affine merge(Base.Affine base) {
        return new Base.Affine(base.weight().add(change()), base.bias());
    }

    /** ΔW [out, in]. */
    private Tensor change() {
        Tensor one = w1a.tensor().matmul(w1b.tensor());
        return one.mul(w2a.tensor().mul(scale).matmul(w2b.tensor())); // scaled where it is narrow
    }

    @Override
    public Map<String, Parameter> parameters() {
        Map<String, Parameter> named = new LinkedHashMap<>();
        named.put("hada_w1_a", w1a);
        named.put("hada_w1_b", w1b);
        named.put("hada_w2_a", w2a);
        named.put("hada_w2_b", w2b);
        return named;
    }
}
