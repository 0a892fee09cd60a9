package dev.espalier.data;

import static dev.espalier.Check.check;

import dev.espalier.EspalierException;
import java.util.Arrays;
import java.util.Collections;
import java.util.EnumMap;
import java.util.Map;
import java.util.stream.Collectors;
import org.jspecify.annotations.Nullable;

/**
 * How to read a data set.
 *
 * @param columns which column of the file plays which part; parts left out are found by {@link Column#names()}
 * @param shape the shape the task needs, or null to recognise it
 */
public record DataOptions(
        Map<Column, String> columns, @Nullable Shape shape) {

    /** Recognise everything. */
    public static final DataOptions DEFAULT = new DataOptions(Map.of(), null);

    public DataOptions {
        columns = columns.isEmpty() ? Map.of() : Collections.unmodifiableMap(new EnumMap<>(columns));
        for (Column column : columns.keySet()) {
            check(
                    shape == null || shape.uses(column),
                    "columns.%s is set, but %s data has no such column; remove it",
                    column.key(),
                    shape == null ? "" : shape.title());
        }
    }

    /** Recognise the columns, but insist on a shape. */
    public static DataOptions of(Shape shape) {
        return new DataOptions(Map.of(), shape);
    }

    /**
     * From a recipe's {@code columns}, such as {@code {text: review, label: stars}}.
     *
     * @throws EspalierException for a key that is no {@link Column}
     */
    public static DataOptions of(Map<String, String> columns, @Nullable Shape shape) {
        Map<Column, String> byColumn = new EnumMap<>(Column.class);
        columns.forEach((key, name) -> {
            Column column = Column.ofKey(key);
            if (column == null) {
                throw new EspalierException("columns.%s is not a column; the columns are %s"
                        .formatted(
                                key,
                                Arrays.stream(Column.values()).map(Column::key).collect(Collectors.joining(", "))));
            }
            byColumn.put(column, name);
        });
        return new DataOptions(byColumn, shape);
    }
}
