package dev.espalier.tensor;

import static org.assertj.core.api.Assertions.assertThat;

import org.junit.jupiter.api.Test;

class ScopeTest {

    @Test
    void closingFreesWhatWasMade() {
        Tensor made;
        try (Scope scope = Scope.open()) {
            made = Tensor.of(new float[] {1, 2});
            assertThat(made.isClosed()).isFalse();
        }
        assertThat(made.isClosed()).isTrue();
    }

    @Test
    void promotedLivesInTheScopeAround() {
        Tensor promoted;
        try (Scope outer = Scope.open()) {
            try (Scope inner = Scope.open()) {
                promoted = inner.promote(Tensor.of(new float[] {1, 2}).mul(2));
            }
            assertThat(promoted.floats()).containsExactly(2, 4);
        }
        assertThat(promoted.isClosed()).isTrue();
    }

    @Test
    void promotedOutOfTheOutermostLivesUntilClosed() {
        Tensor promoted;
        try (Scope scope = Scope.open()) {
            promoted = scope.promote(Tensor.of(new float[] {3}));
        }
        assertThat(promoted.item()).isEqualTo(3);
        promoted.close();
        assertThat(promoted.isClosed()).isTrue();
    }

    @Test
    void keptOutlivesEveryScope() {
        Tensor kept;
        try (Scope outer = Scope.open()) {
            try (Scope inner = Scope.open()) {
                kept = Tensor.ones(DType.FLOAT32, 2, 2).keep();
            }
            assertThat(kept.floats()).containsOnly(1);
        }
        assertThat(kept.floats()).containsOnly(1);
        kept.close();
        assertThat(kept.isClosed()).isTrue();
    }

    @Test
    void closedEarlyIsNotFreedTwice() {
        try (Scope scope = Scope.open()) {
            Tensor t = Tensor.ones(DType.FLOAT32, 2);
            t.close();
            assertThat(t.isClosed()).isTrue();
        }
        assertThat(Tensor.ones(DType.FLOAT32, 2).floats()).containsOnly(1);
    }

    @Test
    void aLoopLeavesNoNativeObjectBehind() {
        try (Tensor w = Tensor.ones(DType.FLOAT32, 8, 8).requiresGrad_(true).keep()) {
            step(w);
            long before = Machine.liveNativeObjects();
            for (int i = 0; i < 200; i++) {
                step(w);
            }
            // Fewer is fine: what other tests left without a scope may be collected meanwhile.
            assertThat(Machine.liveNativeObjects()).isLessThanOrEqualTo(before);
        }
    }

    /** One operation of each kind of boundary: plain, with temporaries, in place, tuple, vector, gradient. */
    private static void step(Tensor w) {
        try (Scope scope = Scope.open()) {
            Tensor y = w.matmul(w).mul(0.5).softmax(-1);
            y.split(4, 1).get(1).sum().backward();
            Tensor gradient = w.grad();
            w.detach().add_(gradient, -0.01);
            w.svd();
            w.qr();
            Tensor.cat(java.util.List.of(w, y), 0);
            w.device();
            w.clearGrad();
            try (Grad off = Grad.off()) {
                assertThat(w.mul(2.0).requiresGrad()).isFalse();
            }
        }
    }
}
