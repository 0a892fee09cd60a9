/**
 * Who gets how much capacity: what methods that give or take ranks during training have in common.
 *
 * <p>{@link dev.espalier.rank.Importance} scores parameters by their gradients, smoothed over steps; {@link
 * dev.espalier.rank.Orthogonality} keeps components apart, so that taking one away does not hurt the others. A method that uses
 * them is an adapter and stands with the adapters.
 */
@NullMarked
package dev.espalier.rank;

import org.jspecify.annotations.NullMarked;
