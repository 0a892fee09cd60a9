package dev.espalier.adapter;

import dev.espalier.nn.Module;
import dev.espalier.nn.Parameter;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Set;

/**
 * What an adapter would touch.
 *
 * @param layers what is trained: adapted layers in the network's order, then modules and biases trained as they are
 * @param networkParameters elements of the network, tied ones counted once
 */
public record Plan(List<Touched> layers, long networkParameters) {

    /**
     * One layer or module that would be touched.
     *
     * @param path its place in the network
     * @param kind {@code Linear}, {@code Conv1D}, {@code Embedding}, or {@code kept} for what trains as it is
     * @param out width of the output, 0 where kept
     * @param in width of the input, 0 where kept
     * @param parameters trained elements
     */
    public record Touched(String path, String kind, long out, long in, long parameters) {}

    /** Elements that training would move. */
    public long trainableParameters() {
        return layers.stream().mapToLong(Touched::parameters).sum();
    }

    static Plan of(Attached dry, Module network) {
        List<Touched> layers = new ArrayList<>();
        for (Site site : dry.sites()) {
            layers.add(new Touched(
                    site.path(),
                    site.layer().getClass().getSimpleName(),
                    site.layer().outFeatures(),
                    site.layer().inFeatures(),
                    trained(Objects.requireNonNull(dry.at(site.path())))));
        }
        Map<String, Long> kept = new LinkedHashMap<>();
        Set<Parameter> seen = new HashSet<>(); // tied ones count once
        network.namedParameters().forEach((path, p) -> {
            String owner = Targets.owner(dry.spec().modulesToSave(), path);
            if (owner != null && seen.add(p)) {
                kept.merge(owner, p.tensor().numel(), Long::sum);
            }
        });
        kept.forEach((path, count) -> layers.add(new Touched(path, "kept", 0, 0, count)));
        long biases = biases(dry, network);
        if (biases > 0) {
            layers.add(new Touched("biases", "kept", 0, 0, biases));
        }
        return new Plan(List.copyOf(layers), network.parameterCount());
    }

    private static long biases(Attached dry, Module network) {
        return switch (dry.spec().bias()) {
            case NONE -> 0;
            case ALL ->
                network.namedParameters().entrySet().stream()
                        .filter(e -> e.getKey().contains("bias")
                                && Targets.owner(dry.spec().modulesToSave(), e.getKey()) == null)
                        .mapToLong(e -> e.getValue().tensor().numel())
                        .sum();
            case LORA_ONLY ->
                dry.sites().stream()
                        .map(site -> site.layer().biasParameter())
                        .filter(Objects::nonNull)
                        .mapToLong(p -> p.tensor().numel())
                        .sum();
        };
    }

    private static long trained(Adapter adapter) {
        return adapter.parameters().values().stream()
                .filter(p -> p.isTrainable())
                .mapToLong(p -> p.tensor().numel())
                .sum();
    }
}
