package dev.espalier.text.jinja;

import java.time.Clock;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/** One rendering: its variables, its output, and how much more work it may do. */
final class Env {

    private static final long MAX_STEPS = 10_000_000;
    private static final long MAX_MADE = 1L << 28;
    private static final int MAX_CALLS = 100;

    /** Variables seen from some place: its own, then those around it. */
    static final class Scope {

        private final Map<String, Object> own = new HashMap<>();
        private final @Nullable Scope outer;

        Scope(@Nullable Scope outer) {
            this.outer = outer;
        }

        void set(String name, Object value) {
            own.put(name, value);
        }

        @Nullable
        Object get(String name) {
            for (Scope scope = this; scope != null; scope = scope.outer) {
                Object value = scope.own.get(name);
                if (value != null) {
                    return value;
                }
            }
            return null;
        }
    }

    final Clock clock;
    private final Scope root;
    private final List<Jinja.Block> generated = new ArrayList<>();
    private final StringBuilder page = new StringBuilder();
    private Scope scope;
    private StringBuilder out = page;
    private long steps;
    private long made; // characters and items of all values so far
    private int calls;

    Env(Map<String, Object> variables, Clock clock) {
        this.clock = clock;
        this.root = new Scope(null);
        Globals.ALL.forEach(root::set);
        variables.forEach(root::set);
        this.scope = new Scope(root);
    }

    Jinja.Result result() {
        return new Jinja.Result(page.toString(), generated);
    }

    /** Counts a piece of work, so that a hostile template ends. */
    void step() {
        if (++steps > MAX_STEPS) {
            throw Fault.of("more than %d steps of work; the template does not seem to end", MAX_STEPS);
        }
    }

    /** Counts what an expression made, so that a hostile template cannot fill the memory with values it keeps. */
    <T> T made(T value) {
        made += value instanceof String text ? text.length() : value instanceof List<?> list ? list.size() : 1;
        if (made > MAX_MADE) {
            throw Fault.of("values of more than %d characters in all; the template makes too much", MAX_MADE);
        }
        return value;
    }

    Object variable(String name) {
        Object value = scope.get(name);
        return value == null ? new Py.Undefined("'" + name + "' is undefined") : value;
    }

    void set(String name, Object value) {
        scope.set(name, value);
    }

    void write(String text) {
        Py.bounded((long) out.length() + text.length());
        out.append(text);
    }

    Scope scope() {
        return scope;
    }

    /** Runs with variables of its own inside another scope. */
    <T> T inside(Scope outer, java.util.function.Supplier<T> action) {
        Scope before = scope;
        scope = new Scope(outer);
        try {
            return action.get();
        } finally {
            scope = before;
        }
    }

    /** What the action writes, kept apart from the page. */
    String capture(Runnable action) {
        StringBuilder before = out;
        out = new StringBuilder();
        try {
            action.run();
            return made(out.toString());
        } finally {
            out = before;
        }
    }

    /** Runs a macro's body, unless macros are nested too deeply. */
    <T> T called(String name, java.util.function.Supplier<T> action) {
        if (calls >= MAX_CALLS) {
            throw Fault.of("%s is called within itself more than %d times", name, MAX_CALLS);
        }
        calls++;
        try {
            return action.get();
        } finally {
            calls--;
        }
    }

    /** Writes what the assistant generated; noted only on the page, for a captured text may go anywhere or nowhere. */
    void writeGenerated(String text) {
        int start = out.length();
        write(text);
        if (out == page) {
            generated.add(new Jinja.Block(start, page.length()));
        }
    }
}
