package dev.espalier.text.jinja;

import dev.espalier.text.jinja.Parser.Tokens;
import dev.espalier.text.jinja.Token.Kind;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import org.jspecify.annotations.Nullable;

/** Tokens to expressions: or, and, not, comparisons, sums, ~, products, powers, signs, then what follows a value. */
final class ExprParser {

    static final Map<String, Object> CONSTANTS = Map.of(
            "true", true, "True", true, "false", false, "False", false, "none", Py.None.NONE, "None", Py.None.NONE);

    private static final Set<String> COMPARISONS = Set.of("==", "!=", "<", "<=", ">", ">=");
    private static final int MAX_CHAIN = 1000; // of one operator after another; each is a level when run

    private final Tokens tokens;

    ExprParser(Tokens tokens) {
        this.tokens = tokens;
    }

    Expr expression() {
        tokens.enter();
        Expr value = or();
        while (tokens.skip(Kind.NAME, "if")) {
            Expr condition = or();
            value = new Expr.Conditional(condition, value, tokens.skip(Kind.NAME, "else") ? expression() : null);
        }
        tokens.leave();
        return value;
    }

    /**
     * One expression, or several with commas, which make a tuple.
     *
     * @param conditional whether "if" belongs to the expression rather than to the statement around
     */
    Expr tuple(boolean conditional) {
        List<Expr> items = new ArrayList<>();
        boolean comma = false;
        while (!endsTuple()) {
            items.add(conditional ? expression() : or());
            comma = tokens.skip(Kind.OPERATOR, ",");
            if (!comma) {
                break;
            }
        }
        if (items.isEmpty()) {
            throw Fault.of("expected an expression, found %s", tokens.peek().described());
        }
        return items.size() == 1 && !comma ? items.get(0) : new Expr.TupleOf(items);
    }

    private boolean endsTuple() {
        Token token = tokens.peek();
        return token.kind() == Kind.VARIABLE_END || token.kind() == Kind.BLOCK_END || token.is(Kind.OPERATOR, ")");
    }

    private Expr or() {
        Expr left = and();
        for (int chain = 0; tokens.skip(Kind.NAME, "or"); chain++) {
            left = new Expr.Or(left, and());
            checkChain(chain);
        }
        return left;
    }

    private Expr and() {
        Expr left = not();
        for (int chain = 0; tokens.skip(Kind.NAME, "and"); chain++) {
            left = new Expr.And(left, not());
            checkChain(chain);
        }
        return left;
    }

    private Expr not() {
        if (tokens.peek().is(Kind.NAME, "not")) {
            tokens.enter();
            tokens.next();
            Expr operand = not();
            tokens.leave();
            return new Expr.Not(operand);
        }
        return comparison();
    }

    private Expr comparison() {
        Expr first = sum();
        List<Expr.Comparison> rest = new ArrayList<>();
        while (true) {
            Token token = tokens.peek();
            if (token.kind() == Kind.OPERATOR && COMPARISONS.contains(token.text())) {
                tokens.next();
                rest.add(new Expr.Comparison(token.text(), sum()));
            } else if (tokens.skip(Kind.NAME, "in")) {
                rest.add(new Expr.Comparison("in", sum()));
            } else if (token.is(Kind.NAME, "not") && tokens.look().is(Kind.NAME, "in")) {
                tokens.next();
                tokens.next();
                rest.add(new Expr.Comparison("not in", sum()));
            } else {
                return rest.isEmpty() ? first : new Expr.Compare(first, rest);
            }
        }
    }

    private Expr sum() {
        Expr left = joined();
        for (int chain = 0; isOperator("+", "-"); chain++) {
            String operator = tokens.next().text();
            left = new Expr.Binary(operator, left, joined());
            checkChain(chain);
        }
        return left;
    }

    private Expr joined() {
        Expr left = product();
        for (int chain = 0; isOperator("~"); chain++) {
            String operator = tokens.next().text();
            left = new Expr.Binary(operator, left, product());
            checkChain(chain);
        }
        return left;
    }

    private Expr product() {
        Expr left = power();
        for (int chain = 0; isOperator("*", "/", "//", "%"); chain++) {
            String operator = tokens.next().text();
            left = new Expr.Binary(operator, left, power());
            checkChain(chain);
        }
        return left;
    }

    private Expr power() {
        Expr left = unary(true);
        for (int chain = 0; isOperator("**"); chain++) {
            String operator = tokens.next().text();
            left = new Expr.Binary(operator, left, unary(true));
            checkChain(chain);
        }
        return left;
    }

    private Expr unary(boolean filtered) {
        tokens.enter();
        Expr value;
        if (isOperator("-", "+")) {
            boolean minus = tokens.next().text().equals("-");
            value = new Expr.Sign(minus, unary(false));
        } else {
            value = primary();
        }
        value = postfix(value);
        tokens.leave();
        return filtered ? filters(value) : value;
    }

    private Expr primary() {
        Token token = tokens.next();
        switch (token.kind()) {
            case NAME -> {
                Object constant = CONSTANTS.get(token.text());
                return constant == null ? new Expr.Name(token.text()) : new Expr.Constant(constant);
            }
            case STRING -> {
                StringBuilder text = new StringBuilder(token.text());
                while (tokens.peek().kind() == Kind.STRING) {
                    text.append(tokens.next().text());
                }
                return new Expr.Constant(text.toString());
            }
            case INTEGER -> {
                return new Expr.Constant(integer(token.text().replace("_", "")));
            }
            case FLOAT -> {
                return new Expr.Constant(Double.parseDouble(token.text().replace("_", "")));
            }
            case OPERATOR -> {
                switch (token.text()) {
                    case "(" -> {
                        if (tokens.skip(Kind.OPERATOR, ")")) {
                            return new Expr.TupleOf(List.of());
                        }
                        Expr inner = tuple(true);
                        tokens.expect(Kind.OPERATOR, ")");
                        return inner;
                    }
                    case "[" -> {
                        return new Expr.ListOf(list());
                    }
                    case "{" -> {
                        return dict();
                    }
                    default -> {}
                }
            }
            default -> {}
        }
        throw Fault.of("expected an expression, found %s", token.described()).at(token.line());
    }

    private static Object integer(String digits) {
        try {
            return switch (digits.length() > 1 ? Character.toLowerCase(digits.charAt(1)) : ' ') {
                case 'x' -> Long.parseLong(digits.substring(2), 16);
                case 'o' -> Long.parseLong(digits.substring(2), 8);
                case 'b' -> Long.parseLong(digits.substring(2), 2);
                default -> Long.parseLong(digits);
            };
        } catch (NumberFormatException e) {
            throw Fault.of("%s is too large a number", digits);
        }
    }

    private List<Expr> list() {
        List<Expr> items = new ArrayList<>();
        while (!tokens.skip(Kind.OPERATOR, "]")) {
            if (!items.isEmpty()) {
                tokens.expect(Kind.OPERATOR, ",");
                if (tokens.skip(Kind.OPERATOR, "]")) {
                    break;
                }
            }
            items.add(expression());
        }
        return items;
    }

    private Expr dict() {
        List<Expr.Entry> entries = new ArrayList<>();
        while (!tokens.skip(Kind.OPERATOR, "}")) {
            if (!entries.isEmpty()) {
                tokens.expect(Kind.OPERATOR, ",");
                if (tokens.skip(Kind.OPERATOR, "}")) {
                    break;
                }
            }
            Expr key = expression();
            tokens.expect(Kind.OPERATOR, ":");
            entries.add(new Expr.Entry(key, expression()));
        }
        return new Expr.DictOf(entries);
    }

    private Expr postfix(Expr value) {
        Expr result = value;
        for (int chain = 0; ; chain++) {
            if (tokens.skip(Kind.OPERATOR, ".")) {
                Token member = tokens.next();
                result = switch (member.kind()) {
                    case NAME -> new Expr.Attribute(result, member.text());
                    case INTEGER -> new Expr.Item(result, new Expr.Constant(integer(member.text())));
                    default -> throw Fault.of("expected a name after the dot, found %s", member.described());
                };
            } else if (tokens.skip(Kind.OPERATOR, "[")) {
                result = subscript(result);
            } else if (tokens.skip(Kind.OPERATOR, "(")) {
                result = new Expr.Call(result, given());
            } else {
                return result;
            }
            checkChain(chain);
        }
    }

    private Expr subscript(Expr object) {
        Expr from = isOperator(":") ? null : expression();
        if (tokens.skip(Kind.OPERATOR, ":")) {
            Expr to = isOperator(":", "]") ? null : expression();
            Expr step = tokens.skip(Kind.OPERATOR, ":") && !isOperator("]") ? expression() : null;
            tokens.expect(Kind.OPERATOR, "]");
            return new Expr.Slice(object, from, to, step);
        }
        tokens.expect(Kind.OPERATOR, "]");
        return from == null ? object : new Expr.Item(object, from);
    }

    /** Filters, tests and calls after a value. */
    private Expr filters(Expr value) {
        Expr result = value;
        for (int chain = 0; ; chain++) {
            if (tokens.skip(Kind.OPERATOR, "|")) {
                result = filter(result);
            } else if (tokens.skip(Kind.NAME, "is")) {
                result = test(result);
            } else if (tokens.skip(Kind.OPERATOR, "(")) { // calls may follow a filter
                result = new Expr.Call(result, given());
            } else {
                return result;
            }
            checkChain(chain);
        }
    }

    /** A filter's name and arguments, after the bar. */
    Expr.Filter filter(Expr value) {
        String name = tokens.expect(Kind.NAME).text();
        return new Expr.Filter(value, name, tokens.skip(Kind.OPERATOR, "(") ? given() : Expr.Given.NOTHING);
    }

    private Expr test(Expr value) {
        boolean negated = tokens.skip(Kind.NAME, "not");
        String name = tokens.expect(Kind.NAME).text();
        Expr.Given given = Expr.Given.NOTHING;
        if (tokens.skip(Kind.OPERATOR, "(")) {
            given = given();
        } else if (startsArgument(tokens.peek())) {
            given = new Expr.Given(List.of(postfix(primary())), Map.of(), null, null);
        }
        Expr test = new Expr.Test(value, name, given);
        return negated ? new Expr.Not(test) : test;
    }

    /** Whether a test's one argument follows without parentheses, as in {@code is divisibleby 3}. */
    private static boolean startsArgument(Token token) {
        return switch (token.kind()) {
            case STRING, INTEGER, FLOAT -> true;
            case NAME -> !Set.of("else", "or", "and", "if", "is", "in", "not").contains(token.text());
            case OPERATOR -> token.text().equals("[") || token.text().equals("{");
            default -> false;
        };
    }

    /** A call's arguments, after its opening parenthesis. */
    private Expr.Given given() {
        List<Expr> positional = new ArrayList<>();
        Map<String, Expr> named = new LinkedHashMap<>();
        @Nullable Expr list = null;
        @Nullable Expr dict = null;
        boolean any = false;
        while (!tokens.skip(Kind.OPERATOR, ")")) {
            if (any) {
                tokens.expect(Kind.OPERATOR, ",");
                if (tokens.skip(Kind.OPERATOR, ")")) {
                    break;
                }
            }
            any = true;
            if (tokens.skip(Kind.OPERATOR, "*")) {
                list = expression();
            } else if (tokens.skip(Kind.OPERATOR, "**")) {
                dict = expression();
            } else if (tokens.peek().kind() == Kind.NAME && tokens.look().is(Kind.OPERATOR, "=")) {
                String name = tokens.next().text();
                tokens.next();
                named.put(name, expression());
            } else if (named.isEmpty() && dict == null) {
                positional.add(expression());
            } else {
                throw Fault.of("an argument without a name stands after one with a name");
            }
        }
        return new Expr.Given(positional, named, list, dict);
    }

    private boolean isOperator(String... operators) {
        Token token = tokens.peek();
        if (token.kind() == Kind.OPERATOR) {
            for (String operator : operators) {
                if (token.text().equals(operator)) {
                    return true;
                }
            }
        }
        return false;
    }

    private static void checkChain(int length) {
        if (length > MAX_CHAIN) {
            throw Fault.of("more than %d operators in a row", MAX_CHAIN);
        }
    }
}
