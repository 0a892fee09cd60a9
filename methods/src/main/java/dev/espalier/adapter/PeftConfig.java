package dev.espalier.adapter;

import dev.espalier.nn.Conv1D;
import dev.espalier.nn.Embedding;
import dev.espalier.nn.Linear;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.TreeMap;
import java.util.function.Function;
import org.jspecify.annotations.Nullable;

/** Makes {@code adapter_config.json}: the method's own keys, and those that all methods share. */
final class PeftConfig {

    /** The release whose files these are. */
    static final String PEFT_VERSION = "0.21.2";

    /** Names of embeddings whose weights PEFT saves along when a list of targets holds them. */
    private static final List<String> EMBEDDINGS = List.of("embed_tokens", "lm_head");

    private PeftConfig() {}

    /** A configuration, and the embeddings whose own weights go into the file because of it. */
    record Written(Map<String, @Nullable Object> json, List<Site> embeddingsToSave) {}

    /**
     * @param settings the method's own, as {@link Attached#written} has them
     * @param unfold whether ranks double, because a frozen start is written as further ranks */
    static Written write(
            Attached adapter, Map<String, @Nullable Object> settings, PeftFolder.@Nullable Info info, boolean unfold) {
        Map<String, @Nullable Object> own = new LinkedHashMap<>(settings);
        if (unfold) {
            unfold(own);
        }
        return complete(adapter, info, adapter.spec().type(), own);
    }

    /** The configuration of a plain LoRA with given factors. */
    static Written writeLora(Attached adapter, PeftFolder.@Nullable Info info, Map<String, LoraFactors> factors) {
        Lora.Type type = new Lora.Type();
        Written written = complete(adapter, info, type, type.write(Lora.Config.of(factors)));
        if (factors.size() < adapter.sites().size()) {
            written.json().put("target_modules", List.copyOf(factors.keySet()));
            for (String narrowing : List.of("exclude_modules", "layers_to_transform", "layers_pattern")) {
                written.json().put(narrowing, null);
            }
        }
        return written;
    }

    /** Name of the initialiser that a specification asks for, or empty. */
    static <C> String initializer(AdapterSpec<C> spec) {
        return spec.type().initializer(spec.config());
    }

    static <C> Map<String, @Nullable Object> own(AdapterSpec<C> spec) {
        return spec.type().write(spec.config());
    }

    private static Written complete(
            Attached adapter, PeftFolder.@Nullable Info info, AdapterType<?> type, Map<String, @Nullable Object> own) {
        AdapterSpec<?> spec = adapter.spec();
        Map<String, @Nullable Object> json = new TreeMap<>(own);
        json.replace("bias", spec.bias().name().toLowerCase(Locale.ROOT));
        json.replace("fan_in_fan_out", adapter.sites().stream().anyMatch(site -> site.layer() instanceof Conv1D));
        json.replace("ensure_weight_tying", spec.ensureWeightTying());
        if (type.onLayers()) {
            putTargets(adapter, type, json);
        }
        json.put("modules_to_save", orNull(kept(spec, info)));
        json.put("peft_type", type.peftType());
        json.put("peft_version", PEFT_VERSION);
        json.put("inference_mode", true);
        json.put("base_model_name_or_path", info == null ? null : info.baseModel());
        json.put("revision", info == null ? null : info.revision());
        json.put("task_type", info == null ? null : info.taskType());
        json.put("auto_mapping", info == null ? null : info.autoMapping());
        Object targets = json.get("target_modules");
        List<Site> embeddings = targets == null ? List.of() : embeddings(adapter, targets);
        json.keySet().removeAll(type.unknownToPeft());
        return new Written(json, embeddings);
    }

    private static void putTargets(Attached adapter, AdapterType<?> type, Map<String, @Nullable Object> json) {
        Targets targets = adapter.spec().targets();
        Map<String, @Nullable Object> narrowing = new LinkedHashMap<>();
        narrowing.put("exclude_modules", orNull(targets.exclude()));
        narrowing.put("layers_to_transform", orNull(targets.layersToTransform()));
        narrowing.put("layers_pattern", orNull(targets.layersPattern()));
        if (targets.isPlain() && type.unknownToPeft().stream().allMatch(key -> narrowing.get(key) == null)) {
            json.put("target_modules", targets.regex() ? targets.items().get(0) : targets.items());
            json.putAll(narrowing);
            return;
        }
        List<String> paths = adapter.sites().stream().map(Site::path).toList();
        json.put("target_modules", paths);
        narrowing.keySet().forEach(key -> json.put(key, null));
        type.targetLists()
                .forEach(key -> json.computeIfPresent(
                        key, (k, list) -> list instanceof List<?> items ? meant(items, paths) : list));
    }

    private static List<String> meant(List<?> items, List<String> paths) {
        List<String> wanted = items.stream().map(String::valueOf).toList();
        return paths.stream()
                .filter(path -> wanted.stream().anyMatch(path::endsWith))
                .toList();
    }

    /**
     * For a classifier PEFT keeps the module {@code classifier} whatever the configuration says, and wraps it twice if its
     * parts are named too.
     */
    private static List<String> kept(AdapterSpec<?> spec, PeftFolder.@Nullable Info info) {
        if (info == null || !"SEQ_CLS".equals(info.taskType())) {
            return spec.modulesToSave();
        }
        return spec.modulesToSave().stream()
                .map(item -> item.startsWith("classifier.") ? "classifier" : item)
                .distinct()
                .toList();
    }

    private static List<Site> embeddings(Attached adapter, Object targets) {
        boolean targeted = targets instanceof List<?> list
                ? EMBEDDINGS.stream().anyMatch(list::contains)
                : adapter.sites().stream().anyMatch(site -> isEmbedding(site.path()));
        if (!targeted) {
            return List.of();
        }
        return adapter.sites().stream()
                .filter(site -> isEmbedding(site.path())
                        && (site.layer() instanceof Embedding || site.layer() instanceof Linear))
                .toList();
    }

    private static boolean isEmbedding(String path) {
        return EMBEDDINGS.stream().anyMatch(e -> Targets.named(e, path));
    }

    /** Twice the ranks at the same scale: s = alpha / r, or alpha / √r. */
    private static void unfold(Map<String, @Nullable Object> json) {
        double factor = Boolean.TRUE.equals(json.get("use_rslora")) ? Math.sqrt(2) : 2;
        json.computeIfPresent("r", (key, value) -> ((Number) value).intValue() * 2);
        json.computeIfPresent("lora_alpha", (key, value) -> times(value, factor));
        json.computeIfPresent("rank_pattern", (key, value) -> each(value, v -> ((Number) v).intValue() * 2));
        json.computeIfPresent("alpha_pattern", (key, value) -> each(value, v -> times(v, factor)));
        json.put("init_lora_weights", true);
    }

    private static Object times(Object value, double factor) {
        double product = ((Number) value).doubleValue() * factor;
        return product == Math.rint(product) ? (Object) (long) product : (Object) product;
    }

    private static Map<String, Object> each(Object map, Function<Object, Object> change) {
        Map<String, Object> changed = new LinkedHashMap<>();
        ((Map<?, ?>) map).forEach((key, value) -> changed.put((String) key, change.apply(value)));
        return changed;
    }

    private static @Nullable Object orNull(List<?> list) {
        return list.isEmpty() ? null : list;
    }
}
