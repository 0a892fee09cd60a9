package dev.espalier.text.jinja;

import java.util.ArrayList;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Set;
import java.util.function.IntPredicate;
import org.jspecify.annotations.Nullable;

/** Members of values: Python's methods of str, list and dict as far as jinja2's immutable sandbox lets them be called. */
final class Methods {

    private static final Set<String> CHANGING = Set.of(
            "append",
            "clear",
            "extend",
            "insert",
            "pop",
            "popitem",
            "remove",
            "reverse",
            "setdefault",
            "sort",
            "update");

    private static final Map<String, Builtin> STRING = new HashMap<>();
    private static final Map<String, Builtin> LIST = new HashMap<>();
    private static final Map<String, Builtin> DICT = new HashMap<>();

    static {
        string("strip chars?", (env, s, a) -> Py.strip(Py.text(s), a.textOrNull(0), true, true));
        string("lstrip chars?", (env, s, a) -> Py.strip(Py.text(s), a.textOrNull(0), true, false));
        string("rstrip chars?", (env, s, a) -> Py.strip(Py.text(s), a.textOrNull(0), false, true));
        string("upper", (env, s, a) -> Py.text(s).toUpperCase(Locale.ROOT));
        string("lower", (env, s, a) -> Py.text(s).toLowerCase(Locale.ROOT));
        string("casefold", (env, s, a) -> Py.text(s).toUpperCase(Locale.ROOT).toLowerCase(Locale.ROOT));
        string("title", (env, s, a) -> title(Py.text(s)));
        string("capitalize", (env, s, a) -> capitalize(Py.text(s)));
        string("swapcase", (env, s, a) -> {
            StringBuilder out = new StringBuilder();
            Py.text(s)
                    .codePoints()
                    .mapToObj(Character::toString)
                    .forEach(c -> out.append(
                            Character.isUpperCase(c.codePointAt(0))
                                    ? c.toLowerCase(Locale.ROOT)
                                    : c.toUpperCase(Locale.ROOT)));
            return out.toString();
        });
        string("replace old new count?", (env, s, a) -> replace(Py.text(s), a.text(0), a.text(1), a.integer(2, -1)));
        string("startswith prefix start? end?", (env, s, a) -> affix(part(s, a), a.get(0), true));
        string("endswith suffix start? end?", (env, s, a) -> affix(part(s, a), a.get(0), false));
        string("removeprefix prefix", (env, s, a) -> {
            String text = Py.text(s);
            return text.startsWith(a.text(0)) ? text.substring(a.text(0).length()) : text;
        });
        string("removesuffix suffix", (env, s, a) -> {
            String text = Py.text(s);
            return text.endsWith(a.text(0))
                    ? text.substring(0, text.length() - a.text(0).length())
                    : text;
        });
        string("split sep? maxsplit?", (env, s, a) -> split(Py.text(s), a.textOrNull(0), a.integer(1, -1)));
        string("rsplit sep? maxsplit?", (env, s, a) -> rsplit(Py.text(s), a.textOrNull(0), a.integer(1, -1)));
        string("splitlines keepends?", (env, s, a) -> lines(Py.text(s), a.flag(0, false)));
        string(
                "partition sep",
                (env, s, a) -> partition(Py.text(s), a.text(0), Py.text(s).indexOf(a.text(0)), false));
        string(
                "rpartition sep",
                (env, s, a) -> partition(Py.text(s), a.text(0), Py.text(s).lastIndexOf(a.text(0)), true));
        string("join iterable", (env, s, a) -> {
            StringBuilder out = new StringBuilder();
            String separator = "";
            for (Object item : Py.items(a.get(0))) {
                out.append(separator).append(Py.text(item));
                Py.bounded(out.length());
                separator = Py.text(s);
            }
            return out.toString();
        });
        string("find sub start? end?", (env, s, a) -> find(Py.text(s), part(s, a), a, false));
        string("rfind sub start? end?", (env, s, a) -> find(Py.text(s), part(s, a), a, true));
        string("index sub start? end?", (env, s, a) -> found(find(Py.text(s), part(s, a), a, false), a.get(0)));
        string("rindex sub start? end?", (env, s, a) -> found(find(Py.text(s), part(s, a), a, true), a.get(0)));
        string("count sub start? end?", (env, s, a) -> occurrences(a.text(0), part(s, a)));
        string("zfill width", (env, s, a) -> {
            String text = Py.text(s);
            int sign = text.startsWith("-") || text.startsWith("+") ? 1 : 0;
            return text.substring(0, sign) + padding(text, a.integer(0, 0), "0") + text.substring(sign);
        });
        string("ljust width fillchar?", (env, s, a) -> s + padding(Py.text(s), a.integer(0, 0), fill(a)));
        string("rjust width fillchar?", (env, s, a) -> padding(Py.text(s), a.integer(0, 0), fill(a)) + s);
        string("center width fillchar?", (env, s, a) -> {
            int width = a.integer(0, 0);
            String pad = padding(Py.text(s), width, fill(a));
            int left = pad.length() / 2 + (pad.length() & width & 1); // CPython's way with an odd remainder
            return pad.substring(0, left) + s + pad.substring(left);
        });
        string("isalpha", (env, s, a) -> all(s, Character::isLetter));
        string("isdigit", (env, s, a) -> all(s, Character::isDigit));
        string("isdecimal", (env, s, a) -> all(s, Character::isDigit));
        string(
                "isnumeric",
                (env, s, a) -> all(
                        s,
                        c -> Character.isDigit(c)
                                || Character.getType(c) == Character.OTHER_NUMBER
                                || Character.getType(c) == Character.LETTER_NUMBER));
        string("isalnum", (env, s, a) -> all(s, Character::isLetterOrDigit));
        string("isspace", (env, s, a) -> all(s, Py::isSpace));
        string("isascii", (env, s, a) -> Py.text(s).chars().allMatch(c -> c < 128));
        string("isupper", (env, s, a) -> cased(Py.text(s), Character::isUpperCase, Character::isLowerCase));
        string("islower", (env, s, a) -> cased(Py.text(s), Character::isLowerCase, Character::isUpperCase));
        string(
                "istitle",
                (env, s, a) -> cased(Py.text(s), Character::isLetter, c -> false)
                        && title(Py.text(s)).equals(s));

        list("index value", (env, s, a) -> {
            List<Object> items = Py.items(s);
            for (int i = 0; i < items.size(); i++) {
                if (Operators.equal(env, items.get(i), a.get(0))) {
                    return (long) i;
                }
            }
            throw Fault.of("%s is not in the list", Py.described(a.get(0)));
        });
        list(
                "count value",
                (env, s, a) -> Py.items(s).stream()
                        .filter(item -> Operators.equal(env, item, a.get(0)))
                        .count());
        list("copy", (env, s, a) -> new ArrayList<>(Py.items(s)));

        dict("get key default?", (env, s, a) -> {
            Object value = Py.dict(s).get(a.get(0));
            return value == null ? a.get(1) : value;
        });
        dict("keys", (env, s, a) -> new ArrayList<>(Py.dict(s).keySet()));
        dict("values", (env, s, a) -> new ArrayList<>(Py.dict(s).values()));
        dict("items", (env, s, a) -> pairs(Py.dict(s)));
        dict("copy", (env, s, a) -> new LinkedHashMap<>(Py.dict(s)));
    }

    private Methods() {}

    private static void string(String signature, Builtin.Body body) {
        Builtin method = Builtin.of(signature, body);
        STRING.put(method.name(), method);
    }

    private static void list(String signature, Builtin.Body body) {
        Builtin method = Builtin.of(signature, body);
        LIST.put(method.name(), method);
    }

    private static void dict(String signature, Builtin.Body body) {
        Builtin method = Builtin.of(signature, body);
        DICT.put(method.name(), method);
    }

    /** {@code object.name}. */
    static Object attribute(Object object, String name) {
        Py.defined(object);
        Object member = member(object, name);
        if (member == null) {
            member = keyed(object, name);
        }
        return member == null ? missing(object, name) : member;
    }

    /** {@code object[key]}. */
    static Object item(Object object, Object key) {
        Py.defined(object);
        Object value = keyed(object, key);
        if (value == null && key instanceof String name) {
            value = member(object, name);
        }
        return value == null ? missing(object, key) : value;
    }

    private static @Nullable Object keyed(Object object, Object key) {
        if (object instanceof Map<?, ?> map) {
            return map.get(key);
        }
        if ((object instanceof List || object instanceof Py.Tuple || object instanceof String)
                && Operators.isInteger(key)) {
            int size = Py.length(object);
            long index = Py.integer(key) < 0 ? Py.integer(key) + size : Py.integer(key);
            if (index < 0 || index >= size) {
                return null;
            }
            if (object instanceof String text) {
                return Character.toString(text.codePointAt(text.offsetByCodePoints(0, (int) index)));
            }
            return Py.items(object).get((int) index);
        }
        return null;
    }

    private static @Nullable Object member(Object object, String name) {
        if (object instanceof Loop loop) {
            return loop.member(name);
        }
        if (object instanceof Py.Namespace namespace) {
            return namespace.members().get(name);
        }
        if (object instanceof Macro macro) {
            return switch (name) {
                case "name" -> macro.name();
                case "arguments" ->
                    new Py.Tuple(macro.shape().parameters().stream()
                            .map(parameter -> (Object) parameter.name())
                            .toList());
                default -> null;
            };
        }
        if (object instanceof String && name.equals("format")) {
            return new Builtin.Function(name, (env, arguments) -> Format.braces(Py.text(object), arguments));
        }
        Map<String, Builtin> methods = object instanceof String
                ? STRING
                : object instanceof List || object instanceof Py.Tuple ? LIST : object instanceof Map ? DICT : Map.of();
        Builtin method = methods.get(name);
        if (method != null) {
            return method.bound(object);
        }
        if ((object instanceof List || object instanceof Map) && CHANGING.contains(name)) {
            return new Py.Undefined(
                    "\"%s\" would change the %s it is called on, which a template may not; build a new one"
                            .formatted(name, Py.type(object)));
        }
        return null;
    }

    private static Py.Undefined missing(Object object, Object key) {
        return new Py.Undefined(Py.type(object) + " has no " + Py.repr(key));
    }

    static List<Object> pairs(Map<Object, Object> dict) {
        List<Object> pairs = new ArrayList<>();
        dict.forEach((key, value) -> pairs.add(new Py.Tuple(List.of(key, value))));
        return pairs;
    }

    static String capitalize(String text) {
        if (text.isEmpty()) {
            return text;
        }
        int first = Character.charCount(text.codePointAt(0));
        return text.substring(0, first).toUpperCase(Locale.ROOT)
                + text.substring(first).toLowerCase(Locale.ROOT);
    }

    /** Python's str.title: a capital after whatever is no letter. */
    private static String title(String text) {
        StringBuilder out = new StringBuilder();
        boolean inside = false;
        for (int c : text.codePoints().toArray()) {
            out.appendCodePoint(inside ? Character.toLowerCase(c) : Character.toTitleCase(c));
            inside = Character.isLetter(c);
        }
        return out.toString();
    }

    static String replace(String text, String old, String replacement, int count) {
        StringBuilder out = new StringBuilder();
        int from = 0;
        int done = 0;
        for (int at = text.indexOf(old);
                at >= 0 && (count < 0 || done < count);
                at = old.isEmpty() ? next(text, at) : text.indexOf(old, from)) {
            out.append(text, from, at).append(replacement);
            Py.bounded(out.length());
            from = at + old.length();
            done++;
        }
        return out.append(text, from, text.length()).toString();
    }

    /** The place after one character, or -1 beyond the end: an empty string is found everywhere. */
    private static int next(String text, int at) {
        return at >= text.length() ? -1 : text.offsetByCodePoints(at, 1);
    }

    /** The text between the optional arguments start and end. */
    private static String part(Object self, Arguments.Bound arguments) {
        return Py.text(Operators.slice(
                self,
                arguments.has(1) ? (Integer) arguments.integer(1, 0) : null,
                arguments.has(2) ? (Integer) arguments.integer(2, 0) : null,
                null));
    }

    private static boolean affix(String text, Object affix, boolean start) {
        if (affix instanceof Py.Tuple several) {
            return several.items().stream().anyMatch(one -> affix(text, one, start));
        }
        return start ? text.startsWith(Py.text(affix)) : text.endsWith(Py.text(affix));
    }

    private static long find(String whole, String part, Arguments.Bound arguments, boolean last) {
        int at = last ? part.lastIndexOf(arguments.text(0)) : part.indexOf(arguments.text(0));
        if (at < 0) {
            return -1;
        }
        int size = whole.codePointCount(0, whole.length());
        int start = arguments.integer(1, 0);
        return (long) part.codePointCount(0, at) + Math.max(0, Math.min(size, start < 0 ? start + size : start));
    }

    private static long found(long index, Object what) {
        if (index < 0) {
            throw Fault.of("%s was not found in the string", Py.described(what));
        }
        return index;
    }

    private static long occurrences(String wanted, String text) {
        if (wanted.isEmpty()) {
            return text.codePointCount(0, text.length()) + 1L;
        }
        long count = 0;
        for (int at = text.indexOf(wanted); at >= 0; at = text.indexOf(wanted, at + wanted.length())) {
            count++;
        }
        return count;
    }

    private static String fill(Arguments.Bound arguments) {
        return String.valueOf(arguments.get(1, " "));
    }

    static String padding(String text, int width, String fill) {
        int missing = Math.max(0, width - text.codePointCount(0, text.length()));
        Py.bounded(missing);
        return fill.repeat(missing);
    }

    private static boolean all(Object text, IntPredicate test) {
        return !Py.text(text).isEmpty() && Py.text(text).codePoints().allMatch(test);
    }

    private static boolean cased(String text, IntPredicate wanted, IntPredicate unwanted) {
        return text.codePoints().anyMatch(wanted) && text.codePoints().noneMatch(unwanted);
    }

    private static List<Object> split(String text, @Nullable String separator, int most) {
        List<Object> parts = new ArrayList<>();
        String rest = separator == null ? Py.strip(text, null, true, false) : text;
        while (most < 0 || parts.size() < most) {
            int at = separator == null ? space(rest) : rest.indexOf(checked(separator));
            if (at < 0) {
                break;
            }
            parts.add(rest.substring(0, at));
            rest = separator == null
                    ? Py.strip(rest.substring(at), null, true, false)
                    : rest.substring(at + separator.length());
        }
        if (separator != null || !rest.isEmpty()) {
            parts.add(rest);
        }
        return parts;
    }

    private static List<Object> rsplit(String text, @Nullable String separator, int most) {
        if (most < 0) {
            return split(text, separator, -1);
        }
        List<Object> parts = new ArrayList<>();
        String rest = separator == null ? Py.strip(text, null, false, true) : text;
        while (parts.size() < most) {
            int at = separator == null ? lastSpace(rest) : rest.lastIndexOf(checked(separator));
            if (at < 0) {
                break;
            }
            parts.add(0, rest.substring(at + (separator == null ? 1 : separator.length())));
            rest = separator == null ? Py.strip(rest.substring(0, at), null, false, true) : rest.substring(0, at);
        }
        if (separator != null || !rest.isEmpty()) {
            parts.add(0, rest);
        }
        return parts;
    }

    private static String checked(String separator) {
        if (separator.isEmpty()) {
            throw Fault.of("a string cannot be split at an empty separator");
        }
        return separator;
    }

    private static int space(String text) {
        for (int i = 0; i < text.length(); i++) {
            if (Py.isSpace(text.charAt(i))) {
                return i;
            }
        }
        return -1;
    }

    private static int lastSpace(String text) {
        for (int i = text.length() - 1; i >= 0; i--) {
            if (Py.isSpace(text.charAt(i))) {
                return i;
            }
        }
        return -1;
    }

    static List<Object> lines(String text, boolean keepEnds) {
        List<Object> lines = new ArrayList<>();
        int start = 0;
        for (int i = 0; i < text.length(); i++) {
            if ("\n\r\u000B\f\u001C\u001D\u001E\u0085\u2028\u2029".indexOf(text.charAt(i)) >= 0) {
                int end = text.charAt(i) == '\r' && i + 1 < text.length() && text.charAt(i + 1) == '\n' ? i + 2 : i + 1;
                lines.add(text.substring(start, keepEnds ? end : i));
                start = end;
                i = end - 1;
            }
        }
        if (start < text.length()) {
            lines.add(text.substring(start));
        }
        return lines;
    }

    private static Py.Tuple partition(String text, String separator, int at, boolean last) {
        checked(separator);
        if (at < 0) {
            return new Py.Tuple(last ? List.of("", "", text) : List.of(text, "", ""));
        }
        return new Py.Tuple(List.of(text.substring(0, at), separator, text.substring(at + separator.length())));
    }
}
