package dev.espalier.compress;

import dev.espalier.tensor.DType;
import dev.espalier.tensor.Tensor;
import java.nio.ByteBuffer;

/** Small numbers without gaps between them: number i of b bits takes bits i b to i b + b - 1, lowest bit of a byte first. */
final class Bits {

    private Bits() {}

    /**
     * Packs numbers.
     *
     * @param codes uint8 [n], each below 2^bits
     * @param bits 1 to 8
     * @return uint8 [⌈n bits / 8⌉], the last byte filled up with zeros
     */
    static Tensor pack(Tensor codes, int bits) {
        byte[] from = bytes(codes);
        byte[] to = new byte[Math.toIntExact(((long) from.length * bits + 7) / 8)];
        int held = 0; // bits that wait in the low end of waiting
        int waiting = 0;
        int at = 0;
        for (byte code : from) {
            waiting |= Byte.toUnsignedInt(code) << held;
            held += bits;
            while (held >= 8) {
                to[at++] = (byte) waiting;
                waiting >>>= 8;
                held -= 8;
            }
        }
        if (held > 0) {
            to[at] = (byte) waiting;
        }
        return Tensor.of(ByteBuffer.wrap(to), DType.UINT8, to.length);
    }

    /** The n numbers of some bits that were packed: uint8 [n]. */
    static Tensor unpack(Tensor packed, int bits, long n) {
        byte[] from = bytes(packed);
        byte[] to = new byte[Math.toIntExact(n)];
        int held = 0;
        int waiting = 0;
        int at = 0;
        int mask = (1 << bits) - 1;
        for (int i = 0; i < to.length; i++) {
            while (held < bits) {
                waiting |= Byte.toUnsignedInt(from[at++]) << held;
                held += 8;
            }
            to[i] = (byte) (waiting & mask);
            waiting >>>= bits;
            held -= bits;
        }
        return Tensor.of(ByteBuffer.wrap(to), DType.UINT8, to.length);
    }

    private static byte[] bytes(Tensor t) {
        byte[] bytes = new byte[Math.toIntExact(t.numel())];
        t.read(0, ByteBuffer.wrap(bytes));
        return bytes;
    }
}
