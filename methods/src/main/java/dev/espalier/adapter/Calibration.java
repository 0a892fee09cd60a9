package dev.espalier.adapter;

import dev.espalier.EspalierException;
import dev.espalier.tensor.Tensor;

/** Batches of data on which a method may run the network before training: for gradients, or for what layers receive. */
public interface Calibration {

    /** No data. */
    Calibration NONE = new Calibration() {
        @Override
        public long batches() {
            return 0;
        }

        @Override
        public Tensor loss(long batch) {
            throw new EspalierException("there are no calibration batches");
        }
    };

    /** How many different ones there are. */
    long batches();

    /**
     * Runs the network forward on one batch.
     *
     * @param batch from 0; beyond the last they begin again
     * @return the task's mean loss, a scalar in the current scope; it carries gradients to whatever records them
     */
    Tensor loss(long batch);

    /** What the loss of a batch is a mean over: target tokens, rows. */
    default double units(long batch) {
        return 1;
    }

    /** Data whose knowledge is to stay, where the task tells them from what is to be forgotten: these are then the latter. */
    default Calibration retained() {
        return NONE;
    }

    /**
     * Stops if there is no data.
     *
     * @param method that asks
     */
    default void require(String method) {
        if (batches() == 0) {
            throw new EspalierException(
                    "%s starts from gradients or activations on calibration batches, and there are none; train by a recipe with data, or give a Calibration"
                            .formatted(method));
        }
    }
}
