package dev.espalier.adapter;

import dev.espalier.io.Fields;

/**
 * A method that makes one part of a training: an optimiser, a layer sampler, a loss term.
 *
 * @param <C> its settings, a record that checks itself; equal settings print alike, for a resumed run compares them
 * @param <P> the part, as the training floor knows it
 */
public interface Part<C, P> extends Configured<C> {

    /**
     * Makes the part for a training that is about to start.
     *
     * @throws dev.espalier.EspalierException if it does not fit the model or the adapter
     */
    P create(C config, Setting setting);

    /** A method with the settings that a recipe gives it. */
    record Chosen<C, P>(Part<C, P> method, C config) {

        /** Makes the part. */
        public P create(Setting setting) {
            return method.create(config, setting);
        }

        /** Reads the settings of a method. */
        public static <C, P> Chosen<C, P> read(Part<C, P> method, Fields f) {
            return new Chosen<>(method, method.read(f));
        }
    }
}
