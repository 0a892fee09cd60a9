package dev.espalier.diagnose;

import static dev.espalier.Check.check;

import java.util.ArrayList;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/**
 * What a diagnosis found: a table, figures for all of it, and perhaps further tables.
 *
 * @param columns names, in snake case
 * @param rows texts, numbers, lists of numbers or null, as many in each row as there are columns
 * @param totals texts and numbers by name
 * @param beside what stands beside it, by its heading
 */
public record Report(
        List<String> columns,
        List<List<@Nullable Object>> rows,
        Map<String, Object> totals,
        Map<String, Report> beside) {

    /** A table alone. */
    public Report(List<String> columns, List<List<@Nullable Object>> rows, Map<String, Object> totals) {
        this(columns, rows, totals, Map.of());
    }

    /** Copies, and checks that rows are as wide as the columns. */
    public Report {
        columns = List.copyOf(columns);
        for (List<@Nullable Object> row : rows) {
            check(
                    row.size() == columns.size(),
                    "a row of a report has %d values for %d columns",
                    row.size(),
                    columns.size());
        }
        rows = Collections.unmodifiableList(new ArrayList<>(rows));
        totals = Collections.unmodifiableMap(new LinkedHashMap<>(totals));
        beside = Collections.unmodifiableMap(new LinkedHashMap<>(beside));
    }
}
