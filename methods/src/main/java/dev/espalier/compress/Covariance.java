package dev.espalier.compress;

import dev.espalier.tensor.DType;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Tensor;
import java.util.List;
import org.jspecify.annotations.Nullable;

/** C = Σ xᵀ x of what a layer receives, and its square root on the directions that occur. */
final class Covariance {

    /** Eigenvalues below this share of the largest, times the width, are rounding noise. */
    private static final double NOISE = Math.scalb(1.0, -23);

    private final Tensor sum; // C [in, in] float32
    private @Nullable Root root;

    /**
     * P with P Pᵀ = C, and its pseudo-inverse; directions that do not occur are 0 in both.
     *
     * @param p P [in, in] float64
     * @param inverse P⁺ [in, in] float64
     * @param dropped how many directions do not occur
     */
    record Root(Tensor p, Tensor inverse, long dropped) {}

    /** Nothing received yet. */
    Covariance(long in) {
        this(Tensor.zeros(DType.FLOAT32, in, in).keep());
    }

    /** A covariance [in, in], whose scale does not matter. */
    Covariance(Tensor sum) {
        this.sum = sum;
    }

    /** Adds rows x [n, in] after what is there has been weighed anew. */
    void add(Tensor x, double decay) {
        if (decay != 1) {
            sum.mul_(decay);
        }
        sum.addmm_(x.t(), x, 1);
    }

    /** C [in, in] float32. */
    Tensor sum() {
        return sum;
    }

    /** Root mean square of what a map [out, in] makes of the inputs, up to the scale of C: √ trace(M C Mᵀ). */
    double norm(Tensor map) {
        try (Scope scope = Scope.open()) {
            Tensor wide = map.to(DType.FLOAT64);
            double trace = wide.matmul(sum.to(DType.FLOAT64)).mul(wide).sum().item();
            return Math.sqrt(Math.max(0, trace));
        }
    }

    /** Decomposed in float64 once, for layers that receive the same. */
    Root root() {
        Root known = root;
        if (known == null) {
            try (Scope scope = Scope.open()) {
                List<Tensor> eigen = sum.to(DType.FLOAT64).eigh();
                Tensor values = eigen.get(0); // [in]
                Tensor vectors = eigen.get(1); // [in, in], in columns
                double least = values.max().item() * values.numel() * NOISE;
                Tensor occurs = values.gt(Math.max(0, least));
                Tensor none = values.zerosLike();
                Tensor roots = Tensor.where(occurs, values, none).sqrt(); // [in]
                Tensor inverses = Tensor.where(occurs, roots.pow(-1), none);
                known = new Root(
                        vectors.mul(roots).keep(),
                        vectors.t().mul(inverses.unsqueeze(1)).keep(),
                        values.numel() - (long) occurs.sum().item());
                root = known;
            }
        }
        return known;
    }

    void close() {
        sum.close();
        if (root != null) {
            root.p().close();
            root.inverse().close();
        }
    }
}
