package dev.espalier.adapter;

import dev.espalier.Check;
import dev.espalier.io.Fields;
import dev.espalier.model.Backbone;
import dev.espalier.model.ModelConfig;
import dev.espalier.model.Prompt;
import dev.espalier.nn.Module;
import dev.espalier.nn.Parameter;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Generator;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import org.jspecify.annotations.Nullable;

/**
 * Prefix tuning: keys and values before those of the tokens are learnt, in every layer.
 *
 * <p>Li, Liang, <i>Prefix-Tuning: Optimizing Continuous Prompts for Generation</i>, arXiv:2101.00190, section 4.
 *
 * <pre>{@code
 * y = attention(q, [K_l; k], [V_l; v]),    P seen as [n, 2 L, K, E]:  K_l = P[:, 2 l],  V_l = P[:, 2 l + 1]
 * P [n, 2 L K E] trained    q, k, v of the tokens, rotated as if n tokens went before    L layers, K key heads of width E
 * with prefix_projection:  P = W2 tanh(W1 e + b1) + b2,    e [n, K E]    W1 [h, K E]    W2 [2 L K E, h]
 * }</pre>
 *
 * <p>Saved is P, whatever made it, as PEFT does; read back, P itself trains on. Checked against PEFT 0.21 on decoders; encoders, which it no longer serves, follow the same formula.
 */
public final class PrefixTuning implements AdapterType<PrefixTuning.Config> {

    private static final String NAME = "prompt_embeddings";

    /**
     * Prefix tuning's settings, by PEFT's names.
     *
     * @param tokens [num_virtual_tokens] n, at least 1
     * @param projection [prefix_projection] whether P is made by a small network while it trains
     * @param hidden [encoder_hidden_size] that network's inner width h, at least 1; null for the width of e
     * @param zero [init_weights] whether P starts at zeros
     * @param stored whether it comes from a file, which holds P: that trains then, whatever made it
     * @param sizes what the files say about the network
     */
    public record Config(
            int tokens, boolean projection, @Nullable Integer hidden, boolean zero, boolean stored, PromptSizes sizes) {

        /** A prefix of twenty places. */
        public static final Config DEFAULT = of(20);

        /** Checks the ranges. */
        public Config {
            PromptSizes.checkTokens(tokens);
            Check.check(
                    hidden == null || hidden >= 1, "encoder_hidden_size must be at least 1, found %d; try 128", hidden);
            Check.check(
                    !(zero && projection),
                    "init_weights zero is for a prefix without projection; switch one of them off");
        }

        /** A prefix of some length. */
        public static Config of(int tokens) {
            return new Config(tokens, false, null, false, false, PromptSizes.NONE);
        }
    }

    @Override
    public About about() {
        return new About(
                "prefix-tuning",
                "prompt",
                "learnt keys and values before those of the tokens, in every layer",
                "Li and Liang, Prefix-Tuning: Optimizing Continuous Prompts for Generation, arXiv:2101.00190",
                """
                y = attention(q, [K_l; k], [V_l; v]),  P [n, 2 L K E] trained, K_l and V_l its slots 2l and 2l + 1
                with prefix_projection: P = W2 tanh(W1 e + b1) + b2,  e [n, K E],  W1 [h, K E],  W2 [2 L K E, h]""",
                "any optimizer, trained heads (modules_to_save); not with packing; not merged and no LoRA",
                "prompt_embeddings, P itself, in PEFT's format (PREFIX_TUNING)",
                false);
    }

    @Override
    public Map<String, String> meanings() {
        Map<String, String> all = new LinkedHashMap<>(PromptSizes.MEANINGS);
        all.put("prefix_projection", "whether a small network makes the prefix while it trains");
        all.put("encoder_hidden_size", "that network's inner width, at least 1; the width of a row if not given");
        all.put("init_weights", "zero to start at zeros; N(0, 1) if not given");
        return all;
    }

    @Override
    public String peftType() {
        return "PREFIX_TUNING";
    }

    @Override
    public boolean onLayers() {
        return false;
    }

    @Override
    public Config read(Fields f) {
        int tokens = f.integer("num_virtual_tokens", Config.DEFAULT.tokens());
        boolean projection = f.bool("prefix_projection", false);
        Integer hidden = f.orNull("encoder_hidden_size", Fields::integer);
        String start = f.orNull("init_weights", Fields::string);
        Check.check(
                start == null || start.equals("zero"),
                "init_weights is %s; only zero is known, or leave it out",
                start);
        return new Config(tokens, projection, hidden, start != null, f.has("peft_type"), PromptSizes.read(f));
    }

    @Override
    public Map<String, @Nullable Object> write(Config config) {
        Map<String, @Nullable Object> json = config.sizes().write(config.tokens());
        json.put("prefix_projection", config.projection());
        json.put("encoder_hidden_size", config.hidden());
        json.put("init_weights", config.zero() ? "zero" : null);
        return json;
    }

    @Override
    public Made create(Config config, List<Site> sites, Seed seed) {
        return Made.NONE;
    }

    @Override
    public Saved<Config> saved(Config c, Made made) {
        Prefix prefix = (Prefix) Objects.requireNonNull(made.onNetwork());
        Integer hidden = c.hidden() == null ? prefix.sizes.width() : c.hidden();
        return new Saved<>(
                new Config(c.tokens(), c.projection(), hidden, c.zero(), c.stored(), prefix.sizes),
                Map.of(NAME, prefix.flat()));
    }

    @Override
    public NetworkAdapter createOn(Module network, Config config, Seed seed) {
        Backbone backbone = PromptTuning.backbone(network, name());
        ModelConfig of = backbone.config();
        Check.check(
                of.isUniform(),
                "the blocks of this network have different numbers of heads, and a prefix is as wide in all of them; use prompt-tuning");
        int row = of.numKeyValueHeads() * of.headDim();
        PromptSizes sizes = config.sizes().against(row, of.numHiddenLayers(), of.numKeyValueHeads());
        return new Prefix(config, sizes, of, backbone.tokens().weightParameter().tensor(), seed.named(NAME));
    }

    /** P on a network, or what makes it. */
    private static final class Prefix implements NetworkAdapter {
        private final PromptSizes sizes;
        private final long[] shape; // [n, 2 L, K, E]
        private final Map<String, Parameter> parameters = new LinkedHashMap<>();

        Prefix(Config config, PromptSizes sizes, ModelConfig of, Tensor like, Seed seed) {
            this.sizes = sizes;
            shape = new long[] {config.tokens(), 2L * of.numHiddenLayers(), of.numKeyValueHeads(), of.headDim()};
            long row = shape[2] * shape[3];
            long all = shape[1] * row;
            try (Grad off = Grad.off();
                    Scope scope = Scope.open();
                    Generator generator = seed.generator()) {
                if (config.projection() && !config.stored()) {
                    long hidden = config.hidden() == null ? row : config.hidden();
                    put("embedding.weight", generator.randn(config.tokens(), row), like);
                    put("transform.0.weight", generator.kaimingUniform(hidden, row), like);
                    put("transform.0.bias", bias(generator, hidden, row), like);
                    put("transform.2.weight", generator.kaimingUniform(all, hidden), like);
                    put("transform.2.bias", bias(generator, all, hidden), like);
                } else {
                    Tensor start = config.zero()
                            ? Tensor.zeros(DType.FLOAT32, config.tokens(), all)
                            : generator.randn(config.tokens(), all);
                    put(NAME, start, like);
                }
            }
        }

        /** As torch.nn.Linear starts. */
        private static Tensor bias(Generator generator, long out, long in) {
            return generator.uniform(-1 / Math.sqrt((double) in), 1 / Math.sqrt((double) in), out);
        }

        private void put(String name, Tensor start, Tensor like) {
            parameters.put(name, PromptSizes.trained(start, like));
        }

        /** P [n, 2 L K E]. */
        Tensor flat() {
            if (parameters.containsKey(NAME)) {
                return at(NAME);
            }
            return at("embedding.weight")
                    .linear(at("transform.0.weight"), at("transform.0.bias"))
                    .tanh()
                    .linear(at("transform.2.weight"), at("transform.2.bias"));
        }

        private Tensor at(String name) {
            return Objects.requireNonNull(parameters.get(name)).tensor();
        }

        @Override
        public Map<String, Parameter> parameters() {
            return parameters;
        }

        @Override
        public void apply(Module network, boolean on) {
            PromptTuning.backbone(network, NAME).prompt(on ? () -> new Prompt.KeyValues(flat().view(shape)) : null);
        }
    }
}
