package dev.espalier.diagnose;

import dev.espalier.adapter.AdaptedModel;
import dev.espalier.adapter.Configured;
import dev.espalier.adapter.LoraFactors;
import dev.espalier.io.Fields;
import java.util.Map;

/**
 * Looks at a model with its active adapter, and reports. Changes nothing.
 *
 * @param <C> its settings, a record that checks itself
 */
public interface Diagnosis<C> extends Configured<C> {

    /**
     * Examines a model.
     *
     * @throws dev.espalier.EspalierException if the model has nothing that can be examined
     */
    Report examine(C config, AdaptedModel model);

    @Override
    default String verb() {
        return "diagnose";
    }

    /** A diagnosis that can mend what it finds. */
    interface Repair<C> extends Diagnosis<C> {

        /**
         * The changes that the active adapter should make instead.
         *
         * @return of each of its layers, by path, in the caller's scope
         * @throws dev.espalier.EspalierException if the adapter is not exactly a plain LoRA
         */
        Map<String, LoraFactors> repair(C config, AdaptedModel model);
    }

    /** A method with its settings. */
    record Chosen<C>(Diagnosis<C> method, C config) {

        /** Reads the settings of a method. */
        public static <C> Chosen<C> read(Diagnosis<C> method, Fields f) {
            return new Chosen<>(method, method.read(f));
        }

        /** Examines a model. */
        public Report examine(AdaptedModel model) {
            return method.examine(config, model);
        }

        /**
         * The changes that the active adapter should make instead.
         *
         * @throws dev.espalier.EspalierException if the diagnosis mends nothing
         */
        public Map<String, LoraFactors> repair(AdaptedModel model) {
            if (method instanceof Repair<C> repair) {
                return repair.repair(config, model);
            }
            throw new dev.espalier.EspalierException(
                    "%s reports and repairs nothing; leave --repair out".formatted(method.name()));
        }
    }
}
