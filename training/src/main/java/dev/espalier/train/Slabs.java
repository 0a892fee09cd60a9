package dev.espalier.train;

import static dev.espalier.Check.check;

import dev.espalier.EspalierException;
import dev.espalier.nn.Parameter;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Tensor;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collection;
import java.util.Collections;
import java.util.IdentityHashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.function.DoubleFunction;
import org.jspecify.annotations.Nullable;

/** What optimisers that treat every element alike share: the layout of parameters and state, saving and loading. */
public final class Slabs implements AutoCloseable {

    /** An optimiser's arithmetic. */
    @FunctionalInterface
    public interface Rule {
        /**
         * Updates values in place.
         *
         * @param group whose factors apply
         * @param value [n]
         * @param gradient [n], not to be changed
         * @param state one [n] a kind, updated in place
         * @param step updates these values have had, this one included
         */
        void update(ParameterGroup group, Tensor value, Tensor gradient, List<Tensor> state, long step);
    }

    private final List<String> kinds;
    private final List<Slab> slabs = new ArrayList<>();

    Slabs(List<ParameterGroup> groups, String... kinds) {
        this.kinds = List.of(kinds);
        groups.forEach(this::add);
    }

    void add(ParameterGroup group) {
        try (Grad off = Grad.off();
                Scope scope = Scope.open()) {
            slabs.addAll(Slab.of(group, kinds.size()));
        }
    }

    /**
     * An optimiser that is one rule.
     *
     * @param rule the arithmetic at a learning rate
     * @param kinds names of what it remembers of each element
     */
    public static Optimizer optimizer(List<ParameterGroup> groups, DoubleFunction<Rule> rule, String... kinds) {
        Slabs slabs = new Slabs(groups, kinds);
        return new Optimizer() {
            @Override
            public void step(double learningRate) {
                slabs.update(rule.apply(learningRate));
            }

            @Override
            public void add(ParameterGroup group) {
                slabs.add(group);
            }

            @Override
            public void forget(Collection<Parameter> parameters) {
                slabs.forget(parameters);
            }

            @Override
            public void zeroGrad() {
                slabs.zeroGrad();
            }

            @Override
            public long stateBytes() {
                return slabs.stateBytes();
            }

            @Override
            public Map<String, Tensor> state() {
                return slabs.state();
            }

            @Override
            public void load(Map<String, Tensor> state) {
                slabs.load(state);
            }

            @Override
            public void close() {
                slabs.close();
            }
        };
    }

    /** Bytes of so many kinds of state for these groups. */
    public static long stateBytes(List<ParameterGroup> groups, int kinds) {
        return kinds
                * Parameters.of(groups).values().stream()
                        .mapToLong(p -> p.tensor().numel()
                                * Slab.stateType(p.tensor().dtype()).bytes())
                        .sum();
    }

    void update(Rule rule) {
        try (Grad off = Grad.off()) {
            for (Slab slab : slabs) {
                try (Scope scope = Scope.open()) {
                    slab.update(rule);
                }
            }
        }
    }

    void zeroGrad() {
        slabs.forEach(Slab::zeroGrad);
    }

    long stateBytes() {
        return slabs.stream().mapToLong(Slab::stateBytes).sum();
    }

    Map<String, Tensor> state() {
        Map<String, Tensor> all = new LinkedHashMap<>();
        slabs.forEach(slab -> slab.collect(kinds, all));
        return all;
    }

    /** Drops what is remembered of parameters; those of other optimisers are none of its business. */
    void forget(Collection<Parameter> parameters) {
        Set<Parameter> dropped = Collections.newSetFromMap(new IdentityHashMap<>());
        dropped.addAll(parameters);
        try (Grad off = Grad.off();
                Scope scope = Scope.open()) {
            List<Slab> now = new ArrayList<>();
            slabs.forEach(slab -> now.addAll(slab.forget(dropped)));
            slabs.clear();
            slabs.addAll(now);
        }
    }

    void load(Map<String, Tensor> given) {
        try (Grad off = Grad.off();
                Scope scope = Scope.open()) {
            Map<String, long[]> own = new LinkedHashMap<>();
            slabs.forEach(slab -> own.putAll(slab.layout(kinds)));
            own.forEach((name, shape) -> {
                @Nullable Tensor other = given.get(name);
                String parameter = name.substring(name.indexOf('.') + 1);
                Tensor step = given.get("step." + parameter);
                boolean moved = step == null || step.item() > 0;
                check(
                        other == null ? !moved : Arrays.equals(other.shape(), shape),
                        "the optimiser state holds %s for %s, expected shape %s: it was saved with another optimiser or"
                                + " other parameters",
                        other == null ? "nothing" : "shape " + Arrays.toString(other.shape()),
                        name,
                        Arrays.toString(shape));
            });
            given.keySet().stream()
                    .filter(name -> !own.containsKey(name))
                    .findFirst()
                    .ifPresent(name -> {
                        throw new EspalierException(
                                "the optimiser state holds %s, which this optimiser does not keep: it was saved with another optimiser or other parameters"
                                        .formatted(name));
                    });
            slabs.forEach(slab -> slab.restore(kinds, given));
        }
    }

    @Override
    public void close() {
        slabs.forEach(Slab::close);
    }
}
