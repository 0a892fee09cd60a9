package dev.espalier.text.jinja;

import java.math.BigDecimal;
import java.math.RoundingMode;
import java.time.LocalDateTime;
import java.time.format.DateTimeFormatter;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.jspecify.annotations.Nullable;

/** Python's three ways of formatting, as far as templates use them: {@code %}, {@code str.format}, {@code strftime}. */
final class Format {

    private static final Pattern PERCENT =
            Pattern.compile("%(?:\\(([^)]*)\\))?([-+ 0#]*)(\\d{0,5})(?:\\.(\\d{0,5}))?([a-zA-Z%])");
    private static final Pattern BRACES =
            Pattern.compile("\\{\\{|\\}\\}|\\{([^{}!:]*)(?:!([rs]))?(?::([^{}]*))?\\}|[{}]");
    private static final Pattern SPEC =
            Pattern.compile("(?:(.)?([<>^]))?([-+ ]?)(0?)(\\d{0,5})(,?)(?:\\.(\\d{1,5}))?([sdfxXeg%]?)");
    private static final Pattern DIRECTIVE = Pattern.compile("%(-?)(.)");

    private Format() {}

    /** {@code format % values}. */
    static String percent(String format, Object values) {
        Matcher matcher = PERCENT.matcher(format);
        StringBuilder out = new StringBuilder();
        List<Object> given = values instanceof Py.Tuple tuple ? tuple.items() : List.of(values);
        int next = 0;
        int done = 0;
        while (matcher.find()) {
            out.append(format, done, matcher.start());
            done = matcher.end();
            if (matcher.group(5).equals("%")) {
                out.append('%');
                continue;
            }
            Object value;
            if (matcher.group(1) != null) {
                value = Methods.item(values, matcher.group(1));
            } else if (next < given.size()) {
                value = given.get(next++);
            } else {
                throw Fault.of("\"%s\" has more places than values", format);
            }
            String flags = matcher.group(2);
            String text = converted(
                    matcher.group(5).charAt(0), value, matcher.group(4) == null ? -1 : number(matcher.group(4)));
            text = signed(text, value, flags);
            int width = number(matcher.group(3));
            char align = flags.contains("-") ? '<' : flags.contains("0") && Operators.isNumber(value) ? '=' : '>';
            out.append(padded(text, width, align == '=' ? "0" : " ", align));
            Py.bounded(out.length());
        }
        if (next < given.size() && !(values instanceof Map || values instanceof List)) {
            throw Fault.of("\"%s\" has fewer places than values", format);
        }
        return out.append(format, done, format.length()).toString();
    }

    /** {@code format.format(...)}. */
    static String braces(String format, Arguments arguments) {
        Matcher matcher = BRACES.matcher(format);
        StringBuilder out = new StringBuilder();
        int next = 0;
        int done = 0;
        while (matcher.find()) {
            out.append(format, done, matcher.start());
            done = matcher.end();
            String hit = matcher.group();
            if (hit.equals("{{") || hit.equals("}}")) {
                out.append(hit.charAt(0));
                continue;
            }
            if (hit.length() == 1) {
                throw Fault.of("\"%s\" has a single %s; write it twice", format, hit);
            }
            String field = matcher.group(1);
            Object value;
            if (field.isEmpty() || field.chars().allMatch(Character::isDigit)) {
                int index = field.isEmpty() ? next++ : number(field);
                if (index >= arguments.positional().size()) {
                    throw Fault.of("\"%s\" has more places than values", format);
                }
                value = arguments.positional().get(index);
            } else {
                Object named = arguments.named().get(field);
                if (named == null) {
                    throw Fault.of("\"%s\" needs a value for %s", format, field);
                }
                value = named;
            }
            Object shown = "r".equals(matcher.group(2)) ? Py.repr(value) : value;
            out.append(specified(shown, matcher.group(3) == null ? "" : matcher.group(3)));
            Py.bounded(out.length());
        }
        return out.append(format, done, format.length()).toString();
    }

    private static String specified(Object value, String spec) {
        if (spec.isEmpty()) {
            return Py.str(value);
        }
        Matcher matcher = SPEC.matcher(spec);
        if (!matcher.matches()) {
            throw Fault.of("\"%s\" is a format that is not known here", spec);
        }
        boolean numeric = Operators.isNumber(value);
        int precision = matcher.group(7) == null ? -1 : number(matcher.group(7));
        String kind = matcher.group(8);
        String text = kind.isEmpty() || kind.equals("s")
                ? cut(Py.str(value), precision)
                : kind.equals("%")
                        ? fixed(((Number) Operators.number(value)).doubleValue() * 100, precision < 0 ? 6 : precision)
                                + "%"
                        : converted(kind.charAt(0), value, precision);
        if (!matcher.group(6).isEmpty()) {
            text = grouped(text);
        }
        text = signed(text, value, matcher.group(3));
        boolean zero = !matcher.group(4).isEmpty() && numeric;
        String fill = matcher.group(1) == null ? zero ? "0" : " " : matcher.group(1);
        char align = matcher.group(2) != null ? matcher.group(2).charAt(0) : zero ? '=' : numeric ? '>' : '<';
        return padded(text, number(matcher.group(5)), fill, align);
    }

    private static String converted(char kind, Object value, int precision) {
        return switch (kind) {
            case 's' -> cut(Py.str(value), precision);
            case 'r' -> cut(Py.repr(value), precision);
            case 'd', 'i' ->
                value instanceof Double real ? Long.toString(real.longValue()) : Long.toString(Py.integer(value));
            case 'x' -> Long.toString(Py.integer(value), 16);
            case 'X' -> Long.toString(Py.integer(value), 16).toUpperCase(Locale.ROOT);
            case 'f', 'F' -> fixed(((Number) Operators.number(value)).doubleValue(), precision < 0 ? 6 : precision);
            case 'e' ->
                String.format(
                        Locale.ROOT,
                        "%." + (precision < 0 ? 6 : precision) + "e",
                        ((Number) Operators.number(value)).doubleValue());
            default -> throw Fault.of("%%%s is a format that is not known here", kind);
        };
    }

    private static String cut(String text, int precision) {
        return precision < 0 || precision >= text.codePointCount(0, text.length())
                ? text
                : text.substring(0, text.offsetByCodePoints(0, precision));
    }

    /** Rounded half to even on the exact binary value, as C's printf does. */
    static String fixed(double value, int digits) {
        if (Double.isNaN(value) || Double.isInfinite(value)) {
            return Py.number(value);
        }
        String text =
                new BigDecimal(value).setScale(digits, RoundingMode.HALF_EVEN).toPlainString();
        return 1 / value < 0 && !text.startsWith("-") ? "-" + text : text;
    }

    private static String grouped(String text) {
        int point = text.indexOf('.') < 0 ? text.length() : text.indexOf('.');
        return text.substring(0, point).replaceAll("(?<=\\d)(?=(?:\\d{3})+$)", ",") + text.substring(point);
    }

    private static String signed(String text, Object value, String flags) {
        if (!Operators.isNumber(value) || text.startsWith("-")) {
            return text;
        }
        return flags.contains("+") ? "+" + text : flags.contains(" ") ? " " + text : text;
    }

    private static String padded(String text, int width, String fill, char align) {
        String pad = Methods.padding(text, width, fill);
        return switch (align) {
            case '<' -> text + pad;
            case '^' -> pad.substring(0, pad.length() / 2) + text + pad.substring(pad.length() / 2);
            case '=' -> {
                int sign = text.startsWith("-") || text.startsWith("+") || text.startsWith(" ") ? 1 : 0;
                yield text.substring(0, sign) + pad + text.substring(sign);
            }
            default -> pad + text;
        };
    }

    private static int number(@Nullable String digits) {
        return digits == null || digits.isEmpty() ? 0 : Integer.parseInt(digits);
    }

    /** {@code strftime} in the C locale. */
    static String time(String format, LocalDateTime now) {
        Matcher matcher = DIRECTIVE.matcher(format);
        StringBuilder out = new StringBuilder();
        int done = 0;
        while (matcher.find()) {
            out.append(format, done, matcher.start());
            done = matcher.end();
            String text = directive(matcher.group(2).charAt(0), now);
            out.append(matcher.group(1).isEmpty() ? text : text.replaceFirst("^0+(?=\\d)", ""));
        }
        return out.append(format, done, format.length()).toString();
    }

    private static String directive(char letter, LocalDateTime now) {
        String pattern = switch (letter) {
            case 'Y' -> "uuuu";
            case 'y' -> "uu";
            case 'm' -> "MM";
            case 'B' -> "MMMM";
            case 'b', 'h' -> "MMM";
            case 'd' -> "dd";
            case 'e' -> "ppd";
            case 'j' -> "DDD";
            case 'A' -> "EEEE";
            case 'a' -> "EEE";
            case 'H' -> "HH";
            case 'I' -> "hh";
            case 'M' -> "mm";
            case 'S' -> "ss";
            case 'f' -> "SSSSSS";
            case 'p' -> "a";
            case 'F' -> "uuuu-MM-dd";
            case 'T', 'X' -> "HH:mm:ss";
            case 'R' -> "HH:mm";
            case 'D', 'x' -> "MM/dd/uu";
            case 'c' -> "EEE MMM ppd HH:mm:ss uuuu";
            case '%' -> "'%'";
            case 'n' -> "'\n'";
            case 't' -> "'\t'";
            case 'Z', 'z' -> ""; // a time without a zone, as datetime.now() gives
            default -> throw Fault.of("%%%s is a part of a date that is not known here", letter);
        };
        return pattern.isEmpty()
                ? ""
                : DateTimeFormatter.ofPattern(pattern, Locale.ENGLISH).format(now);
    }
}
