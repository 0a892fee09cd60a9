/**
 * Who gets how much capacity: what gives or takes ranks, before or during training.
 *
 * <p>{@link dev.espalier.rank.TripletBudget} takes the least important away, {@link dev.espalier.rank.Growth} gives more where it
 * matters, {@link dev.espalier.rank.GateAdam} drives gates to zero, {@link
 * dev.espalier.rank.ModuleSearch} finds what is worth training, {@link dev.espalier.rank.ExpertRouter} gives each token some of them. {@link dev.espalier.rank.SpectrumRanks}
 * settles ranks by the weights' spectra beforehand, {@link dev.espalier.rank.ColumnFreeze} takes columns out of training one by
 * one. {@link dev.espalier.rank.Importance} scores parameters by their
 * gradients, smoothed over steps; {@link dev.espalier.rank.Orthogonality} keeps components apart, so that taking one away does not
 * hurt the others. A method that uses them is an adapter and stands with the adapters; nothing here knows one.
 */
@NullMarked
package dev.espalier.rank;

import org.jspecify.annotations.NullMarked;
