package dev.espalier.model;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Tensor;
import java.util.Arrays;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

/** Several sequences in one row give what each gives alone: nothing leaks, positions start anew. */
class PackingTest {

    private static final int[] FIRST = {5, 9, 33, 12, 40, 7, 21, 60, 8};
    private static final int[] SECOND = {17, 4, 52};
    private static final int[] THIRD = {30, 31, 6, 55, 19, 20, 44};

    /** Two rows: first + second + padding, third + padding. */
    private static Input packed() {
        int width = FIRST.length + SECOND.length + 2;
        long[] ids = new long[2 * width];
        long[] segments = new long[2 * width];
        Arrays.fill(segments, -1);
        put(ids, segments, 0, FIRST, 0);
        put(ids, segments, FIRST.length, SECOND, 1);
        put(ids, segments, width, THIRD, 0);
        return new Input(Tensor.of(ids, 2, width), null, null, Tensor.of(segments, 2, width), null, null);
    }

    private static void put(long[] ids, long[] segments, int at, int[] sequence, int segment) {
        for (int i = 0; i < sequence.length; i++) {
            ids[at + i] = sequence[i];
            segments[at + i] = segment;
        }
    }

    @ParameterizedTest
    @MethodSource("dev.espalier.model.Golden#families")
    void packedEqualsSeparate(String name, boolean encoder) {
        Purpose purpose = encoder ? Purpose.embedding() : Purpose.causalLm();
        try (Pretrained pretrained = Models.load(Golden.root().resolve(name), purpose, Fp32.OPTIONS);
                Scope scope = Scope.open();
                Grad off = Grad.off()) {
            Backbone backbone = pretrained.model().backbone();
            Tensor hidden = backbone.forward(packed());
            Golden.assertClose(part(hidden, 0, 0, FIRST.length), backbone.forward(Input.of(FIRST)), 1e-5);
            Golden.assertClose(part(hidden, 0, FIRST.length, SECOND.length), backbone.forward(Input.of(SECOND)), 1e-5);
            Golden.assertClose(part(hidden, 1, 0, THIRD.length), backbone.forward(Input.of(THIRD)), 1e-5);
            assertThat(hidden.isFinite().all()).isTrue();
        }
    }

    private static Tensor part(Tensor hidden, int row, int start, int length) {
        return hidden.narrow(0, row, 1).narrow(1, start, length);
    }

    @Test
    void aSegmentInPiecesIsRefused() {
        try (Pretrained pretrained = Models.load(Golden.root().resolve("llama"), Purpose.causalLm(), Fp32.OPTIONS);
                Scope scope = Scope.open()) {
            Input torn = new Input(
                    Tensor.of(new long[] {5, 6, 7}, 1, 3),
                    null,
                    null,
                    Tensor.of(new long[] {0, 1, 0}, 1, 3),
                    null,
                    null);
            assertThatThrownBy(() -> pretrained.model().forward(torn))
                    .hasMessage("segment 0 of row 0 comes in several pieces; a segment must be one run of tokens");
        }
    }

    @Test
    void classifiersRefusePackedRows() {
        try (Pretrained pretrained = Models.load(
                        Golden.root().resolve("bert-classification"), Purpose.classification(), Fp32.OPTIONS);
                Scope scope = Scope.open()) {
            assertThatThrownBy(() -> pretrained.model().forward(packed()))
                    .hasMessage("a classifier answers once a row: give it padded rows, not packed ones");
        }
    }

    @Test
    void moreTokensThanPositionsAreRefused() {
        try (Pretrained pretrained = Models.load(Golden.root().resolve("gpt2"), Purpose.causalLm(), Fp32.OPTIONS);
                Scope scope = Scope.open()) {
            assertThatThrownBy(() -> pretrained.model().forward(Input.of(new int[41])))
                    .hasMessage("the model has 40 positions and was given 41 tokens; shorten the text");
        }
        // 34 positions, of which RoBERTa uses those from pad_token_id + 1 = 2 on.
        try (Pretrained pretrained =
                        Models.load(Golden.root().resolve("roberta-embedding"), Purpose.embedding(), Fp32.OPTIONS);
                Scope scope = Scope.open()) {
            assertThat(pretrained
                            .model()
                            .forward(Input.of(new int[32]))
                            .isFinite()
                            .all())
                    .isTrue();
            assertThatThrownBy(() -> pretrained.model().forward(Input.of(new int[33])))
                    .hasMessage("the model has 32 positions and was given 33 tokens; shorten the text");
        }
    }
}
