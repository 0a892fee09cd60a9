package dev.espalier.recipe;

import dev.espalier.EspalierException;
import dev.espalier.data.Collator;
import dev.espalier.data.DataOptions;
import dev.espalier.data.Dataset;
import dev.espalier.data.Encodings;
import dev.espalier.data.Shape;
import dev.espalier.model.CausalLm;
import dev.espalier.model.SequenceClassifier;
import dev.espalier.task.CausalLmTask;
import dev.espalier.task.ClassificationEvaluator;
import dev.espalier.task.ClassificationTask;
import dev.espalier.task.Evaluation;
import dev.espalier.task.Evaluator;
import dev.espalier.task.RegressionTask;
import dev.espalier.task.Task;
import dev.espalier.tensor.Seed;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;

/**
 * What a model is worth on data.
 *
 * @param examples how many there were
 * @param metrics as the task has them; {@code loss} in any case
 * @param classes of a classifier, each by itself; empty for other tasks
 */
public record Judgement(int examples, Map<String, Double> metrics, List<ClassificationEvaluator.ClassScore> classes) {

    /**
     * Judges a model.
     *
     * @param data a file of the rows that the model was trained for
     * @param columns which column plays which part, where that must be said
     * @param batch rows at a time, at least 1
     */
    public static Judgement of(LoadedModel loaded, Path data, Map<String, String> columns, int batch) {
        Task task;
        Shape shape;
        if (loaded.pretrained().model() instanceof CausalLm model) {
            task = new CausalLmTask(model, 0);
            shape = null;
        } else if (loaded.pretrained().model() instanceof SequenceClassifier model) {
            boolean classes = loaded.labels() != null;
            task = classes
                    ? new ClassificationTask(model, ClassificationTask.Options.DEFAULT)
                    : new RegressionTask(model);
            shape = classes ? Shape.LABELLED : Shape.SCORED;
        } else {
            throw new EspalierException("%s only embeds; name an adapter that was trained for a task"
                    .formatted(loaded.pretrained().origin().name()));
        }
        Encodings encodings = loaded.encoder().encode(Dataset.read(data, DataOptions.of(columns, shape)));
        Collator collator = new Collator(
                encodings.items(),
                new Collator.Options(batch, PadId.of(loaded.pretrained()), Collator.Side.RIGHT, false, 0),
                new Seed(0));
        Evaluator evaluator = Evaluation.run(task, collator);
        return new Judgement(
                encodings.items().size(),
                evaluator.metrics(),
                evaluator instanceof ClassificationEvaluator classifier ? classifier.perClass() : List.of());
    }
}
