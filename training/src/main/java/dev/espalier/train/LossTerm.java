package dev.espalier.train;

import dev.espalier.task.Task;
import dev.espalier.tensor.Tensor;

/** Something to be kept small besides the task's loss. */
@FunctionalInterface
public interface LossTerm {

    /**
     * Called after the task's loss of each batch, while gradients are recorded.
     *
     * @param outcome what the model made of {@code step.batch()}
     * @return a scalar, added to the mean loss; over an accumulated step, the mean of the batches' values weighted by units
     */
    Tensor value(StepContext step, Task.Outcome outcome);
}
