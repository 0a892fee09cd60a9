package dev.espalier.model;

import static dev.espalier.Check.check;

import dev.espalier.io.Fields;
import dev.espalier.model.ModelConfig.Limits;
import dev.espalier.nn.Conv1D;
import dev.espalier.nn.Dropout;
import dev.espalier.nn.Embedding;
import dev.espalier.nn.LayerNorm;
import dev.espalier.nn.Module;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Tensor;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import org.jspecify.annotations.Nullable;

/**
 * GPT-2: Radford et al., <i>Language Models are Unsupervised Multitask Learners</i>, 2019.
 *
 * <pre>{@code
 * x = wte(token) + wpe(position)                                          x [B, T, D]
 * x = x + c_proj(attention(q, k, v)),  (q, k, v) = c_attn(ln_1(x))
 * x = x + c_proj(gelu(c_fc(ln_2(x))))
 * }</pre>
 */
public final class Gpt2 extends Backbone {

    /**
     * Names of our own for GPT-2's {@code n_embd}, {@code n_inner}, {@code n_layer}, {@code n_head}, {@code n_positions}.
     *
     * @param scaleAttention whether scores are divided by √E
     * @param scaleByLayer whether they are also divided by the layer's number, from 1
     */
    public record Config(
            int vocabSize,
            int hiddenSize,
            int intermediateSize,
            int numHiddenLayers,
            int numAttentionHeads,
            int maxPositionEmbeddings,
            Activation activation,
            double layerNormEpsilon,
            double embeddingDropout,
            double attentionDropout,
            double residualDropout,
            boolean scaleAttention,
            boolean scaleByLayer,
            double initializerRange,
            boolean tieWordEmbeddings,
            @Nullable Integer padTokenId)
            implements ModelConfig {

        /** Checks sizes. */
        public Config {
            ModelConfig.size("vocab_size", vocabSize, Limits.VOCABULARY);
            ModelConfig.size("n_embd", hiddenSize, Limits.WIDTH);
            ModelConfig.size("n_inner", intermediateSize, Limits.INNER);
            ModelConfig.size("n_layer", numHiddenLayers, Limits.LAYERS);
            ModelConfig.size("n_head", numAttentionHeads, Limits.HEADS);
            ModelConfig.size("n_positions", maxPositionEmbeddings, Limits.VOCABULARY);
            ModelConfig.epsilon("layer_norm_epsilon", layerNormEpsilon);
            ModelConfig.share("embd_pdrop", embeddingDropout);
            ModelConfig.share("attn_pdrop", attentionDropout);
            ModelConfig.share("resid_pdrop", residualDropout);
            check(
                    hiddenSize % numAttentionHeads == 0,
                    "config.json: n_embd is %d and n_head %d; the second must divide the first",
                    hiddenSize,
                    numAttentionHeads);
        }

        @Override
        public Family family() {
            return Family.GPT2;
        }

        @Override
        public boolean positionsAreTable() {
            return true;
        }

        static Config read(String where, Fields f) {
            check(
                    !f.bool("add_cross_attention", false),
                    "%s: add_cross_attention is true; only decoders that stand alone are supported",
                    where);
            int width = ModelConfig.size("n_embd", f.integer("n_embd"), Limits.WIDTH);
            return new Config(
                    f.integer("vocab_size"),
                    width,
                    f.integer("n_inner", 4 * width),
                    f.integer("n_layer"),
                    f.integer("n_head"),
                    f.integer("n_positions", 1024),
                    Activation.of(where, f.string("activation_function", "gelu_new")),
                    f.number("layer_norm_epsilon", 1e-5),
                    f.number("embd_pdrop", 0.1),
                    f.number("attn_pdrop", 0.1),
                    f.number("resid_pdrop", 0.1),
                    f.bool("scale_attn_weights", true),
                    f.bool("scale_attn_by_inverse_layer_idx", false),
                    f.number("initializer_range", 0.02),
                    f.bool("tie_word_embeddings", true),
                    f.orNull("pad_token_id", Fields::integer));
        }
    }

    private static final class SelfAttention extends Module {
        private final Config config;
        private final int layer;
        private final Conv1D qkv; // [D, 3·D]
        private final Conv1D projection; // [D, D]
        private final Dropout dropout;

        SelfAttention(Config c, int layer, DType dtype) {
            config = c;
            this.layer = layer;
            qkv = child("c_attn", new Conv1D(c.hiddenSize(), 3L * c.hiddenSize(), dtype));
            projection = child("c_proj", new Conv1D(c.hiddenSize(), c.hiddenSize(), dtype));
            dropout = child("resid_dropout", new Dropout(c.residualDropout()));
        }

        Tensor forward(Tensor x, Context context) {
            int width = config.hiddenSize() / config.numAttentionHeads(); // E
            List<Tensor> parts = qkv.forward(x)
                    .to(Attention.computedIn(x.dtype(), x.device()))
                    .view(x.size(0), x.size(1), 3L * config.numAttentionHeads(), width)
                    .split(config.numAttentionHeads(), 2); // three of [B, T, H, E]
            KvCache.Seen seen = context.seen(layer, parts.get(1), parts.get(2)); // [B, S, H, E]
            double scale =
                    (config.scaleAttention() ? 1 / Math.sqrt(width) : 1) / (config.scaleByLayer() ? layer + 1 : 1);
            double drop = isTraining() ? config.attentionDropout() : 0;
            Tensor attended = context.attention.apply(parts.get(0), seen.keys(), seen.values(), scale, drop);
            return dropout.forward(projection.forward(attended.to(x.dtype()))); // [B, T, D]
        }
    }

    private static final class Mlp extends Module {
        private final Conv1D fc; // [D, F]
        private final Conv1D projection; // [F, D]
        private final Dropout dropout;
        private final Activation activation;

        Mlp(Config c, DType dtype) {
            fc = child("c_fc", new Conv1D(c.hiddenSize(), c.intermediateSize(), dtype));
            projection = child("c_proj", new Conv1D(c.intermediateSize(), c.hiddenSize(), dtype));
            dropout = child("dropout", new Dropout(c.residualDropout()));
            activation = c.activation();
        }

        Tensor forward(Tensor x) {
            return dropout.forward(projection.forward(activation.forward(fc.forward(x))));
        }
    }

    private static final class DecoderLayer extends Block {
        private final LayerNorm ln1;
        private final SelfAttention attention;
        private final LayerNorm ln2;
        private final Mlp mlp;

        DecoderLayer(Config c, int layer, DType dtype) {
            ln1 = child("ln_1", new LayerNorm(c.hiddenSize(), c.layerNormEpsilon(), dtype));
            attention = child("attn", new SelfAttention(c, layer, dtype));
            ln2 = child("ln_2", new LayerNorm(c.hiddenSize(), c.layerNormEpsilon(), dtype));
            mlp = child("mlp", new Mlp(c, dtype));
        }

        @Override
        Tensor compute(Tensor x, Context context) {
            Tensor attended = x.add(attention.forward(ln1.forward(x), context));
            return attended.add(mlp.forward(ln2.forward(attended)));
        }
    }

    private final Config config;
    private final Embedding tokens; // [V, D]
    private final Embedding positions; // [positions, D]
    private final Dropout dropout;
    private final List<DecoderLayer> layers = new ArrayList<>();
    private final LayerNorm norm;

    Gpt2(Config config, DType dtype) {
        this.config = config;
        tokens = child("wte", new Embedding(config.vocabSize(), config.hiddenSize(), dtype));
        positions = child("wpe", new Embedding(config.maxPositionEmbeddings(), config.hiddenSize(), dtype));
        dropout = child("drop", new Dropout(config.embeddingDropout()));
        for (int i = 0; i < config.numHiddenLayers(); i++) {
            layers.add(child("h." + i, new DecoderLayer(config, i, dtype)));
        }
        norm = child("ln_f", new LayerNorm(config.hiddenSize(), config.layerNormEpsilon(), dtype));
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
    public Embedding tokens() {
        return tokens;
    }

    @Override
    public Context context(Input in) {
        Ahead ahead = ahead(in);
        Attention attention = Attention.causal(
                in, ahead, 0, Attention.computedIn(dtype(), in.inputIds().device()));
        return new Context(attention, attention, null, in.cache(), ahead);
    }

    @Override
    public Tensor embed(Input in) {
        Ahead ahead = ahead(in);
        Tensor words = ahead.words(tokens.forward(in.inputIds()));
        return dropout.forward(words.add(positions.forward(positions(in, ahead))));
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
