package dev.espalier.train;

import dev.espalier.tensor.Tensor;
import java.util.Map;

/**
 * Takes part in training at its events, in this order: {@link #beforeTraining}, then for each step {@link #afterBackward}
 * and {@link #afterStep}, after some steps {@link #afterEvaluation}, at last {@link #afterTraining}. Several are called in
 * the order they were given. What tensors a call makes are freed when it returns, unless kept.
 */
public interface Callback {

    /**
     * Before the first step of this process, and after a checkpoint has been read.
     *
     * @param stepsDone 0, or the step that is being resumed after
     */
    default void beforeTraining(TrainingRun run, long stepsDone) {}

    /** All gradients of the step are there, not clipped yet. */
    default void afterBackward(StepContext step) {}

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

    /** Takes over what {@link #state} gave; before {@link #beforeTraining}. */
    default void load(Map<String, Tensor> state) {}
}
