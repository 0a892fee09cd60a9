package dev.espalier.io;

import static dev.espalier.Check.check;

import dev.espalier.EspalierException;
import dev.espalier.tensor.Device;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Tensor;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.channels.FileChannel;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Comparator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.TreeMap;
import java.util.zip.CRC32C;

/** Writes one safetensors file; see {@link Safetensors#write(Path, Map, Map)}. */
final class SafetensorsWriter {

    private static final int SLICE = 1 << 20;

    private SafetensorsWriter() {}

    static void write(Path target, Map<String, Tensor> tensors, Map<String, String> metadata) {
        check(
                !tensors.isEmpty(),
                "There are no tensors to write to %s; a file without weights would look like success",
                target);
        check(
                !tensors.containsKey(SafetensorsFile.METADATA),
                "No tensor can be called %s in a safetensors file",
                SafetensorsFile.METADATA);
        Map<String, Long> checksums = new LinkedHashMap<>();
        AtomicFile.write(
                target,
                path -> writeTo(path, tensors, metadata, checksums),
                path -> verify(path, target, tensors, checksums));
    }

    private static void writeTo(
            Path path, Map<String, Tensor> tensors, Map<String, String> metadata, Map<String, Long> checksums)
            throws IOException {
        // Widest elements first, then by name, as the reference implementation: every tensor is aligned to its
        // elements.
        List<String> order = new ArrayList<>(tensors.keySet());
        order.sort(Comparator.comparingInt(
                        (String name) -> -tensor(tensors, name).dtype().bytes())
                .thenComparing(Comparator.naturalOrder()));
        try (FileChannel channel = FileChannel.open(path, StandardOpenOption.CREATE_NEW, StandardOpenOption.WRITE)) {
            writeFully(channel, header(order, tensors, metadata));
            ByteBuffer slice = ByteBuffer.allocate(SLICE);
            for (String name : order) {
                CRC32C checksum = new CRC32C();
                try (Scope scope = Scope.open()) {
                    Tensor plain = tensor(tensors, name).detach().to(Device.CPU).contiguous();
                    long bytes = plain.bytes();
                    for (long done = 0; done < bytes; done += slice.limit()) {
                        slice.clear().limit((int) Math.min(SLICE, bytes - done));
                        plain.read(done, slice);
                        checksum.update(slice.flip());
                        writeFully(channel, slice.rewind());
                    }
                }
                checksums.put(name, checksum.getValue());
            }
        }
    }

    private static ByteBuffer header(List<String> order, Map<String, Tensor> tensors, Map<String, String> metadata) {
        Map<String, Object> header = new LinkedHashMap<>();
        Map<String, String> about = new TreeMap<>(metadata);
        about.putIfAbsent("format", "pt");
        header.put(SafetensorsFile.METADATA, about);
        long offset = 0;
        for (String name : order) {
            Tensor tensor = tensor(tensors, name);
            long end = offset + tensor.bytes();
            Map<String, Object> entry = new LinkedHashMap<>();
            entry.put("dtype", Stored.of(tensor.dtype()).name());
            entry.put("shape", tensor.shape());
            entry.put("data_offsets", new long[] {offset, end});
            header.put(name, entry);
            offset = end;
        }
        byte[] json = Json.text(header).getBytes(StandardCharsets.UTF_8);
        int padded = (json.length + 7) / 8 * 8;
        check(
                padded <= SafetensorsFile.MAX_HEADER,
                "The header of %d tensors takes %d bytes, more than the %d that readers accept; write several files",
                order.size(),
                padded,
                SafetensorsFile.MAX_HEADER);
        ByteBuffer bytes = ByteBuffer.allocate(8 + padded).order(ByteOrder.LITTLE_ENDIAN);
        bytes.putLong(padded).put(json);
        while (bytes.hasRemaining()) {
            bytes.put((byte) ' ');
        }
        return bytes.flip();
    }

    /** Compares a written file with the tensors and the checksums of the bytes that were sent to it. */
    static void verify(Path path, Path target, Map<String, Tensor> tensors, Map<String, Long> checksums) {
        try (SafetensorsFile written = SafetensorsFile.open(path)) {
            check(
                    written.tensors().keySet().equals(tensors.keySet()),
                    "%s was not written: it came back with other tensors than were given; the disk may be failing",
                    target);
            checksums.forEach((name, expected) -> {
                Tensor tensor = tensor(tensors, name);
                TensorInfo info = written.info(name);
                CRC32C checksum = new CRC32C();
                written.bytes(name, checksum::update);
                if (!Arrays.equals(info.dims(), tensor.shape())
                        || info.dtype() != tensor.dtype()
                        || checksum.getValue() != expected) {
                    throw new EspalierException(
                            "%s was not written: tensor %s came back changed; the disk may be failing, or the tensor changed while it was saved"
                                    .formatted(target, name));
                }
            });
        }
    }

    private static Tensor tensor(Map<String, Tensor> tensors, String name) {
        return Objects.requireNonNull(tensors.get(name));
    }

    private static void writeFully(FileChannel channel, ByteBuffer bytes) throws IOException {
        while (bytes.hasRemaining()) {
            channel.write(bytes);
        }
    }
}
