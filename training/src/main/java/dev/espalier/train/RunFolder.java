package dev.espalier.train;

import static dev.espalier.Check.check;

import dev.espalier.io.Faults;
import dev.espalier.io.Json;
import dev.espalier.tensor.Machine;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.stream.Stream;

/** A run's output folder: {@code run.json}, {@code metrics.jsonl} and {@code checkpoints}. */
public final class RunFolder {

    private final Path path;

    private RunFolder(Path path) {
        this.path = path;
    }

    /** Refuses a folder that holds something, or, to resume, one that holds no run. */
    public static RunFolder open(Path path, boolean resume) {
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

    /** {@code metrics.jsonl}. */
    public Path metrics() {
        return path.resolve("metrics.jsonl");
    }

    Path checkpoints() {
        return path.resolve("checkpoints");
    }

    private Path record() {
        return path.resolve("run.json");
    }

    /** Writes {@code run.json}. */
    public void write(Map<String, ?> record) {
        Json.write(record(), record);
    }

    /** What the numbers of a run depend on besides its recipe. */
    public static Map<String, Object> versions() {
        String own = RunFolder.class.getPackage().getImplementationVersion();
        Map<String, Object> versions = new LinkedHashMap<>();
        versions.put("espalier", own == null ? "development" : own);
        versions.put("libtorch", Machine.libtorch());
        versions.put("java", System.getProperty("java.vm.name") + " " + System.getProperty("java.vm.version"));
        versions.put("os", System.getProperty("os.name") + " " + System.getProperty("os.arch"));
        versions.put("cpu", Machine.cpu());
        versions.put("threads", Machine.threads());
        return versions;
    }
}
