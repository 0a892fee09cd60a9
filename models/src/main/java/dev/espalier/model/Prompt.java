package dev.espalier.model;

import dev.espalier.tensor.Tensor;

/**
 * What stands before every sequence that a network reads, learnt instead of written: n places that hold no token.
 *
 * <p>Tokens see all of them and are numbered from n on. No one asks what the network makes of them: {@link Backbone#forward}
 * leaves them out, and a cache does not count them.
 */
public sealed interface Prompt {

    /** The number of places n. */
    long length();

    /**
     * Places that run through the network as tokens do.
     *
     * @param rows in place of rows of the token table [n, D]
     */
    record Embeddings(Tensor rows) implements Prompt {
        @Override
        public long length() {
            return rows.size(0);
        }
    }

    /**
     * Places that each layer finds ready: their keys, as attention takes them, and values.
     *
     * @param rows [n, 2 L, K, E], a layer's keys followed by its values
     */
    record KeyValues(Tensor rows) implements Prompt {
        @Override
        public long length() {
            return rows.size(0);
        }
    }
}
