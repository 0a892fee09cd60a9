package dev.espalier.model;

import static dev.espalier.Check.check;

import dev.espalier.EspalierException;
import dev.espalier.hub.Hub;
import dev.espalier.hub.Located;
import dev.espalier.io.AtomicFile;
import dev.espalier.io.Gguf;
import dev.espalier.io.Json;
import dev.espalier.io.Safetensors;
import dev.espalier.io.TensorInfo;
import dev.espalier.io.TensorSource;
import dev.espalier.nn.Parameter;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Tensor;
import dev.espalier.text.ChatTemplate;
import dev.espalier.text.SpecialTokens;
import dev.espalier.text.Tokenizer;
import java.io.IOException;
import java.io.InputStream;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Collections;
import java.util.IdentityHashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import java.util.TreeMap;
import java.util.function.Supplier;
import java.util.stream.IntStream;
import java.util.stream.Stream;
import org.jspecify.annotations.Nullable;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/** Loads models and saves them. */
public final class Models {

    private static final Logger LOG = LoggerFactory.getLogger(Models.class);

    /** Files that a folder may have beside weights and config.json, and that go with the model. */
    private static final List<String> COMPANIONS = List.of(
            "tokenizer.json",
            "tokenizer_config.json",
            "special_tokens_map.json",
            "added_tokens.json",
            "chat_template.jinja",
            "chat_template.json",
            "vocab.json",
            "vocab.txt",
            "merges.txt",
            "generation_config.json");

    private Models() {}

    /** Loads with {@link LoadOptions#defaults()}. */
    public static Pretrained load(String model, Purpose purpose) {
        return load(model, purpose, LoadOptions.defaults());
    }

    /**
     * Loads a model.
     *
     * @param model the built-in {@code minilm}, a folder in Hugging Face's layout, a GGUF file, or an id of a hub
     * @param purpose which head it gets
     * @throws EspalierException if it cannot be found, is not supported, or its weights do not fit its configuration
     */
    public static Pretrained load(String model, Purpose purpose, LoadOptions options) {
        Located located = new Hub(options.hub(), options.progress()).resolve(model);
        if (located instanceof Located.Local local) {
            return load(model, local.path(), purpose, options);
        }
        return MiniLm.load(purpose, options); // the only one there is
    }

    /** Loads a folder or file of this machine with {@link LoadOptions#defaults()}. */
    public static Pretrained load(Path path, Purpose purpose) {
        return load(path, purpose, LoadOptions.defaults());
    }

    /** Loads a folder or file of this machine. */
    public static Pretrained load(Path path, Purpose purpose, LoadOptions options) {
        return load(path.toString(), path, purpose, options);
    }

    private static Pretrained load(String name, Path path, Purpose purpose, LoadOptions options) {
        check(Files.exists(path), "%s does not exist; check the path", path);
        if (Files.isDirectory(path)) {
            return folder(name, path, purpose, options);
        }
        check(
                path.getFileName().toString().endsWith(".gguf"),
                "%s is a file that holds no whole model; name a .gguf file, or the folder that holds config.json and the weights",
                path);
        return gguf(name, path, purpose, options);
    }

    private static Pretrained folder(String name, Path folder, Purpose purpose, LoadOptions options) {
        Path configFile = folder.resolve("config.json");
        check(
                Files.isRegularFile(configFile),
                "%s holds no config.json; a model folder needs one beside its weights",
                folder);
        Map<String, Object> json = Json.read(configFile);
        try (TensorSource source = Safetensors.open(folder)) {
            Path tokenizerFile = folder.resolve("tokenizer.json");
            Path generationFile = folder.resolve("generation_config.json");
            Supplier<Tokenizer> tokenizer = Files.isRegularFile(tokenizerFile) ? () -> Tokenizer.open(folder) : null;
            Map<String, Object> generation = Files.isRegularFile(generationFile) ? Json.read(generationFile) : json;
            return new Parts(
                            new Origin(name, weightFiles(folder)),
                            configFile.toString(),
                            json,
                            source,
                            tokenizer,
                            () -> ChatTemplate.find(folder),
                            GenerationConfig.read(
                                    (generation == json ? configFile : generationFile).toString(), generation),
                            companions(folder))
                    .assemble(purpose, options);
        }
    }

    private static Map<String, Content> companions(Path folder) {
        Map<String, Content> found = new LinkedHashMap<>();
        for (String name : COMPANIONS) {
            if (Files.isRegularFile(folder.resolve(name))) {
                found.put(name, Content.of(folder.resolve(name)));
            }
        }
        return found;
    }

    private static Pretrained gguf(String name, Path file, Purpose purpose, LoadOptions options) {
        Gguf gguf = Gguf.open(file);
        try (GgufLlama source = new GgufLlama(gguf)) {
            Map<String, Object> values = gguf.values();
            Map<String, Content> companions = new LinkedHashMap<>();
            boolean tokenizer = values.containsKey("tokenizer.ggml.model");
            if (tokenizer) {
                companions.put(
                        "tokenizer.json",
                        () -> Content.of(Tokenizer.jsonFromGguf(values)).open());
                Optional<String> template = Optional.ofNullable((String) values.get("tokenizer.chat_template"));
                companions.put(
                        "tokenizer_config.json",
                        Content.of(
                                tokenizerConfig(SpecialTokens.fromGguf(values), "PreTrainedTokenizerFast", template)));
            }
            companions.put("generation_config.json", Content.of(Json.pretty(Map.of("eos_token_id", source.stopIds()))));
            return new Parts(
                            new Origin(name, List.of(Content.of(file))),
                            file.toString(),
                            source.config(),
                            source,
                            tokenizer ? () -> Tokenizer.fromGguf(values) : null,
                            () -> ChatTemplate.fromGguf(values),
                            GenerationConfig.DEFAULT.withStopIds(source.stopIds()),
                            companions)
                    .assemble(purpose, options);
        } finally {
            gguf.close();
        }
    }

    /** A tokenizer_config.json for a tokenizer that came without. */
    static String tokenizerConfig(SpecialTokens special, String tokenizerClass, Optional<String> chatTemplate) {
        Map<String, Object> json = new LinkedHashMap<>(special.variables());
        json.put("tokenizer_class", tokenizerClass);
        chatTemplate.ifPresent(template -> json.put("chat_template", template));
        return Json.pretty(json);
    }

    private static List<Content> weightFiles(Path folder) {
        try (Stream<Path> files = Files.list(folder)) {
            return files.filter(f -> f.getFileName().toString().endsWith(".safetensors"))
                    .sorted()
                    .map(Content::of)
                    .toList();
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }

    /** What a model is made of, wherever it came from. */
    record Parts(
            Origin origin,
            String configWhere,
            Map<String, Object> configJson,
            TensorSource source,
            @Nullable Supplier<Tokenizer> tokenizer,
            Supplier<Optional<ChatTemplate>> chatTemplate,
            GenerationConfig generation,
            Map<String, Content> companions) {

        Pretrained assemble(Purpose purpose, LoadOptions options) {
            ModelConfig config = Family.config(configWhere, configJson);
            checkSize(config);
            DType dtype = options.precision().resolve(options.device(), source);
            boolean newHead = false;
            Model model;
            if (purpose instanceof Purpose.CausalLanguageModel) {
                model = new CausalLm(Family.backbone(config, dtype, false));
            } else if (purpose instanceof Purpose.Embedding) {
                model = new SentenceEmbedder(Family.backbone(config, dtype, false));
            } else {
                List<String> own = Labels.read(configWhere, configJson);
                List<String> wanted = purpose instanceof Purpose.Classification c
                                && !c.labels().isEmpty()
                        ? c.labels()
                        : purpose instanceof Purpose.Regression ? Labels.REGRESSION : own;
                check(
                        !wanted.isEmpty(),
                        "%s names no classes (id2label), so it was not trained to classify; say which classes there are",
                        configWhere);
                newHead = !wanted.equals(own);
                model = new SequenceClassifier(Family.backbone(config, dtype, config.family() == Family.BERT), wanted);
            }
            try {
                Set<String> drawn = Weights.load(model, source, dtype, options.device(), newHead, options.seed());
                if (!drawn.isEmpty()) {
                    LOG.info("{}: {} drawn anew, to be trained", origin.name(), String.join(", ", drawn));
                }
                Tokenizer opened = tokenizer == null ? null : tokenizer.get();
                return new Pretrained(model, opened, chatTemplate, generation, origin, configJson, drawn, companions);
            } catch (RuntimeException e) {
                model.close();
                throw e;
            }
        }

        /** Nothing is allocated for a model many times larger than its file; smaller differences are told tensor by tensor. */
        private void checkSize(ModelConfig config) {
            long held = source.tensors().values().stream()
                    .mapToLong(TensorInfo::numel)
                    .sum();
            check(
                    config.leastParameters() / 4 <= Math.max(held, 1 << 24),
                    "%s describes a model of at least %d parameters, and %s holds %d; they do not belong together",
                    configWhere,
                    config.leastParameters(),
                    source.where(),
                    held);
        }
    }

    /** Names of classes in config.json. */
    static final class Labels {

        /** What transformers calls the one output of a regression. */
        static final List<String> REGRESSION = List.of("LABEL_0");

        private Labels() {}

        /** {@code id2label} in order of ids; empty if there is none. */
        static List<String> read(String where, Map<String, Object> json) {
            if (!(json.get("id2label") instanceof Map<?, ?> labels)) {
                return List.of();
            }
            Map<Integer, String> ordered = new TreeMap<>();
            labels.forEach((id, label) -> {
                try {
                    ordered.put(Integer.valueOf(String.valueOf(id)), String.valueOf(label));
                } catch (NumberFormatException e) {
                    throw new EspalierException(
                            "%s: id2label has the key '%s'; keys are 0, 1, 2, ...".formatted(where, id), e);
                }
            });
            check(
                    ordered.keySet().stream()
                            .toList()
                            .equals(IntStream.range(0, ordered.size()).boxed().toList()),
                    "%s: id2label has the keys %s; they must be 0 to %d",
                    where,
                    ordered.keySet(),
                    ordered.size() - 1);
            return List.copyOf(ordered.values());
        }

        static void write(List<String> labels, Map<String, Object> json) {
            Map<String, Object> byId = new LinkedHashMap<>();
            Map<String, Object> byLabel = new LinkedHashMap<>();
            for (int i = 0; i < labels.size(); i++) {
                byId.put(String.valueOf(i), labels.get(i));
                byLabel.put(labels.get(i), i);
            }
            json.put("id2label", byId);
            json.put("label2id", byLabel);
        }
    }

    /**
     * Saves a model as a folder in Hugging Face's layout, atomically: config.json with all keys it was loaded with,
     * model.safetensors, and the files of the tokenizer.
     *
     * @param folder does not exist yet, or is empty
     */
    public static void save(Pretrained pretrained, Path folder) {
        AtomicFile.writeFolder(folder, target -> {
            Json.write(target.resolve("config.json"), configFor(pretrained));
            Safetensors.write(target.resolve("model.safetensors"), distinct(pretrained.model()));
            for (Map.Entry<String, Content> companion : pretrained.companions().entrySet()) {
                try (InputStream in = companion.getValue().open()) {
                    Files.copy(in, target.resolve(companion.getKey()));
                }
            }
        });
    }

    private static Map<String, Object> configFor(Pretrained pretrained) {
        Model model = pretrained.model();
        Map<String, Object> json = new LinkedHashMap<>(pretrained.configJson());
        json.put("architectures", List.of(model.architecture()));
        String dtype = model.backbone().dtype() == DType.BFLOAT16 ? "bfloat16" : "float32";
        json.put(json.containsKey("dtype") ? "dtype" : "torch_dtype", dtype);
        if (model instanceof SequenceClassifier classifier) {
            Labels.write(classifier.labels(), json);
        }
        return json;
    }

    /** Parameters by path, tied ones once, as transformers saves them. */
    private static Map<String, Tensor> distinct(Model model) {
        Set<Parameter> seen = Collections.newSetFromMap(new IdentityHashMap<>());
        Map<String, Tensor> tensors = new LinkedHashMap<>();
        model.namedParameters().forEach((path, parameter) -> {
            if (seen.add(parameter)) {
                tensors.put(path, parameter.tensor());
            }
        });
        return tensors;
    }
}
