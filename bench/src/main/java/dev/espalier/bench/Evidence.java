package dev.espalier.bench;

import dev.espalier.EspalierException;
import dev.espalier.adapter.AdapterType;
import dev.espalier.adapter.Catalog;
import dev.espalier.adapter.Method;
import dev.espalier.io.AtomicFile;
import dev.espalier.io.Fields;
import dev.espalier.io.Json;
import dev.espalier.recipe.Recipe;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.OptionalDouble;
import java.util.Set;
import java.util.TreeMap;
import java.util.TreeSet;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.Stream;

/**
 * What is known to hold of each method, gathered: {@code docs/evidence.md}.
 *
 * <pre>
 * java ... dev.espalier.bench.Evidence run [NAME ...]   trains with each method's recipe on MiniLM and the quickstart's data
 * java ... dev.espalier.bench.Evidence table            writes docs/evidence.md
 * </pre>
 *
 * <p>The table has a row a method: which of its card's numbered checks a test stands for ({@code @Card} in the test sources) and
 * how those tests ended ({@code target/surefire-reports}), how many adapters of PEFT's it was held to, where its other numbers
 * come from ({@code bench/evidence/systems.json}), and what a real run came to ({@code bench/results/evidence}). Both commands
 * are started in the root of the checkout, the second after {@code mvn verify}.
 */
public final class Evidence {

    private static final Path RUNS = Path.of("bench/results/evidence");
    private static final Path SYSTEMS = Path.of("bench/evidence/systems.json");
    private static final Path DATA = Path.of("recipes/src/main/resources/quickstart");
    private static final Pattern CARD = Pattern.compile(
            "@Card\\(\\s*value\\s*=\\s*\"([^\"]+)\"\\s*,\\s*checks\\s*=\\s*\\{?([0-9,\\s]+)\\}?\\s*\\)|void\\s+(\\w+)\\s*\\(|class\\s+(\\w+)|protected\\s+long\\s+parameters\\s*\\(");
    private static final Pattern CASE =
            Pattern.compile("<testcase name=\"(\\w+)[^\"]*\" classname=\"([\\w.$]+)\"[^>]*?(/?)>");

    private Evidence() {}

    /** See the class. */
    public static void main(String[] args) throws IOException, InterruptedException {
        if (args.length > 0 && args[0].equals("run")) {
            List<String> names = List.of(args).subList(1, args.length);
            for (String name : names.isEmpty() ? trainable() : names) {
                run(name);
            }
        } else if (args.length == 1 && args[0].equals("table")) {
            table();
        } else {
            throw new EspalierException("say run [NAME ...] or table");
        }
    }

    private static List<String> trainable() {
        return Catalog.methods().values().stream()
                .filter(m -> m.verb().equals("train") && Recipe.BUILT_IN.contains(Recipe.recipeOf(m.name())))
                .map(Method::name)
                .toList();
    }

    // ---- real runs

    /** Trains, then judges the saved adapter in another process. */
    private static void run(String name) throws IOException, InterruptedException {
        Path out = Files.createTempDirectory("evidence").resolve("out");
        Path test = DATA.resolve("test.csv");
        long begin = System.nanoTime();
        List<String> command = new ArrayList<>(List.of(
                "train",
                Recipe.recipeOf(name),
                "--set",
                "model=minilm",
                "--set",
                "task.type=classification",
                "--set",
                "task.data=" + DATA.resolve("train.csv"),
                "--set",
                "task.heldOut=" + test,
                "--set",
                "train.epochs=3",
                "--set",
                "train.batch=16",
                "--out",
                out.toString(),
                "--json"));
        OptionalDouble rate = rate(name);
        if (rate.isPresent()) {
            command.addAll(List.of("--set", "train.learningRate=" + rate.getAsDouble()));
        }
        Map<String, Object> trained = cli(command.toArray(String[]::new));
        double seconds = (System.nanoTime() - begin) / 1e9;
        Map<String, Object> judged = cli("evaluate", "--adapter", out.toString(), "--data", test.toString(), "--json");
        Map<String, Object> record = Json.read(out.resolve("run.json"));
        List<Double> losses = new ArrayList<>();
        for (String line : Files.readAllLines(out.resolve("metrics.jsonl"))) {
            Matcher loss = Pattern.compile("\"loss\":\\s*([-0-9.eE]+)").matcher(line);
            if (loss.find()) {
                losses.add(Double.valueOf(loss.group(1)));
            }
        }
        double here = metric(trained, "accuracy");
        double there = metric(judged, "accuracy");
        Map<String, Object> evidence = new LinkedHashMap<>();
        evidence.put("run", "MiniLM, quickstart data, 3 epochs");
        evidence.put(
                "learning_rate",
                Fields.of("run.json", record).fields("recipe").fields("train").number("learningRate"));
        evidence.put("loss_first", losses.get(0));
        evidence.put("loss_last", losses.get(losses.size() - 1));
        evidence.put("accuracy", here);
        evidence.put(
                "reloaded_difference",
                Math.abs(here - there) + Math.abs(metric(trained, "loss") - metric(judged, "loss")));
        evidence.put("trainable_parameters", record.get("trainable_parameters"));
        evidence.put("optimizer_bytes", record.get("optimizer_bytes"));
        evidence.put("seconds", seconds);
        evidence.put("peak_resident_bytes", record.get("peak_resident_bytes"));
        Json.write(RUNS.resolve(Recipe.recipeOf(name) + ".json"), evidence);
        say("%s  loss %.3f to %.3f  accuracy %.3f  reloaded %.1e  %.0f s"
                .formatted(
                        name,
                        losses.get(0),
                        losses.get(losses.size() - 1),
                        here,
                        (double) evidence.get("reloaded_difference"),
                        seconds));
    }

    /** The rate at which a method learns these data in three epochs, where the recipe's, meant for large models, is too low. */
    private static OptionalDouble rate(String name) {
        Fields about = Fields.of("systems.json", Json.read(SYSTEMS)).fields(name);
        return about.has("rate") ? OptionalDouble.of(about.number("rate")) : OptionalDouble.empty();
    }

    private static double metric(Map<String, Object> result, String name) {
        return Fields.of("result", result).fields("metrics").number(name);
    }

    private static Map<String, Object> cli(String... args) throws IOException, InterruptedException {
        List<String> command = Child.java("-XX:+UseSerialGC", "dev.espalier.cli.Main");
        command.addAll(List.of(args));
        return Child.json(command, Map.of());
    }

    // ---- the table

    private static void table() throws IOException {
        Map<String, Map<Integer, Boolean>> checks = checks(outcomes());
        Map<String, Object> systems = Json.read(SYSTEMS);
        StringBuilder text = new StringBuilder("""
                # Evidence

                Made by `dev.espalier.bench.Evidence table` from the test sources, the last `mvn verify` and the runs in
                `bench/results/evidence`; not written by hand.

                *Checks*: numbered statements of the method's specification that tests stand for, of how many. *PEFT*: adapters
                written by HF PEFT 0.21 that give PEFT's logits here within 1e-4 and are written back alike. *Numbers*: where
                expected numbers come from besides. *Real run*: pretrained all-MiniLM-L6-v2, 14 intents, 3 epochs of the
                quickstart's sentences, judged on its 224 held-out ones by a new process that loaded the saved adapter (nearest
                centroid without training: 69.2 %), unless the row says otherwise. *Rate*: the peak learning rate of that run.

                | method | door | checks | PEFT | numbers | rate | loss | accuracy | trained | time | peak memory |
                |---|---|---|---|---|---|---|---|---|---|---|
                """);
        for (Method method : Catalog.methods().values()) {
            Fields about = Fields.of("systems.json", systems).fields(method.name());
            text.append(row(method, about, checks.getOrDefault(method.name(), Map.of())))
                    .append('\n');
        }
        AtomicFile.write(Path.of("docs/evidence.md"), text.toString());
    }

    private static String row(Method method, Fields about, Map<Integer, Boolean> checks) throws IOException {
        int all = about.integer("checks", 0);
        long passed = checks.values().stream().filter(p -> p).count();
        Set<Integer> failed = new TreeSet<>();
        checks.forEach((number, pass) -> {
            if (!pass) {
                failed.add(number);
            }
        });
        String shown = all == 0 && checks.isEmpty()
                ? ""
                : failed.isEmpty() ? "%d of %d".formatted(passed, Math.max(all, checks.size())) : "failed: " + failed;
        long peft = method instanceof AdapterType<?> type ? golden(type) : 0;
        Path file = RUNS.resolve(Recipe.recipeOf(method.name()) + ".json");
        String run = "| | | | | |";
        if (Files.exists(file)) {
            Map<String, Object> facts = Json.read(file);
            run = facts.containsKey("accuracy")
                    ? trained(Fields.of(file.toString(), facts))
                    : "| " + facts.get("text") + " | | | |";
        }
        return "| `%s` | %s | %s | %s | %s | %s |"
                .formatted(
                        method.name(),
                        method.about().kind(),
                        shown,
                        peft == 0 ? "" : peft,
                        about.string("numbers", ""),
                        run);
    }

    private static String trained(Fields f) {
        return String.format(
                Locale.ROOT,
                "%s | %.3f to %.3f | %.1f %% | %,d | %.0f s | %.0f MiB",
                f.has("learning_rate") ? f.number("learning_rate") : "",
                f.number("loss_first"),
                f.number("loss_last"),
                100 * f.number("accuracy"),
                f.longInteger("trainable_parameters"),
                f.number("seconds"),
                f.number("peak_resident_bytes") / (1 << 20));
    }

    /** Whether each check's tests all passed, by method and number. */
    private static Map<String, Map<Integer, Boolean>> checks(Map<String, Boolean> outcomes) throws IOException {
        Map<String, Map<Integer, Boolean>> checks = new TreeMap<>();
        for (Path file : files(Path.of("."), "Test.java")) {
            String source = Files.readString(file);
            String name = String.valueOf(file.getFileName()).replace(".java", "");
            Map<String, Set<Integer>> pending = new LinkedHashMap<>();
            Matcher matcher = CARD.matcher(source);
            while (matcher.find()) {
                if (matcher.group(1) != null) {
                    Set<Integer> numbers = pending.computeIfAbsent(matcher.group(1), key -> new TreeSet<>());
                    for (String number : matcher.group(2).split(",")) {
                        if (!number.isBlank()) {
                            numbers.add(Integer.valueOf(number.strip()));
                        }
                    }
                } else if (!pending.isEmpty()) {
                    String test = matcher.group(3);
                    Boolean passed = test == null
                            ? all(
                                    outcomes,
                                    name) // what stands on a class, or is asked by its contract, all of its tests show
                            : outcomes.getOrDefault(name + "." + test, false);
                    pending.forEach((card, numbers) ->
                            numbers.forEach(number -> checks.computeIfAbsent(card, key -> new TreeMap<>())
                                    .merge(number, passed, Boolean::logicalAnd)));
                    pending.clear();
                }
            }
        }
        return checks;
    }

    private static boolean all(Map<String, Boolean> outcomes, String testClass) {
        List<Boolean> own = outcomes.entrySet().stream()
                .filter(e -> e.getKey().startsWith(testClass + "."))
                .map(Map.Entry::getValue)
                .toList();
        return !own.isEmpty() && own.stream().allMatch(passed -> passed);
    }

    /** Whether a test passed, by class and method; all runs of a parameterised one together. */
    private static Map<String, Boolean> outcomes() throws IOException {
        Map<String, Boolean> outcomes = new TreeMap<>();
        for (Path report : files(Path.of("."), ".xml")) {
            if (!report.toString().contains("surefire-reports")) {
                continue;
            }
            String xml = Files.readString(report);
            Matcher matcher = CASE.matcher(xml);
            while (matcher.find()) {
                String simple = matcher.group(2).substring(matcher.group(2).lastIndexOf('.') + 1);
                int end = xml.indexOf("</testcase>", matcher.end());
                String body = matcher.group(3).isEmpty() && end > 0 ? xml.substring(matcher.end(), end) : "";
                boolean passed = !body.contains("<failure") && !body.contains("<error") && !body.contains("<skipped");
                outcomes.merge(simple + "." + matcher.group(1), passed, Boolean::logicalAnd);
            }
        }
        return outcomes;
    }

    /** How many of PEFT's adapters among the fixtures are of a type. */
    private static long golden(AdapterType<?> type) throws IOException {
        return files(Path.of("methods/src/test/resources/golden/peft"), "adapter_config.json").stream()
                .map(Json::read)
                .filter(config -> type.peftType().equals(config.get("peft_type")) && type.recognises(config))
                .count();
    }

    private static List<Path> files(Path root, String ending) throws IOException {
        try (Stream<Path> all = Files.walk(root)) {
            return all.filter(path -> path.toString().endsWith(ending)).sorted().toList();
        } catch (UncheckedIOException e) {
            throw e.getCause();
        }
    }

    @SuppressWarnings("SystemOut") // a program for a terminal
    private static void say(String line) {
        System.out.println(line);
    }
}
