package dev.espalier.text.jinja;

import java.util.ArrayList;
import java.util.List;
import org.jspecify.annotations.Nullable;

/** A statement: writes, or sets variables. */
sealed interface Statement {

    /** How a statement ended: a loop around it may have to stop or go on. */
    enum Flow {
        NEXT,
        BREAK,
        CONTINUE
    }

    Flow run(Env env);

    /** Statements in order. */
    record Body(List<Statement> statements) implements Statement {
        @Override
        public Flow run(Env env) {
            for (Statement statement : statements) {
                Flow flow = statement.run(env);
                if (flow != Flow.NEXT) {
                    return flow;
                }
            }
            return Flow.NEXT;
        }

        String text(Env env) {
            return env.capture(() -> run(env));
        }
    }

    /** A statement that gives its line to what goes wrong in it. */
    record At(int line, Statement statement) implements Statement {
        @Override
        public Flow run(Env env) {
            env.step();
            try {
                return statement.run(env);
            } catch (Fault fault) {
                throw fault.at(line);
            }
        }
    }

    record Text(String text) implements Statement {
        @Override
        public Flow run(Env env) {
            env.write(text);
            return Flow.NEXT;
        }
    }

    record Output(Expr value) implements Statement {
        @Override
        public Flow run(Env env) {
            env.write(Py.str(value.eval(env)));
            return Flow.NEXT;
        }
    }

    record Jump(Flow flow) implements Statement {
        @Override
        public Flow run(Env env) {
            return flow;
        }
    }

    /** Sets variables of the place it stands in; inside an if that is the place around it. */
    record If(Expr condition, Body then, Body otherwise) implements Statement {
        @Override
        public Flow run(Env env) {
            return Py.truth(condition.eval(env)) ? then.run(env) : otherwise.run(env);
        }
    }

    record For(Target target, Expr items, @Nullable Expr condition, Body body, Body otherwise) implements Statement {
        @Override
        public Flow run(Env env) {
            Env.Scope around = env.scope();
            List<Object> chosen = Py.items(items.eval(env));
            if (condition != null) {
                List<Object> kept = new ArrayList<>();
                for (Object item : chosen) {
                    env.step();
                    if (env.inside(around, () -> {
                        target.assign(env, item);
                        return Py.truth(condition.eval(env));
                    })) {
                        kept.add(item);
                    }
                }
                chosen = kept;
            }
            if (chosen.isEmpty()) {
                return env.inside(around, () -> otherwise.run(env));
            }
            Loop loop = new Loop(chosen);
            for (int i = 0; i < chosen.size(); i++) {
                env.step();
                loop.moveTo(i);
                Object item = chosen.get(i);
                Flow flow = env.inside(around, () -> {
                    env.set("loop", loop);
                    target.assign(env, item);
                    return body.run(env);
                });
                if (flow == Flow.BREAK) {
                    break;
                }
            }
            return Flow.NEXT;
        }
    }

    record Set(Target target, Expr value) implements Statement {
        @Override
        public Flow run(Env env) {
            target.assign(env, value.eval(env));
            return Flow.NEXT;
        }
    }

    /** {@code {% set name | filter %}...{% endset %}}. */
    record SetBlock(Target target, List<Expr.Filter> filters, Body body) implements Statement {
        @Override
        public Flow run(Env env) {
            Object value = env.inside(env.scope(), () -> body.text(env));
            target.assign(env, filtered(env, value, filters));
            return Flow.NEXT;
        }
    }

    /** {@code {% filter name %}...{% endfilter %}}. */
    record FilterBlock(List<Expr.Filter> filters, Body body) implements Statement {
        @Override
        public Flow run(Env env) {
            Object value = env.inside(env.scope(), () -> body.text(env));
            env.write(Py.str(filtered(env, value, filters)));
            return Flow.NEXT;
        }
    }

    record With(List<Target> targets, List<Expr> values, Body body) implements Statement {
        @Override
        public Flow run(Env env) {
            List<Object> given = values.stream().map(value -> value.eval(env)).toList();
            return env.inside(env.scope(), () -> {
                for (int i = 0; i < given.size(); i++) {
                    targets.get(i).assign(env, given.get(i));
                }
                return body.run(env);
            });
        }
    }

    record Define(Macro.Shape shape) implements Statement {
        @Override
        public Flow run(Env env) {
            env.set(shape.name(), new Macro(shape, env.scope()));
            return Flow.NEXT;
        }
    }

    /** {@code {% call(arguments) macro() %}...{% endcall %}}: the body reaches the macro as its {@code caller}. */
    record CallBlock(Expr.Call call, Macro.Shape caller) implements Statement {
        @Override
        public Flow run(Env env) {
            Object function = Py.defined(call.function().eval(env));
            if (!(function instanceof Macro macro)) {
                throw Fault.of("a call block needs a macro, found %s", Py.described(function));
            }
            env.write(Py.str(macro.call(env, call.given().eval(env), new Macro(caller, env.scope()))));
            return Flow.NEXT;
        }
    }

    /** {@code {% generation %}}: what the assistant wrote. */
    record Generation(Body body) implements Statement {
        @Override
        public Flow run(Env env) {
            env.writeGenerated(env.inside(env.scope(), () -> body.text(env)));
            return Flow.NEXT;
        }
    }

    /** A block that only groups. */
    record Scoped(Body body) implements Statement {
        @Override
        public Flow run(Env env) {
            return env.inside(env.scope(), () -> body.run(env));
        }
    }

    private static Object filtered(Env env, Object value, List<Expr.Filter> filters) {
        Object result = value;
        for (Expr.Filter filter : filters) {
            result = Filters.apply(env, filter.name(), result, filter.given().eval(env));
        }
        return result;
    }

    /** What an assignment sets. */
    sealed interface Target {

        void assign(Env env, Object value);

        record Variable(String name) implements Target {
            @Override
            public void assign(Env env, Object value) {
                env.set(name, value);
            }
        }

        record Member(String namespace, String name) implements Target {
            @Override
            public void assign(Env env, Object value) {
                Object object = env.variable(namespace);
                if (!(object instanceof Py.Namespace members)) {
                    throw Fault.of(
                            "%s.%s cannot be set: only a namespace() has members that can, found %s",
                            namespace, name, Py.described(object));
                }
                Globals.checkMember(name);
                members.members().put(name, value);
            }
        }

        record Several(List<Target> targets) implements Target {
            @Override
            public void assign(Env env, Object value) {
                List<Object> values = Py.items(value);
                if (values.size() != targets.size()) {
                    throw Fault.of("%d names cannot take %d values", targets.size(), values.size());
                }
                for (int i = 0; i < values.size(); i++) {
                    targets.get(i).assign(env, values.get(i));
                }
            }
        }
    }
}
