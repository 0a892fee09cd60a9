package dev.espalier.text;

import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import org.jspecify.annotations.Nullable;

/**
 * A model's own way of writing a conversation, in Jinja, rendered as transformers' {@code apply_chat_template} does.
 *
 * <p>A message is a map with {@code role} and {@code content} and whatever else the template reads ({@code tool_calls},
 * {@code reasoning_content}); values are strings, numbers, booleans, null, lists and maps. Immutable, for any thread.
 */
@SuppressWarnings("DoNotCallSuggester") // until rendering lands
public final class ChatTemplate {

    /**
     * What else a template is told.
     *
     * @param addGenerationPrompt whether the text ends by opening the assistant's turn
     * @param tools functions the assistant may call, as JSON schemas; null for none
     * @param variables further variables, such as {@code enable_thinking}
     */
    public record Options(
            boolean addGenerationPrompt, @Nullable List<Map<String, Object>> tools, Map<String, Object> variables) {

        /** No generation prompt, no tools, no variables. */
        public static final Options DEFAULT = new Options(false, null, Map.of());

        public Options {
            variables = new LinkedHashMap<>(variables);
        }

        /** These, opening the assistant's turn or not. */
        public Options withGenerationPrompt(boolean add) {
            return new Options(add, tools, variables);
        }
    }

    private final String source;
    private final SpecialTokens special;

    private ChatTemplate(String source, SpecialTokens special) {
        this.source = source;
        this.special = special;
    }

    /** Parses a template; errors name its line. */
    public static ChatTemplate of(String jinja, SpecialTokens special) {
        return new ChatTemplate(jinja, special);
    }

    /** The template of a Hugging Face folder: {@code chat_template.jinja}, or the one in {@code tokenizer_config.json}. */
    public static Optional<ChatTemplate> find(Path folder) {
        throw new UnsupportedOperationException("next landing: " + folder);
    }

    /** The template in GGUF metadata ({@code tokenizer.chat_template}). */
    public static Optional<ChatTemplate> fromGguf(Map<String, Object> values) {
        return Optional.ofNullable(values.get("tokenizer.chat_template"))
                .map(template -> of((String) template, SpecialTokens.fromGguf(values)));
    }

    /** The template's text. */
    public String source() {
        return source;
    }

    /** The conversation as text. */
    public String render(List<Map<String, Object>> messages, Options options) {
        throw new UnsupportedOperationException("next landing: " + special + messages + options);
    }

    /**
     * The conversation with the assistant's turns marked, each with the token that ends it, so that a model trained on
     * them learns to stop. The generation prompt is not added.
     */
    public Rendered supervisedSpans(List<Map<String, Object>> messages, Options options) {
        throw new UnsupportedOperationException("next landing: " + messages + options);
    }
}
