package dev.espalier.compress;

import dev.espalier.adapter.AdaptedModel;
import dev.espalier.adapter.Calibration;
import dev.espalier.io.Json;
import dev.espalier.io.Safetensors;
import dev.espalier.model.CausalLm;
import dev.espalier.model.Input;
import dev.espalier.model.LoadOptions;
import dev.espalier.model.Models;
import dev.espalier.model.Precision;
import dev.espalier.model.Pretrained;
import dev.espalier.model.Purpose;
import dev.espalier.nn.Parameter;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Generator;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import dev.espalier.train.AdamW;
import dev.espalier.train.Optimizer;
import dev.espalier.train.ParameterGroup;
import java.nio.file.Path;
import java.util.Collection;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * A small Llama of three blocks with grouped heads, pretrained on sequences of seven tokens where nineteen in twenty follow the
 * rule t = (a + 2 b) mod 7. A new task has a shift: t = (a + 2 b + shift) mod 7 where a is 0 or 1.
 */
final class TinyLlama implements AutoCloseable {

    static final LoadOptions FP32 = LoadOptions.defaults().withPrecision(Precision.FP32);
    private static final int WORDS = 7;
    private static final int LENGTH = 8;
    private static final int BLOCKS = 3;
    private static final int WIDTH = 32;
    private static final int INNER = 64;
    private static final int HEADS = 4;
    private static final int KEYS = 2;

    final Pretrained pretrained;

    private TinyLlama(Pretrained pretrained) {
        this.pretrained = pretrained;
    }

    static TinyLlama open(Path folder) {
        return new TinyLlama(Models.load(folder, Purpose.causalLm(), FP32));
    }

    private static final Map<String, float[]> TRAINED = new LinkedHashMap<>();

    /** Writes a pretrained one; trained once, then copied. */
    static synchronized Path trained(Path folder) {
        if (TRAINED.isEmpty()) {
            random(folder.resolveSibling("random"));
            try (TinyLlama llama = open(folder.resolveSibling("random"))) {
                llama.parameters().values().forEach(p -> p.trainable(true));
                llama.train(llama.parameters().values(), 220, 5e-3, 0, 1);
                llama.parameters()
                        .forEach((path, p) -> TRAINED.put(path, p.tensor().floats()));
            }
        }
        try (Scope scope = Scope.open()) {
            Map<String, Tensor> tensors = new LinkedHashMap<>();
            shapes().forEach((path, shape) -> tensors.put(path, Tensor.of(TRAINED.get(path), shape)));
            return write(folder, tensors);
        }
    }

    private static void random(Path folder) {
        try (Scope scope = Scope.open();
                Generator g = new Seed(5).generator()) {
            Map<String, Tensor> tensors = new LinkedHashMap<>();
            shapes().forEach((path, shape) -> tensors.put(
                    path,
                    shape.length == 1
                            ? Tensor.ones(DType.FLOAT32, shape)
                            : g.normal(0, path.contains("embed") ? 0.5 : 1 / Math.sqrt(shape[1]), shape)));
            write(folder, tensors);
        }
    }

    private static Path write(Path folder, Map<String, Tensor> tensors) {
        Map<String, Object> config = new LinkedHashMap<>();
        config.put("model_type", "llama");
        config.put("architectures", List.of("LlamaForCausalLM"));
        config.put("vocab_size", WORDS);
        config.put("hidden_size", WIDTH);
        config.put("intermediate_size", INNER);
        config.put("num_hidden_layers", BLOCKS);
        config.put("num_attention_heads", HEADS);
        config.put("num_key_value_heads", KEYS);
        config.put("max_position_embeddings", 64);
        config.put("torch_dtype", "float32");
        folder.toFile().mkdirs();
        Json.write(folder.resolve("config.json"), config);
        Safetensors.write(folder.resolve("model.safetensors"), tensors);
        return folder;
    }

    private static Map<String, long[]> shapes() {
        Map<String, long[]> shapes = new LinkedHashMap<>();
        long keys = (long) WIDTH / HEADS * KEYS;
        shapes.put("model.embed_tokens.weight", new long[] {WORDS, WIDTH});
        for (int i = 0; i < BLOCKS; i++) {
            String block = "model.layers." + i + ".";
            shapes.put(block + "self_attn.q_proj.weight", new long[] {WIDTH, WIDTH});
            shapes.put(block + "self_attn.k_proj.weight", new long[] {keys, WIDTH});
            shapes.put(block + "self_attn.v_proj.weight", new long[] {keys, WIDTH});
            shapes.put(block + "self_attn.o_proj.weight", new long[] {WIDTH, WIDTH});
            shapes.put(block + "mlp.gate_proj.weight", new long[] {INNER, WIDTH});
            shapes.put(block + "mlp.up_proj.weight", new long[] {INNER, WIDTH});
            shapes.put(block + "mlp.down_proj.weight", new long[] {WIDTH, INNER});
            shapes.put(block + "input_layernorm.weight", new long[] {WIDTH});
            shapes.put(block + "post_attention_layernorm.weight", new long[] {WIDTH});
        }
        shapes.put("model.norm.weight", new long[] {WIDTH});
        shapes.put("lm_head.weight", new long[] {WORDS, WIDTH});
        return shapes;
    }

    CausalLm lm() {
        return pretrained.causalLm();
    }

    Map<String, Parameter> parameters() {
        return lm().namedParameters();
    }

    AdaptedModel adapted() {
        return AdaptedModel.of(lm());
    }

    /** Moves parameters by AdamW on a task; the last loss on held-out data. */
    double train(Collection<Parameter> parameters, int steps, double rate, int shift, long seed) {
        Map<String, Parameter> named = new LinkedHashMap<>();
        parameters.forEach(p -> named.put("p" + named.size(), p));
        try (Optimizer optimizer =
                new AdamW.Config(0.9, 0.999, 1e-8, 0).create(List.of(new ParameterGroup("all", named, 1, 0)))) {
            for (int i = 0; i < steps; i++) {
                try (Scope scope = Scope.open()) {
                    loss(new Seed(seed).at(i), 24, shift).backward();
                    optimizer.step(rate);
                    optimizer.zeroGrad();
                }
            }
        }
        return heldOut(shift);
    }

    /** On data of a task that nothing else sees. */
    double heldOut(int shift) {
        try (Grad off = Grad.off();
                Scope scope = Scope.open()) {
            return loss(new Seed(99), 300, shift).item();
        }
    }

    /** Batches of one sequence. */
    Calibration calibration(int batches, int shift) {
        return new Calibration() {
            @Override
            public long batches() {
                return batches;
            }

            @Override
            public Tensor loss(long batch) {
                return TinyLlama.this.loss(new Seed(1000).at(batch % batches), 1, shift);
            }
        };
    }

    static Tensor ids(Seed seed, int rows, int shift) {
        try (Generator g = seed.generator()) {
            float[] luck = g.uniform(0, 1, (long) rows * LENGTH).floats();
            float[] stray = g.uniform(0, 1, (long) rows * LENGTH).floats();
            long[] ids = new long[rows * LENGTH];
            for (int i = 0; i < ids.length; i++) {
                boolean free = i % LENGTH < 2 || luck[i] > 0.95;
                long more = i > 0 && ids[i - 1] < 2 ? shift : 0;
                ids[i] = free ? (long) (stray[i] * WORDS) : (ids[i - 1] + 2 * ids[i - 2] + more) % WORDS;
            }
            return Tensor.of(ids, rows, LENGTH);
        }
    }

    private Tensor loss(Seed seed, int rows, int shift) {
        Tensor ids = ids(seed, rows, shift);
        Tensor logits = lm().forward(Input.of(ids)).narrow(1, 1, LENGTH - 2).flatten(0, 1);
        Tensor next = ids.narrow(1, 2, LENGTH - 2).flatten(0, 1);
        return logits.crossEntropy(next, null, 0, Tensor.Reduction.MEAN);
    }

    @Override
    public void close() {
        pretrained.close();
    }
}
