package dev.espalier.recipe;

import static dev.espalier.Check.check;

import dev.espalier.EspalierException;
import dev.espalier.adapter.AdaptedModel;
import dev.espalier.adapter.PeftFolder;
import dev.espalier.compress.Cut;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;

/**
 * An adapter that was trained on a pruned model, written for the model that it was cut out of.
 *
 * @param base the whole model, as the adapter's folder names it
 * @param layers what became of each; empty where the adapter stayed as it is
 */
public record Recovery(String base, List<PeftFolder.Exported> layers) {

    /** Copies. */
    public Recovery {
        layers = List.copyOf(layers);
    }

    /**
     * Writes a plain LoRA, or the adapter as it is where weights were only masked and it says the same on any.
     *
     * @param loaded the pruned model with the adapter
     * @param out does not exist yet, or is empty
     * @param maxRank as of {@link PeftFolder#exportLora}: 0 for adapters that are exactly a LoRA
     * @throws dev.espalier.EspalierException if the model was cut out of none, or a module that trained whole would not fit
     */
    public static Recovery of(LoadedModel loaded, Path out, int maxRank) {
        Run.checkFree(out, false);
        AdaptedModel adapted = loaded.requireAdapter();
        Cut cut = Cut.find(loaded.pretrained());
        if (cut == null) {
            throw new EspalierException(
                    "%s was not cut out of a larger model, so there is no whole one to write the adapter for; export --to lora"
                            .formatted(loaded.pretrained().origin().name()));
        }
        adapted.adapter("default")
                .kept()
                .keySet()
                .forEach(key -> check(
                        !cut.touches(key.replaceFirst("^base_model\\.model\\.", "")),
                        "the adapter has its own version of %s, of which the whole model has more; train adapters on it instead (modules_to_save)",
                        key));
        Receipt receipt = loaded.receipt();
        PeftFolder.Info former = adapted.adapter("default").info();
        PeftFolder.Info info = PeftFolder.Info.of(
                cut.base(), receipt != null ? receipt.peftTask() : former == null ? null : former.taskType());
        Map<String, ?> fields = receipt == null
                ? Map.of()
                : receipt.on(cut.base(), cut.sha256()).fields();
        if (cut.groups().isEmpty() && adapted.adapter("default").spec().type().changesAnyBaseAlike()) {
            PeftFolder.save(adapted, "default", out, info, PeftFolder.Form.PLAIN, fields);
            return new Recovery(cut.base(), List.of());
        }
        return new Recovery(
                cut.base(), PeftFolder.exportLora(adapted, "default", out, info, maxRank, fields, cut::scatter));
    }
}
