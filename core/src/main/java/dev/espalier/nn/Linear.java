package dev.espalier.nn;

import dev.espalier.tensor.DType;
import dev.espalier.tensor.Generator;
import dev.espalier.tensor.Tensor;
import org.jspecify.annotations.Nullable;

/** y = x Wᵀ + b, with W [out, in] and b [out]. */
public final class Linear extends Layer {

    private final Parameter weight; // [out, in]
    private final @Nullable Parameter bias; // [out]

    /** A layer whose values a checkpoint or {@link #reset} brings. */
    public Linear(long in, long out, boolean bias, DType dtype) {
        this.weight = parameter("weight", dtype, out, in);
        this.bias = bias ? parameter("bias", dtype, out) : null;
    }

    /** A layer without bias whose weight [out, in] another module holds too. */
    public Linear(Parameter tied) {
        this.weight = parameter("weight", tied);
        this.bias = null;
    }

    /** Draws the weight from N(0, std²) and zeroes the bias, as Hugging Face does for new heads. */
    public void reset(Generator generator, double std) {
        Tensor w = weight.tensor();
        w.detach().copy_(generator.normal(0, std, weight.shape()));
        if (bias != null) {
            bias.tensor().detach().zero_();
        }
    }

    @Override
    public Tensor compute(Tensor x) {
        return x.linear(weight.tensor(), bias == null ? null : bias.tensor());
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
        return weight.tensor();
    }

    @Override
    public void setWeight(Tensor replacement) {
        weight.set(replacement);
    }

    @Override
    public long inFeatures() {
        return weight.shape()[1];
    }

    @Override
    public long outFeatures() {
        return weight.shape()[0];
    }
}
