package dev.espalier.adapter;

import dev.espalier.nn.Layer;
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
     * @param kind {@code Linear}, {@code Conv1D}, {@code Embedding}, {@code LayerNorm}, {@code prompt}, {@code shared} for what
     *     the method has once for all layers, or {@code kept} for what trains beside the method
     * @param out width of the output, 0 where shared or kept and where no weight of a layer trains
     * @param in width of the input, likewise
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
        NetworkAdapter onNetwork = dry.made().onNetwork();
        if (onNetwork != null) {
            onNetwork
                    .parameters()
                    .forEach((name, p) -> layers.add(
                            new Touched(name, "prompt", 0, 0, p.tensor().numel())));
        }
        dry.made().shared().forEach((name, p) -> {
            if (p.isTrainable()) {
                layers.add(new Touched(name, "shared", 0, 0, p.tensor().numel()));
            }
        });
        Set<Parameter> seen = new HashSet<>(); // tied ones count once
        layers.addAll(whole(dry, network, seen));
        Map<String, Long> kept = new LinkedHashMap<>();
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

    /** The modules whose parameters the method trains as they are. */
    private static List<Touched> whole(Attached dry, Module network, Set<Parameter> seen) {
        Map<String, Parameter> parameters = network.namedParameters();
        Map<String, Module> modules = network.namedModules();
        Map<String, Touched> touched = new LinkedHashMap<>();
        for (String path : dry.trained(network)) {
            Parameter p = Objects.requireNonNull(parameters.get(path));
            if (Targets.owner(dry.spec().modulesToSave(), path) != null || !seen.add(p)) {
                continue;
            }
            String owner = path.substring(0, Math.max(0, path.lastIndexOf('.')));
            Module module = Objects.requireNonNull(modules.get(owner));
            Touched before = touched.get(owner);
            boolean mapped = module instanceof Layer layer && layer.weightParameter() == p;
            Layer layer = mapped ? (Layer) module : null;
            touched.put(
                    owner,
                    new Touched(
                            owner,
                            module.getClass().getSimpleName(),
                            layer != null ? layer.outFeatures() : before == null ? 0 : before.out(),
                            layer != null ? layer.inFeatures() : before == null ? 0 : before.in(),
                            p.tensor().numel() + (before == null ? 0 : before.parameters())));
        }
        return List.copyOf(touched.values());
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
