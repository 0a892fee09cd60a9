package dev.espalier.compare;

import static dev.espalier.Check.check;

import dev.espalier.EspalierException;
import dev.espalier.adapter.Method;
import dev.espalier.compare.Job.Judged;
import dev.espalier.compare.Job.Kind;
import dev.espalier.compare.Job.Planned;
import dev.espalier.compare.Job.Solved;
import dev.espalier.compare.Job.Trained;
import dev.espalier.compare.MethodResult.Edge;
import dev.espalier.compare.MethodResult.Held;
import dev.espalier.compare.MethodResult.Rate;
import dev.espalier.compare.Pool.Chain;
import dev.espalier.compare.Pool.Step;
import dev.espalier.compare.RunResult.Measured;
import dev.espalier.compare.StudyResult.Equal;
import dev.espalier.io.Faults;
import dev.espalier.io.Fields;
import dev.espalier.io.Json;
import dev.espalier.recipe.Judgement;
import dev.espalier.recipe.Recipe;
import dev.espalier.recipe.Run;
import dev.espalier.tensor.Machine;
import java.io.IOException;
import java.math.BigDecimal;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Instant;
import java.time.temporal.ChronoUnit;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.OptionalDouble;
import java.util.stream.Collectors;
import org.jspecify.annotations.Nullable;

/**
 * A study being carried out in a folder.
 *
 * <pre>{@code
 * StudyResult result = new StudyRun(Study.read("study.yaml", List.of()), Path.of("out/study")).run(false, StudyProgress.NONE);
 * }</pre>
 *
 * <p>First every method is prepared once, which finds its rank where parameters are held equal and forecasts its memory; then
 * learning rates are tried; then every seed trains with the chosen one; then each saved adapter is loaded anew and judged by the
 * test data. Each of these is a process. What is done stays in the folder, {@code runs/<row>/lr-<rate>/seed-<seed>}, beside the
 * job that it was done for, so that a study which goes on does only what is missing, broken, or asked differently now.
 */
public final class StudyRun {

    /** Steps that the time of one is measured by, where time is held equal. */
    private static final int PROBED = 10;

    private final Study study;
    private final Path out;
    private final Runner runner;
    private volatile @Nullable Pool pool;
    private volatile boolean stop;

    /**
     * @param study what to do
     * @param out the folder for everything
     */
    public StudyRun(Study study, Path out) {
        this(study, out, new ProcessRunner());
    }

    StudyRun(Study study, Path out, Runner runner) {
        this.study = study;
        this.out = out;
        this.runner = runner;
    }

    /** A row as it comes into being. */
    private static final class Row {
        final Contender contender;
        final Method method;
        final List<Double> rates;
        final List<String> fitted = new ArrayList<>(); // settings that make it equal to the others
        String how = "";

        @Nullable
        Planned planned;

        @Nullable
        String failure; // why it takes no part

        double chosen;
        List<Rate> tried = List.of();
        final Map<Long, String> failures = new LinkedHashMap<>(); // of seeds

        Row(Contender contender, Method method, List<Double> rates) {
            this.contender = contender;
            this.method = method;
            this.rates = rates;
            chosen = rates.get(0);
        }

        String name() {
            return contender.name();
        }
    }

    /** Asks it to end what runs; from any thread. {@link #run} then throws. */
    public void requestStop() {
        stop = true;
        Pool running = pool;
        if (running != null) {
            running.stop();
        }
    }

    /**
     * Carries out the study, and writes {@code results.json} and {@code results.csv}.
     *
     * @param resume whether the folder holds a study to go on with
     * @throws EspalierException before anything runs: if the folder holds something and is not to be resumed, the data do not
     *     serve, or a method does not fit into the memory; later: if it was stopped
     */
    public StudyResult run(boolean resume, StudyProgress progress) {
        Run.checkFree(out, resume);
        Study here = study.inFolder(out.resolve("data"));
        Study.Sizes sizes = here.checkData();
        List<Row> rows = new ArrayList<>();
        for (Contender contender : here.methods()) {
            Recipe recipe = here.recipe(contender);
            rows.add(new Row(contender, Contender.method(contender.recipe(), recipe), here.rates(contender)));
        }
        if (here.seeds().size() == 1) {
            progress.note("one seed: no error can be given, and differences come from the test examples alone");
        }
        long budget = budget(here);
        int slots = Math.max(1, Machine.physicalCores() / here.threads());
        Pool started = new Pool(runner, slots, budget, progress);
        pool = started;
        if (stop) {
            started.stop();
        }
        Work work = new Work(here, sizes, out, rows, started, progress);
        work.expect();
        work.plan();
        work.checkBudget(budget);
        work.search();
        work.finish();
        StudyResult result = new StudyResult(
                here.name(),
                Instant.now().truncatedTo(ChronoUnit.SECONDS).toString(),
                "espalier compare %s --out %s".formatted(here.source(), Shell.quoted(out.toString())),
                study.settings(),
                work.terms(),
                new StudyResult.Machine(
                        System.getProperty("os.name") + " " + System.getProperty("os.arch"),
                        Machine.cpu(),
                        Machine.physicalCores(),
                        Machine.totalBytes(),
                        here.threads(),
                        slots,
                        budget),
                work.versions(),
                work.results());
        result.write(out.resolve("results.json"));
        ResultsCsv.write(result, out.resolve("results.csv"));
        return result;
    }

    private static long budget(Study study) {
        if (study.memory() > 0) {
            return study.memory();
        }
        long available = Machine.availableBytes();
        return available > 0 ? available / 5 * 4 : Long.MAX_VALUE / 2;
    }

    /** The study's phases, one after the other. */
    private record Work(Study study, Study.Sizes sizes, Path out, List<Row> rows, Pool pool, StudyProgress progress) {

        void expect() {
            boolean all = study.choose() == Study.Choose.ALL;
            if (study.equal() == Equal.PARAMETERS) {
                pool.expect(Kind.SOLVE, rows.size());
            }
            pool.expect(Kind.PLAN, rows.size());
            for (Row row : rows) {
                int seeds = study.seeds().size();
                int searched = row.rates.size() == 1 ? 0 : row.rates.size() * (all ? seeds : 1);
                int left = row.rates.size() == 1 ? seeds : all ? 0 : seeds - 1;
                pool.expect(Kind.TRAIN, searched + left + (study.equal() == Equal.TIME ? 1 : 0));
                pool.expect(Kind.MEASURE, seeds);
            }
        }

        // ---- before anything trains

        void plan() {
            Row reference = rows.stream()
                    .filter(r -> r.name().equals(study.reference()))
                    .findFirst()
                    .orElseThrow();
            List<Row> others = rows.stream().filter(r -> r != reference).toList();
            plan(List.of(reference), 0);
            check(
                    reference.failure == null,
                    "the reference %s cannot take part: %s",
                    reference.name(),
                    reference.failure);
            plan(others, Objects.requireNonNull(reference.planned).presentBytes());
            rows.stream()
                    .filter(r -> r.failure != null)
                    .forEach(r -> progress.note("%s takes no part: %s".formatted(r.name(), r.failure)));
        }

        private void plan(List<Row> some, long bytes) {
            if (study.equal() == Equal.PARAMETERS) {
                each(some, row -> new Step(job(Kind.SOLVE, row, List.of()), folder(row, "solve")), bytes, this::solved);
            } else if (study.equal() == Equal.STEPS) {
                some.forEach(row -> steps(row, Math.round(study.value())));
            }
            each(some, row -> new Step(job(Kind.PLAN, row, List.of()), folder(row, "plan")), bytes, (row, step) -> {
                row.planned = read(step, Planned.class);
                if (study.equal() == Equal.TOKENS) {
                    steps(row, Math.round(study.value() / row.planned.tokensPerStep()));
                }
            });
            if (study.equal() == Equal.TIME) {
                each(some, row -> new Step(probe(row), folder(row, "probe")), bytes, (row, step) -> {
                    double seconds = run(step.folder()).number("seconds");
                    steps(row, Math.round(study.value() / seconds * PROBED));
                });
            }
        }

        private Job probe(Row row) {
            List<String> settings = new ArrayList<>(stepSettings(row, PROBED));
            settings.add("train.learningRate=" + row.rates.get(0));
            settings.add("train.seed=" + study.seeds().get(0));
            return job(Kind.TRAIN, row, settings);
        }

        private void solved(Row row, Step step) {
            Solved solved = read(step, Solved.class);
            solved.ranks().forEach((name, rank) -> row.fitted.add("adapter." + name + "=" + rank));
            row.how = solved.ranks().isEmpty()
                    ? "it has no rank to set"
                    : solved.ranks().entrySet().stream()
                            .map(e -> e.getKey() + " = " + e.getValue())
                            .collect(Collectors.joining(", "));
        }

        private void steps(Row row, long steps) {
            row.fitted.addAll(stepSettings(row, Math.max(1, steps)));
            row.how = "train.steps = " + Math.max(1, steps);
        }

        /** A recipe that counts epochs counts none then. */
        private List<String> stepSettings(Row row, long steps) {
            Object train = study.recipe(row.contender).settings().get("train");
            boolean epochs = train instanceof Map<?, ?> map && map.containsKey("epochs");
            return epochs ? List.of("train.epochs=0", "train.steps=" + steps) : List.of("train.steps=" + steps);
        }

        private interface Made {
            Step of(Row row);
        }

        private interface After {
            void accept(Row row, Step step);
        }

        /** One job of each row; a failure takes the row out. */
        private void each(List<Row> some, Made made, long bytes, After after) {
            List<Chain> chains = new ArrayList<>();
            for (Row row : some) {
                if (row.failure == null) {
                    Step step = made.of(row);
                    chains.add(new Chain(row.name(), List.of(step), bytes, failure -> {
                        if (failure == null) {
                            after.accept(row, step);
                        } else {
                            row.failure = failure;
                        }
                    }));
                }
            }
            pool.run(chains);
        }

        void checkBudget(long budget) {
            List<Row> large = rows.stream()
                    .filter(r -> r.planned != null && r.planned.forecastBytes() > budget)
                    .toList();
            check(
                    large.isEmpty(),
                    "the memory budget is %s, and %s; raise memory, lower train.batch or task.maxLength, or leave them out",
                    mebibytes(budget),
                    large.stream()
                            .map(r -> r.name() + " needs "
                                    + mebibytes(
                                            Objects.requireNonNull(r.planned).forecastBytes()))
                            .collect(Collectors.joining(", ")));
        }

        private static String mebibytes(long bytes) {
            return (bytes >> 20) + " MiB";
        }

        // ---- learning rates

        void search() {
            List<Long> by = study.choose() == Study.Choose.ALL
                    ? study.seeds()
                    : study.seeds().subList(0, 1);
            Map<Row, Map<Double, String>> failures = new LinkedHashMap<>();
            List<Chain> chains = new ArrayList<>();
            for (Row row : taking()) {
                Map<Double, String> own = failures.computeIfAbsent(row, r -> new LinkedHashMap<>());
                for (double rate : row.rates.size() == 1 ? List.<Double>of() : row.rates) {
                    for (long seed : by) {
                        chains.add(new Chain(
                                "%s lr %s seed %d".formatted(row.name(), rate, seed),
                                List.of(training(row, rate, seed)),
                                bytes(row),
                                failure -> {
                                    if (failure != null) {
                                        own.put(rate, failure);
                                    }
                                }));
                    }
                }
            }
            pool.run(chains);
            for (Row row : taking()) {
                if (row.rates.size() > 1) {
                    choose(row, by, failures.getOrDefault(row, Map.of()));
                }
            }
        }

        private void choose(Row row, List<Long> by, Map<Double, String> failures) {
            List<Rate> tried = new ArrayList<>();
            for (double rate : row.rates) {
                String failure = failures.get(rate);
                OptionalDouble mean = failure != null
                        ? OptionalDouble.empty()
                        : by.stream()
                                .mapToDouble(seed -> validation(row, rate, seed))
                                .average();
                boolean number = mean.isPresent() && Double.isFinite(mean.getAsDouble());
                tried.add(new Rate(
                        rate,
                        number ? mean.getAsDouble() : null,
                        failure != null ? failure : number ? null : "the validation metric is no number"));
            }
            row.tried = tried;
            Rate best = null;
            for (Rate rate : tried) {
                Double own = rate.validation();
                Double than = best == null ? null : best.validation();
                if (own != null && (than == null || (study.higherIsBetter() ? own > than : own < than))) {
                    best = rate;
                }
            }
            if (best == null) {
                row.failure = "no learning rate ended well: " + tried.get(0).failure();
            } else {
                row.chosen = best.learningRate();
            }
        }

        private double validation(Row row, double rate, long seed) {
            Step step = training(row, rate, seed);
            return read(step, Trained.class).validation().getOrDefault(study.metric(), Double.NaN);
        }

        // ---- all seeds

        void finish() {
            List<Chain> chains = new ArrayList<>();
            for (Row row : taking()) {
                for (long seed : study.seeds()) {
                    chains.add(new Chain(
                            row.name() + " seed " + seed,
                            List.of(training(row, row.chosen, seed), judging(row, seed)),
                            bytes(row),
                            failure -> {
                                if (failure != null) {
                                    row.failures.put(seed, failure);
                                }
                            }));
                }
            }
            pool.run(chains);
        }

        private List<Row> taking() {
            return rows.stream().filter(r -> r.failure == null).toList();
        }

        private static long bytes(Row row) {
            return Objects.requireNonNull(row.planned).forecastBytes();
        }

        private Step training(Row row, double rate, long seed) {
            return new Step(job(Kind.TRAIN, row, settings(row, rate, seed)), folder(row, rate, seed));
        }

        private Step judging(Row row, long seed) {
            return new Step(job(Kind.MEASURE, row, settings(row, row.chosen, seed)), folder(row, row.chosen, seed));
        }

        private static List<String> settings(Row row, double rate, long seed) {
            List<String> settings = new ArrayList<>(row.fitted);
            settings.add("train.learningRate=" + rate);
            settings.add("train.seed=" + seed);
            return settings;
        }

        private Job job(Kind kind, Row row, List<String> further) {
            List<String> changes = new ArrayList<>(study.changes(row.contender));
            changes.addAll(kind == Kind.PLAN ? row.fitted : further);
            boolean first = kind == Kind.MEASURE
                    ? further.contains("train.seed=" + study.seeds().get(0)) && study.layers()
                    : kind == Kind.PLAN && row.name().equals(study.reference());
            return new Job(
                    kind,
                    row.contender.recipe(),
                    changes,
                    study.test(),
                    study.forgetting(),
                    study.metric(),
                    kind == Kind.SOLVE ? study.value() : 0,
                    first,
                    study.maxNewTokens(),
                    study.threads(),
                    sizes.sha256());
        }

        private Path folder(Row row, String name) {
            return out.resolve("runs").resolve(row.name()).resolve(name);
        }

        private Path folder(Row row, double rate, long seed) {
            return folder(
                            row,
                            "lr-"
                                    + new BigDecimal(Double.toString(rate))
                                            .stripTrailingZeros()
                                            .toPlainString())
                    .resolve("seed-" + seed);
        }

        // ---- what came out

        StudyResult.Terms terms() {
            Planned reference = rows.stream()
                    .filter(r -> r.name().equals(study.reference()))
                    .map(r -> r.planned)
                    .filter(Objects::nonNull)
                    .findFirst()
                    .orElseThrow();
            return new StudyResult.Terms(
                    study.model(),
                    study.type().key(),
                    study.metric(),
                    study.higherIsBetter(),
                    sizes.train(),
                    sizes.validation(),
                    sizes.test(),
                    study.seeds(),
                    study.equal(),
                    study.value(),
                    study.reference(),
                    Statistics.CONFIDENCE,
                    study.forgetting(),
                    study.metric().equals("accuracy") ? reference.baseMetric() : null);
        }

        /** Those of the first run that ended well, as it recorded them. */
        Map<String, String> versions() {
            Map<String, String> versions = new LinkedHashMap<>();
            for (Row row : taking()) {
                for (long seed : study.seeds()) {
                    if (versions.isEmpty() && !row.failures.containsKey(seed)) {
                        Fields recorded = run(folder(row, row.chosen, seed)).fields("versions");
                        for (String name : List.of("espalier", "java", "libtorch")) {
                            versions.put(name, recorded.string(name, "unknown"));
                        }
                    }
                }
            }
            return versions;
        }

        List<MethodResult> results() {
            Map<Row, Map<Long, double[]>> scores = new LinkedHashMap<>();
            Map<Row, List<RunResult>> runs = new LinkedHashMap<>();
            for (Row row : rows) {
                Map<Long, double[]> own = new LinkedHashMap<>();
                List<RunResult> list = new ArrayList<>();
                for (long seed : study.seeds()) {
                    list.add(result(row, seed, own));
                }
                scores.put(row, own);
                runs.put(row, list);
            }
            Map<Long, double[]> reference = scores.entrySet().stream()
                    .filter(e -> e.getKey().name().equals(study.reference()))
                    .map(Map.Entry::getValue)
                    .findFirst()
                    .orElseThrow();
            List<MethodResult> results = new ArrayList<>();
            for (Row row : rows) {
                boolean self = row.name().equals(study.reference());
                results.add(result(
                        row,
                        Objects.requireNonNull(runs.get(row)),
                        self ? null : difference(Objects.requireNonNull(scores.get(row)), reference)));
            }
            return results;
        }

        private static MethodResult.@Nullable Difference difference(
                Map<Long, double[]> own, Map<Long, double[]> reference) {
            double[][] differences = own.entrySet().stream()
                    .filter(e -> reference.containsKey(e.getKey()))
                    .map(e -> minus(e.getValue(), Objects.requireNonNull(reference.get(e.getKey()))))
                    .toArray(double[][]::new);
            return differences.length == 0 ? null : Statistics.difference(differences);
        }

        private static double[] minus(double[] a, double[] b) {
            double[] difference = new double[a.length];
            for (int i = 0; i < a.length; i++) {
                difference[i] = a[i] - b[i];
            }
            return difference;
        }

        /** @param scores takes those of the test examples, or the metric alone where it is no mean of any */
        private RunResult result(Row row, long seed, Map<Long, double[]> scores) {
            String folder = out.relativize(folder(row, row.chosen, seed).resolve(Job.ADAPTER))
                    .toString();
            String failure = row.failure != null ? row.failure : row.failures.get(seed);
            String command = command(row, seed);
            if (failure != null) {
                return new RunResult(seed, folder, command, RunResult.Status.FAILED, failure, null);
            }
            Step training = training(row, row.chosen, seed);
            Step judging = judging(row, seed);
            Judged judged = read(judging, Judged.class);
            Fields run = run(training.folder());
            Double metric = judged.metrics().get(study.metric());
            check(metric != null, "%s holds no %s; run the study again", judging.folder(), study.metric());
            double value = Objects.requireNonNull(metric);
            scores.put(
                    seed,
                    judged.scores().isEmpty()
                            ? new double[] {value}
                            : judged.scores().stream().mapToDouble(s -> s).toArray());
            Measured measured = new Measured(
                    value,
                    judged.metrics().getOrDefault("loss", Double.NaN),
                    judged.metrics(),
                    read(training, Trained.class).validation(),
                    curve(training.folder()),
                    run.longInteger("steps"),
                    run.longInteger("tokens"),
                    run.number("tokens_per_second"),
                    run.number("seconds"),
                    run.number("processor_seconds"),
                    run.longInteger("peak_resident_bytes"),
                    run.longInteger("optimizer_bytes"),
                    run.longInteger("trainable_parameters"),
                    judged.adapterBytes(),
                    judged.mergeError(),
                    judged.unmergeable(),
                    judged.exampleMillis(),
                    judged.mergedExampleMillis(),
                    judged.forgetting(),
                    judged.layers());
            return new RunResult(seed, folder, command, RunResult.Status.OK, null, measured);
        }

        private MethodResult result(Row row, List<RunResult> runs, MethodResult.@Nullable Difference difference) {
            List<String> changes = new ArrayList<>(study.changes(row.contender));
            changes.addAll(settings(row, row.chosen, study.seeds().get(0)));
            Recipe recipe = Recipe.read(row.contender.recipe(), changes);
            List<Double> ok = row.tried.stream().map(Rate::learningRate).toList();
            Edge edge = ok.size() < 2 || row.failure != null
                    ? Edge.NONE
                    : row.chosen == ok.get(0)
                            ? Edge.LOWEST
                            : row.chosen == ok.get(ok.size() - 1) ? Edge.HIGHEST : Edge.NONE;
            List<Measured> measured = runs.stream()
                    .map(RunResult::measured)
                    .filter(Objects::nonNull)
                    .toList();
            Integer rank = Contender.ranks(recipe).values().stream()
                    .max(Integer::compare)
                    .orElse(null);
            return new MethodResult(
                    row.name(),
                    row.method.name(),
                    row.method.about().kind(),
                    row.method.about().title(),
                    recipe.settings(),
                    command(row, study.seeds().get(0)),
                    row.chosen,
                    row.tried.isEmpty() ? List.of(new Rate(row.chosen, first(measured), null)) : row.tried,
                    edge,
                    new Held(study.value(), reached(measured), row.how),
                    rank,
                    row.planned == null ? 0 : row.planned.presentBytes(),
                    row.planned == null ? 0 : row.planned.forecastBytes(),
                    runs,
                    Statistics.summary(runs, difference));
        }

        /** Of the first seed that ended well, where nothing had to be chosen. */
        private @Nullable Double first(List<Measured> measured) {
            return measured.isEmpty() ? null : measured.get(0).validation().get(study.metric());
        }

        private @Nullable Double reached(List<Measured> measured) {
            OptionalDouble mean = measured.stream()
                    .mapToDouble(m -> switch (study.equal()) {
                        case STEPS -> m.steps();
                        case TOKENS -> m.tokens();
                        case TIME -> m.seconds();
                        case PARAMETERS -> m.trainableParameters();
                    })
                    .average();
            return mean.isPresent() ? mean.getAsDouble() : null;
        }

        /** What repeats a run from a shell, and judges it. */
        private String command(Row row, long seed) {
            List<String> changes = new ArrayList<>(study.changes(row.contender));
            changes.addAll(settings(row, row.chosen, seed));
            String folder = "out/%s-seed-%d".formatted(row.name(), seed);
            StringBuilder text = new StringBuilder("espalier train " + Shell.quoted(row.contender.recipe()));
            changes.forEach(change -> text.append(" --set ").append(Shell.quoted(change)));
            text.append(" --out ").append(folder);
            text.append(" && espalier evaluate --adapter ").append(folder);
            text.append(" --data ").append(Shell.quoted(study.test()));
            if (study.metric().equals(Judgement.EXACT_MATCH)) {
                text.append(" --exact-match --max-new-tokens ").append(study.maxNewTokens());
            }
            return text.toString();
        }

        private static Fields run(Path folder) {
            Path file = folder.resolve(Job.ADAPTER).resolve("run.json");
            return Fields.of(file.toString(), Json.read(file));
        }

        private static <T> T read(Step step, Class<T> type) {
            Path file = step.job().output(step.folder());
            return StudyResult.bind(file.toString(), Json.read(file), type);
        }

        private static List<RunResult.Point> curve(Path folder) {
            Path file = folder.resolve(Job.ADAPTER).resolve("metrics.jsonl");
            List<RunResult.Point> curve = new ArrayList<>();
            try {
                for (String line : Files.readAllLines(file)) {
                    Fields f = Fields.of(file.toString(), Json.parse(file.toString(), line));
                    if (f.has("loss")) {
                        curve.add(new RunResult.Point(f.longInteger("step"), f.number("loss")));
                    }
                }
            } catch (IOException e) {
                throw Faults.reading(file, e);
            }
            return curve;
        }
    }
}
