package dev.espalier.train;

import dev.espalier.nn.Parameter;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Device;
import dev.espalier.tensor.Tensor;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Set;
import org.jspecify.annotations.Nullable;

/**
 * Parameters of one group, type and device laid end to end in one vector, so that one native call updates them all: a
 * call costs about 3 µs whatever its size, and an adapter has hundreds of small tensors.
 *
 * <p>The parameters become views of the vector. If somebody puts another tensor into a parameter, its values are taken
 * over at the next step and the view goes back in place.
 */
final class Slab implements AutoCloseable {

    /** A larger tensor is a slab of its own, left where it is: its arithmetic outweighs the calls. */
    private static final long LARGE = 1 << 17;

    private final ParameterGroup group;
    private final List<String> names;
    private final List<Parameter> parameters;
    private final Tensor[] views;
    private final long[] offsets; // of each parameter, and the length of all
    private final long[] steps; // updates that each parameter has had
    private final @Nullable Tensor values; // [length]; null for a large tensor alone
    private final int stateCount;
    private final DType dtype;
    private final Device device;
    private List<Tensor> state = List.of(); // each [length]; none before the first update

    private Slab(ParameterGroup group, List<String> names, int stateCount) {
        this.group = group;
        this.names = names;
        this.stateCount = stateCount;
        this.parameters = names.stream().map(n -> parameterOf(group, n)).toList();
        this.views = new Tensor[names.size()];
        this.offsets = new long[names.size() + 1];
        this.steps = new long[names.size()];
        for (int i = 0; i < views.length; i++) {
            views[i] = parameters.get(i).tensor();
            offsets[i + 1] = offsets[i] + views[i].numel();
        }
        dtype = views[0].dtype();
        device = views[0].device();
        if (views.length == 1) {
            values = null;
        } else {
            values = Tensor.empty(dtype, length()).to(device).keep();
            for (int i = 0; i < views.length; i++) {
                place(i);
            }
        }
    }

    /** Lays out a group. */
    static List<Slab> of(ParameterGroup group, int stateCount) {
        List<Slab> slabs = new ArrayList<>();
        Map<String, List<String>> small = new LinkedHashMap<>();
        group.parameters().forEach((name, parameter) -> {
            Tensor t = parameter.tensor();
            if (t.numel() > LARGE) {
                slabs.add(new Slab(group, List.of(name), stateCount));
            } else {
                small.computeIfAbsent(t.dtype() + "@" + t.device(), key -> new ArrayList<>())
                        .add(name);
            }
        });
        small.values().forEach(names -> slabs.add(new Slab(group, names, stateCount)));
        return slabs;
    }

    private void allocate() {
        if (state.isEmpty()) {
            List<Tensor> buffers = new ArrayList<>();
            for (int i = 0; i < stateCount; i++) {
                buffers.add(Tensor.zeros(stateType(dtype), length()).to(device).keep());
            }
            state = List.copyOf(buffers);
        }
    }

    /**
     * Drops what is remembered of some parameters.
     *
     * @return what takes this slab's place: itself if all of its parameters are meant or none, else two, so that the memory of
     *     those dropped is free
     */
    List<Slab> forget(Set<Parameter> dropped) {
        List<String> gone = new ArrayList<>();
        List<String> kept = new ArrayList<>();
        for (int i = 0; i < views.length; i++) {
            (dropped.contains(parameters.get(i)) ? gone : kept).add(names.get(i));
        }
        if (kept.isEmpty()) {
            state.forEach(Tensor::close);
            state = List.of();
            Arrays.fill(steps, 0);
        }
        if (kept.isEmpty() || gone.isEmpty()) {
            return List.of(this);
        }
        List<Slab> parts = List.of(part(kept), part(gone));
        parts.get(0).takeFrom(this);
        close();
        return parts;
    }

    /** Some of the parameters in a slab of their own. */
    private Slab part(List<String> of) {
        if (of.size() == 1) { // a view would hold the memory of all
            Parameter alone = parameterOf(group, of.get(0));
            alone.set(alone.tensor().detach().clone());
        }
        return new Slab(group, of, stateCount);
    }

    private void takeFrom(Slab other) {
        if (!other.state.isEmpty()) {
            allocate();
        }
        for (int i = 0; i < views.length; i++) {
            int there = other.names.indexOf(names.get(i));
            steps[i] = other.steps[there];
            for (int k = 0; k < state.size(); k++) {
                part(k, i).copy_(other.part(k, there));
            }
        }
    }

    /** Half-width floats would lose small updates in running means: their state is float32. */
    static DType stateType(DType dtype) {
        return dtype.bytes() < 4 ? DType.FLOAT32 : dtype;
    }

    /** Calls {@code rule} once for all parameters if each has a gradient, else once for each that has one. */
    void update(Slabs.Rule rule) {
        List<@Nullable Tensor> gradients = new ArrayList<>();
        boolean together = true;
        for (int i = 0; i < views.length; i++) {
            Tensor gradient = parameters.get(i).tensor().grad(); // before the tensor is replaced by a view
            if (parameters.get(i).tensor() != views[i]) {
                place(i);
            }
            gradients.add(gradient == null ? null : gradient.reshape(-1));
            together &= gradient != null && steps[i] == steps[0];
        }
        if (gradients.stream().anyMatch(Objects::nonNull)) {
            allocate();
        }
        if (together && values != null) {
            List<Tensor> all = new ArrayList<>();
            gradients.forEach(g -> all.add(Objects.requireNonNull(g)));
            Arrays.setAll(steps, i -> steps[i] + 1);
            apply(rule, values, Tensor.cat(all, 0), state, steps[0]);
            return;
        }
        for (int i = 0; i < views.length; i++) {
            Tensor gradient = gradients.get(i);
            if (gradient != null) {
                steps[i]++;
                long offset = offsets[i];
                long length = views[i].numel();
                List<Tensor> parts =
                        state.stream().map(s -> s.narrow(0, offset, length)).toList();
                apply(rule, views[i].detach().view(length), gradient, parts, steps[i]);
            }
        }
    }

    private void apply(Slabs.Rule rule, Tensor value, Tensor gradient, List<Tensor> state, long step) {
        DType dtype = value.dtype();
        Tensor wide = value.to(stateType(dtype));
        rule.update(group, wide, gradient.to(wide.dtype()), state, step);
        if (wide != value) {
            value.copy_(wide);
        }
    }

    /** Copies a parameter into the vector and makes it a view. */
    private void place(int i) {
        Tensor current = parameters.get(i).tensor();
        if (values != null) {
            Tensor part = values.narrow(0, offsets[i], offsets[i + 1] - offsets[i]);
            part.copy_(current.detach().reshape(-1));
            parameters.get(i).set(part.view(parameters.get(i).shape()));
        }
        views[i] = parameters.get(i).tensor();
    }

    void zeroGrad() {
        parameters.forEach(p -> p.tensor().clearGrad());
    }

    long stateBytes() {
        return state.stream().mapToLong(Tensor::bytes).sum();
    }

    /** Names and shapes of all that may be remembered: for each parameter its count of updates, then one entry a kind. */
    Map<String, long[]> layout(List<String> kinds) {
        Map<String, long[]> layout = new LinkedHashMap<>();
        for (int i = 0; i < views.length; i++) {
            layout.put("step." + names.get(i), new long[0]);
            for (String kind : kinds) {
                layout.put(kind + "." + names.get(i), parameters.get(i).shape());
            }
        }
        return layout;
    }

    /** Adds views of the state to {@code all}, and each parameter's count of updates. */
    void collect(List<String> kinds, Map<String, Tensor> all) {
        for (int i = 0; i < views.length; i++) {
            for (int k = 0; k < state.size(); k++) {
                all.put(kinds.get(k) + "." + names.get(i), part(k, i));
            }
            all.put("step." + names.get(i), Tensor.of(new long[] {steps[i]}));
        }
    }

    /** Takes over what {@link #collect} gave; names and shapes have been checked. */
    void restore(List<String> kinds, Map<String, Tensor> all) {
        if (names.stream().anyMatch(name -> kinds.stream().anyMatch(kind -> all.containsKey(kind + "." + name)))) {
            allocate();
        }
        for (int i = 0; i < views.length; i++) {
            for (int k = 0; k < state.size(); k++) {
                Tensor value = all.get(kinds.get(k) + "." + names.get(i));
                if (value == null) {
                    part(k, i).zero_();
                } else {
                    part(k, i).copy_(value);
                }
            }
            steps[i] = (long)
                    Objects.requireNonNull(all.get("step." + names.get(i))).item();
        }
    }

    private Tensor part(int kind, int i) {
        return state.get(kind)
                .narrow(0, offsets[i], offsets[i + 1] - offsets[i])
                .view(parameters.get(i).shape());
    }

    private long length() {
        return offsets[names.size()];
    }

    private static Parameter parameterOf(ParameterGroup group, String name) {
        return Objects.requireNonNull(group.parameters().get(name));
    }

    @Override
    public void close() {
        state.forEach(Tensor::close);
        if (values != null) {
            values.close(); // the memory stays as long as a parameter is a view of it
        }
    }
}
