package dev.espalier.adapter;

import dev.espalier.io.Fields;
import dev.espalier.io.TensorSource;
import dev.espalier.nn.Module;
import dev.espalier.nn.Parameter;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import dev.espalier.train.Callback;
import dev.espalier.train.LossTerm;
import dev.espalier.train.Optimizer;
import dev.espalier.train.ParameterGroup;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.function.Function;
import java.util.function.ToIntFunction;
import org.jspecify.annotations.Nullable;

/**
 * A kind of adapter: how its settings are read and written, and how it is made for the layers it is put on.
 *
 * @param <C> its settings, a record that checks itself
 */
public interface AdapterType<C> extends Configured<C> {

    /** What the file's {@code peft_type} says: PEFT's own word where PEFT has the method. */
    String peftType();

    /** Whether an {@code adapter_config.json} with this {@code peft_type} means this method. */
    default boolean recognises(Map<String, Object> adapterConfig) {
        return true;
    }

    /** Other words for {@link #peftType} in files that are read and not written any more. */
    default Set<String> formerPeftTypes() {
        return Set.of();
    }

    /** Reads the settings from a recipe or an {@code adapter_config.json}: the names are PEFT's. */
    @Override
    C read(Fields fields);

    /**
     * All of the method's own settings as they stand in {@code adapter_config.json}. Of the host's settings it names those
     * that PEFT's configuration of this method has ({@code bias}, {@code fan_in_fan_out}, {@code ensure_weight_tying}).
     */
    Map<String, @Nullable Object> write(C config);

    /**
     * Keys that all methods share ({@code exclude_modules}, {@code layers_to_transform} ...) and PEFT's configuration of this
     * method lacks. They are left out of the files, which then name every target by its path if these keys narrow them down.
     */
    default Set<String> unknownToPeft() {
        return Set.of();
    }

    /** Settings that are lists of some of the targets: where the files name every target by its path, they do so here. */
    default Set<String> targetLists() {
        return Set.of();
    }

    /**
     * Stops if settings do not fit the layers; asked when a user attaches, not when a file is read.
     *
     * @throws dev.espalier.EspalierException with value, rule and a value that would work
     */
    default void check(C config, List<Site> sites) {}

    /**
     * Adapters for layers.
     *
     * @param sites in the network's order
     * @param seed of which every tensor takes the stream named after it
     */
    Made create(C config, List<Site> sites, Seed seed);

    /**
     * What the method puts on the network as a whole, beside or instead of adapters of layers; null for nothing.
     *
     * @throws dev.espalier.EspalierException if the network has no place for it
     */
    default @Nullable NetworkAdapter createOn(Module network, C config, Seed seed) {
        return null;
    }

    /** Name of the {@link Initializer} that the settings ask for; empty if the adapter's own start will do. */
    default String initializer(C config) {
        return "";
    }

    /**
     * Paths of the network's own parameters that train as they are: copies take their place while the adapter is active, and
     * are kept with it. A method over raw parameters says here which.
     *
     * @param sites layers that the targets mean
     */
    default Set<String> trained(C config, List<Site> sites, Module network) {
        return Set.of();
    }

    /** Whether it stands on layers, which {@code target_modules} names; else it has no {@link Site}s and no targets. */
    default boolean onLayers() {
        return true;
    }

    /** Whether it trains the network's weights themselves, whole, rather than something beside them. */
    default boolean trainsWeights() {
        return false;
    }

    /**
     * What the method does in a training besides bringing parameters.
     *
     * @param seed of which it takes the stream of its own name
     */
    default Parts parts(C config, Attached adapter, Seed seed) {
        return Parts.NONE;
    }

    /**
     * Whether what it changes of a layer stands in its own tensors alone, so that the files say the same on any base of these
     * shapes. A method that is exactly a LoRA need not say so.
     */
    default boolean changesAnyBaseAlike() {
        return false;
    }

    /** What goes into the files: by default the settings and every parameter as they are. */
    default Saved<C> saved(C config, Made made) {
        return new Saved<>(config, made.tensors());
    }

    /**
     * Values for the adapter's parameters from a file that holds something else.
     *
     * @param file what {@link #saved} or PEFT wrote
     * @return a tensor for each key of {@link Made#tensors} that the file has not as it is, in the current scope; what was
     *     read for it need not be anywhere else. Null if the file has all of them
     */
    default @Nullable Map<String, Tensor> restored(C config, Made made, TensorSource file) {
        return null;
    }

    /**
     * What {@link #create} made.
     *
     * @param adapters one a layer, by path
     * @param shared parameters that layers have in common, by name in the file after {@code base_model.}
     * @param onNetwork what stands on the network as a whole, or null
     */
    record Made(
            Map<String, Adapter> adapters,
            Map<String, Parameter> shared,
            @Nullable NetworkAdapter onNetwork) {

        /** Nothing. */
        public static final Made NONE = new Made(Map.of(), Map.of());

        /** Adapters of layers alone. */
        public Made(Map<String, Adapter> adapters, Map<String, Parameter> shared) {
            this(adapters, shared, null);
        }

        /** Every parameter by its key in the file: {@code base_model.model.<path>.<name>}, {@code base_model.<name>} if shared, {@code <name>} if on the network. */
        public Map<String, Parameter> parameters() {
            Map<String, Parameter> all = new LinkedHashMap<>();
            if (onNetwork != null) {
                all.putAll(onNetwork.parameters());
            }
            shared.forEach((name, p) -> all.put(key(name), p));
            adapters.forEach((path, adapter) -> adapter.parameters().forEach((leaf, p) -> all.put(key(path, leaf), p)));
            return all;
        }

        /** The values of {@link #parameters}. */
        public Map<String, Tensor> tensors() {
            Map<String, Tensor> all = new LinkedHashMap<>();
            parameters().forEach((key, p) -> all.put(key, p.tensor()));
            return all;
        }

        /** Ranks by path of the layers whose rank is not the usual one. */
        Map<String, Integer> ranks(int usual, ToIntFunction<Adapter> rank) {
            Map<String, Integer> ranks = new LinkedHashMap<>();
            adapters.forEach((path, adapter) -> ranks.put(path, rank.applyAsInt(adapter)));
            ranks.values().removeIf(each -> each == usual);
            return ranks;
        }

        /** The key in the file of a shared parameter. */
        public static String key(String name) {
            return "base_model." + name;
        }

        /** The key in the file of a layer's parameter. */
        public static String key(String path, String leaf) {
            return Attached.PREFIX + path + "." + leaf;
        }

        /** Adapters that have nothing in common. */
        public static Made each(List<Site> sites, Function<Site, Adapter> maker) {
            Map<String, Adapter> adapters = new LinkedHashMap<>();
            sites.forEach(site -> adapters.put(site.path(), maker.apply(site)));
            return new Made(adapters, Map.of());
        }
    }

    /**
     * What a method does in a training.
     *
     * @param callbacks that act at the training's events
     * @param lossTerms added to the task's loss
     * @param optimizers that move some of the parameters instead of the run's, by the parameters' name in the file after the
     *     layer's path: {@code gate}
     */
    record Parts(List<Callback> callbacks, List<LossTerm> lossTerms, Map<String, Optimizer.Config> optimizers) {

        /** Nothing. */
        public static final Parts NONE = new Parts(List.of(), List.of(), Map.of());

        /** Copies. */
        public Parts {
            callbacks = List.copyOf(callbacks);
            lossTerms = List.copyOf(lossTerms);
            optimizers = Map.copyOf(optimizers);
        }

        /** Callbacks alone. */
        public static Parts of(Callback... callbacks) {
            return new Parts(List.of(callbacks), List.of(), Map.of());
        }

        /** The same parameters, those that the method moves by itself in groups of their own. */
        public List<ParameterGroup> groups(List<ParameterGroup> given) {
            List<ParameterGroup> groups = new ArrayList<>();
            for (ParameterGroup group : given) {
                Map<String, Parameter> rest = new LinkedHashMap<>(group.parameters());
                optimizers.forEach((leaf, own) -> {
                    Map<String, Parameter> moved = new LinkedHashMap<>(rest);
                    moved.keySet().removeIf(key -> !key.endsWith("." + leaf));
                    rest.keySet().removeAll(moved.keySet());
                    if (!moved.isEmpty()) {
                        groups.add(new ParameterGroup(leaf, moved, group.rate(), own.weightDecay(), own));
                    }
                });
                if (!rest.isEmpty()) {
                    groups.add(group.withParameters(rest));
                }
            }
            return groups;
        }
    }

    /**
     * What goes into the files.
     *
     * @param config the settings as they are to be written
     * @param tensors by key
     */
    record Saved<C>(C config, Map<String, Tensor> tensors) {}
}
