package dev.espalier.adapter;

import dev.espalier.train.Optimizer;

/**
 * Turns gradients into updates. What it makes is not the optimiser but its settings, bound to the model it is for: pairs of
 * factors, matrices to be projected.
 */
public interface OptimizerMethod<C> extends Part<C, Optimizer.Config> {}
