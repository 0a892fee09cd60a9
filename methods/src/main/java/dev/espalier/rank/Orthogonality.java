package dev.espalier.rank;

import static dev.espalier.Check.check;

import dev.espalier.tensor.Tensor;
import dev.espalier.train.LossTerm;
import java.util.Collection;
import java.util.List;
import java.util.function.Function;

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

    /**
     * The penalty as a term of the loss; none where it has no weight.
     *
     * @param rows of a layer, as it is at a step: A and Bᵀ
     */
    public static <L> List<LossTerm> terms(double weight, Collection<L> layers, Function<L, List<Tensor>> rows) {
        LossTerm apart = (step, outcome) -> penalty(
                        layers.stream().map(rows).flatMap(List::stream).toList())
                .mul(weight);
        return weight == 0 ? List.of() : List.of(apart);
    }

    /** Checks the penalty's weight in a configuration. */
    public static void checkWeight(double weight, double usual) {
        check(
                weight >= 0 && Double.isFinite(weight),
                "orth_reg_weight must be at least 0 and finite, found %s; try %s",
                weight,
                usual);
    }
}
