package dev.espalier.model;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.espalier.tensor.Machine;
import dev.espalier.tensor.Seed;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;

/** Greedy tokens against transformers: {@link GoldenTest}. */
class TextGeneratorTest {

    private static final int[] PROMPT = {5, 9, 33};
    private static final GenerationConfig TEN = GenerationConfig.DEFAULT.withMaxNewTokens(10);

    private static Pretrained llama;
    private static TextGenerator generator;

    @BeforeAll
    static void load() {
        llama = Models.load(Golden.root().resolve("llama"), Purpose.causalLm(), Fp32.OPTIONS);
        generator = new TextGenerator(llama.causalLm());
    }

    @AfterAll
    static void close() {
        llama.close();
    }

    @Test
    void theListenerHearsEachTokenAndMayStop() {
        List<Integer> heard = new ArrayList<>();
        TextGenerator.Generated all = generator.generate(PROMPT, TEN, new Seed(0), heard::add);
        assertThat(heard).isEqualTo(all.ids()).hasSize(10);
        assertThat(all.finish()).isEqualTo(TextGenerator.Finish.LENGTH);
        TextGenerator.Generated three = generator.generate(
                PROMPT, TEN, new Seed(0), id -> id != all.ids().get(2));
        assertThat(three.finish()).isEqualTo(TextGenerator.Finish.CALLER);
        assertThat(three.ids()).isEqualTo(all.ids().subList(0, three.ids().size()));
    }

    @Test
    void aStopTokenEndsTheTextAndIsLeftOut() {
        List<Integer> all = generator.generate(PROMPT, TEN, new Seed(0)).ids();
        int stop = all.get(4);
        TextGenerator.Generated stopped = generator.generate(PROMPT, TEN.withStopIds(List.of(stop)), new Seed(0));
        assertThat(stopped.ids()).isEqualTo(all.subList(0, all.indexOf(stop)));
        assertThat(stopped.finish()).isEqualTo(TextGenerator.Finish.STOP);
    }

    @Test
    void samplingIsAFunctionOfTheSeed() {
        GenerationConfig config = TEN.sampling(1.5, 0, 1);
        List<Integer> one = generator.generate(PROMPT, config, new Seed(1)).ids();
        assertThat(generator.generate(PROMPT, config, new Seed(1)).ids()).isEqualTo(one);
        assertThat(generator.generate(PROMPT, config, new Seed(2)).ids()).isNotEqualTo(one);
    }

    @Test
    void oneCandidateIsGreedy() {
        List<Integer> greedy = generator.generate(PROMPT, TEN, new Seed(0)).ids();
        assertThat(generator
                        .generate(PROMPT, TEN.sampling(1, 1, 1), new Seed(5))
                        .ids())
                .isEqualTo(greedy);
        assertThat(generator
                        .generate(PROMPT, TEN.sampling(1, 0, 1e-9), new Seed(5))
                        .ids())
                .isEqualTo(greedy);
    }

    /** Logits 0, ln 2, ln 4, ln 8, ln 16 have the probabilities 1/31, 2/31, .. 16/31. */
    private static Map<Integer, Integer> draws(GenerationConfig config, int count) {
        Sampler sampler = new Sampler(config, new Seed(3));
        Map<Integer, Integer> counts = new TreeMap<>();
        for (int i = 0; i < count; i++) {
            float[] logits = new float[5];
            for (int j = 0; j < 5; j++) {
                logits[j] = (float) (j * Math.log(2));
            }
            counts.merge(sampler.next(logits, List.of(4)), 1, Integer::sum);
        }
        return counts;
    }

    @Test
    void drawsFollowTheProbabilities() {
        Map<Integer, Integer> counts = draws(TEN.sampling(1, 0, 1), 31_000);
        for (int j = 0; j < 5; j++) {
            int expected = 1000 << j;
            assertThat(counts.get(j)).isBetween((int) (expected * 0.9), (int) (expected * 1.1));
        }
    }

    @Test
    void topKAndTopPCutTheTail() {
        assertThat(draws(TEN.sampling(1, 2, 1), 2000).keySet()).containsExactly(3, 4);
        // 16/31 is below 0.6, 24/31 is not: two tokens are needed.
        assertThat(draws(TEN.sampling(1, 0, 0.6), 2000).keySet()).containsExactly(3, 4);
        assertThat(draws(TEN.sampling(1, 0, 0.5), 2000).keySet()).containsExactly(4);
        // At temperature 1/2 probabilities are squared: 256/341 is above 0.75 already.
        assertThat(draws(TEN.sampling(0.5, 0, 0.75), 2000).keySet()).containsExactly(4);
    }

    @Test
    void thePenaltyLowersWhatWasSaid() {
        Sampler sampler = new Sampler(TEN.withRepetitionPenalty(2), new Seed(0));
        assertThat(sampler.next(new float[] {1f, 1.9f, 3f}, List.of(2))).isEqualTo(1); // 3 / 2 = 1.5
        assertThat(sampler.next(new float[] {-3f, -1f, -1.5f}, List.of(1))).isEqualTo(2); // -1 · 2 = -2
    }

    @Test
    void aBatchLeavesNoNativeObjectsBehind() {
        List<int[]> prompts = List.of(PROMPT, new int[] {8, 7, 6, 5, 4});
        generator.generate(prompts, TEN, new Seed(0));
        long before = Machine.liveNativeObjects();
        generator.generate(prompts, TEN.withMaxNewTokens(30), new Seed(0));
        assertThat(Machine.liveNativeObjects()).isLessThanOrEqualTo(before);
    }

    @Test
    void badPromptsAreRefused() {
        assertThatThrownBy(() -> generator.generate(new int[0], TEN, new Seed(0)))
                .hasMessageContaining("a prompt holds no token");
        assertThatThrownBy(() -> generator.generate(new int[] {67}, TEN, new Seed(0)))
                .hasMessage("token id 67 lies outside the model's vocabulary of 67; model and tokenizer do not match");
    }

    @Test
    void badSettingsAreRefused() {
        assertThatThrownBy(() -> TEN.withMaxNewTokens(0)).hasMessageContaining("maxNewTokens must be at least 1");
        assertThatThrownBy(() -> TEN.sampling(0, 0, 1)).hasMessageContaining("temperature must be positive");
        assertThatThrownBy(() -> TEN.sampling(Double.NaN, 0, 1)).hasMessageContaining("temperature must be positive");
        assertThatThrownBy(() -> TEN.sampling(1, -1, 1)).hasMessageContaining("topK must be at least 0");
        assertThatThrownBy(() -> TEN.sampling(1, 0, 0)).hasMessageContaining("topP must lie in (0, 1]");
        assertThatThrownBy(() -> TEN.withRepetitionPenalty(-1))
                .hasMessageContaining("repetitionPenalty must be positive");
    }

    @Test
    void settingsAreReadFromHuggingFacesFile() {
        GenerationConfig read = GenerationConfig.read(
                "generation_config.json",
                Map.of(
                        "do_sample",
                        true,
                        "temperature",
                        0.6,
                        "top_p",
                        0.9,
                        "eos_token_id",
                        List.of(2L, 7L),
                        "max_length",
                        4096L,
                        "transformers_version",
                        "4.46.0"));
        assertThat(read).isEqualTo(new GenerationConfig(256, true, 0.6, 50, 0.9, 1, List.of(2, 7)));
    }
}
