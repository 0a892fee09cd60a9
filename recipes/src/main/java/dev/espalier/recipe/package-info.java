/**
 * A recipe composes a model, a task, an adapter and training; {@code Run} carries it out.
 *
 * <p>The same records come from a builder, from YAML, or from the settings saved beside an adapter.
 */
@NullMarked
package dev.espalier.recipe;

import org.jspecify.annotations.NullMarked;
