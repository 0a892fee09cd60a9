package dev.espalier.model;

import static dev.espalier.Check.check;

import dev.espalier.nn.Embedding;
import dev.espalier.nn.Module;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Device;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Recompute;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Tensor;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.function.Supplier;
import java.util.function.UnaryOperator;
import org.jspecify.annotations.Nullable;

/**
 * A network from token ids to hidden states: embeddings, a row of blocks, a final norm where the family has one.
 *
 * <p>{@link #forward} is {@link #context}, {@link #embed}, each of the {@link #layers()}, {@link #finish}; whoever wants to
 * run blocks in another way (checkpointing, probing) calls these.
 */
public abstract class Backbone extends Module {

    /** One transformer block. */
    public abstract static class Block extends Module {

        /** For the families' blocks. */
        Block() {}

        /**
         * The block's output.
         *
         * @param x [B, T, D]
         * @param context of this forward
         * @return [B, T, D], the one tensor that is left in the caller's scope
         */
        public final Tensor forward(Tensor x, Context context) {
            try (Scope scope = Scope.open()) {
                return scope.promote(compute(x, context));
            }
        }

        abstract Tensor compute(Tensor x, Context context);

        /** What is inside the block alone, so that it can be made smaller; empty where the family knows no way. */
        public List<Inner> inner() {
            return List.of();
        }
    }

    /** What all blocks need of one forward and none changes; its tensors belong to the scope it was made in. */
    public static final class Context {
        final Attention attention;
        final Attention windowed; // for layers with a sliding window
        final Rope.@Nullable Table rope;
        private final @Nullable KvCache cache;
        private final Ahead ahead;

        Context(
                Attention attention,
                Attention windowed,
                Rope.@Nullable Table rope,
                @Nullable KvCache cache,
                Ahead ahead) {
            this.attention = attention;
            this.windowed = windowed;
            this.rope = rope;
            this.cache = cache;
            this.ahead = ahead;
        }

        /** A layer's keys and values [B, T, K, E], behind those of a prompt and of a cache: all that attention sees. */
        KvCache.Seen seen(int layer, Tensor keys, Tensor values) {
            KvCache.Seen seen = ahead.keyValues(layer, keys, values);
            return cache == null ? seen : cache.add(layer, seen.keys(), seen.values());
        }
    }

    private @Nullable Supplier<? extends Prompt> prompt;
    private boolean gradientCheckpointing;

    /** For the families. */
    Backbone() {}

    /** Puts something before all that the network reads, or with null nothing. It is asked for anew at each forward. */
    public final void prompt(@Nullable Supplier<? extends Prompt> other) {
        prompt = other;
    }

    /**
     * Whether forward passes that record gradients keep only what goes into each block, and compute the rest again in the
     * backward pass: less memory for the time of one more forward pass. See {@link Recompute}.
     */
    public final void gradientCheckpointing(boolean on) {
        gradientCheckpointing = on;
    }

    /** Where the prompt stands in a forward. */
    final Ahead ahead(Input in) {
        return Ahead.of(prompt == null ? null : prompt.get(), in);
    }

    /** Places that the prompt takes before a sequence. */
    final long promptLength() {
        return prompt == null ? 0 : prompt.get().length();
    }

    /** The configuration it was built by. */
    public abstract ModelConfig config();

    /** The transformer blocks in order: the unit of checkpointing, of layer sampling, of plans. */
    public abstract List<? extends Block> layers();

    /** What config.json must say of blocks that {@link Inner#keep} has made smaller; empty where none is. */
    Map<String, Object> narrowed() {
        return Map.of();
    }

    /** The token table. */
    public abstract Embedding tokens();

    /** Element type of the hidden states. */
    public final DType dtype() {
        return tokens().dtype();
    }

    /** Where the weights are, and the input must be. */
    public final Device device() {
        return tokens().weightParameter().tensor().device();
    }

    /** Masks, positions and the like. */
    public abstract Context context(Input in);

    /** What goes into the first block: [B, T, D]. */
    public abstract Tensor embed(Input in);

    /** From the last block's output to the hidden states [B, T, D]. */
    public abstract Tensor finish(Tensor x);

    /** A head for classification by this family's rule, with values as memory is found. */
    abstract ClassificationHead classificationHead(int outputs);

    /** Hidden states [B, T, D]; at padding they mean nothing. */
    public final Tensor forward(Input in) {
        Tensor all = whole(in);
        long before = all.size(1) - in.tokens();
        if (before == 0) {
            return all;
        }
        try (Scope scope = Scope.open()) {
            Tensor own = scope.promote(all.narrow(1, before, in.tokens()).contiguous());
            all.close();
            return own;
        }
    }

    /** Hidden states [B, n + T, D], with those of a prompt that ran through the network in front. */
    final Tensor whole(Input in) {
        checkLength(in);
        try (Scope scope = Scope.open()) {
            if (gradientCheckpointing && Grad.isOn() && in.cache() == null) {
                return scope.promote(finish(recomputed(in)));
            }
            Context context = context(in);
            Tensor x = embed(in);
            for (Block layer : layers()) {
                Tensor next = layer.forward(x, context);
                x.close(); // what a gradient needs of it, the gradient holds
                x = next;
            }
            if (in.cache() != null) {
                in.cache().advance(in.tokens(), promptLength());
            }
            return scope.promote(finish(x));
        }
    }

    /** What comes out of the last block. Each block has a context of its own, so that none must be kept or shared by graphs. */
    private Tensor recomputed(Input in) {
        List<Tensor> held = new ArrayList<>();
        Input own = in.map(tensor -> {
            Tensor handle = tensor.detach().keep();
            held.add(handle);
            return handle;
        });
        List<UnaryOperator<Tensor>> stages = new ArrayList<>();
        for (Block layer : layers()) {
            stages.add(x -> {
                try (Scope scope = Scope.open()) {
                    return scope.promote(layer.forward(x, context(own)));
                }
            });
        }
        return Recompute.sequential(stages, embed(in), held);
    }

    private void checkLength(Input in) {
        ModelConfig config = config();
        check(in.tokens() > 0 && in.batch() > 0, "there are no tokens to run the model on");
        if (config.positionsAreTable()) {
            long longest = promptLength() + in.cached() + in.tokens();
            check(
                    longest <= config.maxTokens() || in.segmentIds() != null,
                    "the model has %d positions and was given %d tokens; shorten the text",
                    config.maxTokens(),
                    longest);
        }
    }

    /** Places of tokens in their own sequences, from 0 or behind a prompt, padding not counted: int64 [B or 1, T]. */
    static Tensor positions(Input in, Ahead ahead) {
        return ahead.positions(ofTokens(in));
    }

    private static Tensor ofTokens(Input in) {
        if (in.positionIds() != null) {
            return in.positionIds();
        } else if (in.segmentIds() != null) {
            return Attention.positionsWithinRuns(in.segmentIds());
        } else if (in.attentionMask() != null) {
            Tensor real = in.attentionMask().ne(0).to(DType.INT64);
            return real.cumsum(1).sub(real).narrow(1, in.cached(), in.tokens());
        }
        return Tensor.arange(in.cached(), in.cached() + in.tokens())
                .to(in.inputIds().device())
                .unsqueeze(0);
    }
}
