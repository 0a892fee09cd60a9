package dev.espalier.merge;

import dev.espalier.adapter.Configured;
import dev.espalier.adapter.LoraFactors;
import dev.espalier.io.Fields;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * Learns from the adapters of several tasks and makes one for a task that a vector stands for.
 *
 * @param <C> its settings, a record that checks itself
 */
public interface AdapterGenerator<C> extends Configured<C> {

    /**
     * Trains on pools and makes an adapter.
     *
     * @param pools one a task
     * @param wanted the task's vector [d]
     * @param seed of which it takes streams of its own names
     * @return the change of each layer, in the caller's scope
     * @throws dev.espalier.EspalierException if adapters or vectors do not go together
     */
    Made generate(C config, List<Pool> pools, Tensor wanted, Seed seed);

    /** What the network is while it reads the samples that a task's vector is the mean of. */
    VectorSource vectors(C config);

    /** How many samples that are, at most. */
    int samples(C config);

    @Override
    default String verb() {
        return "merge";
    }

    /** The network under a task vector. */
    enum VectorSource {
        /** With the task's own adapter. */
        ADAPTED,
        /** Without adapters, so that a task without one has a vector too. */
        BASE
    }

    /**
     * The adapters that trainings of one task came by.
     *
     * @param name for messages
     * @param checkpoints its changes s B A by the layers' paths, one map a checkpoint, at least one
     * @param vector the task's [d]
     */
    record Pool(String name, List<Map<String, LoraFactors>> checkpoints, Tensor vector) {
        /** Copies. */
        public Pool {
            checkpoints = List.copyOf(checkpoints);
        }
    }

    /**
     * An adapter that was made.
     *
     * @param factors the change of each layer, by path
     * @param figures what the method tells of its training and of what came of it
     */
    record Made(Map<String, LoraFactors> factors, Map<String, Double> figures) {
        /** Copies. */
        public Made {
            factors = Collections.unmodifiableMap(new LinkedHashMap<>(factors));
            figures = Collections.unmodifiableMap(new LinkedHashMap<>(figures));
        }
    }

    /** A method with its settings. */
    record Chosen<C>(AdapterGenerator<C> method, C config) {

        /** Reads the settings of a method. */
        public static <C> Chosen<C> read(AdapterGenerator<C> method, Fields f) {
            return new Chosen<>(method, method.read(f));
        }

        /** Trains on pools and makes an adapter. */
        public Made generate(List<Pool> pools, Tensor wanted, Seed seed) {
            return method.generate(config, pools, wanted, seed);
        }

        /** What the network is while it reads samples. */
        public VectorSource vectors() {
            return method.vectors(config);
        }

        /** How many samples, at most. */
        public int samples() {
            return method.samples(config);
        }
    }
}
