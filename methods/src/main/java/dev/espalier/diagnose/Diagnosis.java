package dev.espalier.diagnose;

import dev.espalier.adapter.AdaptedModel;
import dev.espalier.adapter.Configured;
import dev.espalier.adapter.LoraFactors;
import dev.espalier.io.Fields;
import java.util.List;
import java.util.Map;

/**
 * Looks at a model with its active adapter, at its weights or at what its layers receive, and reports. Changes nothing.
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

    /**
     * Examines a model on texts, for diagnoses of what layers receive; the others leave them alone.
     *
     * @param passes of the network as it stands, a text each; none where no texts were given
     * @throws dev.espalier.EspalierException if the model has nothing that can be examined
     */
    default Report examine(C config, AdaptedModel model, List<Pass> passes) {
        return examine(config, model);
    }

    /**
     * A pass of a text through the network.
     *
     * @param tokens of the text
     * @param forward runs it, its tensors in the current scope
     */
    record Pass(long tokens, Runnable forward) {
        /** Runs the network. */
        public void run() {
            forward.run();
        }
    }

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

        /** Examines a model, on texts if there are any. */
        public Report examine(AdaptedModel model, List<Pass> passes) {
            return method.examine(config, model, passes);
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
