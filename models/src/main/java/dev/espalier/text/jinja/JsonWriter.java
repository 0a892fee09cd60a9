package dev.espalier.text.jinja;

import java.util.ArrayList;
import java.util.Iterator;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/** Writes values as Python's {@code json.dumps} does, spaces and all: models were trained on exactly this text. */
final class JsonWriter {

    private final boolean ascii;
    private final boolean sorted;
    private final @Nullable String indent;
    private final String comma;
    private final String colon;
    private final StringBuilder out = new StringBuilder();

    JsonWriter(boolean ascii, Object indent, Object separators, boolean sorted) {
        this.ascii = ascii;
        this.sorted = sorted;
        this.indent = indent == Py.None.NONE
                ? null
                : indent instanceof String text ? text : " ".repeat(Math.max(0, Py.index(indent)));
        if (separators == Py.None.NONE) {
            this.comma = this.indent == null ? ", " : ",";
            this.colon = ": ";
        } else {
            List<Object> pair = Py.items(separators);
            if (pair.size() != 2) {
                throw Fault.of("tojson needs two separators, found %s", Py.described(separators));
            }
            this.comma = Py.text(pair.get(0));
            this.colon = Py.text(pair.get(1));
        }
    }

    String write(Object value) {
        write(value, 0);
        return out.toString();
    }

    private void write(Object value, int depth) {
        Py.bounded(out.length());
        if (value instanceof String text) {
            quote(text);
        } else if (value == Py.None.NONE) {
            out.append("null");
        } else if (value instanceof Boolean || value instanceof Long) {
            out.append(value);
        } else if (value instanceof Double number) {
            out.append(number(number));
        } else if (value instanceof List<?> || value instanceof Py.Tuple) {
            Iterator<Object> items = Py.items(value).iterator();
            if (open('[', items.hasNext(), "]", depth)) {
                while (items.hasNext()) {
                    write(items.next(), depth + 1);
                    next(items.hasNext(), depth);
                }
                out.append(']');
            }
        } else if (value instanceof Map<?, ?>) {
            List<Map.Entry<Object, Object>> entries =
                    new ArrayList<>(Py.dict(value).entrySet());
            if (sorted) {
                entries.sort((a, b) -> key(a.getKey()).compareTo(key(b.getKey())));
            }
            Iterator<Map.Entry<Object, Object>> items = entries.iterator();
            if (open('{', items.hasNext(), "}", depth)) {
                while (items.hasNext()) {
                    Map.Entry<Object, Object> entry = items.next();
                    quote(key(entry.getKey()));
                    out.append(colon);
                    write(entry.getValue(), depth + 1);
                    next(items.hasNext(), depth);
                }
                out.append('}');
            }
        } else {
            throw Fault.of("%s has no JSON form", Py.described(value));
        }
    }

    private boolean open(char bracket, boolean filled, String close, int depth) {
        out.append(bracket);
        if (!filled) {
            out.append(close);
            return false;
        }
        line(depth + 1);
        return true;
    }

    private void next(boolean more, int depth) {
        if (more) {
            out.append(comma);
        }
        line(more ? depth + 1 : depth);
    }

    private void line(int depth) {
        if (indent != null) {
            out.append('\n').append(indent.repeat(depth));
        }
    }

    private static String key(Object key) {
        if (key instanceof String text) {
            return text;
        }
        if (key == Py.None.NONE) {
            return "null";
        }
        if (key instanceof Boolean || key instanceof Long) {
            return key.toString();
        }
        if (key instanceof Double number) {
            return number(number);
        }
        throw Fault.of("%s cannot be a key in JSON", Py.described(key));
    }

    private static String number(double number) {
        return Double.isNaN(number)
                ? "NaN"
                : Double.isInfinite(number) ? number > 0 ? "Infinity" : "-Infinity" : Py.number(number);
    }

    private void quote(String text) {
        out.append('"');
        for (int i = 0; i < text.length(); i++) {
            char c = text.charAt(i);
            switch (c) {
                case '"' -> out.append("\\\"");
                case '\\' -> out.append("\\\\");
                case '\n' -> out.append("\\n");
                case '\r' -> out.append("\\r");
                case '\t' -> out.append("\\t");
                case '\f' -> out.append("\\f");
                case '\b' -> out.append("\\b");
                default -> {
                    if (c < 0x20 || (ascii && c > 0x7E)) {
                        out.append("\\u%04x".formatted((int) c));
                    } else {
                        out.append(c);
                    }
                }
            }
        }
        out.append('"');
    }
}
