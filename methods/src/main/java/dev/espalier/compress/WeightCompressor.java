package dev.espalier.compress;

import dev.espalier.adapter.Site;
import dev.espalier.adapter.Targets;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Tensor;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/** Compresses each weight by itself, without data: what a compensating method can stand on. */
public interface WeightCompressor<C> extends Compressor<C> {

    /** The layers meant. */
    Targets targets(C config);

    /**
     * Compresses a weight.
     *
     * @param weight W [out, in] float32
     * @param path the layer's, for messages
     */
    Compressed compress(C config, Tensor weight, String path);

    /**
     * A compressed weight, in the caller's scope.
     *
     * @param values [out, in] float32, what the codes decode to
     * @param bits that a weight takes, its share of scales included
     * @param codes to be kept in a file, by name after the layer's path; empty where the values are all there is
     */
    record Compressed(Tensor values, double bits, Map<String, Tensor> codes) {}

    @Override
    default CompressionReport compress(C config, Subject subject) {
        List<CompressionReport.Row> rows = new ArrayList<>();
        Map<String, Tensor> codes = new LinkedHashMap<>();
        try (Grad off = Grad.off()) {
            for (Site site : subject.sites(targets(config))) {
                try (Scope scope = Scope.open()) {
                    Tensor w = Weights.of(site.layer()); // [out, in]
                    Compressed compressed = compress(config, w, site.path());
                    double error = CompressionReport.error(w, compressed.values());
                    rows.add(CompressionReport.Row.of(site, compressed.bits(), error, error));
                    compressed.codes().forEach((name, t) -> codes.put(site.path() + "." + name, scope.promote(t)));
                    Weights.set(site.layer(), compressed.values());
                }
            }
        }
        return new CompressionReport(rows, codes, codes.isEmpty() ? "" : name(), "weight", List.of());
    }
}
