package dev.espalier.task;

import dev.espalier.data.Batch;
import dev.espalier.nn.Module;
import dev.espalier.tensor.Tensor;

/** What a model is to learn: a loss to train by, and metrics to judge by. */
public interface Task {

    /** The model that learns. */
    Module model();

    /**
     * The loss of a batch: a sum, never a mean, because a step may span batches of unequal size; whoever trains divides by
     * the {@link #units} of the whole step.
     *
     * @return a scalar that carries gradients, in the current scope
     */
    Tensor loss(Batch batch);

    /** What the loss of a batch is a sum over: targets, or their class weights. 0 if the batch has nothing to learn. */
    default double units(Batch batch) {
        return (double) batch.targets();
    }

    /** A judge that has seen nothing yet. */
    Evaluator evaluator();

    /** The metric by which two states of the model are compared. */
    Metric metric();

    /**
     * Names a metric and its direction.
     *
     * @param name a key of {@link Evaluator#metrics}
     * @param higherIsBetter false for losses and errors
     */
    record Metric(String name, boolean higherIsBetter) {

        /** Whether a value is strictly better than another; NaN never is. */
        public boolean better(double value, double than) {
            return higherIsBetter ? value > than : value < than;
        }
    }
}
