package dev.espalier.model;

import static org.assertj.core.api.Assertions.assertThat;

import dev.espalier.io.Json;
import dev.espalier.io.Safetensors;
import dev.espalier.io.TensorSource;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Tensor;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;

/** The built-in model; expected numbers by the ONNX reference evaluator: tools/golden/make_minilm_fixture.py. */
class MiniLmTest {

    private static final Path FOLDER = Golden.root().resolveSibling("minilm");

    private static Pretrained minilm;

    @BeforeAll
    static void load() {
        minilm = Models.load("minilm", Purpose.embedding(), Fp32.OPTIONS);
    }

    @AfterAll
    static void close() {
        minilm.close();
    }

    private static List<?> sentences() {
        return (List<?>) Json.read(FOLDER.resolve("sentences.json")).get("sentences");
    }

    private static Tensor embed(String text) {
        return minilm.model().forward(Input.of(minilm.tokenizer().encode(text, true)));
    }

    @Test
    void embeddingsEqualTheOnnxReference() {
        try (TensorSource expected = Safetensors.open(FOLDER.resolve("expected.safetensors"));
                Scope scope = Scope.open();
                Grad off = Grad.off()) {
            Tensor embeddings = expected.read("embeddings");
            for (int i = 0; i < sentences().size(); i++) {
                String sentence = (String) sentences().get(i);
                assertThat(Arrays.stream(minilm.tokenizer().encode(sentence, true))
                                .asLongStream()
                                .toArray())
                        .isEqualTo(expected.read("input_ids." + i).longs());
                Golden.assertClose(embed(sentence), embeddings.narrow(0, i, 1), 1e-5);
            }
        }
    }

    @Test
    void sentencesOfOneMeaningAreCloserThanOthers() {
        try (Scope scope = Scope.open();
                Grad off = Grad.off()) {
            Tensor parcel = embed("Where is my parcel?");
            double same =
                    parcel.mul(embed("My package has not arrived yet.")).sum().item();
            double other = parcel.mul(embed("The weather in Lisbon is mild in spring."))
                    .sum()
                    .item();
            assertThat(same).isGreaterThan(0.5);
            assertThat(other).isLessThan(0.15);
        }
    }

    @Test
    void classifierGetsPoolerAndHeadDrawnFromTheSeed() {
        try (Pretrained one = Models.load("minilm", Purpose.classification("refund", "delivery"), Fp32.OPTIONS)) {
            // The artefact holds no pooler: the export kept only what embeddings need.
            assertThat(one.drawnLayers()).containsExactlyInAnyOrder("classifier", "bert.pooler.dense");
            Tensor weight = one.classifier().heads().get(0).weight();
            assertThat(weight.shape()).containsExactly(2, 384);
            try (Scope scope = Scope.open()) {
                // N(0, 0.02²) as initializer_range says: the deviation of 147,456 draws is within 1 % of it.
                double std = Math.sqrt(one.model()
                        .namedParameters()
                        .get("bert.pooler.dense.weight")
                        .tensor()
                        .square()
                        .mean()
                        .item());
                assertThat(std).isBetween(0.0198, 0.0202);
            }
        }
    }

    @Test
    void originIsTheHashOfTheWeights() {
        // sha256sum all-minilm-l6-v2.onnx
        assertThat(minilm.origin().sha256())
                .isEqualTo("759c3cd2b7fe7e93933ad23c4c9181b7396442a2ed746ec7c1d46192c469c46e");
        assertThat(minilm.origin().name()).isEqualTo("minilm");
    }
}
