package dev.espalier.adapter;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.espalier.EspalierException;
import dev.espalier.io.Json;
import dev.espalier.io.Safetensors;
import dev.espalier.io.TensorInfo;
import dev.espalier.io.TensorSource;
import dev.espalier.model.CausalLm;
import dev.espalier.model.LoadOptions;
import dev.espalier.model.Models;
import dev.espalier.model.Precision;
import dev.espalier.model.Pretrained;
import dev.espalier.model.Purpose;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Tensor;
import java.nio.file.Path;
import java.util.Collection;
import java.util.HashSet;
import java.util.Map;
import java.util.TreeMap;
import java.util.stream.Stream;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;
import org.junit.jupiter.params.provider.ValueSource;

/** Adapters that PEFT 0.21 wrote compute here what they compute there, within 1e-4, and are written again as PEFT writes. */
class PeftGoldenTest {

    private static final double TOLERANCE = 1e-4;

    @TempDir
    Path temporary;

    static Stream<String> cases() {
        return PeftFixtures.cases().stream();
    }

    static Stream<String> converted() {
        return cases().filter(name -> PeftFixtures.about(name).containsKey("converted"));
    }

    @ParameterizedTest
    @MethodSource("cases")
    void logitsEqualPefts(String name) {
        try (Pretrained base = PeftFixtures.base(PeftFixtures.baseOf(name));
                AdaptedModel model = PeftFixtures.adapted(base);
                TensorSource expected = expected(name);
                Scope scope = Scope.open()) {
            Tensor plain = PeftFixtures.logits(base.model(), expected);
            assertThat(PeftFixtures.gap(plain, expected.read("logits.base"))).isLessThan(TOLERANCE);

            Attached adapter = PeftFolder.load(model, PeftFixtures.adapter(name), null, false);
            Tensor logits = PeftFixtures.logits(base.model(), expected);
            assertThat(PeftFixtures.gap(logits, expected.read("logits"))).isLessThan(TOLERANCE);
            assertThat(model.trainableParameters()).isEmpty();
            if (PeftFixtures.merges(name)) {
                assertThat(adapter.changeNorm()).isPositive();
                model.merge();
                Tensor merged = PeftFixtures.logits(base.model(), expected);
                assertThat(PeftFixtures.gap(merged, expected.read("logits"))).isLessThan(TOLERANCE);
                if (expected.tensors().containsKey("logits.merged")) {
                    assertThat(PeftFixtures.gap(merged, expected.read("logits.merged")))
                            .isLessThan(TOLERANCE);
                }
                model.unmerge();
                assertThat(PeftFixtures.logits(base.model(), expected).equal(logits))
                        .isTrue();
            } else {
                assertThatThrownBy(model::merge).isInstanceOf(EspalierException.class);
            }
            model.disable();
            assertThat(PeftFixtures.logits(base.model(), expected).equal(plain)).isTrue();
        }
    }

    @ParameterizedTest
    @MethodSource("converted")
    void adaptersThatPeftConvertedGiveTheSameLogits(String name) {
        try (Pretrained base = PeftFixtures.base(PeftFixtures.baseOf(name));
                AdaptedModel model = PeftFixtures.adapted(base);
                TensorSource expected = expected(name);
                Scope scope = Scope.open()) {
            PeftFolder.load(model, PeftFixtures.folder(name, "converted"), null, false);
            Tensor logits = PeftFixtures.logits(base.model(), expected);
            assertThat(PeftFixtures.gap(logits, expected.read("logits"))).isLessThan(TOLERANCE);
        }
    }

    @ParameterizedTest
    @MethodSource("cases")
    void writtenAgainAsPeftWrote(String name) {
        try (Pretrained base = PeftFixtures.base(PeftFixtures.baseOf(name));
                AdaptedModel model = PeftFixtures.adapted(base);
                Scope scope = Scope.open()) {
            Attached adapter = PeftFolder.load(model, PeftFixtures.adapter(name), null, false);
            Path written =
                    PeftFolder.save(model, adapter.name(), temporary, null, PeftFolder.Form.AS_TRAINED, Map.of());
            assertThat(config(written)).isEqualTo(config(PeftFixtures.adapter(name)));
            try (TensorSource ours = Safetensors.open(written.resolve("adapter_model.safetensors"));
                    TensorSource theirs =
                            Safetensors.open(PeftFixtures.adapter(name).resolve("adapter_model.safetensors"))) {
                assertThat(ours.metadata()).isEqualTo(theirs.metadata());
                assertThat(shapes(ours)).isEqualTo(shapes(theirs));
                theirs.tensors().keySet().stream()
                        // PEFT trains this one beside the kept module's own; nothing reads it
                        .filter(key -> !key.endsWith("original_module.bias"))
                        .forEach(key -> assertThat(same(key, ours.read(key), theirs.read(key)))
                                .as(key)
                                .isTrue());
            }
        }
    }

    /** To the bit; weights of a softmax that come from logarithms of weights may differ in the last one. */
    private static boolean same(String key, Tensor ours, Tensor theirs) {
        return key.endsWith("_topk_weights") ? ours.allclose(theirs, 1e-6, 0) : ours.equal(theirs);
    }

    /** PiSSA and OLoRA as plain LoRA of twice the rank: the same logits on the network as it is, and training can go on. */
    @ParameterizedTest
    @MethodSource("cases")
    void plainFormGivesTheSameLogits(String name) {
        try (Pretrained base = PeftFixtures.base(PeftFixtures.baseOf(name));
                AdaptedModel model = PeftFixtures.adapted(base);
                TensorSource expected = expected(name);
                Scope scope = Scope.open()) {
            Attached adapter = PeftFolder.load(model, PeftFixtures.adapter(name), "default", true);
            Map<String, ?> trained = new TreeMap<>(model.trainableParameters());
            boolean starts = !adapter.offsets().isEmpty();
            PeftFolder.save(model, "default", temporary, null, PeftFolder.Form.PLAIN, Map.of());
            model.remove("default");

            // As Espalier reads it: A and B are those that were trained.
            PeftFolder.load(model, temporary, "again", true);
            assertThat(PeftFixtures.gap(PeftFixtures.logits(base.model(), expected), expected.read("logits")))
                    .isLessThan(TOLERANCE);
            assertThat(new TreeMap<>(model.trainableParameters()).keySet()).isEqualTo(trained.keySet());
            if (starts) {
                assertThat(model.adapter("again").offsets()).isNotEmpty();
                // As others do, who do not know our receipt.
                java.nio.file.Files.delete(temporary.resolve("espalier.json"));
                model.remove("again");
                Attached plain = PeftFolder.load(model, temporary, "plain", false);
                assertThat(plain.offsets()).isEmpty();
                assertThat(PeftFixtures.gap(PeftFixtures.logits(base.model(), expected), expected.read("logits")))
                        .isLessThan(TOLERANCE);
            }
        } catch (java.io.IOException e) {
            throw new java.io.UncheckedIOException(e);
        }
    }

    private static TensorSource expected(String name) {
        return Safetensors.open(PeftFixtures.root("peft").resolve(name).resolve("expected.safetensors"));
    }

    /** The configuration, lists as sets: PEFT writes them in arbitrary order. */
    private static Map<String, Object> config(Path folder) {
        Map<String, Object> config = PeftFolder.config(folder);
        config.replaceAll((key, value) -> value instanceof Collection<?> list ? new HashSet<>(list) : value);
        return config;
    }

    private static Map<String, String> shapes(TensorSource source) {
        Map<String, String> shapes = new TreeMap<>();
        for (TensorInfo info : source.tensors().values()) {
            shapes.put(info.name(), info.storedType() + info.shape());
        }
        return shapes;
    }

    /** Merging into one of two tied weights parts them: the model on disk says so and computes what the adapter did. */
    @ParameterizedTest
    @ValueSource(strings = {"llama-tied-lora-embedding", "llama-tied-lora-modules-to-save", "gpt2-lora-embedding"})
    void mergedModelsWithTiedWeightsSurviveReloading(String name) {
        try (Pretrained base = PeftFixtures.base(PeftFixtures.baseOf(name));
                AdaptedModel model = PeftFixtures.adapted(base);
                TensorSource expected = expected(name);
                Scope scope = Scope.open()) {
            PeftFolder.load(model, PeftFixtures.adapter(name), "default", false);
            model.merge();
            Path folder = temporary.resolve("merged");
            Models.save(base, folder);
            assertThat(Json.read(folder.resolve("config.json"))).containsEntry("tie_word_embeddings", false);
            try (Pretrained reloaded = Models.load(
                    folder, Purpose.causalLm(), LoadOptions.defaults().withPrecision(Precision.FP32))) {
                Tensor logits = PeftFixtures.logits(reloaded.model(), expected);
                assertThat(PeftFixtures.gap(logits, expected.read("logits"))).isLessThan(TOLERANCE);
            }
            model.unmerge();
            model.remove("default");
            CausalLm lm = base.causalLm();
            assertThat(lm.lmHead().weightParameter())
                    .isSameAs(lm.backbone().tokens().weightParameter());
        }
    }
}
