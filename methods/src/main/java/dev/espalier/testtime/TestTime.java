package dev.espalier.testtime;

import dev.espalier.adapter.Configured;
import dev.espalier.io.Fields;
import dev.espalier.model.SequenceClassifier;

/**
 * Changes what a trained model predicts for a batch by what the batch looks like, without labels and without training: its
 * probabilities, or statistics by which it normalises.
 *
 * @param <C> its settings, a record that checks itself
 */
public interface TestTime<C> extends Configured<C> {

    /**
     * Begins to adapt a model, which may be one with adapters on it.
     *
     * @param model in evaluation mode, left as it was when the adaptation is closed
     * @throws dev.espalier.EspalierException if the model has nothing that the method works on
     */
    Adaptation start(C config, SequenceClassifier model);

    @Override
    default String verb() {
        return "adapt";
    }

    /** A method with its settings. */
    record Chosen<C>(TestTime<C> method, C config) {

        /** Reads the settings of a method. */
        public static <C> Chosen<C> read(TestTime<C> method, Fields f) {
            return new Chosen<>(method, method.read(f));
        }

        /** Begins to adapt a model. */
        public Adaptation start(SequenceClassifier model) {
            return method.start(config, model);
        }
    }
}
