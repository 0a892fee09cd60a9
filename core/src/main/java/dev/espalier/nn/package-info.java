/**
 * The module tree: networks as named parts, whose parameter paths are the keys of their Hugging Face checkpoints, and
 * the layers that adapters may stand in for.
 */
@NullMarked
package dev.espalier.nn;

import org.jspecify.annotations.NullMarked;
