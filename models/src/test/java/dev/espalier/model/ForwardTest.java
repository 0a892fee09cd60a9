package dev.espalier.model;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.espalier.tensor.Generator;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Machine;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Tensor;
import java.util.Arrays;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

class ForwardTest {

    private static final int[] IDS = {5, 9, 33, 12, 40, 7, 21, 60, 8, 17, 4, 52};

    private static Pretrained load(String name, Purpose purpose) {
        return Models.load(Golden.root().resolve(name), purpose, Fp32.OPTIONS);
    }

    /** Pieces of 5, 1, 4 and 2 tokens, in a cache that must grow: each token sees what it would see in one piece. */
    @ParameterizedTest
    @ValueSource(strings = {"llama", "mistral", "qwen3", "gpt2"})
    void piecesThroughTheCacheEqualTheWhole(String name) {
        try (Pretrained pretrained = load(name, Purpose.causalLm());
                KvCache cache = new KvCache(1);
                Scope scope = Scope.open();
                Grad off = Grad.off()) {
            Tensor whole = pretrained.model().forward(Input.of(IDS));
            int at = 0;
            for (int length : new int[] {5, 1, 4, 2}) {
                Tensor ids = Input.of(Arrays.copyOfRange(IDS, at, at + length)).inputIds();
                Tensor piece = pretrained.model().forward(new Input(ids, null, null, null, null, cache));
                Golden.assertClose(piece, whole.narrow(1, at, length), 1e-5);
                at += length;
                assertThat(cache.length()).isEqualTo(at);
            }
        }
    }

    @ParameterizedTest
    @ValueSource(strings = {"bert-classification", "roberta-classification", "gpt2-classification"})
    void dropoutActsWhileTrainingOnly(String name) {
        try (Pretrained pretrained = load(name, Purpose.classification());
                Scope scope = Scope.open();
                Grad off = Grad.off()) {
            Model model = pretrained.model();
            Tensor still = model.forward(Input.of(IDS));
            assertThat(model.forward(Input.of(IDS)).equal(still)).isTrue();
            model.train(true);
            Generator.seedDropout(1);
            Tensor one = model.forward(Input.of(IDS));
            Tensor two = model.forward(Input.of(IDS));
            Generator.seedDropout(1);
            assertThat(model.forward(Input.of(IDS)).equal(one)).isTrue();
            assertThat(one.equal(two)).isFalse();
            assertThat(one.equal(still)).isFalse();
            model.train(false);
            assertThat(model.forward(Input.of(IDS)).equal(still)).isTrue();
        }
    }

    /** A row of nothing but padding has no meaning, and must not spoil a batch or a gradient with NaN. */
    @ParameterizedTest
    @ValueSource(strings = {"llama", "bert-embedding"})
    void aRowOfPaddingGivesNumbers(String name) {
        Purpose purpose = name.equals("llama") ? Purpose.causalLm() : Purpose.embedding();
        try (Pretrained pretrained = load(name, purpose);
                Scope scope = Scope.open();
                Grad off = Grad.off()) {
            Tensor ids = Tensor.of(new long[] {5, 9, 0, 0}, 2, 2);
            Tensor mask = Tensor.of(new long[] {0, 1, 0, 0}, 2, 2);
            assertThat(pretrained
                            .model()
                            .forward(Input.of(ids, mask))
                            .isFinite()
                            .all())
                    .isTrue();
        }
    }

    @Test
    void trainingStepsLeaveNoNativeObjectsBehind() {
        try (Pretrained pretrained = load("llama", Purpose.causalLm())) {
            pretrained.model().namedParameters().values().forEach(p -> p.trainable(true));
            step(pretrained);
            long before = Machine.liveNativeObjects();
            for (int i = 0; i < 20; i++) {
                step(pretrained);
            }
            assertThat(Machine.liveNativeObjects()).isLessThanOrEqualTo(before);
        }
    }

    private static void step(Pretrained pretrained) {
        try (Scope scope = Scope.open()) {
            pretrained.model().forward(Input.of(IDS)).square().sum().backward();
            pretrained
                    .model()
                    .namedParameters()
                    .values()
                    .forEach(p -> p.tensor().clearGrad());
        }
    }

    @Test
    void shapesOfTheInputAreChecked() {
        try (Scope scope = Scope.open()) {
            Tensor ids = Tensor.of(new long[] {5, 6}, 1, 2);
            assertThatThrownBy(() -> Input.of(ids, Tensor.of(new long[] {1}, 1, 1)))
                    .hasMessage("an attention mask must have the shape [1, 2], found [1, 1]");
            assertThatThrownBy(() -> Input.of(Tensor.of(new long[] {5, 6}, 2)))
                    .hasMessage("input ids must be an int64 tensor [batch, tokens], found INT64[2]");
            assertThatThrownBy(() -> new Input(ids, ids, null, ids, null, null))
                    .hasMessageContaining("segment ids already say what is padding");
        }
    }
}
