/**
 * From the name of a model to its files on this machine: {@link dev.espalier.hub.Hub} knows built-in models, folders,
 * files, and ids of the Hugging Face hub, which it fetches, verifies and caches.
 */
@NullMarked
package dev.espalier.hub;

import org.jspecify.annotations.NullMarked;
