package dev.espalier.merge;

import static dev.espalier.Check.check;

import dev.espalier.EspalierException;
import dev.espalier.adapter.AdaptedModel;
import dev.espalier.adapter.AdapterSpec;
import dev.espalier.adapter.Attached;
import dev.espalier.adapter.LoraFactors;
import dev.espalier.adapter.PlainLora;
import dev.espalier.adapter.Site;
import dev.espalier.adapter.Targets;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import org.jspecify.annotations.Nullable;

/**
 * Adapters on a network merged into one that takes their place.
 *
 * @param layers how many the merged adapter changes
 * @param rank the largest of them
 * @param distance of the merged changes to the weighted sum Σ w_i s_i B_i A_i, relative to it; Frobenius norms over all layers
 */
public record Merging(int layers, long rank, double distance) {

    /** For the heads of {@link #replace}: the weighted mean. */
    public static final String MEAN = "mean";

    /**
     * Puts a plain LoRA that merges adapters in their place: it is the only active one, and they are gone.
     *
     * @param name of the result; may be that of one of them
     * @param names of attached adapters, at least one
     * @param weights one for each
     * @param heads what becomes of modules that several adapters trained as they are (modules_to_save): {@link #MEAN}, the name of
     *     the adapter whose version is taken, or null if there are to be none
     * @throws EspalierException if one is not exactly a plain LoRA, trained what cannot be merged, or the method refuses them
     */
    public static Merging replace(
            AdaptedModel model,
            String name,
            List<String> names,
            List<Double> weights,
            Merger.Chosen<?> merger,
            @Nullable String heads,
            Seed seed) {
        check(!names.isEmpty(), "there are no adapters to merge; name some");
        check(
                weights.size() == names.size(),
                "%d weights were given for %d adapters; give one for each",
                weights.size(),
                names.size());
        weights.forEach(w -> check(Double.isFinite(w), "a weight is %s; weights must be finite numbers", w));
        List<Attached> adapters = names.stream().map(model::adapter).toList();
        try (Grad off = Grad.off();
                Scope scope = Scope.open()) {
            List<Merger.Source> sources = new ArrayList<>();
            for (int i = 0; i < names.size(); i++) {
                sources.add(new Merger.Source(names.get(i), weights.get(i), factors(adapters.get(i))));
            }
            Map<String, LoraFactors> merged = merger.merge(sources, seed);
            double distance = distance(sources, merged);
            PlainLora.Parts parts = new PlainLora.Parts(
                    merged, targets(adapters, merged), modulesToSave(adapters), kept(adapters, weights, heads));
            checkNotKept(parts);
            boolean tied = adapters.stream().anyMatch(a -> a.spec().ensureWeightTying());
            names.forEach(model::remove);
            PlainLora.attach(model, name, tied ? parts.tied() : parts);
            return new Merging(
                    merged.size(),
                    merged.values().stream().mapToLong(LoraFactors::rank).max().orElse(0),
                    distance);
        }
    }

    /** What an adapter changes, by layer. */
    private static Map<String, LoraFactors> factors(Attached adapter) {
        check(
                adapter.spec().bias() == AdapterSpec.Bias.NONE,
                "%s trained biases of the network (bias: %s), which merging would lose; merge adapters without",
                adapter.name(),
                adapter.spec().bias().name().toLowerCase(java.util.Locale.ROOT));
        check(
                !adapter.sites().isEmpty(),
                "%s is of the type %s and changes no layer, so there is nothing to merge; merge adapters of layers",
                adapter.name(),
                adapter.spec().type().name());
        Map<String, LoraFactors> factors = new LinkedHashMap<>();
        for (Site site : adapter.sites()) {
            LoraFactors exact = adapter.exactFactors(site.path());
            if (exact == null) {
                throw new EspalierException(
                        "%s is of the type %s, which is not exactly a plain LoRA on %s; write it as one first, by export --to lora --rank 16"
                                .formatted(adapter.name(), adapter.spec().type().name(), site.path()));
            }
            check(
                    exact.bias() == null,
                    "%s trained a bias with B on %s (lora_bias), which merging would lose; merge adapters without",
                    adapter.name(),
                    site.path());
            if (exact.rank() > 0) { // a layer that lost all its ranks is not changed
                factors.put(site.path(), exact);
            }
        }
        return factors;
    }

    private static void checkNotKept(PlainLora.Parts parts) {
        parts.factors()
                .keySet()
                .forEach(path -> check(
                        parts.kept().keySet().stream()
                                .noneMatch(key -> key.startsWith("base_model.model." + path + ".")),
                        "%s is adapted by one adapter and kept whole by another (modules_to_save), and cannot be both; merge others",
                        path));
    }

    /** Those of all adapters where they agree, else the layers by their paths. */
    private static Targets targets(List<Attached> adapters, Map<String, LoraFactors> merged) {
        Targets first = adapters.get(0).spec().targets();
        boolean same = adapters.stream()
                .allMatch(a -> a.spec().targets().equals(first) && a.sites().size() == merged.size());
        return same ? first : Targets.of(merged.keySet().toArray(String[]::new));
    }

    private static List<String> modulesToSave(List<Attached> adapters) {
        Set<String> items = new LinkedHashSet<>();
        adapters.forEach(a -> items.addAll(a.spec().modulesToSave()));
        return List.copyOf(items);
    }

    /** Modules trained as they are, by key. */
    private static Map<String, Tensor> kept(List<Attached> adapters, List<Double> weights, @Nullable String heads) {
        Map<String, Map<Integer, Tensor>> versions = new LinkedHashMap<>();
        for (int i = 0; i < adapters.size(); i++) {
            int from = i;
            adapters.get(i)
                    .kept()
                    .forEach((key, value) -> versions.computeIfAbsent(key, k -> new LinkedHashMap<>())
                            .put(from, value));
        }
        check(
                heads == null
                        || heads.equals(MEAN)
                        || adapters.stream().anyMatch(a -> a.name().equals(heads)),
                "heads is %s, which is none of the adapters; name one of %s, or mean",
                heads,
                adapters.stream().map(Attached::name).toList());
        Map<String, Tensor> kept = new LinkedHashMap<>();
        versions.forEach((key, found) -> {
            List<Integer> owners = List.copyOf(found.keySet());
            if (owners.size() == 1) {
                kept.put(key, found.values().iterator().next().clone());
                return;
            }
            check(
                    heads != null,
                    "%s and %s both bring their own version of %s (modules_to_save), which cannot be merged as a change can; say with heads whose to take, or mean",
                    adapters.get(owners.get(0)).name(),
                    adapters.get(owners.get(1)).name(),
                    key.substring(key.startsWith("base_model.model.") ? "base_model.model.".length() : 0));
            kept.put(
                    key,
                    MEAN.equals(heads)
                            ? mean(key, found, weights)
                            : chosen(key, found, adapters, java.util.Objects.requireNonNull(heads)));
        });
        return kept;
    }

    private static Tensor chosen(String key, Map<Integer, Tensor> found, List<Attached> adapters, String heads) {
        for (Map.Entry<Integer, Tensor> e : found.entrySet()) {
            if (adapters.get(e.getKey()).name().equals(heads)) {
                return e.getValue().clone();
            }
        }
        throw new EspalierException(
                "heads is %s, which has no version of %s; name an adapter that has, or mean".formatted(heads, key));
    }

    private static Tensor mean(String key, Map<Integer, Tensor> found, List<Double> weights) {
        double total = found.keySet().stream().mapToDouble(weights::get).sum();
        check(
                total > 0,
                "the weights of the adapters that bring %s add up to %s, so there is no mean of their versions; name one of them as heads",
                key,
                total);
        Tensor sum = null;
        long[] shape = found.values().iterator().next().shape();
        for (Map.Entry<Integer, Tensor> e : found.entrySet()) {
            check(
                    java.util.Arrays.equals(shape, e.getValue().shape()),
                    "the adapters' versions of %s have the shapes %s and %s and no mean; name one of them as heads",
                    key,
                    java.util.Arrays.toString(shape),
                    java.util.Arrays.toString(e.getValue().shape()));
            Tensor share = e.getValue().mul(weights.get(e.getKey()) / total);
            sum = sum == null ? share : sum.add(share);
        }
        return java.util.Objects.requireNonNull(sum);
    }

    private static double distance(List<Merger.Source> sources, Map<String, LoraFactors> merged) {
        Map<String, LoraFactors> exact = Merger.byLayer(sources, (path, parts) -> CatMerger.sum(parts));
        double all = 0;
        double rest = 0;
        for (Map.Entry<String, LoraFactors> e : exact.entrySet()) {
            try (Scope scope = Scope.open()) {
                LoraFactors sum = e.getValue();
                double norm = sum.norm();
                double gap = wide(sum)
                        .plus(wide(java.util.Objects.requireNonNull(merged.get(e.getKey())))
                                .negated())
                        .norm();
                all += norm * norm;
                rest += gap * gap;
            }
        }
        return all == 0 ? 0 : Math.sqrt(rest / all);
    }

    private static LoraFactors wide(LoraFactors f) {
        return new LoraFactors(f.a().to(DType.FLOAT64), f.b().to(DType.FLOAT64), f.scale(), null);
    }
}
