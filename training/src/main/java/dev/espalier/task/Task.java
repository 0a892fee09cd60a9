package dev.espalier.task;

import dev.espalier.data.Batch;
import dev.espalier.nn.Module;
import dev.espalier.tensor.Tensor;

/** What a model is to learn: a loss to train by, and metrics to judge by. */
public interface Task {

    /** The model that learns. */
    Module model();

    /** Runs the model on a batch. What is asked of the outcome is computed when it is asked for, in the scope that is open then. */
    Outcome forward(Batch batch);

    /** The loss of a batch, as {@link Outcome#loss}. */
    default Tensor loss(Batch batch) {
        return forward(batch).loss();
    }

    /** What the model makes of a batch, over what is supervised in it: n rows or tokens. */
    interface Outcome {

        /**
         * The loss: a sum, never a mean, because a step may span batches of unequal size; whoever trains divides by the
         * {@link Task#units} of the whole step.
         *
         * @return a scalar that carries gradients
         */
        Tensor loss();

        /** Logits float32 [n, classes], [n, vocabulary] or, of a regression, [n, 1]; the same tensor at each call. */
        Tensor logits();

        /** What is right: int64 [n] classes or tokens, or float32 [n] scores. */
        Tensor targets();
    }

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
