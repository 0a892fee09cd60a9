package dev.espalier.optim;

import dev.espalier.tensor.DType;
import dev.espalier.tensor.SymmetricEigen;
import dev.espalier.tensor.Tensor;
import org.jspecify.annotations.Nullable;

/** A pair of factors at one point, and what full fine-tuning's gradient means for them. */
final class Adjustment {

    /** Gradients, or steps, of the two factors, float64. */
    record Gradients(Tensor a, Tensor b) {}

    private final Tensor a; // [r, in]
    private final Tensor b; // [out, r]
    private final double s;
    private final SymmetricEigen ofBtB; // [r, r]
    private final SymmetricEigen ofAAt; // [r, r]
    private final Tensor inverseA; // (A Aᵀ + δ)⁻¹
    private final @Nullable Tensor inverseB; // (BᵀB + δ)⁻¹, null while B is zero

    private Adjustment(Tensor a, Tensor b, double s, double delta) {
        this.a = a;
        this.b = b;
        this.s = s;
        ofAAt = SymmetricEigen.of(a.matmul(a.t()));
        ofBtB = SymmetricEigen.of(b.t().matmul(b));
        inverseA = ofAAt.inverse(delta);
        inverseB = b.ne(0).any() ? ofBtB.inverse(delta) : null;
    }

    /**
     * At a point, in float64.
     *
     * @param s scale
     * @param delta added to the diagonals before they are inverted
     */
    static Adjustment of(Tensor a, Tensor b, double s, double delta) {
        return new Adjustment(a.to(DType.FLOAT64), b.to(DType.FLOAT64), s, delta);
    }

    /** hA and hB for the ordinary gradients gA and gB. */
    Gradients gradients(Tensor gradientOfA, Tensor gradientOfB, LoraPro.Gauge gauge) {
        Tensor ga = gradientOfA.to(DType.FLOAT64);
        Tensor gb = gradientOfB.to(DType.FLOAT64);
        Tensor hb = gb.matmul(inverseA).mul(1 / (s * s)); // [out, r]
        Tensor inverse = inverseB;
        if (inverse == null) {
            return new Gradients(ga.zerosLike(), hb);
        }
        Tensor ha = inverse.matmul(ga).mul(1 / (s * s)); // [r, in]
        hb = hb.sub(b.matmul(inverse.matmul(b.t().matmul(hb))));
        Tensor c = ha.matmul(a.t()).neg(); // [r, r]
        Tensor x = switch (gauge) {
            case ZERO -> null;
            case SYMMETRIC -> c.matmul(inverseA).mul(0.5);
            case SYLVESTER -> ofBtB.sylvester(ofAAt, c);
        };
        return x == null ? new Gradients(ha, hb) : new Gradients(ha.add(x.matmul(a)), hb.sub(b.matmul(x)));
    }

    /** Geq [out, in]: what steps of both factors do to the weight, to first order. */
    Tensor effect(Gradients h) {
        return b.matmul(h.a()).add(h.b().matmul(a)).mul(s);
    }

    /** s Bᵀ G: the gradient that A would have if the weight's were G. */
    Tensor ofA(Tensor g) {
        return b.t().matmul(g).mul(s);
    }

    /** s G Aᵀ: likewise of B. */
    Tensor ofB(Tensor g) {
        return g.matmul(a.t()).mul(s);
    }
}
