package dev.espalier.model;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.espalier.io.Json;
import dev.espalier.io.Safetensors;
import dev.espalier.io.TensorSource;
import dev.espalier.tensor.Scope;
import java.nio.file.Path;
import java.util.Map;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

class SavingTest {

    @TempDir
    Path temporary;

    @ParameterizedTest
    @ValueSource(strings = {"llama", "llama-tied", "qwen3", "gpt2", "mistral"})
    void whatIsSavedIsWhatWasLoaded(String name) {
        Path original = Golden.root().resolve(name);
        Path saved = temporary.resolve("saved");
        try (Pretrained pretrained = Models.load(original, Purpose.causalLm(), Fp32.OPTIONS)) {
            Models.save(pretrained, saved);
            assertThatThrownBy(() -> Models.save(pretrained, saved)).hasMessageContaining("not an empty folder");
        }
        assertThat(Json.read(saved.resolve("config.json"))).isEqualTo(Json.read(original.resolve("config.json")));
        assertThat(Json.read(saved.resolve("generation_config.json")))
                .isEqualTo(Json.read(original.resolve("generation_config.json")));
        try (TensorSource before = Safetensors.open(original);
                TensorSource after = Safetensors.open(saved);
                Scope scope = Scope.open()) {
            assertThat(after.tensors().keySet()).isEqualTo(before.tensors().keySet());
            for (String key : before.tensors().keySet()) {
                assertThat(after.read(key).equal(before.read(key))).as(key).isTrue();
            }
        }
    }

    @Test
    void aNewHeadIsSavedWithItsLabels() {
        Path saved = temporary.resolve("saved");
        try (Pretrained pretrained = Models.load(
                Golden.root().resolve("gpt2-published-names"), Purpose.classification("good", "bad"), Fp32.OPTIONS)) {
            Models.save(pretrained, saved);
        }
        Map<String, Object> config = Json.read(saved.resolve("config.json"));
        assertThat(config).containsEntry("architectures", java.util.List.of("GPT2ForSequenceClassification"));
        assertThat(config).containsEntry("id2label", Map.of("0", "good", "1", "bad"));
        assertThat(config).containsEntry("label2id", Map.of("good", 0L, "bad", 1L));
        try (Pretrained again = Models.load(saved, Purpose.classification(), Fp32.OPTIONS)) {
            assertThat(again.classifier().labels()).containsExactly("good", "bad");
            assertThat(again.drawnLayers()).isEmpty();
        }
    }
}
