package dev.espalier.model;

import static dev.espalier.Check.check;
import static java.util.Objects.requireNonNull;

import dev.espalier.EspalierException;
import dev.espalier.io.Fields;
import dev.espalier.model.ModelConfig.Limits;
import dev.espalier.nn.Dropout;
import dev.espalier.nn.Embedding;
import dev.espalier.nn.LayerNorm;
import dev.espalier.nn.Linear;
import dev.espalier.nn.Module;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Tensor;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/**
 * BERT and RoBERTa, which differ in the numbering of positions and in their heads.
 *
 * <p>Devlin et al., arXiv:1810.04805; Liu et al., arXiv:1907.11692.
 *
 * <pre>{@code
 * x = norm(word + position + type)                                        x [B, T, D]
 * x = norm(x + dense(attention(query(x), key(x), value(x))))
 * x = norm(x + output(gelu(intermediate(x))))
 * }</pre>
 */
public final class Bert extends Backbone {

    /**
     * Names as in config.json.
     *
     * @param intermediateSizes F of each block
     * @param attentionHeads H of each block
     * @param headDim E, the same in all blocks
     * @param classifierDropout dropout in the classification head
     */
    public record Config(
            Family family,
            int vocabSize,
            int hiddenSize,
            List<Integer> intermediateSizes,
            int numHiddenLayers,
            List<Integer> attentionHeads,
            int headDim,
            int maxPositionEmbeddings,
            int typeVocabSize,
            Activation hiddenAct,
            double layerNormEps,
            double hiddenDropout,
            double attentionDropout,
            double classifierDropout,
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
            ModelConfig.size("max_position_embeddings", maxPositionEmbeddings, Limits.VOCABULARY);
            ModelConfig.size("type_vocab_size", typeVocabSize, Limits.VOCABULARY);
            ModelConfig.epsilon("layer_norm_eps", layerNormEps);
            ModelConfig.share("hidden_dropout_prob", hiddenDropout);
            ModelConfig.share("attention_probs_dropout_prob", attentionDropout);
            ModelConfig.share("classifier_dropout", classifierDropout);
            check(
                    family != Family.ROBERTA
                            || (padTokenId != null && padTokenId >= 0 && padTokenId < maxPositionEmbeddings - 1),
                    "config.json: pad_token_id is %s and max_position_embeddings %d; RoBERTa counts positions from the first,"
                            + " below the second",
                    padTokenId,
                    maxPositionEmbeddings);
            intermediateSizes = List.copyOf(intermediateSizes);
            attentionHeads = List.copyOf(attentionHeads);
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
        public boolean positionsAreTable() {
            return true;
        }

        /** RoBERTa's first token has the position pad_token_id + 1; those before are never used. */
        @Override
        public int maxTokens() {
            return family == Family.BERT
                    ? maxPositionEmbeddings
                    : maxPositionEmbeddings - requireNonNull(padTokenId) - 1;
        }

        static Config read(String where, Family family, Fields f) {
            String positions = f.string("position_embedding_type", "absolute");
            check(
                    positions.equals("absolute"),
                    "%s: position_embedding_type '%s' is not supported; only absolute is",
                    where,
                    positions);
            check(
                    !f.bool("is_decoder", false),
                    "%s: is_decoder is true; only encoders of this family are supported",
                    where);
            double dropout = f.number("hidden_dropout_prob", 0.1);
            int hidden = ModelConfig.size("hidden_size", f.integer("hidden_size"), Limits.WIDTH);
            int layers = ModelConfig.size("num_hidden_layers", f.integer("num_hidden_layers"), Limits.LAYERS);
            List<Integer> heads = ModelConfig.sizes(where, f, "num_attention_heads", layers, Limits.HEADS);
            return new Config(
                    family,
                    f.integer("vocab_size"),
                    hidden,
                    ModelConfig.sizes(where, f, "intermediate_size", layers, Limits.INNER),
                    layers,
                    heads,
                    ModelConfig.headDim(where, f, hidden, heads),
                    f.integer("max_position_embeddings"),
                    f.integer("type_vocab_size", 2),
                    Activation.of(where, f.string("hidden_act", "gelu")),
                    f.number("layer_norm_eps", 1e-12),
                    dropout,
                    f.number("attention_probs_dropout_prob", 0.1),
                    f.number("classifier_dropout", dropout),
                    f.number("initializer_range", 0.02),
                    f.bool("tie_word_embeddings", true),
                    ModelConfig.isNull(f, "pad_token_id")
                            ? null
                            : f.integer("pad_token_id", family == Family.BERT ? 0 : 1));
        }
    }

    private static final class Embeddings extends Module {
        private final Config config;
        private final Embedding words; // [V, D]
        private final Embedding positions; // [positions, D]
        private final Embedding types; // [types, D]
        private final LayerNorm norm;
        private final Dropout dropout;

        Embeddings(Config c, DType dtype) {
            config = c;
            words = child("word_embeddings", new Embedding(c.vocabSize(), c.hiddenSize(), dtype));
            positions = child("position_embeddings", new Embedding(c.maxPositionEmbeddings(), c.hiddenSize(), dtype));
            types = child("token_type_embeddings", new Embedding(c.typeVocabSize(), c.hiddenSize(), dtype));
            norm = child("LayerNorm", new LayerNorm(c.hiddenSize(), c.layerNormEps(), dtype));
            dropout = child("dropout", new Dropout(c.hiddenDropout()));
        }

        Tensor forward(Input in, Ahead ahead) {
            Tensor type = in.tokenTypeIds() == null
                    ? Tensor.zeros(DType.INT64, 1, 1).to(in.inputIds().device())
                    : ahead.zeros(in.tokenTypeIds());
            Tensor place = config.family() == Family.BERT ? bertPositions(in, ahead) : robertaPositions(in, ahead);
            Tensor sum = ahead.words(words.forward(in.inputIds()))
                    .add(types.forward(type))
                    .add(positions.forward(place));
            return dropout.forward(norm.forward(sum)); // [B, T, D]
        }

        /** 0, 1, 2, .. over padding too, unless given or packed. */
        private static Tensor bertPositions(Input in, Ahead ahead) {
            return in.positionIds() != null || in.segmentIds() != null
                    ? Backbone.positions(in, ahead)
                    : ahead.positions(Tensor.arange(in.tokens())
                            .to(in.inputIds().device())
                            .unsqueeze(0));
        }

        /** From pad_token_id + 1 over real tokens; padding has the position pad_token_id. */
        private Tensor robertaPositions(Input in, Ahead ahead) {
            int pad = requireNonNull(config.padTokenId());
            Tensor first = Tensor.of(new long[] {pad + 1}, 1).to(in.inputIds().device());
            Tensor places = Backbone.positions(in, ahead).add(first); // [B or 1, T]
            Tensor mask = ahead.mask(in);
            return mask == null
                    ? places
                    : places.maskedFill(
                            mask.narrow(1, ahead.ready(), places.size(1)).eq(0), pad);
        }
    }

    private static final class SelfAttention extends Module {
        private final Config config;
        private final int layer;
        private final Linear query; // [H·E, D]
        private final Linear key; // [H·E, D]
        private final Linear value; // [H·E, D]

        SelfAttention(Config c, int layer, DType dtype) {
            config = c;
            this.layer = layer;
            long heads = (long) c.attentionHeads().get(layer) * c.headDim();
            query = child("query", new Linear(c.hiddenSize(), heads, true, dtype));
            key = child("key", new Linear(c.hiddenSize(), heads, true, dtype));
            value = child("value", new Linear(c.hiddenSize(), heads, true, dtype));
        }

        Tensor forward(Tensor x, Context context) {
            int width = config.headDim(); // E
            Tensor q = heads(query.forward(x), width); // [B, T, H, E]
            KvCache.Seen seen = context.seen(layer, heads(key.forward(x), width), heads(value.forward(x), width));
            double dropout = isTraining() ? config.attentionDropout() : 0;
            return context.attention
                    .apply(q, seen.keys(), seen.values(), 1 / Math.sqrt(width), dropout)
                    .to(x.dtype());
        }

        private static Tensor heads(Tensor x, int width) {
            return x.view(x.size(0), x.size(1), -1, width).to(Attention.computedIn(x.dtype(), x.device()));
        }
    }

    /** norm(dense(x) + residual), which ends both halves of a block. */
    private static final class Output extends Module {
        private final Linear dense; // [D, in]
        private final LayerNorm norm;
        private final Dropout dropout;

        Output(Config c, int in, DType dtype) {
            dense = child("dense", new Linear(in, c.hiddenSize(), true, dtype));
            norm = child("LayerNorm", new LayerNorm(c.hiddenSize(), c.layerNormEps(), dtype));
            dropout = child("dropout", new Dropout(c.hiddenDropout()));
        }

        Tensor forward(Tensor x, Tensor residual) {
            return norm.forward(dropout.forward(dense.forward(x)).add(residual));
        }
    }

    private static final class EncoderLayer extends Block {
        private final SelfAttention attention;
        private final Output attentionOutput;
        private final Linear intermediate; // [F, D]
        private final Output output;
        private final Activation activation;

        EncoderLayer(Config c, int layer, DType dtype) {
            attention = child("attention.self", new SelfAttention(c, layer, dtype));
            int inner = c.intermediateSizes().get(layer);
            attentionOutput =
                    child("attention.output", new Output(c, c.attentionHeads().get(layer) * c.headDim(), dtype));
            intermediate = child("intermediate.dense", new Linear(c.hiddenSize(), inner, true, dtype));
            output = child("output", new Output(c, inner, dtype));
            activation = c.hiddenAct();
        }

        @Override
        Tensor compute(Tensor x, Context context) {
            Tensor attended = attentionOutput.forward(attention.forward(x, context), x);
            return output.forward(activation.forward(intermediate.forward(attended)), attended);
        }

        @Override
        public List<Inner> inner() {
            int width = attention.config.headDim();
            return List.of(
                    new Inner(
                            attention.path(),
                            Math.toIntExact(attention.query.outFeatures() / width),
                            false,
                            List.of(
                                    Inner.Part.outputs(attention.query, width),
                                    Inner.Part.outputs(attention.key, width),
                                    Inner.Part.outputs(attention.value, width),
                                    Inner.Part.inputs(attentionOutput.dense, width))),
                    new Inner(
                            intermediate.path(),
                            Math.toIntExact(intermediate.outFeatures()),
                            false,
                            List.of(Inner.Part.outputs(intermediate, 1), Inner.Part.inputs(output.dense, 1))));
        }
    }

    private final Config config;
    private final Embeddings embeddings;
    private final List<EncoderLayer> layers = new ArrayList<>();
    private final @Nullable Linear pooler; // [D, D]

    Bert(Config config, DType dtype, boolean withPooler) {
        this.config = config;
        embeddings = child("embeddings", new Embeddings(config, dtype));
        for (int i = 0; i < config.numHiddenLayers(); i++) {
            layers.add(child("encoder.layer." + i, new EncoderLayer(config, i, dtype)));
        }
        pooler = withPooler
                ? child("pooler.dense", new Linear(config.hiddenSize(), config.hiddenSize(), true, dtype))
                : null;
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
        List<Integer> inner = layers.stream()
                .map(block -> Math.toIntExact(block.intermediate.outFeatures()))
                .toList();
        List<Integer> heads = layers.stream()
                .map(block -> Math.toIntExact(block.attention.query.outFeatures() / config.headDim()))
                .toList();
        if (inner.equals(config.intermediateSizes()) && heads.equals(config.attentionHeads())) {
            return Map.of();
        }
        return Map.of(
                "intermediate_size",
                ModelConfig.written(inner),
                "num_attention_heads",
                ModelConfig.written(heads),
                "head_dim",
                config.headDim());
    }

    @Override
    public Embedding tokens() {
        return embeddings.words;
    }

    @Override
    public Context context(Input in) {
        check(in.cache() == null, "this model reads in both directions and has no use for a cache");
        Ahead ahead = ahead(in);
        Attention attention = Attention.bidirectional(
                in, ahead, Attention.computedIn(dtype(), in.inputIds().device()));
        return new Context(attention, attention, null, null, ahead);
    }

    @Override
    public Tensor embed(Input in) {
        return embeddings.forward(in, ahead(in));
    }

    @Override
    public Tensor finish(Tensor x) {
        return x;
    }

    /** tanh(dense(first token)): [B, D] for hidden [B, T, D]. */
    Tensor pool(Tensor hidden) {
        if (pooler == null) {
            throw new EspalierException("this network was built without a pooler");
        }
        return pooler.forward(hidden.select(1, 0)).tanh();
    }

    /** The pooler, if there is one. */
    @Nullable
    Linear pooler() {
        return pooler;
    }

    @Override
    ClassificationHead classificationHead(int outputs) {
        return config.family() == Family.BERT
                ? new ClassificationHead.Pooled(this, config.hiddenSize(), outputs, config.classifierDropout(), dtype())
                : new ClassificationHead.FirstToken(config.hiddenSize(), outputs, config.classifierDropout(), dtype());
    }
}
