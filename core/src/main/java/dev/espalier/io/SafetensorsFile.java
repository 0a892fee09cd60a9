package dev.espalier.io;

import static dev.espalier.Check.check;
import static dev.espalier.io.Faults.shown;

import dev.espalier.EspalierException;
import dev.espalier.tensor.Tensor;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.Comparator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.TreeMap;
import java.util.function.Consumer;

/**
 * One safetensors file.
 *
 * <pre>
 * 8 bytes    N, unsigned 64-bit integer, little-endian: length of the header
 * N bytes    JSON in UTF-8, starting with {, padded with spaces at the end:
 *            {"NAME": {"dtype": "F16", "shape": [1, 16, 256], "data_offsets": [BEGIN, END]}, ...,
 *             "__metadata__": {"KEY": "VALUE", ...}}
 * the rest   the data: offsets count from here; tensors cover it without overlap or hole, row-major, little-endian
 * </pre>
 *
 * <p>Source: the format section of huggingface/safetensors' README. A file is refused unless all of this holds.
 */
final class SafetensorsFile implements TensorSource {

    static final String METADATA = "__metadata__";
    static final int MAX_HEADER = 100_000_000; // the reference implementation's limit

    private record Entry(TensorInfo info, Stored stored, long begin, long end) {}

    private final FileBytes file;
    private final Map<String, Entry> entries = new LinkedHashMap<>();
    private final Map<String, TensorInfo> tensors = new LinkedHashMap<>();
    private final Map<String, String> metadata = new TreeMap<>();
    private final long dataStart;

    private SafetensorsFile(FileBytes file) {
        this.file = file;
        long length = headerLength();
        dataStart = 8 + length;
        byte[] header = new byte[(int) length];
        file.read(8, ByteBuffer.wrap(header));
        check(header[0] == '{', "%s is not a safetensors file: its header does not start with {", where());
        Fields fields = Fields.of("the header of " + where(), Json.parse("the header of " + where(), header));
        metadata.putAll(fields.stringMap(METADATA, Map.of()));
        List<Entry> found = new ArrayList<>();
        for (String name : fields.unread().keySet()) {
            found.add(readEntry(name, fields.fields(name)));
        }
        checkLayout(found);
        for (Entry entry : found) {
            entries.put(entry.info.name(), entry);
            tensors.put(entry.info.name(), entry.info);
        }
    }

    static SafetensorsFile open(Path path) {
        FileBytes file = FileBytes.open(path);
        try {
            return new SafetensorsFile(file);
        } catch (RuntimeException e) {
            file.close();
            throw e;
        }
    }

    private long headerLength() {
        check(
                file.size() >= 10,
                "%s holds %d bytes, too few for a safetensors file; fetch or write it again",
                where(),
                file.size());
        ByteBuffer prefix = ByteBuffer.allocate(8).order(ByteOrder.LITTLE_ENDIAN);
        file.read(0, prefix);
        long length = prefix.getLong(0);
        check(
                length >= 2 && length <= MAX_HEADER,
                "%s is not a safetensors file: it claims a header of %s bytes, where 2 to %d are allowed",
                where(),
                Long.toUnsignedString(length),
                MAX_HEADER);
        check(
                length <= file.size() - 8,
                "%s is cut off: its header should take %d bytes, the file holds %d; fetch or write it again",
                where(),
                length,
                file.size());
        return length;
    }

    private Entry readEntry(String name, Fields fields) {
        String what = where() + ": tensor " + shown(name);
        String type = fields.string("dtype");
        Stored stored = stored(what, type);
        List<Long> shape = fields.longs("shape");
        List<Long> offsets = fields.longs("data_offsets");
        check(offsets.size() == 2, "%s should have two data_offsets, found %s", what, offsets);
        long begin = offsets.get(0);
        long end = offsets.get(1);
        long available = file.size() - dataStart;
        check(0 <= begin && begin <= end, "%s has the data_offsets %s, which do not rise from 0", what, offsets);
        check(
                end <= available,
                "%s should end at byte %d of the data, but only %d follow the header: the file is cut off; fetch or write it again",
                what,
                end,
                available);
        long bytes = Stored.bytes(what, shape, stored.bytes());
        check(
                bytes == end - begin,
                "%s of shape %s and type %s needs %d bytes, its data_offsets %s give %d",
                what,
                shape,
                type,
                bytes,
                offsets,
                end - begin);
        return new Entry(new TensorInfo(name, stored.dtype(), type, shape, bytes), stored, begin, end);
    }

    private static Stored stored(String what, String type) {
        for (Stored stored : Stored.values()) {
            if (stored.name().equals(type)) {
                return stored;
            }
        }
        throw new EspalierException(
                "%s has the type %s, which cannot be read; known here: %s. Convert the checkpoint to BF16 or F32"
                        .formatted(what, type, Arrays.toString(Stored.values())));
    }

    /** Tensors must cover the data exactly: a hole can hide content, an overlap can make one weight change another. */
    private void checkLayout(List<Entry> found) {
        List<Entry> sorted = new ArrayList<>(found);
        sorted.sort(Comparator.comparingLong(Entry::begin).thenComparingLong(Entry::end));
        long at = 0;
        for (Entry entry : sorted) {
            check(
                    entry.begin >= at,
                    "%s: tensor %s starts at byte %d of the data, inside the one before it",
                    where(),
                    shown(entry.info.name()),
                    entry.begin);
            check(
                    entry.begin == at,
                    "%s: nothing describes the %d bytes before tensor %s",
                    where(),
                    entry.begin - at,
                    shown(entry.info.name()));
            at = entry.end;
        }
        check(
                at == file.size() - dataStart,
                "%s holds %d bytes after its last tensor that nothing describes; fetch or write it again",
                where(),
                file.size() - dataStart - at);
    }

    @Override
    public String where() {
        return file.file().toString();
    }

    @Override
    public Map<String, TensorInfo> tensors() {
        return Collections.unmodifiableMap(tensors);
    }

    @Override
    public Map<String, String> metadata() {
        return Collections.unmodifiableMap(metadata);
    }

    @Override
    public Tensor read(String name) {
        Entry entry = entry(name);
        return entry.stored.load(file, dataStart + entry.begin, entry.info.dims());
    }

    @Override
    public Tensor map(String name) {
        Entry entry = entry(name);
        long position = dataStart + entry.begin;
        long length = entry.info.bytes();
        boolean aligned = position % entry.stored.bytes() == 0;
        if (entry.stored.asItIs() && aligned && length > 0 && length <= Integer.MAX_VALUE) {
            ByteBuffer pages = file.mapPrivate(position, length);
            if (pages != null) {
                return Tensor.map(pages, entry.stored.dtype(), entry.info.dims());
            }
        }
        return read(name);
    }

    /** Streams a tensor's bytes as they are stored. */
    void bytes(String name, Consumer<ByteBuffer> sink) {
        Entry entry = entry(name);
        ByteBuffer slice = ByteBuffer.allocate((int) Math.min(1 << 20, entry.info.bytes()));
        for (long done = 0; done < entry.info.bytes(); done += slice.limit()) {
            slice.clear().limit((int) Math.min(slice.capacity(), entry.info.bytes() - done));
            file.read(dataStart + entry.begin + done, slice);
            sink.accept(slice.flip());
        }
    }

    private Entry entry(String name) {
        info(name); // names the nearest if there is none
        return Objects.requireNonNull(entries.get(name));
    }

    @Override
    public void close() {
        file.close();
    }
}
