/**
 * Predictions that adapt to the batch they are asked for, without labels and without training.
 *
 * <p>{@link dev.espalier.testtime.Lame} corrects the probabilities of a batch so that neighbours agree. It helps on streams whose
 * neighbours share their class, and harms small batches of many classes: look at both accuracies that {@code espalier adapt} prints.
 *
 * <p>To add a method, implement {@link dev.espalier.testtime.TestTime} and name it in {@code
 * META-INF/services/dev.espalier.adapter.Method}. One that changes how the network normalises does so in {@code start} and undoes it
 * in {@code close}.
 */
@NullMarked
package dev.espalier.testtime;

import org.jspecify.annotations.NullMarked;
