package dev.espalier.train;

import static dev.espalier.Check.check;

import dev.espalier.tensor.Tensor;
import java.util.List;

/**
 * Stochastic gradient descent, with momentum if asked for, as {@code torch.optim.SGD} computes it:
 *
 * <pre>{@code
 * g ← g + λ w
 * u ← μ u + g  (at a parameter's first update u ← g)
 * w ← w - lr · (u, or g + μ u with Nesterov's momentum, or g without momentum)
 * }</pre>
 */
public final class Sgd {

    /**
     * Settings.
     *
     * @param momentum μ, in [0, 1)
     * @param nesterov Nesterov's momentum; needs μ above 0
     * @param weightDecay λ, at least 0
     */
    public record Config(double momentum, boolean nesterov, double weightDecay) implements Optimizer.Config {

        /** Plain descent. */
        public static final Config DEFAULT = new Config(0, false, 0);

        /** Checks the ranges. */
        public Config {
            check(momentum >= 0 && momentum < 1, "momentum must lie in [0, 1), found %s; try 0.9", momentum);
            check(!nesterov || momentum > 0, "nesterov needs a momentum above 0, found %s; try 0.9", momentum);
            check(
                    weightDecay >= 0 && Double.isFinite(weightDecay),
                    "weightDecay must be at least 0 and finite, found %s; try 0.01",
                    weightDecay);
        }

        @Override
        public Optimizer create(List<ParameterGroup> groups) {
            return momentum > 0
                    ? Slabs.optimizer(groups, this::rule, "momentum_buffer")
                    : Slabs.optimizer(groups, this::rule);
        }

        @Override
        public long stateBytes(List<ParameterGroup> groups) {
            return Slabs.stateBytes(groups, momentum > 0 ? 1 : 0);
        }

        private Slabs.Rule rule(double learningRate) {
            return (group, value, gradient, state, step) -> {
                Tensor direction = group.weightDecay() == 0 ? gradient : gradient.add(value, group.weightDecay());
                if (momentum > 0) {
                    // A buffer of zeros makes the first update u = g without a case of its own.
                    Tensor velocity = state.get(0).mul_(momentum).add_(direction);
                    direction = nesterov ? direction.add(velocity, momentum) : velocity;
                }
                value.add_(direction, -learningRate * group.lrFactor());
            };
        }
    }

    private Sgd() {}
}
