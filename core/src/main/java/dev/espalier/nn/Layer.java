package dev.espalier.nn;

import dev.espalier.tensor.DType;
import dev.espalier.tensor.Tensor;
import dev.espalier.tensor.TensorException;
import org.jspecify.annotations.Nullable;

/**
 * A layer with one weight, whose computation something else may stand in for: the hook on which adapters hang.
 *
 * <p>Everyone calls {@link #forward}; what stands in calls {@link #compute} for what the layer itself would have done.
 * Names in the tree do not change when something stands in.
 */
public abstract sealed class Layer extends Module permits Linear, Conv1D, Embedding {

    /** What may stand in for a layer. */
    @FunctionalInterface
    public interface Substitute {
        /**
         * The layer's output for x.
         *
         * @param x as the layer's own input
         * @param layer the layer stood in for
         */
        Tensor forward(Tensor x, Layer layer);
    }

    private @Nullable Substitute substitute;

    Layer() {}

    /** The output for x, by whatever stands in or else by the layer itself. */
    public final Tensor forward(Tensor x) {
        try {
            return substitute == null ? compute(x) : substitute.forward(x, this);
        } catch (TensorException e) {
            throw e.in(path());
        }
    }

    /** The output of the layer itself. */
    public abstract Tensor compute(Tensor x);

    /** Where the weight is held, in the layer's own orientation. */
    public abstract Parameter weightParameter();

    /** Where the bias is held, or null if the layer has none. */
    public abstract @Nullable Parameter biasParameter();

    /** The weight seen as a linear map [out, in]; an embedding's table is [in = rows, out] transposed. */
    public abstract Tensor weight();

    /** A linear map [out, in] as this layer stores it: itself, or a transposed copy. */
    public abstract Tensor stored(Tensor weight);

    /** Replaces the weight by a linear map [out, in], stored in the layer's own orientation. */
    public final void setWeight(Tensor weight) {
        weightParameter().set(stored(weight));
    }

    /** Width of the input; for an embedding, number of rows. */
    public abstract long inFeatures();

    /** Width of the output. */
    public abstract long outFeatures();

    /** Lets something stand in, or with null nothing. */
    public final void substitute(@Nullable Substitute other) {
        substitute = other;
    }

    /** What stands in, or null. */
    public final @Nullable Substitute substitute() {
        return substitute;
    }

    /** Element type of the weight. */
    public final DType dtype() {
        return weightParameter().tensor().dtype();
    }
}
