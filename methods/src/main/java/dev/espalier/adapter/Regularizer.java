package dev.espalier.adapter;

import dev.espalier.train.LossTerm;

/** Adds something to be kept small beside the task's loss. */
public interface Regularizer<C> extends Part<C, LossTerm> {}
