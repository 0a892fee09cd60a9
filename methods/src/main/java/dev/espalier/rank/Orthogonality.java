package dev.espalier.rank;

import dev.espalier.tensor.Tensor;
import java.util.List;

/** The penalty that keeps the components of low-rank factors apart. */
public final class Orthogonality {

    private Orthogonality() {}

    /**
     * The mean over matrices of ‖M Mᵀ - I‖, Frobenius and not squared.
     *
     * @param rows each M [r, n] with a component in each row: A, or Bᵀ
     * @return a scalar that carries gradients; 1e-12 under the root keeps them finite at exact orthonormality
     */
    public static Tensor penalty(List<Tensor> rows) {
        List<Tensor> norms = rows.stream()
                .map(m -> m.matmul(m.t())
                        .sub(Tensor.eye(m.size(0), m.dtype()).to(m.device()))
                        .square()
                        .sum()
                        .add(1e-12)
                        .sqrt())
                .toList();
        return Tensor.stack(norms, 0).mean();
    }
}
