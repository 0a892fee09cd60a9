package dev.espalier.recipe;

import static dev.espalier.Check.check;

import com.google.errorprone.annotations.CanIgnoreReturnValue;
import dev.espalier.EspalierException;
import dev.espalier.Nearest;
import dev.espalier.adapter.AdapterSpec;
import dev.espalier.adapter.Catalog;
import dev.espalier.adapter.Method;
import dev.espalier.io.Fields;
import java.io.IOException;
import java.io.InputStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/**
 * Which model learns what, from which data, through which adapter, how, and where the result goes.
 *
 * <pre>{@code
 * model: minilm
 * task:
 *   type: classification
 *   data: tickets.csv
 * adapter:
 *   type: lora
 *   r: 8
 * train:
 *   epochs: 3
 * out: out/tickets
 * }</pre>
 *
 * <p>The same record comes from YAML ({@link #read}), from the builder, or from the settings saved beside an adapter.
 *
 * @param model a built-in, a folder, a GGUF file, or an id of a hub
 * @param task what is learnt
 * @param adapter what is trained
 * @param train how
 * @param out the folder that results go to, or null: then the caller must say
 * @param settings all of this as it was given
 */
public record Recipe(
        String model,
        TaskSpec task,
        AdapterPart adapter,
        TrainPart train,
        @Nullable Path out,
        Map<String, Object> settings) {

    /** The command of recipes without a section for another. */
    static final String TRAIN = "train";

    /** Recipes that come with Espalier, one for a method that has one: to be completed with model and data. */
    public static final List<String> BUILT_IN = Catalog.methods().keySet().stream()
            .map(Recipe::recipeOf)
            .filter(name -> Recipe.class.getResource("/recipes/" + name + ".yaml") != null)
            .toList();

    /** Commands of methods that are no training: a recipe's section of that name is for the command alone. */
    private static final List<String> VERBS = Catalog.methods().values().stream()
            .map(Method::verb)
            .filter(verb -> !verb.equals(TRAIN))
            .distinct()
            .toList();

    /** The name of a method's recipe: {@code lora-plus} for {@code lora+}. */
    public static String recipeOf(String method) {
        return method.replace("+", "-plus");
    }

    /** Copies. */
    public Recipe {
        settings = Collections.unmodifiableMap(new LinkedHashMap<>(settings));
    }

    /**
     * Reads a file, or a recipe that comes with Espalier.
     *
     * @param name a YAML file, or one of {@link #BUILT_IN}
     * @param overrides such as {@code train.learningRate=1e-4}, laid over what is read
     * @throws EspalierException naming the field that is missing, unknown or wrong
     */
    public static Recipe read(String name, List<String> overrides) {
        Map<String, Object> settings = settings(name, BUILT_IN);
        Section.checkTrains(name, settings);
        return of(name, Yaml.with(settings, overrides));
    }

    /**
     * Reads settings.
     *
     * @param where they come from, for messages
     */
    public static Recipe of(String where, Map<String, Object> settings) {
        Map<String, Object> renamed = new LinkedHashMap<>(settings);
        if (settings.get("adapter") instanceof Map<?, ?> adapter) {
            Map<String, Object> fields = new LinkedHashMap<>();
            adapter.forEach((key, value) -> fields.put(String.valueOf(key), value));
            renamed.put("adapter", AdapterPart.peftNames(fields));
        }
        Fields f = Fields.of(where, renamed);
        f.ignore("citation");
        VERBS.forEach(f::ignore); // the verb reads and checks its section
        String model = f.string("model");
        String out = f.orNull("out", Fields::string);
        TaskSpec task = TaskSpec.read(f.fields("task"));
        AdapterPart adapter = AdapterPart.read(f.fields("adapter"));
        TrainPart train = TrainPart.read(f.fields("train"));
        f.done();
        return new Recipe(model, task, adapter, train, out == null ? null : Path.of(out), settings);
    }

    /**
     * The settings of a file, or of a recipe that comes with Espalier.
     *
     * @param known names of recipes that would do
     */
    static Map<String, Object> settings(String name, List<String> known) {
        boolean file = Files.isRegularFile(Path.of(name));
        if (!file && !known.contains(name)) {
            boolean path = name.contains("/") || name.contains(".");
            throw new EspalierException(
                    path
                            ? "%s does not exist; name a recipe file, or one that comes with Espalier: %s"
                                    .formatted(name, String.join(", ", known))
                            : "there is no recipe %s; %s, or name a YAML file"
                                    .formatted(name, Nearest.hint(name, known)));
        }
        return file ? Yaml.read(Path.of(name)) : Yaml.parse(name, builtIn(name));
    }

    /** The text of a recipe that comes with Espalier. */
    public static String builtIn(String name) {
        try (InputStream in = Recipe.class.getResourceAsStream("/recipes/" + name + ".yaml")) {
            check(in != null, "the recipe %s is missing from this build", name);
            return new String(java.util.Objects.requireNonNull(in).readAllBytes(), StandardCharsets.UTF_8);
        } catch (IOException e) {
            throw new EspalierException("the recipe %s cannot be read: %s".formatted(name, e.getMessage()), e);
        }
    }

    /** The same with results going elsewhere. */
    public Recipe withOut(Path folder) {
        Map<String, Object> changed = new LinkedHashMap<>(settings);
        changed.put("out", folder.toString());
        return new Recipe(model, task, adapter, train, folder, changed);
    }

    /** Starts a recipe for a model. */
    public static Builder of(String model) {
        return new Builder(model);
    }

    /** Collects settings; {@link #build} checks them as those of a file. */
    public static final class Builder {
        private final Map<String, Object> settings = new LinkedHashMap<>();

        private Builder(String model) {
            settings.put("model", model);
        }

        /** What is learnt, and from which file or folder. */
        @CanIgnoreReturnValue
        public Builder task(TaskSpec.Type type, Path data) {
            return set("task.type", type.key()).set("task.data", data.toString());
        }

        /** The method: a kind of adapter, or an initialiser of LoRA. */
        @CanIgnoreReturnValue
        public Builder adapter(String type) {
            return set("adapter.type", type);
        }

        /** Where results go. */
        @CanIgnoreReturnValue
        public Builder out(Path folder) {
            return set("out", folder.toString());
        }

        /**
         * Any other setting.
         *
         * @param key as in a file, joined by dots: {@code train.learningRate}
         * @param value text, number, boolean, list or map
         */
        @CanIgnoreReturnValue
        public Builder set(String key, Object value) {
            Map<String, Object> at = settings;
            String[] path = key.split("\\.", -1);
            for (int i = 0; i < path.length - 1; i++) {
                at = below(at, path[i]);
            }
            at.put(path[path.length - 1], value);
            return this;
        }

        @SuppressWarnings("unchecked") // this builder alone puts maps there
        private static Map<String, Object> below(Map<String, Object> map, String key) {
            return (Map<String, Object>) map.computeIfAbsent(key, k -> new LinkedHashMap<String, Object>());
        }

        /** The recipe. */
        public Recipe build() {
            return Recipe.of("recipe", settings);
        }
    }

    /** The command that carries it out: the one it has a section for, else {@code train}. */
    public String verb() {
        return VERBS.stream().filter(settings::containsKey).findFirst().orElse(TRAIN);
    }

    /**
     * The settings of a command that is no training.
     *
     * @throws EspalierException if there are none
     */
    Fields section(String verb) {
        check(
                settings.containsKey(verb),
                "the recipe has no section %s; write one, or carry it out by espalier %s",
                verb,
                verb());
        return Fields.of("", settings).fields(verb);
    }

    /**
     * The folder for results.
     *
     * @throws EspalierException if nobody said where
     */
    public Path requireOut() {
        if (out == null) {
            throw new EspalierException("the recipe does not say where results go; set out, or --out DIR");
        }
        return out;
    }

    /** The adapter's specification where a new one is made. */
    AdapterSpec<?> requireSpec() {
        return java.util.Objects.requireNonNull(adapter.spec());
    }
}
