package dev.espalier.train;

import static dev.espalier.Check.check;

import com.google.errorprone.annotations.CanIgnoreReturnValue;
import dev.espalier.EspalierException;
import dev.espalier.data.Batch;
import dev.espalier.data.Collator;
import dev.espalier.data.Collator.Cursor;
import dev.espalier.nn.Parameter;
import dev.espalier.task.Evaluation;
import dev.espalier.task.Task;
import dev.espalier.tensor.Generator;
import dev.espalier.tensor.Machine;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Objects;
import java.util.function.Consumer;
import org.jspecify.annotations.Nullable;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * Trains parameters of a model for a task. It knows no method: adapters bring their parameters, and act through callbacks
 * and loss terms.
 *
 * <p>A step runs the batches of {@link TrainConfig#accumulation}, each loss divided by the units (supervised tokens, rows)
 * of the whole step, so that the gradient does not depend on how a step is cut into batches. Dropout is seeded anew for each
 * batch from the run's seed and the step: a resumed run goes on to the same bits.
 *
 * <p>With an output folder it writes {@code metrics.jsonl}, {@code run.json} and checkpoints. {@link #requestStop} may be
 * called from any thread, all else from one.
 */
public final class Trainer implements AutoCloseable {

    private static final Logger LOG = LoggerFactory.getLogger(Trainer.class);
    private static final int SOURCES_NAMED = 8;

    private final Task task;
    private final Collator data;
    private final @Nullable Collator validation;
    private final TrainConfig config;
    private final List<Callback> callbacks;
    private final List<LossTerm> lossTerms;
    private final ProgressListener progress;
    private final @Nullable Path out;
    private final boolean resume;
    private final Map<String, ?> recipe;
    private final Map<String, String> hashes;
    private final TrainingRun run;
    private final @Nullable InBackward inBackward;
    private final Seed dropout;
    private final Stopwatch stopwatch = new Stopwatch();
    private volatile boolean stop;

    private TrainState state = new TrainState();
    private @Nullable MetricsLog metrics;
    private @Nullable Checkpoints checkpoints;

    /**
     * Memory that training adds to the model.
     *
     * @param parameterBytes of what trains
     * @param gradientBytes of its gradients, there from the backward pass to the update
     * @param optimizerBytes that the optimiser will remember once everything has moved
     */
    public record Memory(long parameterBytes, long gradientBytes, long optimizerBytes) {}

    private Trainer(Builder b, List<ParameterGroup> groups) {
        task = b.task;
        data = b.data;
        validation = b.validation;
        config = b.config;
        callbacks = List.copyOf(b.callbacks);
        lossTerms = List.copyOf(b.lossTerms);
        progress = b.progress == null ? new LogProgress(config.logEvery()) : b.progress;
        out = b.out;
        resume = b.resume;
        recipe = b.recipe;
        hashes = b.hashes;
        check(
                config.patience() == 0 || (validation != null && out != null),
                "patience %d needs validation data to judge by and an output folder for the best state; give both, or 0",
                config.patience());
        check(
                config.checkpointEvery() == 0 || out != null,
                "checkpointEvery %d needs an output folder; give one, or 0",
                config.checkpointEvery());
        check(!resume || out != null, "a run is resumed in its output folder; name it");
        Parameters.verify(groups, task.model());
        Parameters.of(groups).values().forEach(p -> p.trainable(true));
        inBackward = config.inBackward() ? new InBackward(config.optimizer(), groups) : null;
        Optimizer optimizer = inBackward == null ? Optimizers.of(config.optimizer(), groups) : inBackward;
        run = new TrainingRun(task, groups, optimizer, config, totalSteps());
        dropout = new Seed(config.seed()).named("dropout");
    }

    /** Starts with what every training needs. */
    public static Builder builder(Task task, Collator data) {
        return new Builder(task, data);
    }

    /** Memory that training adds to the model. */
    public Memory memory() {
        long bytes = Parameters.bytes(run.parameters().values());
        return new Memory(bytes, bytes, Optimizer.stateBytes(config.optimizer(), run.groups()));
    }

    /** Optimiser steps of the whole training. */
    private long totalSteps() {
        if (config.steps() > 0) {
            return config.steps();
        }
        long total = 0;
        for (int epoch = 0; epoch < config.epochs(); epoch++) {
            total += (data.batches(epoch) + config.accumulation() - 1) / config.accumulation();
        }
        return total;
    }

    /** Asks for a checkpoint and an end after the step that is running; from any thread, such as a signal's. */
    public void requestStop() {
        stop = true;
    }

    /**
     * Trains, once. The model is left in evaluation mode, without gradients.
     *
     * @throws EspalierException if the output folder is in use, a loss is not finite, a tensor does not move, or a file
     *     cannot be written; {@code run.json} then says so too
     */
    public TrainResult train() {
        RunFolder folder = out == null ? null : RunFolder.open(out, resume);
        try {
            if (folder != null) {
                checkpoints = new Checkpoints(folder.checkpoints(), run, callbacks, record().identity());
                if (resume) {
                    TrainState saved = checkpoints.load();
                    state = saved == null ? state : saved;
                    LOG.info("resuming after step {} of {}", state.step, run.totalSteps());
                }
                metrics = new MetricsLog(folder.metrics(), state.metricsBytes);
                folder.write(record().at(state, "running", null));
            }
            TrainResult result = loop();
            if (folder != null) {
                folder.write(record().at(state, result.status().name().toLowerCase(Locale.ROOT), result.message()));
            }
            return result;
        } catch (RuntimeException e) {
            if (folder != null) {
                noteFailure(folder, e);
            }
            throw e;
        } finally {
            run.optimizer().zeroGrad();
            task.model().train(false);
            progress.close();
            if (metrics != null) {
                metrics.close();
            }
        }
    }

    private void noteFailure(RunFolder folder, RuntimeException fault) {
        try {
            folder.write(record().at(state, "failed", fault.getMessage()));
        } catch (EspalierException alsoFailed) {
            fault.addSuppressed(alsoFailed); // a full disk, most likely, and the first fault tells it
        }
    }

    private TrainResult loop() {
        task.model().train(true);
        eachCallback(callback -> callback.beforeTraining(run, state.step));
        try (MovementCheck movement = new MovementCheck(run.groups())) {
            while (state.step < run.totalSteps() && !outOfPatience() && !stop) {
                boolean epochEnds = step(movement);
                if (validation != null && (evaluationIsDue(epochEnds) || state.step == run.totalSteps())) {
                    evaluate(validation);
                }
                if (config.checkpointEvery() > 0 && state.step % config.checkpointEvery() == 0) {
                    save();
                }
            }
        }
        boolean finished = state.step == run.totalSteps() || outOfPatience();
        if (!finished || config.checkpointEvery() > 0) {
            save();
        }
        TrainState.Best best = state.best;
        if (finished) {
            if (best != null && checkpoints != null) {
                checkpoints.loadBest(best.step());
            }
            eachCallback(callback -> callback.afterTraining(run));
        }
        return new TrainResult(
                !finished
                        ? TrainResult.Status.INTERRUPTED
                        : outOfPatience() ? TrainResult.Status.EARLY_STOPPED : TrainResult.Status.COMPLETED,
                state.step,
                run.totalSteps(),
                state.meanLoss(),
                finished && best != null ? best.metrics() : state.metrics,
                finished && best != null ? (Long) best.step() : null,
                stopwatch.tokensPerSecond(),
                Machine.peakResidentBytes(),
                message(finished));
    }

    private String message(boolean finished) {
        if (finished) {
            String end = outOfPatience()
                    ? "stopped early after step %d of %d: %d evaluations brought nothing better"
                            .formatted(state.step, run.totalSteps(), config.patience())
                    : "completed %d steps".formatted(state.step);
            return state.best == null ? end : end + "; the state of step %d is kept".formatted(state.best.step());
        }
        return checkpoints == null
                ? "stopped after step %d of %d; without an output folder nothing was saved"
                        .formatted(state.step, run.totalSteps())
                : "stopped after step %d of %d; the checkpoint is %s: resume the run in %s to go on"
                        .formatted(state.step, run.totalSteps(), checkpoints.path(state.step), out);
    }

    // ---- one step

    /** @return whether it was the epoch's last */
    private boolean step(MovementCheck movement) {
        long begin = System.nanoTime();
        boolean epochEnds;
        double units = 0;
        double loss = 0;
        double norm;
        double rate = config.learningRate() * config.schedule().factor(state.step, run.totalSteps());
        long number = state.step + 1;
        long tokens = 0;
        eachCallback(callback -> callback.beforeStep(run, number));
        try (Scope scope = Scope.open()) {
            List<Batch> batches = new ArrayList<>();
            Cursor cursor = state.cursor;
            do {
                Batch batch = data.batch(cursor);
                batches.add(batch);
                units += task.units(batch);
                tokens += batch.tokens();
                Cursor next = data.after(cursor);
                epochEnds = next.epoch() != cursor.epoch();
                cursor = next;
            } while (batches.size() < config.accumulation() && !epochEnds);
            check(
                    units > 0,
                    "step %d has nothing to learn: no token of %s is supervised; drop these examples, or shorten their prompts",
                    number,
                    sources(batches));
            for (int i = 0; i < batches.size(); i++) {
                double own = task.units(batches.get(i));
                if (own > 0) {
                    loss += backward(new StepContext(run, number, i, batches.get(i), rate), own, units);
                }
            }
            StepContext last = new StepContext(run, number, batches.size() - 1, batches.get(batches.size() - 1), rate);
            eachCallback(callback -> callback.afterBackward(last));
            norm = inBackward == null
                    ? Parameters.normAndClip(run.parameters().values(), config.clip())
                    : inBackward.norm();
            check(
                    Double.isFinite(norm),
                    "the gradient is not finite at step %d, on %s; lower the learning rate (%.3g), or look for broken examples"
                            + " there",
                    number,
                    sources(batches),
                    rate);
            movement.beforeUpdate(rate);
            run.optimizer().step(rate);
            movement.afterUpdate(); // before callbacks that put values back
            eachCallback(callback -> callback.afterUpdate(last));
            run.optimizer().zeroGrad();
            eachCallback(callback -> callback.afterStep(last));
            state.cursor = cursor;
        }
        state.step = number;
        state.tokens += tokens;
        state.lossSum += loss * units;
        state.lossUnits += units;
        stopwatch.step(System.nanoTime() - begin, tokens);
        report(rate, norm);
        return epochEnds;
    }

    /** Adds a batch's gradient; returns its part of the step's mean loss. */
    private double backward(StepContext context, double units, double unitsOfStep) {
        try (Scope scope = Scope.open()) {
            Generator.seedDropout(dropout.at(context.step() * config.accumulation() + context.microStep())
                    .value());
            Task.Outcome outcome = task.forward(context.batch());
            Tensor loss = outcome.loss().mul(1 / unitsOfStep);
            for (LossTerm term : lossTerms) {
                loss = loss.add(term.value(context, outcome).mul(units / unitsOfStep));
            }
            double value = loss.item();
            check(
                    Double.isFinite(value),
                    "the loss is %s at step %d, on %s; lower the learning rate (%.3g), or look for broken examples there",
                    value,
                    context.step(),
                    sources(List.of(context.batch())),
                    context.learningRate());
            if (inBackward != null) {
                inBackward.arm(context.learningRate());
            }
            loss.backward();
            if (inBackward != null) {
                inBackward.sweep();
            }
            return value;
        }
    }

    private void report(double rate, double norm) {
        progress.step(new Progress(
                state.step,
                run.totalSteps(),
                state.meanLoss(),
                rate,
                stopwatch.tokensPerSecond(),
                stopwatch.residentBytes(),
                stopwatch.left(run.totalSteps() - state.step)));
        if (state.step % config.logEvery() == 0 || state.step == run.totalSteps()) {
            state.loss = state.lossSum / state.lossUnits;
            state.lossSum = 0;
            state.lossUnits = 0;
            if (metrics != null) {
                Map<String, Object> line = new LinkedHashMap<>();
                line.put("step", state.step);
                line.put(
                        "epoch",
                        state.cursor.epoch() + (double) state.cursor.batch() / data.batches(state.cursor.epoch()));
                line.put("loss", state.loss);
                line.put("learning_rate", rate);
                line.put("grad_norm", norm);
                line.put("tokens", state.tokens);
                line.put("tokens_per_second", stopwatch.tokensPerSecond());
                line.put("resident_bytes", stopwatch.residentBytes());
                metrics.append(line);
            }
        }
    }

    // ---- evaluation and checkpoints

    private boolean evaluationIsDue(boolean epochEnds) {
        return config.evalEvery() == 0 ? epochEnds : state.step % config.evalEvery() == 0;
    }

    private boolean outOfPatience() {
        return config.patience() > 0 && state.withoutBetter >= config.patience();
    }

    private void evaluate(Collator judgedOn) {
        state.metrics = Evaluation.run(task, judgedOn).metrics();
        Task.Metric metric = task.metric();
        double value = Objects.requireNonNull(state.metrics.get(metric.name()));
        if (config.patience() > 0) {
            TrainState.Best best = state.best;
            if (best == null
                    || metric.better(
                            value, Objects.requireNonNull(best.metrics().get(metric.name())))) {
                state.best = new TrainState.Best(state.step, state.metrics);
                state.withoutBetter = 0;
                Objects.requireNonNull(checkpoints).saveBest(state.step);
            } else {
                state.withoutBetter++;
            }
        }
        if (metrics != null) {
            Map<String, Object> line = new LinkedHashMap<>();
            line.put("step", state.step);
            state.metrics.forEach((name, v) -> line.put("eval_" + name, v));
            metrics.append(line);
        }
        progress.evaluated(state.step, state.metrics);
        eachCallback(callback -> callback.afterEvaluation(run, state.step, state.metrics));
    }

    private void save() {
        if (checkpoints != null && metrics != null) {
            state.metricsBytes = metrics.force();
            checkpoints.save(state, config.keepCheckpoints());
        }
    }

    private RunRecord record() {
        return new RunRecord(run, recipe, hashes, stopwatch);
    }

    private void eachCallback(Consumer<Callback> event) {
        for (Callback callback : callbacks) {
            try (Scope scope = Scope.open()) {
                event.accept(callback);
            }
        }
    }

    private static String sources(List<Batch> batches) {
        List<String> all =
                batches.stream().flatMap(b -> b.sources().stream()).distinct().toList();
        String shown = String.join(", ", all.subList(0, Math.min(SOURCES_NAMED, all.size())));
        return all.size() > SOURCES_NAMED ? shown + " and %d more".formatted(all.size() - SOURCES_NAMED) : shown;
    }

    /** Frees the optimiser's state. The model and its parameters stay. */
    @Override
    public void close() {
        run.optimizer().close();
    }

    /** Sets up a trainer; what is not set is left out. */
    public static final class Builder {
        private final Task task;
        private final Collator data;
        private @Nullable Map<String, Parameter> parameters;
        private @Nullable List<ParameterGroup> groups;
        private @Nullable Collator validation;
        private TrainConfig config = TrainConfig.DEFAULT;
        private final List<Callback> callbacks = new ArrayList<>();
        private final List<LossTerm> lossTerms = new ArrayList<>();
        private @Nullable ProgressListener progress;
        private @Nullable Path out;
        private boolean resume;
        private Map<String, ?> recipe = Map.of();
        private Map<String, String> hashes = Map.of();

        private Builder(Task task, Collator data) {
            this.task = task;
            this.data = data;
        }

        /** What trains, by path, as one group with the optimiser's weight decay. */
        @CanIgnoreReturnValue
        public Builder parameters(Map<String, Parameter> value) {
            parameters = value;
            return this;
        }

        /** What trains, in groups of their own rates; instead of {@link #parameters}. */
        @CanIgnoreReturnValue
        public Builder groups(List<ParameterGroup> value) {
            groups = value;
            return this;
        }

        /** Data to judge by. */
        @CanIgnoreReturnValue
        public Builder validation(Collator value) {
            validation = value;
            return this;
        }

        /** How long and how. */
        @CanIgnoreReturnValue
        public Builder config(TrainConfig value) {
            config = value;
            return this;
        }

        /** Adds one that takes part. */
        @CanIgnoreReturnValue
        public Builder callback(Callback value) {
            callbacks.add(value);
            return this;
        }

        /** Adds a term to the loss. */
        @CanIgnoreReturnValue
        public Builder lossTerm(LossTerm value) {
            lossTerms.add(value);
            return this;
        }

        /** Who shows progress; by default lines in the log. */
        @CanIgnoreReturnValue
        public Builder progress(ProgressListener value) {
            progress = value;
            return this;
        }

        /** Folder for metrics, record and checkpoints; empty or absent, unless resuming. */
        @CanIgnoreReturnValue
        public Builder out(Path value) {
            out = value;
            return this;
        }

        /** Goes on from the newest checkpoint in the folder, or from the start if it was stopped before the first. */
        @CanIgnoreReturnValue
        public Builder resume(boolean value) {
            resume = value;
            return this;
        }

        /** The recipe, for the record; JSON values. */
        @CanIgnoreReturnValue
        public Builder recipe(Map<String, ?> value) {
            recipe = value;
            return this;
        }

        /** Hashes of data and base model, for the record; a resumed run must have the same. */
        @CanIgnoreReturnValue
        public Builder hashes(Map<String, String> value) {
            hashes = Map.copyOf(value);
            return this;
        }

        /**
         * Lays out the parameters and makes the optimiser.
         *
         * @throws EspalierException if the parts do not go together
         */
        public Trainer build() {
            List<ParameterGroup> all = groups != null
                    ? groups
                    : List.of(new ParameterGroup(
                            "all",
                            parameters == null ? Map.of() : parameters,
                            1,
                            config.optimizer().weightDecay()));
            return new Trainer(this, List.copyOf(all));
        }
    }
}
