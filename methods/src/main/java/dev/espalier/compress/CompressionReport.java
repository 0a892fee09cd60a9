package dev.espalier.compress;

import dev.espalier.adapter.Site;
import dev.espalier.tensor.Tensor;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/**
 * What compressing came to.
 *
 * @param rows a layer each, in the network's order
 * @param codes to be kept, by layer's path and name, in the scope that was open; empty if there are none
 * @param codedBy the {@link Coded} method whose codes they are; empty if there are none
 * @param measure what the errors are relative to: {@code weight} for ‖W - W'‖ / ‖W‖, {@code output} for the same over what
 *     layers put out on the calibration data
 * @param notes what else is worth knowing, a sentence each
 * @param kept what the network kept of a larger one whose adapters are trained on it: see {@link Cut}; empty groups where it
 *     kept its shape; null where the result stands for itself
 */
public record CompressionReport(
        List<Row> rows,
        Map<String, Tensor> codes,
        String codedBy,
        String measure,
        List<String> notes,
        @Nullable List<Cut.Group> kept) {

    /** A result that stands for itself. */
    public CompressionReport(
            List<Row> rows, Map<String, Tensor> codes, String codedBy, String measure, List<String> notes) {
        this(rows, codes, codedBy, measure, notes, null);
    }

    /** Copies. */
    public CompressionReport {
        rows = List.copyOf(rows);
        notes = List.copyOf(notes);
        kept = kept == null ? null : List.copyOf(kept);
        codes = java.util.Collections.unmodifiableMap(new java.util.LinkedHashMap<>(codes));
    }

    /**
     * One layer.
     *
     * @param bits that a weight takes, its share of scales included
     * @param before relative error of compression alone
     * @param after the same with the adapter; {@code before} where there is none
     */
    public record Row(String path, long out, long in, double bits, double before, double after) {

        static Row of(Site site, double bits, double before, double after) {
            return new Row(site.path(), site.layer().outFeatures(), site.layer().inFeatures(), bits, before, after);
        }

        Row withBits(double other) {
            return new Row(path, out, in, other, before, after);
        }

        /** Number of weights. */
        public long weights() {
            return out * in;
        }
    }

    /** Number of compressed weights. */
    public long weights() {
        return rows.stream().mapToLong(Row::weights).sum();
    }

    /** Bits that a weight takes on average. */
    public double bits() {
        return rows.stream().mapToDouble(row -> row.bits() * row.weights()).sum() / weights();
    }

    /** Mean error of compression alone over the layers. */
    public double before() {
        return rows.stream().mapToDouble(Row::before).average().orElse(0);
    }

    /** Mean error with the adapter over the layers. */
    public double after() {
        return rows.stream().mapToDouble(Row::after).average().orElse(0);
    }

    /** ‖a - b‖ / ‖a‖ (Frobenius); 0 for equal ones. */
    static double error(Tensor a, Tensor b) {
        return ratio(a.sub(b).norm().item(), a.norm().item());
    }

    /** A part of a whole; 0 for nothing of nothing. */
    static double ratio(double part, double whole) {
        return part == 0 ? 0 : part / whole;
    }
}
