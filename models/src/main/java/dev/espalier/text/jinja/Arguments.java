package dev.espalier.text.jinja;

import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/**
 * What a call passes.
 *
 * @param positional in order
 * @param named by keyword
 */
record Arguments(List<Object> positional, Map<String, Object> named) {

    static final Arguments NONE = new Arguments(List.of(), Map.of());

    /** These arguments put in a function's order; a parameter that ends in "?" may be left out. */
    Bound bind(String function, List<String> parameters) {
        if (positional.size() > parameters.size()) {
            throw Fault.of("%s takes at most %d arguments, found %d", function, parameters.size(), positional.size());
        }
        @Nullable Object[] values = new Object[parameters.size()];
        for (int i = 0; i < positional.size(); i++) {
            values[i] = positional.get(i);
        }
        int used = 0;
        for (int i = 0; i < values.length; i++) {
            boolean optional = parameters.get(i).endsWith("?");
            String name =
                    optional ? parameters.get(i).substring(0, parameters.get(i).length() - 1) : parameters.get(i);
            Object value = named.get(name);
            if (value != null) {
                values[i] = value;
                used++;
            }
            if (values[i] == null && !optional) {
                throw Fault.of("%s needs the argument %s", function, name);
            }
        }
        if (used < named.size()) {
            throw Fault.of("%s takes the arguments %s, found %s", function, parameters, named.keySet());
        }
        return new Bound(values);
    }

    /** Arguments by the place of their parameter. */
    static final class Bound {

        private final @Nullable Object[] values;

        private Bound(@Nullable Object[] values) {
            this.values = values;
        }

        boolean has(int i) {
            return values[i] != null && values[i] != Py.None.NONE;
        }

        /** The argument; None if it was left out. */
        Object get(int i) {
            Object value = values[i];
            return value == null ? Py.None.NONE : value;
        }

        Object get(int i, Object otherwise) {
            Object value = values[i];
            return value == null ? otherwise : value;
        }

        String text(int i) {
            return Py.text(get(i));
        }

        /** Its text; null if None. */
        @Nullable
        String textOrNull(int i) {
            return has(i) ? Py.text(get(i)) : null;
        }

        int integer(int i, int otherwise) {
            return has(i) ? Py.index(get(i)) : otherwise;
        }

        boolean flag(int i, boolean otherwise) {
            return Py.truth(get(i, otherwise));
        }
    }
}
