package dev.espalier.train;

import static dev.espalier.Check.check;

import dev.espalier.nn.Parameter;
import dev.espalier.tensor.Tensor;
import java.util.Collection;
import java.util.List;
import java.util.Map;

/**
 * Stochastic gradient descent, with momentum if asked for, as {@code torch.optim.SGD} computes it:
 *
 * <pre>{@code
 * g ← g + λ w
 * u ← μ u + g  (at a parameter's first update u ← g)
 * w ← w - lr · (u, or g + μ u with Nesterov's momentum, or g without momentum)
 * }</pre>
 */
public final class Sgd implements Optimizer {

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
            return new Sgd(this, groups);
        }

        @Override
        public long stateBytes(List<ParameterGroup> groups) {
            return Slabs.stateBytes(groups, momentum > 0 ? 1 : 0);
        }
    }

    private final Config config;
    private final Slabs slabs;

    /** Fresh state, none without momentum; groups bring their own weight decay. */
    public Sgd(Config config, List<ParameterGroup> groups) {
        this.config = config;
        this.slabs = config.momentum > 0 ? new Slabs(groups, "momentum_buffer") : new Slabs(groups);
    }

    @Override
    public void step(double learningRate) {
        slabs.update((group, value, gradient, state, step) -> {
            Tensor direction = group.weightDecay() == 0 ? gradient : gradient.add(value, group.weightDecay());
            if (config.momentum > 0) {
                // A buffer of zeros makes the first update u = g without a case of its own.
                Tensor velocity = state.get(0).mul_(config.momentum).add_(direction);
                direction = config.nesterov ? direction.add(velocity, config.momentum) : velocity;
            }
            value.add_(direction, -learningRate * group.lrFactor());
        });
    }

    @Override
    public void add(ParameterGroup group) {
        slabs.add(group);
    }

    @Override
    public void forget(Collection<Parameter> parameters) {
        slabs.forget(parameters);
    }

    @Override
    public void zeroGrad() {
        slabs.zeroGrad();
    }

    @Override
    public long stateBytes() {
        return slabs.stateBytes();
    }

    @Override
    public Map<String, Tensor> state() {
        return slabs.state();
    }

    @Override
    public void load(Map<String, Tensor> state) {
        slabs.load(state);
    }

    @Override
    public void close() {
        slabs.close();
    }
}
