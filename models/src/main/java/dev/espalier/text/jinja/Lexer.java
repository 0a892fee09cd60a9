package dev.espalier.text.jinja;

import dev.espalier.text.jinja.Token.Kind;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Deque;
import java.util.List;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * Cuts a template into tokens as jinja2's lexer does with {@code trim_blocks} and {@code lstrip_blocks}.
 *
 * <p>trim_blocks: the line end right after a block or comment goes. lstrip_blocks: blanks before one go if nothing else
 * is on the line. A minus inside a tag eats all white space on its side; a plus switches either rule off.
 */
final class Lexer {

    private static final Pattern TAG = Pattern.compile("\\{[{%#]");
    private static final Pattern RAW = Pattern.compile("(?U)\\{%([-+]?)\\s*raw\\s*(?:-%\\}\\s*|%\\})");
    private static final Pattern END_RAW =
            Pattern.compile("(?U)\\{%([-+]?)\\s*endraw\\s*(?:\\+%\\}|-%\\}\\s*|%\\}\\n?)");
    private static final Pattern END_COMMENT = Pattern.compile("(?U)\\+#\\}|-#\\}\\s*|#\\}\\n?");
    private static final Pattern END_BLOCK = Pattern.compile("(?U)\\+%\\}|-%\\}\\s*|%\\}\\n?");
    private static final Pattern END_VARIABLE = Pattern.compile("(?U)-\\}\\}\\s*|\\}\\}");
    private static final Pattern SPACE = Pattern.compile("(?U)\\s+");
    private static final Pattern FLOAT =
            Pattern.compile("(?<!\\.)\\d[\\d_]*(?:\\.\\d[\\d_]*(?:[eE][+-]?\\d+)?|[eE][+-]?\\d+)");
    private static final Pattern INTEGER = Pattern.compile("0[xX][\\da-fA-F_]+|0[oO][0-7_]+|0[bB][01_]+|\\d[\\d_]*");
    private static final Pattern NAME =
            Pattern.compile("[\\p{L}_][\\p{L}\\p{M}\\p{N}_]*", Pattern.UNICODE_CHARACTER_CLASS);
    private static final Pattern STRING =
            Pattern.compile("'[^'\\\\]*+(?:\\\\.[^'\\\\]*+)*+'|\"[^\"\\\\]*+(?:\\\\.[^\"\\\\]*+)*+\"", Pattern.DOTALL);
    private static final Pattern OPERATOR = Pattern.compile("\\*\\*|//|==|!=|>=|<=|[-+/*%~\\[\\](){}><=.:|,;]");

    private final String source;
    private final List<Token> tokens = new ArrayList<>();
    private int position;
    private int line = 1;
    private boolean lineStarts = true; // whether the last thing read ended a line

    private Lexer(String source) {
        String lines = source.replace("\r\n", "\n").replace('\r', '\n');
        // One line end at the very end is dropped (keep_trailing_newline is off).
        this.source = lines.endsWith("\n") ? lines.substring(0, lines.length() - 1) : lines;
    }

    static List<Token> tokens(String source) {
        return new Lexer(source).run();
    }

    private List<Token> run() {
        while (position < source.length()) {
            Matcher tag = TAG.matcher(source);
            if (!tag.find(position)) {
                data(source.substring(position));
                position = source.length();
                break;
            }
            int start = tag.start();
            Matcher raw = RAW.matcher(source).region(start, source.length());
            char kind = source.charAt(start + 1);
            if (raw.lookingAt()) {
                text(start, raw.group(1), true);
                advance(raw.end());
                raw();
            } else {
                String sign = start + 2 < source.length() && "-+".indexOf(source.charAt(start + 2)) >= 0
                        ? source.substring(start + 2, start + 3)
                        : "";
                text(start, sign, kind != '{');
                advance(start + 2 + sign.length());
                switch (kind) {
                    case '#' -> comment();
                    case '%' -> tag(Kind.BLOCK_BEGIN, Kind.BLOCK_END, END_BLOCK);
                    default -> tag(Kind.VARIABLE_BEGIN, Kind.VARIABLE_END, END_VARIABLE);
                }
            }
        }
        tokens.add(new Token(Kind.END, "", line));
        return tokens;
    }

    /** Emits the text from here to a tag, stripped at its end as the tag's sign and the line demand. */
    private void text(int end, String sign, boolean strippable) {
        String text = source.substring(position, end);
        if (sign.equals("-")) {
            text = Py.strip(text, null, false, true);
        } else if (!sign.equals("+") && strippable) {
            int last = text.lastIndexOf('\n') + 1;
            if ((last > 0 || lineStarts) && Py.isBlank(text.substring(last))) {
                text = text.substring(0, last);
            }
        }
        data(text);
        advance(end);
    }

    private void data(String text) {
        if (!text.isEmpty()) {
            tokens.add(new Token(Kind.DATA, text, line));
        }
    }

    private void raw() {
        Matcher end = END_RAW.matcher(source);
        if (!end.find(position)) {
            throw Fault.of("{%% raw %%} is never closed; add {%% endraw %%}").at(line);
        }
        text(end.start(), end.group(1), true);
        advance(end.end());
    }

    private void comment() {
        Matcher end = END_COMMENT.matcher(source);
        if (!end.find(position)) {
            throw Fault.of("a comment is never closed; add #}").at(line);
        }
        advance(end.end());
    }

    private void tag(Kind begin, Kind end, Pattern closing) {
        int opened = line;
        tokens.add(new Token(begin, "", line));
        Deque<Character> brackets = new ArrayDeque<>();
        while (position < source.length()) {
            Matcher close = closing.matcher(source).region(position, source.length());
            if (brackets.isEmpty() && close.lookingAt()) {
                tokens.add(new Token(end, "", line));
                advance(close.end());
                return;
            }
            token(brackets);
        }
        throw Fault.of("a tag is never closed").at(opened);
    }

    private void token(Deque<Character> brackets) {
        Matcher matcher = SPACE.matcher(source)
                .region(position, source.length())
                .useTransparentBounds(true)
                .useAnchoringBounds(false);
        if (matcher.lookingAt()) {
            advance(matcher.end());
        } else if (matcher.usePattern(FLOAT).lookingAt()) {
            emit(Kind.FLOAT, matcher);
        } else if (matcher.usePattern(INTEGER).lookingAt()) {
            emit(Kind.INTEGER, matcher);
        } else if (matcher.usePattern(NAME).lookingAt()) {
            emit(Kind.NAME, matcher);
        } else if (matcher.usePattern(STRING).lookingAt()) {
            String quoted = matcher.group();
            tokens.add(new Token(Kind.STRING, unescape(quoted.substring(1, quoted.length() - 1)), line));
            advance(matcher.end());
        } else if (matcher.usePattern(OPERATOR).lookingAt()) {
            balance(matcher.group(), brackets);
            emit(Kind.OPERATOR, matcher);
        } else {
            throw Fault.of("unexpected character \"%s\"", Character.toString(source.codePointAt(position)))
                    .at(line);
        }
    }

    private void balance(String operator, Deque<Character> brackets) {
        char c = operator.charAt(0);
        switch (c) {
            case '(' -> brackets.push(')');
            case '[' -> brackets.push(']');
            case '{' -> brackets.push('}');
            case ')', ']', '}' -> {
                if (brackets.isEmpty() || brackets.pop() != c) {
                    throw Fault.of("\"%s\" closes nothing", operator).at(line);
                }
            }
            default -> {}
        }
    }

    private void emit(Kind kind, Matcher matcher) {
        tokens.add(new Token(kind, matcher.group(), line));
        advance(matcher.end());
    }

    private void advance(int to) {
        for (int i = position; i < to; i++) {
            if (source.charAt(i) == '\n') {
                line++;
            }
        }
        if (to > position) {
            lineStarts = source.charAt(to - 1) == '\n';
        }
        position = to;
    }

    /** Python's escapes in a string; an unknown one stays as written. */
    private String unescape(String text) {
        if (text.indexOf('\\') < 0) {
            return text;
        }
        StringBuilder out = new StringBuilder();
        for (int i = 0; i < text.length(); i++) {
            char c = text.charAt(i);
            if (c != '\\') {
                out.append(c);
                continue;
            }
            char e = text.charAt(++i); // the pattern lets no backslash stand last
            switch (e) {
                case '\n' -> {}
                case '\\', '\'', '"' -> out.append(e);
                case 'a' -> out.append('\u0007');
                case 'b' -> out.append('\b');
                case 'f' -> out.append('\f');
                case 'n' -> out.append('\n');
                case 'r' -> out.append('\r');
                case 't' -> out.append('\t');
                case 'v' -> out.append('\u000B');
                case 'x' -> i = code(text, i, 2, out);
                case 'u' -> i = code(text, i, 4, out);
                case 'U' -> i = code(text, i, 8, out);
                case '0', '1', '2', '3', '4', '5', '6', '7' -> {
                    int end = i;
                    while (end < text.length() && end < i + 3 && text.charAt(end) >= '0' && text.charAt(end) <= '7') {
                        end++;
                    }
                    out.appendCodePoint(Integer.parseInt(text.substring(i, end), 8));
                    i = end - 1;
                }
                default -> out.append('\\').append(e);
            }
        }
        return out.toString();
    }

    private int code(String text, int at, int digits, StringBuilder out) {
        String hex = text.substring(Math.min(at + 1, text.length()), Math.min(at + 1 + digits, text.length()));
        if (hex.length() < digits
                || !hex.matches("[0-9a-fA-F]+")
                || Long.parseLong(hex, 16) > Character.MAX_CODE_POINT) {
            throw Fault.of("\"\\%s%s\" is no character", text.charAt(at), hex).at(line);
        }
        out.appendCodePoint(Integer.parseInt(hex, 16));
        return at + digits;
    }
}
