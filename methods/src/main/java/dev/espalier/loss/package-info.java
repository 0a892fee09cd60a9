/**
 * Terms beside the task's loss: what a training is to keep small besides its mistakes.
 *
 * <p>To add one, implement {@link dev.espalier.adapter.Regularizer} and name it in {@code
 * META-INF/services/dev.espalier.adapter.Method}; recipes list it under {@code train.losses}.
 */
@NullMarked
package dev.espalier.loss;

import org.jspecify.annotations.NullMarked;
