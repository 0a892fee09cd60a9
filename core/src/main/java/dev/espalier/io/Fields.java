package dev.espalier.io;

import static dev.espalier.io.Faults.shown;

import dev.espalier.EspalierException;
import dev.espalier.Nearest;
import java.util.ArrayList;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.TreeSet;
import java.util.function.Consumer;
import java.util.function.Function;
import org.jspecify.annotations.Nullable;

/**
 * Reads a map of settings (from JSON, YAML or a command line) field by field, into a record.
 *
 * <pre>{@code
 * static Config read(Fields f) {
 *     return new Config(f.integer("rank", DEFAULT.rank()), f.number("alpha", DEFAULT.alpha()));
 * }
 * Fields f = Fields.of("recipe.yaml", map);
 * Config config = read(f.fields("adapter"));
 * f.done(); // recipe.yaml: adapter.rnk is not a field; did you mean rank?
 * }</pre>
 *
 * <p>A field is what its reader asks for: a key that nobody asked for is an error at {@link #done()}. A value of the wrong
 * type is an error at once; its range is the record's business. A key set to {@code null} counts as absent, except in
 * {@link #orNull}. Not for use by several threads.
 */
public final class Fields {

    /**
     * A field some reader asks for.
     *
     * @param name dotted path, as a user would write it
     * @param type what it takes: {@code text}, {@code integer}, {@code number}, {@code true or false}, ...
     * @param defaultValue used when the field is absent; null if there is none
     * @param required whether it must be given
     */
    public record Field(String name, String type, @Nullable Object defaultValue, boolean required) {}

    private final String where;
    private final String path; // "" or "adapter."
    private final Map<String, Object> values;
    private final Map<String, Field> asked = new LinkedHashMap<>();
    private final Map<String, Fields> children = new LinkedHashMap<>();
    private final boolean recording;
    private Map<String, ?> supposed = Map.of();

    private Fields(String where, String path, Map<String, ?> values, boolean recording) {
        this.where = where;
        this.path = path;
        this.values = Collections.unmodifiableMap(new LinkedHashMap<>(values));
        this.recording = recording;
    }

    /**
     * Settings to be read.
     *
     * @param where where they come from (a file's name), for messages; may be empty
     */
    public static Fields of(String where, Map<String, ?> values) {
        return new Fields(where, "", values, false);
    }

    /**
     * The fields a reader asks for, with their defaults, in the order it asks.
     *
     * <p>The reader runs on empty settings. A required field answers with a neutral value (1, "", false, empty), so the
     * reader may fail in the record's checks after it asked; that is expected.
     */
    public static List<Field> askedBy(Consumer<Fields> reader) {
        Fields recorder = new Fields("", "", Map.of(), true);
        try {
            reader.accept(recorder);
        } catch (EspalierException e) {
            // A neutral value was out of range: all that was asked until then is recorded.
        }
        List<Field> found = new ArrayList<>();
        recorder.collect(found);
        return found;
    }

    private void collect(List<Field> into) {
        for (Field field : asked.values()) {
            Fields child = children.get(field.name().substring(path.length()));
            if (child != null && !child.asked.isEmpty()) {
                child.collect(into);
            } else {
                into.add(field);
            }
        }
    }

    /** Values that fields take where they are not given, instead of their readers' defaults. */
    public void suppose(Map<String, ?> others) {
        supposed = Map.copyOf(others);
    }

    /** Whether the field is given and not null. Does not count as asking for it. */
    public boolean has(String name) {
        return values.get(name) != null;
    }

    /** The names given, in order. */
    public Iterable<String> names() {
        return values.keySet();
    }

    /** Text. */
    public String string(String name, String defaultValue) {
        return read(name, "text", defaultValue, FieldValues::asString);
    }

    /** Text that must be given. */
    public String string(String name) {
        return required(name, "text", "", FieldValues::asString);
    }

    /** A whole number of 32 bits. */
    public int integer(String name, int defaultValue) {
        return read(name, "integer", defaultValue, FieldValues::asInt);
    }

    /** A whole number of 32 bits that must be given. */
    public int integer(String name) {
        return required(name, "integer", 1, FieldValues::asInt);
    }

    /** A whole number of 64 bits. */
    public long longInteger(String name, long defaultValue) {
        return read(name, "integer", defaultValue, FieldValues::asLong);
    }

    /** A whole number of 64 bits that must be given. */
    public long longInteger(String name) {
        return required(name, "integer", 1L, FieldValues::asLong);
    }

    /** A number. */
    public double number(String name, double defaultValue) {
        return read(name, "number", defaultValue, FieldValues::asDouble);
    }

    /** A number that must be given. */
    public double number(String name) {
        return required(name, "number", 1.0, FieldValues::asDouble);
    }

    /** True or false. */
    public boolean bool(String name, boolean defaultValue) {
        return read(name, "true or false", defaultValue, FieldValues::asBoolean);
    }

    /** A list of texts; a single text counts as a list of one. */
    public List<String> strings(String name, List<String> defaultValue) {
        return read(name, "list of texts", defaultValue, v -> FieldValues.asList(v, FieldValues::asString));
    }

    /** A list of texts that must be given; a single text counts as a list of one. */
    public List<String> strings(String name) {
        return required(name, "list of texts", List.<String>of(), v -> FieldValues.asList(v, FieldValues::asString));
    }

    /** A list of whole numbers; a single number counts as a list of one. */
    public List<Integer> integers(String name, List<Integer> defaultValue) {
        return read(name, "list of integers", defaultValue, v -> FieldValues.asList(v, FieldValues::asInt));
    }

    /** A list of whole numbers of 64 bits that must be given; a single number counts as a list of one. */
    public List<Long> longs(String name) {
        return required(name, "list of integers", List.<Long>of(), v -> FieldValues.asList(v, FieldValues::asLong));
    }

    /** A list of numbers; a single number counts as a list of one. */
    public List<Double> numbers(String name, List<Double> defaultValue) {
        return read(name, "list of numbers", defaultValue, v -> FieldValues.asList(v, FieldValues::asDouble));
    }

    /** A map whose keys are free (module names, labels) and whose values are whole numbers. */
    public Map<String, Integer> integerMap(String name, Map<String, Integer> defaultValue) {
        return read(name, "map of integers", defaultValue, v -> FieldValues.asMap(v, FieldValues::asInt));
    }

    /** A map whose keys are free (module names, labels) and whose values are numbers. */
    public Map<String, Double> numberMap(String name, Map<String, Double> defaultValue) {
        return read(name, "map of numbers", defaultValue, v -> FieldValues.asMap(v, FieldValues::asDouble));
    }

    /** A map whose keys are free and whose values are texts. */
    public Map<String, String> stringMap(String name, Map<String, String> defaultValue) {
        return read(name, "map of texts", defaultValue, v -> FieldValues.asMap(v, FieldValues::asString));
    }

    /** A map taken as it is. */
    public Map<String, Object> map(String name, Map<String, Object> defaultValue) {
        return read(name, "map", defaultValue, FieldValues::asMap);
    }

    /** A constant of an enum, written in any letter case. */
    public <E extends Enum<E>> E choice(String name, E defaultValue) {
        Class<E> type = defaultValue.getDeclaringClass();
        List<String> known = new ArrayList<>();
        for (E constant : type.getEnumConstants()) {
            known.add(constant.name().toLowerCase(Locale.ROOT));
        }
        return read(name, String.join(" | ", known), defaultValue, v -> {
            for (E constant : type.getEnumConstants()) {
                if (v instanceof String s && s.equalsIgnoreCase(constant.name())) {
                    return constant;
                }
            }
            throw new FieldValues.Mismatch("one of " + String.join(", ", known));
        });
    }

    /**
     * A field that may be left out or null and has no default.
     *
     * @param reader how to read it when it is there: {@code f.orNull("revision", Fields::string)}
     */
    public <T> @Nullable T orNull(String name, Reader<T> reader) {
        if (has(name)) {
            return reader.read(this, name);
        }
        ask(name, "optional", null, false);
        return null;
    }

    /** Reads one named field. */
    @FunctionalInterface
    public interface Reader<T> {
        /** Reads the named field of these. */
        T read(Fields fields, String name);
    }

    /** A field of any type, as it is in the map, or null. */
    public @Nullable Object any(String name) {
        ask(name, "anything", null, false);
        return values.get(name);
    }

    /** Nested fields; empty ones if absent. {@link #done()} covers them. */
    public Fields fields(String name) {
        Fields known = children.get(name);
        if (known != null) {
            return known;
        }
        Map<String, Object> nested = read(name, "fields", Map.of(), FieldValues::asMap);
        Fields child = new Fields(where, path + name + ".", nested, recording);
        children.put(name, child);
        return child;
    }

    /** A list of nested fields, empty if absent. {@link #done()} covers them. */
    public List<Fields> fieldsList(String name) {
        List<Map<String, Object>> items =
                read(name, "list of fields", List.of(), v -> FieldValues.asList(v, FieldValues::asMap));
        List<Fields> list = new ArrayList<>();
        for (int i = 0; i < items.size(); i++) {
            String key = name + "[" + i + "]";
            int index = i;
            list.add(
                    children.computeIfAbsent(key, k -> new Fields(where, path + k + ".", items.get(index), recording)));
        }
        return list;
    }

    /** Accepts fields that are known and deliberately not used. */
    public void ignore(String... names) {
        for (String name : names) {
            ask(name, "ignored", null, false);
        }
    }

    /** What is given and nobody asked for. */
    public Map<String, Object> unread() {
        Map<String, Object> rest = new LinkedHashMap<>(values);
        rest.keySet().removeAll(asked.keySet());
        return rest;
    }

    /**
     * Stops if anything is given, here or in nested fields, that nobody asked for.
     *
     * @throws EspalierException naming each such field and the known one nearest to it
     */
    public void done() {
        List<String> complaints = new ArrayList<>();
        complain(complaints);
        if (!complaints.isEmpty()) {
            throw new EspalierException(prefix() + String.join("; ", complaints));
        }
    }

    private void complain(List<String> complaints) {
        TreeSet<String> known = new TreeSet<>(asked.keySet());
        for (String name : unread().keySet()) {
            complaints.add("%s is not a field; %s".formatted(shown(path + name), Nearest.hint(name, known)));
        }
        for (Fields child : children.values()) {
            child.complain(complaints);
        }
    }

    /**
     * A sentence about one of these fields, with its place in front: for rules that span fields.
     *
     * @return the exception to throw
     */
    public EspalierException fault(String name, String sentence) {
        return new EspalierException(place(name) + " " + sentence);
    }

    /** File and path, as they stand in front of a sentence about a field. */
    private String place(String name) {
        return prefix() + shown(path + name);
    }

    private String prefix() {
        return where.isEmpty() ? "" : where + ": ";
    }

    private void ask(String name, String type, @Nullable Object defaultValue, boolean required) {
        asked.putIfAbsent(name, new Field(path + name, type, defaultValue, required));
    }

    private <T> T read(String name, String type, T defaultValue, Function<Object, T> convert) {
        ask(name, type, defaultValue, false);
        Object value = has(name) ? values.get(name) : supposed.get(name);
        return value == null ? defaultValue : convert(name, type, value, convert);
    }

    private <T> T required(String name, String type, T neutral, Function<Object, T> convert) {
        ask(name, type, null, true);
        Object value = values.get(name);
        if (value == null) {
            if (recording) {
                return neutral;
            }
            String near = Nearest.of(name, unread().keySet());
            throw new EspalierException("%s is missing; it takes %s%s"
                    .formatted(place(name), article(type), near == null ? "" : " (found " + shown(near) + ")"));
        }
        return convert(name, type, value, convert);
    }

    private <T> T convert(String name, String type, Object value, Function<Object, T> convert) {
        try {
            return convert.apply(value);
        } catch (FieldValues.Mismatch e) {
            String wanted = e.wanted.isEmpty() ? article(type) : e.wanted;
            throw new EspalierException("%s should be %s, found %s"
                    .formatted(place(name), wanted, FieldValues.describe(e.found == null ? value : e.found)));
        }
    }

    private static String article(String type) {
        return switch (type) {
            case "text", "true or false", "fields" -> type;
            case "integer" -> "an integer";
            default -> "a " + type;
        };
    }
}
