package dev.espalier.io;

import static dev.espalier.io.Faults.shown;

import java.math.BigInteger;
import java.util.ArrayList;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.function.Function;
import org.jspecify.annotations.Nullable;

/** Turns the values of JSON and YAML into the types {@link Fields} answers with, without loss or not at all. */
final class FieldValues {

    private FieldValues() {}

    /** How a value reads in a message: {@code text "abc"}, {@code number 3}, {@code a list}. */
    static String describe(@Nullable Object value) {
        if (value == null) {
            return "null";
        } else if (value instanceof String s) {
            return "the text \"" + shown(s.length() > 60 ? s.substring(0, 57) + "..." : s) + "\"";
        } else if (value instanceof Map) {
            return "a map";
        } else if (value instanceof List) {
            return "a list";
        }
        return String.valueOf(value);
    }

    /** A value of another type than asked for; never leaves this class. */
    static final class Mismatch extends RuntimeException {
        private static final long serialVersionUID = 1L;
        final String wanted;
        final transient @Nullable Object found;

        Mismatch(String wanted) {
            this(wanted, null);
        }

        Mismatch(String wanted, @Nullable Object found) {
            super(wanted, null, false, false);
            this.wanted = wanted;
            this.found = found;
        }
    }

    static String asString(Object value) {
        if (value instanceof String s) {
            return s;
        }
        throw new Mismatch("text", value);
    }

    static boolean asBoolean(Object value) {
        if (value instanceof Boolean b) {
            return b;
        }
        throw new Mismatch("true or false", value);
    }

    static double asDouble(Object value) {
        if (value instanceof Number n) {
            return n.doubleValue();
        }
        throw new Mismatch("a number", value);
    }

    static int asInt(Object value) {
        long wide = asLong(value);
        if ((int) wide == wide) {
            return (int) wide;
        }
        throw new Mismatch("an integer of at most 32 bits", value);
    }

    static long asLong(Object value) {
        if (value instanceof Long || value instanceof Integer || value instanceof Short || value instanceof Byte) {
            return ((Number) value).longValue();
        }
        if (value instanceof BigInteger big) {
            if (big.bitLength() < 64) {
                return big.longValue();
            }
            throw new Mismatch("an integer of at most 64 bits", value);
        }
        // Some writers turn 8 into 8.0; nothing is lost in taking it.
        if (value instanceof Number n
                && n.doubleValue() == Math.rint(n.doubleValue())
                && Math.abs(n.doubleValue()) < 1e15) {
            return n.longValue();
        }
        throw new Mismatch("an integer", value);
    }

    static <T> List<T> asList(Object value, Function<Object, T> item) {
        if (!(value instanceof List<?> list)) {
            return List.of(item.apply(value));
        }
        List<T> result = new ArrayList<>();
        for (Object element : list) {
            if (element == null) {
                throw new Mismatch("a list without null");
            }
            result.add(item.apply(element));
        }
        return List.copyOf(result);
    }

    static Map<String, Object> asMap(Object value) {
        if (!(value instanceof Map<?, ?> map)) {
            throw new Mismatch("a map", value);
        }
        Map<String, Object> result = new LinkedHashMap<>();
        map.forEach((key, v) -> result.put(String.valueOf(key), v));
        return Collections.unmodifiableMap(result);
    }

    static <T> Map<String, T> asMap(Object value, Function<Object, T> item) {
        Map<String, T> result = new LinkedHashMap<>();
        asMap(value).forEach((key, v) -> {
            if (v == null) {
                throw new Mismatch("a map without null");
            }
            result.put(key, item.apply(v));
        });
        return Collections.unmodifiableMap(result);
    }
}
