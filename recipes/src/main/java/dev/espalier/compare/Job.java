package dev.espalier.compare;

import dev.espalier.EspalierException;
import dev.espalier.io.AtomicFile;
import dev.espalier.io.Faults;
import dev.espalier.io.Json;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Comparator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.stream.Stream;
import org.jspecify.annotations.Nullable;

/**
 * What one process does, and all that its outcome depends on: equal jobs need not be done twice.
 *
 * @param kind what
 * @param recipe a name, or a YAML file
 * @param changes laid over the recipe
 * @param test data to judge by
 * @param forgetting data that nothing learns from, or null
 * @param metric the study's
 * @param wanted trained parameters, where ranks are solved for; else 0
 * @param layers whether layers are examined, or, of a plan, whether the frozen base is judged
 * @param maxNewTokens of an answer
 * @param threads of libtorch
 * @param sha256 of the data
 */
record Job(
        Kind kind,
        String recipe,
        List<String> changes,
        String test,
        @Nullable String forgetting,
        String metric,
        double wanted,
        boolean layers,
        int maxNewTokens,
        int threads,
        List<String> sha256) {

    enum Kind {
        /** Finds the rank that trains so many parameters. */
        SOLVE,
        /** Forecasts memory. */
        PLAN,
        /** Trains, and judges by validation data. */
        TRAIN,
        /** Judges the saved adapter by test data. */
        MEASURE;

        @Override
        public String toString() {
            return name().toLowerCase(Locale.ROOT);
        }
    }

    /** The folder that {@code train} writes, in a job's folder. */
    static final String ADAPTER = "adapter";

    Job {
        changes = List.copyOf(changes);
        sha256 = List.copyOf(sha256);
    }

    /** What it writes at its end. */
    Path output(Path folder) {
        return folder.resolve(kind + ".json");
    }

    /** Why it failed, where it could say so itself. */
    Path complaint(Path folder) {
        return folder.resolve(kind + ".failed.txt");
    }

    /** What the process printed. */
    Path log(Path folder) {
        return folder.resolve(kind + ".log");
    }

    private Path order(Path folder) {
        return folder.resolve(kind + ".job.json");
    }

    /** Removes what was done in a folder before, and what came of that. */
    void clear(Path folder) {
        try {
            Files.createDirectories(folder);
            AtomicFile.removeLeftovers(folder);
            Files.deleteIfExists(output(folder));
            Files.deleteIfExists(complaint(folder));
            if (kind == Kind.TRAIN) {
                Files.deleteIfExists(folder.resolve(Kind.MEASURE + ".json"));
                delete(folder.resolve(ADAPTER));
            }
        } catch (IOException e) {
            throw Faults.writing(folder, e);
        }
    }

    private static void delete(Path folder) throws IOException {
        if (!Files.exists(folder)) {
            return;
        }
        try (Stream<Path> walk = Files.walk(folder)) {
            for (Path path : walk.sorted(Comparator.reverseOrder()).toList()) {
                Files.delete(path);
            }
        }
    }

    /** Puts it into a folder, for a process to find. */
    Path write(Path folder) {
        Path file = order(folder);
        Json.write(file, StudyResult.map(this));
        return file;
    }

    static Job read(Path file) {
        return StudyResult.bind(file.toString(), Json.read(file), Job.class);
    }

    /** Whether just this was done in the folder, to the end. */
    boolean isDone(Path folder) {
        if (!Files.isRegularFile(output(folder)) || !Files.isRegularFile(order(folder))) {
            return false;
        }
        if (kind == Kind.TRAIN && !Files.isRegularFile(folder.resolve(ADAPTER).resolve("run.json"))) {
            return false;
        }
        try {
            Json.read(output(folder));
            return read(order(folder)).equals(this);
        } catch (EspalierException e) {
            return false; // cut short, or of another version: done again
        }
    }

    /** Figures of what a plan found. */
    record Planned(
            long presentBytes,
            long forecastBytes,
            long trainableParameters,
            double tokensPerStep,
            @Nullable Double baseMetric) {}

    /** What a training came to on validation data. */
    record Trained(Map<String, Double> validation) {
        Trained {
            validation = new LinkedHashMap<>(validation);
        }
    }

    /** Settings of rank that were found, and what they train. */
    record Solved(Map<String, Integer> ranks, long trainableParameters) {
        Solved {
            ranks = new LinkedHashMap<>(ranks);
        }
    }

    /** What a saved adapter came to on test data. */
    record Judged(
            Map<String, Double> metrics,
            List<Double> scores,
            long adapterBytes,
            @Nullable Double mergeError,
            @Nullable String unmergeable,
            double exampleMillis,
            @Nullable Double mergedExampleMillis,
            @Nullable Double forgetting,
            List<RunResult.Layer> layers) {}
}
