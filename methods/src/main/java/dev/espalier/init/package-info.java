/**
 * Starting values for low-rank adapters, taken from the weights they stand on.
 *
 * <p>{@link dev.espalier.init.Pissa} starts with the principal part of the weight, {@link dev.espalier.init.Olora} with an
 * orthonormal one. Both take their start out of the layer again by a correction that the adapter keeps, so the network's own
 * weights are never touched and other adapters on it are not disturbed.
 *
 * <p>To add one, implement {@link dev.espalier.adapter.Initializer}, which calls {@link dev.espalier.adapter.Attached#start}
 * for each layer, and name it in {@code META-INF/services/dev.espalier.adapter.Method}.
 */
@NullMarked
package dev.espalier.init;

import org.jspecify.annotations.NullMarked;
