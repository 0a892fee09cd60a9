package dev.espalier.compare;

import static dev.espalier.Check.check;

import dev.espalier.compare.MethodResult.Difference;
import dev.espalier.compare.MethodResult.Summary;
import dev.espalier.compare.RunResult.Measured;
import java.util.Arrays;
import java.util.List;
import java.util.Objects;
import java.util.SplittableRandom;
import java.util.function.Function;
import org.jspecify.annotations.Nullable;

/** What runs of several seeds say together. */
final class Statistics {

    /** Share of the bootstrap's draws that an interval holds. */
    static final double CONFIDENCE = 0.95;

    private static final int DRAWS = 10_000;

    private Statistics() {}

    static double mean(double[] values) {
        return Arrays.stream(values).average().orElseThrow();
    }

    /** Standard error of the mean, s / √n with s of n - 1 degrees of freedom; null for one value. */
    static @Nullable Double standardError(double[] values) {
        if (values.length < 2) {
            return null;
        }
        double mean = mean(values);
        double squares = Arrays.stream(values).map(v -> (v - mean) * (v - mean)).sum();
        return Math.sqrt(squares / (values.length - 1) / values.length);
    }

    /**
     * The mean of paired differences, and the percentile bootstrap's interval around it.
     *
     * <p>What a mean over few seeds and few test examples would be in another study is uncertain by both, so a draw takes seeds
     * with replacement and, the same for all of them, test examples with replacement:
     *
     * <pre>{@code
     * m* = 1/n Σ_k 1/m Σ_l d[s_k, e_l]      s_k of the n seeds, e_l of the m examples
     * }</pre>
     *
     * <p>After Davison and Hinkley, <i>Bootstrap Methods and their Application</i>, Cambridge 1997, sections 2.4 and 5.3. The
     * draws come from a fixed seed: the same data give the same interval.
     *
     * @param differences [seeds, examples]: score of the one less score of the other; a single column where a metric is no
     *     mean over examples
     */
    static Difference difference(double[][] differences) {
        int seeds = differences.length;
        int examples = differences[0].length;
        check(
                Arrays.stream(differences).allMatch(row -> row.length == examples),
                "differences are of the same test examples for each seed, found rows of different length");
        SplittableRandom random = new SplittableRandom(0);
        double[] means = new double[DRAWS];
        int[] counts = new int[seeds];
        double[] pooled = new double[examples]; // Σ_k d[s_k, ·]
        for (int draw = 0; draw < DRAWS; draw++) {
            Arrays.fill(counts, 0);
            Arrays.fill(pooled, 0);
            for (int k = 0; k < seeds; k++) {
                counts[random.nextInt(seeds)]++;
            }
            for (int s = 0; s < seeds; s++) {
                for (int e = 0; counts[s] > 0 && e < examples; e++) {
                    pooled[e] += counts[s] * differences[s][e];
                }
            }
            double sum = 0;
            for (int l = 0; l < examples; l++) {
                sum += pooled[examples == 1 ? 0 : random.nextInt(examples)];
            }
            means[draw] = sum / seeds / examples;
        }
        Arrays.sort(means);
        double low = quantile(means, (1 - CONFIDENCE) / 2);
        double high = quantile(means, (1 + CONFIDENCE) / 2);
        double mean =
                mean(Arrays.stream(differences).mapToDouble(Statistics::mean).toArray());
        String resampled = examples == 1 ? "seeds" : seeds == 1 ? "test examples" : "seeds and test examples";
        boolean one = seeds == 1 && examples == 1; // nothing to draw from, so nothing can be told
        return new Difference(mean, low, high, seeds, one || (low <= 0 && high >= 0), resampled);
    }

    /** Linear between the two nearest of sorted values. */
    static double quantile(double[] sorted, double share) {
        double at = share * (sorted.length - 1);
        int below = (int) Math.floor(at);
        int above = Math.min(below + 1, sorted.length - 1);
        return sorted[below] + (at - below) * (sorted[above] - sorted[below]);
    }

    /** What the runs that ended well come to; null where none did. */
    static @Nullable Summary summary(List<RunResult> runs, @Nullable Difference difference) {
        List<Measured> ok =
                runs.stream().map(RunResult::measured).filter(Objects::nonNull).toList();
        if (ok.isEmpty()) {
            return null;
        }
        double[] metric = ok.stream().mapToDouble(Measured::metric).toArray();
        double[] forgetting = known(ok, Measured::forgetting);
        double[] merged = known(ok, Measured::mergedExampleMillis);
        double[] errors = known(ok, Measured::mergeError);
        return new Summary(
                ok.size(),
                mean(metric),
                standardError(metric),
                mean(ok.stream().mapToDouble(Measured::testLoss).toArray()),
                difference,
                mean(ok.stream().mapToDouble(Measured::tokensPerSecond).toArray()),
                mean(ok.stream().mapToDouble(Measured::seconds).toArray()),
                mean(ok.stream().mapToDouble(Measured::processorSeconds).toArray()),
                ok.stream().mapToLong(Measured::peakResidentBytes).max().orElseThrow(),
                ok.stream().mapToLong(Measured::optimizerBytes).max().orElseThrow(),
                ok.stream().mapToLong(Measured::trainableParameters).max().orElseThrow(),
                ok.stream().mapToLong(Measured::adapterBytes).max().orElseThrow(),
                errors.length == 0 ? null : Arrays.stream(errors).max().orElseThrow(),
                mean(ok.stream().mapToDouble(Measured::exampleMillis).toArray()),
                merged.length == 0 ? null : mean(merged),
                forgetting.length == 0 ? null : mean(forgetting),
                forgetting.length == 0 ? null : standardError(forgetting));
    }

    private static double[] known(List<Measured> runs, Function<Measured, @Nullable Double> figure) {
        return runs.stream()
                .map(figure)
                .filter(Objects::nonNull)
                .mapToDouble(Double::doubleValue)
                .toArray();
    }
}
