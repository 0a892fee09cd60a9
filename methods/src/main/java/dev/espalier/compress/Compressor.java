package dev.espalier.compress;

import static dev.espalier.Check.check;

import dev.espalier.adapter.AdaptedModel;
import dev.espalier.adapter.Calibration;
import dev.espalier.adapter.Configured;
import dev.espalier.adapter.Site;
import dev.espalier.adapter.Targets;
import dev.espalier.io.Fields;
import dev.espalier.nn.Embedding;
import dev.espalier.nn.Parameter;
import dev.espalier.tensor.Seed;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * Puts cheaper values in place of a network's weights, and may attach an adapter that makes up for some of the damage.
 *
 * @param <C> its settings, a record that checks itself
 */
public interface Compressor<C> extends Configured<C> {

    /** What an attached adapter is called. */
    String ADAPTER = "default";

    /** Meanings of the fields that {@link Targets#read} asks for. */
    Map<String, String> TARGETS = Map.of(
            "target_modules",
                    "layers to compress (also called targets), as for adapters; all-linear for all but the heads",
            "exclude_modules", "layers to leave out again",
            "layers_to_transform", "numbers of the blocks to keep to; none for all",
            "layers_pattern", "name of the list of blocks, where it is not the first with numbers");

    /**
     * Compresses. The network's weights are replaced, by dense ones with the compressed values; an adapter is attached under the
     * name {@value #ADAPTER} and active.
     *
     * @throws dev.espalier.EspalierException if the settings do not fit the network or the data
     */
    CompressionReport compress(C config, Subject subject);

    @Override
    default String verb() {
        return "compress";
    }

    /** A method with the settings that a recipe gives it. */
    record Chosen<C>(Compressor<C> method, C config) {

        /** Reads the settings of a method. */
        public static <C> Chosen<C> read(Compressor<C> method, Fields f) {
            return new Chosen<>(method, method.read(f));
        }

        /** Compresses. */
        public CompressionReport compress(Subject subject) {
            return method.compress(config, subject);
        }
    }

    /**
     * What is compressed.
     *
     * @param model a host without adapters, whose network is the compressor's to change
     * @param modulesToSave modules that an attached adapter trains as they are, such as a new head: these are not compressed
     * @param data one example a batch, without padding; {@link Calibration#NONE} where there is none
     * @param seed of which a method takes the stream of its own name
     */
    record Subject(AdaptedModel model, List<String> modulesToSave, Calibration data, Seed seed) {

        /** Copies, and checks that the model is bare. */
        public Subject {
            modulesToSave = List.copyOf(modulesToSave);
            check(
                    model.names().isEmpty(),
                    "the model carries the adapters %s already, which stand on its present weights; compress it without them",
                    model.names());
        }

        /**
         * The layers that targets mean, in the network's order.
         *
         * @throws dev.espalier.EspalierException if one is an embedding, or shares its weight with another module
         */
        List<Site> sites(Targets targets) {
            List<Site> sites = model.sites(targets, modulesToSave);
            Map<Parameter, String> holders = new LinkedHashMap<>();
            model.network().namedParameters().forEach((path, p) -> holders.merge(p, path, (a, b) -> a + " and " + b));
            for (Site site : sites) {
                check(
                        !(site.layer() instanceof Embedding),
                        "%s is an embedding, and only linear layers are compressed; leave it out of targets",
                        site.path());
                String names = String.valueOf(holders.get(site.layer().weightParameter()));
                check(
                        !names.contains(" and "),
                        "%s are one weight, so compressing one changes the other; leave them out of targets",
                        names);
            }
            return sites;
        }
    }
}
