package dev.espalier.compress;

import static dev.espalier.Check.check;

import dev.espalier.adapter.Calibration;
import dev.espalier.adapter.Site;
import dev.espalier.nn.Parameter;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Device;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Tensor;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;

/** The diagonal of the Fisher information, F = Σ_n (∂L_n/∂W)², one example at a time: how much each weight matters. */
final class Fisher {

    private Fisher() {}

    /**
     * Sums squared gradients.
     *
     * @param sites layers, frozen, of a network that nothing stands in
     * @param data one example a batch
     * @param examples how many to use; all where there are fewer
     * @return F [out, in] float32 by path, in the caller's scope; all on one scale
     */
    static Map<String, Tensor> of(List<Site> sites, Calibration data, int examples) {
        data.require("the Fisher information of lq-lora");
        Map<String, Tensor> sums = new LinkedHashMap<>();
        sites.forEach(site -> sums.put(site.path(), Tensor.zeros(DType.FLOAT32, shape(site))));
        sites.forEach(site -> site.layer().weightParameter().trainable(true));
        try {
            for (int n = 0; n < Math.min(examples, data.batches()); n++) {
                try (Scope scope = Scope.open()) {
                    data.loss(n).backward();
                    try (Grad off = Grad.off()) {
                        for (Site site : sites) {
                            add(site, Objects.requireNonNull(sums.get(site.path())));
                        }
                    }
                }
            }
        } finally {
            sites.forEach(site -> site.layer().weightParameter().trainable(false));
        }
        sums.forEach((path, f) -> check(
                f.isFinite().all(),
                "the gradients of %s are not finite on the calibration data; look for examples without anything to learn",
                path));
        return sums;
    }

    private static void add(Site site, Tensor sum) {
        Parameter weight = site.layer().weightParameter();
        Tensor gradient = weight.tensor().grad();
        if (gradient != null) { // a transpose undoes a transpose: from the layer's own orientation to [out, in]
            sum.add_(site.layer()
                    .stored(gradient)
                    .to(DType.FLOAT32)
                    .to(Device.CPU)
                    .square());
            weight.tensor().clearGrad();
        }
    }

    private static long[] shape(Site site) {
        return new long[] {site.layer().outFeatures(), site.layer().inFeatures()};
    }
}
