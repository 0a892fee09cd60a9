package dev.espalier.io;

import com.google.errorprone.annotations.Immutable;
import org.jspecify.annotations.Nullable;

/**
 * Element types of GGUF files: plain ones, and blocks of quantised values that dequantise to float32.
 *
 * <p>Layouts and arithmetic are those of the format's definition (ggml's {@code block_q*} structures). All sums and products
 * are rounded to float32 one by one, in the reference's order, so results are the reference's to the bit. In the tables,
 * {@code d} and {@code m} are half-precision numbers, {@code q} the unsigned value of a few bits.
 */
enum GgmlType {
    F32(0, Stored.F32),
    F16(1, Stored.F16),
    Q4_0(2, 32, 18, GgmlBlocks::q4_0),
    Q4_1(3, 32, 20, GgmlBlocks::q4_1),
    Q5_0(6, 32, 22, GgmlBlocks::q5_0),
    Q5_1(7, 32, 24, GgmlBlocks::q5_1),
    Q8_0(8, 32, 34, GgmlBlocks::q8_0),
    Q2_K(10, 256, 84, GgmlBlocks::q2_k),
    Q3_K(11, 256, 110, GgmlBlocks::q3_k),
    Q4_K(12, 256, 144, GgmlBlocks::q4_k),
    Q5_K(13, 256, 176, GgmlBlocks::q5_k),
    Q6_K(14, 256, 210, GgmlBlocks::q6_k),
    Q8_K(15, 256, 292, GgmlBlocks::q8_k),
    I8(24, Stored.I8),
    I16(25, Stored.I16),
    I32(26, Stored.I32),
    I64(27, Stored.I64),
    F64(28, Stored.F64),
    BF16(30, Stored.BF16);

    /** Turns one block into its values. */
    @Immutable
    @FunctionalInterface
    interface Block {
        /** Reads the block that starts at {@code in[at]}, writes its values from {@code out[to]} on. */
        void dequantize(byte[] in, int at, float[] out, int to);
    }

    private final int id;
    private final int blockSize;
    private final int blockBytes;
    private final @Nullable Stored plain;
    private final @Nullable Block block;

    GgmlType(int id, Stored plain) {
        this.id = id;
        this.blockSize = 1;
        this.blockBytes = plain.bytes();
        this.plain = plain;
        this.block = null;
    }

    GgmlType(int id, int blockSize, int blockBytes, Block block) {
        this.id = id;
        this.blockSize = blockSize;
        this.blockBytes = blockBytes;
        this.plain = null;
        this.block = block;
    }

    /** The type with this number in the file, or null. */
    static @Nullable GgmlType of(long id) {
        for (GgmlType type : values()) {
            if (type.id == id) {
                return type;
            }
        }
        return null;
    }

    /** Values per block; a row is a whole number of blocks. */
    int blockSize() {
        return blockSize;
    }

    /** Bytes per block. */
    int blockBytes() {
        return blockBytes;
    }

    /** How it is stored if not in blocks. */
    @Nullable
    Stored plain() {
        return plain;
    }

    /** How its blocks are read if stored in blocks. */
    @Nullable
    Block block() {
        return block;
    }
}
