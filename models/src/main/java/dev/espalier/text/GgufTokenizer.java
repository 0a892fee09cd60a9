package dev.espalier.text;

import static dev.espalier.Check.check;

import dev.espalier.EspalierException;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import org.jspecify.annotations.Nullable;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;
import tools.jackson.databind.node.ArrayNode;
import tools.jackson.databind.node.ObjectNode;

/**
 * GGUF metadata ({@code tokenizer.ggml.*}) written out as a {@code tokenizer.json}.
 *
 * <p>A GGUF holds the vocabulary, the merges and the special ids; of the splitting that comes before merging it holds
 * only a name ({@code tokenizer.ggml.pre}), whose meaning stands here. Where transformers' own GGUF reader knows a name
 * we agree with it, with one exception: it does not know {@code smollm} and falls back on GPT-2's split, which cuts
 * blanks and line ends before a digit otherwise than the published tokenizer does ("\n\n1" as three tokens, not two).
 */
final class GgufTokenizer {

    private static final Logger LOG = LoggerFactory.getLogger(GgufTokenizer.class);

    private static final String PREFIX = "tokenizer.ggml.";
    private static final int CONTROL = 3;
    private static final int USER_DEFINED = 4;

    // Oniguruma patterns, as the published tokenizer.json files have them.
    private static final String LLAMA3 =
            "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
    private static final String QWEN2 = LLAMA3.replace("\\p{N}{1,3}", "\\p{N}");
    private static final String TEKKEN =
            "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+|[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

    /** How a byte-level vocabulary's text is cut before merging. */
    private record Split(@Nullable String pattern, boolean singleDigits, boolean nfc, boolean ignoreMerges) {}

    private static final Split GPT2 = new Split(null, false, false, false);
    private static final Map<String, Split> SPLITS = new TreeMap<>();

    static {
        for (String name : List.of("gpt-2", "phi-2", "mpt", "olmo", "jais", "roberta-bpe")) {
            SPLITS.put(name, GPT2);
        }
        for (String name : List.of("smollm", "starcoder", "refact", "command-r")) {
            SPLITS.put(name, new Split(null, true, false, false));
        }
        for (String name : List.of("llama3", "llama-v3", "llama-bpe", "falcon3", "dbrx", "smaug-bpe", "pixtral")) {
            SPLITS.put(name, new Split(LLAMA3, false, false, true));
        }
        for (String name : List.of("qwen2", "deepseek-r1-qwen", "megrez")) {
            SPLITS.put(name, new Split(QWEN2, false, true, false));
        }
        SPLITS.put("tekken", new Split(TEKKEN, false, false, true));
    }

    private final Map<String, Object> values;
    private final List<String> tokens;
    private final SpecialTokens special;

    private GgufTokenizer(Map<String, Object> values) {
        this.values = values;
        this.tokens = strings(values, "tokens");
        this.special = specialTokens(values);
    }

    static String json(Map<String, Object> values) {
        return new GgufTokenizer(values).json();
    }

    static SpecialTokens specialTokens(Map<String, Object> values) {
        List<String> tokens = strings(values, "tokens");
        return new SpecialTokens(
                token(values, tokens, "bos_token_id"),
                token(values, tokens, "eos_token_id"),
                token(values, tokens, "unknown_token_id"),
                token(values, tokens, "padding_token_id"),
                token(values, tokens, "cls_token_id"),
                token(values, tokens, "seperator_token_id"), // the specification's spelling
                token(values, tokens, "mask_token_id"),
                List.of());
    }

    private String json() {
        ObjectNode root = JsonText.MAPPER.createObjectNode();
        root.put("version", "1.0");
        root.putNull("truncation");
        root.putNull("padding");
        addTokens(root.putArray("added_tokens"));
        Object kind = values.get(PREFIX + "model");
        if ("gpt2".equals(kind)) {
            byteLevel(root);
        } else if ("llama".equals(kind)) {
            sentencePiece(root);
        } else {
            throw new EspalierException(
                    "the GGUF's tokenizer is of kind \"%s\"; gpt2 (byte-level BPE) and llama (SentencePiece BPE) are known, so convert the model with its tokenizer.json beside it"
                            .formatted(kind));
        }
        return root.toString();
    }

    private void addTokens(ArrayNode added) {
        List<Number> types = numbers("token_type");
        for (int id = 0; id < types.size(); id++) {
            int type = types.get(id).intValue();
            if (type == CONTROL || type == USER_DEFINED) {
                added.addObject()
                        .put("id", id)
                        .put("content", tokens.get(id))
                        .put("single_word", false)
                        .put("lstrip", false)
                        .put("rstrip", false)
                        .put("normalized", false)
                        .put("special", type == CONTROL);
            }
        }
    }

    private void byteLevel(ObjectNode root) {
        Object pre = values.get(PREFIX + "pre");
        if (pre == null || "default".equals(pre)) {
            LOG.warn("The GGUF does not name its pre-tokenizer; splitting as GPT-2 does.");
            pre = "gpt-2";
        }
        Split split = SPLITS.get(pre.toString());
        if (split == null) {
            throw new EspalierException(
                    "the GGUF's pre-tokenizer is \"%s\"; known are %s, so use the model's tokenizer.json instead"
                            .formatted(pre, SPLITS.keySet()));
        }
        if (split.nfc()) {
            root.putObject("normalizer").put("type", "NFC");
        } else {
            root.putNull("normalizer");
        }
        ArrayNode steps =
                root.putObject("pre_tokenizer").put("type", "Sequence").putArray("pretokenizers");
        if (split.singleDigits()) {
            steps.addObject().put("type", "Digits").put("individual_digits", true);
        }
        if (split.pattern() != null) {
            ObjectNode step = steps.addObject().put("type", "Split");
            step.putObject("pattern").put("Regex", split.pattern());
            step.put("behavior", "Isolated").put("invert", false);
        }
        byteLevelStep(steps.addObject(), split.pattern() == null);
        postProcessor(root, false);
        byteLevelStep(root.putObject("decoder"), true);
        ArrayNode merges = model(root, false, split.ignoreMerges());
        for (String merge : strings(values, "merges")) {
            check(
                    merge.indexOf(' ', 1) > 0 && merge.indexOf(' ', 1) < merge.length() - 1,
                    "the GGUF's merge \"%s\" is not two pieces with a space between; the file is damaged",
                    merge);
            int space = merge.indexOf(' ', 1);
            merges.addArray().add(merge.substring(0, space)).add(merge.substring(space + 1));
        }
    }

    private static void byteLevelStep(ObjectNode step, boolean regex) {
        step.put("type", "ByteLevel")
                .put("add_prefix_space", false)
                .put("trim_offsets", false)
                .put("use_regex", regex);
    }

    private void sentencePiece(ObjectNode root) {
        Object architecture = values.get("general.architecture");
        check(
                !(architecture instanceof String name) || (!name.startsWith("gemma") && !name.equals("phi3")),
                "the GGUF's architecture is %s, whose SentencePiece dialect is not known here; use the model's tokenizer.json instead",
                architecture);
        boolean prefix = bool("add_space_prefix", true);
        root.putNull("normalizer");
        root.putObject("pre_tokenizer")
                .put("type", "Metaspace")
                .put("replacement", "▁")
                .put("prepend_scheme", prefix ? "first" : "never")
                .put("split", false);
        postProcessor(root, true);
        ArrayNode decoders = root.putObject("decoder").put("type", "Sequence").putArray("decoders");
        ObjectNode replace = decoders.addObject().put("type", "Replace");
        replace.putObject("pattern").put("String", "▁");
        replace.put("content", " ");
        decoders.addObject().put("type", "ByteFallback");
        decoders.addObject().put("type", "Fuse");
        if (prefix) {
            decoders.addObject()
                    .put("type", "Strip")
                    .put("content", " ")
                    .put("start", 1)
                    .put("stop", 0);
        }
        ArrayNode merges = model(root, true, false);
        for (Merge merge : merges()) {
            merges.addArray().add(merge.left()).add(merge.right());
        }
    }

    private record Merge(String left, String right, double score) {}

    /** A SentencePiece vocabulary implies its merges: each piece from each two others, the best score first. */
    private List<Merge> merges() {
        List<Number> scores = numbers("scores");
        check(
                scores.size() == tokens.size(),
                "the GGUF has %d token scores for %d tokens; the file is damaged",
                scores.size(),
                tokens.size());
        Map<String, Integer> ids = ids();
        List<Merge> merges = new ArrayList<>();
        for (int id = 0; id < tokens.size(); id++) {
            String token = tokens.get(id);
            double score = scores.get(id).doubleValue();
            List<Merge> own = new ArrayList<>();
            for (int cut = token.offsetByCodePoints(0, token.isEmpty() ? 0 : 1);
                    cut < token.length();
                    cut = token.offsetByCodePoints(cut, 1)) {
                String left = token.substring(0, cut);
                String right = token.substring(cut);
                if (ids.containsKey(left) && ids.containsKey(right)) {
                    own.add(new Merge(left, right, score));
                }
            }
            own.sort(Comparator.<Merge>comparingInt(merge -> ids.getOrDefault(merge.left(), 0))
                    .thenComparingInt(merge -> ids.getOrDefault(merge.right(), 0)));
            merges.addAll(own);
        }
        // As Hugging Face's converter orders them, ties included: longer pieces first.
        merges.sort(Comparator.comparingDouble(Merge::score)
                .thenComparingInt(
                        merge -> merge.left().codePointCount(0, merge.left().length()))
                .thenComparingInt(
                        merge -> merge.right().codePointCount(0, merge.right().length()))
                .reversed());
        return merges;
    }

    private ArrayNode model(ObjectNode root, boolean sentencePiece, boolean ignoreMerges) {
        ObjectNode model = root.putObject("model").put("type", "BPE");
        model.putNull("dropout");
        if (sentencePiece && special.unk() != null) {
            model.put("unk_token", special.unk());
        } else {
            model.putNull("unk_token");
        }
        model.putNull("continuing_subword_prefix").putNull("end_of_word_suffix");
        model.put("fuse_unk", sentencePiece).put("byte_fallback", sentencePiece).put("ignore_merges", ignoreMerges);
        ObjectNode vocabulary = model.putObject("vocab");
        ids().forEach(vocabulary::put);
        return model.putArray("merges");
    }

    private Map<String, Integer> ids() {
        Map<String, Integer> ids = new HashMap<>();
        for (int id = 0; id < tokens.size(); id++) {
            ids.putIfAbsent(tokens.get(id), id);
        }
        return ids;
    }

    /** Adds BOS and EOS as the flags say; llama.cpp adds BOS to a SentencePiece vocabulary that does not say. */
    private void postProcessor(ObjectNode root, boolean bosByDefault) {
        String bos = bool("add_bos_token", bosByDefault) ? special.bos() : null;
        String eos = bool("add_eos_token", false) ? special.eos() : null;
        if (bos == null && eos == null) {
            root.putNull("post_processor");
            return;
        }
        ObjectNode processor = root.putObject("post_processor").put("type", "TemplateProcessing");
        sequence(processor.putArray("single"), bos, eos, "A", 0);
        ArrayNode pair = processor.putArray("pair");
        sequence(pair, bos, eos, "A", 0);
        sequence(pair, bos, eos, "B", 1);
        ObjectNode declared = processor.putObject("special_tokens");
        Map<String, Integer> ids = ids();
        for (String token : new @Nullable String[] {bos, eos}) {
            Integer id = token == null ? null : ids.get(token);
            if (id != null) {
                ObjectNode entry = declared.putObject(token).put("id", token);
                entry.putArray("ids").add(id);
                entry.putArray("tokens").add(token);
            }
        }
    }

    private static void sequence(ArrayNode target, @Nullable String bos, @Nullable String eos, String text, int type) {
        if (bos != null) {
            target.addObject().putObject("SpecialToken").put("id", bos).put("type_id", type);
        }
        target.addObject().putObject("Sequence").put("id", text).put("type_id", type);
        if (eos != null) {
            target.addObject().putObject("SpecialToken").put("id", eos).put("type_id", type);
        }
    }

    private boolean bool(String key, boolean otherwise) {
        return values.get(PREFIX + key) instanceof Boolean value ? value : otherwise;
    }

    private List<Number> numbers(String key) {
        List<Number> numbers = new ArrayList<>();
        Object value = values.getOrDefault(PREFIX + key, List.of());
        for (Object one : value instanceof List<?> list ? list : List.of()) {
            check(one instanceof Number, "the GGUF's %s%s holds %s, which is no number", PREFIX, key, one);
            numbers.add((Number) one);
        }
        check(
                numbers.size() <= tokens.size(),
                "the GGUF has %d values in %s%s for %d tokens; the file is damaged",
                numbers.size(),
                PREFIX,
                key,
                tokens.size());
        return numbers;
    }

    private static List<String> strings(Map<String, Object> values, String key) {
        Object value = values.get(PREFIX + key);
        if (!(value instanceof List<?> list)) {
            throw new EspalierException(
                    "the GGUF has no %s%s; it holds no tokenizer, so use one that does or the model's tokenizer.json"
                            .formatted(PREFIX, key));
        }
        List<String> strings = new ArrayList<>();
        for (Object one : list) {
            check(one instanceof String, "the GGUF's %s%s holds %s, which is no string", PREFIX, key, one);
            strings.add((String) one);
        }
        return strings;
    }

    private static @Nullable String token(Map<String, Object> values, List<String> tokens, String key) {
        Object value = values.get(PREFIX + key);
        if (value == null) {
            return null;
        }
        check(
                value instanceof Number id && id.longValue() >= 0 && id.longValue() < tokens.size(),
                "the GGUF's %s%s is %s; it must be an id below %d, the size of its vocabulary",
                PREFIX,
                key,
                value,
                tokens.size());
        return tokens.get(((Number) value).intValue());
    }
}
