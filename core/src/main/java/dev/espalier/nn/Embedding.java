package dev.espalier.nn;

import dev.espalier.tensor.DType;
import dev.espalier.tensor.Tensor;
import org.jspecify.annotations.Nullable;

/** Rows of a table W [rows, width], chosen by int64 ids [..]; the result is [.., width]. */
public final class Embedding extends Layer {

    private final Parameter weight; // [rows, width]

    /** A table whose values a checkpoint brings. */
    public Embedding(long rows, long width, DType dtype) {
        this.weight = parameter("weight", dtype, rows, width);
    }

    @Override
    public Tensor compute(Tensor ids) {
        return Tensor.embedding(ids, weight.tensor());
    }

    @Override
    public Parameter weightParameter() {
        return weight;
    }

    @Override
    public @Nullable Parameter biasParameter() {
        return null;
    }

    @Override
    public Tensor weight() {
        return weight.tensor().t();
    }

    @Override
    public Tensor stored(Tensor map) {
        return map.t().contiguous();
    }

    @Override
    public long inFeatures() {
        return weight.shape()[0];
    }

    @Override
    public long outFeatures() {
        return weight.shape()[1];
    }
}
