package dev.espalier.adapter;

import dev.espalier.EspalierException;

/** Batches of data on which an {@link Initializer} may run the network. */
public interface Calibration {

    /** No data. Methods that need some say so. */
    Calibration NONE = new Calibration() {
        @Override
        public int batches() {
            return 0;
        }

        @Override
        public void backward(int batch) {
            throw new EspalierException("there are no calibration batches");
        }
    };

    /** How many there are. */
    int batches();

    /** Runs the network forward on one batch and the task's mean loss backward, into the gradients of what records them. */
    void backward(int batch);
}
