package dev.espalier.recipe;

import static dev.espalier.Check.check;

import dev.espalier.EspalierException;
import dev.espalier.adapter.AdaptedModel;
import dev.espalier.adapter.PeftFolder;
import dev.espalier.data.Encoder;
import dev.espalier.data.Labels;
import dev.espalier.hub.Hub;
import dev.espalier.hub.Located;
import dev.espalier.io.Fields;
import dev.espalier.io.Json;
import dev.espalier.io.Safetensors;
import dev.espalier.io.TensorInfo;
import dev.espalier.io.TensorSource;
import dev.espalier.model.LoadOptions;
import dev.espalier.model.Models;
import dev.espalier.model.Pretrained;
import dev.espalier.model.Purpose;
import dev.espalier.model.SequenceClassifier;
import dev.espalier.text.ChatTemplate;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.stream.IntStream;
import org.jspecify.annotations.Nullable;

/**
 * A pretrained model, and the adapter on it if there is one: what predicts, generates and merges.
 *
 * <p>An adapter folder knows its base, so naming the folder is enough; a base that is named too must be the same one.
 */
public final class LoadedModel implements AutoCloseable {

    /** Tokens of a text at most, where neither the model's positions nor an adapter's receipt set a lower bound. */
    static final int MAX_LENGTH = 2048;

    private final Pretrained pretrained;
    private final @Nullable AdaptedModel adapted;
    private final @Nullable Receipt receipt;

    private LoadedModel(Pretrained pretrained, @Nullable AdaptedModel adapted, @Nullable Receipt receipt) {
        this.pretrained = pretrained;
        this.adapted = adapted;
        this.receipt = receipt;
    }

    /**
     * Loads a model without an adapter for what its checkpoint was made for.
     *
     * @param model a built-in, a folder, a GGUF file, or an id of a hub
     */
    public static LoadedModel open(String model, LoadOptions options) {
        return new LoadedModel(Models.load(model, purposeOf(model, options), options), null, null);
    }

    /** Loads a model without an adapter for a purpose. */
    public static LoadedModel open(String model, Purpose purpose, LoadOptions options) {
        return new LoadedModel(Models.load(model, purpose, options), null, null);
    }

    /** Loads an adapter and the base that its folder names. */
    public static LoadedModel open(Path folder) {
        return open(folder, null, LoadOptions.defaults());
    }

    /**
     * Loads an adapter and the base it was trained on.
     *
     * @param folder what {@code train} or PEFT wrote
     * @param model the base, or null for the one that the folder names
     * @throws EspalierException if the base is another one, by its weights' checksum or by names and shapes
     */
    public static LoadedModel open(Path folder, @Nullable String model, LoadOptions options) {
        return open(folder, "default", model, options);
    }

    /**
     * Loads several adapters of one base, each under a name; the first is active.
     *
     * @param folders by name, at least one
     * @param model the base, or null for the one that the first folder names
     * @throws EspalierException if they are not for the same base, by its weights' checksum or by names and shapes
     */
    public static LoadedModel open(Map<String, Path> folders, @Nullable String model, LoadOptions options) {
        check(!folders.isEmpty(), "there are no adapters to open; name their folders");
        String first = folders.keySet().iterator().next();
        Path firstFolder = java.util.Objects.requireNonNull(folders.get(first));
        folders.values().forEach(folder -> checkSameBase(firstFolder, folder, model)); // before anything large is read
        LoadedModel loaded = open(firstFolder, first, model, options);
        try {
            AdaptedModel adapted = loaded.requireAdapter();
            folders.forEach((name, folder) -> {
                if (!name.equals(first)) {
                    checkBase(firstFolder, folder, loaded.pretrained.origin().sha256());
                    PeftFolder.load(adapted, folder, name, false);
                }
            });
            adapted.activate(first);
            return loaded;
        } catch (RuntimeException e) {
            loaded.close();
            throw e;
        }
    }

    /** By what the files say. */
    private static void checkSameBase(Path first, Path folder, @Nullable String model) {
        String named = base(folder, Receipt.find(folder));
        Receipt receipt = Receipt.find(first);
        if (receipt != null) {
            checkBase(first, folder, receipt.baseSha256());
        }
        check(
                model != null || Receipt.find(folder) != null || named.equals(base(first, receipt)),
                "the adapters %s and %s name different bases, %s and %s; if they are the same, say which with --model",
                first,
                folder,
                base(first, receipt),
                named);
    }

    /** By the weights' checksum, where the adapter has kept it. */
    private static void checkBase(Path first, Path folder, String sha256) {
        Receipt receipt = Receipt.find(folder);
        check(
                receipt == null || receipt.baseSha256().equals(sha256),
                "the adapters %s and %s are for different bases: the weights of the second, %s, have the checksum %s, and"
                        + " not %s; merge adapters of one base",
                first,
                folder,
                receipt == null ? "" : receipt.base(),
                receipt == null ? "" : brief(receipt.baseSha256()),
                brief(sha256));
    }

    private static String base(Path folder, @Nullable Receipt receipt) {
        return receipt != null
                ? receipt.base()
                : Fields.of(folder.toString(), PeftFolder.config(folder)).string("base_model_name_or_path", "");
    }

    private static LoadedModel open(Path folder, String name, @Nullable String model, LoadOptions options) {
        Map<String, Object> config = PeftFolder.config(folder);
        Receipt receipt = Receipt.find(folder);
        String base = model != null ? model : base(folder, receipt);
        check(!base.isEmpty(), "the adapter %s does not name its base model; give it with --model", folder);
        Purpose purpose = receipt == null ? purposeOf(folder, config, base, options) : purposeOf(receipt);
        Pretrained pretrained = Models.load(base, purpose, options);
        try {
            if (receipt != null) {
                check(
                        receipt.baseSha256().equals(pretrained.origin().sha256()),
                        "the adapter %s was trained on %s, whose weights have the checksum %s, but %s has %s; name the base"
                                + " it was trained on",
                        folder,
                        receipt.base(),
                        brief(receipt.baseSha256()),
                        base,
                        brief(pretrained.origin().sha256()));
            }
            AdaptedModel adapted =
                    new AdaptedModel(pretrained.model(), pretrained.model().heads());
            PeftFolder.load(adapted, folder, name, false);
            return new LoadedModel(pretrained, adapted, receipt);
        } catch (RuntimeException e) {
            pretrained.close();
            throw e;
        }
    }

    private static String brief(String sha256) {
        return sha256.substring(0, Math.min(12, sha256.length()));
    }

    private static Purpose purposeOf(Receipt receipt) {
        return switch (receipt.task()) {
            case CLASSIFICATION -> Purpose.classification(receipt.labels());
            case REGRESSION -> Purpose.regression();
            case CAUSAL_LM -> Purpose.causalLm();
        };
    }

    /** What PEFT's task_type says. The head's rows give the number of classes, whose names PEFT does not keep. */
    private static Purpose purposeOf(Path folder, Map<String, Object> config, String base, LoadOptions options) {
        Object task = config.get("task_type");
        if ("SEQ_CLS".equals(task)) {
            try (TensorSource source = Safetensors.open(folder.resolve("adapter_model.safetensors"))) {
                for (TensorInfo info : source.tensors().values()) {
                    if (info.name().matches(".*\\.(classifier|score|classifier\\.out_proj)\\.weight")) {
                        int classes = Math.toIntExact(info.shape().get(0));
                        return classes == 1
                                ? Purpose.regression()
                                : Purpose.classification(IntStream.range(0, classes)
                                        .mapToObj(i -> "LABEL_" + i)
                                        .toList());
                    }
                }
            }
            return Purpose.classification();
        }
        return "CAUSAL_LM".equals(task) ? Purpose.causalLm() : purposeOf(base, options);
    }

    /** What a checkpoint was made for, by the class its configuration names. */
    private static Purpose purposeOf(String model, LoadOptions options) {
        Located located = new Hub(options.hub(), options.progress()).resolve(model);
        if (located instanceof Located.Local local) {
            Path config = local.path().resolve("config.json");
            if (!Files.isDirectory(local.path())) {
                return Purpose.causalLm(); // GGUF
            } else if (Files.isRegularFile(config)) {
                String classes = String.valueOf(Json.read(config).get("architectures"));
                if (classes.contains("ForSequenceClassification")) {
                    return Purpose.classification();
                } else if (classes.contains("LM")) {
                    return Purpose.causalLm();
                }
            }
        }
        return Purpose.embedding();
    }

    /** The model with its tokenizer. */
    public Pretrained pretrained() {
        return pretrained;
    }

    /** The host of the adapter, or null. */
    public @Nullable AdaptedModel adapted() {
        return adapted;
    }

    /** What the adapter's folder says of it, or null. */
    public @Nullable Receipt receipt() {
        return receipt;
    }

    /**
     * The host of the adapter.
     *
     * @throws EspalierException if there is no adapter
     */
    public AdaptedModel requireAdapter() {
        if (adapted == null) {
            throw new EspalierException("there is no adapter to work on; name its folder with --adapter");
        }
        return adapted;
    }

    /** Names of the classes; null where the model is no classifier. */
    public @Nullable Labels labels() {
        return pretrained.model() instanceof SequenceClassifier classifier && classifier.classes() > 1
                ? new Labels(classifier.labels())
                : null;
    }

    /** The chat template that the adapter was trained with, or the model's own. */
    public Optional<ChatTemplate> chatTemplate() {
        String own = receipt == null ? null : receipt.template();
        return own == null
                ? pretrained.chatTemplate()
                : Optional.of(ChatTemplate.of(own, pretrained.tokenizer().special()));
    }

    /** An encoder as the adapter was trained with. */
    public Encoder encoder() {
        int longest = maxLength(pretrained, receipt == null ? 0 : receipt.maxLength());
        return new Encoder(
                pretrained.tokenizer(),
                chatTemplate().orElse(null),
                labels(),
                new Encoder.Options(
                        longest, receipt != null && receipt.truncate(), Encoder.Supervise.ANSWERS, Map.of()));
    }

    /** The tokens a text may have: as asked, else what the model takes. */
    static int maxLength(Pretrained pretrained, int wanted) {
        var config = pretrained.model().config();
        int most = config.maxTokens();
        if (wanted == 0) {
            return config.positionsAreTable() ? most : Math.min(most, MAX_LENGTH);
        }
        check(
                wanted <= most,
                "a length of %,d tokens was asked for, but %s was made for %,d; lower task.maxLength",
                wanted,
                pretrained.origin().name(),
                most);
        return wanted;
    }

    /** Class labels, probabilities or numbers for texts. */
    public List<Prediction> predict(List<String> texts) {
        return new Predictor(this).predict(texts);
    }

    @Override
    public void close() {
        if (adapted != null) {
            adapted.close();
        }
        pretrained.close();
    }
}
