package dev.espalier.model;

import java.util.List;

/** What a checkpoint is loaded for: which head goes on its backbone. */
public sealed interface Purpose {

    /** To predict next tokens. */
    record CausalLanguageModel() implements Purpose {}

    /**
     * To classify sequences.
     *
     * @param labels names of the classes in order; empty: those of the checkpoint. Where they differ from the
     *     checkpoint's, the head is made anew
     */
    record Classification(List<String> labels) implements Purpose {
        /** Copies. */
        public Classification {
            labels = List.copyOf(labels);
        }
    }

    /** To predict a number for each sequence. */
    record Regression() implements Purpose {}

    /** To turn sequences into vectors. */
    record Embedding() implements Purpose {}

    /** To predict next tokens. */
    static Purpose causalLm() {
        return new CausalLanguageModel();
    }

    /** To classify sequences; without labels, by the checkpoint's. */
    static Purpose classification(String... labels) {
        return new Classification(List.of(labels));
    }

    /** To classify sequences; without labels, by the checkpoint's. */
    static Purpose classification(List<String> labels) {
        return new Classification(labels);
    }

    /** To predict a number for each sequence. */
    static Purpose regression() {
        return new Regression();
    }

    /** To turn sequences into vectors. */
    static Purpose embedding() {
        return new Embedding();
    }
}
