package dev.espalier.recipe;

import static dev.espalier.Check.check;

import dev.espalier.adapter.AdaptedModel;
import dev.espalier.adapter.AdapterSpec;
import dev.espalier.adapter.Attached;
import dev.espalier.adapter.Catalog;
import dev.espalier.adapter.LoraFactors;
import dev.espalier.adapter.PeftFolder;
import dev.espalier.adapter.PlainLora;
import dev.espalier.data.DataOptions;
import dev.espalier.data.Dataset;
import dev.espalier.data.Encoder;
import dev.espalier.diagnose.Diagnosis;
import dev.espalier.diagnose.Report;
import dev.espalier.io.Fields;
import dev.espalier.model.Input;
import dev.espalier.model.Model;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Tensor;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/**
 * A diagnosis of an adapter, and its repair.
 *
 * @param diagnosis the method, with its settings
 * @param settings of the method, as given
 */
public record Examination(Diagnosis.Chosen<?> diagnosis, Map<String, Object> settings) {

    private static final String VERB = "diagnose";

    /** Copies. */
    public Examination {
        settings = Collections.unmodifiableMap(new LinkedHashMap<>(settings));
    }

    /**
     * Reads a recipe.
     *
     * @param recipe a YAML file, or one of {@link Section#recipes}
     * @param settings such as {@code k=10}, in place of the recipe's
     */
    public static Examination read(String recipe, List<String> settings) {
        Fields f = Section.read(recipe, VERB, settings);
        Fields own = f.fields(VERB);
        Map<String, Object> given = new LinkedHashMap<>(own.unread());
        Diagnosis<?> method =
                Catalog.method(own.string("type"), Diagnosis.class, "diagnose.type", "intruder-dimensions");
        Diagnosis.Chosen<?> chosen = Diagnosis.Chosen.read(method, own);
        f.done();
        return new Examination(chosen, given);
    }

    /** What the diagnosis finds. */
    public Report of(LoadedModel loaded) {
        return diagnosis.examine(loaded.requireAdapter(), List.of());
    }

    /**
     * What the diagnosis finds when the model reads texts.
     *
     * @param data a file of examples of any kind
     * @param columns which column plays which part, where that must be said
     */
    public Report of(LoadedModel loaded, Path data, Map<String, String> columns) {
        Model model = loaded.pretrained().model();
        model.train(false);
        Encoder encoder = loaded.encoder();
        List<Diagnosis.Pass> passes = Dataset.read(data, DataOptions.of(columns, null)).examples().stream()
                .map(encoder::encode)
                .map(text -> new Diagnosis.Pass(text.length(), () -> model.forward(input(model, text.ids()))))
                .toList();
        return diagnosis.examine(loaded.requireAdapter(), passes);
    }

    private static Input input(Model model, int[] ids) {
        long[] wide = Arrays.stream(ids).asLongStream().toArray();
        return Input.of(Tensor.of(wide, 1, wide.length).to(model.backbone().device()));
    }

    /**
     * A repaired adapter.
     *
     * @param rank the largest of its layers'
     * @param normRatio Frobenius norm of its changes over that of the changes before
     * @param after what the diagnosis finds now
     */
    public record Repaired(long rank, double normRatio, Report after) {}

    /**
     * Repairs the adapter, puts the repaired one in its place, and writes it.
     *
     * @param folder the adapter's own
     * @param out does not exist yet, or is empty
     */
    public Repaired repair(LoadedModel loaded, Path folder, Path out) {
        Run.checkFree(out, false);
        AdaptedModel adapted = loaded.requireAdapter();
        String name = adapted.active().get(0);
        Attached adapter = adapted.adapter(name);
        check(
                adapter.spec().bias() == AdapterSpec.Bias.NONE,
                "the adapter trained biases of the network (bias: %s), which a repaired plain LoRA would lose; repair one without",
                adapter.spec().bias().name().toLowerCase(java.util.Locale.ROOT));
        Receipt receipt = Receipt.find(folder);
        PeftFolder.Info info = Receipt.infoOf(receipt, adapter);
        try (Grad off = Grad.off();
                Scope scope = Scope.open()) {
            Map<String, LoraFactors> factors = diagnosis.repair(adapted);
            double ratio = norm(factors) / norm(before(adapter));
            Map<String, Tensor> kept = new LinkedHashMap<>();
            adapter.kept().forEach((key, value) -> kept.put(key, value.clone()));
            PlainLora.Parts parts = new PlainLora.Parts(
                    factors,
                    adapter.spec().targets(),
                    adapter.spec().modulesToSave(),
                    kept,
                    adapter.spec().ensureWeightTying());
            adapted.remove(name);
            PlainLora.attach(adapted, name, parts);
            PeftFolder.save(adapted, name, out, info, PeftFolder.Form.PLAIN, fields(receipt));
            long rank =
                    factors.values().stream().mapToLong(LoraFactors::rank).max().orElse(0);
            return new Repaired(rank, ratio, diagnosis.examine(adapted, List.of()));
        }
    }

    private static Map<String, LoraFactors> before(Attached adapter) {
        Map<String, LoraFactors> factors = new LinkedHashMap<>();
        adapter.sites()
                .forEach(site ->
                        factors.put(site.path(), java.util.Objects.requireNonNull(adapter.exactFactors(site.path()))));
        return factors;
    }

    private static double norm(Map<String, LoraFactors> factors) {
        return Math.sqrt(
                factors.values().stream().mapToDouble(f -> f.norm() * f.norm()).sum());
    }

    private Map<String, @Nullable Object> fields(@Nullable Receipt receipt) {
        Map<String, @Nullable Object> fields =
                receipt == null ? new LinkedHashMap<>() : new LinkedHashMap<>(receipt.fields());
        fields.put("repair", settings);
        return fields;
    }
}
