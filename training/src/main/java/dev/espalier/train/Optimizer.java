package dev.espalier.train;

import dev.espalier.EspalierException;
import dev.espalier.nn.Parameter;
import dev.espalier.tensor.Tensor;
import java.util.Collection;
import java.util.List;
import java.util.Map;

/**
 * Turns gradients into updates. A parameter without a gradient is left alone, its state too.
 *
 * <p>An optimiser reads {@code parameter.tensor()} anew at every step, because others may put another tensor in place.
 */
public interface Optimizer extends AutoCloseable {

    /** How to make one: the optimiser's settings, checked when they are made. */
    interface Config {

        /** An optimiser over these groups, with fresh state. */
        Optimizer create(List<ParameterGroup> groups);

        /** Bytes that an optimiser over these groups will remember once all of them have moved, known without making it. */
        long stateBytes(List<ParameterGroup> groups);

        /** Whether each parameter may have an optimiser of its own, as moving them during the backward pass asks. */
        default boolean separable() {
            return true;
        }

        /** Weight decay of parameters that come in no group of their own. */
        double weightDecay();
    }

    /** Bytes that the usual optimiser and those that groups bring will remember together. */
    static long stateBytes(Config usual, List<ParameterGroup> groups) {
        return Optimizers.byConfig(usual, groups).entrySet().stream()
                .mapToLong(e -> e.getKey().stateBytes(e.getValue()))
                .sum();
    }

    /** One update of every parameter that has a gradient. */
    void step(double learningRate);

    /**
     * Takes on more parameters, with fresh state.
     *
     * @throws dev.espalier.EspalierException if this optimiser's parameters are fixed
     */
    default void add(ParameterGroup group) {
        throw new EspalierException("%s cannot take on parameters that come during training (%s); train with adamw"
                .formatted(getClass().getSimpleName(), group.name()));
    }

    /**
     * Drops what is remembered of parameters, which start afresh with their next update. Parameters that it does not move are
     * passed over.
     *
     * @throws dev.espalier.EspalierException if this optimiser cannot
     */
    default void forget(Collection<Parameter> parameters) {
        throw new EspalierException("%s cannot drop its state of single parameters; keep it, or train with adamw"
                .formatted(getClass().getSimpleName()));
    }

    /** Drops all gradients. */
    void zeroGrad();

    /** Bytes of all that is remembered from step to step; of a parameter that has not moved yet there may be none. */
    long stateBytes();

    /** What is remembered, named {@code <kind>.<parameter path>}; shares memory, and belongs to the current scope. */
    Map<String, Tensor> state();

    /**
     * Takes over values that {@link #state} gave.
     *
     * @throws dev.espalier.EspalierException if names or shapes differ from what this optimiser remembers
     */
    void load(Map<String, Tensor> state);

    /** Frees the state. */
    @Override
    void close();
}
