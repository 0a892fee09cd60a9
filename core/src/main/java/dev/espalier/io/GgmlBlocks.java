package dev.espalier.io;

/**
 * The arithmetic of GGUF's quantised blocks, one method a type. Each method's comment gives the bytes of a block in order.
 *
 * <p>Nibbles of the 32-value types: the low halves are values 0 to 15, the high halves values 16 to 31.
 */
final class GgmlBlocks {

    private GgmlBlocks() {}

    /** {@code d[2] q[16]}: {@code d (q - 8)}. */
    static void q4_0(byte[] in, int at, float[] out, int to) {
        float d = half(in, at);
        for (int j = 0; j < 16; j++) {
            int q = in[at + 2 + j];
            out[to + j] = d * (low(q) - 8);
            out[to + 16 + j] = d * (high(q) - 8);
        }
    }

    /** {@code d[2] m[2] q[16]}: {@code d q + m}. */
    static void q4_1(byte[] in, int at, float[] out, int to) {
        float d = half(in, at);
        float m = half(in, at + 2);
        for (int j = 0; j < 16; j++) {
            int q = in[at + 4 + j];
            out[to + j] = d * low(q) + m;
            out[to + 16 + j] = d * high(q) + m;
        }
    }

    /** {@code d[2] high[4] q[16]}: bit i of {@code high} is the fifth bit of value i; {@code d (q - 16)}. */
    static void q5_0(byte[] in, int at, float[] out, int to) {
        float d = half(in, at);
        int high = int32(in, at + 2);
        for (int j = 0; j < 16; j++) {
            int q = in[at + 6 + j];
            out[to + j] = d * ((low(q) | fifth(high, j)) - 16);
            out[to + 16 + j] = d * ((high(q) | fifth(high, j + 16)) - 16);
        }
    }

    /** {@code d[2] m[2] high[4] q[16]}: {@code d q + m}. */
    static void q5_1(byte[] in, int at, float[] out, int to) {
        float d = half(in, at);
        float m = half(in, at + 2);
        int high = int32(in, at + 4);
        for (int j = 0; j < 16; j++) {
            int q = in[at + 8 + j];
            out[to + j] = d * (low(q) | fifth(high, j)) + m;
            out[to + 16 + j] = d * (high(q) | fifth(high, j + 16)) + m;
        }
    }

    /** {@code d[2] q[32]}: {@code d q}, q signed. */
    static void q8_0(byte[] in, int at, float[] out, int to) {
        float d = half(in, at);
        for (int j = 0; j < 32; j++) {
            out[to + j] = d * in[at + 2 + j];
        }
    }

    /**
     * {@code scales[16] q[64] d[2] m[2]}: 16 groups of 16 values; a scale byte holds 4 bits of scale, then 4 of minimum:
     * {@code (d scale) q - (m min)}. Bytes 0 to 31 of q hold values 0 to 127, two bits a value, 32 values apart.
     */
    static void q2_k(byte[] in, int at, float[] out, int to) {
        float d = half(in, at + 80);
        float m = half(in, at + 82);
        for (int group = 0; group < 16; group++) {
            int scale = in[at + group];
            float dl = d * low(scale);
            float ml = m * high(scale);
            int from = at + 16 + (group / 8) * 32 + (group % 2) * 16;
            int shift = group % 8 / 2 * 2;
            for (int l = 0; l < 16; l++) {
                out[to + group * 16 + l] = dl * two(in[from + l], shift) - ml;
            }
        }
    }

    /**
     * {@code high[32] q[64] scales[12] d[2]}: 16 groups of 16 values; {@code d (scale - 32) (q - (bit set ? 0 : 4))}, with bit
     * i of {@code high[l]} for the value 32 i + l, and 6-bit scales: low nibbles of group g in {@code scales[g % 8]}, top two
     * bits in {@code scales[8 + g % 4]}.
     */
    static void q3_k(byte[] in, int at, float[] out, int to) {
        float d = half(in, at + 108);
        int scales = at + 96;
        for (int group = 0; group < 16; group++) {
            int low = four(in[scales + group % 8], group / 8 * 4);
            int top = two(in[scales + 8 + group % 4], group / 4 * 2);
            float dl = d * ((low | (top << 4)) - 32);
            int from = at + 32 + (group / 8) * 32 + (group % 2) * 16;
            int shift = group % 8 / 2 * 2;
            int bit = group / 2;
            int high = at + (group % 2) * 16;
            for (int l = 0; l < 16; l++) {
                int q = two(in[from + l], shift) - (one(in[high + l], bit) == 0 ? 4 : 0);
                out[to + group * 16 + l] = dl * q;
            }
        }
    }

    /**
     * {@code d[2] m[2] scales[12] q[128]}: 8 groups of 32 values; {@code (d scale) q - (m min)}. Bytes 0 to 31 of q hold groups
     * 0 (low nibbles) and 1 (high nibbles), and so on.
     */
    static void q4_k(byte[] in, int at, float[] out, int to) {
        float d = half(in, at);
        float m = half(in, at + 2);
        for (int group = 0; group < 8; group++) {
            float dl = d * scale(in, at + 4, group);
            float ml = m * min(in, at + 4, group);
            int from = at + 16 + (group / 2) * 32;
            int shift = group % 2 * 4;
            for (int l = 0; l < 32; l++) {
                out[to + group * 32 + l] = dl * four(in[from + l], shift) - ml;
            }
        }
    }

    /**
     * {@code d[2] m[2] scales[12] high[32] q[128]}: as {@link #q4_k}, with bit {@code group} of {@code high[l]} as the fifth bit.
     */
    static void q5_k(byte[] in, int at, float[] out, int to) {
        float d = half(in, at);
        float m = half(in, at + 2);
        for (int group = 0; group < 8; group++) {
            float dl = d * scale(in, at + 4, group);
            float ml = m * min(in, at + 4, group);
            int from = at + 48 + (group / 2) * 32;
            int shift = group % 2 * 4;
            for (int l = 0; l < 32; l++) {
                int q = four(in[from + l], shift) | (one(in[at + 16 + l], group) << 4);
                out[to + group * 32 + l] = dl * q - ml;
            }
        }
    }

    /**
     * {@code low[128] high[64] scales[16] d[2]}: 16 groups of 16 values; {@code (d scale) (q - 32)}, scales signed. In each half
     * of 128 values: 64 bytes of low nibbles (values 0 to 63 low, 64 to 127 high), 32 bytes of top bits, two a value, 32 values
     * apart.
     */
    static void q6_k(byte[] in, int at, float[] out, int to) {
        float d = half(in, at + 208);
        for (int group = 0; group < 16; group++) {
            float dl = d * in[at + 192 + group];
            int half = group / 8;
            int inHalf = group % 8;
            int low = at + half * 64 + inHalf % 4 * 16;
            int lowShift = inHalf / 4 * 4;
            int high = at + 128 + half * 32 + inHalf % 2 * 16;
            int highShift = inHalf / 2 * 2;
            for (int l = 0; l < 16; l++) {
                int q = four(in[low + l], lowShift) | (two(in[high + l], highShift) << 4);
                out[to + group * 16 + l] = dl * (q - 32);
            }
        }
    }

    /** {@code d[4] q[256] sums[32]}: {@code d q}, d a float, q signed; the sums are for dot products only. */
    static void q8_k(byte[] in, int at, float[] out, int to) {
        float d = Float.intBitsToFloat(int32(in, at));
        for (int j = 0; j < 256; j++) {
            out[to + j] = d * in[at + 4 + j];
        }
    }

    /**
     * The 6-bit scale of group g in 12 packed bytes: groups 0 to 3 in the low six bits of bytes 0 to 3; groups 4 to 7 in the low
     * nibbles of bytes 8 to 11, with the top two bits of bytes 0 to 3 above.
     */
    private static int scale(byte[] in, int scales, int group) {
        return group < 4
                ? in[scales + group] & 63
                : low(in[scales + 4 + group]) | (two(in[scales + group - 4], 6) << 4);
    }

    /** As {@link #scale}, for minima: bytes 4 to 7, and the high nibbles of bytes 8 to 11. */
    private static int min(byte[] in, int scales, int group) {
        return group < 4
                ? in[scales + 4 + group] & 63
                : high(in[scales + 4 + group]) | (two(in[scales + group], 6) << 4);
    }

    private static int low(int b) {
        return b & 15;
    }

    private static int high(int b) {
        return (b >> 4) & 15;
    }

    private static int one(int b, int shift) {
        return (b >> shift) & 1;
    }

    private static int two(int b, int shift) {
        return (b >> shift) & 3;
    }

    private static int four(int b, int shift) {
        return (b >> shift) & 15;
    }

    /** Bit i, as the fifth of a value. */
    private static int fifth(int bits, int i) {
        return ((bits >>> i) & 1) << 4;
    }

    private static int int32(byte[] in, int at) {
        return (in[at] & 255) | ((in[at + 1] & 255) << 8) | ((in[at + 2] & 255) << 16) | (in[at + 3] << 24);
    }

    /** IEEE half precision, little-endian, to float, exactly. */
    static float half(byte[] in, int at) {
        int bits = (in[at] & 255) | ((in[at + 1] & 255) << 8);
        int sign = (bits & 0x8000) << 16;
        int exponent = (bits >> 10) & 31;
        int mantissa = bits & 1023;
        if (exponent == 0) { // zero and subnormals: mantissa * 2^-24
            return Float.intBitsToFloat(Float.floatToRawIntBits(mantissa * 0x1p-24f) | sign);
        }
        int wide = exponent == 31 ? 255 : exponent + 112; // bias 15 to bias 127
        return Float.intBitsToFloat(sign | (wide << 23) | (mantissa << 13));
    }
}
