package dev.espalier.adapter;

import dev.espalier.tensor.DType;
import dev.espalier.tensor.Tensor;

/** Block-diagonal rotations, which {@link Oft} and {@link Boft} put before a layer. */
final class Rotations {

    private Rotations() {}

    /**
     * x blockdiag(R_1 .. R_k), without forming that matrix; by the weight [out, in] and the transposed blocks it is W Rᵀ.
     *
     * @param x [.., k b]
     * @param blocks R [k, b, b], or [1, b, b] for k times the same
     */
    static Tensor apply(Tensor x, Tensor blocks) {
        long b = blocks.size(2);
        long k = x.size(-1) / b;
        Tensor r = blocks.size(0) == k ? blocks : blocks.expand(k, b, b);
        Tensor wide = x.to(r.dtype()).reshape(-1, k, b).transpose(0, 1); // [k, N, b]
        return wide.matmul(r).transpose(0, 1).reshape(x.shape()).to(x.dtype());
    }

    /** Cayley's transform (I - Q) (I + Q)⁻¹ [.., b, b] of skew-symmetric Q: orthogonal, and I at Q = 0. */
    static Tensor cayley(Tensor q) {
        Tensor i = identity(q);
        return i.add(q).solve(i.sub(q)); // the two factors commute
    }

    /** I [b, b] of the type and on the device of Q. */
    static Tensor identity(Tensor q) {
        return Tensor.eye(q.size(-1), q.dtype()).to(q.device());
    }

    /** Blocks of which each is the identity with probability p. */
    static Tensor thinned(Tensor blocks, double p) {
        long[] ones = blocks.shape();
        ones[ones.length - 1] = 1;
        ones[ones.length - 2] = 1;
        Tensor kept = Tensor.ones(DType.FLOAT32, ones)
                .to(blocks.device())
                .dropout(p, true)
                .mul(1 - p)
                .to(blocks.dtype());
        Tensor i = identity(blocks);
        return blocks.sub(i).mul(kept).add(i);
    }

    /** The divisor of a width that is nearest to a number, the smaller one of two that are. */
    static long nearestDivisor(long number, long width) {
        if (number >= width) {
            return width;
        }
        long low = number;
        while (low > 1 && width % low != 0) {
            low--;
        }
        long high = number;
        while (width % high != 0) {
            high++;
        }
        return number - low <= high - number ? low : high;
    }
}
