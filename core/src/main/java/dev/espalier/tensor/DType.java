package dev.espalier.tensor;

/** Element types, named as in PyTorch. */
public enum DType {
    FLOAT32(4, true),
    FLOAT64(8, true),
    BFLOAT16(2, true),
    FLOAT16(2, true),
    INT64(8, false),
    INT32(4, false),
    INT16(2, false),
    UINT8(1, false),
    BOOL(1, false);

    private final int bytes;
    private final boolean floatingPoint;

    DType(int bytes, boolean floatingPoint) {
        this.bytes = bytes;
        this.floatingPoint = floatingPoint;
    }

    /** Bytes per element. */
    public int bytes() {
        return bytes;
    }

    /** Whether values have a fraction, and so may carry gradients. */
    public boolean isFloatingPoint() {
        return floatingPoint;
    }
}
