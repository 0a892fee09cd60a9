package dev.espalier.bench;

import dev.espalier.io.Json;
import dev.espalier.io.Safetensors;
import dev.espalier.tensor.Generator;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Tensor;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.Map;

/** A Llama of SmolLM2-135M's shape, of any depth, with random weights: for what depends on shapes alone. */
public final class RandomModel {

    private static final int HIDDEN = 576;
    private static final int INTERMEDIATE = 1536;
    private static final int HEADS = 9;
    private static final int KEY_VALUE_HEADS = 3;
    private static final int VOCABULARY = 49152;

    private RandomModel() {}

    /** Writes a folder in Hugging Face's layout: 28 million numbers for the table, 3.5 million a layer, float32. */
    public static void write(Path folder, int layers) {
        Map<String, Object> config = new LinkedHashMap<>();
        config.put("model_type", "llama");
        config.put("hidden_size", HIDDEN);
        config.put("intermediate_size", INTERMEDIATE);
        config.put("num_hidden_layers", layers);
        config.put("num_attention_heads", HEADS);
        config.put("num_key_value_heads", KEY_VALUE_HEADS);
        config.put("vocab_size", VOCABULARY);
        config.put("max_position_embeddings", 8192);
        config.put("rms_norm_eps", 1e-5);
        config.put("rope_theta", 100000.0);
        config.put("tie_word_embeddings", true);
        Json.write(folder.resolve("config.json"), config);
        long narrow = (long) HIDDEN / HEADS * KEY_VALUE_HEADS;
        try (Scope scope = Scope.open();
                Generator generator = Generator.of(0)) {
            Map<String, Tensor> weights = new LinkedHashMap<>();
            weights.put("model.embed_tokens.weight", generator.normal(0, 0.02, VOCABULARY, HIDDEN));
            for (int i = 0; i < layers; i++) {
                String layer = "model.layers." + i + ".";
                Map<String, long[]> shapes = Map.of(
                        "self_attn.q_proj", new long[] {HIDDEN, HIDDEN},
                        "self_attn.k_proj", new long[] {narrow, HIDDEN},
                        "self_attn.v_proj", new long[] {narrow, HIDDEN},
                        "self_attn.o_proj", new long[] {HIDDEN, HIDDEN},
                        "mlp.gate_proj", new long[] {INTERMEDIATE, HIDDEN},
                        "mlp.up_proj", new long[] {INTERMEDIATE, HIDDEN},
                        "mlp.down_proj", new long[] {HIDDEN, INTERMEDIATE});
                shapes.forEach(
                        (name, shape) -> weights.put(layer + name + ".weight", generator.normal(0, 0.02, shape)));
                weights.put(layer + "input_layernorm.weight", generator.normal(1, 0.02, HIDDEN));
                weights.put(layer + "post_attention_layernorm.weight", generator.normal(1, 0.02, HIDDEN));
            }
            weights.put("model.norm.weight", generator.normal(1, 0.02, HIDDEN));
            Safetensors.write(folder.resolve("model.safetensors"), weights);
        }
    }
}
