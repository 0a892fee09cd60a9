package dev.espalier.init;

import static dev.espalier.Check.check;

import dev.espalier.adapter.Calibration;
import dev.espalier.adapter.Site;
import dev.espalier.nn.Conv1D;
import dev.espalier.nn.Parameter;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Tensor;
import java.util.LinkedHashMap;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Set;
import org.jspecify.annotations.Nullable;

/**
 * What full fine-tuning would see first: gradients of the loss for the weights of layers, which are frozen before and after.
 *
 * <p>They add up in place, batch after batch; of the network's activations one batch's are alive at a time. Weights that layers
 * share get the gradient of all their uses.
 */
final class WeightGradients {

    private WeightGradients() {}

    /**
     * The sum over batches.
     *
     * @param method who asks, for messages
     * @param batches how many; there are at most {@link Calibration#batches} different ones
     * @return dL/dW [out, in] by path, in the current scope; a layer that the loss does not depend on has none
     */
    static Map<String, Tensor> sum(String method, List<Site> sites, Calibration calibration, long batches) {
        calibration.require(method);
        Set<Parameter> weights = new LinkedHashSet<>();
        sites.forEach(site -> weights.add(site.layer().weightParameter()));
        List<Parameter> frozen = weights.stream().filter(p -> !p.isTrainable()).toList();
        try (Grad on = Grad.on()) {
            frozen.forEach(p -> p.trainable(true));
            for (long i = 0; i < Math.min(batches, calibration.batches()); i++) {
                try (Scope scope = Scope.open()) {
                    Tensor loss = calibration.loss(i);
                    check(
                            Double.isFinite(loss.item()),
                            "%s: the loss of calibration batch %d is %s on the network as it is; look for broken examples there",
                            method,
                            i,
                            loss.item());
                    loss.backward();
                }
            }
            Map<String, Tensor> gradients = new LinkedHashMap<>();
            for (Site site : sites) {
                @Nullable
                Tensor stored = site.layer().weightParameter().tensor().grad();
                if (stored != null) {
                    Tensor own = Objects.requireNonNull(stored).detach().clone();
                    gradients.put(site.path(), site.layer() instanceof Conv1D ? own.t() : own);
                }
            }
            return gradients;
        } finally {
            frozen.forEach(p -> p.trainable(false)); // drops the gradients too
        }
    }
}
