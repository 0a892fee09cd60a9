package dev.espalier.train;

import dev.espalier.data.Collator.Cursor;
import dev.espalier.io.Fields;
import java.util.LinkedHashMap;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/**
 * What a training remembers between steps besides tensors. Randomness needs no place here: it is drawn anew from the seed
 * and the step.
 */
final class TrainState {

    /** The best evaluation so far. */
    record Best(long step, Map<String, Double> metrics) {}

    long step; // optimiser steps done
    Cursor cursor = Cursor.START; // of the next batch
    long tokens;
    double lossSum; // since the last logged line
    double lossUnits;
    double loss = Double.NaN; // mean at the last logged line, or since
    long evaluatedAt = -1;
    Map<String, Double> metrics = Map.of(); // of the last evaluation

    @Nullable
    Best best;

    int withoutBetter; // evaluations since the best
    long metricsBytes; // length of metrics.jsonl

    /** Mean loss since the last logged line, or at it. */
    double meanLoss() {
        return lossUnits > 0 ? lossSum / lossUnits : loss;
    }

    Map<String, Object> toMap() {
        Map<String, Object> map = new LinkedHashMap<>();
        map.put("step", step);
        map.put("epoch", cursor.epoch());
        map.put("batch", cursor.batch());
        map.put("tokens", tokens);
        map.put("loss_sum", lossSum);
        map.put("loss_units", lossUnits);
        map.put("loss", bits(loss));
        map.put("evaluated_at", evaluatedAt);
        map.put("metrics", bits(metrics));
        if (best != null) {
            map.put("best_step", best.step());
            map.put("best_metrics", bits(best.metrics()));
        }
        map.put("without_better", withoutBetter);
        map.put("metrics_bytes", metricsBytes);
        return map;
    }

    static TrainState of(Fields f) {
        TrainState state = new TrainState();
        state.step = f.longInteger("step");
        state.cursor = new Cursor(f.integer("epoch"), f.integer("batch"));
        state.tokens = f.longInteger("tokens");
        state.lossSum = f.number("loss_sum");
        state.lossUnits = f.number("loss_units");
        state.loss = Double.parseDouble(f.string("loss"));
        state.evaluatedAt = f.longInteger("evaluated_at");
        state.metrics = numbers(f.map("metrics", Map.of()));
        if (f.has("best_step")) {
            state.best = new Best(f.longInteger("best_step"), numbers(f.map("best_metrics", Map.of())));
        }
        state.withoutBetter = f.integer("without_better");
        state.metricsBytes = f.longInteger("metrics_bytes");
        return state;
    }

    /** Metrics may be NaN, which JSON has no number for. */
    private static String bits(double value) {
        return Double.toString(value);
    }

    private static Map<String, String> bits(Map<String, Double> metrics) {
        Map<String, String> map = new LinkedHashMap<>();
        metrics.forEach((name, value) -> map.put(name, bits(value)));
        return map;
    }

    private static Map<String, Double> numbers(Map<String, Object> map) {
        Map<String, Double> metrics = new LinkedHashMap<>();
        map.forEach((name, value) -> metrics.put(name, Double.parseDouble(value.toString())));
        return metrics;
    }
}
