package dev.espalier.tensor;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import org.junit.jupiter.api.Test;

class GradientHookTest {

    /** y = Σ (2c)² by a leaf 2c: dy/dc = 8c, for every pass and added up as usual. */
    @Test
    void carriesAGradientOn() {
        try (Scope scope = Scope.open()) {
            Tensor c = Tensor.of(new double[] {1, -2, 3}, 3).requiresGrad_(true);
            try (GradientHook hook = new GradientHook(g -> c.backward(g.mul(2)))) {
                for (int pass = 1; pass <= 2; pass++) {
                    Tensor leaf;
                    try (Grad off = Grad.off()) {
                        leaf = c.mul(2);
                    }
                    leaf.requiresGrad_(true).registerHook(hook);
                    leaf.square().sum().add(leaf.sum(), 0).backward(); // used twice, called once
                    assertThat(c.grad().doubles()).containsExactly(8.0 * pass, -16.0 * pass, 24.0 * pass);
                }
            }
        }
    }

    @Test
    void whatItThrowsEndsTheBackwardPass() {
        try (Scope scope = Scope.open();
                GradientHook hook = new GradientHook(g -> {
                    throw new IllegalStateException("no room");
                })) {
            Tensor leaf = Tensor.ones(DType.FLOAT32, 2).requiresGrad_(true);
            leaf.registerHook(hook);
            assertThatThrownBy(() -> leaf.sum().backward()).hasMessageContaining("no room");
        }
    }
}
