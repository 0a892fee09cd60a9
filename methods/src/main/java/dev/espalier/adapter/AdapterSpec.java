package dev.espalier.adapter;

import static dev.espalier.Check.check;

import dev.espalier.EspalierException;
import dev.espalier.io.Fields;
import java.util.List;
import java.util.Locale;
import org.jspecify.annotations.Nullable;

/**
 * What to attach, and where.
 *
 * @param type the kind of adapter
 * @param config its settings
 * @param targets the layers it is for
 * @param modulesToSave modules trained as they are and kept with the adapter, such as a new head; items as in {@link
 *     Targets}
 * @param bias which biases of the network are trained and kept too
 * @param ensureWeightTying whether training one of two tied weights through {@code modulesToSave} trains both
 * @param initializer chooses the start instead of the one that the settings name; null for that one
 * @param strict whether an item that matches nothing is an error
 */
public record AdapterSpec<C>(
        AdapterType<C> type,
        C config,
        Targets targets,
        List<String> modulesToSave,
        Bias bias,
        boolean ensureWeightTying,
        @Nullable Initializer initializer,
        boolean strict) {

    /** Which biases train. */
    public enum Bias {
        /** None. */
        NONE,
        /** All of the network. */
        ALL,
        /** Those of adapted layers. */
        LORA_ONLY
    }

    /**
     * Copies the list.
     *
     * @throws EspalierException if biases are to train and the method's files have no place for them
     */
    public AdapterSpec {
        modulesToSave = List.copyOf(modulesToSave);
        check(
                bias == Bias.NONE || type.write(config).containsKey("bias"),
                "bias is %s, and the files of %s have no place for trained biases; leave it at none, or use lora",
                bias.name().toLowerCase(Locale.ROOT),
                type.name());
    }

    /** An adapter on some layers and nothing beside it. */
    public static <C> AdapterSpec<C> of(AdapterType<C> type, C config, Targets targets) {
        return new AdapterSpec<>(type, config, targets, List.of(), Bias.NONE, false, null, true);
    }

    /** The same, with modules trained in full beside it. */
    public AdapterSpec<C> withModulesToSave(List<String> modules) {
        return new AdapterSpec<>(type, config, targets, modules, bias, ensureWeightTying, initializer, strict);
    }

    /** The same, with biases trained beside it. */
    public AdapterSpec<C> withBias(Bias which) {
        return new AdapterSpec<>(type, config, targets, modulesToSave, which, ensureWeightTying, initializer, strict);
    }

    /** The same, started by an initialiser. */
    public AdapterSpec<C> withInitializer(Initializer chosen) {
        return new AdapterSpec<>(type, config, targets, modulesToSave, bias, ensureWeightTying, chosen, strict);
    }

    /**
     * Reads a recipe's adapter: {@code type} (a kind of adapter, or an initialiser, which means the kind it is for, started by
     * it), its settings, {@code initializer} with a type and settings of its own, {@code target_modules} and the rest, by
     * PEFT's names. The caller asks {@link Fields#done()}.
     */
    public static AdapterSpec<?> read(Fields f) {
        String name = f.string("type", "lora");
        Method method = Catalog.method(name);
        if (method instanceof AdapterType<?> type) {
            Fields own = f.fields("initializer");
            AdapterSpec<?> spec = read(type, f, true);
            return own.has("type") ? spec.withInitializer(initializer(own.string("type"), own)) : spec;
        }
        if (method instanceof Initializer initializer) {
            if (initializer.fields().isEmpty()) { // told by its name alone, and so it is written
                Lora.Type lora = new Lora.Type();
                return of(lora, lora.read(f, Lora.Config.DEFAULT.withInit(name)), f, true);
            }
            AdapterType<?> type = (AdapterType<?>) Catalog.method(initializer.adapter());
            Initializer configured = initializer(name, f);
            f.suppose(initializer.adapterDefaults());
            return read(type, f, true).withInitializer(configured);
        }
        throw new EspalierException("adapter.type is %s, which is no adapter but %s; try lora"
                .formatted(name, "of kind " + method.about().kind()));
    }

    private static Initializer initializer(String name, Fields f) {
        return Catalog.initializer(name).configured(f);
    }

    static <C> AdapterSpec<C> read(AdapterType<C> type, Fields f, boolean strict) {
        return of(type, type.read(f), f, strict);
    }

    private static <C> AdapterSpec<C> of(AdapterType<C> type, C config, Fields f, boolean strict) {
        return new AdapterSpec<>(
                type,
                config,
                type.onLayers() ? Targets.read(f) : Targets.NONE,
                f.strings("modules_to_save", List.of()),
                f.choice("bias", Bias.NONE),
                f.bool("ensure_weight_tying", false),
                null,
                strict);
    }
}
