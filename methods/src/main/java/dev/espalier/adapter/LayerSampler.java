package dev.espalier.adapter;

import dev.espalier.train.Callback;

/** Chooses which layers train at a step: a callback that freezes and unfreezes before the step runs. */
public interface LayerSampler<C> extends Part<C, Callback> {}
