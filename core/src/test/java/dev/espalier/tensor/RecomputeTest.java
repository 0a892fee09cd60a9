package dev.espalier.tensor;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.util.ArrayList;
import java.util.List;
import java.util.function.UnaryOperator;
import org.junit.jupiter.api.Test;

class RecomputeTest {

    private static final int STAGES = 4;
    private static final int WIDTH = 6;

    /** STAGES times x + dropout(tanh(x W)). */
    private static List<UnaryOperator<Tensor>> stages(List<Tensor> weights, double dropout) {
        List<UnaryOperator<Tensor>> stages = new ArrayList<>();
        for (Tensor w : weights) {
            stages.add(x -> {
                try (Scope scope = Scope.open()) {
                    return scope.promote(x.add(x.matmul(w).tanh().dropout(dropout, true)));
                }
            });
        }
        return stages;
    }

    private static List<Tensor> weights() {
        List<Tensor> weights = new ArrayList<>();
        try (Generator generator = Generator.of(5)) {
            for (int i = 0; i < STAGES; i++) {
                weights.add(generator.randn(WIDTH, WIDTH).to(DType.FLOAT64).requiresGrad_(true));
            }
        }
        return weights;
    }

    private static Tensor plain(List<UnaryOperator<Tensor>> stages, Tensor x) {
        Tensor at = x;
        for (UnaryOperator<Tensor> stage : stages) {
            at = stage.apply(at);
        }
        return at;
    }

    @Test
    void gradientsAreThoseOfThePlainPassAndDropoutDrawsTheSame() {
        try (Scope scope = Scope.open();
                Generator generator = Generator.of(7)) {
            Tensor input = generator.randn(3, WIDTH).to(DType.FLOAT64);
            List<double[]> all = new ArrayList<>();
            for (boolean again : new boolean[] {false, true}) {
                List<Tensor> weights = weights();
                Tensor first = input.clone().requiresGrad_(true);
                Generator.seedDropout(11);
                List<UnaryOperator<Tensor>> stages = stages(weights, 0.3);
                Tensor x = first.mul(2); // the start has a graph
                Tensor y = again ? Recompute.sequential(stages, x, List.of()) : plain(stages, x);
                y.square().sum().backward();
                all.add(y.doubles());
                all.add(first.grad().doubles());
                weights.forEach(w -> all.add(w.grad().doubles()));
                all.add(Tensor.ones(DType.FLOAT64, 8)
                        .dropout(0.5, true)
                        .doubles()); // the generator stands where it would
            }
            int half = all.size() / 2;
            for (int i = 0; i < half; i++) {
                assertThat(all.get(half + i)).containsExactly(all.get(i));
            }
        }
    }

    @Test
    void twoPassesBeforeTheirGradientsAreEachTheirOwn() {
        try (Scope scope = Scope.open()) {
            List<Tensor> weights = weights();
            List<UnaryOperator<Tensor>> stages = stages(weights, 0);
            Tensor a = Tensor.ones(DType.FLOAT64, 1, WIDTH);
            Tensor b = a.mul(-0.5);
            plain(stages, a).sum().add(plain(stages, b).square().sum()).backward();
            double[] expected = weights.get(0).grad().doubles();
            weights.get(0).clearGrad();
            Tensor first = Recompute.sequential(stages, a, List.of());
            Tensor second = Recompute.sequential(stages, b, List.of());
            first.sum().add(second.square().sum()).backward();
            assertThat(weights.get(0).grad().doubles())
                    .containsExactly(expected, org.assertj.core.data.Offset.offset(1e-12));
        }
    }

    @Test
    void whatNoGradientAsksForIsFreedWithTheOutermostScope() {
        Tensor held = Tensor.ones(DType.FLOAT32, 2).keep();
        try (Scope scope = Scope.open()) {
            try (Scope inner = Scope.open()) {
                inner.promote(Recompute.sequential(
                        stages(weights(), 0), Tensor.ones(DType.FLOAT64, 1, WIDTH), List.of(held)));
            }
            assertThat(held.isClosed()).isFalse();
        }
        assertThat(held.isClosed()).isTrue();
    }

    @Test
    void aGradientThatComesAfterItsScopeIsRefused() {
        Tensor loss;
        try (Scope scope = Scope.open()) {
            loss = Recompute.sequential(stages(weights(), 0), Tensor.ones(DType.FLOAT64, 1, WIDTH), List.of())
                    .sum()
                    .keep();
        }
        assertThatThrownBy(loss::backward).hasMessageContaining("Call backward once, inside the outermost scope");
        loss.close();
    }

    @Test
    void whatAStageThrowsIsTheCallersAndNothingStays() {
        try (Scope scope = Scope.open()) {
            Tensor held = Tensor.ones(DType.FLOAT32, 2).keep();
            List<UnaryOperator<Tensor>> stages = List.of(Tensor::tanh, x -> {
                throw new IllegalStateException("no room");
            });
            assertThatThrownBy(() -> Recompute.sequential(stages, Tensor.ones(DType.FLOAT64, 2), List.of(held)))
                    .hasMessage("no room");
            assertThat(held.isClosed()).isTrue();
        }
    }

    @Test
    void nothingNativeIsLeftBehind() {
        try (Scope run = Scope.open()) { // one that lives as long as a training run
            List<Tensor> weights = weights();
            long before = 0;
            for (int i = 0; i < 300; i++) {
                try (Scope step = Scope.open()) {
                    Tensor x = Tensor.ones(DType.FLOAT64, 16, WIDTH);
                    Recompute.sequential(stages(weights, 0.1), x, List.of())
                            .sum()
                            .backward();
                }
                if (i == 10) {
                    before = Machine.liveNativeObjects();
                }
            }
            assertThat(Machine.liveNativeObjects())
                    .isLessThanOrEqualTo(before); // what other tests left may go meanwhile
        }
    }
}
