package dev.espalier.train;

import dev.espalier.tensor.Tensor;
import java.util.Map;

/**
 * Takes part in training at its events, in this order: {@link #beforeTraining}, then for each step {@link #beforeStep}, {@link
 * #afterBackward}, {@link #afterUpdate} and {@link #afterStep}, after some steps {@link #afterEvaluation}, at last {@link #afterTraining}. Several are called in
 * the order they were given. What tensors a call makes are freed when it returns, unless kept.
 */
public interface Callback {

    /**
     * Before the first step of this process, and after a checkpoint has been read.
     *
     * @param stepsDone 0, or the step that is being resumed after
     */
    default void beforeTraining(TrainingRun run, long stepsDone) {}

    /**
     * The batches of a step are about to run; nothing of it has been computed yet.
     *
     * @param step the optimiser step, counted from 1
     */
    default void beforeStep(TrainingRun run, long step) {}

    /** All gradients of the step are there, not clipped yet. */
    default void afterBackward(StepContext step) {}

    /** The parameters have moved; the gradients are still there as the optimiser saw them, clipped. */
    default void afterUpdate(StepContext step) {}

    /** The parameters have moved, the gradients are gone. */
    default void afterStep(StepContext step) {}

    /** The model has been judged. */
    default void afterEvaluation(TrainingRun run, long step, Map<String, Double> metrics) {}

    /** The last step is done, and the best state put back where that was asked for. */
    default void afterTraining(TrainingRun run) {}

    /** What must be remembered for a resumed run to go on to the same bits. */
    default Map<String, Tensor> state() {
        return Map.of();
    }

    /**
     * Takes over what {@link #state} gave; before {@link #beforeTraining}, and before parameters and the optimiser's state are
     * read, so that what the run had {@link TrainingRun#grow grown} by can be added again.
     */
    default void load(TrainingRun run, Map<String, Tensor> state) {}
}
