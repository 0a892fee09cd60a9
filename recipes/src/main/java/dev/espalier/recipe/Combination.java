package dev.espalier.recipe;

import static dev.espalier.Check.check;

import dev.espalier.adapter.AdaptedModel;
import dev.espalier.adapter.Catalog;
import dev.espalier.adapter.PeftFolder;
import dev.espalier.io.Fields;
import dev.espalier.merge.Merger;
import dev.espalier.merge.Merging;
import dev.espalier.model.LoadOptions;
import dev.espalier.tensor.Seed;
import java.nio.file.Path;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.stream.Stream;
import org.jspecify.annotations.Nullable;

/**
 * Several adapters of one base combined into a new one.
 *
 * <pre>{@code
 * merge:
 *   type: ties
 *   density: 0.2
 * adapters: [out/a, out/b]
 * weights: [1, 1]
 * }</pre>
 *
 * @param merger the method, with its settings
 * @param adapters folders
 * @param weights one a folder; none for 1 each
 * @param heads whose trained heads to take where several have them: a folder, {@code mean}, or null
 * @param seed of methods that draw
 * @param settings of the method, as given
 */
public record Combination(
        Merger.Chosen<?> merger,
        List<Path> adapters,
        List<Double> weights,
        @Nullable String heads,
        long seed,
        Map<String, Object> settings) {

    private static final String VERB = "merge";

    /** Copies. */
    public Combination {
        adapters = List.copyOf(adapters);
        weights = List.copyOf(weights);
        settings = Collections.unmodifiableMap(new LinkedHashMap<>(settings));
        check(!adapters.isEmpty(), "there are no adapters to merge; name their folders with --adapters");
        check(
                adapters.size() > 1,
                "%s is the only adapter to merge; name two or more with --adapters, or fold one into its base by merge --adapter",
                adapters.get(0));
        check(
                adapters.stream().distinct().count() == adapters.size(),
                "an adapter is named twice among %s; raise its weight instead",
                adapters);
        check(
                weights.isEmpty() || weights.size() == adapters.size(),
                "%d weights were given for %d adapters; give one for each",
                weights.size(),
                adapters.size());
    }

    /**
     * Reads a recipe.
     *
     * @param recipe a YAML file, or one of {@link Section#recipes}
     * @param settings such as {@code density=0.2}, in place of the recipe's
     * @param given what takes the place of the recipe's {@code adapters}, {@code weights}, {@code heads}, {@code seed}
     * @throws dev.espalier.EspalierException naming the field that is missing, unknown or wrong
     */
    public static Combination read(String recipe, List<String> settings, Map<String, Object> given) {
        Fields f = Section.read(recipe, VERB, settings);
        Fields own = f.fields(VERB);
        Map<String, Object> method = new LinkedHashMap<>(own.unread());
        Merger<?> merger = Catalog.method(own.string("type"), Merger.class, "merge.type", "svd");
        Merger.Chosen<?> chosen = Merger.Chosen.read(merger, own);
        Map<String, Object> beside = new LinkedHashMap<>(f.unread());
        f.ignore("adapters", "weights", "heads", "seed");
        f.done();
        beside.remove(VERB);
        beside.putAll(given);
        Fields all = Fields.of(recipe, beside);
        return new Combination(
                chosen,
                all.strings("adapters", List.of()).stream().map(Path::of).toList(),
                all.numbers("weights", List.of()),
                all.orNull("heads", Fields::string),
                all.longInteger("seed", 0),
                method);
    }

    /**
     * Merges and writes the result.
     *
     * @param model the base, or null for the one that the first adapter names
     * @param out does not exist yet, or is empty
     */
    public Merging into(Path out, @Nullable String model, LoadOptions options) {
        Run.checkFree(out, false);
        Map<String, Path> folders = new LinkedHashMap<>();
        adapters.forEach(folder -> folders.put(name(folder), folder));
        try (LoadedModel loaded = LoadedModel.open(folders, model, options)) {
            AdaptedModel adapted = loaded.requireAdapter();
            String chosen = heads == null || heads.equals(Merging.MEAN) ? heads : name(Path.of(heads));
            Path source = source(adapted, folders, chosen);
            Receipt receipt = Receipt.find(source);
            PeftFolder.Info info = Receipt.infoOf(receipt, adapted.adapter(name(source)));
            Merging merging = Merging.replace(
                    adapted, "default", List.copyOf(folders.keySet()), allWeights(), merger, chosen, new Seed(seed));
            PeftFolder.save(adapted, "default", out, info, PeftFolder.Form.PLAIN, fields(receipt));
            return merging;
        }
    }

    /** The adapter whose labels and texts the result has: the one whose head it takes. */
    private Path source(AdaptedModel adapted, Map<String, Path> folders, @Nullable String chosen) {
        if (chosen != null && folders.containsKey(chosen)) {
            return Objects.requireNonNull(folders.get(chosen));
        }
        LinkedHashSet<List<String>> labels = new LinkedHashSet<>();
        Path source = adapters.get(0);
        for (Map.Entry<String, Path> e : folders.entrySet()) {
            if (!adapted.adapter(e.getKey()).kept().isEmpty()) {
                Receipt receipt = Receipt.find(e.getValue());
                source = labels.isEmpty() ? e.getValue() : source;
                labels.add(receipt == null ? List.of() : receipt.labels());
            }
        }
        check(
                labels.size() <= 1,
                "the adapters' heads are for different classes, %s, and have no mean; name the adapter whose head to take with --heads",
                labels);
        return source;
    }

    private List<Double> allWeights() {
        return weights.isEmpty() ? Collections.nCopies(adapters.size(), 1.0) : weights;
    }

    /** What the folder says of base and task, and how the adapter was made. */
    private Map<String, @Nullable Object> fields(@Nullable Receipt receipt) {
        Map<String, @Nullable Object> made = new LinkedHashMap<>();
        made.put(VERB, settings);
        made.put("adapters", adapters.stream().map(Path::toString).toList());
        made.put("weights", allWeights());
        made.put("heads", heads);
        made.put("seed", seed);
        Map<String, @Nullable Object> fields =
                receipt == null ? new LinkedHashMap<>() : new LinkedHashMap<>(receipt.fields());
        fields.put("recipe", made);
        return fields;
    }

    /** A folder's own name, or its whole path where another one has that name too. */
    private String name(Path folder) {
        Path plain = folder.normalize();
        boolean alone = Stream.concat(adapters.stream().map(Path::normalize), Stream.of(plain))
                        .distinct()
                        .filter(p -> p.endsWith(plain.getFileName()))
                        .count()
                == 1;
        String text = alone ? String.valueOf(plain.getFileName()) : plain.toString();
        return text.replace('/', '-').replace('\\', '-').replace('.', '-');
    }
}
