/** What is learned: the loss of a batch, and the metrics by which a model is judged. */
@NullMarked
package dev.espalier.task;

import org.jspecify.annotations.NullMarked;
