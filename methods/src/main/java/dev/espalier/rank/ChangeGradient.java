package dev.espalier.rank;

import dev.espalier.tensor.DType;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Tensor;
import org.jspecify.annotations.Nullable;

/**
 * ∂L/∂ΔW [out, in] of a layer whose change ΔW is never formed: Σ (∂L/∂y)ᵀ x over the passes, from the gradient at the layer's
 * output.
 */
public final class ChangeGradient implements AutoCloseable {

    private final DType dtype;
    private boolean recording;
    private @Nullable Tensor input; // [n, in], of the latest forward pass
    private @Nullable Tensor bump; // zeros [n, out], whose gradient is that of the layer's output
    private @Nullable Tensor gradient; // [out, in], of the passes before

    /** Nothing is recorded yet; {@code dtype} is that of the gradient. */
    public ChangeGradient(DType dtype) {
        this.dtype = dtype;
    }

    /** Whether passes are recorded from now on. */
    void record(boolean on) {
        recording = on;
        if (!on) {
            close();
        }
    }

    /**
     * Notes a pass in training.
     *
     * @param x what the change was applied to [n, in]
     * @param y the layer's output [n, out]
     * @return y, to be used in its place
     */
    public Tensor observe(Tensor x, Tensor y) {
        if (!recording) {
            return y;
        }
        gather();
        input = x.detach().keep();
        bump = y.detach().zerosLike().requiresGrad_(true).keep();
        return y.add(bump);
    }

    /** Adds the latest pass. */
    private void gather() {
        Tensor x = input;
        Tensor g = bump == null ? null : bump.grad();
        if (x != null && g != null) {
            try (Grad off = Grad.off();
                    Scope scope = Scope.open()) {
                Tensor product = g.to(dtype).t().matmul(x.to(dtype)); // [out, in]
                if (gradient == null) {
                    gradient = product.keep();
                } else {
                    gradient.add_(product);
                }
            }
        }
        forgetPass();
    }

    /** I = Σ |ΔW ∘ ∂L/∂ΔW| / √(out in), float64, of the passes since it was last asked; 0 if there were none. */
    public Tensor sensitivity(Tensor change) {
        gather();
        Tensor sum = Tensor.scalar(0, DType.FLOAT64);
        if (gradient != null) {
            try (Grad off = Grad.off();
                    Scope scope = Scope.open()) {
                double size = Math.sqrt((double) change.numel());
                sum = scope.promote(
                        change.mul(gradient).abs().sum().to(DType.FLOAT64).div(size));
            }
        }
        close();
        return sum;
    }

    private void forgetPass() {
        if (input != null) {
            input.close();
            input = null;
        }
        if (bump != null) {
            bump.close();
            bump = null;
        }
    }

    /** Forgets what it has seen. */
    @Override
    public void close() {
        forgetPass();
        if (gradient != null) {
            gradient.close();
            gradient = null;
        }
    }
}
