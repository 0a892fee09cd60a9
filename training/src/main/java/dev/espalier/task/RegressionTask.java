package dev.espalier.task;

import static dev.espalier.Check.check;

import dev.espalier.data.Batch;
import dev.espalier.model.SequenceClassifier;
import dev.espalier.nn.Module;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Tensor;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.function.Function;

/** A number for each text, by mean squared error; judged by the error and by Pearson's and Spearman's correlation. */
public final class RegressionTask implements Task {

    private final Module model;
    private final Function<Batch, Tensor> forward; // to [B, 1]

    /** With a classifier of one output. */
    public RegressionTask(SequenceClassifier model) {
        this(model, batch -> model.forward(Inputs.of(batch, model)));
    }

    RegressionTask(Module model, Function<Batch, Tensor> forward) {
        this.model = model;
        this.forward = forward;
    }

    @Override
    public Module model() {
        return model;
    }

    @Override
    public Outcome forward(Batch batch) {
        Tensor predicted = predict(batch); // [B]
        Tensor wanted = scores(batch).to(predicted.device()); // [B]
        return new Outcome() {
            @Override
            public Tensor loss() {
                return predicted.sub(wanted).square().sum();
            }

            @Override
            public Tensor logits() {
                return predicted.unsqueeze(1);
            }

            @Override
            public Tensor targets() {
                return wanted;
            }
        };
    }

    @Override
    public Evaluator evaluator() {
        return new Judge();
    }

    @Override
    public Metric metric() {
        return new Metric("loss", false);
    }

    private Tensor predict(Batch batch) {
        Tensor outputs = forward.apply(batch).to(DType.FLOAT32);
        check(
                outputs.size(-1) == 1,
                "regression needs a model with one output, found %d; load it with one label",
                outputs.size(-1));
        return outputs.reshape(-1); // [B]
    }

    private static Tensor scores(Batch batch) {
        Tensor found = batch.labels();
        check(
                found != null && found.dim() == 1 && found.dtype() == DType.FLOAT32,
                "regression needs a number for each text, and %s brings %s; name the score column",
                batch.sources().get(0),
                ClassificationTask.describe(found));
        return Objects.requireNonNull(found);
    }

    private final class Judge implements Evaluator {
        private final List<double[]> predicted = new ArrayList<>();
        private final List<double[]> actual = new ArrayList<>();

        @Override
        public void add(Batch batch) {
            predicted.add(predict(batch).doubles());
            actual.add(scores(batch).doubles());
        }

        @Override
        public Map<String, Double> metrics() {
            double[] x = flat(predicted);
            double[] y = flat(actual);
            double squares = 0;
            for (int i = 0; i < x.length; i++) {
                squares += (x[i] - y[i]) * (x[i] - y[i]);
            }
            Map<String, Double> metrics = new LinkedHashMap<>();
            metrics.put("loss", squares / x.length);
            metrics.put("mse", squares / x.length);
            metrics.put("pearson", Correlation.pearson(x, y));
            metrics.put("spearman", Correlation.spearman(x, y));
            return metrics;
        }

        private static double[] flat(List<double[]> parts) {
            return parts.stream().flatMapToDouble(Arrays::stream).toArray();
        }
    }
}
