package dev.espalier.compare;

import dev.espalier.compare.Job.Judged;
import dev.espalier.compare.Job.Planned;
import dev.espalier.compare.Job.Solved;
import dev.espalier.compare.Job.Trained;
import dev.espalier.io.AtomicFile;
import dev.espalier.io.Json;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.function.Function;
import org.jspecify.annotations.Nullable;

/** Leaves what a job would, at once: figures that follow from the job alone. */
final class FakeRunner implements Runner {

    /** What was asked for: {@code kind row/folder}. */
    final List<String> done = Collections.synchronizedList(new ArrayList<>());

    /** Why a job fails, by what {@link #done} would say of it; null where it does not. */
    Function<String, @Nullable String> failure = name -> null;

    /** Bytes that a row is said to need. */
    long forecast = 200 << 20;

    private volatile boolean stopped;

    @Override
    public @Nullable String run(Job job, Path folder) throws InterruptedException {
        if (stopped) {
            throw new InterruptedException();
        }
        String name = job.kind() + " " + folder.subpath(folder.getNameCount() - 3, folder.getNameCount());
        done.add(name);
        String why = failure.apply(name);
        if (stopped) {
            throw new InterruptedException();
        }
        if (why != null) {
            return why;
        }
        job.write(folder);
        double rate = Double.parseDouble(setting(job, "train.learningRate", "0"));
        long seed = Long.parseLong(setting(job, "train.seed", "0"));
        Record result = switch (job.kind()) {
            case SOLVE -> new Solved(Map.of("r", 3), (long) job.wanted() + 7);
            case PLAN -> new Planned(100 << 20, forecast, 1000, 50, 0.25);
            case TRAIN -> train(job, folder, rate, seed);
            case MEASURE -> judged(job, seed);
        };
        Json.write(job.output(folder), StudyResult.map(result));
        return null;
    }

    static String setting(Job job, String key, String usual) {
        return job.changes().stream()
                .filter(c -> c.startsWith(key + "="))
                .reduce((a, b) -> b)
                .map(c -> c.substring(key.length() + 1))
                .orElse(usual);
    }

    private static Trained train(Job job, Path folder, double rate, long seed) {
        Map<String, Object> run = new LinkedHashMap<>();
        run.put("status", "completed");
        run.put("steps", Long.parseLong(setting(job, "train.steps", "0")));
        run.put("tokens", 500 + seed);
        run.put("tokens_per_second", 1000.5 + seed);
        run.put("seconds", 2.5 + seed);
        run.put("processor_seconds", 2.25 + seed);
        run.put("peak_resident_bytes", (300L << 20) + seed);
        run.put("optimizer_bytes", 8000L);
        run.put("trainable_parameters", 1000L);
        run.put("versions", Map.of("espalier", "0.1", "java", "17", "libtorch", "2.10"));
        Path adapter = folder.resolve(Job.ADAPTER);
        Json.write(adapter.resolve("run.json"), run);
        AtomicFile.write(
                adapter.resolve("metrics.jsonl"),
                "{\"step\": 1, \"loss\": 2.5}\n{\"step\": 1, \"eval_accuracy\": 0.5}\n{\"step\": 2, \"loss\": 1.5}\n");
        return new Trained(Map.of("accuracy", 1 - Math.abs(rate - 0.002) * 100)); // best at 0.002
    }

    private static Judged judged(Job job, long seed) {
        double right = job.recipe().equals("lora") ? 1 : 0;
        List<Double> scores = List.of(1.0, right, seed == 0 ? 1.0 : 0.0, 0.0);
        double accuracy = scores.stream().mapToDouble(s -> s).average().orElseThrow();
        return new Judged(
                Map.of("accuracy", accuracy, "loss", 0.5),
                scores,
                4096,
                1e-6,
                null,
                2,
                1.0,
                null,
                job.layers() ? List.of(new RunResult.Layer("layer.0", 3, List.of(1.0, 0.5, 0.1), 0.05, 1)) : List.of());
    }

    @Override
    public void stop() {
        stopped = true;
    }

    /** All files below a folder with what they hold. */
    static Map<Path, String> files(Path folder) throws java.io.IOException {
        Map<Path, String> files = new LinkedHashMap<>();
        try (var walk = Files.walk(folder)) {
            for (Path file : walk.filter(Files::isRegularFile).sorted().toList()) {
                files.put(file, Files.readString(file) + Files.getLastModifiedTime(file));
            }
        }
        return files;
    }
}
