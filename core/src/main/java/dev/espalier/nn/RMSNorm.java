package dev.espalier.nn;

import dev.espalier.tensor.DType;
import dev.espalier.tensor.Tensor;

/** x / √(mean(x²) + eps) · weight over the last dimension; weight [width]. */
public final class RMSNorm extends Module {

    private final Parameter weight; // [width]
    private final double eps;

    /** A norm whose values a checkpoint brings. */
    public RMSNorm(long width, double eps, DType dtype) {
        this.weight = parameter("weight", dtype, width);
        this.eps = eps;
    }

    /** x [.., width], normalised. */
    public Tensor forward(Tensor x) {
        return x.rmsNorm(weight.tensor(), eps);
    }
}
