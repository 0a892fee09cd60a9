package dev.espalier.io;

import static dev.espalier.Check.check;

import dev.espalier.EspalierException;
import dev.espalier.tensor.Tensor;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.stream.Stream;

/**
 * The safetensors format of Hugging Face: named tensors behind a JSON header, alone or in shards.
 *
 * <p>The bytes are specified where they are read, in {@code SafetensorsFile}.
 */
public final class Safetensors {

    private static final String INDEX = ".safetensors.index.json";
    private static final List<String> USUAL =
            List.of("model.safetensors", "model" + INDEX, "adapter_model.safetensors");

    private Safetensors() {}

    /**
     * Opens tensors and checks every header.
     *
     * @param path a {@code .safetensors} file, the {@code .safetensors.index.json} of a sharded model, or a folder that holds
     *     either
     * @throws EspalierException if there is none, or a header does not describe its file exactly
     */
    public static TensorSource open(Path path) {
        Path file = Files.isDirectory(path) ? find(path) : path;
        return file.getFileName().toString().endsWith(INDEX)
                ? SafetensorsShards.open(file)
                : SafetensorsFile.open(file);
    }

    /** Writes tensors with the metadata {@code format: pt}, which Hugging Face's loaders ask for. */
    public static void write(Path target, Map<String, Tensor> tensors) {
        write(target, tensors, Map.of());
    }

    /**
     * Writes tensors to one file, atomically, and reads it back: names, types, shapes and a checksum of every tensor must be
     * those that were given before the file gets its name.
     *
     * @param tensors by name, at least one, on any device; tensors that share memory are written each for itself
     * @param metadata texts for the header; {@code format: pt} is added unless given
     * @throws EspalierException if there are no tensors, or the file cannot be written
     */
    public static void write(Path target, Map<String, Tensor> tensors, Map<String, String> metadata) {
        SafetensorsWriter.write(target, tensors, metadata);
    }

    private static Path find(Path folder) {
        List<Path> files;
        try (Stream<Path> list = Files.list(folder)) {
            files = list.filter(Files::isRegularFile).sorted().toList();
        } catch (IOException e) {
            throw Faults.reading(folder, e);
        }
        List<Path> indices = files.stream()
                .filter(f -> f.getFileName().toString().endsWith(INDEX))
                .toList();
        List<Path> singles = files.stream()
                .filter(f -> f.getFileName().toString().endsWith(".safetensors"))
                .toList();
        for (String usual : USUAL) {
            if (files.contains(folder.resolve(usual))) {
                return folder.resolve(usual);
            }
        }
        if (indices.size() == 1) {
            return indices.get(0);
        }
        if (singles.size() == 1 && indices.isEmpty()) {
            return singles.get(0);
        }
        check(
                singles.isEmpty() && indices.isEmpty(),
                "%s holds %d safetensors files and none is called model.safetensors; name the one that is meant",
                folder,
                singles.size());
        boolean pickled = files.stream().map(f -> f.getFileName().toString()).anyMatch(Safetensors::isPickle);
        throw new EspalierException(
                pickled
                        ? "%s holds its weights as a Python pickle, which can run code and is never read; save them with safetensors"
                                .formatted(folder)
                        : "%s holds no .safetensors file; check the path".formatted(folder));
    }

    private static boolean isPickle(String name) {
        return name.endsWith(".bin") || name.endsWith(".pt") || name.endsWith(".pth") || name.endsWith(".ckpt");
    }
}
