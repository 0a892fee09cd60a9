package dev.espalier.io;

import static dev.espalier.Check.check;

import dev.espalier.EspalierException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;

/**
 * Reads protocol-buffer messages field by field, without a schema.
 *
 * <p>A message is a row of fields: a varint tag {@code number << 3 | wire type}, then a varint (0), 8 bytes (1), a length and
 * as many bytes (2), or 4 bytes (5). Source: the encoding chapter of the Protocol Buffers documentation.
 */
final class ProtoReader {

    static final int VARINT = 0;
    static final int FIXED64 = 1;
    static final int BYTES = 2;
    static final int FIXED32 = 5;

    private final String where;
    private final ByteBuffer bytes;
    private int wireType;

    ProtoReader(String where, ByteBuffer bytes) {
        this.where = where;
        this.bytes = bytes.slice().order(ByteOrder.LITTLE_ENDIAN);
    }

    /** Moves to the next field, whose value must then be taken or {@linkplain #skip skipped}; returns its number, 0 at the end. */
    int next() {
        if (!bytes.hasRemaining()) {
            return 0;
        }
        long tag = varint();
        long number = tag >>> 3;
        wireType = (int) (tag & 7);
        check(
                number >= 1 && number < 1 << 29,
                "%s is damaged: %s is no field number of a protocol-buffer message",
                where,
                Long.toUnsignedString(number));
        return (int) number;
    }

    int wireType() {
        return wireType;
    }

    /** A varint value. */
    long integer() {
        expect(VARINT);
        return varint();
    }

    /** A length-delimited value: a view, no copy. */
    ByteBuffer bytes() {
        expect(BYTES);
        long length = varint();
        check(
                length >= 0 && length <= bytes.remaining(),
                "%s is cut off or damaged: a field claims %s bytes, %d are left; fetch it again",
                where,
                Long.toUnsignedString(length),
                bytes.remaining());
        ByteBuffer view = bytes.slice(bytes.position(), (int) length).order(ByteOrder.LITTLE_ENDIAN);
        bytes.position(bytes.position() + (int) length);
        return view;
    }

    /** A text value. */
    String text() {
        return StandardCharsets.UTF_8.decode(bytes()).toString();
    }

    /** A nested message. */
    ProtoReader message() {
        return new ProtoReader(where, bytes());
    }

    /** A fixed value of 4 or 8 bytes, as a view. */
    ByteBuffer fixed() {
        int length = wireType == FIXED64 ? 8 : 4;
        check(
                wireType == FIXED32 || wireType == FIXED64,
                "%s is damaged: a field has another wire type than its kind",
                where);
        need(length);
        ByteBuffer view = bytes.slice(bytes.position(), length).order(ByteOrder.LITTLE_ENDIAN);
        bytes.position(bytes.position() + length);
        return view;
    }

    void skip() {
        switch (wireType) {
            case VARINT -> varint();
            case BYTES -> bytes();
            default -> fixed(); // refuses the obsolete groups (3, 4) and what does not exist (6, 7)
        }
    }

    private void expect(int wanted) {
        check(wireType == wanted, "%s is damaged: a field has the wire type %d instead of %d", where, wireType, wanted);
    }

    /** Seven bits a byte, lowest first, the top bit set on all but the last. */
    long varint() {
        long value = 0;
        for (int shift = 0; shift < 70; shift += 7) {
            need(1);
            byte b = bytes.get();
            value |= (long) (b & 127) << shift;
            if (b >= 0) {
                return value;
            }
        }
        throw new EspalierException(where + " is damaged: an integer takes more than ten bytes");
    }

    /** One byte. */
    byte octet() {
        need(1);
        return bytes.get();
    }

    /** Whether anything is left. */
    boolean hasMore() {
        return bytes.hasRemaining();
    }

    private void need(int count) {
        check(count <= bytes.remaining(), "%s is cut off: it ends inside a field; fetch it again", where);
    }
}
