package dev.espalier.text.jinja;

import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import org.jspecify.annotations.Nullable;

/** A template's own function: it returns what its body writes. */
record Macro(Shape shape, Env.Scope scope) implements Callable {

    /** @param fallback a parameter's value where a call gives none; null: undefined */
    record Parameter(String name, @Nullable Expr fallback) {}

    /**
     * @param more whether it takes arguments beyond its parameters, which it does if it names {@code varargs}
     * @param named whether it takes keywords beyond its parameters, which it does if it names {@code kwargs}
     */
    record Shape(String name, List<Parameter> parameters, Statement.Body body, boolean more, boolean named) {}

    @Override
    public String name() {
        return shape.name();
    }

    @Override
    public Object call(Env env, Arguments arguments) {
        return call(env, arguments, null);
    }

    Object call(Env env, Arguments arguments, @Nullable Macro caller) {
        List<Parameter> parameters = shape.parameters();
        Map<String, Object> named = new LinkedHashMap<>(arguments.named());
        List<Object> positional = arguments.positional();
        return env.called(
                shape.name(),
                () -> env.inside(scope, () -> {
                    Set<String> missing = new LinkedHashSet<>();
                    for (int i = 0; i < parameters.size(); i++) {
                        String name = parameters.get(i).name();
                        Object value = i < positional.size() ? positional.get(i) : named.remove(name);
                        if (value == null) {
                            missing.add(name);
                        } else {
                            env.set(name, value);
                        }
                    }
                    if (positional.size() > parameters.size() && !shape.more()) {
                        throw Fault.of(
                                "macro %s takes at most %d arguments, found %d",
                                shape.name(), parameters.size(), positional.size());
                    }
                    if (!named.isEmpty() && !shape.named()) {
                        throw Fault.of("macro %s has no parameter %s", shape.name(), named.keySet());
                    }
                    // Defaults may use parameters, so they come after.
                    for (Parameter parameter : parameters) {
                        if (missing.contains(parameter.name())) {
                            env.set(
                                    parameter.name(),
                                    parameter.fallback() == null
                                            ? new Py.Undefined("parameter '" + parameter.name() + "' was not provided")
                                            : parameter.fallback().eval(env));
                        }
                    }
                    if (caller != null) {
                        env.set("caller", caller);
                    }
                    int taken = Math.min(parameters.size(), positional.size());
                    env.set("varargs", new Py.Tuple(new ArrayList<>(positional.subList(taken, positional.size()))));
                    env.set("kwargs", new LinkedHashMap<Object, Object>(named));
                    return shape.body().text(env);
                }));
    }
}
