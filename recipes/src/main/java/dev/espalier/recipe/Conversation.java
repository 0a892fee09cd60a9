package dev.espalier.recipe;

import static dev.espalier.Check.check;

import dev.espalier.model.GenerationConfig;
import dev.espalier.model.TextGenerator;
import dev.espalier.tensor.Seed;
import dev.espalier.text.ChatTemplate;
import dev.espalier.text.StreamDecoder;
import dev.espalier.text.Tokenizer;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.function.Consumer;
import org.jspecify.annotations.Nullable;

/** A conversation with a language model: each answer sees all turns before it. */
public final class Conversation {

    /**
     * What the model answered.
     *
     * @param tokens how many it took
     * @param finish why it ends
     */
    public record Answer(String text, int tokens, TextGenerator.Finish finish) {}

    private final LoadedModel loaded;
    private final @Nullable ChatTemplate template;
    private final List<Map<String, Object>> turns = new ArrayList<>();

    /**
     * @param system the system message, or null
     * @param raw whether prompts are continued as they stand, without the chat template; so are those of a model that has none
     */
    public Conversation(LoadedModel loaded, @Nullable String system, boolean raw) {
        this.loaded = loaded;
        this.template = raw ? null : loaded.chatTemplate().orElse(null);
        if (system != null) {
            check(
                    template != null,
                    "a system message needs a chat template, and the model has none; put it into the prompt");
            turns.add(Map.of("role", "system", "content", system));
        }
    }

    /**
     * Says something and waits for the answer.
     *
     * @param config how to generate; the model's stop tokens are in {@link dev.espalier.model.Pretrained#generation()}
     * @param listener told each piece of the answer as it comes
     */
    public Answer say(String text, GenerationConfig config, Seed seed, Consumer<String> listener) {
        Tokenizer tokenizer = loaded.pretrained().tokenizer();
        turns.add(Map.of("role", "user", "content", text));
        int[] prompt = template == null
                ? tokenizer.encode(text, true)
                : tokenizer.encode(
                        template.render(turns, ChatTemplate.Options.DEFAULT.withGenerationPrompt(true)), false);
        StreamDecoder decoder = tokenizer.stream();
        StringBuilder whole = new StringBuilder();
        Consumer<String> both = piece -> {
            whole.append(piece);
            listener.accept(piece);
        };
        TextGenerator.Generated generated = new TextGenerator(
                        loaded.pretrained().causalLm())
                .generate(prompt, withEos(config, tokenizer), seed, id -> {
                    both.accept(decoder.next(id));
                    return true;
                });
        both.accept(decoder.finish());
        turns.add(Map.of("role", "assistant", "content", whole.toString()));
        return new Answer(whole.toString(), generated.ids().size(), generated.finish());
    }

    /** A model that names no stop token stops at its tokenizer's EOS. */
    static GenerationConfig withEos(GenerationConfig config, Tokenizer tokenizer) {
        Integer eos = tokenizer.id(tokenizer.special().eos());
        return config.stopIds().isEmpty() && eos != null ? config.withStopIds(List.of(eos)) : config;
    }
}
