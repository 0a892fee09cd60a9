package dev.espalier.io;

import static dev.espalier.Check.check;

import java.io.ByteArrayOutputStream;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.ArrayList;
import java.util.List;

/**
 * The values of an ONNX tensor outside {@code raw_data}: in float_data (4), int32_data (5; also narrower types), int64_data
 * (7), double_data (10) or uint64_data (11; also uint32), packed or, by old writers, one by one.
 */
final class OnnxValues {

    private static final int MAX_LOOSE = 64 << 20;

    private final String where;
    private final List<ByteBuffer> packed = new ArrayList<>();
    private final ByteArrayOutputStream loose = new ByteArrayOutputStream();
    private int field;

    OnnxValues(String where) {
        this.where = where;
    }

    /** Takes the value the reader stands at. */
    void add(int number, ProtoReader tensor) {
        check(field == 0 || field == number, "%s holds an initialiser with values of two kinds", where);
        field = number;
        if (tensor.wireType() == ProtoReader.BYTES) {
            packed.add(tensor.bytes());
        } else {
            if (varints()) {
                writeVarint(tensor.integer()); // so that one path reads packed and loose values
            } else {
                ByteBuffer value = tensor.fixed();
                while (value.hasRemaining()) {
                    loose.write(value.get());
                }
            }
        }
        check(
                loose.size() <= MAX_LOOSE && (packed.isEmpty() || loose.size() == 0),
                "%s holds an initialiser of many single values; export the model again with a current exporter",
                where);
    }

    /**
     * All values in the stored type's bytes.
     *
     * @param bytes how many there should be by the shape
     */
    ByteBuffer toBytes(String what, Stored stored, long bytes) {
        int wanted = switch (stored) {
            case F32 -> 4;
            case F64 -> 10;
            case I64 -> 7;
            case U32 -> 11;
            default -> 5;
        };
        check(field == 0 || field == wanted, "%s of type %s has values of another kind", what, stored);
        if (loose.size() > 0) {
            packed.add(ByteBuffer.wrap(loose.toByteArray()).order(ByteOrder.LITTLE_ENDIAN));
        }
        if (!varints() && packed.size() == 1) {
            return packed.get(0);
        }
        long present = packed.stream().mapToLong(ByteBuffer::remaining).sum();
        // A value takes at least a byte, so what the shape claims is in proportion to what is there.
        check(
                bytes / stored.bytes() <= present && bytes <= Integer.MAX_VALUE,
                "%s needs %d bytes, %d are there",
                what,
                bytes,
                present);
        ByteBuffer all = ByteBuffer.allocate((int) bytes).order(ByteOrder.LITTLE_ENDIAN);
        for (ByteBuffer part : packed) {
            ProtoReader values = new ProtoReader(what, part);
            while (values.hasMore()) {
                check(all.hasRemaining(), "%s has more values than its shape says", what);
                if (varints()) {
                    put(all, stored, values.varint());
                } else {
                    all.put(values.octet());
                }
            }
        }
        return all.flip();
    }

    private boolean varints() {
        return field == 5 || field == 7 || field == 11;
    }

    private void writeVarint(long value) {
        long rest = value;
        while ((rest & ~127L) != 0) {
            loose.write((int) ((rest & 127) | 128));
            rest >>>= 7;
        }
        loose.write((int) rest);
    }

    private static void put(ByteBuffer all, Stored stored, long value) {
        switch (stored.bytes()) {
            case 1 -> all.put((byte) value);
            case 2 -> all.putShort((short) value);
            case 4 -> all.putInt((int) value);
            default -> all.putLong(value);
        }
    }
}
