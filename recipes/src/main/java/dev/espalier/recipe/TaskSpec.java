package dev.espalier.recipe;

import static dev.espalier.Check.check;

import dev.espalier.data.DataOptions;
import dev.espalier.data.Dataset;
import dev.espalier.data.Encoder;
import dev.espalier.data.Shape;
import dev.espalier.data.Splits;
import dev.espalier.io.Fields;
import dev.espalier.tensor.Seed;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/**
 * What is learnt, and from which data: the {@code task} of a recipe.
 *
 * @param type kind of task
 * @param data a file, or a folder of one or several splits; beside {@code forget} called {@code retain}
 * @param columns which column plays which part, such as {@code {text: body, label: queue}}; parts left out are found
 * @param heldOut share of the examples kept aside to judge by, in [0, 1); 0 for none. Not used where the data come with a
 *     validation or test split, or with {@code heldOutData}
 * @param heldOutData a file to judge by, or null
 * @param shuffle whether every epoch has an order of its own
 * @param maxLength tokens of a text at most; 0 for what the model takes
 * @param truncate whether a longer text is cut, or is an error
 * @param pack whether several texts share a row (causal language models only)
 * @param supervise which part of a conversation is learnt
 * @param template a chat template in Jinja, or the file that holds it; null for the model's own
 * @param templateVariables what the template is told, such as {@code enable_thinking}
 * @param labelSmoothing in [0, 1)
 * @param balanced whether classes count in inverse proportion to their number
 * @param classWeights how much classes count, by name; those left out count 1
 * @param forget a file of what is to be forgotten, or null: for unlearning, where {@code data} is what is to be retained
 */
public record TaskSpec(
        Type type,
        Path data,
        Map<String, String> columns,
        double heldOut,
        @Nullable Path heldOutData,
        boolean shuffle,
        int maxLength,
        boolean truncate,
        boolean pack,
        Encoder.Supervise supervise,
        @Nullable String template,
        Map<String, Object> templateVariables,
        double labelSmoothing,
        boolean balanced,
        Map<String, Double> classWeights,
        @Nullable Path forget) {

    /** Kinds of task. */
    public enum Type {
        /** One of several classes for a text, or a pair of texts. */
        CLASSIFICATION("classification"),
        /** A number for a text, or a pair of texts. */
        REGRESSION("regression"),
        /** The next token: conversations, prompts with completions, plain text. */
        CAUSAL_LM("causal-lm");

        private final String key;

        Type(String key) {
            this.key = key;
        }

        /** As recipes write it. */
        public String key() {
            return key;
        }

        static Type of(Fields f) {
            String name = f.string("type");
            for (Type type : values()) {
                if (type.key.equalsIgnoreCase(name)) {
                    return type;
                }
            }
            throw f.fault("type", "is %s; it must be classification, regression or causal-lm".formatted(name));
        }
    }

    static final double DEFAULT_HELD_OUT = 0.1;

    /** Checks ranges, and that what is set has a meaning for the task. */
    public TaskSpec {
        columns = Map.copyOf(columns);
        classWeights = Map.copyOf(classWeights);
        templateVariables = Map.copyOf(templateVariables);
        check(heldOut >= 0 && heldOut < 1, "task.heldOut must lie in [0, 1), found %s; try 0.1", heldOut);
        check(
                maxLength == 0 || maxLength >= 2,
                "task.maxLength must be at least 2 tokens (or 0: what the model takes), found %d; try 512",
                maxLength);
        check(
                labelSmoothing >= 0 && labelSmoothing < 1,
                "task.labelSmoothing must lie in [0, 1), found %s; try 0.1",
                labelSmoothing);
        check(
                !pack || type == Type.CAUSAL_LM,
                "task.pack is for causal-lm: a %s answers once a row; remove it",
                type.key());
        check(
                type == Type.CLASSIFICATION || (classWeights.isEmpty() && !balanced),
                "task.classWeights is for classification, not %s; remove it",
                type.key());
        check(
                type != Type.REGRESSION || labelSmoothing == 0,
                "task.labelSmoothing is not for regression, which has no classes; remove it");
    }

    static TaskSpec read(Fields f) {
        Type type = Type.of(f);
        Object held = f.any("heldOut");
        boolean balanced = "balanced".equals(f.any("classWeights"));
        String template = f.orNull("template", Fields::string);
        String forget = f.orNull("forget", Fields::string);
        return new TaskSpec(
                type,
                Path.of(f.string(forget == null ? "data" : "retain")),
                f.stringMap("columns", Map.of()),
                held instanceof String ? 0 : f.number("heldOut", DEFAULT_HELD_OUT),
                held instanceof String file ? Path.of(file) : null,
                f.bool("shuffle", true),
                f.integer("maxLength", 0),
                f.bool("truncate", false),
                f.bool("pack", false),
                f.choice("supervise", Encoder.Supervise.ANSWERS),
                template,
                f.map("templateVariables", Map.of()),
                f.number("labelSmoothing", 0),
                balanced,
                balanced ? Map.of() : f.numberMap("classWeights", Map.of()),
                forget == null ? null : Path.of(forget));
    }

    /** Which rows the task can use; null where several shapes will do. */
    public @Nullable Shape shape() {
        return switch (type) {
            case CLASSIFICATION -> Shape.LABELLED;
            case REGRESSION -> Shape.SCORED;
            case CAUSAL_LM -> null;
        };
    }

    /** Reads a file of this task's rows. */
    public Dataset read(Path file) {
        return Dataset.read(file, options());
    }

    /**
     * Reads the data and holds out what is to judge by.
     *
     * @return training data, and validation data or null; a test split where the folder has one
     */
    public Splits split(Seed seed) {
        check(
                Files.exists(data),
                "task.%s: %s does not exist; check the path",
                forget == null ? "data" : "retain",
                data);
        Splits splits = Splits.read(data, options());
        if (heldOutData != null) {
            return new Splits(splits.train(), read(heldOutData), splits.test());
        }
        if (splits.validation() != null || splits.test() != null || heldOut == 0) {
            return splits;
        }
        return splits.train().split(heldOut, seed);
    }

    private DataOptions options() {
        return DataOptions.of(columns, shape());
    }
}
