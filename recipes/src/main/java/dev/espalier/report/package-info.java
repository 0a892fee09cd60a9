/** Floor 5: a study's result as a page that a person decides from. */
@NullMarked
package dev.espalier.report;

import org.jspecify.annotations.NullMarked;
