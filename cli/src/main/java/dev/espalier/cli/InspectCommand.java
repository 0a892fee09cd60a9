package dev.espalier.cli;

import static dev.espalier.Check.check;

import dev.espalier.EspalierException;
import dev.espalier.io.Gguf;
import dev.espalier.io.Json;
import dev.espalier.io.Onnx;
import dev.espalier.io.Safetensors;
import dev.espalier.io.TensorInfo;
import dev.espalier.io.TensorSource;
import dev.espalier.tensor.Scope;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.concurrent.Callable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Option;
import picocli.CommandLine.Parameters;

/** What a file or folder of weights holds, without loading a model. */
@Command(
        name = "inspect",
        description = "Shows what a model, an adapter, a checkpoint or a file of tensors holds.",
        footer = {
            "",
            "Example:  espalier inspect out/quickstart/adapter",
            "          espalier inspect model.gguf --tensors"
        })
final class InspectCommand implements Callable<Integer> {

    private static final List<String> ADAPTER_KEYS = List.of(
            "peft_type",
            "base_model_name_or_path",
            "task_type",
            "r",
            "lora_alpha",
            "lora_dropout",
            "use_rslora",
            "use_dora",
            "init_lora_weights",
            "bias",
            "target_modules",
            "modules_to_save",
            "peft_version");
    private static final List<String> MODEL_KEYS = List.of(
            "model_type",
            "architectures",
            "vocab_size",
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "max_position_embeddings",
            "torch_dtype",
            "dtype");
    private static final List<String> GGUF_KEYS =
            List.of("general.architecture", "general.name", "general.file_type", "tokenizer.ggml.model");

    @Mixin
    private Terminal terminal = new Terminal();

    @Parameters(paramLabel = "PATH", description = "a folder, or a .safetensors, .gguf or .onnx file")
    private Path path = Path.of("");

    @Option(names = "--tensors", description = "list every tensor")
    private boolean tensors;

    @Option(names = "--json", description = "print one JSON object")
    private boolean json;

    @Override
    public Integer call() {
        check(Files.exists(path), "%s does not exist; check the path", path);
        Map<String, Object> facts = new LinkedHashMap<>();
        facts.put("path", path.toString());
        try (TensorSource source = open(path, facts)) {
            describe(source, facts);
            List<Map<String, Object>> listed = new ArrayList<>();
            for (TensorInfo t : source.tensors().values()) {
                listed.add(Map.of("name", t.name(), "type", t.storedType(), "shape", t.shape(), "bytes", t.bytes()));
            }
            if (json) {
                facts.put("tensors", tensors ? listed : source.tensors().size());
                terminal.json(facts);
                return Main.OK;
            }
            List<List<String>> rows = new ArrayList<>();
            facts.forEach((name, value) -> rows.add(List.of(name, brief(value))));
            terminal.table(rows);
            if (tensors) {
                terminal.line("");
                terminal.table(source.tensors().values().stream()
                        .map(t -> List.of(t.name(), t.storedType(), t.shape().toString(), Terminal.bytes(t.bytes())))
                        .toList());
            }
        }
        return Main.OK;
    }

    private static TensorSource open(Path path, Map<String, Object> facts) {
        String name = path.getFileName().toString();
        if (Files.isDirectory(path)) {
            Path adapter = path.resolve("adapter_config.json");
            Path config = path.resolve("config.json");
            if (Files.isRegularFile(adapter)) {
                facts.put("kind", "adapter");
                copy(Json.read(adapter), ADAPTER_KEYS, facts);
                return Safetensors.open(path.resolve("adapter_model.safetensors"));
            }
            if (Files.isRegularFile(config)) {
                facts.put("kind", "model");
                copy(Json.read(config), MODEL_KEYS, facts);
            } else {
                facts.put("kind", "folder of tensors");
            }
            return Safetensors.open(path);
        } else if (name.endsWith(".gguf")) {
            facts.put("kind", "GGUF model");
            Gguf gguf = Gguf.open(path);
            copy(gguf.values(), GGUF_KEYS, facts);
            gguf.values().forEach((key, value) -> {
                if (key.endsWith(".context_length") || key.endsWith(".block_count") || key.endsWith("_length")) {
                    facts.put(key, value);
                }
            });
            if (gguf.values().get("tokenizer.ggml.tokens") instanceof List<?> tokens) {
                facts.put("vocabulary", tokens.size());
            }
            facts.put("chat template", gguf.values().containsKey("tokenizer.chat_template") ? "yes" : "no");
            return gguf;
        } else if (name.endsWith(".onnx")) {
            facts.put("kind", "ONNX initialisers");
            return Onnx.open(path);
        } else if (name.endsWith(".safetensors") || name.endsWith(".json")) {
            facts.put("kind", "safetensors");
            TensorSource source = Safetensors.open(path);
            facts.putAll(source.metadata());
            return source;
        }
        throw new EspalierException(
                "%s is none of the files that can be inspected: .safetensors, .safetensors.index.json, .gguf, .onnx, or a folder"
                        .formatted(path));
    }

    private static void copy(Map<String, Object> from, List<String> keys, Map<String, Object> into) {
        for (String key : keys) {
            Object value = from.get(key);
            if (value != null) {
                into.put(key, value);
            }
        }
    }

    private static void describe(TensorSource source, Map<String, Object> facts) {
        Map<String, Integer> types = new TreeMap<>();
        long elements = 0;
        long bytes = 0;
        for (TensorInfo info : source.tensors().values()) {
            types.merge(info.storedType(), 1, Integer::sum);
            elements += info.numel();
            bytes += info.bytes();
        }
        facts.put("tensors", source.tensors().size());
        facts.put("elements", elements);
        facts.put("bytes", bytes);
        facts.put("types", types);
        if ("adapter".equals(facts.get("kind"))) {
            facts.put("change", change(source));
        }
    }

    /** An adapter that trained nothing loads as well as any other and does nothing: better said than found out. */
    private static String change(TensorSource source) {
        double norm = 0;
        int outer = 0;
        for (String name : source.tensors().keySet()) {
            if (name.contains("lora_B") || name.contains("lora_embedding_A")) {
                outer++;
                try (Scope scope = Scope.open()) {
                    norm = Math.max(norm, source.read(name).norm().item());
                }
            }
        }
        return outer == 0 ? "not a LoRA" : norm == 0 ? "none: every lora_B is zero" : "yes, lora_B is not zero";
    }

    private static String brief(Object value) {
        if (value instanceof Long || value instanceof Integer) {
            return Terminal.count(((Number) value).longValue());
        }
        String text = String.valueOf(value);
        return text.length() <= 100 ? text : text.substring(0, 97) + "...";
    }
}
