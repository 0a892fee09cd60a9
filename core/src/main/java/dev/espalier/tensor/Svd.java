package dev.espalier.tensor;

import java.util.List;

/** How singular vectors are found. */
public enum Svd {
    /** All of them, by LAPACK: up to a width of a thousand or so a matter of a second. */
    EXACT,
    /** The leading ones, by random probes and power iterations. */
    RANDOMISED;

    /**
     * Singular vectors of a matrix, float32 at least. Of each pair's two common signs the one that makes the largest entry of
     * u positive is taken, so that the choice does not hang on the LAPACK at hand.
     *
     * @param probes of the randomised method, at most min(m, n)
     * @param iterations of the randomised method
     * @return U [m, k], S [k] falling, Vh [k, n], with k = probes or, of the exact method, min(m, n)
     */
    public List<Tensor> of(Tensor matrix, long probes, int iterations, Seed seed) {
        Tensor wide = matrix.dtype() == DType.FLOAT64 ? matrix : matrix.to(DType.FLOAT32);
        try (Generator generator = seed.generator()) {
            List<Tensor> svd = this == EXACT ? wide.svd() : wide.svdLowrank(probes, iterations, generator);
            Tensor u = svd.get(0);
            Tensor largest = u.gather(0, u.abs().argmax(0).unsqueeze(0)); // [1, k]
            Tensor sign = largest.ge(0).to(wide.dtype()).mul(2).sub(1); // ±1
            return List.of(u.mul(sign), svd.get(1), svd.get(2).mul(sign.t()));
        }
    }
}
