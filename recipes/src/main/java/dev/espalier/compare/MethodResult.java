package dev.espalier.compare;

import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/**
 * One row of a study: a method over all seeds.
 *
 * @param name of the row, once in a study
 * @param method its name in the catalogue
 * @param kind the door it comes through: {@code adapter}, {@code initializer}, {@code optimizer}, ...
 * @param title in a few words
 * @param recipe in full, with the chosen learning rate, for the first seed
 * @param command what repeats the run of the first seed, and judges it
 * @param learningRate the chosen one
 * @param rates all that were tried, ascending
 * @param edge whether the chosen one is the grid's last, so that a better one may lie beyond
 * @param held how near the row came to what the study holds equal
 * @param rank the largest rank its settings name, or null where they name none
 * @param presentBytes in memory before the first step, as forecast: Java, libtorch, data, the base's weights
 * @param forecastBytes in memory at the peak, as forecast
 * @param runs one a seed, in the study's order
 * @param summary over the runs that ended well; null where none did
 */
public record MethodResult(
        String name,
        String method,
        String kind,
        String title,
        Map<String, Object> recipe,
        String command,
        double learningRate,
        List<Rate> rates,
        Edge edge,
        Held held,
        @Nullable Integer rank,
        long presentBytes,
        long forecastBytes,
        List<RunResult> runs,
        @Nullable Summary summary) {

    /** Copies. */
    public MethodResult {
        recipe = Collections.unmodifiableMap(new LinkedHashMap<>(recipe));
        rates = List.copyOf(rates);
        runs = List.copyOf(runs);
    }

    /**
     * A learning rate that was tried.
     *
     * @param validation the study's metric on validation data with the first seed, or null where training failed or nothing had
     *     to be chosen
     * @param failure why it failed, or null
     */
    public record Rate(
            double learningRate,
            @Nullable Double validation,
            @Nullable String failure) {}

    /** Where in its grid the chosen learning rate lies. */
    public enum Edge {
        /** Between others, or there was one only. */
        NONE,
        /** The smallest was best. */
        LOWEST,
        /** The largest was best. */
        HIGHEST;

        /** As files write it. */
        @Override
        public String toString() {
            return name().toLowerCase(Locale.ROOT);
        }
    }

    /**
     * How near a row came to what the study holds equal.
     *
     * @param wanted the study's value
     * @param reached this row's, over its runs in the mean; null where no run ended well
     * @param how what was set to reach it, such as {@code r = 6}, or why nothing could be
     */
    public record Held(double wanted, @Nullable Double reached, String how) {}

    /**
     * Over the runs that ended well.
     *
     * @param runs how many did
     * @param metric mean of the test metric
     * @param standardError of that mean over seeds, s / √n; null with one run
     * @param testLoss mean
     * @param difference to the reference; null for the reference itself and where no seed ended well in both
     * @param tokensPerSecond mean
     * @param seconds mean of training
     * @param processorSeconds mean of training
     * @param peakResidentBytes the largest
     * @param optimizerBytes the largest
     * @param trainableParameters the largest
     * @param adapterBytes the largest
     * @param mergeError the largest; null where nothing merged
     * @param exampleMillis mean; see {@link RunResult.Measured}
     * @param mergedExampleMillis mean; null where nothing merged
     * @param forgetting mean; null where the study names no second data set
     * @param forgettingError its standard error; null with one run
     */
    public record Summary(
            int runs,
            double metric,
            @Nullable Double standardError,
            double testLoss,
            @Nullable Difference difference,
            double tokensPerSecond,
            double seconds,
            double processorSeconds,
            long peakResidentBytes,
            long optimizerBytes,
            long trainableParameters,
            long adapterBytes,
            @Nullable Double mergeError,
            double exampleMillis,
            @Nullable Double mergedExampleMillis,
            @Nullable Double forgetting,
            @Nullable Double forgettingError) {}

    /**
     * Paired difference of the test metric to the reference: on the same seeds and the same test examples.
     *
     * @param mean this row's metric less the reference's
     * @param low lower end of the bootstrap's interval
     * @param high upper end
     * @param pairs seeds that ended well in both
     * @param insideNoise whether the interval holds 0: the data do not tell the two apart
     * @param resampled what the bootstrap drew: {@code seeds and test examples}, {@code test examples} or {@code seeds}
     */
    public record Difference(double mean, double low, double high, int pairs, boolean insideNoise, String resampled) {}

    /** Whether a run of any seed ended well. */
    public boolean succeeded() {
        return summary != null;
    }
}
