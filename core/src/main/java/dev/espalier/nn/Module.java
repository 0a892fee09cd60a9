package dev.espalier.nn;

import dev.espalier.Check;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Tensor;
import java.util.Collections;
import java.util.IdentityHashMap;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Set;
import java.util.function.BiConsumer;
import org.jspecify.annotations.Nullable;

/**
 * A part of a network: its own parameters and the parts below it, all named.
 *
 * <p>A path joins names with dots, as in {@code model.layers.0.self_attn.q_proj.weight}; models choose names so that
 * paths equal the keys of the Hugging Face checkpoint. A new module is in evaluation mode and trains nothing: both are
 * asked for, by {@link #train} and {@link Parameter#trainable}.
 */
public abstract class Module implements AutoCloseable {

    private final Map<String, Module> children = new LinkedHashMap<>();
    private final Map<String, Parameter> parameters = new LinkedHashMap<>();
    private @Nullable Module parent;
    private String name = "";
    private boolean training;

    /** For subclasses, which add their parts in their constructors. */
    protected Module() {}

    /** Adds a part under a name. */
    protected final <M extends Module> M child(String name, M child) {
        Module self = this;
        Module added = child;
        added.parent = self;
        added.name = name;
        children.put(name, child);
        return child;
    }

    /** Adds a parameter of a given shape, whose values a checkpoint or an initialiser brings. */
    protected final Parameter parameter(String name, DType dtype, long... shape) {
        return parameter(name, new Parameter(dtype, shape));
    }

    /** Adds a parameter that takes over a tensor. */
    protected final Parameter parameter(String name, Tensor tensor) {
        return parameter(name, new Parameter(tensor));
    }

    /** Adds a parameter that another module has too: tied weights. */
    protected final Parameter parameter(String name, Parameter shared) {
        parameters.put(name, shared);
        return shared;
    }

    /** Where this part stands in the tree; empty for the root. */
    public final String path() {
        if (parent == null) {
            return name;
        }
        String above = parent.path();
        return above.isEmpty() ? name : above + "." + name;
    }

    /** All parts by path, this one first under its own, parents before children, in the order they were added. */
    public final Map<String, Module> namedModules() {
        Map<String, Module> found = new LinkedHashMap<>();
        walk("", found::put);
        return found;
    }

    /** All parameters by path; tied ones under each of their paths. */
    public final Map<String, Parameter> namedParameters() {
        Map<String, Parameter> found = new LinkedHashMap<>();
        walk("", (path, module) -> module.parameters.forEach((name, p) -> found.put(join(path, name), p)));
        return found;
    }

    /** The part at a path relative to this one. */
    public final Module module(String path) {
        Module found = namedModules().get(path);
        Check.check(found != null, "there is no module '%s' in this network", path);
        return java.util.Objects.requireNonNull(found);
    }

    /** Training mode (dropout on) or evaluation mode, for this part and all below. */
    public final void train(boolean on) {
        walk("", (path, module) -> module.training = on);
    }

    /** Whether dropout is on. */
    public final boolean isTraining() {
        return training;
    }

    /** Elements of all parameters, tied ones counted once. */
    public final long parameterCount() {
        return distinct().stream().mapToLong(p -> p.tensor().numel()).sum();
    }

    /** Elements of all parameters that training moves, tied ones counted once. */
    public final long trainableCount() {
        return distinct().stream()
                .filter(Parameter::isTrainable)
                .mapToLong(p -> p.tensor().numel())
                .sum();
    }

    /** Frees all parameters. */
    @Override
    public void close() {
        distinct().forEach(p -> p.tensor().close());
    }

    private Set<Parameter> distinct() {
        Set<Parameter> distinct = Collections.newSetFromMap(new IdentityHashMap<>());
        distinct.addAll(namedParameters().values());
        return distinct;
    }

    private void walk(String path, BiConsumer<String, Module> visit) {
        visit.accept(path, this);
        children.forEach((name, child) -> child.walk(join(path, name), visit));
    }

    private static String join(String path, String name) {
        return path.isEmpty() ? name : path + "." + name;
    }
}
