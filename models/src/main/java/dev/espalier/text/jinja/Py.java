package dev.espalier.text.jinja;

import java.math.BigDecimal;
import java.math.MathContext;
import java.util.ArrayList;
import java.util.Iterator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/**
 * Python's values as Java's: str is String, int Long, float Double, bool Boolean, list List, dict Map; the rest stands
 * here. Strings count in code points, as Python's do.
 */
final class Py {

    /** No text of a rendering may grow beyond this many chars, nor a list beyond this many items. */
    static final int MAX_SIZE = 1 << 24;

    private Py() {}

    /** Python's None. */
    enum None {
        NONE
    }

    /** A list that prints with parentheses. */
    record Tuple(List<Object> items) {}

    /** What a name or a member that does not exist gives: prints as nothing, fails when used. */
    record Undefined(String complaint) {}

    /** An object whose members a template may set, across the borders of loops. */
    record Namespace(Map<String, Object> members) {}

    /** A string, number, boolean, list or map of Java's as a template sees it; a copy, so that templates share nothing. */
    static Object of(@Nullable Object value) {
        if (value == null) {
            return None.NONE;
        }
        if (value instanceof String || value instanceof Boolean || value instanceof Long || value instanceof Double) {
            return value;
        }
        if (value instanceof Integer || value instanceof Short || value instanceof Byte) {
            return ((Number) value).longValue();
        }
        if (value instanceof Float || value instanceof BigDecimal) {
            return ((Number) value).doubleValue();
        }
        if (value instanceof Map<?, ?> map) {
            Map<Object, Object> copy = new LinkedHashMap<>();
            map.forEach((key, item) -> copy.put(of(key), of(item)));
            return copy;
        }
        if (value instanceof Iterable<?> items) {
            List<Object> copy = new ArrayList<>();
            items.forEach(item -> copy.add(of(item)));
            return copy;
        }
        throw Fault.of(
                "a template cannot read a %s; pass strings, numbers, booleans, lists and maps",
                value.getClass().getSimpleName());
    }

    static boolean truth(Object value) {
        if (value instanceof Boolean bool) {
            return bool;
        }
        if (value instanceof Long number) {
            return number != 0;
        }
        if (value instanceof Double number) {
            return number != 0;
        }
        if (value instanceof String || value instanceof List || value instanceof Tuple || value instanceof Map) {
            return length(value) > 0;
        }
        return value != None.NONE && !(value instanceof Undefined);
    }

    /** The type's name in Python, for messages. */
    static String type(Object value) {
        if (value instanceof String) {
            return "str";
        }
        if (value instanceof Long) {
            return "int";
        }
        if (value instanceof Double) {
            return "float";
        }
        if (value instanceof Boolean) {
            return "bool";
        }
        if (value instanceof List) {
            return "list";
        }
        if (value instanceof Map) {
            return "dict";
        }
        if (value == None.NONE) {
            return "NoneType";
        }
        return value instanceof Callable
                ? "function"
                : value.getClass().getSimpleName().toLowerCase(java.util.Locale.ROOT);
    }

    static int length(Object value) {
        if (value instanceof String text) {
            return text.codePointCount(0, text.length());
        }
        if (value instanceof List<?> list) {
            return list.size();
        }
        if (value instanceof Tuple tuple) {
            return tuple.items().size();
        }
        if (value instanceof Map<?, ?> map) {
            return map.size();
        }
        if (value instanceof Undefined) {
            return 0;
        }
        throw Fault.of("%s has no length", described(value));
    }

    /** What a for loop runs over: characters, items, keys, or nothing of something undefined. */
    @SuppressWarnings("unchecked")
    static List<Object> items(Object value) {
        if (value instanceof List<?> list) {
            return (List<Object>) list;
        }
        if (value instanceof Tuple tuple) {
            return tuple.items();
        }
        if (value instanceof Map<?, ?> map) {
            return new ArrayList<>(map.keySet());
        }
        if (value instanceof String text) {
            List<Object> characters = new ArrayList<>();
            text.codePoints().forEach(point -> characters.add(Character.toString(point)));
            return characters;
        }
        if (value instanceof Undefined) {
            return List.of();
        }
        throw Fault.of("%s cannot be iterated over", described(value));
    }

    @SuppressWarnings("unchecked")
    static Map<Object, Object> dict(Object value) {
        if (value instanceof Map<?, ?> map) {
            return (Map<Object, Object>) map;
        }
        throw Fault.of("expected a dict, found %s", described(value));
    }

    static long integer(Object value) {
        if (value instanceof Long number) {
            return number;
        }
        if (value instanceof Boolean bool) {
            return bool ? 1 : 0;
        }
        throw Fault.of("expected an integer, found %s", described(value));
    }

    /** An integer that counts something of ours: out of int's range is out of bounds. */
    static int index(Object value) {
        return (int) Math.max(Integer.MIN_VALUE, Math.min(Integer.MAX_VALUE, integer(value)));
    }

    static String text(Object value) {
        if (value instanceof String text) {
            return text;
        }
        throw Fault.of("expected a string, found %s", described(value));
    }

    static Object defined(Object value) {
        if (value instanceof Undefined undefined) {
            throw Fault.of("%s", undefined.complaint());
        }
        return value;
    }

    static String described(Object value) {
        if (value instanceof Undefined undefined) {
            return "an undefined value (" + undefined.complaint() + ")";
        }
        String repr = repr(value);
        return type(value) + " " + (repr.length() <= 60 ? repr : repr.substring(0, 57) + "...");
    }

    /** Python's {@code str()}. */
    static String str(Object value) {
        return value instanceof String text ? text : value instanceof Undefined ? "" : repr(value);
    }

    /** Python's {@code repr()}. */
    static String repr(Object value) {
        StringBuilder out = new StringBuilder();
        repr(value, out);
        return out.toString();
    }

    private static void repr(Object value, StringBuilder out) {
        bounded(out.length());
        if (value instanceof String text) {
            quote(text, out);
        } else if (value instanceof Boolean bool) {
            out.append(bool ? "True" : "False");
        } else if (value instanceof Double number) {
            out.append(number(number));
        } else if (value instanceof List<?> list) {
            sequence('[', list.iterator(), "]", out);
        } else if (value instanceof Tuple tuple) {
            sequence('(', tuple.items().iterator(), tuple.items().size() == 1 ? ",)" : ")", out);
        } else if (value instanceof Map<?, ?> map) {
            out.append('{');
            String comma = "";
            for (Map.Entry<?, ?> entry : map.entrySet()) {
                out.append(comma);
                repr(entry.getKey(), out);
                out.append(": ");
                repr(entry.getValue(), out);
                comma = ", ";
            }
            out.append('}');
        } else if (value == None.NONE) {
            out.append("None");
        } else if (value instanceof Undefined) {
            out.append("Undefined");
        } else if (value instanceof Namespace namespace) {
            out.append("<Namespace ");
            repr(namespace.members(), out);
            out.append('>');
        } else if (value instanceof Callable callable) {
            out.append("<function ").append(callable.name()).append('>');
        } else {
            out.append(value);
        }
    }

    private static void sequence(char open, Iterator<?> items, String close, StringBuilder out) {
        out.append(open);
        while (items.hasNext()) {
            repr(items.next(), out);
            if (items.hasNext()) {
                out.append(", ");
            }
        }
        out.append(close);
    }

    private static void quote(String text, StringBuilder out) {
        char quote = text.indexOf('\'') >= 0 && text.indexOf('"') < 0 ? '"' : '\'';
        out.append(quote);
        text.codePoints().forEach(c -> {
            switch (c) {
                case '\n' -> out.append("\\n");
                case '\r' -> out.append("\\r");
                case '\t' -> out.append("\\t");
                case '\\' -> out.append("\\\\");
                default -> {
                    if (c == quote) {
                        out.append('\\').append(quote);
                    } else if (c == ' ' || printable(c)) {
                        out.appendCodePoint(c);
                    } else {
                        out.append((c < 0x100 ? "\\x%02x" : c < 0x10000 ? "\\u%04x" : "\\U%08x").formatted(c));
                    }
                }
            }
        });
        out.append(quote);
    }

    private static boolean printable(int c) {
        return switch (Character.getType(c)) {
            case Character.CONTROL,
                    Character.FORMAT,
                    Character.SURROGATE,
                    Character.PRIVATE_USE,
                    Character.UNASSIGNED,
                    Character.LINE_SEPARATOR,
                    Character.PARAGRAPH_SEPARATOR,
                    Character.SPACE_SEPARATOR -> false;
            default -> true;
        };
    }

    /** A float as Python prints it: the fewest digits that read back as the same number. */
    static String number(double value) {
        if (Double.isNaN(value)) {
            return "nan";
        }
        if (Double.isInfinite(value)) {
            return value > 0 ? "inf" : "-inf";
        }
        if (value == 0) {
            return 1 / value < 0 ? "-0.0" : "0.0";
        }
        BigDecimal exact = new BigDecimal(value);
        BigDecimal shortest = exact;
        for (int digits = 1; digits <= 17; digits++) {
            shortest = exact.round(new MathContext(digits));
            if (shortest.doubleValue() == value) {
                break;
            }
        }
        shortest = shortest.stripTrailingZeros();
        int exponent = shortest.precision() - shortest.scale() - 1;
        if (exponent >= -4 && exponent < 16) {
            String plain = shortest.toPlainString();
            return plain.indexOf('.') < 0 ? plain + ".0" : plain;
        }
        String digits = shortest.unscaledValue().abs().toString();
        return (value < 0 ? "-" : "")
                + digits.charAt(0)
                + (digits.length() > 1 ? "." + digits.substring(1) : "")
                + "e"
                + (exponent < 0 ? "-" : "+")
                + (Math.abs(exponent) < 10 ? "0" : "")
                + Math.abs(exponent);
    }

    static void bounded(long size) {
        if (size > MAX_SIZE) {
            throw Fault.of("a value grows beyond %d characters or items, more than a conversation can need", MAX_SIZE);
        }
    }

    /** Python's str.isspace of one character. */
    static boolean isSpace(int c) {
        return c == ' '
                || (c >= 0x09 && c <= 0x0D)
                || (c >= 0x1C && c <= 0x1F)
                || c == 0x85
                || (c >= 0x80 && Character.isSpaceChar(c));
    }

    /** Whether there is text, and nothing but white space. */
    static boolean isBlank(String text) {
        return !text.isEmpty() && text.codePoints().allMatch(Py::isSpace);
    }

    /** Without the given characters (null: white space) at the chosen ends. */
    static String strip(String text, @Nullable String characters, boolean left, boolean right) {
        int from = 0;
        int to = text.length();
        while (left && from < to && strippable(text.codePointAt(from), characters)) {
            from += Character.charCount(text.codePointAt(from));
        }
        while (right && from < to && strippable(text.codePointBefore(to), characters)) {
            to -= Character.charCount(text.codePointBefore(to));
        }
        return text.substring(from, to);
    }

    private static boolean strippable(int c, @Nullable String characters) {
        return characters == null ? isSpace(c) : characters.indexOf(c) >= 0;
    }
}
