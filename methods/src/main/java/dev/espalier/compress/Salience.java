package dev.espalier.compress;

import static dev.espalier.Check.check;

import dev.espalier.adapter.Calibration;
import dev.espalier.model.Inner;
import dev.espalier.nn.Layer;
import dev.espalier.nn.Parameter;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Device;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Tensor;
import java.util.ArrayList;
import java.util.List;
import java.util.Objects;

/**
 * How much the loss would change without a unit, to first order, every weight by itself: Σ |w ∂L/∂w| over the unit's weights.
 *
 * <p>Ma, Fang and Wang, <i>LLM-Pruner: On the Structural Pruning of Large Language Models</i>, arXiv:2305.11627, section 3.2.
 */
final class Salience {

    private Salience() {}

    /**
     * Sums over the units' weights.
     *
     * @param data one example a batch; L is the mean of their losses
     * @param examples how many to use; all where there are fewer
     * @return float32 [units] each, in the caller's scope
     */
    static List<Tensor> of(List<Inner> groups, Calibration data, int examples) {
        List<Parameter> weights = groups.stream()
                .flatMap(group -> group.parts().stream())
                .map(part -> part.layer().weightParameter())
                .toList();
        weights.forEach(w -> w.trainable(true));
        try {
            int n = (int) Math.min(examples, data.batches());
            for (int i = 0; i < n; i++) {
                try (Scope scope = Scope.open()) {
                    data.loss(i).div(n).backward();
                }
            }
            try (Grad off = Grad.off()) {
                List<Tensor> scores = new ArrayList<>();
                groups.forEach(group -> scores.add(of(group)));
                return scores;
            }
        } finally {
            weights.forEach(w -> w.trainable(false));
        }
    }

    private static Tensor of(Inner group) {
        try (Scope scope = Scope.open()) {
            Tensor sum = Tensor.zeros(DType.FLOAT32, group.units());
            for (Inner.Part part : group.parts()) {
                Layer layer = part.layer();
                Tensor w = layer.weightParameter().tensor();
                Tensor gradient = w.grad();
                check(
                        gradient != null,
                        "%s gets no gradient from the calibration data; look for examples without anything to learn",
                        layer.path());
                Tensor each = w.mul(Objects.requireNonNull(gradient)).abs().to(DType.FLOAT32); // [out, in]
                Tensor channels = each.sum(part.outputs() ? 1 : 0, false).to(Device.CPU);
                sum.add_(channels.view(group.units(), part.width()).sum(1, false));
            }
            check(
                    sum.isFinite().all(),
                    "the gradients in %s are not finite on the calibration data; look for examples without anything to learn",
                    group.path());
            return scope.promote(sum);
        }
    }
}
