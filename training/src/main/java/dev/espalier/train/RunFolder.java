package dev.espalier.train;

import static dev.espalier.Check.check;

import dev.espalier.io.Faults;
import dev.espalier.io.Json;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Map;
import java.util.stream.Stream;

/** A run's output folder: {@code run.json}, {@code metrics.jsonl} and {@code checkpoints}. */
final class RunFolder {

    private final Path path;

    private RunFolder(Path path) {
        this.path = path;
    }

    /** Refuses a folder that holds something, or, to resume, one that holds no run. */
    static RunFolder open(Path path, boolean resume) {
        RunFolder folder = new RunFolder(path);
        if (resume) {
            check(
                    Files.isRegularFile(folder.record()),
                    "there is no run to resume in %s: it holds no run.json; check the path, or start without resume",
                    path);
            return folder;
        }
        try {
            if (Files.isDirectory(path)) {
                try (Stream<Path> entries = Files.list(path)) {
                    check(
                            entries.findAny().isEmpty(),
                            "the output folder %s is not empty; choose another, or resume the run in it",
                            path);
                }
            }
            Files.createDirectories(path);
        } catch (IOException e) {
            throw Faults.writing(path, e);
        }
        return folder;
    }

    Path metrics() {
        return path.resolve("metrics.jsonl");
    }

    Path checkpoints() {
        return path.resolve("checkpoints");
    }

    private Path record() {
        return path.resolve("run.json");
    }

    void write(Map<String, ?> record) {
        Json.write(record(), record);
    }
}
