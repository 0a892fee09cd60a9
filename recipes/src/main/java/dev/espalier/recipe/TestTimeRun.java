package dev.espalier.recipe;

import dev.espalier.EspalierException;
import dev.espalier.adapter.Catalog;
import dev.espalier.data.Batch;
import dev.espalier.data.Collator;
import dev.espalier.data.DataOptions;
import dev.espalier.data.Dataset;
import dev.espalier.data.Encoding;
import dev.espalier.data.Example;
import dev.espalier.io.Fields;
import dev.espalier.model.Input;
import dev.espalier.model.SequenceClassifier;
import dev.espalier.task.Inputs;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import dev.espalier.testtime.Adaptation;
import dev.espalier.testtime.TestTime;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import org.jspecify.annotations.Nullable;

/**
 * A stream of texts predicted batch after batch, as the model does and adapted to each batch.
 *
 * @param rows one a text, in the file's order
 * @param figures what the method tells of its batches, in the mean over them
 */
public record TestTimeRun(List<Row> rows, Map<String, Double> figures) {

    private static final String VERB = "adapt";

    /** Copies. */
    public TestTimeRun {
        rows = List.copyOf(rows);
        figures = java.util.Collections.unmodifiableMap(new LinkedHashMap<>(figures));
    }

    /**
     * What is said of one text.
     *
     * @param before likeliest class without adapting
     * @param label likeliest class
     * @param probability of it
     * @param truth what the file says, or null
     */
    public record Row(
            String text,
            String before,
            String label,
            double probability,
            @Nullable String truth) {}

    /**
     * Reads a recipe.
     *
     * @param recipe a YAML file, or one of {@link Section#recipes}
     * @param settings such as {@code k=5}, in place of the recipe's
     */
    public static TestTime.Chosen<?> method(String recipe, List<String> settings) {
        Fields f = Section.read(recipe, VERB, settings);
        Fields own = f.fields(VERB);
        TestTime<?> method = Catalog.method(own.string("type"), TestTime.class, "adapt.type", "lame");
        TestTime.Chosen<?> chosen = TestTime.Chosen.read(method, own);
        f.done();
        return chosen;
    }

    /**
     * Predicts a file's texts.
     *
     * @param data rows with a text, and perhaps a label; the order is that of the stream
     * @param columns which column plays which part, where that must be said
     * @param batch texts that are adapted to together
     */
    public static TestTimeRun of(
            LoadedModel loaded, TestTime.Chosen<?> method, Path data, Map<String, String> columns, int batch) {
        if (!(loaded.pretrained().model() instanceof SequenceClassifier model) || loaded.labels() == null) {
            throw new EspalierException(
                    "%s is no classifier, and only predictions of classes adapt; name an adapter that was trained to classify"
                            .formatted(loaded.pretrained().origin().name()));
        }
        List<Example> examples =
                Dataset.read(data, DataOptions.of(columns, null)).examples();
        List<Encoding> encodings = examples.stream().map(e -> encode(loaded, e)).toList();
        Collator collator = new Collator(
                encodings,
                new Collator.Options(batch, PadId.of(loaded.pretrained()), Collator.Side.RIGHT, false, 0),
                new Seed(0));
        List<Row> rows = new ArrayList<>();
        Map<String, Double> figures = new LinkedHashMap<>();
        model.train(false);
        try (Grad off = Grad.off();
                Adaptation adaptation = method.start(model)) {
            int batches = collator.batches(0);
            for (int b = 0; b < batches; b++) {
                try (Scope scope = Scope.open()) {
                    Batch shown = collator.batch(new Collator.Cursor(0, b));
                    Input input = Inputs.of(shown, model);
                    long[] plain = model.forward(input).argmax(1).longs();
                    Tensor adapted = adaptation.predict(input); // [B, classes]
                    long[] likeliest = adapted.argmax(1).longs();
                    double[] probability =
                            adapted.amax(1, false).to(DType.FLOAT64).doubles();
                    adaptation.figures().forEach((name, value) -> figures.merge(name, value / batches, Double::sum));
                    for (int i = 0; i < plain.length; i++) {
                        Example example = examples.get(rows.size());
                        rows.add(new Row(
                                text(example),
                                model.labels().get((int) plain[i]),
                                model.labels().get((int) likeliest[i]),
                                probability[i],
                                example instanceof Example.Labelled labelled ? labelled.label() : null));
                    }
                }
            }
        }
        return new TestTimeRun(rows, figures);
    }

    private static Encoding encode(LoadedModel loaded, Example example) {
        if (example instanceof Example.Labelled labelled) {
            Objects.requireNonNull(loaded.labels()).id(labelled); // a label that the model does not know is an error
            return loaded.encoder().encode(labelled.text(), labelled.textPair(), labelled.source());
        }
        return loaded.encoder().encode(text(example), null, example.source());
    }

    private static String text(Example example) {
        if (example instanceof Example.Labelled labelled) {
            return labelled.text();
        }
        if (example instanceof Example.Plain plain) {
            return plain.text();
        }
        throw new EspalierException("%s is neither a text nor a text with a label; give a file with a column text"
                .formatted(example.source()));
    }

    /** Whether the file has labels. */
    public boolean isLabelled() {
        return rows.get(0).truth() != null;
    }

    /** How many predictions adapting changed. */
    public long changed() {
        return rows.stream().filter(r -> !r.before().equals(r.label())).count();
    }

    /** Share of right predictions without adapting; 0 without labels. */
    public double accuracyBefore() {
        return share(rows.stream().filter(r -> r.before().equals(r.truth())).count());
    }

    /** Share of right predictions; 0 without labels. */
    public double accuracy() {
        return share(rows.stream().filter(r -> r.label().equals(r.truth())).count());
    }

    private double share(long right) {
        return right / (double) rows.size();
    }
}
