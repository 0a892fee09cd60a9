package dev.espalier.nn;

import dev.espalier.tensor.DType;
import dev.espalier.tensor.Tensor;

/** (x - mean) / √(variance + eps) · weight + bias over the last dimension; weight, bias [width]. */
public final class LayerNorm extends Module {

    private final Parameter weight; // [width]
    private final Parameter bias; // [width]
    private final double eps;

    /** A norm whose values a checkpoint brings. */
    public LayerNorm(long width, double eps, DType dtype) {
        this.weight = parameter("weight", dtype, width);
        this.bias = parameter("bias", dtype, width);
        this.eps = eps;
    }

    /** x [.., width], normalised. */
    public Tensor forward(Tensor x) {
        return x.layerNorm(weight.tensor(), bias.tensor(), eps);
    }
}
