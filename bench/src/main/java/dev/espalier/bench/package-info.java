/** Programs that measure, each beside the same program for a peer in {@code bench/peers}. */
@NullMarked
package dev.espalier.bench;

import org.jspecify.annotations.NullMarked;
