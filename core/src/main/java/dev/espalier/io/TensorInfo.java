package dev.espalier.io;

import dev.espalier.tensor.DType;
import java.util.List;

/**
 * What a file says about one of its tensors.
 *
 * @param name key in the file
 * @param dtype element type it is read as
 * @param storedType element type in the file, in the format's own words: {@code BF16}, {@code Q4_K}, ...
 * @param shape sizes in PyTorch's order, slowest dimension first
 * @param bytes size in the file
 */
public record TensorInfo(String name, DType dtype, String storedType, List<Long> shape, long bytes) {

    /** Copies the shape. */
    public TensorInfo {
        shape = List.copyOf(shape);
    }

    /** The shape as an array. */
    public long[] dims() {
        return shape.stream().mapToLong(Long::longValue).toArray();
    }

    /** Number of elements. */
    public long numel() {
        return shape.stream().mapToLong(Long::longValue).reduce(1, (a, b) -> a * b);
    }
}
