/**
 * The training loop and what turns gradients into updates. It knows no method: adapters come in as parameters to train,
 * callbacks and loss terms.
 *
 * <p>To add an optimiser: one class that implements {@link dev.espalier.train.Optimizer}, with a nested record that
 * implements {@link dev.espalier.train.Optimizer.Config}, and golden numbers in its test.
 */
@NullMarked
package dev.espalier.train;

import org.jspecify.annotations.NullMarked;
