package dev.espalier.task;

import dev.espalier.data.Batch;
import dev.espalier.tensor.Tensor;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * Accuracy, F1 and the confusion matrix.
 *
 * <p>The loss is the plain mean cross-entropy, without smoothing or class weights, so that runs can be compared. Macro F1
 * is the mean over the classes that were seen or predicted, as scikit-learn's.
 */
public final class ClassificationEvaluator implements Evaluator {

    /**
     * How well one class is found.
     *
     * @param label the class's name
     * @param precision share of its predictions that are right, 0 if there are none
     * @param recall share of its texts that are found, 0 if there are none
     * @param f1 their harmonic mean
     * @param support its texts
     */
    public record ClassScore(String label, double precision, double recall, double f1, long support) {}

    private final ClassificationTask task;
    private final List<String> labels;
    private final long[][] confusion; // [actual][predicted]
    private final List<Boolean> right = new ArrayList<>();
    private double loss;
    private long rows;

    ClassificationEvaluator(ClassificationTask task, List<String> labels) {
        this.task = task;
        this.labels = labels;
        this.confusion = new long[labels.size()][labels.size()];
    }

    @Override
    public void add(Batch batch) {
        long[] actual = task.classes(batch);
        Tensor logits = task.logits(batch); // [B, classes]
        long[] predicted = logits.argmax(-1).longs();
        Tensor targets = Tensor.of(actual, actual.length).to(logits.device());
        loss += logits.crossEntropy(targets, null, 0, Tensor.Reduction.SUM).item();
        for (int i = 0; i < actual.length; i++) {
            confusion[(int) actual[i]][(int) predicted[i]]++;
            right.add(actual[i] == predicted[i]);
        }
        rows += actual.length;
    }

    @Override
    public Map<String, Double> metrics() {
        long right = 0;
        for (int i = 0; i < confusion.length; i++) {
            right += confusion[i][i];
        }
        List<ClassScore> scores = perClass();
        double f1 = 0;
        int counted = 0;
        for (int i = 0; i < confusion.length; i++) {
            if (scores.get(i).support() + predictions(i) > 0) {
                f1 += scores.get(i).f1();
                counted++;
            }
        }
        Map<String, Double> metrics = new LinkedHashMap<>();
        metrics.put("loss", loss / rows);
        metrics.put("accuracy", (double) right / rows);
        metrics.put("macro_f1", f1 / counted);
        return metrics;
    }

    /** Of each row, in the order they came, whether its class was found. */
    public List<Boolean> right() {
        return List.copyOf(right);
    }

    /** Each class in order. */
    public List<ClassScore> perClass() {
        List<ClassScore> scores = new ArrayList<>();
        for (int i = 0; i < confusion.length; i++) {
            long support = 0;
            for (long count : confusion[i]) {
                support += count;
            }
            double right = (double) confusion[i][i];
            long predicted = predictions(i);
            scores.add(new ClassScore(
                    labels.get(i),
                    predicted == 0 ? 0 : right / predicted,
                    support == 0 ? 0 : right / support,
                    support + predicted == 0 ? 0 : 2 * right / (support + predicted),
                    support));
        }
        return scores;
    }

    /** Counts, a row for each actual class and a column for each predicted one. */
    public long[][] confusion() {
        long[][] copy = new long[confusion.length][];
        for (int i = 0; i < copy.length; i++) {
            copy[i] = confusion[i].clone();
        }
        return copy;
    }

    private long predictions(int column) {
        long sum = 0;
        for (long[] row : confusion) {
            sum += row[column];
        }
        return sum;
    }
}
