package dev.espalier.model;

import static dev.espalier.Check.check;

import dev.espalier.EspalierException;
import dev.espalier.hub.Hub;
import dev.espalier.hub.Located;
import dev.espalier.io.AtomicFile;
import dev.espalier.io.Gguf;
import dev.espalier.io.Json;
import dev.espalier.io.Safetensors;
import dev.espalier.io.TensorSource;
import dev.espalier.nn.Parameter;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Tensor;
import dev.espalier.text.ChatTemplate;
import dev.espalier.text.SpecialTokens;
import dev.espalier.text.Tokenizer;
import java.io.IOException;
import java.io.InputStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Collections;
import java.util.IdentityHashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import java.util.function.Supplier;
import java.util.stream.Stream;

/** Loads models and saves them. */
public final class Models {

    /** The file that says what a model kept of a larger one it was cut out of. */
    public static final String CUT = "cut.json";

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
            "generation_config.json",
            CUT);

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
        if (purpose instanceof Purpose.Embedding) {
            checkPooling(folder.resolve("1_Pooling").resolve("config.json"));
        }
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

    /** sentence-transformers' file on how hidden states become an embedding. */
    private static void checkPooling(Path file) {
        if (Files.isRegularFile(file)) {
            List<String> modes = new ArrayList<>();
            Json.read(file).forEach((name, value) -> {
                if (name.startsWith("pooling_mode_") && Boolean.TRUE.equals(value)) {
                    modes.add(name);
                }
            });
            check(
                    modes.equals(List.of("pooling_mode_mean_tokens")),
                    "%s asks for %s; only pooling_mode_mean_tokens is supported",
                    file,
                    String.join(", ", modes));
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

    /** The files that hold the model; an adapter's or another format's copy may lie beside them. */
    private static List<Content> weightFiles(Path folder) {
        try (Stream<Path> list = Files.list(folder)) {
            List<Path> files = list.filter(f -> f.getFileName().toString().endsWith(".safetensors"))
                    .sorted()
                    .toList();
            List<Path> usual = files.stream()
                    .filter(f -> f.getFileName().toString().startsWith("model"))
                    .toList();
            return (usual.isEmpty() ? files : usual).stream().map(Content::of).toList();
        } catch (IOException e) {
            throw new EspalierException("%s cannot be listed: %s".formatted(folder, e), e);
        }
    }

    /**
     * Saves a model as a folder in Hugging Face's layout, atomically: config.json with all keys it was loaded with,
     * model.safetensors, and the files of the tokenizer.
     *
     * @param folder does not exist yet, or is empty
     */
    public static void save(Pretrained pretrained, Path folder) {
        save(pretrained, folder, Map.of());
    }

    /**
     * The same with further files, which belong to the model from now on.
     *
     * @param beside texts by file name; one that the model came with already is replaced
     */
    public static void save(Pretrained pretrained, Path folder, Map<String, String> beside) {
        Map<String, Content> companions = new LinkedHashMap<>(pretrained.companions());
        beside.forEach((name, text) -> companions.put(name, Content.of(text)));
        AtomicFile.writeFolder(folder, target -> {
            Json.write(target.resolve("config.json"), configFor(pretrained));
            Safetensors.write(target.resolve("model.safetensors"), distinct(pretrained.model()));
            for (Map.Entry<String, Content> companion : companions.entrySet()) {
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
        json.putAll(model.backbone().narrowed());
        if (model instanceof CausalLm lm) {
            boolean tied =
                    lm.lmHead().weightParameter() == lm.backbone().tokens().weightParameter();
            if (tied != lm.config().tieWordEmbeddings()) { // an adapter changed one of the two
                json.put("tie_word_embeddings", tied);
            }
        }
        if (model instanceof SequenceClassifier classifier) {
            ClassNames.write(classifier.labels(), json);
            if (classifier.labels().equals(ClassNames.REGRESSION)) {
                json.put("problem_type", "regression");
            }
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
