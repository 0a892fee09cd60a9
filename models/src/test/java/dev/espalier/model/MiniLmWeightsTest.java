package dev.espalier.model;

import static org.assertj.core.api.Assertions.assertThat;

import dev.espalier.io.Onnx;
import dev.espalier.io.TensorSource;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Tensor;
import java.io.IOException;
import java.io.InputStream;
import java.util.ArrayList;
import java.util.List;
import org.junit.jupiter.api.Test;

/** The weights of all-MiniLM-L6-v2 in the Maven jar come out under the names of transformers' {@code BertModel}. */
class MiniLmWeightsTest {

    @Test
    void onnxInitialisersBecomeAllOfBertsParameters() throws IOException {
        List<String> expected = new ArrayList<>(List.of(
                "embeddings.position_ids",
                "embeddings.word_embeddings.weight",
                "embeddings.position_embeddings.weight",
                "embeddings.token_type_embeddings.weight",
                "embeddings.LayerNorm.weight",
                "embeddings.LayerNorm.bias"));
        for (int layer = 0; layer < 6; layer++) {
            for (String module : List.of(
                    "attention.self.query",
                    "attention.self.key",
                    "attention.self.value",
                    "attention.output.dense",
                    "attention.output.LayerNorm",
                    "intermediate.dense",
                    "output.dense",
                    "output.LayerNorm")) {
                expected.add("encoder.layer." + layer + "." + module + ".weight");
                expected.add("encoder.layer." + layer + "." + module + ".bias");
            }
        }
        byte[] model;
        try (InputStream in = MiniLmWeightsTest.class.getResourceAsStream("/all-minilm-l6-v2.onnx")) {
            model = in.readAllBytes();
        }
        try (Scope scope = Scope.open();
                TensorSource weights = Onnx.open("all-minilm-l6-v2.onnx", model).parameters()) {
            assertThat(weights.tensors().keySet()).containsExactlyInAnyOrderElementsOf(expected);
            assertThat(weights.info("encoder.layer.5.intermediate.dense.weight").shape())
                    .containsExactly(1536L, 384L);
            // The corners as numpy gives them: onnx::MatMul_787 transposed.
            Tensor query = weights.read("encoder.layer.0.attention.self.query.weight");
            assertThat(query.select(0, 0).slice(0, 0, 3).floats())
                    .containsExactly(-0.1486196219921112f, 0.043580375611782074f, 0.08559577912092209f);
            assertThat(query.select(0, 383).slice(0, 381, 384).floats())
                    .containsExactly(-0.0727454423904419f, 0.04102743789553642f, -0.08523893356323242f);
        }
    }
}
