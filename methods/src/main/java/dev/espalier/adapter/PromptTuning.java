package dev.espalier.adapter;

import dev.espalier.Check;
import dev.espalier.EspalierException;
import dev.espalier.io.Fields;
import dev.espalier.model.Backbone;
import dev.espalier.model.Model;
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
import java.util.Locale;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/**
 * Prompt tuning: rows before the embedded tokens are learnt, and nothing else.
 *
 * <p>Lester, Al-Rfou, Constant, <i>The Power of Scale for Parameter-Efficient Prompt Tuning</i>, arXiv:2104.08691, section 2.
 *
 * <pre>{@code
 * hidden = network([P; E(tokens)])[n:]
 * P [n, D] trained    E(tokens) [T, D]    n = num_virtual_tokens, D the width of the token table
 * }</pre>
 *
 * <p>Classifiers that read the first place read it at P's first row, as in PEFT. Left padding stands between P and the tokens and
 * counts for nothing; PEFT numbers it. P starts at N(0, 1) or at rows drawn from the token table. Checked against PEFT 0.21.
 */
public final class PromptTuning implements AdapterType<PromptTuning.Config> {

    private static final String NAME = "prompt_embeddings";

    /** Where P starts. */
    public enum Init {
        /** At N(0, 1). */
        RANDOM,
        /** At rows of the token table, drawn. */
        SAMPLE_VOCAB,
        /** At the rows of a text's tokens; such files are read, and none is started. */
        TEXT
    }

    /**
     * Prompt tuning's settings, by PEFT's names.
     *
     * @param tokens [num_virtual_tokens] n, at least 1
     * @param init [prompt_tuning_init] where P starts
     * @param sizes what the files say about the network
     * @param text [prompt_tuning_init_text], [tokenizer_name_or_path] and [tokenizer_kwargs] of a file, kept as they are
     */
    public record Config(int tokens, Init init, PromptSizes sizes, Map<String, Object> text) {

        /** A prompt of twenty places. */
        public static final Config DEFAULT = of(20);

        /** Checks the range. */
        public Config {
            PromptSizes.checkTokens(tokens);
            text = Map.copyOf(text);
        }

        /** A prompt of some length. */
        public static Config of(int tokens) {
            return new Config(tokens, Init.RANDOM, PromptSizes.NONE, Map.of());
        }
    }

    @Override
    public About about() {
        return new About(
                "prompt-tuning",
                "prompt",
                "learnt rows before the embedded tokens",
                "Lester et al., The Power of Scale for Parameter-Efficient Prompt Tuning, arXiv:2104.08691",
                """
                hidden = network([P; E(tokens)])[n:],  P [n, D] trained,  n = num_virtual_tokens
                n D parameters, whatever the network's depth""",
                "any optimizer, trained heads (modules_to_save); not with packing; not merged and no LoRA",
                "prompt_embeddings, in PEFT's format (PROMPT_TUNING)",
                false);
    }

    @Override
    public Map<String, String> meanings() {
        Map<String, String> all = new LinkedHashMap<>(PromptSizes.MEANINGS);
        all.put("prompt_tuning_init", "random, at N(0, 1), or sample_vocab, at drawn rows of the token table");
        all.put("prompt_tuning_init_text", "of files that started at a text");
        all.put("tokenizer_name_or_path", "likewise");
        all.put("tokenizer_kwargs", "likewise");
        return all;
    }

    @Override
    public String peftType() {
        return "PROMPT_TUNING";
    }

    @Override
    public boolean onLayers() {
        return false;
    }

    @Override
    public Config read(Fields f) {
        int tokens = f.integer("num_virtual_tokens", Config.DEFAULT.tokens());
        Init init = f.choice("prompt_tuning_init", Config.DEFAULT.init());
        Map<String, Object> text = new LinkedHashMap<>();
        for (String key : List.of("prompt_tuning_init_text", "tokenizer_name_or_path", "tokenizer_kwargs")) {
            Object value = f.any(key);
            if (value != null) {
                text.put(key, value);
            }
        }
        return new Config(tokens, init, PromptSizes.read(f), text);
    }

    @Override
    public Map<String, @Nullable Object> write(Config config) {
        Map<String, @Nullable Object> json = config.sizes().write(config.tokens());
        json.put("prompt_tuning_init", config.init().name().toUpperCase(Locale.ROOT));
        for (String key : List.of("prompt_tuning_init_text", "tokenizer_name_or_path", "tokenizer_kwargs")) {
            json.put(key, config.text().get(key));
        }
        return json;
    }

    @Override
    public void check(Config config, List<Site> sites) {
        Check.check(
                config.init() != Init.TEXT,
                "prompt_tuning_init is text, which needs the tokenizer that made it; take sample_vocab, which starts at rows of the token table too");
    }

    @Override
    public Made create(Config config, List<Site> sites, Seed seed) {
        return Made.NONE;
    }

    @Override
    public Saved<Config> saved(Config c, Made made) {
        Rows rows = (Rows) java.util.Objects.requireNonNull(made.onNetwork());
        return new Saved<>(new Config(c.tokens(), c.init(), rows.sizes, c.text()), made.tensors());
    }

    @Override
    public NetworkAdapter createOn(Module network, Config config, Seed seed) {
        Backbone backbone = backbone(network, name());
        PromptSizes sizes = config.sizes()
                .against(
                        backbone.config().hiddenSize(),
                        backbone.config().numHiddenLayers(),
                        backbone.config().numAttentionHeads());
        try (Grad off = Grad.off();
                Scope scope = Scope.open();
                Generator generator = seed.named(NAME).generator()) {
            Tensor table = backbone.tokens().weightParameter().tensor(); // [V, D]
            Tensor start;
            if (config.init() == Init.SAMPLE_VOCAB) {
                Tensor chances = Tensor.ones(DType.FLOAT32, table.size(0));
                Tensor ids = generator.multinomial(chances, Math.min(config.tokens(), table.size(0)));
                start = table.indexSelect(0, ids.to(table.device()));
                Check.check(
                        start.size(0) == config.tokens(),
                        "num_virtual_tokens is %d, and the token table has %d rows to draw from; take fewer, or random",
                        config.tokens(),
                        table.size(0));
            } else {
                start = generator.randn(config.tokens(), backbone.config().hiddenSize());
            }
            return new Rows(PromptSizes.trained(start, table), sizes);
        }
    }

    /** The network's backbone. */
    static Backbone backbone(Module network, String method) {
        if (network instanceof Model model) {
            return model.backbone();
        }
        throw new EspalierException(
                "%s stands before the tokens of a transformer, and this network reads none".formatted(method));
    }

    /** P on a network. */
    private record Rows(Parameter rows, PromptSizes sizes) implements NetworkAdapter {
        @Override
        public Map<String, Parameter> parameters() {
            return Map.of(NAME, rows);
        }

        @Override
        public void apply(Module network, boolean on) {
            backbone(network, NAME).prompt(on ? () -> new Prompt.Embeddings(rows.tensor()) : null);
        }
    }
}
