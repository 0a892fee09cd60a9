package dev.espalier.task;

import static dev.espalier.Check.check;

import dev.espalier.data.Batch;
import dev.espalier.model.CausalLm;
import dev.espalier.nn.Linear;
import dev.espalier.nn.Module;
import dev.espalier.nn.Parameter;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Tensor;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Objects;
import java.util.function.Function;
import java.util.stream.IntStream;
import org.jspecify.annotations.Nullable;

/**
 * The next token, by cross-entropy over the supervised tokens only.
 *
 * <p>Only hidden states that predict a supervised token reach the head. Where nothing in the head trains and nothing stands
 * in for it, {@link ChunkedCrossEntropy} computes the loss without ever holding all logits.
 */
public final class CausalLmTask implements Task {

    private final Module model;
    private final Function<Batch, Tensor> hidden; // to hidden states [B, T, D]
    private final Linear head;
    private final double labelSmoothing;

    /** @param labelSmoothing share of each target that is spread over the vocabulary, in [0, 1) */
    public CausalLmTask(CausalLm model, double labelSmoothing) {
        this(model, batch -> model.hidden(Inputs.of(batch, model)), model.lmHead(), labelSmoothing);
    }

    CausalLmTask(Module model, Function<Batch, Tensor> hidden, Linear head, double labelSmoothing) {
        ClassificationTask.checkSmoothing(labelSmoothing);
        this.model = model;
        this.hidden = hidden;
        this.head = head;
        this.labelSmoothing = labelSmoothing;
    }

    @Override
    public Module model() {
        return model;
    }

    @Override
    public Outcome forward(Batch batch) {
        return new Predicted(rows(batch));
    }

    /** Logits of all supervised tokens exist only if the head trains, or somebody asks for them. */
    private final class Predicted implements Outcome {
        private final Rows rows;
        private @Nullable Tensor logits; // [n, V]

        Predicted(Rows rows) {
            this.rows = rows;
        }

        @Override
        public Tensor loss() {
            return headIsFixed() && logits == null
                    ? ChunkedCrossEntropy.sum(rows.hidden, rows.targets, head, labelSmoothing)
                    : logits().crossEntropy(rows.targets, null, labelSmoothing, Tensor.Reduction.SUM);
        }

        @Override
        public Tensor logits() {
            Tensor known = logits;
            if (known == null) {
                known = wide(head.forward(rows.hidden));
                logits = known;
            }
            return known;
        }

        @Override
        public Tensor targets() {
            return rows.targets;
        }
    }

    @Override
    public Evaluator evaluator() {
        return new Judge();
    }

    @Override
    public Metric metric() {
        return new Metric("loss", false);
    }

    private boolean headIsFixed() {
        Parameter bias = head.biasParameter();
        return head.substitute() == null
                && !head.weightParameter().isTrainable()
                && (bias == null || !bias.isTrainable());
    }

    static Tensor wide(Tensor logits) {
        return logits.dtype().bytes() < 4 ? logits.to(DType.FLOAT32) : logits;
    }

    /**
     * The hidden states that predict a supervised token, and those tokens.
     *
     * @param hidden [n, D]
     * @param targets int64 [n]
     */
    private record Rows(Tensor hidden, Tensor targets) {}

    /** A label stands at its own token; the state before it, one to the left, predicts it. */
    private Rows rows(Batch batch) {
        Tensor labels = batch.labels();
        check(
                labels != null && labels.dim() == 2 && labels.dtype() == DType.INT64,
                "language modelling needs supervised tokens, and %s brings %s; check what the data supervises",
                batch.sources().get(0),
                ClassificationTask.describe(labels));
        long[] flat = Objects.requireNonNull(labels).longs();
        int width = (int) labels.size(1);
        int[] places = IntStream.range(0, flat.length)
                .filter(i -> i % width != 0 && flat[i] != Batch.IGNORED)
                .toArray();
        long[] before = Arrays.stream(places).mapToLong(i -> i - 1L).toArray();
        long[] targets = Arrays.stream(places).mapToLong(i -> flat[i]).toArray();
        Tensor states = hidden.apply(batch).flatten(0, 1); // [B·T, D]
        Tensor index = Tensor.of(before, before.length).to(states.device());
        return new Rows(
                states.indexSelect(0, index), Tensor.of(targets, targets.length).to(states.device()));
    }

    /** Loss (without smoothing), perplexity, and how often the likeliest token is the right one. */
    private final class Judge implements Evaluator {
        private double loss;
        private long right;
        private long tokens;

        @Override
        public void add(Batch batch) {
            if (batch.targets() == 0) {
                return;
            }
            Rows rows = rows(batch);
            ChunkedCrossEntropy.forEach(rows.hidden, rows.targets, (states, targets) -> {
                try (Scope chunk = Scope.open()) {
                    Tensor logits = wide(head.forward(states));
                    loss += logits.crossEntropy(targets, null, 0, Tensor.Reduction.SUM)
                            .item();
                    right += (long)
                            logits.argmax(-1).eq(targets).to(DType.INT64).sum().item();
                }
            });
            tokens += rows.targets.numel();
        }

        @Override
        public Map<String, Double> metrics() {
            Map<String, Double> metrics = new LinkedHashMap<>();
            metrics.put("loss", loss / tokens);
            metrics.put("perplexity", Math.exp(loss / tokens));
            metrics.put("token_accuracy", (double) right / tokens);
            return metrics;
        }
    }
}
