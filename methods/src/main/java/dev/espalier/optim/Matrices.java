package dev.espalier.optim;

import static dev.espalier.Check.check;

import dev.espalier.EspalierException;
import dev.espalier.adapter.AdapterType;
import dev.espalier.adapter.Method;
import dev.espalier.adapter.Setting;
import dev.espalier.model.Model;
import dev.espalier.nn.Embedding;
import dev.espalier.nn.Layer;
import dev.espalier.nn.Parameter;
import java.util.Collections;
import java.util.IdentityHashMap;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Set;
import org.jspecify.annotations.Nullable;

/** Which trained parameters are matrices of the network's blocks. */
final class Matrices {

    private Matrices() {}

    /**
     * The weights of linear layers in the blocks (attention and feed-forward), among what trains.
     *
     * @param method that asks, for messages
     * @param rank that they are to be reduced to
     * @return shapes by the parameters' names
     * @throws EspalierException if none of them trains, or one has no such rank
     */
    static Map<String, long[]> ofBlocks(Setting setting, String method, int rank) {
        if (!(setting.task().model() instanceof Model model)) {
            throw new EspalierException(
                    "%s needs a transformer, whose blocks hold its matrices; use adamw".formatted(method));
        }
        Set<Parameter> weights = Collections.newSetFromMap(new IdentityHashMap<>());
        model.backbone()
                .layers()
                .forEach(block -> block.namedModules().values().forEach(module -> {
                    if (module instanceof Layer layer && !(layer instanceof Embedding)) {
                        weights.add(layer.weightParameter());
                    }
                }));
        Map<String, long[]> matrices = new LinkedHashMap<>();
        setting.model().trainableParameters().forEach((name, p) -> {
            if (weights.contains(p)) {
                matrices.put(name, p.shape());
            }
        });
        check(
                !matrices.isEmpty(),
                "%s finds no linear layer of the network's blocks among what trains; let the adapter full train some",
                method);
        matrices.forEach((name, shape) -> check(
                rank <= Math.min(shape[0], shape[1]),
                "%s: rank is %d, above the smaller side of %s [%d, %d]; try %d",
                method,
                rank,
                name,
                shape[0],
                shape[1],
                Math.max(1, Math.min(shape[0], shape[1]) / 4)));
        return matrices;
    }

    /** Why a method that makes gradients of whole weights smaller cannot be used with another, or null. */
    static @Nullable String objection(String title, Method other) {
        return other instanceof AdapterType<?> type && !type.trainsWeights()
                ? "%s projects gradients of whole weights, and %s trains none; use the adapter full, or another optimizer"
                        .formatted(title, other.name())
                : null;
    }
}
