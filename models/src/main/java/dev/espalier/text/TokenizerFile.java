package dev.espalier.text;

import static dev.espalier.Check.check;

import dev.espalier.EspalierException;
import java.util.HashMap;
import java.util.Map;
import tools.jackson.core.JacksonException;
import tools.jackson.databind.JsonNode;
import tools.jackson.databind.node.ObjectNode;

/**
 * What we need of a {@code tokenizer.json} beside the tokenizer itself.
 *
 * @param json for the tokenizers library
 * @param vocabulary the model's and the added tokens
 */
record TokenizerFile(String json, Vocabulary vocabulary) {

    /** No model has a vocabulary near this; an id above it would make us allocate what a hostile file claims. */
    private static final int MAX_VOCABULARY = 1 << 24;

    static TokenizerFile parse(String json, String where) {
        JsonNode root;
        try {
            root = JsonText.MAPPER.readTree(json);
        } catch (JacksonException e) {
            throw new EspalierException("%s is not JSON: %s".formatted(where, e.getOriginalMessage()), e);
        }
        check(
                root.isObject() && root.path("model").isObject(),
                "%s is not a tokenizer.json: it has no object \"model\"; save the tokenizer in its fast form",
                where);
        Map<String, Integer> ids = new HashMap<>();
        JsonNode vocabulary = root.path("model").path("vocab");
        for (Map.Entry<String, JsonNode> entry : vocabulary.properties()) {
            put(ids, entry.getKey(), entry.getValue(), where);
        }
        if (vocabulary.isArray()) { // Unigram: [[piece, score], ...]
            for (int i = 0; i < vocabulary.size(); i++) {
                ids.put(vocabulary.get(i).path(0).asString(""), i);
            }
        }
        for (JsonNode added : root.path("added_tokens")) {
            put(ids, added.path("content").asString(""), added.path("id"), where);
        }
        check(!ids.isEmpty(), "%s has an empty vocabulary", where);
        int size = ids.values().stream().mapToInt(Integer::intValue).max().orElse(0) + 1;
        boolean changed = keepSpaces(root.path("post_processor"));
        return new TokenizerFile(changed ? root.toString() : json, new Vocabulary(ids, size));
    }

    private static void put(Map<String, Integer> ids, String token, JsonNode id, String where) {
        check(
                id.isInt() && id.intValue() >= 0 && id.intValue() < MAX_VOCABULARY,
                "%s: token \"%s\" has id %s; ids must be integers from 0 to %d",
                where,
                token,
                id,
                MAX_VOCABULARY - 1);
        ids.put(token, id.intValue());
    }

    /**
     * Turns off the trimming of offsets: with it, a token of spaces covers no character at all, and a span cannot claim it.
     */
    private static boolean keepSpaces(JsonNode processor) {
        boolean changed = false;
        if (processor instanceof ObjectNode object
                && object.path("trim_offsets").asBoolean(false)) {
            object.put("trim_offsets", false);
            changed = true;
        }
        for (JsonNode inner : processor.path("processors")) {
            changed |= keepSpaces(inner);
        }
        return changed;
    }
}
