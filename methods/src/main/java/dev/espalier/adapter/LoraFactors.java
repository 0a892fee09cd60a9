package dev.espalier.adapter;

import dev.espalier.tensor.DType;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Tensor;
import java.util.List;
import org.jspecify.annotations.Nullable;

/**
 * A change of a weight in plain LoRA's shape, s B A, and of a bias, s c.
 *
 * @param a A [rank, in]
 * @param b B [out, rank]
 * @param scale s
 * @param bias c [out], or null for none
 */
public record LoraFactors(
        Tensor a, Tensor b, double scale, @Nullable Tensor bias) {

    /** Number of rows of A. */
    public long rank() {
        return a.size(0);
    }

    /**
     * What a linear layer with this change computes: base(x) + s (drop(x) Aᵀ) Bᵀ + s c.
     *
     * @param x [.., in]
     * @param dropout share of x that is dropped while the layer trains
     * @return [.., out]
     */
    Tensor forward(Tensor x, Base base, double dropout) {
        return Base.onRows(x, rows -> {
            Tensor y = base.forward(rows); // [n, out]
            Tensor down = rows.dropout(dropout, base.layer().isTraining()).linear(a, null); // [n, rank]
            y.addmm_(down, b.to(y.dtype()).t(), scale);
            return bias == null ? y : y.add_(bias.to(y.dtype()), scale);
        });
    }

    /** W to W + s B A, and b to b + s c. */
    Base.Affine merge(Base.Affine base) {
        Tensor changed = base.bias();
        if (bias != null) {
            changed = changed == null ? bias.mul(scale) : changed.add(bias, scale);
        }
        return new Base.Affine(base.weight().addmm(b, a, scale), changed);
    }

    /** s B A [out, in]. */
    public Tensor product() {
        return b.matmul(a).mul(scale);
    }

    /** Frobenius norm of s B A, and of s c with it, without forming the product: ‖B A‖² = Σ (BᵀB) ∘ (A Aᵀ). */
    public double norm() {
        try (Scope scope = Scope.open()) {
            Tensor wideA = a.to(DType.FLOAT64);
            Tensor wideB = b.to(DType.FLOAT64);
            double square =
                    wideB.t().matmul(wideB).mul(wideA.matmul(wideA.t())).sum().item();
            double ofBias = bias == null ? 0 : bias.norm().item();
            return scale * Math.sqrt(Math.max(0, square) + ofBias * ofBias);
        }
    }

    /** This change and another one after it, exactly: ranks add up, the scale stays this one's. */
    public LoraFactors plus(LoraFactors other) {
        double ratio = other.scale / scale;
        Tensor c = bias;
        if (other.bias != null) {
            c = bias == null ? other.bias.mul(ratio) : bias.add(other.bias, ratio);
        }
        return new LoraFactors(
                Tensor.cat(List.of(a, other.a), 0), Tensor.cat(List.of(b, other.b.mul(ratio)), 1), scale, c);
    }

    /** The opposite change. */
    public LoraFactors negated() {
        return new LoraFactors(a, b, -scale, bias);
    }

    /** A change of bounded rank that is near another, and how near. */
    public record Approximation(LoraFactors factors, double relativeError) {}

    /**
     * The best change of rank at most {@code rank} for a given one: truncated singular value decomposition.
     *
     * @param delta change of the weight [out, in], float32 or wider
     * @return factors √S-balanced at scale 1, in the caller's scope, and ‖delta - B A‖ / ‖delta‖ in the Frobenius norm
     */
    public static Approximation approximate(Tensor delta, int rank) {
        try (Scope scope = Scope.open()) {
            List<Tensor> svd = delta.svd();
            Tensor s = svd.get(1); // [min(out, in)]
            long r = Math.min(rank, s.numel());
            Tensor root = s.narrow(0, 0, r).sqrt(); // [r]
            Tensor b = svd.get(0).narrow(1, 0, r).mul(root); // [out, r]
            Tensor a = svd.get(2).narrow(0, 0, r).mul(root.unsqueeze(1)); // [r, in]
            double all = s.norm().item();
            double rest = s.narrow(0, r, s.numel() - r).norm().item();
            LoraFactors best = new LoraFactors(scope.promote(a), scope.promote(b), 1, null);
            return new Approximation(best, all == 0 ? 0 : rest / all);
        }
    }
}
