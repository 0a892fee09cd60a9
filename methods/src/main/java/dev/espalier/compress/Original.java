package dev.espalier.compress;

import dev.espalier.adapter.Site;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Tensor;
import org.jspecify.annotations.Nullable;

/** A layer whose weight is being made smaller, and what it was before: [out, in] of a norm. */
record Original(Site site, long out, long in, double norm) {

    static Original of(Site site) {
        try (Scope scope = Scope.open()) {
            Tensor w = Weights.of(site.layer());
            return new Original(site, w.size(0), w.size(1), w.norm().item());
        }
    }

    /**
     * What became of it. ‖W - W'‖² = ‖W‖² - ‖W^P‖² + ‖W^P - Q‖², for what is left out counts in full.
     *
     * @param codes that take the place of what is left, or null
     */
    CompressionReport.Row row(NormalFloat.@Nullable Quantized codes) {
        try (Scope scope = Scope.open()) {
            Tensor w = Weights.of(site.layer());
            double left = w.norm().item();
            double lost = norm * norm - left * left;
            double bits = 8.0 * site.layer().dtype().bytes() * w.numel();
            if (codes != null) {
                Tensor q = codes.values();
                double missed = w.sub(q).norm().item();
                lost += missed * missed;
                bits = codes.format().storedBits(w.numel());
                Weights.set(site.layer(), q);
            }
            double error = CompressionReport.ratio(Math.sqrt(Math.max(0, lost)), norm);
            return new CompressionReport.Row(site.path(), out, in, bits / (out * in), error, error);
        }
    }
}
