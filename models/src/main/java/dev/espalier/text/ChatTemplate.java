package dev.espalier.text;

import static dev.espalier.Check.check;

import dev.espalier.EspalierException;
import dev.espalier.text.jinja.Jinja;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Clock;
import java.time.ZoneId;
import java.util.ArrayList;
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

    /** {@code strftime_now} tells the local time, as Python's does. */
    private static final Clock CLOCK = Clock.system(ZoneId.systemDefault());

    private static final String TOOL_USE = "tool_use";

    private final String source;
    private final Jinja template;
    private final @Nullable Jinja toolTemplate; // for conversations with tools, where the model has two templates
    private final SpecialTokens special;
    private final Clock clock;

    private ChatTemplate(String source, @Nullable String toolSource, SpecialTokens special, Clock clock) {
        this.source = source;
        this.template = Jinja.parse(source);
        this.toolTemplate = toolSource == null ? null : Jinja.parse(toolSource);
        this.special = special;
        this.clock = clock;
    }

    /**
     * Parses a template.
     *
     * @param special what it finds under {@code bos_token}, {@code eos_token} and so on
     * @throws EspalierException naming the line of the first mistake
     */
    public static ChatTemplate of(String jinja, SpecialTokens special) {
        return new ChatTemplate(jinja, null, special, CLOCK);
    }

    static ChatTemplate of(String jinja, SpecialTokens special, Clock clock) {
        return new ChatTemplate(jinja, null, special, clock);
    }

    /**
     * The template of a Hugging Face folder: {@code chat_template.jinja}, or {@code chat_template} in
     * {@code tokenizer_config.json}, a string or a list of named ones; empty if there is neither.
     *
     * @throws EspalierException if a file cannot be read, none of several is called "default", or it does not parse
     */
    public static Optional<ChatTemplate> find(Path folder) {
        Path file = folder.resolve("chat_template.jinja");
        Map<String, String> named = new LinkedHashMap<>();
        if (Files.isRegularFile(file)) {
            named.put("default", JsonText.read(file));
            Path tools = folder.resolve("additional_chat_templates").resolve(TOOL_USE + ".jinja");
            if (Files.isRegularFile(tools)) {
                named.put(TOOL_USE, JsonText.read(tools));
            }
        } else if (Files.isRegularFile(folder.resolve("tokenizer_config.json"))) {
            file = folder.resolve("tokenizer_config.json");
            read(JsonText.object(file).get("chat_template"), file, named);
        }
        if (named.isEmpty()) {
            return Optional.empty();
        }
        String source = named.get("default");
        if (source == null) {
            throw new EspalierException(
                    "%s has the chat templates %s; one must be called \"default\"".formatted(file, named.keySet()));
        }
        try {
            return Optional.of(new ChatTemplate(source, named.get(TOOL_USE), SpecialTokens.read(folder), CLOCK));
        } catch (EspalierException e) {
            throw new EspalierException("%s: %s".formatted(file, e.getMessage()), e);
        }
    }

    private static void read(@Nullable Object value, Path file, Map<String, String> named) {
        if (value instanceof String only) {
            named.put("default", only);
        } else if (value instanceof List<?> several) {
            for (Object one : several) {
                check(
                        one instanceof Map<?, ?> map
                                && map.get("name") instanceof String
                                && map.get("template") instanceof String,
                        "%s: a list of chat templates must hold objects with \"name\" and \"template\", found %s",
                        file,
                        JsonText.brief(one));
                Map<?, ?> map = (Map<?, ?>) one;
                named.put(String.valueOf(map.get("name")), String.valueOf(map.get("template")));
            }
        } else {
            check(value == null, "%s: chat_template must be a string or a list, found %s", file, JsonText.brief(value));
        }
    }

    /** The template in GGUF metadata ({@code tokenizer.chat_template}); empty if there is none. */
    public static Optional<ChatTemplate> fromGguf(Map<String, Object> values) {
        return values.get("tokenizer.chat_template") instanceof String jinja
                ? Optional.of(of(jinja, SpecialTokens.fromGguf(values)))
                : Optional.empty();
    }

    /** The template's text. */
    public String source() {
        return source;
    }

    /**
     * The conversation as text, special tokens included: encode it without adding them again.
     *
     * @throws EspalierException if the template refuses the conversation or fails on it, naming its line
     */
    public String render(List<Map<String, Object>> messages, Options options) {
        return run(messages, options).text();
    }

    /**
     * The conversation with the assistant's turns marked, each with the token that ends it, so that a model trained on
     * them learns to stop. The generation prompt is never added and never marked.
     *
     * <p>What {@code {% generation %}} encloses is taken as the turn, with an EOS token right behind it. A template
     * without such tags is rendered up to each turn, with and without it: what the turn adds beyond the generation prompt
     * is what the model would have to write. White space behind the end of a turn is left out.
     *
     * @throws EspalierException as {@link #render}; or if a turn's place cannot be told because the template writes the
     *     text before it differently once more follows
     */
    public Rendered supervisedSpans(List<Map<String, Object>> messages, Options options) {
        Options closed = options.withGenerationPrompt(false);
        Jinja.Result whole = run(messages, closed);
        List<Span> spans = new ArrayList<>();
        String eos = special.eos() == null ? "" : special.eos();
        for (Jinja.Block block : whole.generated()) {
            boolean stops = whole.text().startsWith(eos, block.end());
            spans.add(new Span(block.start(), stops ? block.end() + eos.length() : block.end()));
        }
        return new Rendered(
                whole.text(), spans.isEmpty() ? new TurnFinder(this, messages, closed, whole.text()).spans() : spans);
    }

    private Jinja.Result run(List<Map<String, Object>> messages, Options options) {
        Map<String, @Nullable Object> variables = new LinkedHashMap<>(special.variables());
        variables.put("documents", null);
        variables.putAll(options.variables());
        variables.put(
                "messages", messages.stream().map(ChatTemplate::withReasoning).toList());
        variables.put("tools", options.tools());
        variables.put("add_generation_prompt", options.addGenerationPrompt());
        Jinja chosen = options.tools() != null && toolTemplate != null ? toolTemplate : template;
        return chosen.render(variables, clock);
    }

    /** Reasoning goes by three names; as in transformers, a template finds it under the two that templates read. */
    private static Map<String, Object> withReasoning(Map<String, Object> message) {
        for (String name : List.of("reasoning_content", "thinking", "reasoning")) {
            Object reasoning = message.get(name);
            if (reasoning != null) {
                Map<String, Object> named = new LinkedHashMap<>();
                named.put("thinking", reasoning);
                named.putAll(message);
                named.put("reasoning_content", reasoning);
                return named;
            }
        }
        return message;
    }
}
