/** Floor 5: many methods on equal terms. A study runs them, its result is what a person decides from. */
@NullMarked
package dev.espalier.compare;

import org.jspecify.annotations.NullMarked;
