package dev.espalier.text.jinja;

import java.util.List;
import org.jspecify.annotations.Nullable;

/** The variable {@code loop} of a for. */
final class Loop {

    private final List<Object> items;
    private int index; // from 0
    private @Nullable Object lastChanged;

    Loop(List<Object> items) {
        this.items = items;
    }

    void moveTo(int index) {
        this.index = index;
    }

    @Nullable
    Object member(String name) {
        int size = items.size();
        return switch (name) {
            case "index" -> (long) index + 1;
            case "index0" -> (long) index;
            case "revindex" -> (long) size - index;
            case "revindex0" -> (long) size - index - 1;
            case "first" -> index == 0;
            case "last" -> index == size - 1;
            case "length" -> (long) size;
            case "depth" -> 1L; // only recursive loops go deeper
            case "depth0" -> 0L;
            case "previtem" -> index > 0 ? items.get(index - 1) : new Py.Undefined("there is no previous item");
            case "nextitem" -> index < size - 1 ? items.get(index + 1) : new Py.Undefined("there is no next item");
            case "cycle" ->
                new Builtin.Function("cycle", (env, arguments) -> {
                    if (arguments.positional().isEmpty()) {
                        throw Fault.of("loop.cycle needs the values to go through");
                    }
                    return arguments
                            .positional()
                            .get(index % arguments.positional().size());
                });
            case "changed" ->
                new Builtin.Function("changed", (env, arguments) -> {
                    Object value = new Py.Tuple(arguments.positional());
                    boolean changed = lastChanged == null || !Operators.equal(env, lastChanged, value);
                    lastChanged = value;
                    return changed;
                });
            default -> null;
        };
    }
}
