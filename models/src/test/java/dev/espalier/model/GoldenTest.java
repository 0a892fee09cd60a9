package dev.espalier.model;

import static org.assertj.core.api.Assertions.assertThat;

import dev.espalier.io.TensorSource;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.stream.Stream;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

/** Outputs equal transformers' within 1e-4 for every family, RoPE scaling, form of configuration and side of padding. */
class GoldenTest {

    private static final double TOLERANCE = 1e-4;

    @TempDir
    Path temporary;

    static Stream<String> all() {
        return Golden.cases().keySet().stream();
    }

    static Stream<String> languageModels() {
        return all().filter(name -> purpose(name) instanceof Purpose.CausalLanguageModel);
    }

    private static Purpose purpose(String name) {
        String architecture = Golden.architecture(name);
        if (architecture.endsWith("ForSequenceClassification")) {
            return Purpose.classification();
        }
        return architecture.endsWith("Model") && !architecture.equals("GPT2LMHeadModel")
                ? Purpose.embedding()
                : Purpose.causalLm();
    }

    private Pretrained load(String name) {
        return Models.load(Golden.folder(name, temporary), purpose(name), Fp32.OPTIONS);
    }

    @ParameterizedTest
    @MethodSource("all")
    void outputsEqualTransformers(String name) {
        try (Pretrained pretrained = load(name);
                TensorSource expected = Golden.expected(name);
                Scope scope = Scope.open();
                Grad off = Grad.off()) {
            assertThat(pretrained.model().architecture()).isEqualTo(Golden.architecture(name));
            assertThat(pretrained.drawnLayers()).isEmpty();
            for (String side : List.of("right", "left")) {
                Input in = Input.of(expected.read("input_ids." + side), expected.read("attention_mask." + side));
                if (expected.tensors().containsKey("token_type_ids." + side)) {
                    in = in.withTokenTypeIds(expected.read("token_type_ids." + side));
                }
                Tensor output = pretrained.model().forward(in);
                Tensor mask = expected.read("attention_mask." + side)
                        .to(DType.FLOAT32)
                        .unsqueeze(-1);
                if (pretrained.model() instanceof CausalLm) {
                    Golden.assertClose(output.mul(mask), expected.read("logits." + side), TOLERANCE);
                } else if (pretrained.model() instanceof SentenceEmbedder embedder) {
                    Golden.assertClose(output, expected.read("embedding." + side), TOLERANCE);
                    Tensor hidden = embedder.backbone().forward(in);
                    Golden.assertClose(hidden.mul(mask), expected.read("last_hidden_state." + side), TOLERANCE);
                } else {
                    Golden.assertClose(output, expected.read("logits." + side), TOLERANCE);
                }
            }
        }
    }

    /** Alone without padding, and in one batch padded on the left: both with the cache, 20 tokens each. */
    @ParameterizedTest
    @MethodSource("languageModels")
    void greedyTokensEqualTransformers(String name) {
        try (Pretrained pretrained = load(name);
                TensorSource expected = Golden.expected(name);
                Scope scope = Scope.open()) {
            Tensor ids = expected.read("input_ids.generate");
            int width = (int) ids.size(1);
            long[] mask = expected.read("attention_mask.generate").longs();
            long[] sequences = expected.read("sequences.generate").longs();
            int total = sequences.length / (int) ids.size(0);
            List<int[]> prompts = new ArrayList<>();
            List<List<Integer>> continuations = new ArrayList<>();
            for (int row = 0; row < ids.size(0); row++) {
                int padding = 0;
                while (mask[row * width + padding] == 0) {
                    padding++;
                }
                prompts.add(ints(sequences, row * total + padding, row * total + width));
                continuations.add(Arrays.stream(ints(sequences, row * total + width, (row + 1) * total))
                        .boxed()
                        .toList());
            }
            TextGenerator generator = new TextGenerator(pretrained.causalLm());
            GenerationConfig greedy = pretrained.generation().greedy().withMaxNewTokens(total - width);
            assertThat(generator.generate(prompts, greedy, new Seed(0)))
                    .extracting(TextGenerator.Generated::ids)
                    .isEqualTo(continuations);
            for (int row = 0; row < prompts.size(); row++) {
                assertThat(generator
                                .generate(prompts.get(row), greedy, new Seed(0))
                                .ids())
                        .isEqualTo(continuations.get(row));
            }
        }
    }

    private static int[] ints(long[] values, int from, int to) {
        return Arrays.stream(values, from, to).mapToInt(Math::toIntExact).toArray();
    }
}
