package dev.espalier.train;

import dev.espalier.nn.Parameter;
import dev.espalier.tensor.Tensor;
import java.util.ArrayList;
import java.util.Collection;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/** Several optimisers that move as one: the run's own, and those that some groups bring. */
final class Optimizers implements Optimizer {

    private final Map<Config, Optimizer> parts = new LinkedHashMap<>();
    private final Config usual;

    private Optimizers(Config usual) {
        this.usual = usual;
    }

    /** What moves the groups: the usual optimiser alone if no group brings another. */
    static Optimizer of(Config usual, List<ParameterGroup> groups) {
        if (groups.stream().allMatch(group -> group.optimizer() == null)) {
            return usual.create(groups);
        }
        Optimizers all = new Optimizers(usual);
        byConfig(usual, groups).forEach((config, own) -> all.parts.put(config, config.create(own)));
        return all;
    }

    static Map<Config, List<ParameterGroup>> byConfig(Config usual, List<ParameterGroup> groups) {
        Map<Config, List<ParameterGroup>> byConfig = new LinkedHashMap<>();
        groups.forEach(group -> byConfig.computeIfAbsent(
                        group.optimizer() == null ? usual : group.optimizer(), key -> new ArrayList<>())
                .add(group));
        return byConfig;
    }

    @Override
    public void step(double learningRate) {
        parts.values().forEach(part -> part.step(learningRate));
    }

    @Override
    public void add(ParameterGroup group) {
        Config config = group.optimizer() == null ? usual : group.optimizer();
        Optimizer part = parts.get(config);
        if (part == null) {
            parts.put(config, config.create(List.of(group)));
        } else {
            part.add(group);
        }
    }

    @Override
    public void forget(Collection<Parameter> parameters) {
        parts.values().forEach(part -> part.forget(parameters));
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
        int number = 0;
        for (Optimizer part : parts.values()) {
            String prefix = number++ + "/";
            part.state().forEach((name, t) -> all.put(prefix + name, t));
        }
        return all;
    }

    @Override
    public void load(Map<String, Tensor> state) {
        int number = 0;
        for (Optimizer part : parts.values()) {
            String prefix = number++ + "/";
            Map<String, Tensor> own = new LinkedHashMap<>();
            state.forEach((name, t) -> {
                if (name.startsWith(prefix)) {
                    own.put(name.substring(prefix.length()), t);
                }
            });
            part.load(own);
        }
    }

    @Override
    public void close() {
        parts.values().forEach(Optimizer::close);
    }
}
