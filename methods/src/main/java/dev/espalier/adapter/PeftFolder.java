package dev.espalier.adapter;

import static dev.espalier.Check.check;

import dev.espalier.EspalierException;
import dev.espalier.io.AtomicFile;
import dev.espalier.io.Json;
import dev.espalier.io.Safetensors;
import dev.espalier.nn.Embedding;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Tensor;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.function.BiFunction;
import java.util.function.Function;
import java.util.stream.Collectors;
import java.util.stream.Stream;
import org.jspecify.annotations.Nullable;

/**
 * Adapters on disk, as Hugging Face PEFT 0.21 has them.
 *
 * <p>A folder holds {@code adapter_config.json} (keys sorted), {@code adapter_model.safetensors}, and beside them our {@code
 * espalier.json}, which PEFT ignores. A tensor's key is {@code base_model.model.}, the layer's path in the network, a dot, and
 * the adapter's own name for it; the adapter's name is in no key. An adapter called {@code default} is in the folder itself,
 * any other in a sub-folder of its name.
 */
public final class PeftFolder {

    static final String CONFIG = "adapter_config.json";
    static final String WEIGHTS = "adapter_model.safetensors";
    static final String RECEIPT = "espalier.json";

    /** In the receipt: the configuration with which an adapter with a frozen start was trained. */
    static final String AS_TRAINED = "as_trained";

    private PeftFolder() {}

    /**
     * What the files say about the network.
     *
     * @param baseModel name or path of the base model
     * @param taskType PEFT's {@code CAUSAL_LM}, {@code SEQ_CLS}, {@code FEATURE_EXTRACTION}, or null
     * @param revision of the base model, or null
     * @param autoMapping what PEFT writes where there is no task type, or null
     */
    public record Info(
            @Nullable String baseModel,
            @Nullable String taskType,
            @Nullable String revision,
            @Nullable Map<String, Object> autoMapping) {

        /** Base model and task. */
        public static Info of(String baseModel, @Nullable String taskType) {
            return new Info(baseModel, taskType, null, null);
        }
    }

    /** How adapters are written whose start was taken out of the weights (PiSSA, OLoRA). */
    public enum Form {
        /**
         * With the frozen start as further ranks, [A; A0] and [B, -B0]: a plain adapter of twice the rank that any reader gets
         * right. Espalier takes it apart again, so that training can go on.
         */
        PLAIN,
        /**
         * A and B alone, as PEFT writes: a reader must repeat the decomposition of the very same weights. Many do not, and
         * silently compute something else.
         */
        AS_TRAINED
    }

    /**
     * Writes an adapter, each file atomically and verified, the configuration last.
     *
     * @param folder made if missing; files of these names in it are replaced
     * @param info about the network; null for what the adapter was read with
     * @param receipt what else to keep about its making: base, data, seed, versions
     * @return the folder with the files: {@code folder}, or a sub-folder where the adapter is not called {@code default}
     * @throws EspalierException if a value is not finite, or the form cannot be had
     */
    public static Path save(
            AdaptedModel model, String name, Path folder, @Nullable Info info, Form form, Map<String, ?> receipt) {
        model.checkUnmerged("save an adapter");
        Attached adapter = model.adapter(name);
        if (form == Form.AS_TRAINED) {
            checkRepeatable(adapter);
        }
        boolean unfold = form == Form.PLAIN && !adapter.offsets().isEmpty();
        try (Grad off = Grad.off();
                Scope scope = Scope.open()) {
            Attached.Written written = adapter.written();
            PeftConfig.Written config =
                    PeftConfig.write(adapter, written.config(), info == null ? adapter.info() : info, unfold);
            Map<String, Tensor> tensors = new LinkedHashMap<>(written.tensors());
            if (unfold) {
                tensors.putAll(unfolded(adapter));
            }
            addBeside(adapter, config, tensors);
            Map<String, Object> about = new LinkedHashMap<>(receipt);
            if (unfold) {
                about.put(
                        AS_TRAINED,
                        PeftConfig.write(adapter, written.config(), info, false).json());
            }
            return write(folder, name, config.json(), tensors, about);
        }
    }

    /** What one layer of an export became. */
    public record Exported(String path, long rank, double relativeError) {}

    /**
     * Writes an adapter as a plain LoRA for the unchanged network.
     *
     * @param maxRank bound on the rank of each layer, by truncated singular value decomposition; 0 for none, which only
     *     adapters that are exactly a LoRA can do
     * @return rank and relative error ‖difference‖ / ‖change‖ (Frobenius) of each layer
     * @throws EspalierException if the adapter is no LoRA and no bound is given, or it cannot be merged
     */
    public static List<Exported> exportLora(
            AdaptedModel model, String name, Path folder, @Nullable Info info, int maxRank, Map<String, ?> receipt) {
        return exportLora(model, name, folder, info, maxRank, receipt, (path, factors) -> factors);
    }

    /**
     * The same for a network of other shapes.
     *
     * @param placed what a layer's factors become, by its path: {@link dev.espalier.compress.Cut#scatter}
     */
    public static List<Exported> exportLora(
            AdaptedModel model,
            String name,
            Path folder,
            @Nullable Info info,
            int maxRank,
            Map<String, ?> receipt,
            BiFunction<String, LoraFactors, LoraFactors> placed) {
        Attached adapter = model.adapter(name);
        check(
                adapter.made().onNetwork() == null,
                "%s stands before what the network reads and on none of its layers, so no LoRA does the same; keep it as it is",
                adapter.name());
        check(
                adapter.spec().type().onLayers(),
                "%s stands on no layer, so it is no LoRA and cannot become one; merge it instead",
                adapter.spec().type().name());
        check(
                maxRank >= 0,
                "the rank to export with must be at least 1, or 0 for the adapter's own, found %d",
                maxRank);
        try (Grad off = Grad.off();
                Scope scope = Scope.open()) {
            Map<String, LoraFactors> factors = new LinkedHashMap<>();
            List<Exported> report = new ArrayList<>();
            for (Site site : adapter.sites()) {
                Adapter onLayer = adapter.at(site.path());
                if (onLayer == null) {
                    continue;
                }
                LoraFactors exact = adapter.exactFactors(site.path(), maxRank);
                if (exact == null) {
                    Mergeable.of(onLayer, site.layer()); // a rank would not help what is no weight
                }
                if (exact != null && exact.rank() == 0) {
                    continue; // a LoRA has no rank 0: its targets leave the layer out
                }
                check(
                        exact != null || maxRank > 0,
                        "%s is not exactly a LoRA on %s; say with which rank to approximate it, such as 16",
                        adapter.spec().type().name(),
                        site.path());
                if (exact != null && (maxRank == 0 || exact.rank() <= maxRank)) {
                    factors.put(site.path(), exact);
                    report.add(new Exported(site.path(), exact.rank(), 0));
                } else {
                    LoraFactors.Approximation near = approximate(adapter, site, maxRank);
                    factors.put(site.path(), near.factors());
                    report.add(new Exported(site.path(), near.factors().rank(), near.relativeError()));
                }
            }
            check(
                    !factors.isEmpty(),
                    "no rank is left in any layer of %s, so there is nothing to export; train with less pressure on the ranks",
                    name);
            factors.replaceAll(placed);
            PeftConfig.Written config = PeftConfig.writeLora(adapter, info == null ? adapter.info() : info, factors);
            Map<String, Tensor> tensors = new LinkedHashMap<>();
            boolean anyBias = factors.values().stream().anyMatch(f -> f.bias() != null);
            for (Site site : adapter.sites()) {
                String key = Attached.PREFIX + site.path() + ".";
                boolean table = site.layer() instanceof Embedding;
                LoraFactors f = factors.get(site.path());
                if (f == null) {
                    continue;
                }
                tensors.put(key + (table ? "lora_embedding_A" : "lora_A.weight"), f.a());
                tensors.put(key + (table ? "lora_embedding_B" : "lora_B.weight"), f.b());
                if (anyBias) {
                    Tensor none = f.b().select(1, 0).zerosLike(); // as wide as placed
                    tensors.put(key + "lora_B.bias", f.bias() == null ? none : f.bias());
                }
            }
            adapter.copies().forEach((key, copy) -> tensors.put(key, copy.tensor()));
            addBeside(adapter, config, tensors);
            write(folder, name, config.json(), tensors, new LinkedHashMap<>(receipt));
            return report;
        }
    }

    private static LoraFactors.Approximation approximate(Attached adapter, Site site, int rank) {
        Base ground = new Base.Ground(site.layer());
        Base.Affine before = ground.affine();
        Base.Affine after = adapter.on(site.path(), ground).affine();
        LoraFactors.Approximation near = LoraFactors.approximate(after.weight().sub(before.weight()), rank);
        Tensor bias = after.bias();
        if (bias == null || bias == before.bias()) {
            return near;
        }
        Tensor change = before.bias() == null ? bias : bias.sub(before.bias());
        LoraFactors f = near.factors();
        return new LoraFactors.Approximation(new LoraFactors(f.a(), f.b(), f.scale(), change), near.relativeError());
    }

    /** [A; A0] and [B, -B0] by key; layers that start as usual get ranks of zeros, for all ranks double. */
    private static Map<String, Tensor> unfolded(Attached adapter) {
        Map<String, Tensor> tensors = new LinkedHashMap<>();
        for (Site site : adapter.sites()) {
            LowRank lowRank = adapter.lowRank(site.path());
            LoraFactors start = adapter.offsets().get(site.path());
            Tensor a = lowRank.a().tensor();
            Tensor b = lowRank.b().tensor();
            Tensor moreA = start == null ? a.zerosLike() : start.a();
            Tensor moreB = start == null ? b.zerosLike() : start.b().mul(-start.scale() / lowRank.scale());
            lowRank.parameters().forEach((leaf, p) -> {
                String key = Attached.PREFIX + site.path() + "." + leaf;
                if (p == lowRank.a()) {
                    tensors.put(key, Tensor.cat(List.of(a, moreA), 0));
                } else if (p == lowRank.b()) {
                    tensors.put(key, Tensor.cat(List.of(b, moreB), 1));
                }
            });
        }
        return tensors;
    }

    /** What PEFT saves beside the adapter's own: adapted embeddings, and with bias all the biases that it holds twice. */
    private static void addBeside(Attached adapter, PeftConfig.Written config, Map<String, Tensor> tensors) {
        for (Site site : config.embeddingsToSave()) {
            tensors.putIfAbsent(
                    Attached.PREFIX + site.path() + ".base_layer.weight",
                    site.layer().weightParameter().tensor());
        }
        if (adapter.spec().bias() == AdapterSpec.Bias.ALL) {
            adapter.copies().forEach((key, copy) -> {
                String path = key.substring(Attached.PREFIX.length());
                String owner = Targets.owner(adapter.spec().modulesToSave(), path);
                if (owner != null && path.contains("bias")) {
                    String rest = path.substring(owner.length());
                    tensors.put(Attached.PREFIX + owner + ".modules_to_save" + rest, copy.tensor());
                    tensors.put(Attached.PREFIX + owner + ".original_module" + rest, copy.original());
                }
            });
        }
    }

    private static void checkRepeatable(Attached adapter) {
        String initializer = PeftConfig.initializer(adapter.spec());
        check(
                adapter.offsets().isEmpty()
                        || (!initializer.isEmpty()
                                && Catalog.initializer(initializer).isRepeatable()),
                "the start of %s cannot be repeated by a reader, so A and B alone would be lost; save it in plain form",
                adapter.name());
    }

    private static Path write(
            Path folder,
            String name,
            Map<String, @Nullable Object> config,
            Map<String, Tensor> tensors,
            Map<String, Object> receipt) {
        tensors.forEach((key, t) -> check(
                t.isFinite().all(),
                "%s holds values that are not finite, so the adapter is not saved; training has diverged: lower the learning rate",
                key));
        Path target = name.equals("default") ? folder : folder.resolve(name);
        Safetensors.write(target.resolve(WEIGHTS), tensors);
        Map<String, Object> about = new LinkedHashMap<>();
        about.put("format", 1);
        about.putAll(receipt);
        Json.write(target.resolve(RECEIPT), about);
        AtomicFile.write(target.resolve(CONFIG), Json.pretty(config));
        return target;
    }

    /**
     * Reads an adapter, attaches it, and makes it the only active one. Every tensor of the file must have its place and every
     * place its tensor.
     *
     * @param folder with the files, or with one sub-folder that has them
     * @param name what to call it; null for the name that the folder's layout says
     * @param trainable whether it may be trained further
     * @throws EspalierException if it does not fit the network, or asks for something that is not known here
     */
    public static Attached load(AdaptedModel model, Path folder, @Nullable String name, boolean trainable) {
        Path at = locate(folder);
        String called = name != null ? name : at.equals(folder) ? "default" : String.valueOf(at.getFileName());
        return PeftReader.load(model, at, called, trainable);
    }

    /**
     * What a folder says about the adapter in it: {@code adapter_config.json} as it is.
     *
     * @throws EspalierException if there is none
     */
    public static Map<String, Object> config(Path folder) {
        return Json.read(locate(folder).resolve(CONFIG));
    }

    /** What Espalier kept about the adapter's making; empty if another program wrote it. */
    public static Map<String, Object> receipt(Path folder) {
        Path file = locate(folder).resolve(RECEIPT);
        return Files.exists(file) ? Json.read(file) : Map.of();
    }

    /** Whether a folder holds an adapter. */
    public static boolean isAdapter(Path folder) {
        return Files.isRegularFile(folder.resolve(CONFIG))
                || !subfolders(folder).isEmpty();
    }

    private static Path locate(Path folder) {
        if (Files.isRegularFile(folder.resolve(CONFIG))) {
            return folder;
        }
        List<Path> found = subfolders(folder);
        check(
                found.size() <= 1,
                "%s holds %d adapters (%s); name the folder of one",
                folder,
                found.size(),
                found.stream().map(p -> String.valueOf(p.getFileName())).collect(Collectors.joining(", ")));
        check(!found.isEmpty(), "%s holds no adapter: there is no %s; check the path", folder, CONFIG);
        return found.get(0);
    }

    private static List<Path> subfolders(Path folder) {
        if (!Files.isDirectory(folder)) {
            return List.of();
        }
        try (Stream<Path> list = Files.list(folder)) {
            return list.filter(p -> Files.isRegularFile(p.resolve(CONFIG)))
                    .sorted()
                    .map(Function.identity())
                    .toList();
        } catch (IOException e) {
            throw new EspalierException("%s cannot be read: %s".formatted(folder, e.getMessage()), e);
        }
    }
}
