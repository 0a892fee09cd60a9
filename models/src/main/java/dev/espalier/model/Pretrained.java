package dev.espalier.model;

import dev.espalier.EspalierException;
import dev.espalier.text.ChatTemplate;
import dev.espalier.text.Tokenizer;
import java.io.IOException;
import java.io.InputStream;
import java.nio.charset.StandardCharsets;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import java.util.function.Supplier;
import org.jspecify.annotations.Nullable;

/** A model with what came with it. Closing it frees the weights and the tokenizer. */
public final class Pretrained implements AutoCloseable {

    private final Model model;
    private final @Nullable Tokenizer tokenizer;
    private final GenerationConfig generation;
    private final Origin origin;
    private final Map<String, Object> configJson;
    private final Set<String> drawn;
    private final Map<String, Content> companions; // by file name

    private @Nullable Supplier<Optional<ChatTemplate>> findChatTemplate; // null: found
    private Optional<ChatTemplate> chatTemplate = Optional.empty();

    Pretrained(
            Model model,
            @Nullable Tokenizer tokenizer,
            Supplier<Optional<ChatTemplate>> findChatTemplate,
            GenerationConfig generation,
            Origin origin,
            Map<String, Object> configJson,
            Set<String> drawn,
            Map<String, Content> companions) {
        this.model = model;
        this.tokenizer = tokenizer;
        this.findChatTemplate = findChatTemplate;
        this.generation = generation;
        this.origin = origin;
        this.configJson = Collections.unmodifiableMap(new LinkedHashMap<>(configJson));
        this.drawn = Set.copyOf(drawn);
        this.companions = Collections.unmodifiableMap(new LinkedHashMap<>(companions));
    }

    /** The network. */
    public Model model() {
        return model;
    }

    /** The network, where it must predict next tokens. */
    public CausalLm causalLm() {
        return as(CausalLm.class, "a causal language model");
    }

    /** The network, where it must classify. */
    public SequenceClassifier classifier() {
        return as(SequenceClassifier.class, "a sequence classifier");
    }

    /** The network, where it must embed. */
    public SentenceEmbedder embedder() {
        return as(SentenceEmbedder.class, "a sentence embedder");
    }

    private <M extends Model> M as(Class<M> type, String what) {
        if (!type.isInstance(model)) {
            throw new EspalierException(
                    "%s was loaded as %s; load it as %s".formatted(origin.name(), model.architecture(), what));
        }
        return type.cast(model);
    }

    /**
     * The model's tokenizer.
     *
     * @throws EspalierException if it came without
     */
    public Tokenizer tokenizer() {
        if (tokenizer == null) {
            throw new EspalierException(
                    "%s has no tokenizer.json, so texts cannot be read; put the model's there, or give token ids"
                            .formatted(origin.name()));
        }
        return tokenizer;
    }

    /** Whether it came with a tokenizer. */
    public boolean hasTokenizer() {
        return tokenizer != null;
    }

    /** How the model writes conversations, if it says so; read when first asked for. */
    public synchronized Optional<ChatTemplate> chatTemplate() {
        if (findChatTemplate != null) {
            chatTemplate = findChatTemplate.get();
            findChatTemplate = null;
        }
        return chatTemplate;
    }

    /** How the model's authors generate with it; stop tokens in any case. */
    public GenerationConfig generation() {
        return generation;
    }

    /** Where it came from. */
    public Origin origin() {
        return origin;
    }

    /** Paths of the head's layers that the checkpoint lacked and that were drawn anew: they must be trained. */
    public Set<String> drawnLayers() {
        return drawn;
    }

    /** {@code config.json} as it was read, unknown keys and all. */
    public Map<String, Object> configJson() {
        return configJson;
    }

    /** The text of a file that came with the model and goes with it, such as {@value Models#CUT}. */
    public Optional<String> companion(String name) {
        Content content = companions.get(name);
        if (content == null) {
            return Optional.empty();
        }
        try (InputStream in = content.open()) {
            return Optional.of(new String(in.readAllBytes(), StandardCharsets.UTF_8));
        } catch (IOException e) {
            throw new EspalierException(
                    "%s of %s cannot be read: %s".formatted(name, origin.name(), e.getMessage()), e);
        }
    }

    /** Files of tokenizer and the like that belong beside the weights. */
    Map<String, Content> companions() {
        return companions;
    }

    @Override
    public void close() {
        model.close();
        if (tokenizer != null) {
            tokenizer.close();
        }
    }
}
