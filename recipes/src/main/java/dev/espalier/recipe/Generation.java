package dev.espalier.recipe;

import static dev.espalier.Check.check;

import dev.espalier.adapter.AdaptedModel;
import dev.espalier.adapter.Attached;
import dev.espalier.adapter.Catalog;
import dev.espalier.adapter.LoraFactors;
import dev.espalier.adapter.LowRank;
import dev.espalier.adapter.PeftFolder;
import dev.espalier.adapter.PlainLora;
import dev.espalier.adapter.Site;
import dev.espalier.data.DataOptions;
import dev.espalier.data.Dataset;
import dev.espalier.data.Encoder;
import dev.espalier.data.Encoding;
import dev.espalier.io.Fields;
import dev.espalier.io.Safetensors;
import dev.espalier.io.TensorSource;
import dev.espalier.merge.AdapterGenerator;
import dev.espalier.merge.AdapterGenerator.Pool;
import dev.espalier.merge.AdapterGenerator.VectorSource;
import dev.espalier.model.LoadOptions;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.stream.Stream;
import org.jspecify.annotations.Nullable;

/**
 * An adapter made by a generator that learns from the adapters of several tasks and from the checkpoints of their trainings.
 *
 * <pre>{@code
 * merge:
 *   type: icm-lora
 * adapters: [out/a, out/b]
 * data: [a.csv, b.csv]
 * for: b.csv
 * }</pre>
 *
 * @param generator the method, with its settings
 * @param adapters folders, one a task; the checkpoints in them belong to the task too
 * @param data samples of each adapter's task
 * @param wanted samples of the task to make an adapter for
 * @param seed of all that is drawn
 * @param settings of the method, as given
 */
public record Generation(
        AdapterGenerator.Chosen<?> generator,
        List<Path> adapters,
        List<Path> data,
        Path wanted,
        long seed,
        Map<String, Object> settings) {

    private static final String VERB = "merge";

    /** Copies. */
    public Generation {
        adapters = List.copyOf(adapters);
        data = List.copyOf(data);
        settings = Collections.unmodifiableMap(new LinkedHashMap<>(settings));
        check(!adapters.isEmpty(), "there are no adapters to learn from; name their folders with --adapters");
        check(
                data.size() == adapters.size(),
                "%d files of samples were given for %d adapters; give one for each with --data",
                data.size(),
                adapters.size());
        check(
                generator.vectors() == VectorSource.BASE || data.contains(wanted),
                "%s is the data of none of the adapters, and with task_vectors adapted a task's vector comes from its own adapter; set task_vectors=base",
                wanted);
    }

    /** Whether a recipe's method generates and does not merge. */
    public static boolean means(String recipe) {
        Fields own = Section.read(recipe, VERB, List.of()).fields(VERB);
        return Catalog.methods().get(own.string("type", "")) instanceof AdapterGenerator<?>;
    }

    /**
     * Reads a recipe.
     *
     * @param recipe a YAML file, or one of {@link Section#recipes}
     * @param settings such as {@code epochs=500}, in place of the recipe's
     * @param given what takes the place of the recipe's {@code adapters}, {@code data}, {@code for}, {@code seed}
     * @throws dev.espalier.EspalierException naming the field that is missing, unknown or wrong
     */
    public static Generation read(String recipe, List<String> settings, Map<String, Object> given) {
        Fields f = Section.read(recipe, VERB, settings);
        Fields own = f.fields(VERB);
        Map<String, Object> method = new LinkedHashMap<>(own.unread());
        AdapterGenerator<?> generator =
                Catalog.method(own.string("type"), AdapterGenerator.class, "merge.type", "icm-lora");
        AdapterGenerator.Chosen<?> chosen = AdapterGenerator.Chosen.read(generator, own);
        Map<String, Object> beside = new LinkedHashMap<>(f.unread());
        f.ignore("adapters", "data", "for", "seed");
        f.done();
        beside.remove(VERB);
        beside.putAll(given);
        Fields all = Fields.of(recipe, beside);
        List<Path> adapters =
                all.strings("adapters", List.of()).stream().map(Path::of).toList();
        List<Path> data = all.strings("data", List.of()).stream().map(Path::of).toList();
        String wanted = all.string("for", "");
        check(!wanted.isEmpty(), "no task is named to make an adapter for; give a file of its samples with --for");
        long seed = all.longInteger("seed", 0);
        all.done();
        return new Generation(chosen, adapters, data, Path.of(wanted), seed, method);
    }

    /**
     * What came of it.
     *
     * @param layers that the adapter changes
     * @param rank of the adapter
     * @param figures of the method
     */
    public record Generated(int layers, long rank, Map<String, Double> figures) {}

    /**
     * Trains the generator, makes the adapter and writes it, with the head of the task's own adapter or else of the first one.
     *
     * @param model the base, or null for the one that the first adapter names
     * @param out does not exist yet, or is empty
     */
    public Generated into(Path out, @Nullable String model, LoadOptions options) {
        Run.checkFree(out, false);
        Map<String, Path> folders = new LinkedHashMap<>();
        for (Path folder : adapters) {
            folders.put("task" + folders.size(), folder);
        }
        try (LoadedModel loaded = LoadedModel.open(folders, model, options);
                Grad off = Grad.off();
                Scope scope = Scope.open()) {
            AdaptedModel adapted = loaded.requireAdapter();
            List<Pool> pools = new ArrayList<>();
            for (int i = 0; i < adapters.size(); i++) {
                Attached adapter = adapted.adapter("task" + i);
                Tensor vector = vector(loaded, adapter.name(), data.get(i));
                pools.add(new Pool(adapters.get(i).toString(), checkpoints(adapter, adapters.get(i)), vector));
            }
            int own = Math.max(data.indexOf(wanted), 0);
            Tensor vector = data.contains(wanted) ? pools.get(own).vector() : vector(loaded, "task" + own, wanted);
            AdapterGenerator.Made made = generator.generate(pools, vector, new Seed(seed));
            return write(adapted, "task" + own, adapters.get(own), made, out);
        }
    }

    private Tensor vector(LoadedModel loaded, String adapter, Path samples) {
        AdaptedModel adapted = loaded.requireAdapter();
        if (generator.vectors() == VectorSource.BASE) {
            adapted.disable();
        } else {
            adapted.activate(adapter);
        }
        Encoder encoder = loaded.encoder();
        List<Encoding> encodings = Dataset.read(samples, DataOptions.DEFAULT).examples().stream()
                .limit(generator.samples())
                .map(encoder::encode)
                .toList();
        return TaskVector.of(loaded.pretrained().model(), encodings);
    }

    /** What the folder's trainings kept, and the adapter itself. */
    private static List<Map<String, LoraFactors>> checkpoints(Attached adapter, Path folder) {
        Map<String, LoraFactors> last = new LinkedHashMap<>();
        for (Site site : adapter.sites()) {
            LoraFactors exact = adapter.exactFactors(site.path());
            check(
                    exact != null
                            && adapter.at(site.path()) instanceof LowRank lora
                            && exact.rank() == lora.a().shape()[0],
                    "%s is not a LoRA as it was trained on %s; learn from adapters of the type lora with their own start",
                    folder,
                    site.path());
            last.put(site.path(), java.util.Objects.requireNonNull(exact));
        }
        List<Map<String, LoraFactors>> all = new ArrayList<>();
        for (Path file : files(folder)) {
            try (TensorSource source = Safetensors.open(file)) {
                Map<String, LoraFactors> at = new LinkedHashMap<>();
                last.forEach((path, f) -> at.put(
                        path, new LoraFactors(read(source, path, "A"), read(source, path, "B"), f.scale(), null)));
                all.add(at);
            }
        }
        all.add(last);
        return all;
    }

    private static Tensor read(TensorSource source, String path, String factor) {
        return source.read("parameter.base_model.model." + path + ".lora_" + factor + ".weight")
                .to(DType.FLOAT32);
    }

    private static List<Path> files(Path folder) {
        Path checkpoints = folder.resolve("checkpoints");
        if (!Files.isDirectory(checkpoints)) {
            return List.of();
        }
        try (Stream<Path> steps = Files.list(checkpoints)) {
            return steps.map(step -> step.resolve("training.safetensors"))
                    .filter(Files::isRegularFile)
                    .sorted()
                    .toList();
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }

    private Generated write(AdaptedModel adapted, String task, Path folder, AdapterGenerator.Made made, Path out) {
        Attached adapter = adapted.adapter(task);
        Receipt receipt = Receipt.find(folder);
        PeftFolder.Info info = Receipt.infoOf(receipt, adapter);
        Map<String, Tensor> kept = new LinkedHashMap<>();
        adapter.kept().forEach((key, value) -> kept.put(key, value.clone()));
        PlainLora.Parts parts = new PlainLora.Parts(
                made.factors(),
                adapter.spec().targets(),
                adapter.spec().modulesToSave(),
                kept,
                adapter.spec().ensureWeightTying());
        adapted.names().stream().toList().forEach(adapted::remove);
        PlainLora.attach(adapted, "default", parts);
        Map<String, @Nullable Object> recipe = new LinkedHashMap<>();
        recipe.put(VERB, settings);
        recipe.put("adapters", adapters.stream().map(Path::toString).toList());
        recipe.put("data", data.stream().map(Path::toString).toList());
        recipe.put("for", wanted.toString());
        recipe.put("seed", seed);
        Map<String, @Nullable Object> fields =
                receipt == null ? new LinkedHashMap<>() : new LinkedHashMap<>(receipt.fields());
        fields.put("recipe", recipe);
        PeftFolder.save(adapted, "default", out, info, PeftFolder.Form.PLAIN, fields);
        return new Generated(
                made.factors().size(),
                made.factors().values().stream()
                        .mapToLong(LoraFactors::rank)
                        .max()
                        .orElse(0),
                made.figures());
    }
}
