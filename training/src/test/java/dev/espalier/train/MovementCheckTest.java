package dev.espalier.train;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.espalier.EspalierException;
import dev.espalier.nn.Parameter;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Tensor;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.function.Supplier;
import org.junit.jupiter.api.Test;

/** Plays steps of training on bare parameters, as the trainer does. */
class MovementCheckTest {

    private final Map<String, Parameter> parameters = new LinkedHashMap<>();

    private Parameter add(String name, float... values) {
        try (Scope scope = Scope.open()) {
            Parameter p = new Parameter(Tensor.of(values));
            p.trainable(true);
            parameters.put(name, p);
            return p;
        }
    }

    private void play(Optimizer.Config config, double lrFactor, double[] rates, Supplier<Tensor> loss) {
        List<ParameterGroup> groups = List.of(new ParameterGroup("all", parameters, lrFactor, config.weightDecay()));
        try (Optimizer optimizer = config.create(groups);
                MovementCheck check = new MovementCheck(groups)) {
            for (double rate : rates) {
                try (Scope scope = Scope.open()) {
                    loss.get().backward();
                    check.beforeUpdate(rate);
                    optimizer.step(rate);
                    optimizer.zeroGrad();
                    check.afterUpdate();
                }
            }
        } finally {
            parameters.values().forEach(p -> p.tensor().close());
        }
    }

    private static double[] rates(double... rates) {
        return rates;
    }

    @Test
    void aTensorThatTheLossIgnoresIsNamed() {
        Parameter live = add("live", 1, 2);
        add("dead", 1, 2);
        List<Integer> steps = new ArrayList<>();
        assertThatThrownBy(() -> play(AdamW.Config.DEFAULT, 1, rates(0.1, 0.1, 0.1, 0.1), () -> {
                    steps.add(1);
                    return live.tensor().square().sum();
                }))
                .isInstanceOf(EspalierException.class)
                .hasMessage(
                        "after 3 steps no gradient has reached dead; nothing of the loss depends on what is trained there:"
                                + " check the targets, or leave it out");
        assertThat(steps).hasSize(3);
    }

    @Test
    void weightDecayIsNoSignOfLife() {
        Parameter live = add("live", 1, 2);
        Parameter zeroed = add("zeroed", 1, 2);
        // A gradient of zeros, so that the decay is applied and the values do change.
        assertThatThrownBy(() -> play(
                        new AdamW.Config(0.9, 0.999, 1e-8, 0.5),
                        1,
                        rates(0.1, 0.1, 0.1),
                        () -> live.tensor()
                                .square()
                                .sum()
                                .add(zeroed.tensor().mul(0).sum())))
                .hasMessageStartingWith("after 3 steps no gradient has reached zeroed;");
    }

    @Test
    void lorasAMayWaitForB() {
        Parameter a = add("lora_A", 1, 2);
        Parameter b = add("lora_B", 0, 0);
        // B starts at zero, and warm-up starts at rate zero: A's first gradient comes at step 3.
        play(
                AdamW.Config.DEFAULT,
                1,
                rates(0, 0.1, 0.2, 0.3),
                () -> a.tensor().mul(b.tensor()).sum().sub(3).square());
        assertThat(parameters).hasSize(2);
    }

    @Test
    void aRateOfZeroOrAFreezeExcuses() {
        Parameter live = add("live", 1, 2);
        add("resting", 1, 2);
        play(
                AdamW.Config.DEFAULT,
                0,
                rates(0.1, 0.1, 0.1, 0.1),
                () -> live.tensor().square().sum());
        parameters.clear();
        Parameter again = add("live", 1, 2);
        add("frozen", 1, 2).trainable(false);
        play(
                AdamW.Config.DEFAULT,
                1,
                rates(0.1, 0.1, 0.1, 0.1),
                () -> again.tensor().square().sum());
        assertThat(parameters).hasSize(2);
    }

    @Test
    void updatesTooSmallToShowExcuse() {
        // 1e-9 is far below what float32 resolves at 1: the tensor stands still, and rightly so.
        Parameter live = add("live", 1, 1);
        play(
                AdamW.Config.DEFAULT,
                1,
                rates(1e-9, 1e-9, 1e-9, 1e-9),
                () -> live.tensor().square().sum());
        assertThat(parameters).hasSize(1);
    }

    @Test
    void anOptimizerThatMovesOtherTensorsIsFound() {
        Parameter live = add("live", 1, 2);
        Optimizer.Config forgetful = new Optimizer.Config() {
            @Override
            public Optimizer create(List<ParameterGroup> groups) {
                Parameter copy = new Parameter(live.tensor().detach().clone());
                return Sgd.Config.DEFAULT.create(List.of(new ParameterGroup("copies", Map.of("live", copy), 1, 0)));
            }

            @Override
            public long stateBytes(List<ParameterGroup> groups) {
                return 0;
            }

            @Override
            public double weightDecay() {
                return 0;
            }
        };
        assertThatThrownBy(() -> play(forgetful, 1, rates(0.1, 0.1, 0.1), () -> {
                    live.tensor().clearGrad();
                    return live.tensor().square().sum();
                }))
                .hasMessage(
                        "after 3 steps with gradients live has not changed; the optimiser moves other tensors than the"
                                + " model reads: make it from the parameters that are trained");
    }

    @Test
    void longListsOfNamesAreCut() {
        Parameter live = add("live", 1, 2);
        for (int i = 0; i < 7; i++) {
            add("dead" + i, 1);
        }
        assertThatThrownBy(() -> play(
                        Sgd.Config.DEFAULT,
                        1,
                        rates(0.1, 0.1, 0.1),
                        () -> live.tensor().square().sum()))
                .hasMessageStartingWith(
                        "after 3 steps no gradient has reached dead0, dead1, dead2, dead3, dead4 and 2 more;");
    }
}
