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
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/**
 * What a model is worth on data.
 *
 * @param examples how many there were
 * @param metrics as the task has them; {@code loss} in any case
 * @param classes of a classifier, each by itself; empty for other tasks
 * @param right of each example, in an order that depends on the data alone, whether it was answered rightly; empty where there is
 *     no such thing
 */
public record Judgement(
        int examples,
        Map<String, Double> metrics,
        List<ClassificationEvaluator.ClassScore> classes,
        List<Boolean> right) {

    /** Name of the share of texts that are written exactly as they should be: {@link #withExactMatch}. */
    public static final String EXACT_MATCH = "exact_match";

    /**
     * Judges a model.
     *
     * @param data a file of the rows that the model was trained for
     * @param columns which column plays which part, where that must be said
     * @param batch rows at a time, at least 1
     */
    public static Judgement of(LoadedModel loaded, Path data, Map<String, String> columns, int batch) {
        Task task = task(loaded);
        Shape shape = shape(loaded);
        Encodings encodings = loaded.encoder().encode(Dataset.read(data, DataOptions.of(columns, shape)));
        Collator collator = new Collator(
                encodings.items(),
                new Collator.Options(batch, PadId.of(loaded.pretrained()), Collator.Side.RIGHT, false, 0),
                new Seed(0));
        Evaluator evaluator = Evaluation.run(task, collator);
        return new Judgement(
                encodings.items().size(),
                evaluator.metrics(),
                evaluator instanceof ClassificationEvaluator classifier ? classifier.perClass() : List.of(),
                evaluator instanceof ClassificationEvaluator classifier ? classifier.right() : List.of());
    }

    /**
     * The same of a language model, which then answers each prompt too: {@link ExactMatch}.
     *
     * @param maxNewTokens tokens of an answer at most, at least 1
     */
    public static Judgement withExactMatch(
            LoadedModel loaded, Path data, Map<String, String> columns, int batch, int maxNewTokens) {
        Judgement plain = of(loaded, data, columns, batch);
        List<Boolean> right = ExactMatch.of(
                loaded.pretrained(),
                loaded.chatTemplate().orElse(null),
                Dataset.read(data, DataOptions.of(columns, null)).examples(),
                maxNewTokens);
        Map<String, Double> metrics = new LinkedHashMap<>(plain.metrics());
        metrics.put(EXACT_MATCH, ExactMatch.share(right));
        return new Judgement(plain.examples(), metrics, plain.classes(), right);
    }

    /** What the model was trained for. */
    static Task task(LoadedModel loaded) {
        if (loaded.pretrained().model() instanceof CausalLm model) {
            return new CausalLmTask(model, 0);
        } else if (loaded.pretrained().model() instanceof SequenceClassifier model) {
            return loaded.labels() != null
                    ? new ClassificationTask(model, ClassificationTask.Options.DEFAULT)
                    : new RegressionTask(model);
        }
        throw new EspalierException("%s only embeds; name an adapter that was trained for a task"
                .formatted(loaded.pretrained().origin().name()));
    }

    /** Which rows it can be judged by; null where several shapes will do. */
    static @Nullable Shape shape(LoadedModel loaded) {
        return loaded.pretrained().model() instanceof CausalLm
                ? null
                : loaded.labels() != null ? Shape.LABELLED : Shape.SCORED;
    }
}
