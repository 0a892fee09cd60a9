package dev.espalier.model;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.junit.jupiter.api.Assumptions.assumeFalse;

import dev.espalier.EspalierException;
import dev.espalier.io.Json;
import dev.espalier.io.Safetensors;
import dev.espalier.io.TensorSource;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Device;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Machine;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import java.io.IOException;
import java.nio.channels.FileChannel;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.function.Consumer;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

class LoadingTest {

    @TempDir
    Path temporary;

    /** A golden model's folder with its tensors and its config changed. */
    private Path altered(String name, Consumer<Map<String, Tensor>> tensors, Consumer<Map<String, Object>> config) {
        Path golden = Golden.root().resolve(name);
        Path folder = temporary.resolve("altered");
        Map<String, Object> json = Json.read(golden.resolve("config.json"));
        config.accept(json);
        Json.write(folder.resolve("config.json"), json);
        try (Scope scope = Scope.open();
                TensorSource source = Safetensors.open(golden)) {
            Map<String, Tensor> all = new LinkedHashMap<>();
            source.tensors().keySet().forEach(key -> all.put(key, source.read(key)));
            tensors.accept(all);
            Safetensors.write(folder.resolve("model.safetensors"), all);
        }
        return folder;
    }

    private Path altered(String name, Consumer<Map<String, Tensor>> tensors) {
        return altered(name, tensors, config -> {});
    }

    private Path configured(Consumer<Map<String, Object>> config) {
        return altered("llama", tensors -> {}, config);
    }

    private static void assertRefused(Path folder, Purpose purpose, String... messages) {
        assertThatThrownBy(() -> Models.load(folder, purpose, Fp32.OPTIONS).close())
                .isInstanceOf(EspalierException.class)
                .hasMessageContainingAll(messages);
    }

    private static void assertRefused(Path folder, String... messages) {
        assertRefused(folder, Purpose.causalLm(), messages);
    }

    private static Tensor logits(Pretrained pretrained, String name) {
        try (TensorSource expected = Golden.expected(name);
                Grad off = Grad.off()) {
            return pretrained
                    .model()
                    .forward(Input.of(expected.read("input_ids.right"), expected.read("attention_mask.right")));
        }
    }

    @Test
    void allThatDoesNotFitIsToldAtOnce() {
        Path folder = altered("llama", tensors -> {
            tensors.remove("model.norm.weight");
            tensors.remove("model.layers.1.mlp.up_proj.weight");
            tensors.put("model.layers.2.mlp.up_proj.weight", Tensor.zeros(DType.FLOAT32, 2));
            tensors.put("lm_head.weight", Tensor.zeros(DType.FLOAT32, 66, 32));
        });
        assertRefused(
                folder,
                "does not fit LlamaForCausalLM: 2 tensors are missing (model.layers.1.mlp.up_proj.weight, model.norm.weight)",
                "; 1 tensor is left over (model.layers.2.mlp.up_proj.weight)",
                "; 1 tensor is of another shape (lm_head.weight [66, 32] instead of [67, 32])",
                "; check that weights and config.json belong together");
    }

    @Test
    void longListsAreCut() {
        Path folder = altered("llama", tensors -> tensors.keySet().removeIf(key -> key.contains("layers.1.")));
        assertRefused(folder, "9 tensors are missing (", ", ...)");
    }

    @Test
    void aHeadIsNotMadeUpForALanguageModel() {
        assertRefused(
                altered("llama", tensors -> tensors.remove("lm_head.weight")), "1 tensor is missing (lm_head.weight)");
    }

    @Test
    void truncatedWeightsAreRefused() throws IOException {
        Path folder = altered("llama", tensors -> {});
        Path file = folder.resolve("model.safetensors");
        try (FileChannel channel = FileChannel.open(file, StandardOpenOption.WRITE)) {
            channel.truncate(Files.size(file) - 100);
        }
        assertRefused(folder, "model.safetensors");
    }

    @Test
    void buffersOfOlderVersionsAndOtherTasksHeadsAreNoFault() {
        Path folder = altered("llama", tensors -> {
            tensors.put("model.layers.0.self_attn.rotary_emb.inv_freq", Tensor.zeros(DType.FLOAT32, 4));
            tensors.put("score.weight", Tensor.zeros(DType.FLOAT32, 2, 32));
        });
        try (Pretrained plain = Models.load(Golden.root().resolve("llama"), Purpose.causalLm(), Fp32.OPTIONS);
                Pretrained other = Models.load(folder, Purpose.causalLm(), Fp32.OPTIONS);
                Scope scope = Scope.open()) {
            assertThat(logits(other, "llama").equal(logits(plain, "llama"))).isTrue();
        }
    }

    @Test
    void aTiedHeadMayBeSavedToo() {
        Path folder = altered(
                "llama-tied",
                tensors -> tensors.put(
                        "lm_head.weight",
                        tensors.get("model.embed_tokens.weight").clone()));
        try (Pretrained tied = Models.load(folder, Purpose.causalLm(), Fp32.OPTIONS);
                Scope scope = Scope.open()) {
            Tensor expected = logits(tied, "llama-tied");
            try (Pretrained plain =
                    Models.load(Golden.root().resolve("llama-tied"), Purpose.causalLm(), Fp32.OPTIONS)) {
                assertThat(logits(plain, "llama-tied").equal(expected)).isTrue();
            }
            assertThat(tied.causalLm().lmHead().weightParameter())
                    .isSameAs(tied.causalLm().backbone().tokens().weightParameter());
        }
    }

    @Test
    void gammaAndBetaOfOldBertFilesAreWeightAndBias() {
        Path folder = altered("bert-classification", tensors -> {
            for (String key : List.copyOf(tensors.keySet())) {
                if (key.contains("LayerNorm.")) {
                    Tensor tensor = tensors.remove(key);
                    tensors.put(key.replace("weight", "gamma").replace("bias", "beta"), tensor);
                }
            }
        });
        Purpose purpose = Purpose.classification();
        try (Pretrained plain = Models.load(Golden.root().resolve("bert-classification"), purpose, Fp32.OPTIONS);
                Pretrained old = Models.load(folder, purpose, Fp32.OPTIONS);
                Scope scope = Scope.open()) {
            assertThat(logits(old, "bert-classification").equal(logits(plain, "bert-classification")))
                    .isTrue();
        }
    }

    @Test
    void otherLabelsGetANewHeadAndTheSameOnesKeepIt() {
        Path folder = Golden.root().resolve("bert-classification");
        List<String> own;
        try (Pretrained kept = Models.load(folder, Purpose.classification(), Fp32.OPTIONS)) {
            own = kept.classifier().labels();
            assertThat(kept.drawnLayers()).isEmpty();
        }
        assertThat(own).containsExactly("refund", "delivery", "other");
        try (Pretrained kept = Models.load(folder, Purpose.classification(own), Fp32.OPTIONS)) {
            assertThat(kept.drawnLayers()).isEmpty();
        }
        try (Pretrained changed = Models.load(folder, Purpose.classification("yes", "no"), Fp32.OPTIONS)) {
            assertThat(changed.drawnLayers()).containsExactly("classifier");
            assertThat(changed.classifier().classes()).isEqualTo(2);
        }
    }

    @Test
    void aLanguageModelBecomesAClassifierWithAHeadFromTheSeed() {
        LoadOptions options = Fp32.OPTIONS.withSeed(new Seed(7));
        for (String name : List.of("llama", "gpt2", "gpt2-published-names")) {
            Path folder = Golden.root().resolve(name);
            try (Pretrained one = Models.load(folder, Purpose.classification("a", "b"), options);
                    Pretrained two = Models.load(folder, Purpose.classification("a", "b"), options);
                    Pretrained other = Models.load(folder, Purpose.classification("a", "b"), Fp32.OPTIONS);
                    Scope scope = Scope.open()) {
                assertThat(one.drawnLayers()).containsExactly("score");
                Tensor logits = logits(one, name);
                assertThat(logits.shape()).containsExactly(logits.size(0), 2);
                assertThat(logits.equal(logits(two, name))).isTrue();
                assertThat(logits.equal(logits(other, name))).isFalse();
            }
        }
    }

    @Test
    void aClassifierNeedsToKnowItsClasses() {
        assertRefused(Golden.root().resolve("llama"), Purpose.classification(), "names no classes (id2label)");
    }

    @Test
    void purposesThatAFamilyCannotServeAreRefused() {
        assertRefused(
                Golden.root().resolve("bert-embedding"),
                "models of type 'bert' read in both directions and predict no next token");
        assertRefused(
                Golden.root().resolve("llama"),
                Purpose.embedding(),
                "embeddings are made with models of type bert and roberta, not 'llama'");
    }

    @Test
    void halfPrecisionFilesAreConverted() {
        Path folder = altered("llama", tensors -> tensors.replaceAll((key, tensor) -> tensor.to(DType.BFLOAT16)));
        try (Pretrained full = Models.load(folder, Purpose.causalLm(), Fp32.OPTIONS);
                Pretrained auto = Models.load(folder, Purpose.causalLm());
                Scope scope = Scope.open()) {
            assertThat(full.model().backbone().dtype()).isEqualTo(DType.FLOAT32);
            DType expected = Machine.hasBfloat16() ? DType.BFLOAT16 : DType.FLOAT32;
            assertThat(auto.model().backbone().dtype()).isEqualTo(expected);
            // 8 bits of mantissa, two layers.
            Golden.assertClose(logits(auto, "llama").to(DType.FLOAT32), logits(full, "llama"), 0.2);
        }
    }

    @Test
    void bfloat16IsRefusedWhereTheProcessorLacksIt() {
        assumeFalse(Machine.hasBfloat16(), "this processor has bfloat16");
        assertThatThrownBy(() -> Models.load(
                        Golden.root().resolve("llama"),
                        Purpose.causalLm(),
                        LoadOptions.defaults().withPrecision(Precision.BF16)))
                .hasMessageContaining("has no bfloat16 arithmetic; use fp32 or auto");
    }

    /** Slow but right on any processor: the arithmetic is the same, emulated. */
    @ParameterizedTest
    @ValueSource(strings = {"llama", "qwen3", "gpt2"})
    void bfloat16OutputsAreNearFloat32Ones(String name) {
        Path folder = Golden.root().resolve(name);
        ModelConfig config = Family.config(name, Json.read(folder.resolve("config.json")));
        try (CausalLm coarse = new CausalLm(Family.backbone(config, DType.BFLOAT16, false));
                TensorSource source = Safetensors.open(folder);
                TensorSource expected = Golden.expected(name);
                Scope scope = Scope.open();
                Grad off = Grad.off()) {
            Weights.load(coarse, source, DType.BFLOAT16, Device.CPU, false, new Seed(0));
            Tensor mask = expected.read("attention_mask.left");
            Tensor logits = coarse.forward(Input.of(expected.read("input_ids.left"), mask));
            assertThat(logits.dtype()).isEqualTo(DType.BFLOAT16);
            Tensor real = logits.to(DType.FLOAT32).mul(mask.to(DType.FLOAT32).unsqueeze(-1));
            Golden.assertClose(
                    real, expected.read("logits.left"), 0.3); // logits reach 8; a bfloat16 there is 1/32 wide
        }
    }

    @Test
    void gradientsReachEveryParameterThroughScopesThatHaveClosed() {
        for (String name : List.of("llama", "qwen3", "gpt2", "bert-classification")) {
            Purpose purpose = name.startsWith("bert") ? Purpose.classification() : Purpose.causalLm();
            try (Pretrained pretrained = Models.load(Golden.root().resolve(name), purpose, Fp32.OPTIONS);
                    Scope scope = Scope.open()) {
                pretrained.model().namedParameters().values().forEach(p -> p.trainable(true));
                Tensor output = pretrained.model().forward(Input.of(5, 9, 33, 12));
                output.square().sum().backward();
                pretrained.model().namedParameters().forEach((path, p) -> {
                    Tensor gradient = p.tensor().grad();
                    assertThat(gradient).as(path).isNotNull();
                    assertThat(gradient.isFinite().all()).as(path).isTrue();
                });
            }
        }
    }

    @Test
    void onlyMeanPoolingMakesEmbeddings() throws IOException {
        Path folder = altered("bert-embedding", tensors -> {});
        Json.write(
                folder.resolve("1_Pooling").resolve("config.json"),
                Map.of(
                        "pooling_mode_cls_token",
                        true,
                        "pooling_mode_mean_tokens",
                        false,
                        "word_embedding_dimension",
                        32));
        assertRefused(
                folder,
                Purpose.embedding(),
                "asks for pooling_mode_cls_token; only pooling_mode_mean_tokens is supported");
    }

    @Test
    void aPathThatLeadsNowhereIsTold() {
        assertRefused(temporary.resolve("none"), "none does not exist; check the path");
        assertRefused(temporary, "holds no config.json");
    }

    @Test
    void absurdConfigurationsAreRefusedBeforeAnythingIsAllocated() {
        assertRefused(configured(c -> c.put("hidden_size", -1)), "hidden_size is -1; a model needs 1 to");
        assertRefused(configured(c -> c.put("num_hidden_layers", 1_000_000)), "num_hidden_layers is 1000000");
        assertRefused(configured(c -> c.put("vocab_size", 0)), "vocab_size is 0");
        assertRefused(configured(c -> c.put("intermediate_size", 2_000_000_000)), "intermediate_size is 2000000000");
        assertRefused(
                configured(c -> c.put("num_key_value_heads", 3)), "num_key_value_heads 3; the second must divide");
        assertRefused(
                configured(c -> c.put("intermediate_size", List.of(24))),
                "intermediate_size lists 1 blocks and num_hidden_layers is 2; they must agree");
        assertRefused(
                configured(c -> {
                    c.put("num_attention_heads", List.of(4, 2));
                    c.remove("head_dim");
                }),
                "num_attention_heads [4, 2]; the second must divide the first unless head_dim is given");
        assertRefused(configured(c -> c.put("head_dim", 7)), "head_dim is 7; rotary positions need an even one");
        assertRefused(configured(c -> c.put("rms_norm_eps", 0)), "rms_norm_eps is 0.0; it must lie in (0, 1)");
        assertRefused(
                configured(c -> {
                    c.put("hidden_size", 1 << 17);
                    c.put("intermediate_size", 1 << 20);
                    c.put("num_hidden_layers", 1000);
                }),
                "describes a model of at least 274877915725824 parameters, and",
                "they do not belong together");
        assertRefused(configured(c -> c.remove("hidden_size")), "hidden_size is missing");
        assertRefused(configured(c -> c.put("vocab_size", "many")), "vocab_size should be an integer");
    }

    @Test
    void unsupportedSettingsNameWhatIsSupported() {
        assertRefused(
                configured(c -> c.put("model_type", "mamba")),
                "models of type 'mamba' are not supported; supported are llama, mistral, qwen2, qwen3, gpt2, bert, roberta");
        assertRefused(
                configured(c -> c.put("hidden_act", "xielu")),
                "the activation 'xielu' is not supported; supported are silu");
        assertRefused(
                configured(c -> c.put("rope_parameters", Map.of("rope_type", "longrope", "rope_theta", 1e4))),
                "the RoPE type 'longrope' is not supported; supported are default, linear, llama3 and yarn");
        assertRefused(
                configured(c -> c.put("rope_parameters", Map.of("rope_type", "linear", "factor", 0.5))),
                "the RoPE factor is 0.5; it must be at least 1");
        assertRefused(
                configured(c -> c.put("rope_parameters", Map.of("rope_type", "llama3", "factor", 8))),
                "rope_parameters.low_freq_factor is missing");
    }

    @Test
    void tenThousandCyclesWouldLeaveNothingBehind() {
        Path folder = Golden.root().resolve("llama");
        for (int i = 0; i < 5; i++) {
            Models.load(folder, Purpose.causalLm(), Fp32.OPTIONS).close();
        }
        long before = Machine.liveNativeObjects();
        for (int i = 0; i < 20; i++) {
            try (Pretrained pretrained = Models.load(folder, Purpose.causalLm(), Fp32.OPTIONS);
                    Scope scope = Scope.open()) {
                logits(pretrained, "llama");
            }
        }
        assertThat(Machine.liveNativeObjects()).isLessThanOrEqualTo(before);
    }
}
