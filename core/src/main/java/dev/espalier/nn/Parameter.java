package dev.espalier.nn;

import dev.espalier.Check;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Tensor;
import java.util.Arrays;

/**
 * A named place for one tensor of a module. Two modules that share weights hold the same parameter.
 *
 * <p>The parameter owns its tensor: it is kept out of scopes, and closed when replaced or when the module closes.
 */
public final class Parameter {

    private final long[] shape;
    private Tensor tensor;

    /** A place of a given shape, holding memory as it is found until something is put there. */
    Parameter(DType dtype, long... shape) {
        this.shape = shape.clone();
        this.tensor = Tensor.empty(dtype, shape).keep();
    }

    /** A place that holds a tensor, which it takes over and keeps. */
    public Parameter(Tensor tensor) {
        this.shape = tensor.shape();
        this.tensor = tensor.keep();
    }

    /** What it holds now. */
    public Tensor tensor() {
        return tensor;
    }

    /** The shape of whatever it holds. */
    public long[] shape() {
        return shape.clone();
    }

    /**
     * Puts another tensor in place, which the parameter takes over, and frees the former one.
     *
     * @throws dev.espalier.EspalierException if the shape differs
     */
    public void set(Tensor replacement) {
        checkShape(replacement);
        if (replacement != tensor) {
            boolean trains = tensor.requiresGrad();
            replacement.keep();
            tensor.close();
            tensor = replacement;
            if (trains && !replacement.requiresGrad()) {
                replacement.requiresGrad_(true);
            }
        }
    }

    /**
     * Puts another tensor in place, which the parameter takes over, and hands back the former one, which the caller now
     * owns. Whether gradients are recorded stays with each tensor.
     *
     * @throws dev.espalier.EspalierException if the shape differs
     */
    public Tensor exchange(Tensor replacement) {
        Tensor former = tensor;
        checkShape(replacement);
        tensor = replacement.keep();
        return former;
    }

    /** Whether training moves it. */
    public boolean isTrainable() {
        return tensor.requiresGrad();
    }

    /** Lets training move it, or not. */
    public void trainable(boolean trainable) {
        tensor.requiresGrad_(trainable);
        if (!trainable) {
            tensor.clearGrad();
        }
    }

    private void checkShape(Tensor replacement) {
        Check.check(
                Arrays.equals(replacement.shape(), shape),
                "a tensor of shape %s cannot take the place of one of shape %s",
                Arrays.toString(replacement.shape()),
                Arrays.toString(shape));
    }
}
