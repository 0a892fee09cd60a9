package dev.espalier.data;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.espalier.EspalierException;
import dev.espalier.data.Encoder.Options;
import dev.espalier.data.Encoder.Supervise;
import dev.espalier.text.SpecialTokens;
import dev.espalier.text.Tokenizer;
import java.io.IOException;
import java.io.InputStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;
import org.junit.jupiter.api.Test;

class EncoderTest {

    /** BERT's uncased WordPiece: [CLS] 101, [SEP] 102, hello 7592, world 2088, good 2204, bye 9061. */
    private static Tokenizer bert() throws IOException {
        try (InputStream in = EncoderTest.class.getResourceAsStream("/all-minilm-l6-v2-tokenizer.json")) {
            return Tokenizer.of(new String(in.readAllBytes(), StandardCharsets.UTF_8), SpecialTokens.NONE);
        }
    }

    /** Words a to j are 0 to 9, &lt;bos&gt; 10, &lt;eos&gt; 11, &lt;turn&gt; 12; a text begins with &lt;bos&gt;. */
    static Tokenizer words(@Nullable String eos) {
        return Tokenizer.of("""
                {"version":"1.0","truncation":null,"padding":null,
                 "added_tokens":[
                  {"id":10,"content":"<bos>","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true},
                  {"id":11,"content":"<eos>","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true},
                  {"id":12,"content":"<turn>","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true}],
                 "normalizer":null,"pre_tokenizer":{"type":"WhitespaceSplit"},
                 "post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<bos>","type_id":0}},
                  {"Sequence":{"id":"A","type_id":0}}],"pair":[{"Sequence":{"id":"A","type_id":0}},{"Sequence":{"id":"B","type_id":1}}],
                  "special_tokens":{"<bos>":{"id":"<bos>","ids":[10],"tokens":["<bos>"]}}},
                 "decoder":null,
                 "model":{"type":"WordLevel","unk_token":"a","vocab":{"a":0,"b":1,"c":2,"d":3,"e":4,"f":5,"g":6,"h":7,"i":8,"j":9}}}
                """, new SpecialTokens("<bos>", eos, null, null, null, null, null, List.of("<turn>")));
    }

    private static Options options(int maxLength, boolean truncate, Supervise supervise) {
        return new Options(maxLength, truncate, supervise, Map.of());
    }

    private static void refuses(Encoder encoder, Example example, String message) {
        assertThatThrownBy(() -> encoder.encode(example))
                .isInstanceOf(EspalierException.class)
                .hasMessage(message);
    }

    @Test
    void labelledTextCarriesItsClassAndNoTargets() throws IOException {
        try (Tokenizer tokenizer = bert()) {
            Encoder encoder = new Encoder(tokenizer, null, new Labels(List.of("no", "yes")), Options.of(8));
            Encoding one = encoder.encode(new Example.Labelled("Hello world", null, "yes", "a.csv:2"));
            assertThat(one.ids()).containsExactly(101, 7592, 2088, 102);
            assertThat(one.typeIds()).isNull();
            assertThat(one.label()).isEqualTo(1);
            assertThat(one.targets()).isZero();
            assertThat(one.source()).isEqualTo("a.csv:2");
            Encoding asked = encoder.encode("Hello world", null, "line 1");
            assertThat(asked.ids()).containsExactly(101, 7592, 2088, 102);
            assertThat(asked.label()).isNull();
            Encoding pair = encoder.encode(new Example.Scored("hello", "good bye", 2.5, "a.csv:3"));
            assertThat(pair.ids()).containsExactly(101, 7592, 102, 2204, 9061, 102);
            assertThat(pair.typeIds()).containsExactly(0, 0, 0, 1, 1, 1);
            assertThat(pair.label()).isEqualTo(2.5);
        }
    }

    @Test
    void truncationKeepsAddedTokensAndCutsTheLongerText() throws IOException {
        try (Tokenizer tokenizer = bert()) {
            Encoder strict = new Encoder(tokenizer, null, null, Options.of(6));
            Example one = new Example.Scored("hello world hello world hello", null, 1, "a.csv:2");
            refuses(strict, one, "a.csv:2: 7 tokens, but the model takes 6; shorten the text or set truncate: true");
            Encoder encoder = new Encoder(tokenizer, null, null, options(6, true, Supervise.ANSWERS));
            assertThat(encoder.encode(one).ids()).containsExactly(101, 7592, 2088, 7592, 2088, 102);
            Encoding pair = encoder.encode(new Example.Scored("good", "hello world hello world", 1, "a.csv:3"));
            assertThat(pair.ids()).containsExactly(101, 2204, 102, 7592, 2088, 102);
            Dataset data = new Dataset(Shape.SCORED, List.of(one), List.of(Path.of("a.csv")), Map.of(), List.of(), "");
            assertThat(encoder.encode(data).summary()).isEqualTo("6 tokens in 1 examples, the longest 6; 1 truncated");
            assertThat(pair.typeIds()).containsExactly(0, 0, 0, 1, 1, 1);
        }
    }

    @Test
    void aCompletionIsTheTargetAndEosEndsIt() {
        try (Tokenizer tokenizer = words("<eos>")) {
            Example example = new Example.Completion("a b", " c d", "a.jsonl:1");
            Encoder encoder = new Encoder(tokenizer, null, null, Options.of(16));
            Encoding encoding = encoder.encode(example);
            assertThat(encoding.ids()).containsExactly(10, 0, 1, 2, 3, 11);
            assertThat(encoding.supervised()).containsExactly(false, false, false, true, true, true);
            assertThat(encoder.preview(encoding)).isEqualTo("<bos> a b[[c d <eos>]]");
            assertThat(encoder.pieces(encoding))
                    .containsExactly(new Encoder.Piece("<bos> a b", false), new Encoder.Piece("c d <eos>", true));
            Encoder whole = new Encoder(tokenizer, null, null, options(16, false, Supervise.EVERYTHING));
            assertThat(whole.encode(example).targets()).isEqualTo(5);
        }
    }

    @Test
    void plainTextAndTokensAreTargetsThroughout() {
        try (Tokenizer tokenizer = words("<eos>")) {
            Encoder encoder = new Encoder(tokenizer, null, null, Options.of(16));
            Encoding plain = encoder.encode(new Example.Plain("a b", "a.txt:1"));
            assertThat(plain.ids()).containsExactly(10, 0, 1, 11);
            assertThat(plain.targets()).isEqualTo(3);
            Encoding tokens = encoder.encode(
                    new Example.Tokens(new int[] {1, 2, 3}, new boolean[] {false, false, true}, "a.jsonl:1"));
            assertThat(tokens.ids()).containsExactly(1, 2, 3);
            assertThat(tokens.targets()).isEqualTo(1);
        }
    }

    @Test
    void truncationThatLeavesNoTargetIsRefused() {
        try (Tokenizer tokenizer = words("<eos>")) {
            Encoder encoder = new Encoder(tokenizer, null, null, options(4, true, Supervise.ANSWERS));
            Encoding cut = encoder.encode(new Example.Completion("a b", " c d", "a.jsonl:1"));
            assertThat(cut.ids()).containsExactly(10, 0, 1, 2);
            assertThat(cut.targets()).isEqualTo(1);
            refuses(
                    encoder,
                    new Example.Completion("a b c", " d e", "a.jsonl:2"),
                    "a.jsonl:2: all 3 supervised of 7 tokens lie behind the 4 that the model takes; shorten the prompt");
        }
    }

    @Test
    void examplesThatTeachNothingAreRefused() {
        try (Tokenizer tokenizer = words("<eos>");
                Tokenizer endless = words(null)) {
            Encoder encoder = new Encoder(tokenizer, null, null, Options.of(16));
            refuses(
                    encoder,
                    new Example.Tokens(new int[] {1, 2}, new boolean[] {true, false}, "a.jsonl:1"),
                    "a.jsonl:1: none of its 2 tokens is supervised, so there is nothing to learn; "
                            + "mend its labels or delete the row");
            refuses(
                    encoder,
                    new Example.Tokens(new int[] {1, 13}, new boolean[] {true, true}, "a.jsonl:2"),
                    "a.jsonl:2: token id 13 lies outside the model's vocabulary of 13; encode the text with its tokenizer");
            refuses(
                    encoder,
                    new Example.Labelled("a", null, "yes", "a.csv:2"),
                    "a.csv:2: text + label is data for classification; for a language model use prompt + completion");
            refuses(
                    encoder,
                    new Example.Chat(List.of(new Turn("assistant", "a")), List.of(), "a.jsonl:3"),
                    "a.jsonl:3: a conversation needs a chat template and the model has none; set task.template, "
                            + "or use prompt + completion");
            refuses(
                    new Encoder(endless, null, null, Options.of(16)),
                    new Example.Completion("a", " b", "a.jsonl:4"),
                    "a.jsonl:4: the tokenizer names no EOS token, so the model would never learn to stop; "
                            + "set eos_token in its tokenizer_config.json");
        }
    }

    @Test
    void aDataSetIsEncodedAndCounted() {
        try (Tokenizer tokenizer = words("<eos>")) {
            List<Example> examples = List.of(
                    new Example.Completion("a b", " c", "a.jsonl:1"),
                    new Example.Completion("a", " b c d e", "a.jsonl:2"));
            Dataset data = new Dataset(Shape.PROMPTED, examples, List.of(Path.of("a.jsonl")), Map.of(), List.of(), "");
            Encodings encodings = new Encoder(tokenizer, null, null, options(6, true, Supervise.ANSWERS)).encode(data);
            assertThat(encodings.items()).extracting(Encoding::length).containsExactly(5, 6);
            assertThat(encodings.summary())
                    .isEqualTo("11 tokens in 2 examples, the longest 6; 6 supervised (55 %); 1 truncated");
        }
    }
}
