package dev.espalier.optim;

import static dev.espalier.Check.check;

import dev.espalier.nn.Parameter;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Device;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Tensor;
import dev.espalier.train.Optimizer;
import dev.espalier.train.ParameterGroup;
import java.util.Arrays;
import java.util.Collection;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.function.Function;
import org.jspecify.annotations.Nullable;

/** An optimiser with a rule of its own for some parameters, each by itself, and another optimiser for the rest. */
final class PerParameter implements Optimizer {

    /** How one parameter moves. */
    interface Rule {

        /**
         * What is remembered of a parameter once it has moved, by kind; the count of updates aside.
         *
         * @param dtype of the parameter as it is computed with, float32 or float64
         */
        Map<String, Kept> layout(DType dtype, long[] shape);

        /** Whether that is remembered after so many updates; a rule may have times without. */
        default boolean holds(long step) {
            return true;
        }

        /**
         * Moves a parameter.
         *
         * @param value changed in place, float32 or float64
         * @param gradient of the same type and shape, not to be changed
         * @param memory of this parameter, whose {@link Memory#step} counts this update already
         * @param group whose factor multiplies the learning rate, and whose weight decay applies
         */
        void update(Tensor value, Tensor gradient, Memory memory, ParameterGroup group, double learningRate);
    }

    /** A tensor that is remembered. */
    record Kept(DType dtype, List<Long> sizes) {

        Kept(DType dtype, long... shape) {
            this(dtype, Arrays.stream(shape).boxed().toList());
        }

        long[] shape() {
            return sizes.stream().mapToLong(Long::longValue).toArray();
        }

        long bytes() {
            return sizes.stream().reduce(1L, (a, b) -> a * b) * dtype.bytes();
        }
    }

    /** What is remembered of one parameter. */
    static final class Memory implements AutoCloseable {
        private final Map<String, Kept> layout;
        private final Device device;
        private final Map<String, Tensor> held = new LinkedHashMap<>();
        private long step;

        private Memory(Map<String, Kept> layout, Device device) {
            this.layout = layout;
            this.device = device;
        }

        /** Updates so far, from 1 in the first one. */
        long step() {
            return step;
        }

        /** What is remembered of a kind, zeros at first; changed in place. */
        Tensor at(String kind) {
            return held.computeIfAbsent(kind, key -> {
                Kept kept = Objects.requireNonNull(layout.get(key), key);
                return Tensor.zeros(kept.dtype(), kept.shape()).to(device).keep();
            });
        }

        /** Remembers other values of a kind. */
        void set(String kind, Tensor values) {
            at(kind).copy_(values);
        }

        /** Forgets all values; the count of updates goes on. */
        void drop() {
            held.values().forEach(Tensor::close);
            held.clear();
        }

        private long bytes() {
            return held.values().stream().mapToLong(Tensor::bytes).sum();
        }

        @Override
        public void close() {
            drop();
            step = 0;
        }
    }

    /** What rules hold in common, freed with the optimiser. */
    interface Shared extends AutoCloseable {

        /** Nothing. */
        Shared NONE = new Shared() {
            @Override
            public long bytes() {
                return 0;
            }

            @Override
            public void close() {}
        };

        /** Bytes of it. */
        long bytes();

        @Override
        void close();
    }

    private record Own(String name, Parameter parameter, ParameterGroup group, Rule rule, Memory memory) {}

    private final Function<String, @Nullable Rule> rules;
    private final Map<String, Own> own = new LinkedHashMap<>();
    private final Optimizer rest;
    private final Shared shared;

    /**
     * An optimiser with fresh state.
     *
     * @param rules gives a parameter's rule by its name, or null if it belongs to the rest
     */
    PerParameter(List<ParameterGroup> groups, Function<String, @Nullable Rule> rules, Optimizer.Config rest) {
        this(groups, rules, rest, Shared.NONE);
    }

    /** The same with something that its rules hold in common. */
    PerParameter(
            List<ParameterGroup> groups, Function<String, @Nullable Rule> rules, Optimizer.Config rest, Shared shared) {
        this.rules = rules;
        this.shared = shared;
        groups.forEach(this::take);
        this.rest = rest.create(others(groups, rules));
    }

    private void take(ParameterGroup group) {
        group.parameters().forEach((name, p) -> {
            Rule rule = rules.apply(name);
            if (rule != null) {
                Memory memory =
                        new Memory(rule.layout(wide(p), p.shape()), p.tensor().device());
                own.put(name, new Own(name, p, group, rule, memory));
            }
        });
    }

    private static List<ParameterGroup> others(List<ParameterGroup> groups, Function<String, @Nullable Rule> rules) {
        return groups.stream()
                .map(group -> {
                    Map<String, Parameter> others = new LinkedHashMap<>(group.parameters());
                    others.keySet().removeIf(name -> rules.apply(name) != null);
                    return group.withParameters(others);
                })
                .filter(group -> !group.parameters().isEmpty())
                .toList();
    }

    /** Bytes that such an optimiser will remember. */
    static long stateBytes(List<ParameterGroup> groups, Function<String, @Nullable Rule> rules, Optimizer.Config rest) {
        long bytes = rest.stateBytes(others(groups, rules));
        for (ParameterGroup group : groups) {
            for (Map.Entry<String, Parameter> e : group.parameters().entrySet()) {
                Rule rule = rules.apply(e.getKey());
                if (rule != null) {
                    bytes += rule.layout(wide(e.getValue()), e.getValue().shape()).values().stream()
                            .mapToLong(Kept::bytes)
                            .sum();
                }
            }
        }
        return bytes;
    }

    /** The type that a parameter is computed with. */
    static DType wide(Parameter p) {
        return p.tensor().dtype() == DType.FLOAT64 ? DType.FLOAT64 : DType.FLOAT32;
    }

    @Override
    public void step(double learningRate) {
        try (Grad off = Grad.off()) {
            for (Own one : own.values()) {
                try (Scope scope = Scope.open()) {
                    Tensor gradient = one.parameter().tensor().grad();
                    if (gradient != null) {
                        move(one, gradient, learningRate);
                    }
                }
            }
        }
        rest.step(learningRate);
    }

    private static void move(Own one, Tensor gradient, double learningRate) {
        Tensor value = one.parameter().tensor().detach();
        Tensor wide = value.to(wide(one.parameter()));
        one.memory().step++;
        one.rule().update(wide, gradient.to(wide.dtype()), one.memory(), one.group(), learningRate);
        if (wide != value) {
            value.copy_(wide);
        }
    }

    @Override
    public void add(ParameterGroup group) {
        take(group);
        others(List.of(group), rules).forEach(rest::add);
    }

    @Override
    public void forget(Collection<Parameter> parameters) {
        own.values().stream()
                .filter(one -> parameters.contains(one.parameter()))
                .forEach(one -> one.memory().close());
        rest.forget(parameters);
    }

    @Override
    public void zeroGrad() {
        own.values().forEach(one -> one.parameter().tensor().clearGrad());
        rest.zeroGrad();
    }

    @Override
    public long stateBytes() {
        return rest.stateBytes()
                + shared.bytes()
                + own.values().stream().mapToLong(one -> one.memory().bytes()).sum();
    }

    @Override
    public Map<String, Tensor> state() {
        Map<String, Tensor> all = new LinkedHashMap<>();
        own.values().forEach(one -> {
            all.put("step." + one.name(), Tensor.of(new long[] {one.memory().step}));
            one.memory().held.forEach((kind, t) -> all.put(kind + "." + one.name(), t));
        });
        all.putAll(rest.state());
        return all;
    }

    @Override
    public void load(Map<String, Tensor> state) {
        Map<String, Tensor> left = new LinkedHashMap<>(state);
        try (Grad off = Grad.off();
                Scope scope = Scope.open()) {
            for (Own one : own.values()) {
                Memory memory = one.memory();
                memory.close();
                long step = (long) taken(left, "step", one, new long[0]).item();
                if (step > 0 && one.rule().holds(step)) {
                    memory.layout.forEach((kind, kept) -> memory.set(kind, taken(left, kind, one, kept.shape())));
                }
                memory.step = step;
            }
        }
        rest.load(left);
    }

    private static Tensor taken(Map<String, Tensor> left, String kind, Own one, long[] shape) {
        String name = kind + "." + one.name();
        Tensor found = left.remove(name);
        check(
                found != null && Arrays.equals(found.shape(), shape),
                "the optimiser state holds %s for %s, expected shape %s: it was saved with another optimiser or other parameters",
                found == null ? "nothing" : "shape " + Arrays.toString(found.shape()),
                name,
                Arrays.toString(shape));
        return Objects.requireNonNull(found);
    }

    @Override
    public void close() {
        own.values().forEach(one -> one.memory().close());
        shared.close();
        rest.close();
    }
}
