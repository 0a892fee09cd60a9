package dev.espalier.text.jinja;

import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/** An expression: gives a value. */
sealed interface Expr {

    Object eval(Env env);

    record Constant(Object value) implements Expr {
        @Override
        public Object eval(Env env) {
            return value;
        }
    }

    record Name(String name) implements Expr {
        @Override
        public Object eval(Env env) {
            return env.variable(name);
        }
    }

    record ListOf(List<Expr> items) implements Expr {
        @Override
        public Object eval(Env env) {
            return all(items, env);
        }
    }

    record TupleOf(List<Expr> items) implements Expr {
        @Override
        public Object eval(Env env) {
            return new Py.Tuple(all(items, env));
        }
    }

    record Entry(Expr key, Expr value) {}

    record DictOf(List<Entry> entries) implements Expr {
        @Override
        public Object eval(Env env) {
            Map<Object, Object> dict = new LinkedHashMap<>();
            for (Entry entry : entries) {
                dict.put(entry.key().eval(env), entry.value().eval(env));
            }
            return dict;
        }
    }

    record And(Expr left, Expr right) implements Expr {
        @Override
        public Object eval(Env env) {
            Object value = left.eval(env);
            return Py.truth(value) ? right.eval(env) : value;
        }
    }

    record Or(Expr left, Expr right) implements Expr {
        @Override
        public Object eval(Env env) {
            Object value = left.eval(env);
            return Py.truth(value) ? value : right.eval(env);
        }
    }

    record Not(Expr operand) implements Expr {
        @Override
        public Object eval(Env env) {
            return !Py.truth(operand.eval(env));
        }
    }

    record Sign(boolean minus, Expr operand) implements Expr {
        @Override
        public Object eval(Env env) {
            Object value = operand.eval(env);
            return minus ? Operators.negate(value) : Operators.number(value);
        }
    }

    record Binary(String operator, Expr left, Expr right) implements Expr {
        @Override
        public Object eval(Env env) {
            env.step();
            return env.made(Operators.binary(operator, left.eval(env), right.eval(env)));
        }
    }

    record Comparison(String operator, Expr right) {}

    /** a &lt; b &lt; c: each value once, until one comparison fails. */
    record Compare(Expr first, List<Comparison> rest) implements Expr {
        @Override
        public Object eval(Env env) {
            Object left = first.eval(env);
            for (Comparison comparison : rest) {
                Object right = comparison.right().eval(env);
                if (!Operators.compare(env, comparison.operator(), left, right)) {
                    return false;
                }
                left = right;
            }
            return true;
        }
    }

    /** {@code then if condition else otherwise}. */
    record Conditional(Expr condition, Expr then, @Nullable Expr otherwise) implements Expr {
        @Override
        public Object eval(Env env) {
            if (Py.truth(condition.eval(env))) {
                return then.eval(env);
            }
            return otherwise == null
                    ? new Py.Undefined("an inline if without else had a false condition")
                    : otherwise.eval(env);
        }
    }

    /** {@code object.name}: a method before a key, as Python's attributes come first. */
    record Attribute(Expr object, String name) implements Expr {
        @Override
        public Object eval(Env env) {
            return Methods.attribute(object.eval(env), name);
        }
    }

    /** {@code object[key]}: a key before a method. */
    record Item(Expr object, Expr key) implements Expr {
        @Override
        public Object eval(Env env) {
            return Methods.item(object.eval(env), key.eval(env));
        }
    }

    record Slice(
            Expr object,
            @Nullable Expr from,
            @Nullable Expr to,
            @Nullable Expr step) implements Expr {
        @Override
        public Object eval(Env env) {
            return env.made(Operators.slice(object.eval(env), bound(from, env), bound(to, env), bound(step, env)));
        }

        private static @Nullable Integer bound(@Nullable Expr expression, Env env) {
            Object value = expression == null ? Py.None.NONE : expression.eval(env);
            return value == Py.None.NONE ? null : Py.index(value);
        }
    }

    /**
     * What a call is given, before it is evaluated.
     *
     * @param list after a star
     * @param dict after two stars
     */
    record Given(
            List<Expr> positional,
            Map<String, Expr> named,
            @Nullable Expr list,
            @Nullable Expr dict) {

        static final Given NOTHING = new Given(List.of(), Map.of(), null, null);

        Arguments eval(Env env) {
            List<Object> values = all(positional, env);
            Map<String, Object> keywords = new LinkedHashMap<>();
            named.forEach((name, value) -> keywords.put(name, value.eval(env)));
            if (list != null) {
                values.addAll(Py.items(list.eval(env)));
            }
            if (dict != null) {
                Py.dict(dict.eval(env)).forEach((name, value) -> keywords.put(Py.text(name), value));
            }
            return new Arguments(values, keywords);
        }
    }

    record Call(Expr function, Given given) implements Expr {
        @Override
        public Object eval(Env env) {
            env.step();
            Object value = Py.defined(function.eval(env));
            if (value instanceof Callable callable) {
                return env.made(callable.call(env, given.eval(env)));
            }
            throw Fault.of("%s cannot be called", Py.described(value));
        }
    }

    record Filter(Expr value, String name, Given given) implements Expr {
        @Override
        public Object eval(Env env) {
            return env.made(Filters.apply(env, name, value.eval(env), given.eval(env)));
        }
    }

    record Test(Expr value, String name, Given given) implements Expr {
        @Override
        public Object eval(Env env) {
            return Tests.holds(env, name, value.eval(env), given.eval(env));
        }
    }

    private static List<Object> all(List<Expr> expressions, Env env) {
        List<Object> values = new ArrayList<>(expressions.size());
        for (Expr expression : expressions) {
            values.add(expression.eval(env));
        }
        return values;
    }
}
