package dev.espalier.text.jinja;

import java.util.HashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;

/** What stands after {@code is}. */
final class Tests {

    @FunctionalInterface
    private interface Body {
        boolean holds(Env env, Object value, Arguments.Bound arguments);
    }

    private static final Map<String, Builtin> ALL = new HashMap<>();

    static {
        add("defined", (env, v, a) -> !(v instanceof Py.Undefined));
        add("undefined", (env, v, a) -> v instanceof Py.Undefined);
        add("none", (env, v, a) -> v == Py.None.NONE);
        add("true", (env, v, a) -> Boolean.TRUE.equals(v));
        add("false", (env, v, a) -> Boolean.FALSE.equals(v));
        add("boolean", (env, v, a) -> v instanceof Boolean);
        add("integer", (env, v, a) -> v instanceof Long);
        add("float", (env, v, a) -> v instanceof Double);
        add("number", (env, v, a) -> Operators.isNumber(v));
        add("string", (env, v, a) -> v instanceof String);
        add("mapping", (env, v, a) -> v instanceof Map);
        add("sequence", (env, v, a) -> v instanceof Map || iterable(v));
        add("iterable", (env, v, a) -> v instanceof Map || iterable(v));
        add("callable", (env, v, a) -> v instanceof Callable || v instanceof Py.Undefined);
        add("odd", (env, v, a) -> remains(env, v, 2L, 1L));
        add("even", (env, v, a) -> remains(env, v, 2L, 0L));
        add("divisibleby num", (env, v, a) -> remains(env, v, a.get(0), 0L));
        add("lower", (env, v, a) -> cased(Py.str(v), Py.str(v).toLowerCase(Locale.ROOT)));
        add("upper", (env, v, a) -> cased(Py.str(v), Py.str(v).toUpperCase(Locale.ROOT)));
        add("sameas other", (env, v, a) -> v == a.get(0) || (v instanceof Boolean && v.equals(a.get(0))));
        add("in seq", (env, v, a) -> Operators.contains(env, a.get(0), v));
        add("filter", (env, v, a) -> Filters.exists(Py.str(v)));
        add("test", (env, v, a) -> ALL.containsKey(Py.str(v)));
        for (String name : List.of("eq", "equalto", "==")) {
            compare(name, "==");
        }
        compare("ne", "!=");
        compare("!=", "!=");
        for (String name : List.of("lt", "lessthan", "<")) {
            compare(name, "<");
        }
        compare("le", "<=");
        compare("<=", "<=");
        for (String name : List.of("gt", "greaterthan", ">")) {
            compare(name, ">");
        }
        compare("ge", ">=");
        compare(">=", ">=");
    }

    private Tests() {}

    private static void add(String signature, Body body) {
        Builtin test = Builtin.of(signature, body::holds);
        ALL.put(test.name(), test);
    }

    private static void compare(String name, String operator) {
        add(name + " other", (env, v, a) -> Operators.compare(env, operator, v, a.get(0)));
    }

    private static boolean remains(Env env, Object value, Object divisor, Object remainder) {
        return Operators.equal(env, Operators.binary("%", Operators.number(value), divisor), remainder);
    }

    private static boolean iterable(Object value) {
        return value instanceof String
                || value instanceof List
                || value instanceof Py.Tuple
                || value instanceof Py.Undefined;
    }

    /** Python's islower and isupper: unchanged by the mapping, and with a letter that has case. */
    private static boolean cased(String text, String mapped) {
        return text.equals(mapped)
                && text.codePoints().anyMatch(c -> Character.toLowerCase(c) != c || Character.toUpperCase(c) != c);
    }

    static boolean holds(Env env, String name, Object value, Arguments arguments) {
        Builtin test = ALL.get(name);
        if (test == null) {
            throw Fault.of("there is no test \"%s\"", name);
        }
        return (Boolean) test.apply(env, value, arguments);
    }
}
