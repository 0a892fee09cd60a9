package dev.espalier.model;

import static dev.espalier.Check.check;

import dev.espalier.tensor.Device;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.function.IntPredicate;
import org.jspecify.annotations.Nullable;

/** Writes on from a prompt, token by token, with a cache of keys and values. */
public final class TextGenerator {

    /** Why a text ended. */
    public enum Finish {
        /** A stop token came. */
        STOP,
        /** The limit of new tokens, or of the model's positions, was reached. */
        LENGTH,
        /** Whoever listened had enough. */
        CALLER
    }

    /**
     * What was generated.
     *
     * @param ids new tokens, without the prompt and the stop token
     * @param finish why they end
     */
    public record Generated(List<Integer> ids, Finish finish) {
        /** Copies. */
        public Generated {
            ids = List.copyOf(ids);
        }

        /** The new tokens as a tokenizer takes them. */
        public int[] toArray() {
            return ids.stream().mapToInt(Integer::intValue).toArray();
        }
    }

    private static final int ROOM = 256; // tokens the cache has room for beyond the prompt, before it first grows

    private final CausalLm model;

    /** A generator on a model, which it does not close. */
    public TextGenerator(CausalLm model) {
        this.model = model;
    }

    /** Continues one prompt. */
    public Generated generate(int[] prompt, GenerationConfig config, Seed seed) {
        return generate(prompt, config, seed, id -> true);
    }

    /**
     * Continues one prompt and hands on each new token at once.
     *
     * @param prompt token ids, at least one
     * @param seed from which tokens are drawn, when sampling
     * @param listener told each token but the stop token; answers whether to go on
     */
    public Generated generate(int[] prompt, GenerationConfig config, Seed seed, IntPredicate listener) {
        return run(List.of(prompt), config, seed, listener).get(0);
    }

    /** Continues several prompts at once; each gives what it would give alone, up to rounding. */
    public List<Generated> generate(List<int[]> prompts, GenerationConfig config, Seed seed) {
        return run(prompts, config, seed, id -> true);
    }

    private List<Generated> run(List<int[]> prompts, GenerationConfig config, Seed seed, IntPredicate listener) {
        check(!prompts.isEmpty(), "there is no prompt to continue");
        int longest = 0;
        for (int[] prompt : prompts) {
            check(prompt.length > 0, "a prompt holds no token; give it at least one, such as the BOS token");
            checkIds(prompt);
            longest = Math.max(longest, prompt.length);
        }
        List<Row> rows = new ArrayList<>();
        for (int i = 0; i < prompts.size(); i++) {
            rows.add(new Row(prompts.get(i), new Sampler(config, seed.at(i))));
        }
        int positions = model.config().positionsAreTable() ? model.config().maxTokens() : Integer.MAX_VALUE;
        long taken = longest + model.backbone().promptLength();
        int limit = (int) Math.min(config.maxNewTokens(), positions - taken);
        check(limit > 0, "the prompt of %d tokens leaves none of the model's %d positions free", taken, positions);
        boolean training = model.isTraining();
        model.train(false); // dropout has no place here
        try (Grad off = Grad.off();
                KvCache cache = new KvCache(longest + Math.min(limit, ROOM))) {
            for (int step = 0; step < limit && rows.stream().anyMatch(Row::isOpen); step++) {
                try (Scope scope = Scope.open()) {
                    Tensor hidden = model.hidden(input(rows, step == 0 ? longest : 1, longest + step, cache));
                    Tensor last = hidden.select(1, hidden.size(1) - 1); // [B, D]
                    float[] logits = model.lmHead().forward(last).floats(); // [B, V]
                    for (int i = 0; i < rows.size(); i++) {
                        int width = logits.length / rows.size();
                        rows.get(i).take(Arrays.copyOfRange(logits, i * width, (i + 1) * width), config, listener);
                    }
                }
            }
        } finally {
            model.train(training);
        }
        return rows.stream().map(Row::result).toList();
    }

    /** The last {@code tokens} of {@code seen} of each row, prompts being padded on the left. */
    private Input input(List<Row> rows, int tokens, int seen, KvCache cache) {
        long[] ids = new long[rows.size() * tokens];
        long[] mask = new long[rows.size() * seen];
        boolean padded = false;
        for (int r = 0; r < rows.size(); r++) {
            List<Integer> sequence = rows.get(r).sequence;
            int padding = seen - sequence.size();
            padded |= padding > 0;
            for (int t = padding; t < seen; t++) {
                mask[r * seen + t] = 1;
            }
            for (int t = 0; t < tokens; t++) {
                int at = seen - tokens + t - padding;
                ids[r * tokens + t] = at < 0 ? 0 : sequence.get(at); // any id does where nobody looks
            }
        }
        Device device = model.backbone().device();
        Tensor inputIds = Tensor.of(ids, rows.size(), tokens).to(device);
        @Nullable
        Tensor attentionMask = padded ? Tensor.of(mask, rows.size(), seen).to(device) : null;
        return new Input(inputIds, attentionMask, null, null, null, cache);
    }

    private void checkIds(int[] ids) {
        int vocabulary = model.config().vocabSize();
        for (int id : ids) {
            check(
                    id >= 0 && id < vocabulary,
                    "token id %d lies outside the model's vocabulary of %d; model and tokenizer do not match",
                    id,
                    vocabulary);
        }
    }

    /** One sequence on its way. */
    private static final class Row {
        private final int prompt;
        private final List<Integer> sequence = new ArrayList<>();
        private final Sampler sampler;
        private @Nullable Finish finish;
        private int end; // where the text ends; a row goes on idly while others are open

        Row(int[] ids, Sampler sampler) {
            this.prompt = ids.length;
            this.sampler = sampler;
            for (int id : ids) {
                sequence.add(id);
            }
        }

        boolean isOpen() {
            return finish == null;
        }

        void take(float[] logits, GenerationConfig config, IntPredicate listener) {
            if (finish != null) {
                sequence.add(sequence.get(sequence.size() - 1));
                return;
            }
            int id = sampler.next(logits, sequence);
            end = sequence.size();
            sequence.add(id);
            if (config.stopIds().contains(id)) {
                finish = Finish.STOP;
            } else {
                end++;
                if (!listener.test(id)) {
                    finish = Finish.CALLER;
                }
            }
        }

        Generated result() {
            return new Generated(sequence.subList(prompt, end), finish == null ? Finish.LENGTH : finish);
        }
    }
}
