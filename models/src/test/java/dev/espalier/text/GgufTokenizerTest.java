package dev.espalier.text;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.espalier.EspalierException;
import dev.espalier.io.Gguf;
import java.io.IOException;
import java.io.InputStream;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Assumptions;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;
import tools.jackson.databind.JsonNode;
import tools.jackson.databind.json.JsonMapper;

/** Expected ids are transformers', written by tools/golden/make_tokenizer_fixtures.py. */
class GgufTokenizerTest {

    private static final JsonNode FIXTURES = read();

    private static JsonNode read() {
        try (InputStream in = GgufTokenizerTest.class.getResourceAsStream("tokenizers.json")) {
            return new JsonMapper().readTree(in);
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }

    private static Map<String, Object> smolLm2() {
        String models = System.getenv("ESPALIER_MODELS");
        Path folder = models != null
                ? Path.of(models)
                : Path.of(System.getProperty("espalier.root", "..")).resolve("../shared/models");
        Path file = folder.resolve("SmolLM2-135M-Instruct.Q4_1.gguf");
        Assumptions.assumeTrue(
                Files.exists(file), "skipped: no SmolLM2-135M-Instruct.Q4_1.gguf; set ESPALIER_MODELS to its folder");
        try (Gguf gguf = Gguf.open(file)) {
            return new HashMap<>(gguf.values());
        }
    }

    private static List<Integer> list(int[] ids) {
        return Arrays.stream(ids).boxed().toList();
    }

    private static List<Integer> ids(JsonNode array) {
        List<Integer> ids = new ArrayList<>();
        array.forEach(id -> ids.add(id.asInt()));
        return ids;
    }

    @Test
    void smolLm2GivesTwoHundredStringsTheIdsOfTransformers() {
        JsonNode texts = FIXTURES.path("texts");
        assertThat(texts.size()).isEqualTo(200);
        try (Tokenizer tokenizer = Tokenizer.fromGguf(smolLm2())) {
            for (int i = 0; i < texts.size(); i++) {
                String text = texts.path(i).asString();
                int[] ids = tokenizer.encode(text, true);
                assertThat(list(ids))
                        .as(text)
                        .isEqualTo(ids(FIXTURES.path("smollm").path(i)));
                assertThat(tokenizer.decode(ids, false)).isEqualTo(text);
            }
            assertThat(tokenizer.vocabSize()).isEqualTo(49152);
            assertThat(tokenizer.special().eos()).isEqualTo("<|im_end|>");
            assertThat(tokenizer.id(tokenizer.special().eos())).isEqualTo(2);
            assertThat(tokenizer.special().bos()).isEqualTo("<|im_start|>");
        }
    }

    @ParameterizedTest
    @ValueSource(strings = {"gpt-2", "llama-bpe", "qwen2", "tekken"})
    void otherSplitsGiveTheIdsOfTransformers(String pre) {
        Map<String, Object> values = smolLm2();
        values.put("tokenizer.ggml.pre", pre);
        JsonNode texts = FIXTURES.path("texts");
        try (Tokenizer tokenizer = Tokenizer.fromGguf(values)) {
            for (int i = 0; i < texts.size(); i++) {
                String text = texts.path(i).asString();
                // Qwen2 composes accents first (NFC), which transformers' reader of GGUF leaves out.
                if (!pre.equals("qwen2") || java.text.Normalizer.isNormalized(text, java.text.Normalizer.Form.NFC)) {
                    assertThat(list(tokenizer.encode(text, false)))
                            .as(text)
                            .isEqualTo(ids(FIXTURES.path("splits").path(pre).path(i)));
                }
            }
        }
    }

    @Test
    void streamedPiecesJoinToTheDecodedText() {
        try (Tokenizer tokenizer = Tokenizer.fromGguf(smolLm2())) {
            for (JsonNode text : FIXTURES.path("texts")) {
                int[] ids = tokenizer.encode(text.asString(), false);
                assertThat(streamed(tokenizer, ids)).isEqualTo(tokenizer.decode(ids, true));
            }
        }
    }

    private static String streamed(Tokenizer tokenizer, int[] ids) {
        StreamDecoder stream = tokenizer.stream();
        StringBuilder joined = new StringBuilder();
        for (int id : ids) {
            joined.append(stream.next(id));
        }
        return joined.append(stream.finish()).toString();
    }

    @Test
    void offsetsCoverTheTextWithoutGaps() {
        try (Tokenizer tokenizer = Tokenizer.fromGguf(smolLm2())) {
            for (JsonNode text : FIXTURES.path("texts")) {
                Encoded encoded = tokenizer.encodeWithOffsets(text.asString(), false);
                int end = 0;
                for (int i = 0; i < encoded.ids().length; i++) {
                    assertThat(encoded.starts()[i]).as(text.asString()).isLessThanOrEqualTo(end);
                    assertThat(encoded.ends()[i]).isGreaterThanOrEqualTo(end);
                    end = encoded.ends()[i];
                }
                assertThat(end).isEqualTo(text.asString().length());
            }
        }
    }

    @Test
    void smolLm2sOwnTemplateRendersAndEncodesAsTransformersDoes() {
        Map<String, Object> values = smolLm2();
        ChatTemplate template = ChatTemplate.fromGguf(values).orElseThrow();
        try (Tokenizer tokenizer = Tokenizer.fromGguf(values)) {
            for (JsonNode chat : FIXTURES.path("chats")) {
                String text = template.render(
                        messages(chat),
                        ChatTemplate.Options.DEFAULT.withGenerationPrompt(
                                chat.path("prompt").asBoolean()));
                assertThat(text).isEqualTo(chat.path("text").asString());
                assertThat(list(tokenizer.encode(text, false))).isEqualTo(ids(chat.path("ids")));
            }
        }
    }

    @Test
    void theTokensOfSmolLm2sTurnsEndWithItsEndOfTurn() {
        Map<String, Object> values = smolLm2();
        ChatTemplate template = ChatTemplate.fromGguf(values).orElseThrow();
        List<Map<String, Object>> talk = List.of(
                Map.of("role", "user", "content", "Where?"),
                Map.of("role", "assistant", "content", "In Bern 🐻."),
                Map.of("role", "user", "content", "When?"),
                Map.of("role", "assistant", "content", " At 9."));
        try (Tokenizer tokenizer = Tokenizer.fromGguf(values)) {
            Rendered rendered = template.supervisedSpans(talk, ChatTemplate.Options.DEFAULT);
            Encoded encoded = tokenizer.encodeWithOffsets(rendered.text(), false);
            boolean[] supervised = encoded.within(rendered.assistant());
            StringBuilder marked = new StringBuilder();
            for (int i = 0, from = 0; i <= supervised.length; i++) {
                if (i == supervised.length || (i > from && supervised[i] != supervised[from])) {
                    String text = tokenizer.decode(Arrays.copyOfRange(encoded.ids(), from, i), false);
                    marked.append(supervised[from] ? "[" + text + "]" : text);
                    from = i;
                }
            }
            assertThat(marked)
                    .hasToString(rendered.text()
                            .replace("In Bern 🐻.<|im_end|>", "[In Bern 🐻.<|im_end|>]")
                            .replace(" At 9.<|im_end|>", "[ At 9.<|im_end|>]"));
        }
    }

    private static List<Map<String, Object>> messages(JsonNode chat) {
        List<Map<String, Object>> messages = new ArrayList<>();
        for (JsonNode message : chat.path("messages")) {
            messages.add(Map.of(
                    "role",
                    message.path("role").asString(),
                    "content",
                    message.path("content").asString()));
        }
        return messages;
    }

    private static Map<String, Object> sentencePiece() {
        JsonNode fixture = FIXTURES.path("sentencepiece");
        Map<String, Object> values = new HashMap<>();
        List<String> tokens = new ArrayList<>();
        List<Double> scores = new ArrayList<>();
        List<Long> types = new ArrayList<>();
        fixture.path("tokens").forEach(token -> tokens.add(token.asString()));
        fixture.path("scores").forEach(score -> scores.add(score.asDouble()));
        fixture.path("types").forEach(type -> types.add(type.asLong()));
        values.put("tokenizer.ggml.model", "llama");
        values.put("tokenizer.ggml.tokens", tokens);
        values.put("tokenizer.ggml.scores", scores);
        values.put("tokenizer.ggml.token_type", types);
        values.put("tokenizer.ggml.bos_token_id", 1L);
        values.put("tokenizer.ggml.eos_token_id", 2L);
        values.put("tokenizer.ggml.unknown_token_id", 0L);
        return values;
    }

    @ParameterizedTest
    @ValueSource(strings = {"prefix", "bare"})
    void sentencePieceGivesTheIdsOfTransformers(String kind) {
        Map<String, Object> values = sentencePiece();
        values.put("tokenizer.ggml.add_space_prefix", kind.equals("prefix"));
        JsonNode fixture = FIXTURES.path("sentencepiece");
        try (Tokenizer tokenizer = Tokenizer.fromGguf(values)) {
            for (int i = 0; i < fixture.path("texts").size(); i++) {
                String text = fixture.path("texts").path(i).asString();
                int[] ids = tokenizer.encode(text, true);
                assertThat(list(ids)).as(text).isEqualTo(ids(fixture.path(kind).path(i)));
                assertThat(tokenizer.decode(ids, true))
                        .isEqualTo(fixture.path(kind + "_decoded").path(i).asString());
                assertThat(streamed(tokenizer, ids)).isEqualTo(tokenizer.decode(ids, true));
            }
        }
    }

    @Test
    void bosAndEosAreAddedAsTheFlagsSay() {
        Map<String, Object> values = sentencePiece();
        values.put("tokenizer.ggml.add_eos_token", true);
        try (Tokenizer tokenizer = Tokenizer.fromGguf(values)) {
            int[] ids = tokenizer.encode("a", true);
            assertThat(ids[0]).isEqualTo(1);
            assertThat(ids[ids.length - 1]).isEqualTo(2);
            assertThat(tokenizer.encode("a", false)).isEqualTo(Arrays.copyOfRange(ids, 1, ids.length - 1));
        }
        values.put("tokenizer.ggml.add_eos_token", false);
        values.put("tokenizer.ggml.add_bos_token", false);
        try (Tokenizer tokenizer = Tokenizer.fromGguf(values)) {
            assertThat(tokenizer.encode("a", true)).isEqualTo(tokenizer.encode("a", false));
        }
    }

    @Test
    void damagedMetadataGetsASentence() {
        refused(Map.of(), "the GGUF has no tokenizer.ggml.tokens");
        refused(Map.of("tokenizer.ggml.tokens", List.of(1L)), "holds 1, which is no string");
        refused(
                Map.of("tokenizer.ggml.tokens", List.of("a"), "tokenizer.ggml.model", "bert"),
                "tokenizer is of kind \"bert\"; gpt2 (byte-level BPE) and llama (SentencePiece BPE) are known");
        refused(
                Map.of(
                        "tokenizer.ggml.tokens",
                        List.of("a"),
                        "tokenizer.ggml.model",
                        "gpt2",
                        "tokenizer.ggml.pre",
                        "chameleon"),
                "pre-tokenizer is \"chameleon\"; known are [command-r, dbrx,");
        refused(
                Map.of("tokenizer.ggml.tokens", List.of("a"), "tokenizer.ggml.eos_token_id", 7L),
                "tokenizer.ggml.eos_token_id is 7; it must be an id below 1");
        refused(
                Map.of(
                        "tokenizer.ggml.tokens",
                        List.of("a", "b"),
                        "tokenizer.ggml.model",
                        "gpt2",
                        "tokenizer.ggml.pre",
                        "gpt-2",
                        "tokenizer.ggml.merges",
                        List.of("ab")),
                "merge \"ab\" is not two pieces");
        refused(
                Map.of(
                        "tokenizer.ggml.tokens",
                        List.of("a", "b"),
                        "tokenizer.ggml.model",
                        "llama",
                        "tokenizer.ggml.scores",
                        List.of(0.0)),
                "has 1 token scores for 2 tokens");
        refused(
                Map.of(
                        "tokenizer.ggml.tokens",
                        List.of("a"),
                        "tokenizer.ggml.model",
                        "gpt2",
                        "tokenizer.ggml.token_type",
                        List.of(1L, 1L)),
                "has 2 values in tokenizer.ggml.token_type for 1 tokens");
        refused(
                Map.of(
                        "tokenizer.ggml.tokens",
                        List.of("a"),
                        "tokenizer.ggml.model",
                        "llama",
                        "general.architecture",
                        "gemma2"),
                "architecture is gemma2");
    }

    private static void refused(Map<String, Object> values, String message) {
        assertThatThrownBy(() -> Tokenizer.fromGguf(values))
                .isInstanceOf(EspalierException.class)
                .hasMessageContaining(message);
    }
}
