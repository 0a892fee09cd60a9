package dev.espalier.task;

import static dev.espalier.Check.check;

import dev.espalier.data.Batch;
import dev.espalier.model.SequenceClassifier;
import dev.espalier.nn.Module;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Tensor;
import java.util.Arrays;
import java.util.List;
import java.util.Objects;
import java.util.function.Function;
import org.jspecify.annotations.Nullable;

/** One of several classes for each text, by cross-entropy. */
public final class ClassificationTask implements Task {

    /**
     * Settings.
     *
     * @param classWeights how much a text of each class counts, each above 0, in the order of the classes; empty: all alike.
     *     The loss is then a weighted mean, as PyTorch's
     * @param labelSmoothing share of each target that is spread over all classes, in [0, 1)
     */
    public record Options(List<Double> classWeights, double labelSmoothing) {

        /** All classes alike, no smoothing. */
        public static final Options DEFAULT = new Options(List.of(), 0);

        /** Checks the ranges. */
        public Options {
            classWeights = List.copyOf(classWeights);
            classWeights.forEach(w ->
                    check(w > 0 && Double.isFinite(w), "class weights must be above 0 and finite, found %s; try 1", w));
            checkSmoothing(labelSmoothing);
        }
    }

    private final Module model;
    private final Function<Batch, Tensor> forward; // to logits [B, classes]
    private final List<String> labels;
    private final Options options;

    /** Over a classifier's classes. */
    public ClassificationTask(SequenceClassifier model, Options options) {
        this(model, batch -> model.forward(Inputs.of(batch, model)), model.labels(), options);
    }

    ClassificationTask(Module model, Function<Batch, Tensor> forward, List<String> labels, Options options) {
        int given = options.classWeights.size();
        check(
                given == 0 || given == labels.size(),
                "there are %d class weights for %d classes; give one for each, in the order %s",
                given,
                labels.size(),
                labels);
        this.model = model;
        this.forward = forward;
        this.labels = List.copyOf(labels);
        this.options = options;
    }

    @Override
    public Module model() {
        return model;
    }

    @Override
    public Outcome forward(Batch batch) {
        Tensor logits = logits(batch);
        classes(batch);
        Tensor wanted = labels(batch).to(logits.device());
        return new Outcome() {
            @Override
            public Tensor loss() {
                return crossEntropy(logits, wanted);
            }

            @Override
            public Tensor logits() {
                return logits;
            }

            @Override
            public Tensor targets() {
                return wanted;
            }
        };
    }

    private Tensor crossEntropy(Tensor logits, Tensor wanted) {
        Tensor weights = null;
        if (!options.classWeights.isEmpty()) {
            weights = Tensor.of(options.classWeights.stream()
                            .mapToDouble(Double::doubleValue)
                            .toArray())
                    .to(DType.FLOAT32)
                    .to(logits.device());
        }
        return logits.crossEntropy(wanted, weights, options.labelSmoothing, Tensor.Reduction.SUM);
    }

    @Override
    public double units(Batch batch) {
        if (options.classWeights.isEmpty()) {
            return (double) batch.targets();
        }
        return Arrays.stream(classes(batch))
                .mapToDouble(c -> options.classWeights.get((int) c))
                .sum();
    }

    @Override
    public ClassificationEvaluator evaluator() {
        return new ClassificationEvaluator(this, labels);
    }

    @Override
    public Metric metric() {
        return new Metric("accuracy", true);
    }

    Tensor logits(Batch batch) {
        return forward.apply(batch).to(DType.FLOAT32);
    }

    /** The batch's class ids, known to exist. */
    long[] classes(Batch batch) {
        long[] classes = labels(batch).longs();
        for (int i = 0; i < classes.length; i++) {
            check(
                    classes[i] >= 0 && classes[i] < labels.size(),
                    "%s has class %d, but the model has %d classes, 0 to %d; load it with the labels of this data",
                    batch.sources().get(i),
                    classes[i],
                    labels.size(),
                    labels.size() - 1);
        }
        return classes;
    }

    private static Tensor labels(Batch batch) {
        Tensor found = batch.labels();
        check(
                found != null && found.dim() == 1 && found.dtype() == DType.INT64,
                "classification needs a class for each text, and %s brings %s; name the label column",
                batch.sources().get(0),
                describe(found));
        return Objects.requireNonNull(found);
    }

    static String describe(@Nullable Tensor labels) {
        return labels == null ? "none" : labels.dtype() + Arrays.toString(labels.shape());
    }

    static void checkSmoothing(double smoothing) {
        check(smoothing >= 0 && smoothing < 1, "labelSmoothing must lie in [0, 1), found %s; try 0.1", smoothing);
    }
}
