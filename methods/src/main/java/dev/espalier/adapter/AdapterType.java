package dev.espalier.adapter;

import dev.espalier.io.Fields;
import dev.espalier.nn.Parameter;
import dev.espalier.tensor.Seed;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.function.Function;
import org.jspecify.annotations.Nullable;

/**
 * A kind of adapter: how its settings are read and written, and how it is made for the layers it is put on.
 *
 * @param <C> its settings, a record that checks itself
 */
public interface AdapterType<C> extends Method {

    /** What the file's {@code peft_type} says: PEFT's own word where PEFT has the method. */
    String peftType();

    /** Whether an {@code adapter_config.json} with this {@code peft_type} means this method. */
    default boolean recognises(Map<String, Object> adapterConfig) {
        return true;
    }

    /** Reads the settings from a recipe or an {@code adapter_config.json}: the names are PEFT's. */
    C read(Fields fields);

    /**
     * All of the method's own settings as they stand in {@code adapter_config.json}. Of the host's settings it names those
     * that PEFT's configuration of this method has ({@code bias}, {@code fan_in_fan_out}, {@code ensure_weight_tying}).
     */
    Map<String, @Nullable Object> write(C config);

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

    /** Name of the {@link Initializer} that the settings ask for; empty if the adapter's own start will do. */
    default String initializer(C config) {
        return "";
    }

    @Override
    default List<Fields.Field> fields() {
        return Fields.askedBy(this::read);
    }

    /**
     * What {@link #create} made.
     *
     * @param adapters one a layer, by path
     * @param shared parameters that layers have in common, by name in the file after {@code base_model.}
     */
    record Made(Map<String, Adapter> adapters, Map<String, Parameter> shared) {

        /** Adapters that have nothing in common. */
        public static Made each(List<Site> sites, Function<Site, Adapter> maker) {
            Map<String, Adapter> adapters = new LinkedHashMap<>();
            sites.forEach(site -> adapters.put(site.path(), maker.apply(site)));
            return new Made(adapters, Map.of());
        }
    }
}
