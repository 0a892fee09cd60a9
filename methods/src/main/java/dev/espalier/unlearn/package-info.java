/**
 * Making a language model forget what it was trained on, and keep the rest.
 *
 * <p>A method is an {@link dev.espalier.unlearn.Unlearning}: a loss that is small where a batch is forgotten. {@link
 * dev.espalier.unlearn.UnlearnTask} joins it with batches of what is to be retained, for the ordinary trainer.
 *
 * <p><b>The methods here.</b> {@link dev.espalier.unlearn.Loku} is the one to begin with: its loss is bounded and stops by itself,
 * and its start, {@code fila} in {@code dev.espalier.init}, makes it quick. {@link dev.espalier.unlearn.Npo} is bounded too, and
 * needs the original model's answers; {@link dev.espalier.unlearn.GradientAscent} is the reference that goes astray.
 *
 * <p>To add one, implement {@link dev.espalier.unlearn.Unlearning} and name it in {@code
 * META-INF/services/dev.espalier.adapter.Method}.
 */
@NullMarked
package dev.espalier.unlearn;

import org.jspecify.annotations.NullMarked;
