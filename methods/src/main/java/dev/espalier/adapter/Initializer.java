package dev.espalier.adapter;

import dev.espalier.io.Fields;
import dev.espalier.tensor.Seed;
import java.util.Map;

/** Chooses the starting values of adapters from the weights they stand on or from calibration batches. */
public interface Initializer extends Method {

    /**
     * This initialiser with the options that a name carries ({@code pissa_niter_4}).
     *
     * @return null if the name is not one of its own
     */
    @org.jspecify.annotations.Nullable
    Initializer named(String name);

    /** Whether anyone who has the same weights can compute the same start again. */
    boolean isRepeatable();

    /** This initialiser with settings of its own, where it has any. */
    default Initializer configured(Fields f) {
        return this;
    }

    /** The kind of adapter that a recipe means which names this initialiser alone. */
    default String adapter() {
        return "lora";
    }

    /** Settings of that adapter, by PEFT's names, which then have other defaults than its own: what the method needs to be right. */
    default Map<String, Object> adapterDefaults() {
        return Map.of();
    }

    /**
     * Sets starting values, for layers through {@link Attached#start}. The network is never changed: what a method takes out of
     * a weight stays in the adapter.
     *
     * @throws dev.espalier.EspalierException if an adapter is not of a kind that it can start
     */
    void initialize(Attached adapter, Calibration calibration, Seed seed);
}
