package dev.espalier.train;

import static dev.espalier.Check.check;

/**
 * How the learning rate runs over a training: up from zero during the warm-up, then by a curve. The numbers are those of
 * Hugging Face transformers' {@code get_scheduler}; with a warm-up the first step has rate zero.
 *
 * @param curve what follows the warm-up
 * @param warmupSteps optimiser steps of warm-up, at least 0; not together with a ratio
 * @param warmupRatio share of all steps that are warm-up, in [0, 1), rounded up to whole steps
 */
public record Schedule(Curve curve, long warmupSteps, double warmupRatio) {

    /** What follows the warm-up. */
    public enum Curve {
        /** The full rate to the end. */
        CONSTANT,
        /** Straight down to zero. */
        LINEAR,
        /** Half a cosine down to zero. */
        COSINE,
        /** Half a cosine down to a tenth. */
        COSINE_TO_TENTH
    }

    /** Linear without warm-up, the default of Hugging Face's trainer. */
    public static final Schedule DEFAULT = new Schedule(Curve.LINEAR, 0, 0);

    /** Checks the ranges. */
    public Schedule {
        check(warmupSteps >= 0, "warmupSteps must be at least 0, found %d", warmupSteps);
        check(
                warmupRatio >= 0 && warmupRatio < 1,
                "warmupRatio must lie in [0, 1), found %s; try 0.03, or warmupSteps for a number of steps",
                warmupRatio);
        check(
                warmupSteps == 0 || warmupRatio == 0,
                "give warmupSteps or warmupRatio, not both: found %d and %s",
                warmupSteps,
                warmupRatio);
    }

    /** Without warm-up. */
    public static Schedule of(Curve curve) {
        return new Schedule(curve, 0, 0);
    }

    /**
     * What the peak learning rate is multiplied by.
     *
     * @param step optimiser steps done before this one
     * @param total optimiser steps of the whole training
     */
    public double factor(long step, long total) {
        long warmup = warmupRatio > 0 ? (long) Math.ceil(total * warmupRatio) : warmupSteps;
        if (step < warmup) {
            return (double) step / warmup;
        }
        double progress = (double) (step - warmup) / Math.max(1, total - warmup);
        return switch (curve) {
            case CONSTANT -> 1;
            case LINEAR -> Math.max(0, 1 - progress);
            case COSINE -> Math.max(0, 0.5 * (1 + Math.cos(Math.PI * progress)));
            case COSINE_TO_TENTH -> 0.1 + 0.45 * (1 + Math.cos(Math.PI * progress));
        };
    }
}
