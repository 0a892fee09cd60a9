package dev.espalier.task;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import dev.espalier.data.Batch;
import dev.espalier.data.Collator;
import dev.espalier.data.Encoding;
import dev.espalier.io.Json;
import dev.espalier.nn.Dropout;
import dev.espalier.nn.Module;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Test;

class ClassificationTaskTest {

    private static final class Net extends Module {
        final Dropout dropout = child("dropout", new Dropout(0.5));
        final Dropout resting = child("resting", new Dropout(0.5));
    }

    private static Batch batch(long... classes) {
        Tensor ids = Tensor.ones(DType.INT64, classes.length, 1);
        List<String> sources = new ArrayList<>();
        for (int i = 1; i <= classes.length; i++) {
            sources.add("data.csv:" + i);
        }
        return new Batch(
                ids, ids, ids, null, null, Tensor.of(classes, classes.length), classes.length, classes.length, sources);
    }

    private static ClassificationTask task(Tensor logits, ClassificationTask.Options options) {
        List<String> labels = List.of("a", "b", "c", "d").subList(0, (int) logits.size(-1));
        return new ClassificationTask(new Net(), batch -> logits, labels, options);
    }

    /** Expected numbers: torch's cross_entropy, by tools/golden/make_optim_fixtures.py. */
    @Test
    @SuppressWarnings("unchecked")
    void weightsAndSmoothingGiveTorchsMean() {
        Map<String, Object> golden = (Map<String, Object>)
                Json.read(Path.of("src/test/resources/golden/optim.json").toAbsolutePath())
                        .get("cross_entropy");
        List<List<Double>> rows = new ArrayList<>((List<List<Double>>) golden.get("logits"));
        rows.remove(2); // its label is -100, which a classification batch never has
        try (Scope scope = Scope.open()) {
            Tensor logits = Tensor.of(
                    rows.stream().flatMap(List::stream).mapToDouble(v -> v).toArray(), 5, 4);
            Batch batch = batch(0, 3, 1, 1, 2);
            int compared = 0;
            for (Map<String, Object> c : (List<Map<String, Object>>) golden.get("cases")) {
                if (c.get("reduction").equals("mean")) {
                    List<Double> weights =
                            c.get("class_weights") == null ? List.of() : (List<Double>) c.get("class_weights");
                    ClassificationTask task =
                            task(logits, new ClassificationTask.Options(weights, (double) c.get("label_smoothing")));
                    double mean = task.loss(batch).item() / task.units(batch);
                    assertThat(mean).as(c.toString()).isEqualTo((double) c.get("loss"), within(1e-6));
                    compared++;
                }
            }
            assertThat(compared).isEqualTo(4);
        }
    }

    @Test
    void metricsCountByHand() {
        try (Scope scope = Scope.open()) {
            // Predictions a, b, b, a for the classes a, b, a, a; c is neither seen nor predicted.
            Tensor logits = Tensor.of(new float[] {1, 0, 0, 0, 1, 0, 0, 1, 0, 1, 0, 0}, 4, 3);
            ClassificationEvaluator evaluator =
                    task(logits, ClassificationTask.Options.DEFAULT).evaluator();
            evaluator.add(batch(0, 1, 0, 0));
            double right = Math.log(Math.E + 2) - 1;
            Map<String, Double> metrics = evaluator.metrics();
            assertThat(metrics.get("loss")).isEqualTo((3 * right + right + 1) / 4, within(1e-6));
            assertThat(metrics.get("accuracy")).isEqualTo(0.75);
            // F1 of a: precision 1, recall 2/3, so 4/5; of b: precision 1/2, recall 1, so 2/3
            assertThat(metrics.get("macro_f1")).isEqualTo((0.8 + 2 / 3.0) / 2, within(1e-12));
            assertThat(evaluator.confusion()).isDeepEqualTo(new long[][] {{2, 1, 0}, {0, 1, 0}, {0, 0, 0}});
            assertThat(evaluator.perClass().get(0))
                    .isEqualTo(new ClassificationEvaluator.ClassScore("a", 1, 2 / 3.0, 0.8, 3));
            assertThat(evaluator.perClass().get(2)).isEqualTo(new ClassificationEvaluator.ClassScore("c", 0, 0, 0, 0));
        }
    }

    @Test
    void badSettingsAndLabelsAreRefused() {
        try (Scope scope = Scope.open()) {
            Tensor logits = Tensor.zeros(DType.FLOAT32, 2, 3);
            assertThatThrownBy(() -> task(logits, new ClassificationTask.Options(List.of(1.0, 2.0), 0)))
                    .hasMessage("there are 2 class weights for 3 classes; give one for each, in the order [a, b, c]");
            assertThatThrownBy(() -> new ClassificationTask.Options(List.of(0.0), 0))
                    .hasMessage("class weights must be above 0 and finite, found 0.0; try 1");
            assertThatThrownBy(() -> new ClassificationTask.Options(List.of(), 1))
                    .hasMessage("labelSmoothing must lie in [0, 1), found 1.0; try 0.1");
            assertThatThrownBy(() ->
                            task(logits, ClassificationTask.Options.DEFAULT).loss(batch(0, 3)))
                    .hasMessage(
                            "data.csv:2 has class 3, but the model has 3 classes, 0 to 2; load it with the labels of"
                                    + " this data");
        }
    }

    @Test
    void evaluationPutsEachPartBackIntoItsMode() {
        Net net = new Net();
        net.train(true);
        net.resting.train(false);
        List<Boolean> seen = new ArrayList<>();
        ClassificationTask task = new ClassificationTask(
                net,
                batch -> {
                    seen.add(net.dropout.isTraining());
                    return Tensor.zeros(DType.FLOAT32, batch.inputIds().size(0), 2);
                },
                List.of("a", "b"),
                ClassificationTask.Options.DEFAULT);
        List<Encoding> data = List.of(encoding(0), encoding(1), encoding(1));
        Evaluation.run(task, new Collator(data, Collator.Options.of(2, 0), new Seed(1)));
        assertThat(seen).containsExactly(false, false);
        assertThat(net.isTraining()).isTrue();
        assertThat(net.dropout.isTraining()).isTrue();
        assertThat(net.resting.isTraining()).isFalse();
    }

    @Test
    void regressionGivesErrorAndCorrelations() {
        // Ranks of the targets, with a tie: 1, 2.5, 2.5, 4; of the predictions 1, 2, 3, 4
        double[] predicted = {0, 1, 2, 3};
        double[] actual = {0, 1, 1, 4};
        // means 1.5 and 1.5; products of deviations 2.25 + 0.25 - 0.25 + 3.75; squares 5 and 9
        assertThat(Correlation.pearson(predicted, actual)).isEqualTo(6 / Math.sqrt(5 * 9), within(1e-12));
        // ranks: products 2.25 + 0 + 0 + 2.25; squares 5 and 4.5
        assertThat(Correlation.spearman(predicted, actual)).isEqualTo(4.5 / Math.sqrt(5 * 4.5), within(1e-12));
        try (Scope scope = Scope.open()) {
            Tensor outputs = Tensor.of(new float[] {0, 1, 2, 3}, 4, 1);
            RegressionTask task = new RegressionTask(new Net(), batch -> outputs);
            Tensor ids = Tensor.ones(DType.INT64, 4, 1);
            Batch batch =
                    new Batch(ids, ids, ids, null, null, Tensor.of(new float[] {0, 1, 1, 4}), 4, 4, List.of("x:1"));
            assertThat(task.loss(batch).item()).isEqualTo(2);
            Evaluator evaluator = task.evaluator();
            evaluator.add(batch);
            assertThat(evaluator.metrics()).containsEntry("mse", 0.5).containsEntry("loss", 0.5);
            assertThat(evaluator.metrics().get("pearson")).isEqualTo(6 / Math.sqrt(45), within(1e-12));
            Batch classes = batch(0, 1, 0, 1);
            assertThatThrownBy(() -> task.loss(classes))
                    .hasMessage(
                            "regression needs a number for each text, and data.csv:1 brings INT64[4]; name the score"
                                    + " column");
        }
    }

    private static Encoding encoding(int label) {
        return new Encoding(new int[] {1, 2}, null, new boolean[2], label, "data.csv:1");
    }
}
