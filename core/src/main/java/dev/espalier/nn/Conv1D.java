package dev.espalier.nn;

import dev.espalier.tensor.DType;
import dev.espalier.tensor.Tensor;
import org.jspecify.annotations.Nullable;

/** GPT-2's linear layer, which stores its weight the other way round: y = x W + b, with W [in, out] and b [out]. */
public final class Conv1D extends Layer {

    private final Parameter weight; // [in, out]
    private final Parameter bias; // [out]

    /** A layer whose values a checkpoint brings. */
    public Conv1D(long in, long out, DType dtype) {
        this.weight = parameter("weight", dtype, in, out);
        this.bias = parameter("bias", dtype, out);
    }

    @Override
    public Tensor compute(Tensor x) {
        return x.linear(weight(), bias.tensor());
    }

    @Override
    public Parameter weightParameter() {
        return weight;
    }

    @Override
    public @Nullable Parameter biasParameter() {
        return bias;
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
