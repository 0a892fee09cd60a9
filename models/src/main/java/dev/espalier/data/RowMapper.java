package dev.espalier.data;

import static dev.espalier.Check.check;

import dev.espalier.EspalierException;
import java.util.ArrayList;
import java.util.EnumMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.stream.Collectors;
import org.jspecify.annotations.Nullable;

/** Turns rows into examples of one {@link Shape}, which the first row decides. */
final class RowMapper {

    private final Shape shape;
    private final Map<Column, String> names;

    private RowMapper(Shape shape, Map<Column, String> names) {
        this.shape = shape;
        this.names = names;
    }

    /**
     * Recognises the shape of a file.
     *
     * @param first its first row
     * @throws EspalierException if a column that the options name, or that the shape needs, is not there
     */
    static RowMapper recognise(Row first, DataOptions options) {
        options.columns()
                .forEach((column, name) -> check(
                        first.values().containsKey(name),
                        "%s: columns.%s names the column \"%s\", but the columns are %s; correct the name",
                        first.source(),
                        column.key(),
                        name,
                        list(first)));
        List<Shape> candidates = new ArrayList<>();
        for (Shape shape : options.shape() == null ? List.of(Shape.values()) : List.of(options.shape())) {
            if (options.columns().keySet().stream().allMatch(shape::uses)) {
                candidates.add(shape);
            }
        }
        for (Shape shape : candidates) {
            Map<Column, String> names = bind(shape, first, options);
            if (names.keySet().containsAll(shape.required())) {
                return new RowMapper(
                        shape == Shape.SHAREGPT || shape == Shape.CHAT ? style(names, first, options) : shape, names);
            }
        }
        throw new EspalierException(
                options.shape() == null
                        ? unrecognised(first)
                        : missing(options.shape(), bind(options.shape(), first, options), first));
    }

    private static Map<Column, String> bind(Shape shape, Row first, DataOptions options) {
        Map<Column, String> names = new EnumMap<>(Column.class);
        List<Column> columns = new ArrayList<>(shape.required());
        columns.addAll(shape.optional());
        for (Column column : columns) {
            String configured = options.columns().get(column);
            if (configured != null) {
                names.put(column, configured);
                continue;
            }
            column.names().stream()
                    .filter(name -> first.values().containsKey(name)
                            && !options.columns().containsValue(name))
                    .findFirst()
                    .ifPresent(name -> names.put(column, name));
        }
        return names;
    }

    /** ShareGPT and messages differ in the names of a turn's fields only. */
    private static Shape style(Map<Column, String> names, Row first, DataOptions options) {
        Object value = first.values().get(names.get(Column.MESSAGES));
        if (options.shape() != null || !(value instanceof List<?> turns) || turns.isEmpty()) {
            return options.shape() == null ? Shape.CHAT : options.shape();
        }
        return turns.get(0) instanceof Map<?, ?> turn && turn.containsKey("from") ? Shape.SHAREGPT : Shape.CHAT;
    }

    private static String missing(Shape shape, Map<Column, String> found, Row first) {
        Column column = shape.required().stream()
                .filter(c -> !found.containsKey(c))
                .findFirst()
                .orElseThrow();
        return "%s: %s data needs a column for the %s (usually \"%s\"), but the columns are %s; name it with columns.%s"
                .formatted(
                        first.source(),
                        shape.title(),
                        column.key(),
                        column.names().get(0),
                        list(first),
                        column.key());
    }

    private static String unrecognised(Row first) {
        String known = List.of(Shape.values()).stream()
                .map(s -> s.required().stream().map(c -> c.names().get(0)).collect(Collectors.joining(" + ")))
                .distinct()
                .collect(Collectors.joining("; "));
        return ("%s: the columns %s fit no known shape (%s); name them in the recipe, as in columns.text: %s, "
                        + "or add a header line if the file has none")
                .formatted(
                        first.source(),
                        list(first),
                        known,
                        first.values().keySet().stream().findFirst().orElse("body"));
    }

    private static String list(Row row) {
        return row.values().isEmpty() ? "none" : String.join(", ", row.values().keySet());
    }

    Shape shape() {
        return shape;
    }

    /** Which column of the file plays which part. */
    Map<Column, String> names() {
        return names;
    }

    /** One row as an example, or a sentence that begins with its source. */
    Example map(Row row) {
        String source = row.source();
        return switch (shape) {
            case LABELLED -> new Example.Labelled(text(row, Column.TEXT), pair(row), label(row), source);
            case SCORED -> new Example.Scored(text(row, Column.TEXT), pair(row), score(row), source);
            case PLAIN -> new Example.Plain(text(row, Column.TEXT), source);
            case PROMPTED -> new Example.Completion(text(row, Column.PROMPT), text(row, Column.COMPLETION), source);
            case ALPACA -> alpaca(row);
            case SHAREGPT, CHAT ->
                TurnReader.chat(
                        row, value(row, Column.MESSAGES), optionalText(row, Column.SYSTEM), value(row, Column.TOOLS));
            case TOKENS -> tokens(row);
        };
    }

    private @Nullable Object value(Row row, Column column) {
        String name = names.get(column);
        if (name != null) {
            return row.values().get(name);
        }
        // A row of JSON may hold optional fields that the first one lacks.
        return shape.optional().contains(column) ? row.values().get(column.key()) : null;
    }

    private Object required(Row row, Column column) {
        Object value = value(row, column);
        String name = names.getOrDefault(column, column.key());
        if (value == null) {
            throw new EspalierException("%s: \"%s\" is missing; the row has %s, so fill it in or delete the row"
                    .formatted(row.source(), name, list(row)));
        }
        return value;
    }

    private String text(Row row, Column column) {
        Object value = required(row, column);
        String name = names.getOrDefault(column, column.key());
        check(
                value instanceof String,
                "%s: \"%s\" must be text, found %s; put it in quotes or name another column with columns.%s",
                row.source(),
                name,
                kind(value),
                column.key());
        String text = (String) value;
        check(!text.isBlank(), "%s: \"%s\" is empty; fill it in or delete the row", row.source(), name);
        return text;
    }

    private @Nullable String optionalText(Row row, Column column) {
        Object value = value(row, column);
        return value == null || (value instanceof String text && text.isBlank()) ? null : text(row, column);
    }

    /** Either every row has a second text or none has: a gap would change the meaning of the row. */
    private @Nullable String pair(Row row) {
        return names.containsKey(Column.TEXT_PAIR) ? text(row, Column.TEXT_PAIR) : null;
    }

    private String label(Row row) {
        Object value = required(row, Column.LABEL);
        check(
                value instanceof String || value instanceof Number || value instanceof Boolean,
                "%s: the label must be one name or number, found %s; several labels a row are not supported",
                row.source(),
                kind(value));
        String label = value.toString().strip();
        check(!label.isEmpty(), "%s: the label is empty; fill it in or delete the row", row.source());
        return label;
    }

    private double score(Row row) {
        Object value = required(row, Column.SCORE);
        return number(value, row.source());
    }

    /** A finite number, or a sentence. */
    static double number(Object value, String source) {
        double number = Double.NaN;
        if (value instanceof Number n) {
            number = n.doubleValue();
        } else if (value instanceof String s) {
            try {
                number = Double.parseDouble(s.strip());
            } catch (NumberFormatException e) {
                throw new EspalierException(
                        "%s: the score must be a number, found \"%s\"; correct it or delete the row"
                                .formatted(source, s),
                        e);
            }
        }
        check(Double.isFinite(number), "%s: the score must be a finite number, found %s; correct it", source, value);
        return number;
    }

    private Example alpaca(Row row) {
        List<Turn> turns = new ArrayList<>();
        String system = optionalText(row, Column.SYSTEM);
        if (system != null) {
            turns.add(new Turn("system", system));
        }
        if (value(row, Column.HISTORY) instanceof List<?> history) {
            for (Object pair : history) {
                check(
                        pair instanceof List<?> p
                                && p.size() == 2
                                && p.get(0) instanceof String
                                && p.get(1) instanceof String,
                        "%s: \"history\" must be a list of [question, answer], found %s; correct it",
                        row.source(),
                        pair);
                turns.add(new Turn("user", (String) ((List<?>) pair).get(0)));
                turns.add(new Turn("assistant", (String) ((List<?>) pair).get(1)));
            }
        }
        String input = optionalText(row, Column.INPUT);
        String instruction = text(row, Column.INSTRUCTION);
        turns.add(new Turn("user", input == null ? instruction : instruction + "\n\n" + input));
        turns.add(new Turn("assistant", text(row, Column.OUTPUT)));
        return new Example.Chat(turns, List.of(), row.source());
    }

    private Example tokens(Row row) {
        int[] ids = ints(required(row, Column.INPUT_IDS), "input_ids", row.source());
        boolean[] supervised = new boolean[ids.length];
        Object labels = row.values().get("labels");
        int[] targets = labels == null ? ids : ints(labels, "labels", row.source());
        check(
                targets.length == ids.length,
                "%s: labels has %d entries for %d input_ids; they must be as many",
                row.source(),
                targets.length,
                ids.length);
        for (int i = 0; i < ids.length; i++) {
            supervised[i] = targets[i] != -100;
            check(
                    !supervised[i] || targets[i] == ids[i],
                    "%s: labels[%d] is %d where input_ids has %d; a label is its own token or -100",
                    row.source(),
                    i,
                    targets[i],
                    ids[i]);
        }
        return new Example.Tokens(ids, supervised, row.source());
    }

    private static int[] ints(Object value, String name, String source) {
        check(value instanceof List<?>, "%s: \"%s\" must be a list of integers, found %s", source, name, kind(value));
        List<?> list = (List<?>) value;
        int[] ints = new int[list.size()];
        for (int i = 0; i < ints.length; i++) {
            Object item = list.get(i);
            boolean integer = (item instanceof Integer || item instanceof Long)
                    && ((Number) item).longValue() == ((Number) item).intValue();
            check(integer, "%s: %s[%d] must be a token id, found %s; correct it", source, name, i, item);
            ints[i] = ((Number) item).intValue();
        }
        return ints;
    }

    private static String kind(@Nullable Object value) {
        if (value instanceof List<?>) {
            return "a list";
        }
        if (value instanceof Map<?, ?>) {
            return "an object";
        }
        return value instanceof Number || value instanceof Boolean ? value.toString() : String.valueOf(value);
    }

    /** Columns of the first row that nothing reads. */
    static List<String> unused(Row first, Map<Column, String> names) {
        Map<String, Boolean> left = new LinkedHashMap<>();
        first.values().keySet().forEach(name -> left.put(name, true));
        names.values().forEach(left::remove);
        return List.copyOf(left.keySet());
    }
}
