package dev.espalier.train;

import dev.espalier.nn.Parameter;
import dev.espalier.tensor.Machine;
import java.util.Collection;
import java.util.LinkedHashMap;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/**
 * What a run says of itself: in {@code run.json} for people, and in checkpoints so that no other run goes on from them.
 *
 * @param run the training
 * @param recipe the caller's, JSON values
 * @param hashes of data and base model
 * @param stopwatch of this process
 */
record RunRecord(TrainingRun run, Map<String, ?> recipe, Map<String, String> hashes, Stopwatch stopwatch) {

    /** What a run must share with the one it goes on from; reporting and checkpointing may differ. */
    Map<String, String> identity() {
        TrainConfig config = run.config();
        Map<String, String> identity = new LinkedHashMap<>();
        identity.put("epochs", Integer.toString(config.epochs()));
        identity.put("steps", Long.toString(config.steps()));
        identity.put("batchSize", Integer.toString(config.batchSize()));
        identity.put("accumulation", Integer.toString(config.accumulation()));
        identity.put("learningRate", Double.toString(config.learningRate()));
        identity.put("optimizer", config.optimizer().toString());
        identity.put("schedule", config.schedule().toString());
        identity.put("clip", Double.toString(config.clip()));
        identity.put("evalEvery", Long.toString(config.evalEvery()));
        identity.put("patience", Integer.toString(config.patience()));
        identity.put("logEvery", Long.toString(config.logEvery()));
        identity.put("seed", Long.toString(config.seed()));
        identity.put("total steps", Long.toString(run.totalSteps()));
        run.groups()
                .forEach(group -> identity.put(
                        "group " + group.name(),
                        "%d parameters x%s decay %s"
                                .formatted(group.parameters().size(), group.lrFactor(), group.weightDecay())));
        hashes.forEach((name, hash) -> identity.put("hash of " + name, hash));
        return identity;
    }

    /** The record of a run that is where {@code state} says. */
    Map<String, Object> at(TrainState state, String status, @Nullable String message) {
        Collection<Parameter> parameters = run.parameters().values();
        Map<String, Object> record = new LinkedHashMap<>();
        record.put("status", status);
        if (message != null) {
            record.put("message", message);
        }
        record.put("recipe", recipe);
        record.put("seed", run.config().seed());
        record.put("steps", state.step);
        record.put("total_steps", run.totalSteps());
        record.put("started", stopwatch.started.toString());
        record.put("seconds", stopwatch.seconds());
        record.put("processor_seconds", stopwatch.processorSeconds());
        record.put("versions", RunFolder.versions());
        record.put("hashes", hashes);
        record.put("trainable_parameters", Parameters.elements(parameters));
        record.put("trainable_bytes", Parameters.bytes(parameters));
        record.put("optimizer_bytes", run.optimizer().stateBytes());
        record.put("peak_resident_bytes", Machine.peakResidentBytes());
        record.put("tokens", state.tokens);
        record.put("tokens_per_second", stopwatch.tokensPerSecond());
        record.put("train_loss", state.meanLoss());
        TrainState.Best best = state.best;
        record.put("metrics", best == null ? state.metrics : best.metrics());
        if (best != null) {
            record.put("best_step", best.step());
        }
        return record;
    }
}
