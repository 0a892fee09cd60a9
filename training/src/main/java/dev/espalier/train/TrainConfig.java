package dev.espalier.train;

import static dev.espalier.Check.check;

import com.google.errorprone.annotations.CanIgnoreReturnValue;

/**
 * How long and how to train.
 *
 * @param epochs passes over the data, at least 1; 0 where {@code steps} is given
 * @param steps optimiser steps, at least 1; 0 where {@code epochs} is given
 * @param batchSize rows of a batch, at least 1; for whoever makes the {@link dev.espalier.data.Collator}
 * @param accumulation batches of one optimiser step, at least 1; an epoch's last step may have fewer
 * @param learningRate the schedule's peak, above 0
 * @param optimizer which, and its settings
 * @param schedule how the rate runs
 * @param inBackward whether each parameter moves as soon as the backward pass has its gradient, which is then freed; needs an
 *     accumulation of 1 and no clipping, and callbacks see no gradients
 * @param clip longest global gradient norm, above 0; 0: no clipping
 * @param evalEvery steps between evaluations; 0: at the end of each epoch
 * @param patience evaluations without a better one before training stops early; then, and at a regular end, the best state
 *     is put back. 0: neither
 * @param checkpointEvery steps between checkpoints; 0: only when stopped
 * @param keepCheckpoints newest checkpoints kept, at least 1
 * @param seed from which data order and dropout grow
 * @param logEvery steps between lines of metrics, at least 1
 */
public record TrainConfig(
        int epochs,
        long steps,
        int batchSize,
        int accumulation,
        double learningRate,
        Optimizer.Config optimizer,
        Schedule schedule,
        boolean inBackward,
        double clip,
        long evalEvery,
        int patience,
        long checkpointEvery,
        int keepCheckpoints,
        long seed,
        long logEvery) {

    /** Three epochs of batches of 8, AdamW at 2e-4 falling linearly, clipped at 1. */
    public static final TrainConfig DEFAULT =
            new TrainConfig(3, 0, 8, 1, 2e-4, AdamW.Config.DEFAULT, Schedule.DEFAULT, false, 1, 0, 0, 0, 1, 0, 10);

    /** Checks the ranges. */
    public TrainConfig {
        check(
                epochs >= 0 && steps >= 0 && (epochs == 0) != (steps == 0),
                "give either epochs or steps, at least 1, found epochs %d and steps %d; try epochs 3",
                epochs,
                steps);
        check(batchSize >= 1, "batchSize must be at least 1, found %d; try 8", batchSize);
        check(accumulation >= 1, "accumulation must be at least 1, found %d; try 1", accumulation);
        check(
                learningRate > 0 && Double.isFinite(learningRate),
                "learningRate must be above 0 and finite, found %s; try 2e-4",
                learningRate);
        check(clip >= 0 && Double.isFinite(clip), "clip must be above 0, or 0 for none, found %s; try 1", clip);
        check(
                !inBackward || (accumulation == 1 && clip == 0),
                "inBackward frees each gradient before the others are there, so that they can be neither summed nor clipped together, found accumulation %d and clip %s; set them to 1 and 0",
                accumulation,
                clip);
        check(
                !inBackward || optimizer.separable(),
                "inBackward moves each parameter by itself, which %s cannot; leave inBackward out, or train with adamw",
                optimizer);
        check(evalEvery >= 0, "evalEvery must be at least 0 (0: each epoch), found %d", evalEvery);
        check(patience >= 0, "patience must be at least 0 (0: no early stopping), found %d; try 3", patience);
        check(checkpointEvery >= 0, "checkpointEvery must be at least 0 (0: none), found %d; try 500", checkpointEvery);
        check(keepCheckpoints >= 1, "keepCheckpoints must be at least 1, found %d", keepCheckpoints);
        check(logEvery >= 1, "logEvery must be at least 1, found %d; try 10", logEvery);
    }

    /** The same with another optimiser. */
    public TrainConfig withOptimizer(Optimizer.Config other) {
        return new TrainConfig(
                epochs,
                steps,
                batchSize,
                accumulation,
                learningRate,
                other,
                schedule,
                inBackward,
                clip,
                evalEvery,
                patience,
                checkpointEvery,
                keepCheckpoints,
                seed,
                logEvery);
    }

    /** Starts from {@link #DEFAULT}. */
    public static Builder builder() {
        return new Builder();
    }

    /** Sets what differs from {@link #DEFAULT}; everything is checked by {@link #build}. */
    public static final class Builder {
        private int epochs = DEFAULT.epochs;
        private long steps = DEFAULT.steps;
        private int batchSize = DEFAULT.batchSize;
        private int accumulation = DEFAULT.accumulation;
        private double learningRate = DEFAULT.learningRate;
        private Optimizer.Config optimizer = DEFAULT.optimizer;
        private Schedule schedule = DEFAULT.schedule;
        private boolean inBackward = DEFAULT.inBackward;
        private double clip = DEFAULT.clip;
        private long evalEvery = DEFAULT.evalEvery;
        private int patience = DEFAULT.patience;
        private long checkpointEvery = DEFAULT.checkpointEvery;
        private int keepCheckpoints = DEFAULT.keepCheckpoints;
        private long seed = DEFAULT.seed;
        private long logEvery = DEFAULT.logEvery;

        private Builder() {}

        /** Trains for so many epochs. */
        @CanIgnoreReturnValue
        public Builder epochs(int value) {
            epochs = value;
            steps = 0;
            return this;
        }

        /** Trains for so many steps. */
        @CanIgnoreReturnValue
        public Builder steps(long value) {
            steps = value;
            epochs = 0;
            return this;
        }

        /** Rows of a batch. */
        @CanIgnoreReturnValue
        public Builder batchSize(int value) {
            batchSize = value;
            return this;
        }

        /** Batches of a step. */
        @CanIgnoreReturnValue
        public Builder accumulation(int value) {
            accumulation = value;
            return this;
        }

        /** The schedule's peak. */
        @CanIgnoreReturnValue
        public Builder learningRate(double value) {
            learningRate = value;
            return this;
        }

        /** Which optimiser. */
        @CanIgnoreReturnValue
        public Builder optimizer(Optimizer.Config value) {
            optimizer = value;
            return this;
        }

        /** How the rate runs. */
        @CanIgnoreReturnValue
        public Builder schedule(Schedule value) {
            schedule = value;
            return this;
        }

        /** Whether parameters move during the backward pass. */
        @CanIgnoreReturnValue
        public Builder inBackward(boolean value) {
            inBackward = value;
            return this;
        }

        /** Longest gradient norm. */
        @CanIgnoreReturnValue
        public Builder clip(double value) {
            clip = value;
            return this;
        }

        /** Steps between evaluations. */
        @CanIgnoreReturnValue
        public Builder evalEvery(long value) {
            evalEvery = value;
            return this;
        }

        /** Evaluations without a better one. */
        @CanIgnoreReturnValue
        public Builder patience(int value) {
            patience = value;
            return this;
        }

        /** Steps between checkpoints. */
        @CanIgnoreReturnValue
        public Builder checkpointEvery(long value) {
            checkpointEvery = value;
            return this;
        }

        /** Checkpoints kept. */
        @CanIgnoreReturnValue
        public Builder keepCheckpoints(int value) {
            keepCheckpoints = value;
            return this;
        }

        /** Where randomness grows from. */
        @CanIgnoreReturnValue
        public Builder seed(long value) {
            seed = value;
            return this;
        }

        /** Steps between lines of metrics. */
        @CanIgnoreReturnValue
        public Builder logEvery(long value) {
            logEvery = value;
            return this;
        }

        /** Checks everything. */
        public TrainConfig build() {
            return new TrainConfig(
                    epochs,
                    steps,
                    batchSize,
                    accumulation,
                    learningRate,
                    optimizer,
                    schedule,
                    inBackward,
                    clip,
                    evalEvery,
                    patience,
                    checkpointEvery,
                    keepCheckpoints,
                    seed,
                    logEvery);
        }
    }
}
