package dev.espalier.train;

import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/**
 * How a training ended.
 *
 * @param status why it ended
 * @param steps optimiser steps done, those before a resume included
 * @param totalSteps that were planned
 * @param trainLoss mean loss since the last logged line, or at the last
 * @param metrics of the last evaluation, or of the best one where its state was put back; empty without validation data
 * @param bestStep whose state was put back, or null
 * @param tokensPerSecond of this process, padding not counted
 * @param peakResidentBytes of this process, ever
 * @param message one sentence for the user: what happened and, where it was interrupted, how to go on
 */
public record TrainResult(
        Status status,
        long steps,
        long totalSteps,
        double trainLoss,
        Map<String, Double> metrics,
        @Nullable Long bestStep,
        double tokensPerSecond,
        long peakResidentBytes,
        String message) {

    /** Why a training ended. */
    public enum Status {
        /** All steps are done. */
        COMPLETED,
        /** Patience ran out. */
        EARLY_STOPPED,
        /** It was asked to stop. */
        INTERRUPTED
    }

    /** Copies the map. */
    public TrainResult {
        metrics = Collections.unmodifiableMap(new LinkedHashMap<>(metrics));
    }
}
