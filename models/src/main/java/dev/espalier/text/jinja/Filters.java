package dev.espalier.text.jinja;

import java.math.BigDecimal;
import java.math.RoundingMode;
import java.net.URLEncoder;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.function.UnaryOperator;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.jspecify.annotations.Nullable;

/** What stands after a bar: jinja2's filters, without those that make HTML links, guess sizes, or need chance. */
final class Filters {

    private static final Pattern WORD = Pattern.compile("\\w+", Pattern.UNICODE_CHARACTER_CLASS);
    private static final Pattern WORD_START = Pattern.compile("[-\\s({\\[<]+", Pattern.UNICODE_CHARACTER_CLASS);

    private static final Map<String, Builtin> ALL = new HashMap<>();

    static {
        texts();
        numbers();
        sequences();
    }

    private Filters() {}

    private static void add(String signature, Builtin.Body body) {
        Builtin filter = Builtin.of(signature, body);
        ALL.put(filter.name(), filter);
    }

    private static void alias(String name, String of) {
        Builtin filter = ALL.get(of);
        if (filter != null) {
            ALL.put(name, filter);
        }
    }

    static boolean exists(String name) {
        return ALL.containsKey(name) || isChoosing(name);
    }

    static Object apply(Env env, String name, Object value, Arguments arguments) {
        env.step();
        if (isChoosing(name)) { // these pass their arguments on, so they have no signature of their own
            return choose(env, name, value, arguments);
        }
        if (name.equals("format")) {
            return arguments.named().isEmpty()
                    ? Format.percent(Py.str(value), new Py.Tuple(arguments.positional()))
                    : Format.percent(Py.str(value), new LinkedHashMap<Object, Object>(arguments.named()));
        }
        Builtin filter = ALL.get(name);
        if (filter == null) {
            throw Fault.of("there is no filter \"%s\"", name);
        }
        return filter.apply(env, value, arguments);
    }

    private static void texts() {
        add("trim chars?", (env, v, a) -> Py.strip(Py.str(v), a.textOrNull(0), true, true));
        add("upper", (env, v, a) -> Py.str(v).toUpperCase(Locale.ROOT));
        add("lower", (env, v, a) -> Py.str(v).toLowerCase(Locale.ROOT));
        add("title", (env, v, a) -> title(Py.str(v)));
        add("capitalize", (env, v, a) -> Methods.capitalize(Py.str(v)));
        add(
                "replace old new count?",
                (env, v, a) -> Methods.replace(Py.str(v), Py.str(a.get(0)), Py.str(a.get(1)), a.integer(2, -1)));
        add("string", (env, v, a) -> Py.str(v));
        add("safe", (env, v, a) -> v);
        add(
                "escape",
                (env, v, a) -> Py.str(v)
                        .replace("&", "&amp;")
                        .replace("<", "&lt;")
                        .replace(">", "&gt;")
                        .replace("'", "&#39;")
                        .replace("\"", "&#34;"));
        alias("e", "escape");
        alias("forceescape", "escape");
        add(
                "urlencode",
                (env, v, a) -> URLEncoder.encode(Py.str(v), StandardCharsets.UTF_8)
                        .replace("+", "%20")
                        .replace("*", "%2A")
                        .replace("%7E", "~")
                        .replace("%2F", "/"));
        add("center width?", (env, v, a) -> {
            String text = Py.str(v);
            int width = a.integer(0, 80);
            String pad = Methods.padding(text, width, " ");
            int left = pad.length() / 2 + (pad.length() & width & 1);
            return pad.substring(0, left) + text + pad.substring(left);
        });
        add(
                "indent width? first? blank?",
                (env, v, a) -> indent(
                        Py.text(v),
                        a.get(0, 4L) instanceof String by ? by : " ".repeat(Math.max(0, a.integer(0, 4))),
                        a.flag(1, false),
                        a.flag(2, false)));
        add("truncate length? killwords? end? leeway?", (env, v, a) -> {
            int length = a.integer(0, 255);
            String end = Py.str(a.get(2, "..."));
            if (Py.length(v) <= length + a.integer(3, 5)) {
                return v;
            }
            String text = Py.text(v);
            String cut = text.substring(0, text.offsetByCodePoints(0, Math.max(0, length - Py.length(end))));
            int space = cut.lastIndexOf(' ');
            return (a.flag(1, false) || space < 0 ? cut : cut.substring(0, space)) + end;
        });
        add("wordcount", (env, v, a) -> WORD.matcher(Py.str(v)).results().count());
        add(
                "tojson ensure_ascii? indent? separators? sort_keys?",
                (env, v, a) -> new JsonWriter(a.flag(0, false), a.get(1), a.get(2), a.flag(3, false)).write(v));
    }

    private static void numbers() {
        add(
                "abs",
                (env, v, a) -> Operators.number(v) instanceof Long number
                        ? (Object) Math.absExact(number)
                        : (Object) Math.abs((Double) Operators.number(v)));
        add("int default? base?", (env, v, a) -> integer(Py.defined(v), a.get(0, 0L), a.integer(1, 10)));
        add("float default?", (env, v, a) -> {
            Double number = real(Py.defined(v));
            return number == null ? a.get(0, 0.0) : number;
        });
        add("round precision? method?", (env, v, a) -> {
            Object exact = Operators.number(v);
            double number = ((Number) exact).doubleValue();
            int digits = a.integer(0, 0);
            String method = Py.str(a.get(1, "common"));
            if (exact instanceof Long && digits >= 0 && method.equals("common")) {
                return exact;
            }
            double power = Math.pow(10, digits);
            return switch (method) {
                case "ceil" -> Math.ceil(number * power) / power;
                case "floor" -> Math.floor(number * power) / power;
                default ->
                    new BigDecimal(number)
                            .setScale(digits, RoundingMode.HALF_EVEN)
                            .doubleValue();
            };
        });
        add("sum attribute? start?", (env, v, a) -> {
            Object sum = a.get(1, 0L);
            for (Object item : Py.items(v)) {
                sum = Operators.binary("+", sum, a.has(0) ? attribute(item, a.get(0)) : item);
            }
            return sum;
        });
        add("min case_sensitive? attribute?", (env, v, a) -> extreme(env, v, a, false));
        add("max case_sensitive? attribute?", (env, v, a) -> extreme(env, v, a, true));
    }

    private static void sequences() {
        add("length", (env, v, a) -> (long) Py.length(v));
        alias("count", "length");
        add("list", (env, v, a) -> new ArrayList<>(Py.items(v)));
        add("items", (env, v, a) -> v instanceof Py.Undefined ? List.of() : Methods.pairs(Py.dict(v)));
        add(
                "first",
                (env, v, a) -> Py.items(v).isEmpty()
                        ? new Py.Undefined("nothing is first in an empty sequence")
                        : Py.items(v).get(0));
        add(
                "last",
                (env, v, a) -> Py.items(v).isEmpty()
                        ? new Py.Undefined("nothing is last in an empty sequence")
                        : Py.items(v).get(Py.items(v).size() - 1));
        add("reverse", (env, v, a) -> {
            if (v instanceof String) {
                return Operators.slice(v, null, null, -1);
            }
            return Operators.reversed(v);
        });
        add("default default_value? boolean?", (env, v, a) -> {
            boolean replace = a.flag(1, false) ? !Py.truth(v) : v instanceof Py.Undefined;
            return replace ? a.get(0, "") : v;
        });
        alias("d", "default");
        add("join d? attribute?", (env, v, a) -> {
            StringBuilder out = new StringBuilder();
            String separator = "";
            for (Object item : Py.items(v)) {
                out.append(separator).append(Py.str(a.has(1) ? attribute(item, a.get(1)) : item));
                Py.bounded(out.length());
                separator = Py.str(a.get(0, ""));
            }
            return out.toString();
        });
        add("sort reverse? case_sensitive? attribute?", (env, v, a) -> {
            List<Object> sorted = new ArrayList<>(Py.items(v));
            Comparator<Object> order = Comparator.comparing(
                    item -> keys(item, a.get(2), a.flag(1, false)), (x, y) -> Operators.order(env, x, y));
            sorted.sort(a.flag(0, false) ? order.reversed() : order);
            return sorted;
        });
        add("unique case_sensitive? attribute?", (env, v, a) -> {
            List<Object> seen = new ArrayList<>();
            List<Object> kept = new ArrayList<>();
            for (Object item : Py.items(v)) {
                Object key = key(item, a.get(1), a.flag(0, false));
                if (!Operators.contains(env, seen, key)) {
                    seen.add(key);
                    kept.add(item);
                }
            }
            return kept;
        });
        add("dictsort case_sensitive? by? reverse?", (env, v, a) -> {
            int place = Py.str(a.get(1, "key")).equals("value") ? 1 : 0;
            List<Object> pairs = Methods.pairs(Py.dict(v));
            Comparator<Object> order = (x, y) -> Operators.order(
                    env,
                    folded(Py.items(x).get(place), a.flag(0, false)),
                    folded(Py.items(y).get(place), a.flag(0, false)));
            pairs.sort(a.flag(2, false) ? order.reversed() : order);
            return pairs;
        });
        add("groupby attribute default? case_sensitive?", (env, v, a) -> {
            List<Object> sorted = new ArrayList<>(Py.items(v));
            UnaryOperator<Object> key = item -> {
                Object value = attribute(item, a.get(0));
                return folded(value instanceof Py.Undefined ? a.get(1, value) : value, a.flag(2, false));
            };
            sorted.sort((x, y) -> Operators.order(env, key.apply(x), key.apply(y)));
            List<Object> groups = new ArrayList<>();
            List<Object> group = new ArrayList<>();
            for (int i = 0; i < sorted.size(); i++) {
                group.add(sorted.get(i));
                if (i + 1 == sorted.size()
                        || !Operators.equal(env, key.apply(sorted.get(i)), key.apply(sorted.get(i + 1)))) {
                    Object name = attribute(group.get(0), a.get(0));
                    groups.add(new Py.Tuple(List.of(name instanceof Py.Undefined ? a.get(1, name) : name, group)));
                    group = new ArrayList<>();
                }
            }
            return groups;
        });
        add("batch linecount fill_with?", (env, v, a) -> {
            List<Object> rows = new ArrayList<>();
            List<Object> items = Py.items(v);
            int width = a.integer(0, 1);
            if (width < 1) {
                throw Fault.of("batch needs a size of 1 or more, found %d", width);
            }
            for (int i = 0; i < items.size(); i += width) {
                List<Object> row = new ArrayList<>(items.subList(i, Math.min(items.size(), i + width)));
                while (a.has(1) && row.size() < width) {
                    row.add(a.get(1));
                }
                rows.add(row);
            }
            return rows;
        });
        add("attr name", (env, v, a) -> Methods.attribute(v, a.text(0)));
    }

    private static boolean isChoosing(String name) {
        return switch (name) {
            case "map", "select", "reject", "selectattr", "rejectattr" -> true;
            default -> false;
        };
    }

    private static List<Object> choose(Env env, String name, Object value, Arguments given) {
        List<Object> positional = given.positional();
        List<Object> chosen = new ArrayList<>();
        if (name.equals("map") && given.named().containsKey("attribute")) {
            Arguments.Bound bound =
                    new Arguments(List.of(), given.named()).bind("map", List.of("attribute", "default?"));
            for (Object item : Py.truth(value) ? Py.items(value) : List.of()) {
                Object member = attribute(item, bound.get(0));
                chosen.add(member instanceof Py.Undefined ? bound.get(1, member) : member);
            }
            return chosen;
        }
        if (!Py.truth(value)) {
            return chosen; // whatever it is: jinja2 looks no further either
        }
        boolean byAttribute = name.endsWith("attr");
        if (positional.isEmpty() && (byAttribute || name.equals("map"))) {
            throw Fault.of("%s needs an argument", name);
        }
        int skipped = byAttribute ? 1 : 0;
        String inner = positional.size() > skipped ? Py.text(positional.get(skipped)) : null;
        Arguments rest = new Arguments(
                positional.subList(Math.min(positional.size(), skipped + 1), positional.size()), given.named());
        for (Object item : Py.items(value)) {
            env.step();
            if (name.equals("map")) {
                chosen.add(apply(env, inner == null ? "" : inner, item, rest));
                continue;
            }
            Object tested = byAttribute ? attribute(item, positional.get(0)) : item;
            boolean holds = inner == null ? Py.truth(tested) : Tests.holds(env, inner, tested, rest);
            if (holds == name.startsWith("select")) {
                chosen.add(item);
            }
        }
        return chosen;
    }

    /** A member by a path such as {@code "function.name"} or {@code "0.text"}. */
    private static Object attribute(Object item, Object path) {
        if (path instanceof Long) {
            return Methods.item(item, path);
        }
        Object value = item;
        for (String part : Py.text(path).split("\\.", -1)) {
            boolean number = !part.isEmpty() && part.chars().allMatch(c -> c >= '0' && c <= '9');
            value = Methods.item(value, number ? (Object) Long.valueOf(part) : part);
        }
        return value;
    }

    private static Object key(Object item, Object attribute, boolean caseSensitive) {
        return folded(attribute == Py.None.NONE ? item : attribute(item, attribute), caseSensitive);
    }

    /** What to sort by: one member, or several with commas between. */
    private static Object keys(Object item, Object attributes, boolean caseSensitive) {
        List<Object> keys = new ArrayList<>();
        if (attributes instanceof String several) {
            for (String one : several.split(",", -1)) {
                keys.add(key(item, one, caseSensitive));
            }
        } else {
            keys.add(key(item, attributes, caseSensitive));
        }
        return keys;
    }

    private static Object folded(Object value, boolean caseSensitive) {
        return value instanceof String text && !caseSensitive ? text.toLowerCase(Locale.ROOT) : value;
    }

    private static Object extreme(Env env, Object value, Arguments.Bound arguments, boolean largest) {
        Object best = new Py.Undefined("an empty sequence has neither a least nor a greatest item");
        Object bestKey = best;
        for (Object item : Py.items(value)) {
            Object key = key(item, arguments.get(1), arguments.flag(0, false));
            int order = bestKey instanceof Py.Undefined ? 0 : Operators.order(env, key, bestKey);
            if (bestKey instanceof Py.Undefined || (largest ? order > 0 : order < 0)) {
                best = item;
                bestKey = key;
            }
        }
        return best;
    }

    private static Object integer(Object value, Object otherwise, int base) {
        if (Operators.isInteger(value)) {
            return Py.integer(value);
        }
        if (value instanceof String text) {
            try {
                return Long.parseLong(digits(text, base), base);
            } catch (NumberFormatException e) {
                // perhaps a fraction, below
            }
        }
        Double number = real(value);
        return number == null || Double.isNaN(number) || Double.isInfinite(number)
                ? otherwise
                : (Object) number.longValue();
    }

    private static String digits(String text, int base) {
        String digits = Py.strip(text, null, true, true).replace("_", "").toLowerCase(Locale.ROOT);
        String prefix = base == 16 ? "0x" : base == 8 ? "0o" : base == 2 ? "0b" : "";
        return !prefix.isEmpty() && digits.startsWith(prefix) ? digits.substring(2) : digits;
    }

    private static @Nullable Double real(Object value) {
        if (Operators.isNumber(value)) {
            return ((Number) Operators.number(value)).doubleValue();
        }
        if (value instanceof String text) {
            String number = Py.strip(text, null, true, true);
            if (number.matches("[+-]?(\\d+\\.?\\d*|\\.\\d+)([eE][+-]?\\d+)?")) {
                return Double.parseDouble(number);
            }
        }
        return null;
    }

    /** jinja2's title, which keeps to its own idea of where words begin. */
    private static String title(String text) {
        StringBuilder out = new StringBuilder();
        Matcher matcher = WORD_START.matcher(text);
        int start = 0;
        while (matcher.find()) {
            out.append(Methods.capitalize(text.substring(start, matcher.start())))
                    .append(matcher.group());
            start = matcher.end();
        }
        return out.append(Methods.capitalize(text.substring(start))).toString();
    }

    private static String indent(String text, String by, boolean first, boolean blank) {
        StringBuilder out = new StringBuilder(first ? by : "");
        List<Object> lines = Methods.lines(text + "\n", false);
        for (int i = 0; i < lines.size(); i++) {
            String line = (String) lines.get(i);
            if (i > 0) {
                out.append('\n').append(blank || !line.isEmpty() ? by : "");
            }
            out.append(line);
            Py.bounded(out.length());
        }
        return out.toString();
    }
}
