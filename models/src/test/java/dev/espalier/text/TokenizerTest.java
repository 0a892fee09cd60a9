package dev.espalier.text;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.espalier.EspalierException;
import java.io.IOException;
import java.io.InputStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.stream.IntStream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

class TokenizerTest {

    /** A byte-level BPE over 256 bytes, a few merges, and an added token, small enough to read. */
    static String byteLevel(String postProcessor) {
        StringBuilder vocab = new StringBuilder();
        int id = 0;
        char next = 256; // GPT-2 spells a byte that does not print as the next character from U+0100
        for (int b = 0; b < 256; b++) {
            char c = prints(b) ? (char) b : next++;
            String key = c == '"' || c == '\\' ? "\\" + c : String.valueOf(c);
            vocab.append('"').append(key).append("\":").append(id++).append(',');
        }
        vocab.append("\"he\":256,\"ll\":257,\"Ġhe\":258,\"ĠĠ\":259");
        return """
                {"version":"1.0","truncation":{"direction":"Right","max_length":4,"strategy":"LongestFirst","stride":0},
                 "padding":{"strategy":{"Fixed":6},"direction":"Right","pad_to_multiple_of":null,"pad_id":0,"pad_type_id":0,"pad_token":"!"},
                 "added_tokens":[{"id":260,"content":"<end>","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true}],
                 "normalizer":null,
                 "pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":true},
                 "post_processor":%s,
                 "decoder":{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":true},
                 "model":{"type":"BPE","dropout":null,"unk_token":null,"continuing_subword_prefix":"","end_of_word_suffix":"",
                 "fuse_unk":false,"byte_fallback":false,"vocab":{%s},"merges":["h e","l l","Ġ he","Ġ Ġ"]}}
                """.formatted(postProcessor, vocab);
    }

    private static boolean prints(int b) {
        return (b >= '!' && b <= '~') || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
    }

    static final String TRIMMING =
            "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":true}";

    static String minilm() throws IOException {
        try (InputStream in = TokenizerTest.class.getResourceAsStream("/all-minilm-l6-v2-tokenizer.json")) {
            return new String(in.readAllBytes(), StandardCharsets.UTF_8);
        }
    }

    /** Expected ids: BERT's uncased vocabulary, where [CLS] is 101, [SEP] 102, hello 7592, world 2088. */
    @Test
    void readsTheBuiltInWordPiece() throws IOException {
        try (Tokenizer tokenizer = Tokenizer.of(minilm(), SpecialTokens.NONE)) {
            assertThat(tokenizer.encode("Hello world", true)).containsExactly(101, 7592, 2088, 102);
            assertThat(tokenizer.encode("Hello world", false)).containsExactly(7592, 2088);
            assertThat(tokenizer.encodePair("hello", "world")).containsExactly(101, 7592, 102, 2088, 102);
            Encoded pair = tokenizer.encodePairWithOffsets("hello", "a world");
            assertThat(pair.typeIds()).containsExactly(0, 0, 0, 1, 1, 1);
            assertThat(pair.starts()).containsExactly(-1, 0, -1, 0, 2, -1);
            assertThat(pair.ends()).containsExactly(-1, 5, -1, 1, 7, -1);
            assertThat(tokenizer.vocabSize()).isEqualTo(30522);
            assertThat(tokenizer.id("[SEP]")).isEqualTo(102);
            assertThat(tokenizer.token(7592)).isEqualTo("hello");
            assertThat(tokenizer.decode(new int[] {101, 7592, 2088, 102}, true)).isEqualTo("hello world");
        }
    }

    @Test
    void neitherTruncatesNorPads() {
        try (Tokenizer tokenizer = Tokenizer.of(byteLevel("null"), SpecialTokens.NONE)) {
            assertThat(tokenizer.encode("he".repeat(50), true)).hasSize(50);
            assertThat(tokenizer.encode("h", true)).hasSize(1);
            assertThat(tokenizer.encode("", true)).isEmpty();
        }
    }

    @Test
    void longTextsOfMiniLmAreNotCutAt128() throws IOException {
        try (Tokenizer tokenizer = Tokenizer.of(minilm(), SpecialTokens.NONE)) {
            assertThat(tokenizer.encode("hello ".repeat(1000), true)).hasSize(1002);
        }
    }

    @Test
    void offsetsCountJavaCharsAndKeepSpaces() {
        try (Tokenizer tokenizer = Tokenizer.of(byteLevel(TRIMMING), SpecialTokens.NONE)) {
            String text = "😀 he  ll<end>";
            Encoded encoded = tokenizer.encodeWithOffsets(text, false);
            // 4 bytes of one emoji (2 chars), " he", " ", " ", "ll", "<end>": the regex keeps the last space apart
            assertThat(encoded.starts()).containsExactly(0, 0, 0, 0, 2, 5, 6, 7, 9);
            assertThat(encoded.ends()).containsExactly(2, 2, 2, 2, 5, 6, 7, 9, 14);
            assertThat(encoded.within(List.of(new Span(6, 9))))
                    .containsExactly(false, false, false, false, false, false, true, true, false);
        }
    }

    @Test
    void loneSurrogatesBecomeReplacementCharacters() {
        try (Tokenizer tokenizer = Tokenizer.of(byteLevel("null"), SpecialTokens.NONE)) {
            String text = "a\uD83Db😀";
            Encoded encoded = tokenizer.encodeWithOffsets(text, false);
            assertThat(tokenizer.decode(encoded.ids(), false)).isEqualTo("a\uFFFDb😀");
            assertThat(encoded.ends()[encoded.ends().length - 1]).isEqualTo(text.length());
            assertThat(tokenizer.encode("\uDE00".repeat(100_000), false)).hasSize(300_000);
        }
    }

    @Test
    void nulAndControlCharactersSurvive() {
        try (Tokenizer tokenizer = Tokenizer.of(byteLevel("null"), SpecialTokens.NONE)) {
            String text = "a\0b\u0001\r\n\u2028";
            assertThat(tokenizer.decode(tokenizer.encode(text, false), false)).isEqualTo(text);
        }
    }

    @Test
    void streamingGivesWholeCharactersOnly() {
        try (Tokenizer tokenizer = Tokenizer.of(byteLevel("null"), SpecialTokens.NONE)) {
            String text = "he 😀é  漢字 ll\uFFFD!";
            StreamDecoder stream = tokenizer.stream();
            StringBuilder all = new StringBuilder();
            for (int id : tokenizer.encode(text, false)) {
                String piece = stream.next(id);
                assertThat(piece.isEmpty() || !Character.isHighSurrogate(piece.charAt(piece.length() - 1)))
                        .isTrue();
                all.append(piece);
            }
            all.append(stream.finish());
            assertThat(all).hasToString(text);
        }
    }

    @Test
    void aCharacterCutShortIsGivenAtTheEnd() {
        try (Tokenizer tokenizer = Tokenizer.of(byteLevel("null"), SpecialTokens.NONE)) {
            int[] ids = tokenizer.encode("h😀", false);
            StreamDecoder stream = tokenizer.stream();
            assertThat(stream.next(ids[0])).isEqualTo("h");
            assertThat(stream.next(ids[1])).isEmpty();
            assertThat(stream.next(ids[2])).isEmpty();
            assertThat(stream.finish()).isEqualTo("\uFFFD");
        }
    }

    @Test
    void specialTokensAreSkippedOnRequest() {
        try (Tokenizer tokenizer = Tokenizer.of(byteLevel("null"), SpecialTokens.NONE)) {
            int[] ids = tokenizer.encode("he<end>", false);
            assertThat(ids).containsExactly(256, 260);
            assertThat(tokenizer.decode(ids, true)).isEqualTo("he");
            assertThat(tokenizer.decode(ids, false)).isEqualTo("he<end>");
        }
    }

    @Test
    void eightThreadsGetTheSameIds() {
        try (Tokenizer tokenizer = Tokenizer.of(byteLevel("null"), SpecialTokens.NONE)) {
            int[] expected = tokenizer.encode("hello  he ll 😀", false);
            assertThat(IntStream.range(0, 2000).parallel().mapToObj(i -> tokenizer.encode("hello  he ll 😀", false)))
                    .allSatisfy(ids -> assertThat(ids).containsExactly(expected));
        }
    }

    @Test
    void badInputGetsASentence(@TempDir Path folder) throws IOException {
        assertThatThrownBy(() -> Tokenizer.open(folder))
                .isInstanceOf(EspalierException.class)
                .hasMessageContaining("tokenizer.json does not exist");
        Path file = folder.resolve("tokenizer.json");
        Files.writeString(file, "{\"model\":");
        assertThatThrownBy(() -> Tokenizer.open(folder))
                .isInstanceOf(EspalierException.class)
                .hasMessageContaining("tokenizer.json is not JSON");
        Files.writeString(file, "{}");
        assertThatThrownBy(() -> Tokenizer.open(folder))
                .isInstanceOf(EspalierException.class)
                .hasMessageContaining("no object \"model\"");
        Files.writeString(file, "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"a b\"]}}");
        assertThatThrownBy(() -> Tokenizer.open(file))
                .isInstanceOf(EspalierException.class)
                .hasMessageContaining("tokenizers library cannot read it");
        Files.writeString(file, "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":2000000000},\"merges\":[]}}");
        assertThatThrownBy(() -> Tokenizer.open(file))
                .isInstanceOf(EspalierException.class)
                .hasMessageContaining("token \"a\" has id 2000000000");
        Files.write(file, new byte[] {(byte) 0xFF, (byte) 0xFE});
        assertThatThrownBy(() -> Tokenizer.open(file))
                .isInstanceOf(EspalierException.class)
                .hasMessageContaining("is not UTF-8");
    }

    /** Each of these ends the process if it reaches the tokenizers library. */
    @ParameterizedTest
    @CsvSource(
            delimiter = '#',
            quoteCharacter = '`',
            value = {
                "normalizer # {'type':'Precompiled','precompiled_charsmap':''} # map of a Precompiled normalizer is damaged",
                "normalizer # {'type':'Sequence','normalizers':[{'type':'Precompiled','precompiled_charsmap':'/////////w=='}]} # map of a Precompiled",
                "pre_tokenizer # {'type':'FixedLength','length':0} # needs a length of 1 or more",
                "decoder # {'type':'Strip','content':' ','start':0,'stop':1} # Strip decoder with stop 1",
                "post_processor # {'type':'TemplateProcessing','single':[{'SpecialToken':{'id':'X','type_id':0}}],'pair':[],'special_tokens':{}} # names the token 'X'",
                "post_processor # {'type':'TemplateProcessing','single':[{'Sequence':{'id':'B','type_id':0}}],'pair':[{'Sequence':{'id':'A','type_id':0}}],'special_tokens':{}} # asks for a second one",
                "model # {'type':'BPE','vocab':{'h':0,'e':1,'he':2},'merges':[['h','e']],'continuing_subword_prefix':'@@'} # lacks the prefix",
            })
    void whatWouldEndTheProcessGetsASentence(String part, String value, String message) {
        String model = "{'type':'BPE','vocab':{'a':0},'merges':[]}";
        String json = (part.equals("model")
                        ? "{'model':" + value + "}"
                        : "{'model':" + model + ",'" + part + "':" + value + "}")
                .replace('\'', '"');
        assertThatThrownBy(() -> Tokenizer.of(json, SpecialTokens.NONE))
                .isInstanceOf(EspalierException.class)
                .hasMessageContaining(message.replace('\'', '"'));
    }

    @Test
    void unknownIdsAndUseAfterCloseAreRefused() {
        Tokenizer tokenizer = Tokenizer.of(byteLevel("null"), SpecialTokens.NONE);
        assertThatThrownBy(() -> tokenizer.decode(new int[] {261}, false))
                .isInstanceOf(EspalierException.class)
                .hasMessageContaining("token id 261 lies outside the tokenizer's vocabulary of 261");
        tokenizer.close();
        tokenizer.close();
        assertThatThrownBy(() -> tokenizer.encode("he", false))
                .isInstanceOf(EspalierException.class)
                .hasMessageContaining("closed");
    }

    @Test
    void specialTokensAreReadInEveryForm(@TempDir Path folder) throws IOException {
        Files.writeString(
                folder.resolve("special_tokens_map.json"), "{\"bos_token\":\"<old>\",\"pad_token\":\"<pad>\"}");
        Files.writeString(
                folder.resolve("tokenizer_config.json"),
                "{\"bos_token\":{\"content\":\"<s>\",\"lstrip\":false},\"eos_token\":\"</s>\",\"unk_token\":null,"
                        + "\"additional_special_tokens\":[\"<a>\",{\"content\":\"<b>\"}],\"model_max_length\":1e30}");
        SpecialTokens special = SpecialTokens.read(folder);
        assertThat(special)
                .isEqualTo(new SpecialTokens("<s>", "</s>", null, "<pad>", null, null, null, List.of("<a>", "<b>")));
        assertThat(special.variables())
                .containsKeys("bos_token", "eos_token", "pad_token")
                .doesNotContainKey("unk_token");
        Files.writeString(folder.resolve("tokenizer_config.json"), "{\"eos_token\":7}");
        assertThatThrownBy(() -> SpecialTokens.read(folder))
                .isInstanceOf(EspalierException.class)
                .hasMessageContaining("eos_token must be a string or an object with \"content\", found 7");
    }
}
