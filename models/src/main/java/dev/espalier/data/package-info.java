/**
 * From a row of a file to a batch of tensors.
 *
 * <p>The walk, one class a stop: {@link dev.espalier.data.Dataset} reads files into {@link dev.espalier.data.Example}s,
 * whose {@link dev.espalier.data.Shape} it recognises and reports; {@code Encoder} turns each into an
 * {@code Encoding} (token ids, and which of them are supervised); {@link Collator}
 * groups encodings into {@code Batch}es in an order that is a pure function of seed and epoch.
 *
 * <p>Every example remembers its source ({@code file:line}), and every complaint begins with it.
 */
@NullMarked
package dev.espalier.data;

import org.jspecify.annotations.NullMarked;
