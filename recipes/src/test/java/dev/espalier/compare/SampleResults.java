package dev.espalier.compare;

import dev.espalier.compare.MethodResult.Edge;
import dev.espalier.compare.MethodResult.Held;
import dev.espalier.compare.MethodResult.Rate;
import dev.espalier.compare.RunResult.Layer;
import dev.espalier.compare.RunResult.Measured;
import dev.espalier.compare.RunResult.Point;
import dev.espalier.compare.StudyResult.Equal;
import dev.espalier.compare.StudyResult.Machine;
import dev.espalier.compare.StudyResult.Terms;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.stream.Stream;
import org.jspecify.annotations.Nullable;

/**
 * Invented results of a study that was never run: six methods, three seeds, one failure. For tests of what reads results; {@code
 * compare/sample-results.json} is this, written.
 */
final class SampleResults {

    private static final List<Long> SEEDS = List.of(0L, 1L, 2L);
    private static final int EXAMPLES = 224;
    private static final List<Double> GRID = List.of(5e-4, 1e-3, 2e-3, 4e-3);

    /** What is invented of a method, in the mean. */
    private record Invented(
            String name,
            String kind,
            String title,
            double accuracy,
            long parameters,
            long peakMiB,
            double seconds,
            int best,
            @Nullable String unmergeable,
            boolean layers) {}

    private static final List<Invented> METHODS = List.of(
            new Invented(
                    "lora", "adapter", "a low-rank change beside each layer", 0.724, 300_000, 492, 31, 2, null, true),
            new Invented("dora", "adapter", "direction and length apart", 0.731, 320_000, 560, 52, 2, null, true),
            new Invented(
                    "adalora", "adapter", "ranks move to where they matter", 0.742, 450_000, 505, 39, 3, null, true),
            new Invented(
                    "pissa", "initializer", "starts at the principal part", 0.780, 300_000, 498, 32, 1, null, true),
            new Invented(
                    "galore",
                    "optimizer",
                    "gradients of low rank, all weights",
                    0.758,
                    22_700_000,
                    790,
                    74,
                    0,
                    null,
                    true),
            new Invented(
                    "prompt-tuning",
                    "adapter",
                    "vectors before the text",
                    0.553,
                    9_000,
                    470,
                    28,
                    3,
                    "vectors before the text are no change of weights",
                    false));

    private SampleResults() {}

    /** Writes the sample to the file that is named. */
    public static void main(String[] args) {
        make().write(java.nio.file.Path.of(args[0]));
    }

    static StudyResult make() {
        Random random = new Random(6);
        List<MethodResult> rows = new ArrayList<>();
        Map<Long, double[]> reference = new LinkedHashMap<>();
        for (Invented method : METHODS) {
            Map<Long, double[]> scores = new LinkedHashMap<>();
            List<RunResult> runs = new ArrayList<>();
            for (long seed : SEEDS) {
                boolean fails = method.name().equals("galore") && seed == 1;
                String folder = "runs/%s/seed-%d".formatted(method.name(), seed);
                String command = command(method, seed);
                if (fails) {
                    runs.add(new RunResult(
                            seed,
                            folder,
                            command,
                            RunResult.Status.FAILED,
                            "the process was killed (137), as the system does when memory runs out",
                            null));
                    continue;
                }
                double[] own = scores(random, method.accuracy());
                scores.put(seed, own);
                runs.add(new RunResult(
                        seed, folder, command, RunResult.Status.OK, null, measured(random, method, own, seed == 0)));
            }
            if (rows.isEmpty()) {
                reference.putAll(scores);
            }
            double[][] differences = scores.entrySet().stream()
                    .map(e -> minus(e.getValue(), reference.get(e.getKey())))
                    .toArray(double[][]::new);
            double rate = GRID.get(method.best());
            List<Rate> rates = GRID.stream()
                    .map(r -> new Rate(r, method.accuracy() - 0.02 * Math.abs(GRID.indexOf(r) - method.best()), null))
                    .toList();
            long present = 390L << 20;
            rows.add(new MethodResult(
                    method.name(),
                    method.name(),
                    method.kind(),
                    method.title(),
                    recipe(method, rate),
                    command(method, 0),
                    rate,
                    rates,
                    method.best() == 0 ? Edge.LOWEST : method.best() == GRID.size() - 1 ? Edge.HIGHEST : Edge.NONE,
                    new Held(102, 102.0, "train.steps = 102"),
                    method.layers() && !method.name().equals("galore") ? 8 : null,
                    present,
                    method.peakMiB() + 5 << 20,
                    runs,
                    Statistics.summary(runs, rows.isEmpty() ? null : Statistics.difference(differences))));
        }
        Map<String, String> versions = new LinkedHashMap<>();
        versions.put("espalier", "0.0.0-sample");
        versions.put("java", "17");
        versions.put("libtorch", "0.0.0-sample");
        Map<String, Object> settings = new LinkedHashMap<>();
        settings.put("name", "sample");
        settings.put("model", "minilm");
        settings.put("methods", METHODS.stream().map(Invented::name).toList());
        settings.put("seeds", SEEDS);
        return new StudyResult(
                "sample: invented figures, nothing was run",
                "2000-01-01T00:00:00Z",
                "espalier compare sample.yaml",
                settings,
                new Terms(
                        "minilm",
                        "classification",
                        "accuracy",
                        true,
                        476,
                        56,
                        EXAMPLES,
                        SEEDS,
                        Equal.STEPS,
                        102,
                        "lora",
                        Statistics.CONFIDENCE,
                        "untouched.jsonl",
                        0.692),
                new Machine("Sample OS", "an invented processor", 2, 8L << 30, 1, 2, 4L << 30),
                versions,
                rows);
    }

    private static Measured measured(Random random, Invented method, double[] scores, boolean layers) {
        List<Point> curve = new ArrayList<>();
        for (int step = 6; step <= 102; step += 6) {
            double floor = 1.2 * (1 - method.accuracy());
            curve.add(new Point(step, round(floor + 2.4 * Math.exp(-step / 35.0) + 0.05 * random.nextGaussian())));
        }
        double accuracy = Statistics.mean(scores);
        double seconds = round(method.seconds() * (1 + 0.03 * random.nextGaussian()));
        boolean merges = method.unmergeable() == null;
        return new Measured(
                accuracy,
                round(1.9 * (1 - accuracy) + 0.2),
                Map.of("accuracy", accuracy),
                Map.of("accuracy", round(accuracy + 0.01 * random.nextGaussian())),
                curve,
                102,
                31_416,
                round(31_416 / seconds),
                seconds,
                round(seconds * 0.97),
                method.peakMiB() + random.nextInt(6) << 20,
                8 * method.parameters(),
                method.parameters(),
                4 * method.parameters() + 2_000,
                merges ? round(1e-6 * (1 + random.nextDouble())) : null,
                method.unmergeable(),
                round(1.3 + method.seconds() / 100),
                merges ? 1.3 : null,
                round(0.02 * random.nextGaussian() + method.accuracy() - 0.6),
                layers && method.layers() ? layers(random, method) : List.of());
    }

    private static List<Layer> layers(Random random, Invented method) {
        List<Layer> layers = new ArrayList<>();
        for (int block = 0; block < 6; block++) {
            for (String part : List.of("attention.self.query", "attention.self.value", "output.dense")) {
                int rank = method.name().equals("adalora")
                        ? random.nextInt(13)
                        : method.name().equals("galore") ? 384 : 8;
                List<Double> values = Stream.iterate(1.5, s -> s * 0.7)
                        .limit(Math.min(16, rank))
                        .map(s -> round(s * (1 + 0.1 * random.nextDouble())))
                        .toList();
                layers.add(new Layer(
                        "bert.encoder.layer.%d.%s".formatted(block, part),
                        rank,
                        values,
                        rank == 0 ? 0 : round(0.05 + 0.02 * random.nextDouble()),
                        method.name().equals("lora") || method.name().equals("pissa") ? random.nextInt(3) : 0));
            }
        }
        return layers;
    }

    private static Map<String, Object> recipe(Invented method, double rate) {
        Map<String, Object> adapter = new LinkedHashMap<>();
        adapter.put("type", method.name().equals("galore") ? "full" : method.name());
        Map<String, Object> train = new LinkedHashMap<>();
        train.put("learningRate", rate);
        train.put("steps", 102L);
        train.put("seed", 0L);
        Map<String, Object> recipe = new LinkedHashMap<>();
        recipe.put("model", "minilm");
        recipe.put("adapter", adapter);
        recipe.put("train", train);
        return recipe;
    }

    private static String command(Invented method, long seed) {
        return "espalier train %s --set model=minilm --set train.steps=102 --set train.seed=%d --out out/%s"
                .formatted(method.name(), seed, method.name());
    }

    /** 1 where an example was answered rightly. */
    private static double[] scores(Random random, double accuracy) {
        return random.doubles(EXAMPLES)
                .map(d -> d < accuracy + 0.01 * random.nextGaussian() ? 1 : 0)
                .toArray();
    }

    private static double[] minus(double[] a, double[] b) {
        double[] difference = new double[a.length];
        for (int i = 0; i < a.length; i++) {
            difference[i] = a[i] - b[i];
        }
        return difference;
    }

    /** To four digits. */
    private static double round(double value) {
        return new java.math.BigDecimal(value)
                .round(new java.math.MathContext(4))
                .doubleValue();
    }
}
