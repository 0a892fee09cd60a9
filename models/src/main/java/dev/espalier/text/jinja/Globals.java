package dev.espalier.text.jinja;

import java.time.LocalDateTime;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/** The functions every template sees. */
final class Globals {

    private static final int MAX_RANGE = 100_000; // the limit of jinja2's sandbox

    static final Map<String, Object> ALL = Map.of(
            "range", new Builtin.Function("range", (env, arguments) -> range(arguments)),
            "dict", new Builtin.Function("dict", (env, arguments) -> dict(arguments)),
            "namespace", new Builtin.Function("namespace", (env, arguments) -> namespace(arguments)),
            "joiner", new Builtin.Function("joiner", (env, arguments) -> joiner(arguments)),
            "raise_exception",
                    new Builtin.Function("raise_exception", (env, arguments) -> {
                        throw Fault.of(
                                "%s",
                                Py.str(arguments
                                        .bind("raise_exception", List.of("message"))
                                        .get(0)));
                    }),
            "strftime_now",
                    new Builtin.Function(
                            "strftime_now",
                            (env, arguments) -> Format.time(
                                    arguments
                                            .bind("strftime_now", List.of("format"))
                                            .text(0),
                                    LocalDateTime.now(env.clock))));

    private Globals() {}

    private static Object range(Arguments arguments) {
        Arguments.Bound bound = arguments.bind("range", List.of("start", "stop?", "step?"));
        long start = bound.has(1) ? Py.integer(bound.get(0)) : 0;
        long stop = bound.has(1) ? Py.integer(bound.get(1)) : Py.integer(bound.get(0));
        long step = bound.has(2) ? Py.integer(bound.get(2)) : 1;
        if (step == 0) {
            throw Fault.of("range() needs a step other than zero");
        }
        List<Object> numbers = new ArrayList<>();
        for (long i = start; step > 0 ? i < stop : i > stop; i = Math.addExact(i, step)) {
            if (numbers.size() >= MAX_RANGE) {
                throw Fault.of("range() may hold %d numbers at most", MAX_RANGE);
            }
            numbers.add(i);
        }
        return numbers;
    }

    private static Map<Object, Object> dict(Arguments arguments) {
        Map<Object, Object> dict = new LinkedHashMap<>();
        for (Object source : arguments.positional()) {
            if (source instanceof Map<?, ?>) {
                dict.putAll(Py.dict(source));
            } else {
                for (Object pair : Py.items(source)) {
                    List<Object> items = Py.items(pair);
                    if (items.size() != 2) {
                        throw Fault.of("dict() needs pairs, found %s", Py.described(pair));
                    }
                    dict.put(items.get(0), items.get(1));
                }
            }
        }
        dict.putAll(arguments.named());
        return dict;
    }

    private static Py.Namespace namespace(Arguments arguments) {
        Map<String, Object> members = new LinkedHashMap<>();
        dict(arguments).forEach((name, value) -> {
            checkMember(Py.text(name));
            members.put(Py.text(name), value);
        });
        return new Py.Namespace(members);
    }

    static void checkMember(String name) {
        if (name.startsWith("_")) {
            throw Fault.of("a namespace's member cannot begin with an underscore, found \"%s\"; rename it", name);
        }
    }

    /** Nothing at the first call, then always the separator. */
    private static Object joiner(Arguments arguments) {
        Object separator = arguments.bind("joiner", List.of("sep?")).get(0, ", ");
        boolean[] used = {false};
        return new Builtin.Function("joiner", (env, none) -> {
            if (used[0]) {
                return separator;
            }
            used[0] = true;
            return "";
        });
    }
}
