package dev.espalier.train;

import dev.espalier.tensor.Tensor;

/** Something to be kept small besides the task's loss. */
@FunctionalInterface
public interface LossTerm {

    /**
     * Called after the task's loss of each batch, while gradients are recorded.
     *
     * @return a scalar, added to the mean loss; over an accumulated step, the mean of the batches' values weighted by units
     */
    Tensor value(StepContext step);
}
