package dev.espalier.train;

import java.util.Map;

/** Shows how far a training is; called on the training's thread. */
public interface ProgressListener extends AutoCloseable {

    /** After every step. */
    void step(Progress progress);

    /** After an evaluation. */
    default void evaluated(long step, Map<String, Double> metrics) {}

    /** Training ends, in whatever way. */
    @Override
    default void close() {}
}
