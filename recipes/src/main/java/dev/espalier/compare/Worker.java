package dev.espalier.compare;

import dev.espalier.EspalierException;
import dev.espalier.adapter.AdaptedModel;
import dev.espalier.adapter.Attached;
import dev.espalier.adapter.Base;
import dev.espalier.adapter.Site;
import dev.espalier.compare.Job.Judged;
import dev.espalier.compare.Job.Planned;
import dev.espalier.compare.Job.Solved;
import dev.espalier.compare.Job.Trained;
import dev.espalier.diagnose.Report;
import dev.espalier.io.AtomicFile;
import dev.espalier.io.Faults;
import dev.espalier.io.Json;
import dev.espalier.recipe.ExactMatch;
import dev.espalier.recipe.Examination;
import dev.espalier.recipe.Forecast;
import dev.espalier.recipe.Judgement;
import dev.espalier.recipe.LoadedModel;
import dev.espalier.recipe.Recipe;
import dev.espalier.recipe.Run;
import dev.espalier.recipe.Serving;
import dev.espalier.recipe.TaskSpec;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Tensor;
import dev.espalier.train.LogProgress;
import java.io.IOException;
import java.math.BigDecimal;
import java.math.MathContext;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.concurrent.CompletableFuture;
import java.util.stream.Stream;
import org.jspecify.annotations.Nullable;

/** The program of a study's processes: carries out one {@link Job}. */
final class Worker {

    private static final int BATCH = 32;

    /** Examples that are served, beside and merged: of a language model fewer, whose logits are wide. */
    private static final int SERVED = 64;

    private static final int SERVED_BY_LANGUAGE_MODEL = 16;

    /** Singular values of a layer's change that are kept. */
    private static final int VALUES = 16;

    /** Singular values below this share of the largest are rounding. */
    private static final double NEGLIGIBLE = 1e-4;

    private final Job job;
    private final Path folder;

    Worker(Job job, Path folder) {
        this.job = job;
        this.folder = folder;
    }

    /** Carries out the job that the only argument's file holds. */
    public static void main(String[] args) {
        Path order = Path.of(args[0]).toAbsolutePath();
        Path folder = Objects.requireNonNull(order.getParent());
        Runtime.getRuntime()
                .addShutdownHook(new Thread(() -> Runtime.getRuntime().halt(130)));
        ProcessHandle.current().parent().map(ProcessHandle::onExit).ifPresent(Worker::endWith);
        Job job = Job.read(order);
        int code = 0;
        try {
            new Worker(job, folder).work();
        } catch (RuntimeException | Error e) {
            AtomicFile.write(job.complaint(folder), sentence(e) + "\n");
            code = 1;
        }
        Runtime.getRuntime().halt(code); // nothing is left to be done, and libtorch need not be torn down
    }

    /** A worker without the process that waits for it must not go on. */
    @SuppressWarnings("FutureReturnValueIgnored") // nobody is left to hear how it went
    private static void endWith(CompletableFuture<ProcessHandle> parent) {
        parent.thenRun(() -> Runtime.getRuntime().halt(130));
    }

    private static String sentence(Throwable fault) {
        String message = String.valueOf(fault.getMessage()).lines().findFirst().orElse("");
        return fault instanceof EspalierException || fault instanceof dev.espalier.tensor.TensorException
                ? message
                : fault instanceof OutOfMemoryError
                        ? "Java's memory ran out (%s); raise it by -Xmx".formatted(message)
                        : "unexpected fault: %s: %s".formatted(fault.getClass().getSimpleName(), message);
    }

    void work() {
        Recipe recipe = Recipe.read(job.recipe(), job.changes()).withOut(folder.resolve(Job.ADAPTER));
        Record result = switch (job.kind()) {
            case SOLVE -> solve(recipe);
            case PLAN -> plan(recipe);
            case TRAIN -> train(recipe);
            case MEASURE -> measure(recipe);
        };
        Json.write(job.output(folder), StudyResult.map(result));
    }

    private Solved solve(Recipe recipe) {
        try (Run run = Run.prepare(recipe)) {
            return Ranks.solve(Contender.ranks(recipe), (long) job.wanted(), ranks -> {
                List<String> changes = new ArrayList<>(job.changes());
                ranks.forEach((name, value) -> changes.add("adapter." + name + "=" + value));
                return run.plan(Recipe.read(job.recipe(), changes)).trainableParameters();
            });
        }
    }

    private Planned plan(Recipe recipe) {
        try (Run run = Run.prepare(recipe)) {
            Forecast forecast = run.forecast();
            return new Planned(
                    forecast.present(),
                    forecast.total(),
                    run.plan().trainableParameters(),
                    run.tokensPerStep(),
                    job.layers() ? baseline(recipe) : null);
        }
    }

    /** What class means of the frozen base come to on test data; they are of all of train. */
    private @Nullable Double baseline(Recipe recipe) {
        if (recipe.task().type() != TaskSpec.Type.CLASSIFICATION) {
            return null;
        }
        List<String> changes = new ArrayList<>(job.changes());
        changes.add("task.heldOut=" + Json.text(job.test()));
        try (Run run = Run.prepare(Recipe.read(job.recipe(), changes))) {
            return run.baseline();
        }
    }

    private Trained train(Recipe recipe) {
        try (Run run = Run.prepare(recipe)) {
            Run.Result result =
                    run.train(false, new LogProgress(recipe.train().config().logEvery()));
            Map<String, Double> validation = new LinkedHashMap<>(result.metrics());
            if (job.metric().equals(Judgement.EXACT_MATCH)) {
                validation.put(Judgement.EXACT_MATCH, ExactMatch.share(run.exactMatch(job.maxNewTokens())));
            }
            return new Trained(validation);
        }
    }

    private Judged measure(Recipe recipe) {
        Path adapter = recipe.requireOut();
        Path test = Path.of(job.test());
        Map<String, String> columns = recipe.task().columns();
        try (LoadedModel loaded = LoadedModel.open(adapter)) {
            boolean language = recipe.task().type() == TaskSpec.Type.CAUSAL_LM;
            Judgement judgement = job.metric().equals(Judgement.EXACT_MATCH)
                    ? Judgement.withExactMatch(loaded, test, columns, BATCH, job.maxNewTokens())
                    : Judgement.of(loaded, test, columns, BATCH);
            boolean share = job.metric().equals("accuracy") || job.metric().equals(Judgement.EXACT_MATCH);
            List<Double> scores =
                    share ? judgement.right().stream().map(r -> r ? 1.0 : 0.0).toList() : List.of();
            Serving serving = Serving.of(
                    loaded, test, columns, language ? 4 : BATCH, language ? SERVED_BY_LANGUAGE_MODEL : SERVED);
            return new Judged(
                    judgement.metrics(),
                    scores,
                    bytes(adapter),
                    serving.mergeError(),
                    serving.unmergeable(),
                    serving.exampleMillis(),
                    serving.mergedExampleMillis(),
                    forgetting(loaded, columns),
                    job.layers() && serving.unmergeable() == null ? layers(loaded) : List.of());
        }
    }

    private @Nullable Double forgetting(LoadedModel loaded, Map<String, String> columns) {
        if (job.forgetting() == null) {
            return null;
        }
        Path data = Path.of(job.forgetting());
        double adapted = loss(loaded, data, columns);
        double base = loaded.requireAdapter().unadapted(() -> loss(loaded, data, columns));
        return adapted - base;
    }

    private static double loss(LoadedModel loaded, Path data, Map<String, String> columns) {
        return Objects.requireNonNull(
                Judgement.of(loaded, data, columns, 4).metrics().get("loss"));
    }

    /** Of the files that hold the adapter, those of its training left out. */
    private static long bytes(Path adapter) {
        try (Stream<Path> files = Files.list(adapter)) {
            long sum = 0;
            for (Path file : files.filter(f -> f.getFileName().toString().startsWith("adapter_"))
                    .toList()) {
                sum += Files.size(file);
            }
            return sum;
        } catch (IOException e) {
            throw Faults.reading(adapter, e);
        }
    }

    private static List<RunResult.Layer> layers(LoadedModel loaded) {
        AdaptedModel adapted = loaded.requireAdapter();
        Attached adapter = adapted.adapter(adapted.active().get(0));
        if (adapter.sites().isEmpty()) {
            return List.of();
        }
        Map<String, Integer> intruders = new LinkedHashMap<>();
        Report report = Examination.read("intruder-dimensions", List.of()).of(loaded);
        int path = report.columns().indexOf("layer");
        int count = report.columns().indexOf("intruders");
        report.rows()
                .forEach(row -> intruders.put(
                        String.valueOf(row.get(path)), ((Number) Objects.requireNonNull(row.get(count))).intValue()));
        List<RunResult.Layer> layers = new ArrayList<>();
        for (Site site : adapter.sites()) {
            try (Grad off = Grad.off();
                    Scope scope = Scope.open()) {
                Base ground = new Base.Ground(site.layer());
                Tensor before = ground.affine().weight().to(DType.FLOAT32); // W0 [out, in]
                Tensor after = adapter.on(site.path(), ground).affine().weight().to(DType.FLOAT32); // Wt [out, in]
                Tensor change = after.sub(before);
                double[] values = change.svdvals().doubles();
                List<Double> kept = new ArrayList<>();
                int rank = 0;
                for (double value : values) {
                    if (value > NEGLIGIBLE * values[0]) {
                        rank++;
                        if (kept.size() < VALUES) {
                            kept.add(round(value));
                        }
                    }
                }
                layers.add(new RunResult.Layer(
                        site.path(),
                        rank,
                        kept,
                        round(change.norm().item() / before.norm().item()),
                        intruders.getOrDefault(site.path(), 0)));
            }
        }
        return layers;
    }

    /** To four digits: more of them would be noise, and there are many. */
    private static double round(double value) {
        return Double.isFinite(value)
                ? new BigDecimal(value).round(new MathContext(4)).doubleValue()
                : value;
    }
}
