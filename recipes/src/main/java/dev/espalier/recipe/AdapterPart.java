package dev.espalier.recipe;

import static dev.espalier.Check.check;

import dev.espalier.adapter.AdapterSpec;
import dev.espalier.io.Fields;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/**
 * What is trained: the {@code adapter} of a recipe.
 *
 * <p>A method's settings have PEFT's names ({@code r}, {@code lora_alpha}); where the adapter goes is {@code targets}, {@code
 * exclude} and {@code modulesToSave}, which PEFT calls {@code target_modules}, {@code exclude_modules} and {@code
 * modules_to_save}.
 *
 * @param spec a new adapter, or null with {@code from}
 * @param from an adapter folder to go on from, or null
 */
public record AdapterPart(
        @Nullable AdapterSpec<?> spec, @Nullable Path from) {

    private static final Map<String, String> PEFT_NAMES = Map.of(
            "targets", "target_modules",
            "exclude", "exclude_modules",
            "modulesToSave", "modules_to_save");

    /** Checks that there is one of the two. */
    public AdapterPart {
        check(
                (spec == null) != (from == null),
                "adapter.from goes on with an adapter as it is: set it alone, or leave it out and set type and targets");
    }

    /** Settings under PEFT's names. */
    static Map<String, Object> peftNames(Map<String, Object> adapter) {
        Map<String, Object> renamed = new LinkedHashMap<>();
        adapter.forEach((key, value) -> {
            String name = PEFT_NAMES.getOrDefault(key, key);
            check(!renamed.containsKey(name), "adapter.%s is given twice, as %s too; remove one", key, name);
            renamed.put(name, value);
        });
        return renamed;
    }

    static AdapterPart read(Fields f) {
        String from = f.orNull("from", Fields::string);
        if (from != null) {
            Path folder = Path.of(from);
            check(
                    Files.isRegularFile(folder.resolve("adapter_config.json")),
                    "adapter.from: %s holds no adapter_config.json; name a folder that train wrote",
                    folder);
            return new AdapterPart(null, folder);
        }
        return new AdapterPart(AdapterSpec.read(f), null);
    }
}
