package dev.espalier.train;

import dev.espalier.nn.Parameter;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.GradientHook;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Tensor;
import java.util.ArrayList;
import java.util.Collection;
import java.util.Iterator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import org.jspecify.annotations.Nullable;

/**
 * An optimiser for each parameter, which moves it and frees its gradient while the backward pass still runs: of all gradients
 * about two are there at a time.
 *
 * <p>libtorch tells of a gradient just before it is put into its place. So at each call those are dealt with that had come to
 * their places before; by then nothing of the pass reads their parameters any more.
 */
final class InBackward implements Optimizer {

    private final Config config;
    private final Map<String, Optimizer> parts = new LinkedHashMap<>();
    private final Map<String, Parameter> parameters = new LinkedHashMap<>();
    private final Map<Parameter, Tensor> hooked = new LinkedHashMap<>();
    private final List<Registered> registered = new ArrayList<>();
    private final List<String> waiting = new ArrayList<>(); // for their gradients of this step
    private final GradientHook hook = new GradientHook(gradient -> sweep());
    private double rate;
    private double squares; // of this step's gradients

    /** A tensor that tells of its gradient, until the hook of that number is removed. */
    private record Registered(Tensor tensor, int number) {}

    /** Each parameter by itself; groups that bring an optimiser of their own keep it. */
    InBackward(Config config, List<ParameterGroup> groups) {
        this.config = config;
        groups.forEach(this::add);
    }

    /** A backward pass is about to run, at whose gradients parameters move at this rate. */
    void arm(double learningRate) {
        rate = learningRate;
        squares = 0;
        waiting.clear();
        parameters.forEach((name, p) -> {
            if (p.isTrainable()) {
                waiting.add(name);
                if (hooked.get(p) != p.tensor()) {
                    registered.add(new Registered(p.tensor(), p.tensor().registerHook(hook)));
                    hooked.put(p, p.tensor());
                }
            }
        });
    }

    /** Moves whatever has its gradient, and drops that. */
    void sweep() {
        try (Grad off = Grad.off();
                Scope scope = Scope.open()) {
            for (Iterator<String> it = waiting.iterator(); it.hasNext(); ) {
                String name = it.next();
                Tensor gradient =
                        Objects.requireNonNull(parameters.get(name)).tensor().grad();
                if (gradient != null) {
                    double norm = gradient.norm().item();
                    squares += norm * norm;
                    Optimizer part = Objects.requireNonNull(parts.get(name));
                    part.step(rate);
                    part.zeroGrad();
                    it.remove();
                }
            }
        }
    }

    /** Length of all gradients of the step as one vector. */
    double norm() {
        return Math.sqrt(squares);
    }

    /** What has not moved yet. */
    @Override
    public void step(double learningRate) {
        sweep();
    }

    @Override
    public void add(ParameterGroup group) {
        Config own = group.optimizer() == null ? config : group.optimizer();
        group.parameters().forEach((name, p) -> {
            parameters.put(name, p);
            parts.put(name, own.create(List.of(group.withParameters(Map.of(name, p)))));
        });
    }

    @Override
    public void forget(Collection<Parameter> dropped) {
        parts.values().forEach(part -> part.forget(dropped));
    }

    @Override
    public void zeroGrad() {
        parts.values().forEach(Optimizer::zeroGrad);
    }

    @Override
    public long stateBytes() {
        return parts.values().stream().mapToLong(Optimizer::stateBytes).sum();
    }

    @Override
    public Map<String, Tensor> state() {
        Map<String, Tensor> all = new LinkedHashMap<>();
        parts.values().forEach(part -> all.putAll(part.state()));
        return all;
    }

    @Override
    public void load(Map<String, Tensor> state) {
        Map<String, Map<String, Tensor>> byName = new LinkedHashMap<>();
        parts.keySet().forEach(name -> byName.put(name, new LinkedHashMap<>()));
        String first = parts.keySet().iterator().next();
        state.forEach((key, t) -> {
            @Nullable Map<String, Tensor> own = byName.get(key.substring(key.indexOf('.') + 1));
            (own == null ? Objects.requireNonNull(byName.get(first)) : own).put(key, t); // a stranger is refused there
        });
        parts.forEach((name, part) -> part.load(Objects.requireNonNull(byName.get(name))));
    }

    @Override
    public void close() {
        registered.stream()
                .filter(r -> !r.tensor().isClosed())
                .forEach(r -> r.tensor().removeHook(r.number()));
        hook.close();
        parts.values().forEach(Optimizer::close);
    }
}
