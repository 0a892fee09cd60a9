package dev.espalier.compare;

import static dev.espalier.Check.check;

import dev.espalier.EspalierException;
import dev.espalier.Nearest;
import dev.espalier.adapter.Catalog;
import dev.espalier.compare.StudyResult.Equal;
import dev.espalier.data.Dataset;
import dev.espalier.data.Example;
import dev.espalier.io.AtomicFile;
import dev.espalier.io.Fields;
import dev.espalier.io.Json;
import dev.espalier.recipe.Judgement;
import dev.espalier.recipe.Recipe;
import dev.espalier.recipe.TaskSpec;
import dev.espalier.recipe.Yaml;
import java.io.IOException;
import java.io.InputStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Collections;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Objects;
import java.util.Set;
import java.util.TreeSet;
import java.util.stream.Collectors;
import org.jspecify.annotations.Nullable;

/**
 * One model, one task, many methods, and what is the same for all of them.
 *
 * <pre>{@code
 * model: minilm
 * task:
 *   type: classification
 *   train: tickets.csv            # to learn from
 *   validation: 0.1               # learning rates are chosen on: a share of train, or a file
 *   test: held-out.csv            # looked at once, after every choice
 * methods:
 *   - lora
 *   - dora
 *   - {recipe: lora, name: lora-r32, adapter: {r: 32}}
 * seeds: [0, 1, 2]
 * equal: {steps: 200}
 * learningRateFactors: [0.5, 1, 2]   # of each recipe's own rate
 * }</pre>
 *
 * <p>{@code methods: all} are those of the catalogue that train. {@code task} and {@code train} hold further settings of a recipe,
 * for all methods alike.
 *
 * @param name of the study
 * @param source what {@code espalier compare} is told to do this one: a file or a name, and settings
 * @param model the base
 * @param task settings of the recipes' task, without the data
 * @param type of the task
 * @param train a file to learn from, or one that comes with Espalier: {@code builtin:quickstart/train.csv}
 * @param validation a file, or a share of train in (0, 1) that grows from the seed
 * @param test a file
 * @param common settings of the recipes' train
 * @param methods at least one, of different names
 * @param reference name of the row that others are compared with
 * @param seeds at least one
 * @param equal what is held equal
 * @param value how much of it, above 0
 * @param metric the one that decides
 * @param rates learning rates for all, ascending; empty: each recipe's own
 * @param factors of each recipe's own rate, ascending; not beside rates
 * @param choose seeds that a learning rate is chosen by
 * @param forgetting a file that nothing learns from, or null; for language models
 * @param memory bytes that runs may take together; 0: four fifths of what is available
 * @param threads of each run, at least 1
 * @param layers whether the first seed's adapters are examined layer by layer
 * @param maxNewTokens of an answer at most, where the metric is exact_match
 * @param settings all of this as it was given
 */
public record Study(
        String name,
        String source,
        String model,
        Map<String, Object> task,
        TaskSpec.Type type,
        String train,
        Object validation,
        String test,
        Map<String, Object> common,
        List<Contender> methods,
        String reference,
        List<Long> seeds,
        Equal equal,
        double value,
        String metric,
        List<Double> rates,
        List<Double> factors,
        Choose choose,
        @Nullable String forgetting,
        long memory,
        int threads,
        boolean layers,
        int maxNewTokens,
        Map<String, Object> settings) {

    /** Seeds that a learning rate is chosen by. */
    public enum Choose {
        /** The first. */
        FIRST,
        /** All. */
        ALL
    }

    /** Studies that come with Espalier. */
    public static final List<String> BUILT_IN = List.of("minilm", "smollm2-extraction");

    private static final String SCHEME = "builtin:";

    /** Metrics of each task, and whether more of it is better; the first is the usual one. */
    private static final Map<TaskSpec.Type, Map<String, Boolean>> METRICS = Map.of(
            TaskSpec.Type.CLASSIFICATION, ordered("accuracy", true, "macro_f1", true, "loss", false),
            TaskSpec.Type.REGRESSION, ordered("loss", false, "pearson", true, "spearman", true),
            TaskSpec.Type.CAUSAL_LM,
                    ordered("loss", false, "perplexity", false, "token_accuracy", true, Judgement.EXACT_MATCH, true));

    private static Map<String, Boolean> ordered(Object... pairs) {
        Map<String, Boolean> map = new LinkedHashMap<>();
        for (int i = 0; i < pairs.length; i += 2) {
            map.put((String) pairs[i], (Boolean) pairs[i + 1]);
        }
        return Collections.unmodifiableMap(map);
    }

    /** Checks everything that needs neither data nor the model; every recipe is read. */
    public Study {
        task = Collections.unmodifiableMap(new LinkedHashMap<>(task));
        common = Collections.unmodifiableMap(new LinkedHashMap<>(common));
        methods = List.copyOf(methods);
        seeds = List.copyOf(seeds);
        rates = rates.stream().sorted().toList();
        factors = factors.stream().sorted().toList();
        settings = Collections.unmodifiableMap(new LinkedHashMap<>(settings));
        check(!methods.isEmpty(), "a study needs methods to compare; write methods: [lora, dora], or methods: all");
        Set<String> names = new TreeSet<>();
        methods.forEach(m -> check(
                names.add(m.name()),
                "methods holds the name %s twice; give one of them another, as {recipe: %s, name: %s-2}",
                m.name(),
                m.recipe(),
                m.name()));
        check(
                names.contains(reference),
                "reference is %s, which is not among the methods; %s",
                reference,
                Nearest.hint(reference, names));
        check(!seeds.isEmpty(), "a study needs a seed at least; write seeds: [0, 1, 2]");
        check(new HashSet<>(seeds).size() == seeds.size(), "seeds holds one twice, found %s", seeds);
        check(value > 0 && Double.isFinite(value), "equal.%s must be above 0 and finite, found %s", equal, value);
        check(
                equal != Equal.STEPS || value == Math.rint(value),
                "equal.steps is a whole number of optimiser steps, found %s; try %s",
                value,
                Math.max(1, Math.round(value)));
        check(
                metrics(type).containsKey(metric),
                "metric is %s, which %s has not; %s",
                metric,
                type.key(),
                Nearest.hint(metric, metrics(type).keySet()));
        check(
                !(validation instanceof Number share) || (share.doubleValue() > 0 && share.doubleValue() < 1),
                "task.validation is a file or a share of train in (0, 1), found %s; try 0.1",
                validation);
        Contender.checkRates("learningRates", rates);
        Contender.checkRates("learningRateFactors", factors);
        check(
                rates.isEmpty() || factors.isEmpty(),
                "learningRates and learningRateFactors are two ways to say one thing; remove one");
        check(
                forgetting == null || type == TaskSpec.Type.CAUSAL_LM,
                "forgetting is a change of a language model's loss, and the task is %s, whose base has no loss before it is trained; remove it",
                type.key());
        check(memory >= 0, "memory must be above 0 bytes, found %d; try 4 GiB", memory);
        check(threads >= 1, "threads must be at least 1, found %d; try 1", threads);
        check(maxNewTokens >= 1, "maxNewTokens must be at least 1, found %d; try 64", maxNewTokens);
    }

    /**
     * Reads a study.
     *
     * @param name a YAML file, or one of {@link #BUILT_IN}
     * @param overrides such as {@code seeds=[0]}, laid over what is read
     * @throws EspalierException naming the field that is missing, unknown or wrong, or the method that does not exist
     */
    public static Study read(String name, List<String> overrides) {
        boolean file = Files.isRegularFile(Path.of(name));
        check(
                file || BUILT_IN.contains(name),
                "there is no study %s; %s, or name a YAML file",
                name,
                Nearest.hint(name, BUILT_IN));
        Map<String, Object> settings = file
                ? Yaml.read(Path.of(name))
                : Yaml.parse(name, new String(bytes("/studies/" + name + ".yaml"), StandardCharsets.UTF_8));
        String stem =
                Objects.requireNonNull(Path.of(name).getFileName()).toString().replaceAll("\\.ya?ml$", "");
        settings.putIfAbsent("name", stem);
        StringBuilder source = new StringBuilder(Shell.quoted(name));
        overrides.forEach(o -> source.append(" --set ").append(Shell.quoted(o)));
        return of(name, source.toString(), Yaml.with(settings, overrides));
    }

    /**
     * Reads settings.
     *
     * @param where they come from, for messages
     */
    public static Study of(String where, Map<String, Object> settings) {
        return of(where, Shell.quoted(where), settings);
    }

    private static Study of(String where, String source, Map<String, Object> settings) {
        Fields f = Fields.of(where, settings);
        String name = f.string("name", "study");
        String model = f.string("model");
        Fields task = f.fields("task");
        String train = task.string("train");
        Object validation = task.any("validation");
        String test = task.string("test");
        Map<String, Object> rest = new LinkedHashMap<>(task.unread());
        task.ignore(rest.keySet().toArray(String[]::new)); // each recipe checks them
        TaskSpec.Type type = type(where, rest);
        Fields equal = f.fields("equal");
        List<Equal> given = new ArrayList<>();
        double value = 0;
        for (Equal rule : Equal.values()) {
            if (equal.has(rule.toString())) {
                given.add(rule);
            }
            value += equal.number(rule.toString(), 0);
        }
        Object methods = f.any("methods");
        String metric = f.string("metric", metrics(type).keySet().iterator().next());
        String reference = f.string("reference", "lora");
        f.ignore("seeds"); // known, and not required
        List<Long> seeds = f.has("seeds") ? f.longs("seeds") : List.of(0L, 1L, 2L);
        List<Double> rates = f.numbers("learningRates", List.of());
        List<Double> factors = f.numbers("learningRateFactors", List.of());
        Choose choose = f.choice("choose", Choose.FIRST);
        String forgetting = f.orNull("forgetting", Fields::string);
        long memory = bytes(where, f.any("memory"));
        int threads = f.integer("threads", 1);
        boolean layers = f.bool("layers", true);
        int maxNewTokens = f.integer("maxNewTokens", 64);
        Map<String, Object> common = f.map("train", Map.of());
        f.done();
        check(
                given.size() == 1,
                "%s: equal holds one thing that is the same for all methods: steps, tokens, time (seconds) or parameters; found %s, try equal: {steps: 200}",
                where,
                given.isEmpty() ? "none" : given.toString());
        Study study = new Study(
                name,
                source,
                model,
                rest,
                type,
                train,
                validation == null ? Double.valueOf(0.1) : validation,
                test,
                common,
                contenders(where, methods),
                reference,
                seeds,
                given.get(0),
                value,
                metric,
                rates,
                factors,
                choose,
                forgetting,
                memory,
                threads,
                layers,
                maxNewTokens,
                settings);
        study.methods().forEach(study::recipe);
        return study;
    }

    private static TaskSpec.Type type(String where, Map<String, Object> task) {
        String name = String.valueOf(task.get("type"));
        for (TaskSpec.Type type : TaskSpec.Type.values()) {
            if (type.key().equalsIgnoreCase(name)) {
                return type;
            }
        }
        throw new EspalierException(
                "%s: task.type is %s; it must be classification, regression or causal-lm".formatted(where, name));
    }

    private static List<Contender> contenders(String where, @Nullable Object methods) {
        List<Contender> all = new ArrayList<>();
        List<?> items = methods instanceof List<?> list ? list : methods == null ? List.of() : List.of(methods);
        for (Object item : items) {
            if ("all".equals(item)) {
                Catalog.methods().values().stream()
                        .filter(m -> m.verb().equals("train"))
                        .map(m -> Recipe.recipeOf(m.name()))
                        .filter(Recipe.BUILT_IN::contains)
                        .filter(recipe -> Recipe.read(recipe, List.of("model=x", "task={type: causal-lm, data: x}"))
                                .verb()
                                .equals("train"))
                        .forEach(recipe -> all.add(Contender.of(recipe)));
            } else {
                all.add(Contender.of(where, item));
            }
        }
        return all;
    }

    /** {@code 4 GiB}, {@code 800 MB}, or a number of bytes; 0 where nothing is said. */
    static long bytes(String where, @Nullable Object memory) {
        if (memory == null) {
            return 0;
        }
        String text = String.valueOf(memory).strip().toUpperCase(Locale.ROOT);
        String[] units = {"B", "KB", "MB", "GB", "TB", "KIB", "MIB", "GIB", "TIB"};
        double[] sizes = {1, 1e3, 1e6, 1e9, 1e12, 1 << 10, 1 << 20, 1 << 30, (double) (1L << 40)};
        String unit = text.replaceAll("[0-9.,\\s]", "");
        try {
            double number = Double.parseDouble(
                    text.substring(0, text.length() - unit.length()).strip());
            for (int i = 0; i < units.length; i++) {
                if (units[i].equals(unit.isEmpty() ? "B" : unit) && number > 0) {
                    return (long) (number * sizes[i]);
                }
            }
        } catch (NumberFormatException e) {
            // said below
        }
        throw new EspalierException(
                "%s: memory is \"%s\"; write an amount with its unit, such as 4 GiB".formatted(where, memory));
    }

    private static Map<String, Boolean> metrics(TaskSpec.Type type) {
        return Objects.requireNonNull(METRICS.get(type));
    }

    /** Whether more of the metric is better. */
    public boolean higherIsBetter() {
        return Objects.requireNonNull(metrics(type).get(metric));
    }

    /** The settings that make a method's recipe part of this study, as {@code --set} takes them: the terms, then its own. */
    List<String> changes(Contender contender) {
        Map<String, Object> data = new LinkedHashMap<>(task);
        data.put("data", train);
        data.put("heldOut", validation);
        List<String> terms = new ArrayList<>();
        terms.add("model=" + model);
        terms.add("task=" + Json.text(data));
        Contender.flatten("train.", common, terms);
        terms.addAll(contender.changes());
        return terms;
    }

    /** A method's recipe under the study's terms, with its own learning rate. */
    Recipe recipe(Contender contender) {
        Recipe recipe;
        try {
            recipe = Recipe.read(contender.recipe(), changes(contender));
        } catch (EspalierException e) {
            throw new EspalierException("methods: %s: %s".formatted(contender.name(), e.getMessage()), e);
        }
        check(
                recipe.verb().equals("train"),
                "methods: %s is carried out by espalier %s and is no training, so it cannot be compared with one; remove it",
                contender.name(),
                recipe.verb());
        return recipe;
    }

    /** The learning rates of a method, ascending. */
    List<Double> rates(Contender contender) {
        if (!contender.rates().isEmpty()) {
            return contender.rates();
        }
        if (!rates.isEmpty()) {
            return rates;
        }
        double own = recipe(contender).train().config().learningRate();
        return factors.isEmpty()
                ? List.of(own)
                : factors.stream()
                        .map(factor -> new java.math.BigDecimal(own * factor)
                                .round(new java.math.MathContext(4))
                                .doubleValue())
                        .toList();
    }

    /** The same with data that come with Espalier written to a folder, and read from there. */
    Study inFolder(Path folder) {
        Object held = validation instanceof String file ? (Object) placed(file, folder) : validation;
        return new Study(
                name,
                source,
                model,
                task,
                type,
                placed(train, folder),
                held,
                placed(test, folder),
                common,
                methods,
                reference,
                seeds,
                equal,
                value,
                metric,
                rates,
                factors,
                choose,
                forgetting == null ? null : placed(forgetting, folder),
                memory,
                threads,
                layers,
                maxNewTokens,
                settings);
    }

    private static String placed(String file, Path folder) {
        if (!file.startsWith(SCHEME)) {
            return file;
        }
        String resource = file.substring(SCHEME.length());
        Path target = folder.resolve(resource.replace('/', '-'));
        byte[] content = bytes("/" + resource);
        AtomicFile.write(target, path -> Files.write(path, content));
        return target.toString();
    }

    private static byte[] bytes(String resource) {
        try (InputStream in = Study.class.getResourceAsStream(resource)) {
            check(in != null, "%s does not come with Espalier; name a file", resource.substring(1));
            return Objects.requireNonNull(in).readAllBytes();
        } catch (IOException e) {
            throw new EspalierException("%s cannot be read: %s".formatted(resource, e.getMessage()), e);
        }
    }

    /**
     * How many examples there are, and the checksums.
     *
     * @param sha256 of train, validation (where it is a file), test and forgetting data
     */
    record Sizes(int train, int validation, int test, List<String> sha256) {}

    /**
     * Reads the data.
     *
     * @throws EspalierException if a file serves twice, or a class is missing from a split
     */
    Sizes checkData() {
        TaskSpec spec = recipe(methods.get(0)).task();
        Dataset learn = spec.read(Path.of(train));
        Dataset judge = spec.read(Path.of(test));
        Dataset held = validation instanceof String file ? spec.read(Path.of(file)) : null;
        Dataset apart = forgetting == null ? null : spec.read(Path.of(forgetting));
        List<String> sums = new ArrayList<>(List.of(learn.sha256(), judge.sha256()));
        check(
                !judge.sha256().equals(learn.sha256()),
                "task.test and task.train are the same data (%s), so the result would say nothing; hold examples out",
                test);
        check(
                held == null || !held.sha256().equals(judge.sha256()),
                "task.validation and task.test are the same data (%s): learning rates would be chosen on what they are judged by; split it in two",
                test);
        if (held != null) {
            sums.add(held.sha256());
        }
        if (apart != null) {
            check(
                    !sums.contains(apart.sha256()),
                    "forgetting is measured on data that the study uses already (%s); name another file",
                    forgetting);
            sums.add(apart.sha256());
        }
        if (type == TaskSpec.Type.CLASSIFICATION) {
            checkClasses(learn, judge, "task.test");
            if (held != null) {
                checkClasses(learn, held, "task.validation");
            }
        }
        int all = learn.examples().size();
        int kept = held != null ? held.examples().size() : (int) Math.round(all * ((Number) validation).doubleValue());
        return new Sizes(held != null ? all : all - kept, kept, judge.examples().size(), sums);
    }

    private static void checkClasses(Dataset learn, Dataset judge, String where) {
        Set<String> known = classes(learn);
        Set<String> judged = classes(judge);
        Set<String> missing = new TreeSet<>(known);
        missing.removeAll(judged);
        check(
                missing.isEmpty(),
                "%s has no example of %s, which train has: how well a method finds it would not be measured; add some, or take it out of train",
                where,
                quoted(missing));
        judged.removeAll(known);
        check(
                judged.isEmpty(),
                "%s has examples of %s, which train has not, so no method could be right; add some to train, or take them out",
                where,
                quoted(judged));
    }

    private static Set<String> classes(Dataset data) {
        return data.examples().stream()
                .map(e -> ((Example.Labelled) e).label())
                .collect(Collectors.toCollection(TreeSet::new));
    }

    private static String quoted(Set<String> names) {
        return names.stream().map(n -> "\"" + n + "\"").collect(Collectors.joining(", "));
    }
}
