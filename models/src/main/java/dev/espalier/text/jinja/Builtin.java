package dev.espalier.text.jinja;

import java.util.List;

/**
 * A filter, test or method: a name, its parameters after the value it works on, and what it does.
 *
 * @param name as templates write it
 * @param parameters by name, "?" after those that may be left out
 * @param body what it does
 */
record Builtin(String name, List<String> parameters, Body body) {

    @FunctionalInterface
    interface Body {
        Object apply(Env env, Object self, Arguments.Bound arguments);
    }

    /** @param signature such as {@code "replace old new count?"} */
    static Builtin of(String signature, Body body) {
        List<String> words = List.of(signature.split(" "));
        return new Builtin(words.get(0), words.subList(1, words.size()), body);
    }

    Object apply(Env env, Object self, Arguments arguments) {
        return body.apply(env, self, arguments.bind(name, parameters));
    }

    Callable bound(Object self) {
        return new Function(name, (env, arguments) -> apply(env, self, arguments));
    }

    /** A callable of our own. */
    record Function(String name, Call call) implements Callable {

        @FunctionalInterface
        interface Call {
            Object apply(Env env, Arguments arguments);
        }

        @Override
        public Object call(Env env, Arguments arguments) {
            return call.apply(env, arguments);
        }
    }
}
