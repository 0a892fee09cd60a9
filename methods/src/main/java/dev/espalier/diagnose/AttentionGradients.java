package dev.espalier.diagnose;

import static dev.espalier.Check.check;

import dev.espalier.tensor.Tensor;
import java.util.ArrayList;
import java.util.List;
import org.jspecify.annotations.Nullable;

/**
 * Gradients of an attention head, exactly and in time linear in its length: Hu et al., arXiv:2406.03136.
 *
 * <pre>{@code
 * S = β Q Kᵀ,   F = D⁻¹ exp(S),   O = F V,   C = ∂L/∂O,   ρ = rowsum(C ∘ O)
 * P = F ∘ (C Vᵀ) - diag(ρ) F,   ∂L/∂Q = β P K,   ∂L/∂K = β Pᵀ Q,   ∂L/∂V = Fᵀ C
 * F ≈ U1 V1ᵀ:   U1 = diag(den)⁻¹ Φ(√β Q),   V1 = Φ(√β K),   ⟨Φ(x), Φ(y)⟩ = Σ_{j <= g} ⟨x, y⟩ʲ / j!
 * Q, K [L, h]    V, C, O [L, v]    Φ [L, t], t = C(h + g, g)    L tokens, no mask
 * }</pre>
 *
 * <p>Every product of the approximation is contracted over L first: time L t v h, and nothing of L by L. It is the chain of the
 * paper's proof, and no derivative of the truncated exponential. Φ has one coordinate for each monomial of degree g at most, its
 * weight 1 / √(Π a_i!).
 */
public final class AttentionGradients {

    /** Beyond it the smallest weights of float32 are mostly rounding: no maximum can be subtracted. */
    static final double LARGEST_BOUND = 5;

    private AttentionGradients() {}

    /**
     * What one head learns from.
     *
     * @param o O [L, v]
     * @param dq ∂L/∂Q [L, h]
     * @param dk ∂L/∂K [L, h]
     * @param dv ∂L/∂V [L, v]
     * @param degree g; 0 if all of it is exact
     */
    public record Gradients(Tensor o, Tensor dq, Tensor dk, Tensor dv, int degree) {}

    /** One head: Q, K [L, h], V [L, v] and the scale β of its scores. */
    public record Head(Tensor q, Tensor k, Tensor v, double beta) {

        /** A bound on |β ⟨q, k⟩| that needs no products of pairs: max ‖q‖ max ‖k‖ β. */
        double bound() {
            return beta * q.norm(1, false).max().item() * k.norm(1, false).max().item();
        }
    }

    /** ∂L/∂O [L, v] for an output O [L, v]. */
    @FunctionalInterface
    public interface Upstream {
        /** C for O. */
        Tensor of(Tensor o);
    }

    /** The gradients by matrices of L by L. */
    public static Gradients exact(Head head, Upstream upstream) {
        Tensor f = head.q().matmul(head.k().t()).mul(head.beta()).softmax(1); // [L, L]
        Tensor o = f.matmul(head.v());
        Tensor c = upstream.of(o);
        Tensor rho = c.mul(o).sum(1, true); // [L, 1]
        Tensor p = f.mul(c.matmul(head.v().t())).sub(f.mul(rho)); // [L, L]
        return new Gradients(
                o, p.matmul(head.k()).mul(head.beta()), p.t().matmul(head.q()).mul(head.beta()), f.t().matmul(c), 0);
    }

    /**
     * The gradients by features of one degree.
     *
     * @param degree g, even and at least 2: an odd one can give a negative sum of weights
     */
    public static Gradients approximate(Head head, Upstream upstream, int degree) {
        check(
                degree >= 2 && degree % 2 == 0,
                "the degree must be even and at least 2, found %d; try %d",
                degree,
                Math.max(2, degree + degree % 2));
        double root = Math.sqrt(head.beta());
        Tensor fq = features(head.q().mul(root), degree); // [L, t]
        Tensor v1 = features(head.k().mul(root), degree); // [L, t]
        Tensor den = fq.matmul(v1.sum(0, false).unsqueeze(1)); // [L, 1]
        return chain(head, upstream, fq.div(den), v1, degree);
    }

    /**
     * The approximation where it is as good as asked and cheaper, else the exact gradients.
     *
     * @param eps relative error of a weight at most
     */
    public static Gradients of(Head head, Upstream upstream, double eps) {
        double bound = head.bound();
        int degree = bound <= LARGEST_BOUND ? degree(bound, eps) : 0;
        return degree > 0 && pays(head.q().size(0), head.q().size(1), head.v().size(1), degree)
                ? approximate(head, upstream, degree)
                : exact(head, upstream);
    }

    /** Whether features of t coordinates for each of v channels are fewer than tokens. */
    static boolean pays(long length, long width, long values, int degree) {
        return width(width, degree) * values <= length;
    }

    /**
     * Gradients for given factors of F.
     *
     * @param u1 U1 [L, t]
     * @param v1 V1 [L, t]
     */
    static Gradients chain(Head head, Upstream upstream, Tensor u1, Tensor v1, int degree) {
        Tensor o = u1.matmul(v1.t().matmul(head.v()));
        Tensor c = upstream.of(o);
        Tensor rho = c.mul(o).sum(1, true); // of the same F, so that rows of P sum to 0
        Tensor pk = times(u1, v1, head.v(), c, rho, head.k());
        Tensor left = times(v1, u1, c, head.v(), null, head.q());
        Tensor ptq = left.sub(v1.matmul(u1.t().matmul(head.q().mul(rho))));
        return new Gradients(
                o, pk.mul(head.beta()), ptq.mul(head.beta()), v1.matmul(u1.t().matmul(c)), degree);
    }

    /** P X [L, m] for a thin X [L, m]. */
    static Tensor times(Tensor u1, Tensor v1, Tensor v, Tensor c, @Nullable Tensor rho, Tensor x) {
        Tensor sum = null;
        for (long a = 0; a < v.size(1); a++) { // row-wise Kronecker products, a channel at a time
            Tensor inner = v1.t().matmul(x.mul(v.narrow(1, a, 1))); // [t, m]
            Tensor part = u1.matmul(inner).mul(c.narrow(1, a, 1)); // [L, m]
            sum = sum == null ? part : sum.add_(part);
        }
        Tensor first = java.util.Objects.requireNonNull(sum);
        return rho == null ? first : first.sub(u1.matmul(v1.t().matmul(x)).mul(rho));
    }

    /**
     * Φ(x) [L, t], whose inner products are the exponential series of ⟨x, y⟩ up to the degree.
     *
     * @param x [L, h]
     */
    public static Tensor features(Tensor x, int degree) {
        List<Tensor> byDegree = new ArrayList<>(); // [L, n_d]: monomials of degree d in the coordinates so far
        byDegree.add(Tensor.ones(x.dtype(), x.size(0), 1).to(x.device()));
        for (int d = 1; d <= degree; d++) {
            byDegree.add(Tensor.empty(x.dtype(), x.size(0), 0).to(x.device()));
        }
        for (long i = 0; i < x.size(1); i++) {
            Tensor coordinate = x.narrow(1, i, 1); // [L, 1]
            List<Tensor> powers = new ArrayList<>();
            powers.add(byDegree.get(0));
            for (int a = 1; a <= degree; a++) { // xᵃ / √(a!)
                powers.add(powers.get(a - 1).mul(coordinate).div(Math.sqrt(a)));
            }
            List<Tensor> next = new ArrayList<>();
            for (int d = 0; d <= degree; d++) {
                List<Tensor> parts = new ArrayList<>();
                for (int a = 0; a <= d; a++) {
                    Tensor others = byDegree.get(d - a);
                    parts.add(a == 0 ? others : others.mul(powers.get(a)));
                }
                next.add(Tensor.cat(parts, 1));
            }
            byDegree = next;
        }
        return Tensor.cat(byDegree, 1);
    }

    /** t = C(h + g, g): coordinates of {@link #features}. */
    static double width(long h, int degree) {
        double t = 1;
        for (int j = 1; j <= degree; j++) {
            t *= (h + j) / (double) j;
        }
        return Math.rint(t);
    }

    /**
     * The smallest even degree with e^(2 M) M^(g + 1) / (g + 1)! at most eps, which bounds the relative error of a weight.
     *
     * @param bound M, on the scores
     */
    static int degree(double bound, double eps) {
        int g = 2;
        double term = bound * bound * bound / 6;
        while (Math.exp(2 * bound) * term > eps && g < 1000) {
            g += 2;
            term *= bound / g * bound / (g + 1);
        }
        return g;
    }

    /**
     * What a LoRA on one of the three maps learns: ∂L/∂A and ∂L/∂B of x ↦ s (x Aᵀ) Bᵀ.
     *
     * @param gradient of the map's output [L, out]
     * @param x its input [L, in]
     * @param a A [r, in]
     * @param b B [out, r]
     * @param scale s
     */
    public static List<Tensor> ofFactors(Tensor gradient, Tensor x, Tensor a, Tensor b, double scale) {
        Tensor ofA = gradient.matmul(b).t().matmul(x).mul(scale); // [r, in]
        Tensor ofB = gradient.t().matmul(x.matmul(a.t())).mul(scale); // [out, r]
        return List.of(ofA, ofB);
    }
}
