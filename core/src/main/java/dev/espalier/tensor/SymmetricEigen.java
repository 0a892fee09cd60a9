package dev.espalier.tensor;

/**
 * A symmetric matrix by its eigenvectors, S = V diag(λ) Vᵀ, and what is easily said of it then.
 *
 * @param values λ [n], ascending
 * @param vectors V [n, n], orthonormal columns
 */
public record SymmetricEigen(Tensor values, Tensor vectors) {

    /** Decomposes a symmetric matrix [n, n]; only its lower triangle is read. */
    public static SymmetricEigen of(Tensor symmetric) {
        var pair = symmetric.eigh();
        return new SymmetricEigen(pair.get(0), pair.get(1));
    }

    /**
     * Moore and Penrose's inverse of S + δ I: eigenvalues within n ε of zero, measured by the largest, count as zero.
     *
     * @param delta δ, added to the diagonal
     */
    public Tensor inverse(double delta) {
        Tensor shifted = values.add(delta);
        double epsilon = values.dtype() == DType.FLOAT64 ? 0x1p-52 : 0x1p-23;
        Tensor small = shifted.abs().le(shifted.abs().max().mul(epsilon * (double) values.size(0)));
        Tensor reciprocals = shifted.maskedFill(small, 1).pow(-1).maskedFill(small, 0);
        return vectors.mul(reciprocals).matmul(vectors.t());
    }

    /**
     * Sylvester's equation S X + X T = C with symmetric S and T: (Uᵀ X V)ᵢⱼ = (Uᵀ C V)ᵢⱼ / (λᵢ + μⱼ). It has one solution if no
     * λᵢ is the negative of a μⱼ.
     *
     * @param t T [m, m]
     * @param c C [n, m]
     * @return X [n, m]
     */
    public Tensor sylvester(SymmetricEigen t, Tensor c) {
        Tensor sums = values.unsqueeze(1).add(t.values); // [n, m]
        return vectors.matmul(vectors.t().matmul(c).matmul(t.vectors).div(sums)).matmul(t.vectors.t());
    }
}
