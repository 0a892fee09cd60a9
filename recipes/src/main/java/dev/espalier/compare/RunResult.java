package dev.espalier.compare;

import static dev.espalier.Check.check;

import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/**
 * One method with one seed.
 *
 * @param seed from which data order, start and dropout grow
 * @param folder that {@code train} wrote, relative to the study's
 * @param command what repeats it
 * @param status how it ended
 * @param failure one line that says why it failed; null where it did not
 * @param measured what came out; null where it failed
 */
public record RunResult(
        long seed,
        String folder,
        String command,
        Status status,
        @Nullable String failure,
        @Nullable Measured measured) {

    /** How a run ended. */
    public enum Status {
        /** Well. */
        OK,
        /** Not. */
        FAILED;

        /** As files write it. */
        @Override
        public String toString() {
            return name().toLowerCase(Locale.ROOT);
        }
    }

    /** Checks that a run either failed or has results. */
    public RunResult {
        check(
                (status == Status.OK) == (measured != null) && (status == Status.FAILED) == (failure != null),
                "a run is ok and measured, or failed and says why; found %s, failure: %s",
                status,
                failure);
    }

    /**
     * What one run came to. Figures of training are those of its {@code run.json}.
     *
     * @param metric the study's, on test data
     * @param testLoss mean loss on test data
     * @param metrics all of the task's, on test data
     * @param validation all of the task's, on validation data
     * @param curve mean training loss since the line before, step by step
     * @param steps done
     * @param tokens seen, padding not counted
     * @param tokensPerSecond of training
     * @param seconds of training
     * @param processorSeconds of training, all threads together; runs beside each other hardly change it
     * @param peakResidentBytes of the process that trained
     * @param optimizerBytes the optimiser's state
     * @param trainableParameters elements that trained
     * @param adapterBytes the adapter's files on disk
     * @param mergeError largest absolute difference of a logit between the adapter merged and beside its base; null where it
     *     does not merge
     * @param unmergeable why it does not merge; null where it does
     * @param exampleMillis time to answer a test example, in batches, with the adapter beside its base
     * @param mergedExampleMillis the same merged; null where it does not merge
     * @param forgetting loss on the second data set with the adapter less that of the base, above 0: worse; null without one
     * @param layers what became of each; with the first seed only, and empty where the adapter is no change of weights
     */
    public record Measured(
            double metric,
            double testLoss,
            Map<String, Double> metrics,
            Map<String, Double> validation,
            List<Point> curve,
            long steps,
            long tokens,
            double tokensPerSecond,
            double seconds,
            double processorSeconds,
            long peakResidentBytes,
            long optimizerBytes,
            long trainableParameters,
            long adapterBytes,
            @Nullable Double mergeError,
            @Nullable String unmergeable,
            double exampleMillis,
            @Nullable Double mergedExampleMillis,
            @Nullable Double forgetting,
            List<Layer> layers) {

        /** Copies. */
        public Measured {
            metrics = Collections.unmodifiableMap(new LinkedHashMap<>(metrics));
            validation = Collections.unmodifiableMap(new LinkedHashMap<>(validation));
            curve = List.copyOf(curve);
            layers = List.copyOf(layers);
        }
    }

    /** A point of a loss curve. */
    public record Point(long step, double loss) {}

    /**
     * What a method made of one layer: Wt = W0 + ΔW.
     *
     * @param path its place in the network
     * @param rank of ΔW: singular values above 1e-4 of the largest; 0 where nothing changed
     * @param singularValues of ΔW, the largest sixteen at most, descending
     * @param relativeChange ‖ΔW‖ / ‖W0‖ in the Frobenius norm
     * @param intruders leading singular vectors of Wt that resemble none of W0
     */
    public record Layer(String path, int rank, List<Double> singularValues, double relativeChange, int intruders) {

        /** Copies. */
        public Layer {
            singularValues = List.copyOf(singularValues);
        }
    }
}
