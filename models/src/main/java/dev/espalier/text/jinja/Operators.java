package dev.espalier.text.jinja;

import java.util.ArrayList;
import java.util.Collections;
import java.util.Iterator;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/** Python's operators. */
final class Operators {

    private Operators() {}

    static Object binary(String operator, Object left, Object right) {
        if (operator.equals("~")) {
            return concat(Py.str(left), Py.str(right));
        }
        Py.defined(left);
        Py.defined(right);
        if (isNumber(left) && isNumber(right)) {
            return arithmetic(operator, number(left), number(right));
        }
        if (operator.equals("+")) {
            if (left instanceof String a && right instanceof String b) {
                return concat(a, b);
            }
            if (left instanceof List<?> && right instanceof List<?>) {
                return joined(left, right);
            }
            if (left instanceof Py.Tuple && right instanceof Py.Tuple) {
                return new Py.Tuple(joined(left, right));
            }
        }
        if (operator.equals("*")) {
            if (isInteger(right)) {
                return repeat(left, Py.index(right));
            }
            if (isInteger(left)) {
                return repeat(right, Py.index(left));
            }
        }
        if (operator.equals("%") && left instanceof String format) {
            return Format.percent(format, right);
        }
        throw Fault.of("%s cannot stand between %s and %s", operator, Py.described(left), Py.described(right));
    }

    private static String concat(String a, String b) {
        Py.bounded((long) a.length() + b.length());
        return a + b;
    }

    private static List<Object> joined(Object left, Object right) {
        List<Object> all = new ArrayList<>(Py.items(left));
        Py.bounded((long) all.size() + Py.length(right));
        all.addAll(Py.items(right));
        return all;
    }

    private static Object repeat(Object value, int times) {
        int count = Math.max(0, times);
        if (value instanceof String text) {
            Py.bounded((long) text.length() * count);
            return text.repeat(count);
        }
        if (value instanceof List<?> || value instanceof Py.Tuple) {
            Py.bounded((long) Py.length(value) * count);
            List<Object> all = new ArrayList<>();
            for (int i = 0; i < count; i++) {
                all.addAll(Py.items(value));
            }
            return value instanceof Py.Tuple ? new Py.Tuple(all) : all;
        }
        throw Fault.of("%s cannot be repeated", Py.described(value));
    }

    private static Object arithmetic(String operator, Object left, Object right) {
        if (left instanceof Long a && right instanceof Long b && !operator.equals("/")) {
            try {
                return whole(operator, a, b);
            } catch (ArithmeticException e) {
                throw Fault.of("%d %s %d: %s", a, operator, b, b == 0 ? "division by zero" : "too large");
            }
        }
        double a = ((Number) left).doubleValue();
        double b = ((Number) right).doubleValue();
        if (b == 0 && (operator.equals("/") || operator.equals("//") || operator.equals("%"))) {
            throw Fault.of("%s %s %s: division by zero", Py.repr(left), operator, Py.repr(right));
        }
        return switch (operator) {
            case "+" -> a + b;
            case "-" -> a - b;
            case "*" -> a * b;
            case "/" -> a / b;
            case "//" -> Math.rint((a - modulo(a, b)) / b);
            case "%" -> modulo(a, b);
            default -> Math.pow(a, b);
        };
    }

    /** The remainder with the divisor's sign. */
    private static double modulo(double a, double b) {
        double rest = a % b;
        return rest != 0 && (rest < 0) != (b < 0) ? rest + b : rest;
    }

    private static Object whole(String operator, long a, long b) {
        return switch (operator) {
            case "+" -> Math.addExact(a, b);
            case "-" -> Math.subtractExact(a, b);
            case "*" -> Math.multiplyExact(a, b);
            case "//" -> Math.floorDiv(a, b);
            case "%" -> Math.floorMod(a, b);
            default -> b < 0 ? (Object) Math.pow((double) a, (double) b) : (Object) power(a, b);
        };
    }

    private static long power(long base, long exponent) {
        if (base == 0 || base == 1) {
            return exponent == 0 ? 1 : base;
        }
        if (base == -1) {
            return exponent % 2 == 0 ? 1 : -1;
        }
        long result = 1;
        for (long i = 0; i < exponent; i++) { // overflows after 63 rounds at most
            result = Math.multiplyExact(result, base);
        }
        return result;
    }

    static Object negate(Object value) {
        Object number = number(value);
        return number instanceof Long whole ? (Object) Math.negateExact(whole) : (Object) (-(Double) number);
    }

    /** A number as such; True and False count as 1 and 0. */
    static Object number(Object value) {
        if (value instanceof Boolean bool) {
            return bool ? 1L : 0L;
        }
        if (value instanceof Long || value instanceof Double) {
            return value;
        }
        throw Fault.of("expected a number, found %s", Py.described(value));
    }

    static boolean isNumber(Object value) {
        return value instanceof Long || value instanceof Double || value instanceof Boolean;
    }

    static boolean isInteger(Object value) {
        return value instanceof Long || value instanceof Boolean;
    }

    static boolean compare(Env env, String operator, Object left, Object right) {
        return switch (operator) {
            case "==" -> equal(env, left, right);
            case "!=" -> !equal(env, left, right);
            case "in" -> contains(env, right, left);
            case "not in" -> !contains(env, right, left);
            case "<" -> order(env, left, right) < 0;
            case "<=" -> order(env, left, right) <= 0;
            case ">" -> order(env, left, right) > 0;
            default -> order(env, left, right) >= 0;
        };
    }

    static boolean equal(Env env, Object left, Object right) {
        env.step();
        if (isNumber(left) && isNumber(right)) {
            Object a = number(left);
            Object b = number(right);
            if (a instanceof Long x && b instanceof Long y) {
                return x.longValue() == y.longValue();
            }
            return ((Number) a).doubleValue() == ((Number) b).doubleValue();
        }
        if (left instanceof Py.Undefined && right instanceof Py.Undefined) {
            return true;
        }
        if (left instanceof Map<?, ?> a && right instanceof Map<?, ?> b) {
            if (a.size() != b.size()) {
                return false;
            }
            for (Map.Entry<?, ?> entry : a.entrySet()) {
                Object other = b.get(entry.getKey());
                if (other == null || !equal(env, entry.getValue(), other)) {
                    return false;
                }
            }
            return true;
        }
        if ((left instanceof List && right instanceof List)
                || (left instanceof Py.Tuple && right instanceof Py.Tuple)) {
            Iterator<Object> a = Py.items(left).iterator();
            Iterator<Object> b = Py.items(right).iterator();
            while (a.hasNext() && b.hasNext()) {
                if (!equal(env, a.next(), b.next())) {
                    return false;
                }
            }
            return a.hasNext() == b.hasNext();
        }
        return left instanceof String ? left.equals(right) : left == right;
    }

    /** Below, at or above zero as left comes before, with or after right. */
    static int order(Env env, Object left, Object right) {
        env.step();
        Py.defined(left);
        Py.defined(right);
        if (isNumber(left) && isNumber(right)) {
            Object a = number(left);
            Object b = number(right);
            return a instanceof Long x && b instanceof Long y
                    ? Long.compare(x, y)
                    : Double.compare(((Number) a).doubleValue(), ((Number) b).doubleValue());
        }
        if (left instanceof String a && right instanceof String b) {
            return byCodePoint(a, b);
        }
        if ((left instanceof List && right instanceof List)
                || (left instanceof Py.Tuple && right instanceof Py.Tuple)) {
            List<Object> a = Py.items(left);
            List<Object> b = Py.items(right);
            for (int i = 0; i < Math.min(a.size(), b.size()); i++) {
                if (!equal(env, a.get(i), b.get(i))) {
                    return order(env, a.get(i), b.get(i));
                }
            }
            return Integer.compare(a.size(), b.size());
        }
        throw Fault.of("%s and %s have no order", Py.described(left), Py.described(right));
    }

    private static int byCodePoint(String a, String b) {
        for (int i = 0; i < Math.min(a.length(), b.length()); i++) {
            if (a.charAt(i) != b.charAt(i)) {
                int x = a.codePointAt(i);
                int y = b.codePointAt(i);
                return x == y ? Character.compare(a.charAt(i), b.charAt(i)) : Integer.compare(x, y);
            }
        }
        return Integer.compare(a.length(), b.length());
    }

    static boolean contains(Env env, Object container, Object item) {
        if (container instanceof String text) {
            return text.contains(Py.text(item));
        }
        if (container instanceof Map<?, ?> map) {
            return map.containsKey(item);
        }
        for (Object one : Py.items(container)) {
            if (equal(env, one, item)) {
                return true;
            }
        }
        return false;
    }

    /** {@code value[from:to:step]}. */
    static Object slice(Object value, @Nullable Integer from, @Nullable Integer to, @Nullable Integer step) {
        Py.defined(value);
        int stride = step == null ? 1 : step;
        if (stride == 0) {
            throw Fault.of("a slice's step cannot be zero");
        }
        if (!(value instanceof String || value instanceof List || value instanceof Py.Tuple)) {
            throw Fault.of("%s has no slices", Py.described(value));
        }
        List<Object> items = Py.items(value);
        int size = items.size();
        int start = clamp(from, size, stride, stride > 0 ? 0 : size - 1);
        int end = clamp(to, size, stride, stride > 0 ? size : -1);
        if (value instanceof String text && stride == 1) {
            return start >= end
                    ? ""
                    : text.substring(text.offsetByCodePoints(0, start), text.offsetByCodePoints(0, end));
        }
        List<Object> chosen = new ArrayList<>();
        for (long i = start; stride > 0 ? i < end : i > end; i += stride) {
            chosen.add(items.get((int) i));
        }
        if (value instanceof String) {
            StringBuilder text = new StringBuilder();
            chosen.forEach(text::append);
            return text.toString();
        }
        return value instanceof Py.Tuple ? new Py.Tuple(chosen) : chosen;
    }

    private static int clamp(@Nullable Integer bound, int size, int stride, int otherwise) {
        if (bound == null) {
            return otherwise;
        }
        long absolute = bound < 0 ? (long) bound + size : bound;
        int lowest = stride > 0 ? 0 : -1;
        return (int) Math.max(lowest, Math.min(stride > 0 ? size : size - 1, absolute));
    }

    static List<Object> reversed(Object value) {
        List<Object> items = new ArrayList<>(Py.items(value));
        Collections.reverse(items);
        return items;
    }
}
