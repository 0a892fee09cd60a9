package dev.espalier.io;

import dev.espalier.EspalierException;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Tensor;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.file.Path;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.stream.LongStream;

/**
 * A GGUF file (versions 2 and 3, little-endian): llama.cpp's format of weights, quantised or not, with settings and tokenizer
 * in one file. {@code GgufHeader} gives the bytes.
 *
 * <p>Quantised tensors are read as float32, computed as the reference does, to the bit; F32, F16, BF16 and integers as they
 * are. Shapes are PyTorch's: GGUF lists the fastest dimension first, so its dimensions are reversed.
 */
public final class Gguf implements TensorSource {

    /** Values dequantised at a time by one thread: large against the cost of a call, small against a cache. */
    private static final int SLICE = 1 << 16;

    private final FileBytes file;
    private final GgufHeader header;

    private Gguf(FileBytes file) {
        this.file = file;
        this.header = GgufHeader.read(file);
    }

    /**
     * Opens a file, reads its header and checks it against the file.
     *
     * @throws EspalierException if it is not a GGUF file this can read, with the reason
     */
    public static Gguf open(Path path) {
        FileBytes file = FileBytes.open(path);
        try {
            return new Gguf(file);
        } catch (RuntimeException e) {
            file.close();
            throw e;
        }
    }

    /**
     * All metadata by key, in the file's order: {@code String}, {@code Boolean}, {@code Long} (or {@code BigInteger} above 63
     * bits), {@code Double}, and {@code List}s of these.
     */
    public Map<String, Object> values() {
        return Collections.unmodifiableMap(header.values());
    }

    /** The metadata except lists, as text. */
    @Override
    public Map<String, String> metadata() {
        Map<String, String> texts = new LinkedHashMap<>();
        header.values().forEach((key, value) -> {
            if (!(value instanceof List)) {
                texts.put(key, value.toString());
            }
        });
        return texts;
    }

    @Override
    public String where() {
        return file.file().toString();
    }

    @Override
    public Map<String, TensorInfo> tensors() {
        Map<String, TensorInfo> infos = new LinkedHashMap<>();
        header.tensors().forEach((name, entry) -> infos.put(name, entry.info()));
        return Collections.unmodifiableMap(infos);
    }

    @Override
    public Tensor read(String name) {
        info(name); // names the nearest if there is none
        GgufHeader.Entry entry = Objects.requireNonNull(header.tensors().get(name));
        Stored plain = entry.type().plain();
        return plain != null ? plain.load(file, entry.position(), entry.info().dims()) : dequantize(entry);
    }

    /** Slices are independent, so they run in parallel; each value is computed the same way whatever the split. */
    private Tensor dequantize(GgufHeader.Entry entry) {
        GgmlType type = entry.type();
        GgmlType.Block block = Objects.requireNonNull(type.block());
        long blocks = entry.info().bytes() / type.blockBytes();
        int step = SLICE / type.blockSize();
        Tensor tensor = Tensor.empty(DType.FLOAT32, entry.info().dims());
        try {
            LongStream.range(0, (blocks + step - 1) / step).parallel().forEach(slice -> {
                long first = slice * step;
                int count = (int) Math.min(step, blocks - first);
                byte[] in = new byte[count * type.blockBytes()];
                file.read(entry.position() + first * type.blockBytes(), ByteBuffer.wrap(in));
                float[] out = new float[count * type.blockSize()];
                for (int i = 0; i < count; i++) {
                    block.dequantize(in, i * type.blockBytes(), out, i * type.blockSize());
                }
                ByteBuffer bytes = ByteBuffer.allocate(out.length * Float.BYTES).order(ByteOrder.LITTLE_ENDIAN);
                bytes.asFloatBuffer().put(out);
                tensor.write(first * type.blockSize() * Float.BYTES, bytes);
            });
            return tensor;
        } catch (RuntimeException e) {
            tensor.close();
            throw e;
        }
    }

    @Override
    public void close() {
        file.close();
    }
}
