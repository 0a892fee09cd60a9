package dev.espalier.compress;

import static dev.espalier.Check.check;

import dev.espalier.tensor.DType;
import dev.espalier.tensor.Generator;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import java.util.List;
import org.jspecify.annotations.Nullable;

/**
 * A weight as codes plus a product of low rank: the loop of LQ-LoRA.
 *
 * @param quantized Q as codes
 * @param values Q [out, in] float32
 * @param l1 L1 [out, r]
 * @param l2 L2 [r, in]
 * @param error e = ‖W - L1 L2 - Q‖, or ‖√F ∘ (W - L1 L2 - Q)‖ (Frobenius)
 */
public record Decomposition(NormalFloat.Quantized quantized, Tensor values, Tensor l1, Tensor l2, double error) {

    /** How singular vectors are found. */
    public enum Svd {
        /** All, by LAPACK. */
        EXACT,
        /** The leading ones, by r + 10 probes and two power iterations. */
        RANDOMISED
    }

    /** Which iterate is returned; the last one may be slightly worse than the one before it. */
    public enum Keep {
        /** The one of least error. */
        BEST,
        /** As the authors' code. */
        LAST
    }

    /** What weighs a row or column of F: the root of its mean, as the authors' code, or the mean of its roots, as the paper. */
    public enum Root {
        /** As the code. */
        OF_MEAN,
        /** As the paper. */
        MEAN_OF
    }

    /**
     * How the loop runs.
     *
     * @param r rank; 0 for plain quantisation
     * @param iterations T, at most
     */
    public record Loop(int r, int iterations, Svd svd, Keep keep, Root root) {

        /** Checks ranges. */
        public Loop {
            check(r >= 0, "r must be at least 0 (0: codes alone), found %d; try 64", r);
            check(iterations >= 1, "iterations must be at least 1, found %d; try 100", iterations);
        }
    }

    private static final int OVERSAMPLING = 10;
    private static final int POWER_ITERATIONS = 2;
    private static final double FLOOR = 1e-6; // of the largest weight: a row that F forgets must not be divided by 0

    /**
     * Fits Q and L1 L2 to each other's residual in turn, until the error no longer falls.
     *
     * @param w W [out, in] float32
     * @param f F [out, in], or null to weigh all alike
     * @param path the layer's, for messages
     * @param seed of the randomised method
     */
    static Decomposition of(Tensor w, NormalFloat format, Loop loop, @Nullable Tensor f, String path, Seed seed) {
        Decomposition kept = null;
        Tensor q = null;
        double former = Double.POSITIVE_INFINITY;
        int most = loop.r == 0 ? 1 : loop.iterations;
        for (int i = 0; i < most; i++) {
            try (Scope scope = Scope.open();
                    Generator generator = seed.at(i).generator()) {
                List<Tensor> pair = factors(q == null ? w : w.sub(q), loop, f, generator);
                Tensor rest = w.sub(pair.get(0).matmul(pair.get(1)));
                NormalFloat.Quantized quantized = format.quantize(rest, path);
                Tensor values = quantized.values();
                double error = norm(rest.sub(values), f);
                Tensor spent = q;
                q = scope.promote(values);
                if (kept == null || error < kept.error || loop.keep == Keep.LAST) {
                    kept = new Decomposition(quantized, values, pair.get(0), pair.get(1), error);
                    kept.promote(scope);
                }
                if (spent != null && kept != null && spent != kept.values) {
                    spent.close();
                }
                if (error >= former) { // equal: nothing moves any more
                    break;
                }
                former = error;
            }
        }
        return java.util.Objects.requireNonNull(kept);
    }

    private void promote(Scope scope) {
        List.of(quantized.codes(), quantized.z(), quantized.u(), quantized.offset(), l1, l2)
                .forEach(scope::promote);
    }

    /** ‖x‖, or ‖√F ∘ x‖. */
    static double norm(Tensor x, @Nullable Tensor f) {
        return (f == null ? x : x.mul(f.sqrt())).norm().item();
    }

    /** L1 [out, r], L2 [r, in] of a residual. */
    private static List<Tensor> factors(Tensor residual, Loop loop, @Nullable Tensor f, Generator generator) {
        if (loop.r == 0) {
            return List.of(
                    Tensor.zeros(DType.FLOAT32, residual.size(0), 0), Tensor.zeros(DType.FLOAT32, 0, residual.size(1)));
        }
        if (f == null) {
            return balanced(residual, loop, generator);
        }
        Tensor rows = weights(f, 1, loop.root); // [out, 1]
        Tensor columns = weights(f, 0, loop.root); // [1, in]
        List<Tensor> pair = balanced(residual.mul(rows).mul(columns), loop, generator);
        return List.of(pair.get(0).div(rows), pair.get(1).div(columns));
    }

    private static Tensor weights(Tensor f, int dim, Root root) {
        Tensor d = root == Root.OF_MEAN ? f.mean(dim, true).sqrt() : f.sqrt().mean(dim, true);
        double largest = d.max().item();
        return largest == 0 ? Tensor.ones(f.dtype(), d.shape()) : d.clamp(FLOOR * largest, largest);
    }

    /** U √S, √S Vᵀ of the r leading singular values. */
    private static List<Tensor> balanced(Tensor matrix, Loop loop, Generator generator) {
        long width = Math.min(matrix.size(0), matrix.size(1));
        List<Tensor> svd = loop.svd == Svd.EXACT
                ? matrix.svd()
                : matrix.svdLowrank(Math.min(loop.r + OVERSAMPLING, width), POWER_ITERATIONS, generator);
        Tensor root = svd.get(1).narrow(0, 0, loop.r).sqrt(); // [r]
        return List.of(
                svd.get(0).narrow(1, 0, loop.r).mul(root),
                svd.get(2).narrow(0, 0, loop.r).mul(root.unsqueeze(1)));
    }
}
