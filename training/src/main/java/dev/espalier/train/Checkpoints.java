package dev.espalier.train;

import static dev.espalier.Check.check;

import dev.espalier.EspalierException;
import dev.espalier.io.AtomicFile;
import dev.espalier.io.Faults;
import dev.espalier.io.Fields;
import dev.espalier.io.Json;
import dev.espalier.io.Safetensors;
import dev.espalier.io.TensorSource;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Tensor;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.DigestInputStream;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.Arrays;
import java.util.Comparator;
import java.util.HexFormat;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.UUID;
import java.util.stream.Stream;
import org.jspecify.annotations.Nullable;

/**
 * The folder {@code checkpoints} of a run.
 *
 * <pre>
 * step-00000500/training.safetensors   parameter.* optimizer.* callback.N.*
 * step-00000500/state.json             where the run was, what it was, the sha256 of the file above
 * best.safetensors                     parameters of the best evaluation; its step in the metadata
 * </pre>
 *
 * A checkpoint's folder gets its name only when it is complete and on disk, so a partial one is never found.
 */
final class Checkpoints {

    private static final String PREFIX = "step-";
    private static final String TENSORS = "training.safetensors";
    private static final String STATE = "state.json";
    private static final String BEST = "best.safetensors";

    private final Path folder;
    private final TrainingRun run;
    private final List<Callback> callbacks;

    /** What must be the same for a run to go on as it would have. */
    private final Map<String, String> identity;

    Checkpoints(Path folder, TrainingRun run, List<Callback> callbacks, Map<String, String> identity) {
        this.folder = folder;
        this.run = run;
        this.callbacks = callbacks;
        this.identity = identity;
    }

    Path path(long step) {
        return folder.resolve("%s%08d".formatted(PREFIX, step));
    }

    /** Saves a checkpoint, then removes all but the newest {@code keep}. */
    void save(TrainState state, int keep) {
        Path target = path(state.step);
        if (!Files.exists(target)) {
            try (Scope scope = Scope.open()) {
                Map<String, Tensor> tensors = tensors();
                AtomicFile.writeFolder(target, path -> {
                    Safetensors.write(path.resolve(TENSORS), tensors);
                    Map<String, Object> json = new LinkedHashMap<>(state.toMap());
                    json.put("identity", identity);
                    json.put("sha256", sha256(path.resolve(TENSORS)));
                    Json.write(path.resolve(STATE), json);
                });
            }
        }
        List<Path> all = list();
        all.subList(0, Math.max(0, all.size() - keep)).forEach(Checkpoints::delete);
    }

    /**
     * Reads the newest checkpoint back into parameters, optimiser and callbacks.
     *
     * @return the state, or null if there is no checkpoint
     */
    @Nullable
    TrainState load() {
        if (Files.isDirectory(folder)) {
            AtomicFile.removeLeftovers(folder);
        }
        List<Path> all = list();
        if (all.isEmpty()) {
            return null;
        }
        Path newest = all.get(all.size() - 1);
        Fields fields = Fields.of(newest.resolve(STATE).toString(), Json.read(newest.resolve(STATE)));
        compare(newest, fields.stringMap("identity", Map.of()));
        TrainState state = TrainState.of(fields);
        String expected = fields.string("sha256");
        fields.done();
        String found = sha256(newest.resolve(TENSORS));
        check(
                found.equals(expected),
                "the checkpoint %s is damaged: the sha256 of %s is %s, expected %s; delete the folder, and the run goes on from"
                        + " the one before it or from the start",
                newest,
                TENSORS,
                found,
                expected);
        try (Scope scope = Scope.open();
                TensorSource source = Safetensors.open(newest.resolve(TENSORS))) {
            for (int i = 0; i < callbacks.size(); i++) {
                callbacks.get(i).load(run, section(source, "callback.%d.".formatted(i)));
            }
            put(newest, section(source, "parameter."));
            run.optimizer().load(section(source, "optimizer."));
        }
        return state;
    }

    /** Keeps the parameters as they are now as the best. */
    void saveBest(long step) {
        try (Scope scope = Scope.open()) {
            Map<String, Tensor> tensors = new LinkedHashMap<>();
            run.parameters().forEach((name, p) -> tensors.put(name, p.tensor()));
            Safetensors.write(folder.resolve(BEST), tensors, Map.of("step", Long.toString(step)));
        }
    }

    /** Puts the best parameters back. */
    void loadBest(long step) {
        Path file = folder.resolve(BEST);
        try (Scope scope = Scope.open();
                TensorSource source = Safetensors.open(file)) {
            check(
                    Long.toString(step).equals(source.metadata().get("step")),
                    "%s holds step %s, but the best evaluation was at step %d; another run has written there",
                    file,
                    source.metadata().get("step"),
                    step);
            put(file, section(source, ""));
        }
    }

    private Map<String, Tensor> tensors() {
        Map<String, Tensor> all = new LinkedHashMap<>();
        run.parameters().forEach((name, p) -> all.put("parameter." + name, p.tensor()));
        run.optimizer().state().forEach((name, t) -> all.put("optimizer." + name, t));
        for (int i = 0; i < callbacks.size(); i++) {
            String prefix = "callback.%d.".formatted(i);
            callbacks.get(i).state().forEach((name, t) -> all.put(prefix + name, t));
        }
        return all;
    }

    private static Map<String, Tensor> section(TensorSource source, String prefix) {
        Map<String, Tensor> section = new LinkedHashMap<>();
        source.tensors().keySet().stream()
                .filter(name -> name.startsWith(prefix))
                .forEach(name -> section.put(name.substring(prefix.length()), source.read(name)));
        return section;
    }

    private void put(Path where, Map<String, Tensor> values) {
        try (Grad off = Grad.off()) {
            run.parameters().forEach((name, p) -> {
                Tensor value = values.get(name);
                if (value == null || !Arrays.equals(value.shape(), p.shape())) {
                    throw new EspalierException(
                            "%s holds %s for the parameter %s, expected shape %s; it was saved by another run"
                                    .formatted(
                                            where,
                                            value == null ? "nothing" : "shape " + Arrays.toString(value.shape()),
                                            name,
                                            Arrays.toString(p.shape())));
                }
                p.tensor().copy_(value);
            });
        }
    }

    private void compare(Path checkpoint, Map<String, String> saved) {
        identity.forEach((name, now) -> {
            String then = saved.get(name);
            check(
                    now.equals(then),
                    "the run in %s was started with %s %s, and now it is %s; resume with the same settings and data, or start"
                            + " a new run in another folder",
                    checkpoint,
                    name,
                    then,
                    now);
        });
    }

    /** Oldest first. */
    private List<Path> list() {
        if (!Files.isDirectory(folder)) {
            return List.of();
        }
        try (Stream<Path> entries = Files.list(folder)) {
            return entries.filter(path -> path.getFileName().toString().matches(PREFIX + "\\d+"))
                    .sorted(Comparator.comparingLong(
                            path -> Long.parseLong(path.getFileName().toString().substring(PREFIX.length()))))
                    .toList();
        } catch (IOException e) {
            throw Faults.reading(folder, e);
        }
    }

    /** By a rename first, so that a kill half-way leaves nothing that looks like a checkpoint. */
    private static void delete(Path checkpoint) {
        Path doomed = checkpoint.resolveSibling("." + checkpoint.getFileName() + "." + UUID.randomUUID() + ".tmp");
        try {
            Files.move(checkpoint, doomed);
            try (Stream<Path> files = Files.list(doomed)) {
                for (Path file : files.toList()) {
                    Files.delete(file);
                }
            }
            Files.delete(doomed);
        } catch (IOException e) {
            throw Faults.writing(checkpoint, e);
        }
    }

    private static String sha256(Path file) {
        try (InputStream in = new DigestInputStream(Files.newInputStream(file), MessageDigest.getInstance("SHA-256"))) {
            in.transferTo(OutputStream.nullOutputStream());
            return HexFormat.of()
                    .formatHex(((DigestInputStream) in).getMessageDigest().digest());
        } catch (IOException e) {
            throw Faults.reading(file, e);
        } catch (NoSuchAlgorithmException e) {
            throw new IllegalStateException(e); // every JDK has SHA-256
        }
    }
}
