package dev.espalier.init;

import static dev.espalier.Check.check;

import dev.espalier.adapter.Calibration;
import dev.espalier.adapter.Site;
import dev.espalier.nn.Conv1D;
import dev.espalier.nn.Parameter;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Tensor;
import java.util.LinkedHashMap;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.function.LongConsumer;
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
        Map<String, Tensor> sums = new LinkedHashMap<>();
        run(
                method,
                sites,
                calibration,
                Math.min(batches, calibration.batches()),
                batch -> {},
                () -> sites.forEach(site -> {
                    Tensor gradient = gradient(site);
                    if (gradient != null) {
                        Tensor own = gradient.detach().clone();
                        sums.put(site.path(), site.layer() instanceof Conv1D ? own.t() : own);
                    }
                }));
        return sums;
    }

    /**
     * The mean of squares over batches, element by element, each batch weighted by what its loss is a mean over.
     *
     * @param batches how many, beyond the last from the first again
     * @return Σ_b n_b (dL_b/dW)² / Σ_b n_b [out, in] by path, float32 at least, in the current scope; a layer that the loss does
     *     not depend on has none
     */
    static Map<String, Tensor> squares(String method, List<Site> sites, Calibration calibration, long batches) {
        Map<String, Tensor> kept = new LinkedHashMap<>(); // in the layers' own orientation
        double[] units = {0};
        run(
                method,
                sites,
                calibration,
                batches,
                batch -> {
                    double n = calibration.units(batch);
                    units[0] += n;
                    for (Site site : sites) {
                        Tensor gradient = gradient(site);
                        if (gradient != null) {
                            Tensor wide = gradient.detach().to(wide(gradient.dtype()));
                            kept.computeIfAbsent(
                                            site.path(),
                                            path -> wide.zerosLike().keep())
                                    .addcmul_(wide, wide, n);
                        }
                    }
                    sites.forEach(
                            site -> site.layer().weightParameter().tensor().clearGrad());
                },
                () -> {});
        Map<String, Tensor> means = new LinkedHashMap<>();
        for (Site site : sites) {
            Tensor sum = kept.get(site.path());
            if (sum != null) {
                Tensor mean = sum.div(Math.max(1, units[0]));
                means.put(site.path(), site.layer() instanceof Conv1D ? mean.t() : mean);
                sum.close();
            }
        }
        return means;
    }

    private static DType wide(DType type) {
        return type == DType.FLOAT64 ? DType.FLOAT64 : DType.FLOAT32;
    }

    private static @Nullable Tensor gradient(Site site) {
        return site.layer().weightParameter().tensor().grad();
    }

    /** Lets the weights gather gradients, batch after batch. */
    private static void run(
            String method,
            List<Site> sites,
            Calibration calibration,
            long batches,
            LongConsumer afterBatch,
            Runnable atTheEnd) {
        calibration.require(method);
        Set<Parameter> weights = new LinkedHashSet<>();
        sites.forEach(site -> weights.add(site.layer().weightParameter()));
        List<Parameter> frozen = weights.stream().filter(p -> !p.isTrainable()).toList();
        try (Grad on = Grad.on()) {
            frozen.forEach(p -> p.trainable(true));
            for (long i = 0; i < batches; i++) {
                try (Scope scope = Scope.open()) {
                    Tensor loss = calibration.loss(i);
                    check(
                            Double.isFinite(loss.item()),
                            "%s: the loss of calibration batch %d is %s on the network as it is; look for broken examples there",
                            method,
                            i,
                            loss.item());
                    loss.backward();
                    afterBatch.accept(i);
                }
            }
            atTheEnd.run();
        } finally {
            frozen.forEach(p -> p.trainable(false)); // drops the gradients too
        }
    }
}
