package dev.espalier.model;

import static dev.espalier.Check.check;

import dev.espalier.EspalierException;
import dev.espalier.io.Fields;
import dev.espalier.io.Gguf;
import dev.espalier.io.TensorInfo;
import dev.espalier.io.TensorSource;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Tensor;
import java.util.ArrayList;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Set;
import java.util.TreeSet;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * A GGUF file of llama.cpp's {@code llama} architecture (Llama, Mistral, SmolLM2 and their like) seen as a Hugging Face
 * checkpoint: its metadata as config.json, its tensors under Hugging Face's names.
 *
 * <p>llama.cpp turns neighbours (x[2i], x[2i+1]) where Hugging Face turns halves (x[i], x[i + E/2]), so its converter reorders
 * the rows of q and k within each head. Reading puts them back.
 */
final class GgufLlama implements TensorSource {

    private static final Pattern BLOCK = Pattern.compile("blk\\.(\\d+)\\.(\\w+)\\.(weight|bias)");
    private static final Map<String, String> IN_BLOCK = Map.of(
            "attn_norm", "input_layernorm",
            "attn_q", "self_attn.q_proj",
            "attn_k", "self_attn.k_proj",
            "attn_v", "self_attn.v_proj",
            "attn_output", "self_attn.o_proj",
            "ffn_norm", "post_attention_layernorm",
            "ffn_gate", "mlp.gate_proj",
            "ffn_up", "mlp.up_proj",
            "ffn_down", "mlp.down_proj");
    private static final Map<String, String> OUTSIDE = Map.of(
            "token_embd.weight", "model.embed_tokens.weight",
            "output_norm.weight", "model.norm.weight",
            "output.weight", "lm_head.weight");
    private static final String ROPE_FACTORS = "rope_freqs.weight";

    private final Gguf gguf;
    private final Map<String, Object> config;
    private final Map<String, String> stored = new LinkedHashMap<>(); // our name -> the file's
    private final Map<String, TensorInfo> tensors = new LinkedHashMap<>();
    private final int heads;
    private final int keyHeads;

    GgufLlama(Gguf gguf) {
        this.gguf = gguf;
        Fields f = Fields.of(gguf.where(), gguf.values());
        String architecture = f.string("general.architecture");
        check(
                architecture.equals("llama"),
                "%s: GGUF models of architecture '%s' are not supported, only llama; load the model's Hugging Face folder",
                gguf.where(),
                architecture);
        heads = f.integer("llama.attention.head_count");
        keyHeads = f.integer("llama.attention.head_count_kv", heads);
        gguf.tensors().forEach((name, info) -> {
            if (!name.equals(ROPE_FACTORS)) {
                String ours = name(name);
                check(stored.put(ours, name) == null, "%s holds %s twice", gguf.where(), name);
                tensors.put(ours, new TensorInfo(ours, info.dtype(), info.storedType(), info.shape(), info.bytes()));
            }
        });
        config = config(f);
    }

    /** The metadata as a config.json. */
    Map<String, Object> config() {
        return Collections.unmodifiableMap(config);
    }

    /** Tokens that end a text or a turn. */
    List<Integer> stopIds() {
        Fields f = Fields.of(gguf.where(), gguf.values());
        Set<Integer> ids = new TreeSet<>();
        for (String kind : List.of("eos", "eot")) {
            Integer id = f.orNull("tokenizer.ggml." + kind + "_token_id", Fields::integer);
            if (id != null) {
                ids.add(id);
            }
        }
        return List.copyOf(ids);
    }

    private Map<String, Object> config(Fields f) {
        Map<String, Object> json = new LinkedHashMap<>();
        json.put("architectures", List.of(Family.LLAMA.causalLmClass()));
        json.put("model_type", Family.LLAMA.modelType());
        json.put("attention_bias", tensors.containsKey("model.layers.0.self_attn.q_proj.bias"));
        token(json, "bos_token_id", f, "tokenizer.ggml.bos_token_id");
        token(json, "eos_token_id", f, "tokenizer.ggml.eos_token_id");
        token(json, "pad_token_id", f, "tokenizer.ggml.padding_token_id");
        int width = f.integer("llama.embedding_length");
        json.put("hidden_act", "silu");
        json.put("hidden_size", width);
        json.put("initializer_range", 0.02);
        json.put("intermediate_size", f.integer("llama.feed_forward_length"));
        int positions = f.integer("llama.context_length");
        json.put("max_position_embeddings", positions);
        json.put("mlp_bias", tensors.containsKey("model.layers.0.mlp.gate_proj.bias"));
        json.put("num_attention_heads", heads);
        json.put("num_hidden_layers", f.integer("llama.block_count"));
        json.put("num_key_value_heads", keyHeads);
        Integer keyLength = f.orNull("llama.attention.key_length", Fields::integer);
        Integer turned = f.orNull("llama.rope.dimension_count", Fields::integer);
        if (keyLength != null || turned != null) {
            json.put("head_dim", Objects.requireNonNull(keyLength != null ? keyLength : turned));
        }
        check(
                keyLength == null || turned == null || keyLength.equals(turned),
                "%s turns %d of %d numbers of a head by position; only models that turn whole heads are supported",
                gguf.where(),
                turned,
                keyLength);
        json.put("rms_norm_eps", decimal(f.number("llama.attention.layer_norm_rms_epsilon")));
        json.put("rope_scaling", ropeScaling(f, positions));
        json.put("rope_theta", decimal(f.number("llama.rope.freq_base", 10_000)));
        json.put("tie_word_embeddings", !tensors.containsKey("lm_head.weight"));
        json.put(
                "vocab_size",
                Math.toIntExact(info("model.embed_tokens.weight").shape().get(0)));
        return json;
    }

    private static void token(Map<String, Object> json, String key, Fields f, String name) {
        Integer id = f.orNull(name, Fields::integer);
        if (id != null) {
            json.put(key, id);
        }
    }

    private Object ropeScaling(Fields f, int positions) {
        String type = f.string("llama.rope.scaling.type", "none");
        if (gguf.tensors().containsKey(ROPE_FACTORS)) {
            return llama3Scaling();
        }
        Map<String, Object> scaling = new LinkedHashMap<>();
        switch (type) {
            case "none" -> {
                double old = f.number("llama.rope.scale_linear", 1); // the key of files before scaling had types
                scaling.put("rope_type", old == 1 ? "default" : "linear");
                scaling.put("factor", old);
            }
            case "linear" -> {
                scaling.put("rope_type", "linear");
                scaling.put("factor", decimal(f.number("llama.rope.scaling.factor")));
            }
            case "yarn" -> {
                scaling.put("rope_type", "yarn");
                scaling.put("factor", decimal(f.number("llama.rope.scaling.factor")));
                scaling.put(
                        "original_max_position_embeddings",
                        f.integer("llama.rope.scaling.original_context_length", positions));
            }
            default ->
                throw new EspalierException(
                        "%s: the RoPE scaling '%s' is not supported; supported are none, linear, yarn and llama3's factors"
                                .formatted(gguf.where(), type));
        }
        return scaling;
    }

    /**
     * Llama 3's scaling, of which a GGUF holds only the resulting divisors of the frequencies. They are matched against the
     * published settings, whose first divisors are 1 and last are the factor.
     */
    private Map<String, Object> llama3Scaling() {
        float[] divisors;
        try (Scope scope = Scope.open()) {
            divisors = gguf.read(ROPE_FACTORS).floats();
        }
        double theta = Fields.of(gguf.where(), gguf.values()).number("llama.rope.freq_base", 10_000);
        double factor = divisors[divisors.length - 1];
        Rope.Config guess = new Rope.Config(Rope.Type.LLAMA3, theta, factor, 8192, 1, 4, 32, 1, true, 1);
        Rope.Config plain = new Rope.Config(Rope.Type.DEFAULT, theta, 1, 8192, 1, 4, 32, 1, true, 1);
        float[] scaled = Rope.frequencies(guess, 2 * divisors.length);
        float[] unscaled = Rope.frequencies(plain, 2 * divisors.length);
        for (int i = 0; i < divisors.length; i++) {
            check(
                    Math.abs(unscaled[i] / scaled[i] / divisors[i] - 1) < 1e-3,
                    "%s: its RoPE factors are not those of Llama 3's scaling; load the model's Hugging Face folder",
                    gguf.where());
        }
        Map<String, Object> scaling = new LinkedHashMap<>();
        scaling.put("rope_type", "llama3");
        scaling.put("factor", factor);
        scaling.put("low_freq_factor", 1.0);
        scaling.put("high_freq_factor", 4.0);
        scaling.put("original_max_position_embeddings", 8192);
        return scaling;
    }

    /** The decimal number that somebody meant whom a float32 rounded. */
    private static double decimal(double value) {
        return Double.parseDouble(Float.toString((float) value));
    }

    private String name(String name) {
        Matcher block = BLOCK.matcher(name);
        if (block.matches() && IN_BLOCK.containsKey(block.group(2))) {
            return "model.layers.%s.%s.%s".formatted(block.group(1), IN_BLOCK.get(block.group(2)), block.group(3));
        }
        return OUTSIDE.getOrDefault(name, name); // an unknown name is reported as left over
    }

    @Override
    public String where() {
        return gguf.where();
    }

    @Override
    public Map<String, TensorInfo> tensors() {
        return Collections.unmodifiableMap(tensors);
    }

    @Override
    public Map<String, String> metadata() {
        return gguf.metadata();
    }

    @Override
    public Tensor read(String name) {
        info(name); // names the nearest if there is none
        String key = Objects.requireNonNull(stored.get(name));
        boolean q = name.contains("self_attn.q_proj.");
        if (!q && !name.contains("self_attn.k_proj.")) {
            return gguf.read(key);
        }
        try (Scope scope = Scope.open()) {
            return scope.promote(halves(gguf.read(key), q ? heads : keyHeads));
        }
    }

    /** Rows (0, 1), (2, 3), .. of each head to 0, 2, .. and then 1, 3, ..: [heads·E, ..]. */
    private static Tensor halves(Tensor rows, int heads) {
        long[] shape = rows.shape();
        List<Long> split = new ArrayList<>(List.of((long) heads, shape[0] / heads / 2, 2L));
        for (int i = 1; i < shape.length; i++) {
            split.add(shape[i]);
        }
        long[] pairs = split.stream().mapToLong(Long::longValue).toArray();
        return rows.reshape(pairs).transpose(1, 2).reshape(shape);
    }

    @Override
    public void close() {
        gguf.close();
    }
}
