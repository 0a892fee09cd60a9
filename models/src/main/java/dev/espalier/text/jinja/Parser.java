package dev.espalier.text.jinja;

import dev.espalier.text.jinja.Statement.Body;
import dev.espalier.text.jinja.Statement.Flow;
import dev.espalier.text.jinja.Statement.Target;
import dev.espalier.text.jinja.Token.Kind;
import java.util.ArrayList;
import java.util.List;
import java.util.Set;
import org.jspecify.annotations.Nullable;

/** Tokens to statements; expressions are {@link ExprParser}'s. Follows jinja2's parser rule by rule. */
final class Parser {

    private static final Set<String> NO_LOADER = Set.of("extends", "include", "import", "from");

    private final Tokens tokens;
    private final ExprParser expressions;

    private Parser(Tokens tokens) {
        this.tokens = tokens;
        this.expressions = new ExprParser(tokens);
    }

    static Body parse(String source) {
        Tokens tokens = new Tokens(Lexer.tokens(source));
        try {
            return new Parser(tokens).body(Set.of());
        } catch (Fault fault) {
            throw fault.at(tokens.peek().line());
        }
    }

    /** Statements up to one of the closing tags, whose name is left as the next token; at the top, to the end. */
    private Body body(Set<String> closing) {
        tokens.enter();
        List<Statement> statements = new ArrayList<>();
        while (true) {
            Token token = tokens.next();
            switch (token.kind()) {
                case END -> {
                    if (!closing.isEmpty()) {
                        throw Fault.of("the template ends where one of %s should stand", sorted(closing));
                    }
                    tokens.leave();
                    return new Body(statements);
                }
                case DATA -> statements.add(new Statement.Text(token.text()));
                case VARIABLE_BEGIN -> {
                    Expr value = expressions.tuple(true);
                    tokens.expect(Kind.VARIABLE_END);
                    statements.add(new Statement.At(token.line(), new Statement.Output(value)));
                }
                case BLOCK_BEGIN -> {
                    if (tokens.peek().kind() == Kind.NAME
                            && closing.contains(tokens.peek().text())) {
                        tokens.leave();
                        return new Body(statements);
                    }
                    statements.add(new Statement.At(token.line(), statement()));
                }
                default -> throw Fault.of("%s is out of place", token.described());
            }
        }
    }

    /** The statement's name, its middle and, where it has a body, all to its closing tag. */
    private Statement statement() {
        String name = tokens.expect(Kind.NAME).text();
        return switch (name) {
            case "for" -> loop();
            case "if" -> condition();
            case "set" -> set();
            case "macro" -> macro();
            case "call" -> call();
            case "filter" -> filter();
            case "with" -> with();
            case "generation" -> new Statement.Generation(closed("endgeneration"));
            case "autoescape" -> {
                expressions.expression();
                yield new Statement.Scoped(closed("endautoescape"));
            }
            case "block" -> {
                tokens.expect(Kind.NAME);
                yield new Statement.Scoped(closed("endblock"));
            }
            case "break" -> jump(Flow.BREAK);
            case "continue" -> jump(Flow.CONTINUE);
            case "print" -> {
                Expr value = expressions.tuple(true);
                tokens.expect(Kind.BLOCK_END);
                yield new Statement.Output(value);
            }
            default -> {
                if (NO_LOADER.contains(name)) {
                    throw Fault.of("\"%s\" needs other templates, and a chat template has none", name);
                }
                throw Fault.of("unknown tag \"%s\"", name);
            }
        };
    }

    private Statement jump(Flow flow) {
        tokens.expect(Kind.BLOCK_END);
        return new Statement.Jump(flow);
    }

    /** The rest of an opening tag, the body, and the closing tag. */
    private Body closed(String closing) {
        tokens.expect(Kind.BLOCK_END);
        Body body = body(Set.of(closing));
        tokens.next();
        if (closing.equals("endblock") || closing.equals("endmacro")) {
            tokens.skip(Kind.NAME, null); // the name may be repeated
        }
        tokens.expect(Kind.BLOCK_END);
        return body;
    }

    private Statement loop() {
        Target target = target(true);
        tokens.expect(Kind.NAME, "in");
        Expr items = expressions.tuple(false);
        Expr condition = tokens.skip(Kind.NAME, "if") ? expressions.expression() : null;
        if (tokens.skip(Kind.NAME, "recursive")) {
            throw Fault.of("recursive loops are not known here; write a macro that calls itself");
        }
        tokens.expect(Kind.BLOCK_END);
        Body body = body(Set.of("endfor", "else"));
        Body otherwise = new Body(List.of());
        if (tokens.next().text().equals("else")) {
            otherwise = closed("endfor");
        } else {
            tokens.expect(Kind.BLOCK_END);
        }
        return new Statement.For(target, items, condition, body, otherwise);
    }

    private Statement condition() {
        Expr condition = expressions.tuple(false);
        tokens.expect(Kind.BLOCK_END);
        Body then = body(Set.of("elif", "else", "endif"));
        String next = tokens.next().text();
        Body otherwise = new Body(List.of());
        if (next.equals("elif")) {
            otherwise = new Body(List.of(new Statement.At(tokens.peek().line(), condition())));
        } else if (next.equals("else")) {
            otherwise = closed("endif");
        } else {
            tokens.expect(Kind.BLOCK_END);
        }
        return new Statement.If(condition, then, otherwise);
    }

    private Statement set() {
        Target target = target(false);
        if (tokens.skip(Kind.OPERATOR, "=")) {
            Expr value = expressions.tuple(true);
            tokens.expect(Kind.BLOCK_END);
            return new Statement.Set(target, value);
        }
        List<Expr.Filter> filters = filters(tokens.skip(Kind.OPERATOR, "|"));
        return new Statement.SetBlock(target, filters, closed("endset"));
    }

    /** Filters without a value, as they stand in set and filter blocks. */
    private List<Expr.Filter> filters(boolean any) {
        List<Expr.Filter> filters = new ArrayList<>();
        if (any) {
            do {
                filters.add(expressions.filter(new Expr.Constant("")));
            } while (tokens.skip(Kind.OPERATOR, "|"));
        }
        return filters;
    }

    private Statement filter() {
        List<Expr.Filter> filters = filters(true);
        return new Statement.FilterBlock(filters, closed("endfilter"));
    }

    private Statement macro() {
        String name = tokens.expect(Kind.NAME).text();
        tokens.expect(Kind.OPERATOR, "(");
        List<Macro.Parameter> parameters = parameters();
        return new Statement.Define(shape(name, parameters, "endmacro"));
    }

    private Statement call() {
        List<Macro.Parameter> parameters = tokens.skip(Kind.OPERATOR, "(") ? parameters() : List.of();
        if (!(expressions.expression() instanceof Expr.Call call)) {
            throw Fault.of("a call block needs a call, as in {%% call name() %%}");
        }
        return new Statement.CallBlock(call, shape("caller", parameters, "endcall"));
    }

    private Macro.Shape shape(String name, List<Macro.Parameter> parameters, String closing) {
        int start = tokens.position;
        Body body = closed(closing);
        return new Macro.Shape(name, parameters, body, tokens.named("varargs", start), tokens.named("kwargs", start));
    }

    private List<Macro.Parameter> parameters() {
        List<Macro.Parameter> parameters = new ArrayList<>();
        while (!tokens.skip(Kind.OPERATOR, ")")) {
            if (!parameters.isEmpty()) {
                tokens.expect(Kind.OPERATOR, ",");
            }
            String name = tokens.expect(Kind.NAME).text();
            Expr fallback = tokens.skip(Kind.OPERATOR, "=") ? expressions.expression() : null;
            if (fallback == null
                    && !parameters.isEmpty()
                    && parameters.get(parameters.size() - 1).fallback() != null) {
                throw Fault.of("parameter %s has no default, but the one before it has", name);
            }
            parameters.add(new Macro.Parameter(name, fallback));
        }
        return parameters;
    }

    private Statement with() {
        List<Target> targets = new ArrayList<>();
        List<Expr> values = new ArrayList<>();
        while (tokens.peek().kind() != Kind.BLOCK_END) {
            if (!targets.isEmpty()) {
                tokens.expect(Kind.OPERATOR, ",");
            }
            targets.add(one());
            tokens.expect(Kind.OPERATOR, "=");
            values.add(expressions.expression());
        }
        return new Statement.With(targets, values, closed("endwith"));
    }

    /** One target, or several with commas; a loop cannot set a namespace's member. */
    private Target target(boolean ofLoop) {
        List<Target> targets = new ArrayList<>();
        boolean comma = false;
        do {
            if (comma
                    && (tokens.peek().kind() == Kind.BLOCK_END || tokens.peek().is(Kind.OPERATOR, "="))) {
                break;
            }
            Target target = one();
            if (ofLoop && target instanceof Target.Member) {
                throw Fault.of("a loop cannot set a member; loop over a name");
            }
            targets.add(target);
            comma = tokens.skip(Kind.OPERATOR, ",");
        } while (comma);
        return targets.size() == 1 && !comma ? targets.get(0) : new Target.Several(targets);
    }

    private Target one() {
        if (tokens.skip(Kind.OPERATOR, "(")) {
            Target inner = target(true);
            tokens.expect(Kind.OPERATOR, ")");
            return inner;
        }
        String name = tokens.expect(Kind.NAME).text();
        if (ExprParser.CONSTANTS.containsKey(name)) {
            throw Fault.of("\"%s\" cannot be set", name);
        }
        return tokens.skip(Kind.OPERATOR, ".")
                ? new Target.Member(name, tokens.expect(Kind.NAME).text())
                : new Target.Variable(name);
    }

    private static List<String> sorted(Set<String> names) {
        return names.stream().sorted().toList();
    }

    /** The tokens, one ahead. */
    static final class Tokens {

        private static final int MAX_DEPTH = 200;

        private final List<Token> all;
        private int position;
        private int depth;

        Tokens(List<Token> all) {
            this.all = all;
        }

        Token peek() {
            return all.get(position);
        }

        /** The token after the next. */
        Token look() {
            return all.get(Math.min(position + 1, all.size() - 1));
        }

        Token next() {
            Token token = all.get(position);
            if (token.kind() != Kind.END) {
                position++;
            }
            return token;
        }

        boolean skip(Kind kind, @Nullable String text) {
            if (peek().kind() == kind && (text == null || peek().text().equals(text))) {
                position++;
                return true;
            }
            return false;
        }

        Token expect(Kind kind) {
            Token token = next();
            if (token.kind() != kind) {
                throw Fault.of(
                                "expected %s, found %s",
                                switch (kind) {
                                    case NAME -> "a name";
                                    case BLOCK_END, VARIABLE_END -> "the end of the tag";
                                    default -> kind.toString();
                                },
                                token.described())
                        .at(token.line());
            }
            return token;
        }

        void expect(Kind kind, String text) {
            Token token = next();
            if (!token.is(kind, text)) {
                throw Fault.of("expected \"%s\", found %s", text, token.described())
                        .at(token.line());
            }
        }

        /** Whether the name stands among the tokens read since. */
        boolean named(String name, int since) {
            return all.subList(since, position).stream().anyMatch(token -> token.is(Kind.NAME, name));
        }

        /** One level deeper, within reason. */
        void enter() {
            if (++depth > MAX_DEPTH) {
                throw Fault.of("more than %d levels of nesting", MAX_DEPTH).at(peek().line());
            }
        }

        void leave() {
            depth--;
        }
    }
}
