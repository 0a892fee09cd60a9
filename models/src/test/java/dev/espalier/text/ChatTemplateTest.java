package dev.espalier.text;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.espalier.EspalierException;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Clock;
import java.time.Instant;
import java.time.ZoneOffset;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class ChatTemplateTest {

    private static final SpecialTokens SPECIAL =
            new SpecialTokens("<s>", "</s>", null, null, null, null, null, List.of());

    private static final String CHATML =
            "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}"
                    + "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

    private static final List<Map<String, Object>> TALK = List.of(
            message("user", "Hi 🙂"),
            message("assistant", " One. "),
            message("user", "And?"),
            message("assistant", "Two."));

    private static Map<String, Object> message(String role, String content) {
        return Map.of("role", role, "content", content);
    }

    private static List<String> supervised(String template, List<Map<String, Object>> messages) {
        Rendered rendered = ChatTemplate.of(template, SPECIAL).supervisedSpans(messages, ChatTemplate.Options.DEFAULT);
        return rendered.assistant().stream()
                .map(span -> rendered.text().substring(span.start(), span.end()))
                .toList();
    }

    @Test
    void turnsOfATemplateWithoutTagsAreFoundWithTheirEnd() {
        assertThat(supervised(CHATML, TALK)).containsExactly(" One. <|im_end|>", "Two.<|im_end|>");
    }

    @Test
    void theUsersTurnsAreNeverSupervised() {
        Rendered rendered = ChatTemplate.of(CHATML, SPECIAL).supervisedSpans(TALK, ChatTemplate.Options.DEFAULT);
        StringBuilder rest = new StringBuilder(rendered.text());
        for (int i = rendered.assistant().size() - 1; i >= 0; i--) {
            Span span = rendered.assistant().get(i);
            rest.delete(span.start(), span.end());
        }
        assertThat(rest)
                .hasToString("<|im_start|>user\nHi 🙂<|im_end|>\n<|im_start|>assistant\n\n"
                        + "<|im_start|>user\nAnd?<|im_end|>\n<|im_start|>assistant\n\n");
    }

    @Test
    void generationTagsAreTakenAtTheirWordAndAnEndTokenBehindThemIsAdded() {
        String template = "{% for m in messages %}{% if m.role == 'assistant' %}A:"
                + "{% generation %}{{ m.content }}{% endgeneration %}{{ eos_token }}{% else %}U:{{ m.content }}{% endif %}{% endfor %}";
        assertThat(supervised(template, TALK)).containsExactly(" One. </s>", "Two.</s>");
    }

    @Test
    void trimmedContentIsFound() {
        String template = CHATML.replace("m.content", "(m.content | trim)");
        assertThat(supervised(template, TALK)).containsExactly("One.<|im_end|>", "Two.<|im_end|>");
    }

    /** Phi writes an EOS behind the last turn only. */
    @Test
    void aTemplateThatClosesTheConversationIsRead() {
        String template = "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content + '<|end|>' }}{% endfor %}"
                + "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% else %}{{ '<|endoftext|>' }}{% endif %}";
        assertThat(supervised(template, TALK)).containsExactly(" One. <|end|>", "Two.<|end|><|endoftext|>");
    }

    /** Qwen3 shows the reasoning of the last turn only, and an empty one where there is none. */
    @Test
    void aTemplateThatForgetsReasoningIsRead() {
        String template = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}"
                + "{% if m.role == 'assistant' and loop.last %}{{ '<think>\\n' ~ (m.reasoning_content or '') ~ '\\n</think>\\n\\n' }}{% endif %}"
                + "{{ m.content + '<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";
        assertThat(supervised(template, TALK))
                .containsExactly(" One. <|im_end|>", "<think>\n\n</think>\n\nTwo.<|im_end|>");
    }

    /** DeepSeek-R1's prompt opens the reasoning, which its record of a turn leaves out. */
    @Test
    void aPromptThatTheRecordDoesNotRepeatIsRead() {
        String template = "{% for m in messages %}{% if m.role == 'user' %}{{ '<U>' + m.content }}{% else %}"
                + "{{ '<A>' + m.content.split('</think>')[-1] + eos_token }}{% endif %}{% endfor %}"
                + "{% if add_generation_prompt %}{{ '<A><think>\\n' }}{% endif %}";
        assertThat(supervised(template, TALK)).containsExactly(" One. </s>".substring(1), "Two.</s>");
    }

    @Test
    void toolCallsWithoutTextAreSupervised() {
        String template =
                "{% for m in messages %}<{{ m.role }}>{{ m.content or (m.tool_calls | tojson) }}</{{ m.role }}>{% endfor %}"
                        + "{% if add_generation_prompt %}<assistant>{% endif %}";
        Map<String, Object> call = new LinkedHashMap<>();
        call.put("role", "assistant");
        call.put("content", null);
        call.put("tool_calls", List.of(Map.of("name", "f")));
        List<Map<String, Object>> talk =
                List.of(message("user", "Go"), call, message("tool", "3"), message("assistant", "It is 3."));
        assertThat(supervised(template, talk))
                .containsExactly("[{\"name\": \"f\"}]</assistant>", "It is 3.</assistant>");
    }

    @Test
    void aConversationThatTheAssistantOpensIsRead() {
        String template =
                "{% if messages[0].role != 'user' and messages | length < 1 %}{{ raise_exception('empty') }}{% endif %}"
                        + CHATML;
        assertThat(supervised(template, List.of(message("assistant", "First."), message("user", "Yes?"))))
                .containsExactly("First.<|im_end|>");
    }

    @Test
    void lineEndsThatCloseATurnStay() {
        String template = "{% for m in messages %}{{ m.role ~ ': ' ~ m.content ~ '\\n' }}{% endfor %}"
                + "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}";
        assertThat(supervised(template, List.of(message("user", "a"), message("assistant", "b"))))
                .containsExactly("b\n");
    }

    @Test
    void withoutAssistantNothingIsSupervised() {
        assertThat(supervised(CHATML, List.of(message("user", "Hi")))).isEmpty();
    }

    @Test
    void aTemplateWhoseTurnsCannotBeToldIsRefused() {
        String template = "{% for m in messages %}{{ loop.revindex }}{{ m.role }}{{ m.content | length }};{% endfor %}";
        assertThatThrownBy(() -> supervised(template, TALK))
                .isInstanceOf(EspalierException.class)
                .hasMessageContaining("message 2 (assistant)")
                .hasMessageContaining("{% generation %}");
    }

    @Test
    void reasoningIsFoundUnderTheNamesThatTemplatesRead() {
        ChatTemplate template = ChatTemplate.of(
                "{% for m in messages %}{{ m.reasoning_content }}/{{ m.thinking }};{% endfor %}", SPECIAL);
        List<Map<String, Object>> messages = new ArrayList<>();
        for (String name : List.of("reasoning", "thinking", "reasoning_content")) {
            messages.add(Map.of("role", "assistant", "content", "x", name, name));
        }
        assertThat(template.render(messages, ChatTemplate.Options.DEFAULT))
                .isEqualTo("reasoning/reasoning;thinking/thinking;reasoning_content/reasoning_content;");
    }

    @Test
    void variablesToolsAndTheClockReachTheTemplate() {
        ChatTemplate template = ChatTemplate.of(
                "{{ bos_token }}{{ tools | length }}{{ enable_thinking }}{{ strftime_now('%Y') }}{{ documents is none }}{{ pad_token is defined }}",
                SPECIAL, Clock.fixed(Instant.parse("2031-05-06T00:00:00Z"), ZoneOffset.UTC));
        assertThat(template.render(
                        List.of(),
                        new ChatTemplate.Options(false, List.of(Map.of()), Map.of("enable_thinking", false))))
                .isEqualTo("<s>1False2031TrueFalse");
    }

    @Test
    void templatesAreFoundWhereFoldersKeepThem(@TempDir Path folder) throws IOException {
        assertThat(ChatTemplate.find(folder)).isEmpty();
        Path config = folder.resolve("tokenizer_config.json");
        Files.writeString(config, "{\"eos_token\":\"</s>\",\"chat_template\":\"one{{ eos_token }}\"}");
        assertThat(render(folder, null)).isEqualTo("one</s>");
        Files.writeString(
                config,
                "{\"chat_template\":[{\"name\":\"default\",\"template\":\"plain\"},{\"name\":\"tool_use\",\"template\":\"tools\"}]}");
        assertThat(render(folder, null)).isEqualTo("plain");
        assertThat(render(folder, List.of(Map.of()))).isEqualTo("tools");
        Files.writeString(config, "{\"chat_template\":[{\"name\":\"rag\",\"template\":\"x\"}]}");
        assertThatThrownBy(() -> ChatTemplate.find(folder))
                .isInstanceOf(EspalierException.class)
                .hasMessageContaining("has the chat templates [rag]; one must be called \"default\"");
        Files.writeString(config, "{\"chat_template\":3}");
        assertThatThrownBy(() -> ChatTemplate.find(folder))
                .isInstanceOf(EspalierException.class)
                .hasMessageContaining("chat_template must be a string or a list, found 3");
        Files.writeString(folder.resolve("chat_template.jinja"), "file");
        assertThat(render(folder, null)).isEqualTo("file");
        Files.writeString(folder.resolve("chat_template.jinja"), "\n{% if %}");
        assertThatThrownBy(() -> ChatTemplate.find(folder))
                .isInstanceOf(EspalierException.class)
                .hasMessageContaining("chat_template.jinja: chat template, line 2: expected an expression");
    }

    private static String render(Path folder, List<Map<String, Object>> tools) {
        return ChatTemplate.find(folder)
                .orElseThrow()
                .render(List.of(), new ChatTemplate.Options(false, tools, Map.of()));
    }
}
