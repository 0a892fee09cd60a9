package dev.espalier.data;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import dev.espalier.EspalierException;
import dev.espalier.data.Encoder.Options;
import dev.espalier.data.Encoder.Supervise;
import dev.espalier.io.Gguf;
import dev.espalier.text.ChatTemplate;
import dev.espalier.text.Tokenizer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;

/** Words a to j are 0 to 9, &lt;bos&gt; 10, &lt;eos&gt; 11, &lt;turn&gt; 12. */
class EncoderChatTest {

    private static final String TEMPLATE =
            "{{ bos_token }}{% for m in messages %}<turn>{{ 'u' if m.role == 'user' else 'b' }} "
                    + "{{ m.content }}<eos>{% endfor %}{% if add_generation_prompt %}<turn>b {% endif %}";

    private static final Example.Chat CHAT = new Example.Chat(
            List.of(
                    new Turn("user", "c d"),
                    new Turn("assistant", "e f"),
                    new Turn("user", "g"),
                    new Turn("assistant", "h i")),
            List.of(),
            "a.jsonl:1");

    private final Tokenizer tokenizer = EncoderTest.words("<eos>");

    @AfterEach
    void close() {
        tokenizer.close();
    }

    private Encoder encoder(String template, int maxLength, boolean truncate, Supervise supervise) {
        return new Encoder(
                tokenizer,
                ChatTemplate.of(template, tokenizer.special()),
                null,
                new Options(maxLength, truncate, supervise, Map.of()));
    }

    private void refuses(Encoder encoder, Example example, String message) {
        assertThatThrownBy(() -> encoder.encode(example))
                .isInstanceOf(EspalierException.class)
                .hasMessage(message);
    }

    @Test
    void theAssistantsTurnsAndTheirEndsAreTheTargets() {
        Encoder encoder = encoder(TEMPLATE, 32, false, Supervise.ANSWERS);
        Encoding encoding = encoder.encode(CHAT);
        // One BOS, the template's. "u" is unknown and becomes a (0).
        assertThat(encoding.ids()).containsExactly(10, 12, 0, 2, 3, 11, 12, 1, 4, 5, 11, 12, 0, 6, 11, 12, 1, 7, 8, 11);
        assertThat(encoder.preview(encoding))
                .isEqualTo("<bos> <turn> a c d <eos> <turn> b[[e f <eos>]]<turn> a g <eos> <turn> b[[h i <eos>]]");
    }

    @Test
    void theLastTurnAloneMayBeTheTarget() {
        Encoder encoder = encoder(TEMPLATE, 32, false, Supervise.LAST_TURN);
        assertThat(encoder.preview(encoder.encode(CHAT)))
                .isEqualTo("<bos> <turn> a c d <eos> <turn> b e f <eos> <turn> a g <eos> <turn> b[[h i <eos>]]");
    }

    @Test
    void aTurnOfWeightZeroIsNoTarget() {
        Encoder encoder = encoder(TEMPLATE, 32, false, Supervise.ANSWERS);
        Example.Chat chat = new Example.Chat(
                List.of(
                        new Turn("user", "c"),
                        new Turn("assistant", "e"),
                        new Turn("user", "g"),
                        new Turn("assistant", "h", Map.of("weight", 0))),
                List.of(),
                "a.jsonl:2");
        assertThat(encoder.preview(encoder.encode(chat)))
                .isEqualTo("<bos> <turn> a c <eos> <turn> b[[e <eos>]]<turn> a g <eos> <turn> b h <eos>");
    }

    @Test
    void generationTagsOfTheTemplateDecide() {
        String tagged =
                "{% for m in messages %}<turn>{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<eos>"
                        + "{% endgeneration %}{% else %}{{ m.content }}<eos>{% endif %}{% endfor %}";
        Encoder encoder = encoder(tagged, 32, false, Supervise.ANSWERS);
        assertThat(encoder.preview(encoder.encode(CHAT)))
                .isEqualTo("<turn> c d <eos> <turn>[[e f <eos>]]<turn> g <eos> <turn>[[h i <eos>]]");
    }

    @Test
    void aTemplateThatNeverStopsIsRefused() {
        String endless = "{% for m in messages %}<turn>{{ m.content }} {% endfor %}";
        refuses(
                encoder(endless, 32, false, Supervise.ANSWERS),
                CHAT,
                "a.jsonl:1: the chat template ends the assistant's turn with no special token, so the model would never "
                        + "learn to stop; write {{ eos_token }} behind the assistant's content");
    }

    @Test
    void aTemplateThatMarksEverythingIsRefused() {
        String greedy =
                "{% generation %}{% for m in messages %}<turn>{{ m.content }}<eos>{% endfor %}{% endgeneration %}";
        refuses(
                encoder(greedy, 32, false, Supervise.ANSWERS),
                CHAT,
                "a.jsonl:1: the chat template marks every token as the assistant's, the user's too; check its "
                        + "generation tags");
    }

    @Test
    void longChatsAreRefusedOrCutButNeverToNothing() {
        refuses(
                encoder(TEMPLATE, 8, false, Supervise.ANSWERS),
                CHAT,
                "a.jsonl:1: 20 tokens, but the model takes 8; shorten the text or set truncate: true");
        refuses(
                encoder(TEMPLATE, 8, true, Supervise.ANSWERS),
                CHAT,
                "a.jsonl:1: all 6 supervised of 20 tokens lie behind the 8 that the model takes; shorten the prompt");
        Encoding cut = encoder(TEMPLATE, 10, true, Supervise.ANSWERS).encode(CHAT);
        assertThat(cut.ids()).hasSize(10);
        assertThat(cut.targets()).isEqualTo(2);
    }

    @Test
    void whatTheTemplateRaisesNamesTheRow() {
        assertThatThrownBy(() -> encoder("{{ raise_exception('roles must alternate') }}", 32, false, Supervise.ANSWERS)
                        .encode(CHAT))
                .isInstanceOf(EspalierException.class)
                .hasMessageStartingWith("a.jsonl:1: ")
                .hasMessageContaining("roles must alternate");
    }

    /** The template of SmolLM2 adds a system turn where there is none and has no generation tags. */
    @Test
    void aPublicModelLearnsItsAnswersAndToStop() {
        String models = System.getenv("ESPALIER_MODELS");
        Path folder = models == null
                ? Path.of(System.getProperty("espalier.root", ".."), "..", "shared", "models")
                : Path.of(models);
        Path file = folder.resolve("SmolLM2-135M-Instruct.Q4_1.gguf");
        assumeTrue(
                Files.exists(file), "skipped: no SmolLM2-135M-Instruct.Q4_1.gguf; set ESPALIER_MODELS to its folder");
        try (Gguf gguf = Gguf.open(file);
                Tokenizer smol = Tokenizer.fromGguf(gguf.values())) {
            ChatTemplate template = ChatTemplate.fromGguf(gguf.values()).orElseThrow();
            Encoder encoder = new Encoder(smol, template, null, Options.of(128));
            Example.Chat chat = new Example.Chat(
                    List.of(
                            new Turn("user", "What is the capital of France?"),
                            new Turn("assistant", "Paris."),
                            new Turn("user", "And of Peru?"),
                            new Turn("assistant", "Lima.")),
                    List.of(),
                    "a.jsonl:1");
            assertThat(encoder.preview(encoder.encode(chat))).isEqualTo("""
                    <|im_start|>system
                    You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>
                    <|im_start|>user
                    What is the capital of France?<|im_end|>
                    <|im_start|>assistant
                    [[Paris.<|im_end|>]]
                    <|im_start|>user
                    And of Peru?<|im_end|>
                    <|im_start|>assistant
                    [[Lima.<|im_end|>]]
                    """);
        }
    }
}
