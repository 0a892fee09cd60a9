package dev.espalier.data;

import java.util.Map;
import org.jspecify.annotations.Nullable;

/**
 * One row of a file, not yet understood.
 *
 * @param source {@code file:line}
 * @param values column name to value: String, Number, Boolean, List, Map or null, in the file's order
 */
record Row(String source, Map<String, @Nullable Object> values) {}
