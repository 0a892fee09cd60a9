package dev.espalier.adapter;

import static dev.espalier.Check.check;

import dev.espalier.io.Fields;
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
import java.util.regex.Pattern;
import org.jspecify.annotations.Nullable;

/**
 * (IA)³: a trained factor for every output of a layer, or for every input of a feed-forward layer.
 *
 * <p>Liu et al., <i>Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than In-Context Learning</i>,
 * arXiv:2205.05638, section 3.3.
 *
 * <pre>{@code
 * y = l * (x Wᵀ + b)       l [out], attention
 * y = (x * l) Wᵀ + b       l [in],  feed-forward
 * x [.., in]    W [out, in]    b [out]    y [.., out]
 * }</pre>
 *
 * <p>l starts at 1: no change yet. The paper scales keys, values and the inner activations of the feed-forward blocks; which
 * layers count as feed-forward is a setting, for a layer does not know. Checked against PEFT 0.21.
 */
public final class Ia3 implements Adapter, Mergeable {

    /**
     * (IA)³'s settings, by the names of PEFT in brackets.
     *
     * @param feedforward [feedforward_modules] ends of the paths of layers whose input is scaled, or one regular expression
     * @param regex whether feedforward is a single regular expression for whole paths, as a text instead of a list means
     * @param init [init_ia3_weights] whether l starts at 1; else at N(0, 1), for tests
     */
    public record Config(List<String> feedforward, boolean regex, boolean init) {

        /** Outputs are scaled everywhere. */
        public static final Config DEFAULT = new Config(List.of(), false, true);

        /** Copies the list and checks an expression. */
        public Config {
            feedforward = List.copyOf(feedforward);
            if (regex) {
                check(
                        feedforward.size() == 1,
                        "feedforward_modules takes one regular expression or a list of names, found %d expressions; join them with |",
                        feedforward.size());
                Targets.compile("feedforward_modules", feedforward.get(0));
            }
        }

        /** The inputs of some layers are scaled, of the others the outputs. */
        public static Config of(String... feedforward) {
            return new Config(List.of(feedforward), false, true);
        }

        /** Whether the input of the layer at a path is scaled. */
        boolean scalesInput(String path) {
            return regex
                    ? Pattern.matches(feedforward.get(0), path)
                    : feedforward.stream().anyMatch(path::endsWith);
        }
    }

    /** How (IA)³ is set up, read and written. */
    public static final class Type implements AdapterType<Config> {

        @Override
        public About about() {
            return new About(
                    "ia3",
                    "adapter",
                    "a trained factor for every output, or every input of a feed-forward layer",
                    "Liu et al., Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than In-Context Learning,"
                            + " arXiv:2205.05638",
                    """
                    y = l * (x Wᵀ + b), l [out];  feed-forward: y = (x * l) Wᵀ + b, l [in]
                    W [out, in] frozen, l trained: out or in parameters a layer""",
                    "any optimizer, trained heads (modules_to_save); not with bias, embeddings or initialisers of factors",
                    "l of each layer, in PEFT's format (IA3)",
                    true);
        }

        @Override
        public Map<String, String> meanings() {
            return Map.of(
                    "feedforward_modules",
                    "targets whose input is scaled: a list of ends of paths, or a text, a regular expression for whole paths",
                    "init_ia3_weights",
                    "true starts l at 1, false at random, for tests");
        }

        @Override
        public String peftType() {
            return "IA3";
        }

        @Override
        public Config read(Fields f) {
            boolean regex = f.any("feedforward_modules") instanceof String;
            return new Config(
                    f.strings("feedforward_modules", List.of()),
                    regex,
                    f.bool("init_ia3_weights", Config.DEFAULT.init()));
        }

        @Override
        public Map<String, @Nullable Object> write(Config config) {
            Map<String, @Nullable Object> json = new LinkedHashMap<>();
            json.put(
                    "feedforward_modules", config.regex() ? config.feedforward().get(0) : config.feedforward());
            json.put("init_ia3_weights", config.init());
            json.put("fan_in_fan_out", false);
            return json;
        }

        @Override
        public Set<String> unknownToPeft() {
            return Set.of("layers_to_transform", "layers_pattern");
        }

        @Override
        public Set<String> targetLists() {
            return Set.of("feedforward_modules");
        }

        @Override
        public void check(Config config, List<Site> sites) {
            for (String item : config.feedforward()) {
                Config alone = new Config(List.of(item), config.regex(), true);
                dev.espalier.Check.check(
                        sites.stream().anyMatch(site -> alone.scalesInput(site.path())),
                        "feedforward_modules: %s matches none of the %d adapted modules; the first is %s",
                        item,
                        sites.size(),
                        sites.get(0).path());
            }
        }

        @Override
        public Made create(Config config, List<Site> sites, Seed seed) {
            return Made.each(sites, site -> new Ia3(config, site, seed));
        }
    }

    private final Parameter l; // [out, 1], or [1, in] to scale the input
    private final boolean scalesInput;

    /** (IA)³ on one layer. */
    public Ia3(Config config, Site site, Seed seed) {
        scalesInput = config.scalesInput(site.path());
        long in = site.linear("ia3").inFeatures();
        long out = site.layer().outFeatures();
        long[] shape = scalesInput ? new long[] {1, in} : new long[] {out, 1};
        try (Scope scope = Scope.open();
                Generator generator = seed.named(site.path()).named("ia3_l").generator()) {
            l = site.trained(config.init() ? Tensor.ones(DType.FLOAT32, shape) : generator.randn(shape));
        }
    }

    @Override
    public Tensor forward(Tensor x, Base base) {
        return scalesInput ? base.forward(scaled(x)) : scaled(base.forward(x));
    }

    /** Each of the last dimension times its factor, in the wider type: near 1, bfloat16 would swallow what was learnt. */
    private Tensor scaled(Tensor x) {
        return x.mul(l.tensor().view(-1)).to(x.dtype());
    }

    /** W to diag(l) W and b to l * b, or W to W diag(l). */
    @Override
    public Base.Affine merge(Base.Affine base) {
        Tensor bias = base.bias();
        return new Base.Affine(
                base.weight().mul(l.tensor()),
                bias == null || scalesInput ? bias : bias.mul(l.tensor().view(-1)));
    }

    @Override
    public Map<String, Parameter> parameters() {
        return Map.of("ia3_l", l);
    }
}
