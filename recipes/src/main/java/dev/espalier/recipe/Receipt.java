package dev.espalier.recipe;

import static dev.espalier.Check.check;

import dev.espalier.adapter.Attached;
import dev.espalier.adapter.PeftFolder;
import dev.espalier.io.Fields;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/**
 * What an adapter folder says beyond Hugging Face's own files, in {@code espalier.json}: on which base it stands, how texts reach
 * it, and how it was made.
 *
 * @param base name of the base model as {@code --model} takes it; a local path is absolute
 * @param baseSha256 of the base's weight files
 * @param task kind of task
 * @param labels names of the classes in order; empty where there are none
 * @param maxLength tokens of a text at most
 * @param truncate whether a longer text is cut
 * @param template chat template that takes the place of the base's own, or null
 * @param dataSha256 of the training data
 * @param recipe the settings of the run
 */
public record Receipt(
        String base,
        String baseSha256,
        TaskSpec.Type task,
        List<String> labels,
        int maxLength,
        boolean truncate,
        @Nullable String template,
        String dataSha256,
        Map<String, Object> recipe) {

    private static final int FORMAT = 1;

    /** Copies. */
    public Receipt {
        labels = List.copyOf(labels);
        recipe = new LinkedHashMap<>(recipe);
    }

    /** Reads the receipt of an adapter folder; null if it has none, as those that PEFT wrote. */
    public static @Nullable Receipt find(Path folder) {
        Map<String, Object> written = PeftFolder.receipt(folder);
        if (!written.containsKey("base")) {
            return null;
        }
        Fields f = Fields.of(folder + "/espalier.json", written);
        int format = f.integer("format");
        check(
                format == FORMAT,
                "%s/espalier.json has format %d and this version reads %d; update Espalier",
                folder,
                format,
                FORMAT);
        Fields task = f.fields("task");
        return new Receipt(
                f.string("base"),
                f.string("base_sha256"),
                TaskSpec.Type.of(task),
                task.strings("labels", List.of()),
                task.integer("max_length"),
                task.bool("truncate", false),
                task.orNull("template", Fields::string),
                f.string("data_sha256", ""),
                f.map("recipe", Map.of()));
    }

    /** The same on another base. */
    Receipt on(String other, String sha256) {
        return new Receipt(other, sha256, task, labels, maxLength, truncate, template, dataSha256, recipe);
    }

    /** As it stands in the file, beside its format. */
    Map<String, @Nullable Object> fields() {
        Map<String, @Nullable Object> taskFields = new LinkedHashMap<>();
        taskFields.put("type", task.key());
        taskFields.put("labels", labels);
        taskFields.put("max_length", maxLength);
        taskFields.put("truncate", truncate);
        taskFields.put("template", template);
        Map<String, @Nullable Object> all = new LinkedHashMap<>();
        all.put("base", base);
        all.put("base_sha256", baseSha256);
        all.put("task", taskFields);
        all.put("data_sha256", dataSha256);
        all.put("recipe", recipe);
        return all;
    }

    /** What goes into PEFT's files about the network. */
    PeftFolder.Info info() {
        return PeftFolder.Info.of(base, peftTask());
    }

    /** The same for an adapter that may have none, as those that PEFT wrote: then what its files said. */
    static PeftFolder.@Nullable Info infoOf(@Nullable Receipt receipt, Attached adapter) {
        return receipt == null ? adapter.info() : receipt.info();
    }

    /** PEFT's word for the task. */
    String peftTask() {
        return task == TaskSpec.Type.CAUSAL_LM ? "CAUSAL_LM" : "SEQ_CLS";
    }
}
