package dev.espalier.model;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import dev.espalier.EspalierException;
import dev.espalier.io.TensorSource;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import dev.espalier.text.ChatTemplate;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** The GGUF of a golden model was made by tools/golden/make_gguf_model_fixture.py. */
class GgufLlamaTest {

    private static final Path TIED = Golden.root().resolveSibling("gguf").resolve("llama-tied.gguf");

    @Test
    void outputsEqualThoseOfTheModelItWasMadeFrom() {
        try (Pretrained pretrained = Models.load(TIED, Purpose.causalLm(), Fp32.OPTIONS)) {
            assertEqualsTied(pretrained);
            assertThat(pretrained.hasTokenizer()).isFalse();
            assertThatThrownBy(pretrained::tokenizer).hasMessageContaining("has no tokenizer");
        }
    }

    @Test
    void savedAsAFolderItIsTheSameModel(@TempDir Path temporary) {
        Path folder = temporary.resolve("saved");
        try (Pretrained pretrained = Models.load(TIED, Purpose.causalLm(), Fp32.OPTIONS)) {
            Models.save(pretrained, folder);
        }
        try (Pretrained again = Models.load(folder, Purpose.causalLm(), Fp32.OPTIONS)) {
            assertEqualsTied(again);
        }
    }

    private static void assertEqualsTied(Pretrained pretrained) {
        try (TensorSource expected = Golden.expected("llama-tied");
                Scope scope = Scope.open();
                Grad off = Grad.off()) {
            Tensor mask = expected.read("attention_mask.right");
            Tensor logits = pretrained.model().forward(Input.of(expected.read("input_ids.right"), mask));
            Tensor real = mask.to(DType.FLOAT32).unsqueeze(-1);
            Golden.assertClose(logits.mul(real), expected.read("logits.right"), 1e-4);
        }
    }

    @Test
    void otherArchitecturesAreRefused() {
        Path types = Golden.root().resolveSibling("gguf").resolve("other.gguf");
        assertThatThrownBy(() -> Models.load(types, Purpose.causalLm()))
                .isInstanceOf(EspalierException.class)
                .hasMessageContaining("GGUF models of architecture 'mamba' are not supported, only llama");
    }

    @Test
    void smolLm2KnowsTheCapitalOfFrance() {
        Path file = Shared.models().resolve("SmolLM2-135M-Instruct.Q4_1.gguf");
        assumeTrue(Files.exists(file), file + " is not there; set ESPALIER_MODELS to the folder that holds it");
        try (Pretrained pretrained = Models.load(file, Purpose.causalLm(), Fp32.OPTIONS)) {
            String prompt = pretrained
                    .chatTemplate()
                    .orElseThrow()
                    .render(
                            List.of(Map.of("role", "user", "content", "What is the capital of France?")),
                            ChatTemplate.Options.DEFAULT.withGenerationPrompt(true));
            int[] ids = pretrained.tokenizer().encode(prompt, false);
            TextGenerator.Generated answer = new TextGenerator(pretrained.causalLm())
                    .generate(ids, pretrained.generation().withMaxNewTokens(20), new Seed(0));
            assertThat(pretrained.tokenizer().decode(answer.toArray(), true)).contains("Paris");
            assertThat(answer.finish()).isEqualTo(TextGenerator.Finish.STOP);
        }
    }
}
