package dev.espalier.tensor;

import org.jspecify.annotations.Nullable;

/**
 * A random basis that several users combine again and again: held where that is small, made anew in each use where it is not.
 *
 * <p>Making an entry takes about as long as reading ten; but a large basis goes with wide layers, whose own products cost more than
 * making it. Held or not depends on the size alone, so that the same basis always gives the same bits.
 */
public final class SharedBasis implements AutoCloseable {

    /** Entries up to which a basis is held: 64 MiB in float32. */
    static final long HELD = 1L << 24;

    private final RandomBasis basis;
    private @Nullable Tensor held; // [k, rows columns], of the type and device of its first use

    /** Nothing is made before the first use. */
    public SharedBasis(RandomBasis basis) {
        this.basis = basis;
    }

    /** {@link RandomBasis#combine}, summed in the coefficients' type if the basis is held. */
    public Tensor combine(Tensor coefficients) {
        return basis.entries() > HELD
                ? basis.combine(coefficients)
                : coefficients.unsqueeze(0).matmul(held(coefficients)).view(basis.rows(), basis.columns());
    }

    /** {@link RandomBasis#products}, likewise. */
    public Tensor products(Tensor gradient) {
        return basis.entries() > HELD
                ? basis.products(gradient)
                : held(gradient).matmul(gradient.reshape(-1, 1)).view(basis.k());
    }

    private Tensor held(Tensor like) {
        Tensor all = held;
        if (all == null) {
            try (Scope scope = Scope.open()) {
                all = basis.matrices().to(like.dtype()).to(like.device()).keep();
                held = all;
            }
        }
        return all;
    }

    /** Frees what it holds, once or more often. */
    @Override
    public void close() {
        if (held != null) {
            held.close();
            held = null;
        }
    }
}
