package dev.espalier.model;

import static dev.espalier.Check.check;

import dev.espalier.EspalierException;
import dev.espalier.io.Fields;
import dev.espalier.model.ModelConfig.Limits;
import dev.espalier.nn.Embedding;
import dev.espalier.nn.Linear;
import dev.espalier.nn.Module;
import dev.espalier.nn.RMSNorm;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Tensor;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.function.Function;
import org.jspecify.annotations.Nullable;

/**
 * Llama and the families that share its block.
 *
 * <p>Touvron et al., arXiv:2302.13971 and 2307.09288; Mistral adds a sliding window (Jiang et al., arXiv:2310.06825), Qwen2
 * biases on q, k, v (Yang et al., arXiv:2407.10671), Qwen3 a norm on each head of q and k (arXiv:2505.09388).
 *
 * <pre>{@code
 * x = x + o(attention(rope(q(n)), rope(k(n)), v(n))),    n = norm(x)      x [B, T, D]
 * x = x + down(silu(gate(n)) · up(n)),                   n = norm(x)
 * }</pre>
 */
public final class Llama extends Backbone {

    /**
     * Names as in config.json.
     *
     * @param intermediateSizes F of each block
     * @param attentionHeads H of each block
     * @param keyValueHeads K of each block, a divisor of its query heads
     * @param headDim E
     * @param qkvBias whether q, k, v have biases
     * @param outBias whether o has
     * @param mlpBias whether gate, up, down have
     * @param qkNorm whether each head of q and k is normalised
     * @param windows how many tokens each layer sees, 0: all
     */
    public record Config(
            Family family,
            int vocabSize,
            int hiddenSize,
            List<Integer> intermediateSizes,
            int numHiddenLayers,
            List<Integer> attentionHeads,
            List<Integer> keyValueHeads,
            int headDim,
            int maxPositionEmbeddings,
            Activation hiddenAct,
            double rmsNormEps,
            Rope.Config rope,
            boolean qkvBias,
            boolean outBias,
            boolean mlpBias,
            boolean qkNorm,
            List<Integer> windows,
            double attentionDropout,
            double initializerRange,
            boolean tieWordEmbeddings,
            @Nullable Integer padTokenId)
            implements ModelConfig {

        /** Checks sizes. */
        public Config {
            ModelConfig.size("vocab_size", vocabSize, Limits.VOCABULARY);
            ModelConfig.size("hidden_size", hiddenSize, Limits.WIDTH);
            ModelConfig.size("num_hidden_layers", numHiddenLayers, Limits.LAYERS);
            ModelConfig.size("head_dim", headDim, Limits.HEADS);
            ModelConfig.size("max_position_embeddings", maxPositionEmbeddings, Limits.POSITIONS);
            ModelConfig.epsilon("rms_norm_eps", rmsNormEps);
            ModelConfig.share("attention_dropout", attentionDropout);
            for (int i = 0; i < numHiddenLayers; i++) {
                ModelConfig.size("num_key_value_heads", keyValueHeads.get(i), attentionHeads.get(i));
                check(
                        attentionHeads.get(i) % keyValueHeads.get(i) == 0,
                        "config.json: num_attention_heads is %d and num_key_value_heads %d; the second must divide the first",
                        attentionHeads.get(i),
                        keyValueHeads.get(i));
            }
            check(headDim % 2 == 0, "config.json: head_dim is %d; rotary positions need an even one", headDim);
            windows = List.copyOf(windows);
            intermediateSizes = List.copyOf(intermediateSizes);
            attentionHeads = List.copyOf(attentionHeads);
            keyValueHeads = List.copyOf(keyValueHeads);
        }

        @Override
        public int intermediateSize() {
            return Collections.max(intermediateSizes);
        }

        @Override
        public int numAttentionHeads() {
            return Collections.max(attentionHeads);
        }

        @Override
        public int numKeyValueHeads() {
            return Collections.max(keyValueHeads);
        }

        @Override
        public boolean positionsAreTable() {
            return false;
        }

        static Config read(String where, Family family, Fields f) {
            int hidden = ModelConfig.size("hidden_size", f.integer("hidden_size"), Limits.WIDTH);
            int layers = ModelConfig.size("num_hidden_layers", f.integer("num_hidden_layers"), Limits.LAYERS);
            List<Integer> heads = ModelConfig.sizes(where, f, "num_attention_heads", layers, Limits.HEADS);
            int headDim = ModelConfig.headDim(where, f, hidden, heads);
            int positions = f.integer("max_position_embeddings", 2048);
            boolean attentionBias = f.bool("attention_bias", false);
            boolean qwen2 = family == Family.QWEN2;
            return new Config(
                    family,
                    f.integer("vocab_size"),
                    hidden,
                    ModelConfig.sizes(where, f, "intermediate_size", layers, Limits.INNER),
                    layers,
                    heads,
                    f.has("num_key_value_heads")
                            ? ModelConfig.sizes(where, f, "num_key_value_heads", layers, Limits.HEADS)
                            : heads,
                    family == Family.QWEN3 && !f.has("head_dim") ? 128 : headDim,
                    positions,
                    Activation.of(where, f.string("hidden_act", "silu")),
                    f.number("rms_norm_eps", 1e-6),
                    Rope.Config.read(where, f, positions),
                    attentionBias || qwen2,
                    attentionBias && !qwen2,
                    f.bool("mlp_bias", false),
                    family == Family.QWEN3,
                    windows(where, family, f, layers),
                    f.number("attention_dropout", 0),
                    f.number("initializer_range", 0.02),
                    f.bool("tie_word_embeddings", false),
                    f.orNull("pad_token_id", Fields::integer));
        }

        /** Mistral: one window for all layers. Qwen: from a layer on, or as {@code layer_types} lists. */
        private static List<Integer> windows(String where, Family family, Fields f, int layers) {
            boolean listed = f.has("layer_types");
            boolean used = family == Family.MISTRAL || listed || f.bool("use_sliding_window", false);
            Integer window =
                    ModelConfig.isNull(f, "sliding_window") ? null : Integer.valueOf(f.integer("sliding_window", 4096));
            if (family == Family.LLAMA || !used || window == null) {
                return Collections.nCopies(layers, 0);
            }
            ModelConfig.size("sliding_window", window, Limits.POSITIONS);
            if (family == Family.MISTRAL) {
                return Collections.nCopies(layers, window);
            }
            int first = f.integer("max_window_layers", 28);
            List<String> types = f.strings("layer_types", List.of());
            check(
                    !listed || types.size() == layers,
                    "%s: layer_types lists %d layers and num_hidden_layers is %d; they must agree",
                    where,
                    types.size(),
                    layers);
            List<Integer> windows = new ArrayList<>();
            for (int i = 0; i < layers; i++) {
                String type = listed ? types.get(i) : i < first ? "full_attention" : "sliding_attention";
                windows.add(
                        switch (type) {
                            case "full_attention" -> 0;
                            case "sliding_attention" -> window;
                            default ->
                                throw new EspalierException(
                                        "%s: the layer type '%s' is not supported; supported are full_attention and sliding_attention"
                                                .formatted(where, type));
                        });
            }
            return windows;
        }
    }

    /** Attention with grouped keys: H / K query heads share a key head. */
    private static final class SelfAttention extends Module {
        private final Config config;
        private final int layer;
        private final Linear q; // [H·E, D]
        private final Linear k; // [K·E, D]
        private final Linear v; // [K·E, D]
        private final Linear o; // [D, H·E]
        private final @Nullable RMSNorm qNorm; // [E]
        private final @Nullable RMSNorm kNorm; // [E]

        SelfAttention(Config c, int layer, DType dtype) {
            this.config = c;
            this.layer = layer;
            long queries = (long) c.attentionHeads().get(layer) * c.headDim();
            long keys = (long) c.keyValueHeads().get(layer) * c.headDim();
            q = child("q_proj", new Linear(c.hiddenSize(), queries, c.qkvBias(), dtype));
            k = child("k_proj", new Linear(c.hiddenSize(), keys, c.qkvBias(), dtype));
            v = child("v_proj", new Linear(c.hiddenSize(), keys, c.qkvBias(), dtype));
            o = child("o_proj", new Linear(queries, c.hiddenSize(), c.outBias(), dtype));
            qNorm = c.qkNorm() ? child("q_norm", new RMSNorm(c.headDim(), c.rmsNormEps(), dtype)) : null;
            kNorm = c.qkNorm() ? child("k_norm", new RMSNorm(c.headDim(), c.rmsNormEps(), dtype)) : null;
        }

        Tensor forward(Tensor x, Context context) {
            Rope.Table rope = Objects.requireNonNull(context.rope);
            Tensor queries = rope.apply(heads(q.forward(x), qNorm)); // [B, T, H, E]
            Tensor keys = rope.apply(heads(k.forward(x), kNorm)); // [B, T, K, E]
            Tensor values = heads(v.forward(x), null); // [B, T, K, E]
            KvCache.Seen seen = context.seen(layer, keys, values); // [B, S, K, E]
            Attention attention = config.windows().get(layer) > 0 ? context.windowed : context.attention;
            double dropout = isTraining() ? config.attentionDropout() : 0;
            double scale = 1 / Math.sqrt(config.headDim());
            return o.forward(attention
                    .apply(queries, seen.keys(), seen.values(), scale, dropout)
                    .to(x.dtype())); // [B, T, D]
        }

        /** [B, T, heads·E] as [B, T, heads, E] in the type attention is computed in. */
        private Tensor heads(Tensor x, @Nullable RMSNorm norm) {
            Tensor split = x.view(x.size(0), x.size(1), -1, config.headDim());
            Tensor normed = norm == null ? split : norm.forward(split);
            return normed.to(Attention.computedIn(x.dtype(), x.device()));
        }
    }

    private static final class Mlp extends Module {
        private final Linear gate; // [F, D]
        private final Linear up; // [F, D]
        private final Linear down; // [D, F]
        private final Activation activation;

        Mlp(Config c, int layer, DType dtype) {
            int inner = c.intermediateSizes().get(layer);
            gate = child("gate_proj", new Linear(c.hiddenSize(), inner, c.mlpBias(), dtype));
            up = child("up_proj", new Linear(c.hiddenSize(), inner, c.mlpBias(), dtype));
            down = child("down_proj", new Linear(inner, c.hiddenSize(), c.mlpBias(), dtype));
            activation = c.hiddenAct();
        }

        Tensor forward(Tensor x) {
            return down.forward(activation.forward(gate.forward(x)).mul(up.forward(x)));
        }
    }

    private static final class DecoderLayer extends Block {
        private final RMSNorm inputNorm;
        private final SelfAttention attention;
        private final RMSNorm postAttentionNorm;
        private final Mlp mlp;

        DecoderLayer(Config c, int layer, DType dtype) {
            attention = child("self_attn", new SelfAttention(c, layer, dtype));
            mlp = child("mlp", new Mlp(c, layer, dtype));
            inputNorm = child("input_layernorm", new RMSNorm(c.hiddenSize(), c.rmsNormEps(), dtype));
            postAttentionNorm = child("post_attention_layernorm", new RMSNorm(c.hiddenSize(), c.rmsNormEps(), dtype));
        }

        @Override
        Tensor compute(Tensor x, Context context) {
            Tensor attended = x.add(attention.forward(inputNorm.forward(x), context));
            return attended.add(mlp.forward(postAttentionNorm.forward(attended)));
        }

        @Override
        public List<Inner> inner() {
            int width = attention.config.headDim();
            int keys = Math.toIntExact(attention.k.outFeatures() / width);
            int queries = Math.toIntExact(attention.q.outFeatures() / attention.k.outFeatures()) * width;
            int channels = Math.toIntExact(mlp.gate.outFeatures());
            return List.of(
                    new Inner(
                            attention.path(),
                            keys,
                            queries > width,
                            List.of(
                                    Inner.Part.outputs(attention.q, queries),
                                    Inner.Part.outputs(attention.k, width),
                                    Inner.Part.outputs(attention.v, width),
                                    Inner.Part.inputs(attention.o, queries))),
                    new Inner(
                            mlp.path(),
                            channels,
                            false,
                            List.of(
                                    Inner.Part.outputs(mlp.gate, 1),
                                    Inner.Part.outputs(mlp.up, 1),
                                    Inner.Part.inputs(mlp.down, 1))));
        }
    }

    private final Config config;
    private final Rope rope;
    private final Embedding tokens; // [V, D]
    private final List<DecoderLayer> layers = new ArrayList<>();
    private final RMSNorm norm;

    Llama(Config config, DType dtype) {
        this.config = config;
        this.rope = new Rope(config.rope(), config.headDim());
        tokens = child("embed_tokens", new Embedding(config.vocabSize(), config.hiddenSize(), dtype));
        for (int i = 0; i < config.numHiddenLayers(); i++) {
            layers.add(child("layers." + i, new DecoderLayer(config, i, dtype)));
        }
        norm = child("norm", new RMSNorm(config.hiddenSize(), config.rmsNormEps(), dtype));
    }

    @Override
    public Config config() {
        return config;
    }

    @Override
    public List<? extends Block> layers() {
        return Collections.unmodifiableList(layers);
    }

    @Override
    Map<String, Object> narrowed() {
        List<Integer> inner = widths(block -> block.mlp.gate, 1);
        List<Integer> keys = widths(block -> block.attention.k, config.headDim());
        if (inner.equals(config.intermediateSizes()) && keys.equals(config.keyValueHeads())) {
            return Map.of();
        }
        return Map.of(
                "intermediate_size",
                ModelConfig.written(inner),
                "num_attention_heads",
                ModelConfig.written(widths(block -> block.attention.q, config.headDim())),
                "num_key_value_heads",
                ModelConfig.written(keys),
                "head_dim",
                config.headDim());
    }

    private List<Integer> widths(Function<DecoderLayer, Linear> layer, int unit) {
        return layers.stream()
                .map(block -> Math.toIntExact(layer.apply(block).outFeatures() / unit))
                .toList();
    }

    @Override
    public Embedding tokens() {
        return tokens;
    }

    @Override
    public Context context(Input in) {
        DType dtype = Attention.computedIn(dtype(), in.inputIds().device());
        int window = Collections.max(config.windows());
        Ahead ahead = ahead(in);
        Attention all = Attention.causal(in, ahead, 0, dtype);
        Attention windowed = window == 0 ? all : Attention.causal(in, ahead, window, dtype);
        Rope.Table table = rope.table(positions(in, ahead), dtype, in.inputIds().device());
        return new Context(all, windowed, table, in.cache(), ahead);
    }

    @Override
    public Tensor embed(Input in) {
        return ahead(in).words(tokens.forward(in.inputIds()));
    }

    @Override
    public Tensor finish(Tensor x) {
        return norm.forward(x);
    }

    @Override
    ClassificationHead classificationHead(int outputs) {
        return new ClassificationHead.LastToken(config.hiddenSize(), outputs, dtype());
    }
}
