/** What every floor shares: the one exception that speaks to users, and the check that raises it. */
@NullMarked
package dev.espalier;

import org.jspecify.annotations.NullMarked;
