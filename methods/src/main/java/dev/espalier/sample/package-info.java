/**
 * Which layers train at a step: methods that freeze and unfreeze whole blocks of the network while it trains.
 *
 * <p>{@link dev.espalier.sample.Lisa} draws blocks uniformly, {@link
 * dev.espalier.sample.Owlore} by how many outlier weights they hold. To add one, implement {@link
 * dev.espalier.adapter.LayerSampler}: a callback that sets what is trainable before a step runs, and tells the optimiser what to
 * forget.
 */
@NullMarked
package dev.espalier.sample;

import org.jspecify.annotations.NullMarked;
