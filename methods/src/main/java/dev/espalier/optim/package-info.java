/**
 * How parameters are updated. {@link dev.espalier.optim.LoraPlus} gives the two factors of a LoRA rates of their own, and works with
 * any optimiser; {@link dev.espalier.optim.LoraPro} moves both together, so that their effect is nearest to full fine-tuning's step.
 * {@link dev.espalier.optim.GaLore} and {@link dev.espalier.optim.DctAdamW} train whole weights with state in a subspace of each
 * gradient, {@link dev.espalier.optim.Frugal} with state for a share of each and signs for the rest. A rule for single matrices is a {@code PerParameter.Rule}, which says what it remembers and moves one parameter.
 */
@NullMarked
package dev.espalier.optim;

import org.jspecify.annotations.NullMarked;
