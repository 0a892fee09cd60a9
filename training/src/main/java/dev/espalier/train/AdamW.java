package dev.espalier.train;

import static dev.espalier.Check.check;

import dev.espalier.tensor.Tensor;
import java.util.List;

/**
 * Adam with decoupled weight decay.
 *
 * <p>Loshchilov and Hutter, <i>Decoupled Weight Decay Regularization</i>, arXiv:1711.05101, algorithm 2, as
 * {@code torch.optim.AdamW} computes it (the decay is scaled by the learning rate):
 *
 * <pre>{@code
 * w ← (1 - lr λ) w
 * m ← β1 m + (1 - β1) g,    v ← β2 v + (1 - β2) g²
 * w ← w - lr / (1 - β1ᵗ) · m / (√v / √(1 - β2ᵗ) + ε)
 * }</pre>
 */
public final class AdamW {

    /**
     * Settings.
     *
     * @param beta1 decay of the mean gradient, in [0, 1)
     * @param beta2 decay of the mean squared gradient, in [0, 1)
     * @param eps added to the denominator, above 0
     * @param weightDecay λ, at least 0
     */
    public record Config(double beta1, double beta2, double eps, double weightDecay) implements Optimizer.Config {

        /** As {@code torch.optim.AdamW}, but without weight decay, as Hugging Face's trainer. */
        public static final Config DEFAULT = new Config(0.9, 0.999, 1e-8, 0);

        /** Checks the ranges. */
        public Config {
            check(beta1 >= 0 && beta1 < 1, "beta1 must lie in [0, 1), found %s; try 0.9", beta1);
            check(beta2 >= 0 && beta2 < 1, "beta2 must lie in [0, 1), found %s; try 0.999", beta2);
            check(eps > 0 && Double.isFinite(eps), "eps must be above 0 and finite, found %s; try 1e-8", eps);
            check(
                    weightDecay >= 0 && Double.isFinite(weightDecay),
                    "weightDecay must be at least 0 and finite, found %s; try 0.01",
                    weightDecay);
        }

        @Override
        public Optimizer create(List<ParameterGroup> groups) {
            return Slabs.optimizer(groups, this::rule, "exp_avg", "exp_avg_sq");
        }

        @Override
        public long stateBytes(List<ParameterGroup> groups) {
            return Slabs.stateBytes(groups, 2);
        }

        private Slabs.Rule rule(double learningRate) {
            return (group, value, gradient, state, step) -> {
                double rate = learningRate * group.lrFactor();
                Tensor mean = state.get(0);
                Tensor square = state.get(1);
                if (group.weightDecay() != 0) {
                    value.mul_(1 - rate * group.weightDecay());
                }
                mean.lerp_(gradient, 1 - beta1);
                square.mul_(beta2).addcmul_(gradient, gradient, 1 - beta2);
                Tensor denominator = square.sqrt()
                        .mul_(1 / Math.sqrt(1 - Math.pow(beta2, (double) step)))
                        .add_(eps);
                value.addcdiv_(mean, denominator, -rate / (1 - Math.pow(beta1, (double) step)));
            };
        }
    }

    private AdamW() {}
}
