package dev.espalier.io;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.sun.management.ThreadMXBean;
import dev.espalier.EspalierException;
import dev.espalier.tensor.Scope;
import java.io.IOException;
import java.io.RandomAccessFile;
import java.lang.management.ManagementFactory;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.Random;
import java.util.function.Function;
import java.util.function.Supplier;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/**
 * Whatever the bytes, a reader answers or stops with a sentence: no other exception, no allocation out of proportion to the
 * file. Seeds are fixed, so a failure repeats.
 */
class HostileFilesTest {

    /** Readers hold slices of up to a mebibyte; what a header claims runs to gigabytes. */
    private static final long MOST_BYTES = 16 << 20;

    private static final int[] MASKS = {0x01, 0x80, 0xff};

    private static final ThreadMXBean THREADS = (ThreadMXBean) ManagementFactory.getThreadMXBean();

    @TempDir
    Path folder;

    @Test
    void truncatedSafetensorsAreAlwaysRefused() throws IOException {
        try (RandomAccessFile file = golden("safetensors/types.safetensors")) {
            for (long length = file.length() - 1; length >= 0; length--) {
                file.setLength(length);
                assertThatThrownBy(() -> Safetensors.open(hostile()))
                        .as("cut to %d bytes", length)
                        .isExactlyInstanceOf(EspalierException.class);
            }
        }
    }

    @Test
    void truncatedGgufIsAlwaysRefused() throws IOException {
        try (RandomAccessFile file = golden("gguf/all_types.gguf")) {
            file.setLength(file.length() - 32); // the last tensor may be followed by padding, which may be missing
            for (long length = file.length() - 1; length >= 0; length--) {
                file.setLength(length);
                assertThatThrownBy(() -> Gguf.open(hostile()))
                        .as("cut to %d bytes", length)
                        .isExactlyInstanceOf(EspalierException.class);
            }
        }
    }

    @Test
    void truncatedOnnxIsReadOrRefused() {
        // A protocol-buffer message may end after any field, so some cuts leave a valid model.
        byte[] bytes = Golden.bytes("onnx/small.onnx");
        for (int length = 0; length < bytes.length; length++) {
            byte[] cut = Arrays.copyOf(bytes, length);
            answersOrRefuses(() -> Onnx.open("model", cut).parameters(), "cut to " + length + " bytes");
        }
    }

    @Test
    void changedSafetensorsAreReadOrRefused() throws IOException {
        changed("safetensors/types.safetensors", Safetensors::open);
    }

    @Test
    void changedGgufIsReadOrRefused() throws IOException {
        changed("gguf/all_types.gguf", Gguf::open);
    }

    @Test
    void changedOnnxIsReadOrRefused() {
        byte[] bytes = Golden.bytes("onnx/small.onnx");
        for (int at = 0; at < bytes.length; at++) {
            byte[] copy = bytes.clone();
            copy[at] ^= (byte) MASKS[at % MASKS.length];
            answersOrRefuses(() -> Onnx.open("model", copy).parameters(), "byte " + at);
        }
    }

    @Test
    void changedShardIndexIsReadOrRefused() throws IOException {
        for (int shard = 1; shard <= 2; shard++) {
            String name = "model-0000" + shard + "-of-00002.safetensors";
            Files.write(folder.resolve(name), Golden.bytes("safetensors/sharded/" + name));
        }
        byte[] bytes = Golden.bytes("safetensors/sharded/model.safetensors.index.json");
        Path index = folder.resolve("model.safetensors.index.json");
        for (int at = 0; at < bytes.length; at++) {
            byte[] copy = bytes.clone();
            copy[at] ^= 0x21;
            Files.write(index, copy);
            answersOrRefuses(() -> Safetensors.open(index), "byte " + at);
        }
    }

    /** Each byte of the first 1500 changed in turn, then seeded handfuls of bytes anywhere. */
    private void changed(String name, Function<Path, TensorSource> open) throws IOException {
        byte[] bytes = Golden.bytes(name);
        Random random = new Random(11);
        try (RandomAccessFile file = golden(name)) {
            for (int at = 0; at < Math.min(1500, bytes.length); at++) {
                put(file, at, (byte) (bytes[at] ^ MASKS[at % MASKS.length]));
                answersOrRefuses(() -> open.apply(hostile()), "byte " + at);
                put(file, at, bytes[at]);
            }
            for (int round = 0; round < 300; round++) {
                int first = random.nextInt(bytes.length);
                int second = random.nextInt(bytes.length);
                put(file, first, (byte) random.nextInt());
                put(file, second, (byte) random.nextInt());
                answersOrRefuses(() -> open.apply(hostile()), "round " + round);
                put(file, first, bytes[first]);
                put(file, second, bytes[second]);
            }
        }
    }

    private static void put(RandomAccessFile file, int at, byte value) throws IOException {
        file.seek(at);
        file.write(value);
    }

    private static void answersOrRefuses(Supplier<TensorSource> open, String what) {
        long before = THREADS.getCurrentThreadAllocatedBytes();
        try (Scope scope = Scope.open();
                TensorSource source = open.get()) {
            for (String name : source.tensors().keySet()) {
                source.read(name);
            }
        } catch (EspalierException e) {
            assertThat(e.getMessage()).isNotBlank().doesNotContain("\n");
        }
        assertThat(THREADS.getCurrentThreadAllocatedBytes() - before).as(what).isLessThan(MOST_BYTES);
    }

    private Path hostile() {
        return folder.resolve("hostile");
    }

    /** A golden file's copy, open for damage. */
    private RandomAccessFile golden(String name) throws IOException {
        Files.write(hostile(), Golden.bytes(name));
        return new RandomAccessFile(hostile().toFile(), "rw");
    }
}
