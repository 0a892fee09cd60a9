/**
 * How adapters' parameters are updated. {@link dev.espalier.optim.LoraPlus} gives the two factors of a LoRA rates of their
 * own, and works with any optimiser.
 */
@NullMarked
package dev.espalier.optim;

import org.jspecify.annotations.NullMarked;
