package dev.espalier.rank;

import dev.espalier.tensor.Tensor;
import dev.espalier.train.Optimizer;
import dev.espalier.train.ParameterGroup;
import dev.espalier.train.Slabs;
import java.util.List;

/**
 * Adam followed by the soft threshold, for gates of ranks, which it drives to exact zeros.
 *
 * <p>Ding et al., <i>Sparse Low-rank Adaptation of Pre-trained Language Models</i>, EMNLP 2023, arXiv:2311.11696, eq. 5 and 6.
 *
 * <pre>{@code
 * m ← 0.9 m + 0.1 g',    v ← 0.999 v + 0.001 g'²
 * g ← soft(g - η √(1 - 0.999ᵗ) / (1 - 0.9ᵗ) · m / (√v + 1e-6), ξ)
 * }</pre>
 *
 * <p>ε is added before the correction, as the authors' optimiser has it; gates have small gradients, so that it shows.
 *
 * @param xi the threshold, before {@code mode}
 * @param mode what it is multiplied by
 * @param released whether all below 2 ξ becomes 0
 * @param rate multiplies the learning rate
 */
public record GateAdam(double xi, ThresholdMode mode, boolean released, double rate) implements Optimizer.Config {

    /** How large the threshold of a step is. */
    public enum ThresholdMode {
        /** ξ itself: the authors' code. */
        ABSOLUTE,
        /** ξ times the gates' learning rate: the paper, whose λ is ξ. */
        TIMES_LR
    }

    @Override
    public Optimizer create(List<ParameterGroup> groups) {
        return Slabs.optimizer(
                groups,
                learningRate -> (group, value, gradient, state, step) -> {
                    double eta = learningRate * group.lrFactor() * rate; // η
                    Tensor mean = state.get(0).lerp_(gradient, 1 - 0.9);
                    Tensor square = state.get(1).mul_(0.999).addcmul_(gradient, gradient, 1 - 0.999);
                    double correction =
                            Math.sqrt(1 - Math.pow(0.999, (double) step)) / (1 - Math.pow(0.9, (double) step));
                    value.addcdiv_(mean, square.sqrt().add_(1e-6), -eta * correction);
                    value.copy_(threshold(value, mode == ThresholdMode.TIMES_LR ? eta * xi : xi));
                },
                "exp_avg",
                "exp_avg_sq");
    }

    /** What a threshold makes of gates. */
    public Tensor threshold(Tensor gates, double by) {
        Tensor shrunk = gates.softshrink(by);
        if (!released) {
            return shrunk;
        }
        Tensor zeroed = shrunk.maskedFill(shrunk.abs().lt(by), 0);
        return Tensor.where(gates.abs().eq(by), gates, zeroed); // strict comparisons leave the border alone
    }

    @Override
    public long stateBytes(List<ParameterGroup> groups) {
        return Slabs.stateBytes(groups, 2);
    }

    @Override
    public double weightDecay() {
        return 0;
    }
}
