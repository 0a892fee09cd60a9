package dev.espalier.text;

import static dev.espalier.Check.check;

import dev.espalier.EspalierException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.Base64;
import java.util.HashMap;
import java.util.Map;
import tools.jackson.core.JacksonException;
import tools.jackson.databind.JsonNode;
import tools.jackson.databind.node.ObjectNode;

/**
 * What we need of a {@code tokenizer.json} beside the tokenizer itself.
 *
 * <p>The tokenizers library takes some contradictions in the file for defects of its caller, and ends the process. Those
 * are looked for here first, so that a damaged or hostile file gets a sentence instead.
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
        Map<String, Integer> ids = ids(root, where);
        int size = ids.values().stream().mapToInt(Integer::intValue).max().orElse(0) + 1;
        for (String part : new String[] {"normalizer", "pre_tokenizer", "post_processor", "decoder"}) {
            checkSteps(root.path(part), where);
        }
        checkMerges(root.path("model"), where);
        boolean changed = keepSpaces(root.path("post_processor"));
        return new TokenizerFile(changed ? root.toString() : json, new Vocabulary(ids, size));
    }

    private static Map<String, Integer> ids(JsonNode root, String where) {
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
        return ids;
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

    /** A step and those inside it. */
    private static void checkSteps(JsonNode step, String where) {
        switch (step.path("type").asString("")) {
            case "Precompiled" ->
                check(
                        isCharsMap(step.path("precompiled_charsmap").asString("")),
                        "%s: the map of a Precompiled normalizer is damaged",
                        where);
            case "FixedLength" ->
                check(
                        step.path("length").asInt(1) > 0,
                        "%s: a FixedLength pre-tokenizer needs a length of 1 or more, found 0",
                        where);
            case "Strip" ->
                check(
                        step.path("stop").asInt(0) == 0,
                        "%s: a Strip decoder with stop %s fails on short tokens; only 0 is supported",
                        where,
                        step.path("stop"));
            case "TemplateProcessing" -> {
                checkTemplate(step, "single", where);
                checkTemplate(step, "pair", where);
            }
            default -> {}
        }
        for (String inner : new String[] {"normalizers", "pretokenizers", "processors", "decoders"}) {
            for (JsonNode one : step.path(inner)) {
                checkSteps(one, where);
            }
        }
    }

    /** A template may name declared tokens only, and the second text only where there are two. */
    private static void checkTemplate(JsonNode step, String kind, String where) {
        for (JsonNode piece : step.path(kind)) {
            JsonNode token = piece.path("SpecialToken").path("id");
            check(
                    token.isMissingNode() || step.path("special_tokens").has(token.asString("")),
                    "%s: the template for a %s text names the token %s, which its special_tokens lack",
                    where,
                    kind,
                    token);
            check(
                    kind.equals("pair")
                            || !piece.path("Sequence").path("id").asString("").equals("B"),
                    "%s: the template for a single text asks for a second one",
                    where);
        }
    }

    /** A map begins with the size of its trie in bytes, a whole number of 32-bit units, and holds the trie. */
    private static boolean isCharsMap(String base64) {
        try {
            ByteBuffer bytes =
                    ByteBuffer.wrap(Base64.getDecoder().decode(base64)).order(ByteOrder.LITTLE_ENDIAN);
            long trie = bytes.remaining() < 4 ? -1 : Integer.toUnsignedLong(bytes.getInt());
            return trie > 0 && trie % 4 == 0 && trie <= bytes.remaining();
        } catch (IllegalArgumentException e) {
            return false;
        }
    }

    /** The library cuts the prefix off the second piece of every merge without looking. */
    private static void checkMerges(JsonNode model, String where) {
        String prefix = model.path("continuing_subword_prefix").asString("");
        if (prefix.isEmpty() || !model.path("type").asString("BPE").equals("BPE")) {
            return;
        }
        for (JsonNode merge : model.path("merges")) {
            String right = merge.isArray()
                    ? merge.path(1).asString("")
                    : merge.asString("").substring(merge.asString("").indexOf(' ') + 1);
            check(
                    right.startsWith(prefix),
                    "%s: the merge %s lacks the prefix \"%s\" of pieces inside words",
                    where,
                    merge,
                    prefix);
        }
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
