package dev.espalier.text;

import dev.espalier.EspalierException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import org.jspecify.annotations.Nullable;

/**
 * The tokens that a model gives a meaning, by name; null where it has none.
 *
 * @param bos begins a text
 * @param eos ends a text or a turn
 * @param unk stands for what the vocabulary lacks
 * @param pad fills a batch
 * @param cls begins a classified text (BERT)
 * @param sep parts two texts (BERT)
 * @param mask hides a token (BERT)
 * @param additional further special tokens
 */
public record SpecialTokens(
        @Nullable String bos,
        @Nullable String eos,
        @Nullable String unk,
        @Nullable String pad,
        @Nullable String cls,
        @Nullable String sep,
        @Nullable String mask,
        List<String> additional) {

    /** No special tokens. */
    public static final SpecialTokens NONE = new SpecialTokens(null, null, null, null, null, null, null, List.of());

    public SpecialTokens {
        additional = List.copyOf(additional);
    }

    /**
     * Reads {@code special_tokens_map.json} and {@code tokenizer_config.json} of a Hugging Face folder; the second wins,
     * as in transformers. A folder with neither has no special tokens.
     *
     * @throws EspalierException if a file is not a JSON object, or a token is neither a string nor an object with
     *     {@code content}
     */
    public static SpecialTokens read(Path folder) {
        Map<String, @Nullable Object> fields = new LinkedHashMap<>();
        for (String name : List.of("special_tokens_map.json", "tokenizer_config.json")) {
            Path file = folder.resolve(name);
            if (Files.isRegularFile(file)) {
                JsonText.object(file).forEach((key, value) -> {
                    if (value != null) {
                        fields.put(key, value);
                    }
                });
            }
        }
        return of(fields, folder.toString());
    }

    /**
     * Reads the fields of {@code tokenizer_config.json}: {@code bos_token}, {@code eos_token} and so on, each a string
     * or an object with {@code content}, and {@code additional_special_tokens} (or {@code extra_special_tokens}).
     *
     * @param where named in errors
     */
    public static SpecialTokens of(Map<String, ? extends @Nullable Object> fields, String where) {
        Set<String> additional = new LinkedHashSet<>();
        for (String name : List.of("additional_special_tokens", "extra_special_tokens")) {
            Object value = fields.get(name);
            // An object under extra_special_tokens names tokens of other modalities (image_token, ...).
            Iterable<?> all =
                    value instanceof List<?> list ? list : value instanceof Map<?, ?> map ? map.values() : List.of();
            for (Object one : all) {
                String token = content(one, name, where);
                if (token != null) {
                    additional.add(token);
                }
            }
        }
        return new SpecialTokens(
                content(fields.get("bos_token"), "bos_token", where),
                content(fields.get("eos_token"), "eos_token", where),
                content(fields.get("unk_token"), "unk_token", where),
                content(fields.get("pad_token"), "pad_token", where),
                content(fields.get("cls_token"), "cls_token", where),
                content(fields.get("sep_token"), "sep_token", where),
                content(fields.get("mask_token"), "mask_token", where),
                new ArrayList<>(additional));
    }

    /**
     * Reads GGUF metadata: {@code tokenizer.ggml.bos_token_id} and its like, looked up in {@code tokenizer.ggml.tokens}.
     *
     * @throws EspalierException if an id lies outside the vocabulary
     */
    public static SpecialTokens fromGguf(Map<String, Object> values) {
        return GgufTokenizer.specialTokens(values);
    }

    /** The variables under which a chat template finds them: {@code bos_token}, {@code eos_token}, ...; only those set. */
    public Map<String, Object> variables() {
        Map<String, Object> variables = new LinkedHashMap<>();
        put(variables, "bos_token", bos);
        put(variables, "eos_token", eos);
        put(variables, "unk_token", unk);
        put(variables, "pad_token", pad);
        put(variables, "cls_token", cls);
        put(variables, "sep_token", sep);
        put(variables, "mask_token", mask);
        if (!additional.isEmpty()) {
            variables.put("additional_special_tokens", additional);
        }
        return variables;
    }

    private static void put(Map<String, Object> variables, String name, @Nullable String token) {
        if (token != null) {
            variables.put(name, token);
        }
    }

    private static @Nullable String content(@Nullable Object value, String name, String where) {
        if (value == null) {
            return null;
        }
        if (value instanceof String token) {
            return token;
        }
        if (value instanceof Map<?, ?> map && map.get("content") instanceof String token) {
            return token;
        }
        throw new EspalierException("%s: %s must be a string or an object with \"content\", found %s"
                .formatted(where, name, JsonText.brief(value)));
    }
}
