package dev.espalier.io;

import static dev.espalier.Check.check;
import static dev.espalier.io.Faults.shown;

import dev.espalier.EspalierException;
import dev.espalier.tensor.DType;
import java.math.BigInteger;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.Comparator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * The header of a GGUF file.
 *
 * <pre>
 * u32 magic "GGUF"   u32 version   u64 tensor count   u64 key count
 * key count times     string key, u32 value type, value
 * tensor count times  string name, u32 dimensions, u64 size of each (fastest first), u32 ggml type, u64 offset
 * padding to general.alignment (32 unless given), then the data: offsets count from here and are multiples of it
 * string: u64 length, UTF-8 bytes.  array: u32 element type, u64 count, elements
 * </pre>
 *
 * <p>Source: docs/gguf.md of ggml-org/ggml. Every count and length is held against the bytes left in the file before anything
 * of that size is allocated.
 */
record GgufHeader(Map<String, Object> values, Map<String, Entry> tensors) {

    private static final int MAGIC = 0x46554747; // "GGUF" read little-endian
    private static final int MAX_STRING = 64 << 20;
    private static final long MAX_VALUES = 1L << 23; // all array elements together: some 30 large vocabularies
    private static final int MAX_DIMS = 4; // GGML_MAX_DIMS
    private static final int MAX_NESTING = 4;

    /**
     * A tensor and where it is.
     *
     * @param position of its first byte in the file
     */
    record Entry(TensorInfo info, GgmlType type, long position) {}

    static GgufHeader read(FileBytes file) {
        return new Reader(file).header();
    }

    private static final class Reader {

        private final FileBytes file;
        private final String where;
        private final ByteBuffer buffer =
                ByteBuffer.allocate(1 << 16).order(ByteOrder.LITTLE_ENDIAN).limit(0);
        private long fetched; // bytes taken from the file into the buffer so far
        private long valueCount;

        Reader(FileBytes file) {
            this.file = file;
            this.where = file.file().toString();
        }

        GgufHeader header() {
            check(file.size() >= 24 && u32() == MAGIC, "%s is not a GGUF file: it does not start with GGUF", where);
            long version = u32();
            check(
                    (version & 0xffff) != 0,
                    "%s is a big-endian GGUF file, which cannot be read; convert it to little-endian",
                    where);
            check(
                    version == 2 || version == 3,
                    "%s is of GGUF version %d; versions 2 and 3 can be read: convert it with a current llama.cpp",
                    where,
                    version);
            long tensorCount = count("tensors", 24); // an empty name, no dimension, type, offset
            long keyCount = count("keys", 13); // an empty key, a type, one byte
            Map<String, Object> values = new LinkedHashMap<>();
            for (long i = 0; i < keyCount; i++) {
                String key = string("a key");
                Object value = value(shown(key), u32(), 0);
                check(values.put(key, value) == null, "%s gives the key %s twice", where, shown(key));
            }
            return new GgufHeader(values, tensors(tensorCount, alignment(values)));
        }

        private long alignment(Map<String, Object> values) {
            Object alignment = values.getOrDefault("general.alignment", 32L);
            check(
                    alignment instanceof Long a && a >= 8 && a <= 1 << 20 && Long.bitCount(a) == 1,
                    "%s has a general.alignment of %s, where a power of two from 8 on is expected",
                    where,
                    alignment);
            return (Long) alignment;
        }

        private Map<String, Entry> tensors(long count, long alignment) {
            List<Entry> entries = new ArrayList<>();
            for (long i = 0; i < count; i++) {
                entries.add(tensor(alignment));
            }
            long start = (position() + alignment - 1) / alignment * alignment;
            Map<String, Entry> byName = new LinkedHashMap<>();
            for (Entry entry : entries) {
                TensorInfo info = entry.info;
                check(
                        entry.position <= file.size() - start && info.bytes() <= file.size() - start - entry.position,
                        "%s is cut off: tensor %s should take %d bytes at %d of the data, the file has %d there; fetch it again",
                        where,
                        shown(info.name()),
                        info.bytes(),
                        entry.position,
                        Math.max(0, file.size() - start));
                Entry placed = new Entry(info, entry.type, start + entry.position);
                check(
                        byName.put(info.name(), placed) == null,
                        "%s holds the tensor %s twice",
                        where,
                        shown(info.name()));
            }
            checkOverlap(byName.values().stream()
                    .sorted(Comparator.comparingLong(Entry::position)
                            .thenComparing(e -> e.info().bytes()))
                    .toList());
            return byName;
        }

        private void checkOverlap(List<Entry> sorted) {
            for (int i = 1; i < sorted.size(); i++) {
                Entry before = sorted.get(i - 1);
                check(
                        before.position + before.info.bytes() <= sorted.get(i).position,
                        "%s: tensors %s and %s overlap",
                        where,
                        shown(before.info.name()),
                        shown(sorted.get(i).info.name()));
            }
        }

        /** A tensor whose position still counts from the start of the data. */
        private Entry tensor(long alignment) {
            String name = string("a tensor's name");
            String what = where + ": tensor " + shown(name);
            long dims = u32();
            check(dims <= MAX_DIMS, "%s has %d dimensions, more than the format's %d", what, dims, MAX_DIMS);
            List<Long> shape = new ArrayList<>();
            for (int i = 0; i < dims; i++) {
                shape.add(u64());
            }
            Collections.reverse(shape);
            long typeId = u32();
            GgmlType type = GgmlType.of(typeId);
            if (type == null) {
                throw new EspalierException(
                        "%s has the ggml type %d, which cannot be read; known here: %s. Requantise the model to one of these"
                                .formatted(what, typeId, Arrays.toString(GgmlType.values())));
            }
            long offset = u64();
            check(
                    offset >= 0 && offset % alignment == 0,
                    "%s starts at %s of the data, which is no multiple of the alignment %d",
                    what,
                    Long.toUnsignedString(offset),
                    alignment);
            long numel = Stored.bytes(what, shape, 1);
            long row = shape.isEmpty() ? 1 : shape.get(shape.size() - 1);
            check(
                    row % type.blockSize() == 0,
                    "%s has rows of %d values, which blocks of %d (%s) do not fill",
                    what,
                    row,
                    type.blockSize(),
                    type);
            long blocks = numel / type.blockSize();
            check(
                    blocks <= file.size() / type.blockBytes(),
                    "%s of shape %s and type %s is larger than the file; it is cut off: fetch it again",
                    what,
                    shape,
                    type);
            Stored plain = type.plain();
            DType dtype = plain == null ? DType.FLOAT32 : plain.dtype();
            TensorInfo info = new TensorInfo(name, dtype, type.name(), shape, blocks * type.blockBytes());
            return new Entry(info, type, offset);
        }

        private Object value(String key, long type, int nesting) {
            return switch ((int) type) {
                case 0 -> (long) Byte.toUnsignedInt(fetch(1).get());
                case 1 -> (long) fetch(1).get();
                case 2 -> (long) Short.toUnsignedInt(fetch(2).getShort());
                case 3 -> (long) fetch(2).getShort();
                case 4 -> u32();
                case 5 -> (long) fetch(4).getInt();
                case 6 -> (double) fetch(4).getFloat();
                case 7 -> bool(key);
                case 8 -> string(key);
                case 9 -> array(key, nesting);
                case 10 -> unsigned(u64());
                case 11 -> u64();
                case 12 -> fetch(8).getDouble();
                default ->
                    throw new EspalierException(
                            "%s: key %s has the value type %d; 0 to 12 are known".formatted(where, key, type));
            };
        }

        private boolean bool(String key) {
            byte value = fetch(1).get();
            check(value == 0 || value == 1, "%s: key %s should be 0 or 1, found %d", where, key, value);
            return value == 1;
        }

        private List<Object> array(String key, int nesting) {
            check(nesting < MAX_NESTING, "%s: key %s nests arrays more than %d deep", where, key, MAX_NESTING);
            long type = u32();
            int least = switch ((int) type) {
                case 0, 1, 7 -> 1;
                case 2, 3 -> 2;
                case 4, 5, 6 -> 4;
                case 9 -> 12;
                default -> 8;
            };
            long count = count("elements in " + key, least);
            valueCount += count;
            check(
                    valueCount <= MAX_VALUES,
                    "%s holds more than %d array elements in its metadata, at key %s; is it the right file?",
                    where,
                    MAX_VALUES,
                    key);
            List<Object> list = new ArrayList<>();
            for (long i = 0; i < count; i++) {
                list.add(value(key, type, nesting + 1));
            }
            return Collections.unmodifiableList(list);
        }

        private String string(String what) {
            long length = count("bytes in " + what, 1);
            check(length <= MAX_STRING, "%s: %s is a text of %d bytes, more than %d", where, what, length, MAX_STRING);
            byte[] bytes = new byte[(int) length];
            int done = 0;
            while (done < bytes.length) {
                int part = Math.min(bytes.length - done, buffer.capacity());
                fetch(part).get(bytes, done, part);
                done += part;
            }
            return new String(
                    bytes, StandardCharsets.UTF_8); // vocabularies may hold pieces of characters: these are replaced
        }

        /** A count of things that take at least so many bytes each: refused if the rest of the file cannot hold them. */
        private long count(String what, int leastBytes) {
            long count = u64();
            long left = file.size() - position();
            check(
                    count >= 0 && count <= left / leastBytes,
                    "%s claims %s %s, more than the %d bytes left in it can hold; it is cut off or damaged: fetch it again",
                    where,
                    Long.toUnsignedString(count),
                    what,
                    left);
            return count;
        }

        private static Object unsigned(long value) {
            return value >= 0 ? value : new BigInteger(Long.toUnsignedString(value));
        }

        private long u32() {
            return Integer.toUnsignedLong(fetch(4).getInt());
        }

        private long u64() {
            return fetch(8).getLong();
        }

        private long position() {
            return fetched - buffer.remaining();
        }

        private void need(int bytes) {
            check(
                    bytes <= file.size() - position(),
                    "%s ends inside its header, at byte %d; it is cut off: fetch it again",
                    where,
                    file.size());
        }

        /** The buffer with at least so many bytes in it, at most its capacity. */
        private ByteBuffer fetch(int bytes) {
            if (buffer.remaining() < bytes) {
                need(bytes);
                buffer.compact();
                buffer.limit((int) Math.min(buffer.capacity(), buffer.position() + file.size() - fetched));
                int before = buffer.position();
                file.read(fetched, buffer);
                fetched += buffer.position() - before;
                buffer.flip();
            }
            return buffer;
        }
    }
}
