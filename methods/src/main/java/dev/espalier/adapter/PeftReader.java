package dev.espalier.adapter;

import static dev.espalier.Check.check;

import dev.espalier.EspalierException;
import dev.espalier.io.Fields;
import dev.espalier.io.Json;
import dev.espalier.io.Safetensors;
import dev.espalier.io.TensorInfo;
import dev.espalier.io.TensorSource;
import dev.espalier.nn.Embedding;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collection;
import java.util.LinkedHashMap;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Set;
import org.jspecify.annotations.Nullable;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/** Reads what {@link PeftFolder} describes, strictly: nothing of a file is dropped, nothing of an adapter is left as it was. */
final class PeftReader {

    private static final Logger LOG = LoggerFactory.getLogger(PeftReader.class);

    /** What a file says about its origin and its loading, and not about what is computed. */
    private static final String[] ABOUT = {
        "peft_type",
        "task_type",
        "base_model_name_or_path",
        "revision",
        "inference_mode",
        "peft_version",
        "auto_mapping",
        "fan_in_fan_out", // the layer knows
        "runtime_config"
    };

    /** Starts that matter to training only: the network's weights are as they were. */
    private static final List<String> HARMLESS_STARTS = List.of("eva", "orthogonal");

    private PeftReader() {}

    static Attached load(AdaptedModel model, Path folder, String name, boolean trainable) {
        model.checkUnmerged("load an adapter");
        model.checkNew(name);
        Path file = folder.resolve(PeftFolder.CONFIG);
        Map<String, Object> json = new LinkedHashMap<>(Json.read(file));
        Map<String, Object> asTrained = asTrained(folder);
        AdapterSpec<?> spec = spec(file.toString(), json);
        PeftFolder.Info info = info(file.toString(), json);
        check(
                Files.isRegularFile(folder.resolve(PeftFolder.WEIGHTS)),
                "%s has no %s; where there is only adapter_model.bin, a Python pickle that is never read, save it again with safetensors",
                folder,
                PeftFolder.WEIGHTS);
        if (asTrained != null) {
            Map<String, Object> start = new LinkedHashMap<>(asTrained);
            start.put("init_lora_weights", true); // its start is in the file
            spec = spec(file.toString(), start);
        }
        Attached attached;
        try {
            attached = model.attach(name, spec, new Seed(0));
        } catch (EspalierException e) {
            throw new EspalierException(
                    "%s was made for %s and does not fit this network: %s"
                            .formatted(folder, madeFor(info), e.getMessage()),
                    e);
        }
        try (Grad off = Grad.off();
                TensorSource source = Safetensors.open(folder.resolve(PeftFolder.WEIGHTS))) {
            fill(attached, source, info, asTrained != null);
        } catch (RuntimeException e) {
            model.remove(name);
            throw e;
        }
        attached.info(info);
        if (asTrained != null) {
            attached.startedBy(spec(file.toString(), asTrained));
        }
        if (!trainable) {
            attached.freeze();
        }
        model.activate(name);
        if (attached.changeNorm() == 0) {
            LOG.warn("{} changes nothing: its weights are those of an adapter that was never trained", folder);
        }
        return attached;
    }

    private static AdapterSpec<?> spec(String where, Map<String, Object> given) {
        Map<String, Object> json = new LinkedHashMap<>(given);
        Object init = json.get("init_lora_weights");
        if (init instanceof String s && HARMLESS_STARTS.contains(s)) {
            json.put("init_lora_weights", true);
        }
        AdapterType<?> type = Catalog.adapterType(where, json);
        Fields f = Fields.of(where, json);
        AdapterSpec<?> spec = AdapterSpec.read(type, f, false);
        f.ignore(ABOUT);
        Map<String, @Nullable Object> known = PeftConfig.own(spec);
        f.unread()
                .forEach((key, value) -> check(
                        isNothing(value) || same(value, known.get(key)),
                        "%s: %s is %s, which is not known here and would change what the adapter computes; %s",
                        where,
                        key,
                        Json.text(value),
                        known.containsKey(key)
                                ? "only " + Json.text(known.get(key)) + " can be read"
                                : "a newer version may know it"));
        String initializer = PeftConfig.initializer(spec);
        check(
                initializer.isEmpty() || Catalog.initializer(initializer).isRepeatable(),
                "%s: the adapter started by %s, with random probes that nobody can repeat, so its file does not say what it computes; convert it with PEFT (path_initial_model_for_weight_conversion) where it was trained",
                where,
                initializer);
        return spec;
    }

    /** The configuration before a frozen start was written as further ranks, or null if that was not done. */
    @SuppressWarnings("unchecked") // JSON objects have texts for keys
    private static @Nullable Map<String, Object> asTrained(Path folder) {
        Path receipt = folder.resolve(PeftFolder.RECEIPT);
        if (!Files.isRegularFile(receipt)) {
            return null;
        }
        return Json.read(receipt).get(PeftFolder.AS_TRAINED) instanceof Map<?, ?> map
                ? (Map<String, Object>) map
                : null;
    }

    private static boolean isNothing(@Nullable Object value) {
        return value == null
                || Boolean.FALSE.equals(value)
                || value.equals("")
                || (value instanceof Map<?, ?> map && map.isEmpty())
                || (value instanceof Collection<?> list && list.isEmpty());
    }

    private static boolean same(@Nullable Object a, @Nullable Object b) {
        if (a instanceof Number x && b instanceof Number y) {
            return x.doubleValue() == y.doubleValue();
        }
        return Objects.equals(a, b);
    }

    private static PeftFolder.Info info(String where, Map<String, Object> json) {
        Fields f = Fields.of(where, json);
        Map<String, Object> mapping = f.map("auto_mapping", Map.of());
        return new PeftFolder.Info(
                f.orNull("base_model_name_or_path", Fields::string),
                f.orNull("task_type", Fields::string),
                f.orNull("revision", Fields::string),
                mapping.isEmpty() ? null : mapping);
    }

    private static String madeFor(PeftFolder.Info info) {
        return info.baseModel() == null ? "an unnamed base model" : info.baseModel();
    }

    /** Gives every tensor its value, or says all that is wrong. */
    private static void fill(Attached attached, TensorSource source, PeftFolder.Info info, boolean folded) {
        Map<String, Tensor> expected = attached.tensors();
        Set<String> unexpected = new LinkedHashSet<>(source.tensors().keySet());
        try (Scope scope = Scope.open()) {
            Noted noted = new Noted(source);
            Map<String, Tensor> restored = attached.restored(noted);
            if (restored != null) {
                restored.forEach((key, value) -> {
                    Tensor tensor = Objects.requireNonNull(expected.remove(key), key);
                    check(
                            Arrays.equals(value.shape(), tensor.shape()),
                            "%s: %s is %s in the file and %s here; use the base model it was trained on",
                            source.where(),
                            key,
                            Arrays.toString(value.shape()),
                            Arrays.toString(tensor.shape()));
                    tensor.detach().copy_(value);
                });
                unexpected.removeAll(noted.read);
            }
        }
        List<String> missing = new ArrayList<>();
        List<String> misshapen = new ArrayList<>();
        expected.forEach((key, tensor) -> {
            if (!unexpected.remove(key)) {
                missing.add(key);
                return;
            }
            long[] wanted = folded ? unfoldedShape(attached, key, tensor.shape()) : tensor.shape();
            long[] found = source.info(key).dims();
            if (!Arrays.equals(wanted, found)) {
                misshapen.add("%s is %s in the file and %s here"
                        .formatted(key, Arrays.toString(found), Arrays.toString(wanted)));
            }
        });
        Set<String> embeddings = embeddings(attached, source, unexpected, misshapen);
        unexpected.removeAll(embeddings);
        unexpected.removeIf(key -> isSecondBias(attached, key));
        if (!missing.isEmpty() || !unexpected.isEmpty() || !misshapen.isEmpty()) {
            throw new EspalierException(
                    "%s was made for %s and does not fit this network: %s; use the base model it was trained on"
                            .formatted(source.where(), madeFor(info), complaint(missing, unexpected, misshapen)));
        }
        expected.forEach((key, tensor) -> {
            try (Scope scope = Scope.open()) {
                Tensor value = source.read(key);
                tensor.detach().copy_(folded ? folded(attached, key, tensor, value) : value);
            }
        });
        if (folded) {
            unfoldStarts(attached, source);
        }
        for (String key : embeddings) {
            try (Scope scope = Scope.open()) {
                adoptEmbedding(attached, key, source.read(key));
            }
        }
    }

    /** Notes what is read. */
    private static final class Noted implements TensorSource {
        private final TensorSource source;
        private final Set<String> read = new LinkedHashSet<>();

        Noted(TensorSource source) {
            this.source = source;
        }

        @Override
        public Map<String, TensorInfo> tensors() {
            return source.tensors();
        }

        @Override
        public Tensor read(String name) {
            read.add(name);
            return source.read(name);
        }

        @Override
        public Map<String, String> metadata() {
            return source.metadata();
        }

        @Override
        public String where() {
            return source.where();
        }

        @Override
        public void close() {} // the source is another's
    }

    private static String complaint(List<String> missing, Set<String> unexpected, List<String> misshapen) {
        List<String> parts = new ArrayList<>();
        if (!misshapen.isEmpty()) {
            parts.add("%s%s".formatted(misshapen.get(0), more(misshapen.size() - 1)));
        }
        if (!missing.isEmpty()) {
            parts.add("it lacks %s%s".formatted(missing.get(0), more(missing.size() - 1)));
        }
        if (!unexpected.isEmpty()) {
            parts.add("nothing here takes %s%s".formatted(unexpected.iterator().next(), more(unexpected.size() - 1)));
        }
        return String.join("; ", parts);
    }

    private static String more(int n) {
        return n == 0 ? "" : " (and " + n + " more)";
    }

    /** Weights of adapted embeddings that PEFT saved along. */
    private static Set<String> embeddings(
            Attached attached, TensorSource source, Set<String> keys, List<String> misshapen) {
        Set<String> found = new LinkedHashSet<>();
        for (Site site : attached.sites()) {
            String key = Attached.PREFIX + site.path() + ".base_layer.weight";
            if (keys.contains(key)) {
                found.add(key);
                long[] own = site.layer().weightParameter().shape();
                long[] theirs = source.info(key).dims();
                if (!Arrays.equals(own, theirs)) {
                    misshapen.add("%s is %s in the file and %s here (%s)"
                            .formatted(
                                    key,
                                    Arrays.toString(theirs),
                                    Arrays.toString(own),
                                    site.layer() instanceof Embedding ? "another vocabulary" : "another head"));
                }
            }
        }
        return found;
    }

    /** The file's embedding takes the network's place while the adapter is active, if it is another. */
    private static void adoptEmbedding(Attached attached, String key, Tensor value) {
        for (Site site : attached.sites()) {
            if (key.equals(Attached.PREFIX + site.path() + ".base_layer.weight")) {
                Tensor own = site.layer().weightParameter().tensor();
                if (!own.equal(value.to(own.dtype()))) {
                    LOG.info("{} differs from the network's and replaces it while the adapter is active", key);
                    Copy copy = attached.copy(key, site.layer().weightParameter(), false);
                    copy.tensor().copy_(value);
                }
            }
        }
    }

    /** With bias all, PEFT writes the bias of a kept module two more times. */
    private static boolean isSecondBias(Attached attached, String key) {
        return attached.spec().bias() == AdapterSpec.Bias.ALL
                && (key.contains(".original_module.") || key.contains(".modules_to_save."));
    }

    // ---- a frozen start that was written as further ranks

    private static long[] unfoldedShape(Attached attached, String key, long[] shape) {
        long[] wanted = shape.clone();
        if (is(attached, key, true)) {
            wanted[0] *= 2;
        } else if (is(attached, key, false)) {
            wanted[1] *= 2;
        }
        return wanted;
    }

    private static Tensor folded(Attached attached, String key, Tensor own, Tensor value) {
        if (is(attached, key, true)) {
            return value.narrow(0, 0, own.size(0));
        }
        return is(attached, key, false) ? value.narrow(1, 0, own.size(1)) : value;
    }

    private static void unfoldStarts(Attached attached, TensorSource source) {
        for (Site site : attached.sites()) {
            try (Scope scope = Scope.open()) {
                LowRank lowRank = attached.lowRank(site.path());
                long r = lowRank.a().shape()[0];
                Tensor a = source.read(key(site, lowRank, true)).narrow(0, r, r);
                Tensor b = source.read(key(site, lowRank, false)).narrow(1, r, r);
                if (a.ne(0).any()) { // else it started as usual
                    attached.hold(site.path(), a, b.neg(), lowRank.scale());
                }
            }
        }
    }

    private static boolean is(Attached attached, String key, boolean wantA) {
        for (Site site : attached.sites()) {
            if (attached.at(site.path()) instanceof LowRank lowRank && key.equals(key(site, lowRank, wantA))) {
                return true;
            }
        }
        return false;
    }

    private static String key(Site site, LowRank lowRank, boolean wantA) {
        return lowRank.parameters().entrySet().stream()
                .filter(e -> e.getValue() == (wantA ? lowRank.a() : lowRank.b()))
                .map(e -> Attached.PREFIX + site.path() + "." + e.getKey())
                .findFirst()
                .orElseThrow();
    }
}
