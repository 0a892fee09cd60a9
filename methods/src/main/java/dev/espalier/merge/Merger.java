package dev.espalier.merge;

import dev.espalier.adapter.Configured;
import dev.espalier.adapter.LoraFactors;
import dev.espalier.io.Fields;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * Makes one LoRA of several that stand on the same network, without training.
 *
 * @param <C> its settings, a record that checks itself
 */
public interface Merger<C> extends Configured<C> {

    /**
     * Combines adapters.
     *
     * @param sources at least one; any of them may leave layers out
     * @param seed of which it takes streams of its own names
     * @return the merged change of each layer that any source changes, in the caller's scope
     * @throws dev.espalier.EspalierException if ranks, weights or settings do not go together
     */
    Map<String, LoraFactors> merge(C config, List<Source> sources, Seed seed);

    @Override
    default String verb() {
        return "merge";
    }

    /** A method with its settings. */
    record Chosen<C>(Merger<C> method, C config) {

        /** Reads the settings of a method. */
        public static <C> Chosen<C> read(Merger<C> method, Fields f) {
            return new Chosen<>(method, method.read(f));
        }

        /** Combines adapters. */
        public Map<String, LoraFactors> merge(List<Source> sources, Seed seed) {
            return method.merge(config, sources, seed);
        }
    }

    /**
     * An adapter to be merged.
     *
     * @param name for messages
     * @param weight w, finite, of any sign
     * @param layers its changes s B A by the layers' paths, without biases
     */
    record Source(String name, double weight, Map<String, LoraFactors> layers) {}

    /**
     * An adapter's share in one layer.
     *
     * @param name the adapter's, for messages
     * @param weight w
     * @param factors s, A [r, in], B [out, r]
     */
    record Part(String name, double weight, LoraFactors factors) {}

    /** Combines the changes of one layer. */
    @FunctionalInterface
    interface LayerMerger {
        /**
         * The merged change of a layer.
         *
         * @param parts of the adapters that have the layer; the others count as absent, not as zero
         */
        LoraFactors merge(String path, List<Part> parts);
    }

    /** Combines layer by layer, each in a scope of its own. */
    static Map<String, LoraFactors> byLayer(List<Source> sources, LayerMerger merger) {
        Map<String, List<Part>> parts = new LinkedHashMap<>();
        sources.forEach(source -> source.layers()
                .forEach((path, factors) -> parts.computeIfAbsent(path, p -> new ArrayList<>())
                        .add(new Part(source.name(), source.weight(), factors))));
        Map<String, LoraFactors> merged = new LinkedHashMap<>();
        parts.forEach((path, present) -> {
            try (Scope scope = Scope.open()) {
                LoraFactors made = merger.merge(path, present);
                merged.put(path, new LoraFactors(scope.promote(made.a()), scope.promote(made.b()), made.scale(), null));
            }
        });
        return merged;
    }
}
