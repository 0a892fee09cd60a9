package dev.espalier.tensor;

import dev.espalier.EspalierException;
import java.util.Arrays;
import java.util.stream.Collectors;
import java.util.stream.Stream;

/** A tensor operation that libtorch refused, in one sentence: the operation, its operands' shapes, the reason. */
public final class TensorException extends EspalierException {

    private static final long serialVersionUID = 1L;

    private TensorException(String sentence, Throwable cause) {
        super(sentence, cause);
    }

    static TensorException of(String operation, RuntimeException cause, Tensor... operands) {
        String shapes = Stream.of(operands)
                .map(t -> t.dtype() + Arrays.toString(t.shape()))
                .collect(Collectors.joining(", "));
        return new TensorException(operation + "(" + shapes + "): " + firstLine(cause), cause);
    }

    /** The same, with the place where it happened in front. */
    public TensorException in(String layer) {
        return new TensorException("in " + layer + ": " + getMessage(), this);
    }

    private static String firstLine(RuntimeException cause) {
        String message = String.valueOf(cause.getMessage());
        int end = message.indexOf('\n');
        return end < 0 ? message : message.substring(0, end);
    }
}
