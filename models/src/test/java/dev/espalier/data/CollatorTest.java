package dev.espalier.data;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.espalier.data.Collator.Cursor;
import dev.espalier.data.Collator.Options;
import dev.espalier.data.Collator.Side;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Random;
import java.util.stream.IntStream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

class CollatorTest {

    private static final int PAD = 0;

    /** Ids first, first + 1, ...; all but the first half supervised. */
    private static Encoding text(int first, int length) {
        int[] ids = IntStream.range(first, first + length).toArray();
        boolean[] supervised = new boolean[length];
        Arrays.fill(supervised, length / 2, length, true);
        return new Encoding(ids, null, supervised, null, "a.jsonl:" + first);
    }

    private static Encoding labelled(Number label, int... ids) {
        return new Encoding(ids, null, new boolean[ids.length], label, "a.csv:" + ids[0]);
    }

    /** n texts of 1 to 40 tokens, no id twice. */
    private static List<Encoding> texts(int n) {
        Random random = new Random(3);
        List<Encoding> texts = new ArrayList<>();
        for (int i = 0, first = 1; i < n; i++) {
            int length = 1 + random.nextInt(40);
            texts.add(text(first, length));
            first += length;
        }
        return texts;
    }

    private static List<List<Long>> rows(Tensor tensor) {
        long[] values = tensor.longs();
        int width = (int) tensor.size(1);
        return IntStream.range(0, (int) tensor.size(0))
                .mapToObj(r -> Arrays.stream(values, r * width, (r + 1) * width)
                        .boxed()
                        .toList())
                .toList();
    }

    private static Collator collator(List<Encoding> encodings, Options options) {
        return new Collator(encodings, options, new Seed(5));
    }

    @Test
    void paddingOnTheRightKeepsPositionsAndMarksNothing() {
        try (Scope scope = Scope.open()) {
            Batch batch = collator(List.of(text(1, 2), text(11, 4)), new Options(2, 99, Side.RIGHT, false, 0))
                    .batch(Cursor.START);
            assertThat(rows(batch.inputIds())).containsExactly(List.of(1L, 2L, 99L, 99L), List.of(11L, 12L, 13L, 14L));
            assertThat(rows(batch.attentionMask())).containsExactly(List.of(1L, 1L, 0L, 0L), List.of(1L, 1L, 1L, 1L));
            assertThat(rows(batch.positionIds())).containsExactly(List.of(0L, 1L, 0L, 0L), List.of(0L, 1L, 2L, 3L));
            assertThat(rows(batch.labels()))
                    .containsExactly(List.of(-100L, 2L, -100L, -100L), List.of(-100L, -100L, 13L, 14L));
            assertThat(batch.targets()).isEqualTo(3);
            assertThat(batch.tokens()).isEqualTo(6);
            assertThat(batch.segmentIds()).isNull();
            assertThat(batch.tokenTypeIds()).isNull();
            assertThat(batch.sources()).containsExactly("a.jsonl:1", "a.jsonl:11");
        }
    }

    @Test
    void paddingOnTheLeftCountsPositionsFromTheFirstToken() {
        try (Scope scope = Scope.open()) {
            Batch batch = collator(List.of(text(1, 2), text(11, 4)), new Options(2, 99, Side.LEFT, false, 0))
                    .batch(Cursor.START);
            assertThat(rows(batch.inputIds())).containsExactly(List.of(99L, 99L, 1L, 2L), List.of(11L, 12L, 13L, 14L));
            assertThat(rows(batch.attentionMask())).containsExactly(List.of(0L, 0L, 1L, 1L), List.of(1L, 1L, 1L, 1L));
            assertThat(rows(batch.positionIds())).containsExactly(List.of(0L, 0L, 0L, 1L), List.of(0L, 1L, 2L, 3L));
            assertThat(rows(batch.labels()))
                    .containsExactly(List.of(-100L, -100L, -100L, 2L), List.of(-100L, -100L, 13L, 14L));
        }
    }

    @Test
    void packedRowsRestartPositionsAndSeparateSegments() {
        try (Scope scope = Scope.open()) {
            // 3 + 2 fill the first row of 5; 4 opens the second; 1 fits behind it.
            List<Encoding> texts = List.of(text(1, 3), text(11, 4), text(21, 2), text(31, 1));
            Batch batch =
                    collator(texts, new Options(2, 99, Side.RIGHT, false, 5)).batch(Cursor.START);
            assertThat(rows(batch.inputIds()))
                    .containsExactly(List.of(1L, 2L, 3L, 21L, 22L), List.of(11L, 12L, 13L, 14L, 31L));
            assertThat(rows(batch.positionIds()))
                    .containsExactly(List.of(0L, 1L, 2L, 0L, 1L), List.of(0L, 1L, 2L, 3L, 0L));
            assertThat(rows(batch.segmentIds()))
                    .containsExactly(List.of(0L, 0L, 0L, 1L, 1L), List.of(0L, 0L, 0L, 0L, 1L));
            // 31 is supervised, but 14 must not learn to predict it.
            assertThat(rows(batch.labels()))
                    .containsExactly(List.of(-100L, 2L, 3L, -100L, 22L), List.of(-100L, -100L, 13L, 14L, -100L));
            assertThat(batch.targets()).isEqualTo(5);
            assertThat(batch.sources()).containsExactly("a.jsonl:1", "a.jsonl:21", "a.jsonl:11", "a.jsonl:31");
        }
    }

    @ParameterizedTest
    @CsvSource({"0, true", "0, false", "64, true", "64, false"})
    void everyTokenAppearsOnceAnEpochWithItsOwnTargets(int packedLength, boolean shuffle) {
        List<Encoding> texts = texts(500);
        Collator collator = collator(texts, new Options(8, PAD, Side.RIGHT, shuffle, packedLength));
        for (int epoch = 0; epoch < 2; epoch++) {
            List<Long> seen = new ArrayList<>();
            List<String> sources = new ArrayList<>();
            long targets = 0;
            for (int b = 0; b < collator.batches(epoch); b++) {
                try (Scope scope = Scope.open()) {
                    Batch batch = collator.batch(new Cursor(epoch, b));
                    long[] ids = batch.inputIds().longs();
                    long[] mask = batch.attentionMask().longs();
                    IntStream.range(0, ids.length).filter(i -> mask[i] == 1).forEach(i -> seen.add(ids[i]));
                    sources.addAll(batch.sources());
                    targets += batch.targets();
                    assertThat(batch.tokens()).isEqualTo(Arrays.stream(mask).sum());
                    if (batch.labels() != null) {
                        assertThat(Arrays.stream(batch.labels().longs())
                                        .filter(l -> l != Batch.IGNORED)
                                        .count())
                                .isEqualTo(batch.targets());
                    }
                    assertThat(batch.inputIds().size(0)).isLessThanOrEqualTo(8);
                    assertThat(batch.inputIds().size(1)).isLessThanOrEqualTo(packedLength == 0 ? 40 : packedLength);
                }
            }
            long all = texts.stream().mapToInt(Encoding::length).sum();
            assertThat(seen).hasSize((int) all).doesNotHaveDuplicates();
            assertThat(sources)
                    .containsExactlyInAnyOrderElementsOf(
                            texts.stream().map(Encoding::source).toList());
            assertThat(targets)
                    .isEqualTo(texts.stream().mapToInt(Encoding::targets).sum());
        }
    }

    @Test
    void orderIsAFunctionOfSeedAndEpochSoThatACursorResumes() {
        Options options = new Options(8, PAD, Side.RIGHT, true, 0);
        List<Encoding> texts = texts(100);
        Collator run = collator(texts, options);
        Cursor cursor = Cursor.START;
        List<List<String>> undisturbed = new ArrayList<>();
        List<Cursor> cursors = new ArrayList<>();
        try (Scope scope = Scope.open()) {
            for (int step = 0; step < 40; step++, cursor = run.after(cursor)) {
                cursors.add(cursor);
                undisturbed.add(run.batch(cursor).sources());
            }
            assertThat(cursors.get(13)).isEqualTo(new Cursor(1, 0));
            for (int step = 39; step >= 0; step -= 7) {
                assertThat(collator(texts, options).batch(cursors.get(step)).sources())
                        .isEqualTo(undisturbed.get(step));
            }
        }
        assertThat(undisturbed.subList(0, 13)).isNotEqualTo(undisturbed.subList(13, 26));
        assertThat(undisturbed.get(0)).isNotEqualTo(sources(new Collator(texts, options, new Seed(6)), Cursor.START));
    }

    private static List<String> sources(Collator collator, Cursor cursor) {
        try (Scope scope = Scope.open()) {
            return collator.batch(cursor).sources();
        }
    }

    @Test
    void bucketsSaveMostOfThePadding() {
        List<Encoding> texts = texts(2000);
        long padded = 0;
        Collator collator = collator(texts, Options.of(16, PAD));
        for (int b = 0; b < collator.batches(0); b++) {
            try (Scope scope = Scope.open()) {
                padded += collator.batch(new Cursor(0, b)).inputIds().numel();
            }
        }
        // Uniform lengths of 1 to 40: rows of random neighbours are half padding.
        long real = texts.stream().mapToInt(Encoding::length).sum();
        assertThat((double) real / padded).isGreaterThan(0.93);
    }

    @Test
    void packingFillsItsRows() {
        List<Encoding> texts = texts(2000);
        Collator collator = collator(texts, new Options(4, PAD, Side.RIGHT, true, 128));
        long rows = 0;
        for (int b = 0; b < collator.batches(0); b++) {
            try (Scope scope = Scope.open()) {
                rows += collator.batch(new Cursor(0, b)).inputIds().size(0);
            }
        }
        long real = texts.stream().mapToInt(Encoding::length).sum();
        assertThat((double) real / (rows * 128)).isGreaterThan(0.95);
    }

    @ParameterizedTest
    @CsvSource({"0", "64"})
    void theLargestBatchIsNoSmallerThanAnyOther(int packedLength) {
        Collator collator = collator(texts(300), new Options(8, PAD, Side.RIGHT, true, packedLength));
        try (Scope scope = Scope.open()) {
            long largest = collator.largest().inputIds().numel();
            for (int b = 0; b < collator.batches(0); b++) {
                assertThat(collator.batch(new Cursor(0, b)).inputIds().numel()).isLessThanOrEqualTo(largest);
            }
        }
    }

    @Test
    void labelsOfTheWholeTextAreOneARow() {
        try (Scope scope = Scope.open()) {
            Options options = new Options(2, PAD, Side.RIGHT, false, 0);
            Batch classes = collator(List.of(labelled(2, 7, 8), labelled(0, 9)), options)
                    .batch(Cursor.START);
            assertThat(classes.labels().longs()).containsExactly(2, 0);
            assertThat(classes.labels().shape()).containsExactly(2);
            assertThat(classes.targets()).isEqualTo(2);
            Batch scores = collator(List.of(labelled(2.5, 7, 8), labelled(-1.0, 9)), options)
                    .batch(Cursor.START);
            assertThat(scores.labels().floats()).containsExactly(2.5f, -1f);
            Encoding pair = new Encoding(new int[] {5, 6}, new int[] {0, 1}, new boolean[2], null, "a.csv:5");
            Batch pairs = collator(List.of(pair, labelled(null, 9)), options).batch(Cursor.START);
            assertThat(rows(pairs.tokenTypeIds())).containsExactly(List.of(0L, 1L), List.of(0L, 0L));
            assertThat(pairs.labels()).isNull();
        }
    }

    @Test
    void impossibleGroupingsAreRefused() {
        Options packed = new Options(2, PAD, Side.RIGHT, false, 3);
        assertThatThrownBy(() -> collator(List.of(labelled(1, 7)), packed))
                .hasMessage("a.csv:7 has a label for the whole text, so its row cannot be shared; switch packing off");
        assertThatThrownBy(() -> collator(List.of(text(1, 4)), packed))
                .hasMessage("a.jsonl:1: 4 tokens do not fit into packed rows of 3; raise the length or truncate");
        assertThatThrownBy(() -> collator(List.of(labelled(1, 7), labelled(1.5, 8)), Options.of(1, PAD)))
                .hasMessage("a.csv:8 has the label 1.5 where a.csv:7 has 1; all must be class ids, scores, or absent");
        assertThatThrownBy(() -> collator(List.of(), Options.of(1, PAD)))
                .hasMessage("there are no examples to group into batches; name another file");
        assertThatThrownBy(() -> Options.of(0, PAD)).hasMessage("the batch size must be at least 1, found 0; try 8");
        assertThatThrownBy(
                        () -> collator(List.of(text(1, 4)), Options.of(1, PAD)).batch(new Cursor(0, 1)))
                .hasMessage("epoch 0 has 1 batches, there is no batch 1; data or batch size have changed");
    }
}
