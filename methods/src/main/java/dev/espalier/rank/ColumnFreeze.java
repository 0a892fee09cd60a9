package dev.espalier.rank;

import static dev.espalier.Check.check;

import dev.espalier.nn.Parameter;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Tensor;
import dev.espalier.train.Callback;
import dev.espalier.train.StepContext;
import dev.espalier.train.TrainingRun;
import java.util.ArrayList;
import java.util.Collection;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/**
 * Freezes matrices column by column in the first part of a training, the first column first.
 *
 * <p>Azizi, Kundu, Pedram, <i>LaMDA: Large Model Fine-Tuning via Spectrally Decomposed Low-Dimensional Adaptation</i>,
 * arXiv:2406.12832.
 */
public final class ColumnFreeze implements Callback {

    /** Which columns are frozen when. */
    public enum Schedule {
        /**
         * Before step t = 0, 1, .. of T the first ⌊r t / (η T)⌋ of r columns; neither gradient nor momentum nor weight decay moves
         * them. A matrix that is frozen whole has no optimiser state any more.
         */
        GRADUAL,
        /**
         * The authors' code: after i steps of T the first ⌊i / (η T)⌋ columns lose their gradient, and momentum and decay go on
         * moving them. Once these were all r, the matrix is frozen, after one step of its whole gradient.
         */
        RELEASED;

        /**
         * How many columns are frozen at a step.
         *
         * @param r columns
         * @param step counted from 1
         * @param duration η T, in steps; 0: all of them, from the first step on
         */
        public long columns(long r, long step, double duration) {
            double share = this == GRADUAL ? r * ((step - 1) / duration) + 1e-9 : step / duration;
            return duration == 0 ? r : (long) Math.min((double) r, Math.floor(share));
        }
    }

    /** A matrix and, where some of its columns stay as they are, these [n, k]. */
    private static final class Matrix {
        final Parameter parameter;

        @Nullable
        Tensor held;

        Matrix(Parameter parameter) {
            this.parameter = parameter;
        }

        long columns() {
            return parameter.shape()[1];
        }

        void hold(long k) {
            release();
            held = parameter.tensor().detach().narrow(1, 0, k).clone().keep();
        }

        void release() {
            if (held != null) {
                held.close();
                held = null;
            }
        }
    }

    private final List<Matrix> matrices = new ArrayList<>();
    private final Schedule schedule;
    private final double eta;

    /**
     * Nothing is frozen yet.
     *
     * @param matrices [n, r]; r may differ
     * @param eta share of the steps after which they are frozen whole
     */
    public ColumnFreeze(Collection<Parameter> matrices, Schedule schedule, double eta) {
        matrices.forEach(p -> this.matrices.add(new Matrix(p)));
        this.schedule = schedule;
        this.eta = eta;
    }

    /** Each matrix's state in a place of its own, before there is any, so that it can be dropped. */
    private void separate(TrainingRun run) {
        matrices.forEach(m -> run.optimizer().forget(List.of(m.parameter)));
    }

    @Override
    public void beforeTraining(TrainingRun run, long stepsDone) {
        check(
                schedule == Schedule.GRADUAL || !run.config().inBackward(),
                "freeze: released acts on gradients, which inBackward frees before it can; leave inBackward out, or set freeze: gradual");
        if (stepsDone == 0) {
            separate(run);
        }
    }

    @Override
    public void load(TrainingRun run, Map<String, Tensor> state) {
        separate(run);
    }

    private long columns(Matrix matrix, TrainingRun run, long step) {
        return schedule.columns(matrix.columns(), step, eta * run.totalSteps());
    }

    @Override
    public void beforeStep(TrainingRun run, long step) {
        if (schedule == Schedule.RELEASED) {
            return;
        }
        for (Matrix m : matrices) {
            long k = columns(m, run, step);
            if (k == m.columns() && m.parameter.isTrainable()) {
                m.release();
                m.parameter.trainable(false);
                run.optimizer().forget(List.of(m.parameter));
            } else if (k > (m.held == null ? 0 : m.held.size(1)) && m.parameter.isTrainable()) {
                m.hold(k);
            }
        }
    }

    @Override
    public void afterBackward(StepContext step) {
        try (Grad off = Grad.off()) {
            for (Matrix m : matrices) {
                Tensor gradient = m.parameter.tensor().grad(); // none if it is frozen, or has moved already
                long k = columns(m, step.run(), step.step());
                if (gradient == null || k == 0) {
                    continue;
                }
                if (k == m.columns()) { // RELEASED alone comes here
                    m.parameter.tensor().requiresGrad_(false); // its gradient stays, for one step
                } else {
                    gradient.narrow(1, 0, k).zero_();
                }
            }
        }
    }

    @Override
    public void afterUpdate(StepContext step) {
        try (Grad off = Grad.off()) {
            for (Matrix m : matrices) {
                if (m.held != null) {
                    m.parameter.tensor().narrow(1, 0, m.held.size(1)).copy_(m.held);
                }
            }
        }
    }

    @Override
    public void afterTraining(TrainingRun run) {
        matrices.forEach(Matrix::release);
    }
}
