package dev.espalier.io;

import static dev.espalier.Check.check;

import dev.espalier.tensor.DType;
import dev.espalier.tensor.Tensor;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.List;

/**
 * Plain element types as files store them, little-endian, and how each is read: as it is, or widened to the next type
 * PyTorch computes with.
 */
enum Stored {
    F64(8, DType.FLOAT64),
    F32(4, DType.FLOAT32),
    F16(2, DType.FLOAT16),
    BF16(2, DType.BFLOAT16),
    I64(8, DType.INT64),
    I32(4, DType.INT32),
    I16(2, DType.INT16),
    I8(1, DType.INT32),
    U32(4, DType.INT64),
    U16(2, DType.INT32),
    U8(1, DType.UINT8),
    BOOL(1, DType.BOOL);

    /** Elements moved at a time: enough to hide the cost of a call, few enough for the cache. */
    private static final int SLICE = 1 << 17;

    private static final int MAX_DIMS = 64; // libtorch's own limit

    private final int bytes;
    private final DType dtype;

    Stored(int bytes, DType dtype) {
        this.bytes = bytes;
        this.dtype = dtype;
    }

    /** Bytes per element in the file. */
    int bytes() {
        return bytes;
    }

    /** The type it is read as. */
    DType dtype() {
        return dtype;
    }

    /** The type a tensor of ours is stored as. */
    static Stored of(DType dtype) {
        return switch (dtype) {
            case FLOAT64 -> F64;
            case FLOAT32 -> F32;
            case FLOAT16 -> F16;
            case BFLOAT16 -> BF16;
            case INT64 -> I64;
            case INT32 -> I32;
            case INT16 -> I16;
            case UINT8 -> U8;
            case BOOL -> BOOL;
        };
    }

    /** Whether bytes in the file are bytes in memory. A boolean in a file may be any byte; in memory it must be 0 or 1. */
    boolean asItIs() {
        return bytes == dtype.bytes() && this != BOOL;
    }

    /**
     * Bytes of a shape, refused where it overflows or has an impossible dimension.
     *
     * @param what names the tensor, for the message
     */
    static long bytes(String what, List<Long> shape, long elementBytes) {
        check(shape.size() <= MAX_DIMS, "%s has %d dimensions, more than %d", what, shape.size(), MAX_DIMS);
        long total = elementBytes;
        for (long size : shape) {
            check(size >= 0, "%s has a negative dimension in its shape %s", what, shape);
            check(
                    size == 0 || total <= Long.MAX_VALUE / size,
                    "%s has the shape %s, more than any file can hold",
                    what,
                    shape);
            total *= size;
        }
        return total;
    }

    /**
     * A new tensor of this stored type.
     *
     * @param from its bytes, starting at {@code position}; known to be there
     */
    Tensor load(ByteReader from, long position, long[] shape) {
        Tensor tensor = Tensor.empty(dtype, shape);
        try {
            long count = tensor.numel();
            int step = (int) Math.min(SLICE, count);
            ByteBuffer slice = ByteBuffer.allocate(step * bytes).order(ByteOrder.LITTLE_ENDIAN);
            boolean asItIs = asItIs();
            ByteBuffer wide =
                    asItIs ? slice : ByteBuffer.allocate(step * dtype.bytes()).order(ByteOrder.LITTLE_ENDIAN);
            for (long done = 0; done < count; done += step) {
                int elements = (int) Math.min(step, count - done);
                slice.clear().limit(elements * bytes);
                from.read(position + done * bytes, slice);
                slice.flip();
                if (!asItIs) {
                    wide.clear();
                    convert(slice, wide, elements);
                    wide.flip();
                }
                tensor.write(done * dtype.bytes(), wide);
            }
            return tensor;
        } catch (RuntimeException e) {
            tensor.close();
            throw e;
        }
    }

    private void convert(ByteBuffer from, ByteBuffer to, int elements) {
        for (int i = 0; i < elements; i++) {
            switch (this) {
                case I8 -> to.putInt(from.get());
                case U32 -> to.putLong(Integer.toUnsignedLong(from.getInt()));
                case U16 -> to.putInt(Short.toUnsignedInt(from.getShort()));
                case BOOL -> to.put((byte) (from.get() == 0 ? 0 : 1));
                default -> throw new IllegalStateException(this + " is read as it is");
            }
        }
    }
}
