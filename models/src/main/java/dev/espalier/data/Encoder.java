package dev.espalier.data;

import static dev.espalier.Check.check;

import dev.espalier.EspalierException;
import dev.espalier.text.ChatTemplate;
import dev.espalier.text.Encoded;
import dev.espalier.text.Rendered;
import dev.espalier.text.Span;
import dev.espalier.text.Tokenizer;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/**
 * Turns examples into token ids and says which tokens are targets.
 *
 * <p>Targets are found in the text as the model reads it: a chat is rendered by its template, the assistant's turns are
 * located in the rendering, and a token that shares a character with one is a target, the token that ends the turn
 * included. A prompt and its completion are one text, as they are when the model answers, and EOS follows.
 *
 * <p>An example without any target stops with a sentence: a model trained on it would learn nothing and nobody would know.
 */
public final class Encoder {

    /** What of an example the model learns to write. */
    public enum Supervise {
        /** Every assistant's turn, every completion, all of a plain text. */
        ANSWERS,
        /** Of a chat only the assistant's last turn. */
        LAST_TURN,
        /** Every token, prompts too. */
        EVERYTHING
    }

    /**
     * How to encode.
     *
     * @param maxLength tokens the model takes; at least 2
     * @param truncate whether a longer text is cut at its end, or is an error
     * @param supervise what the model learns to write
     * @param templateVariables further variables of the chat template, such as {@code enable_thinking}
     */
    public record Options(int maxLength, boolean truncate, Supervise supervise, Map<String, Object> templateVariables) {

        public Options {
            check(maxLength >= 2, "the maximal length must be at least 2 tokens, found %d; try 512", maxLength);
            templateVariables = Collections.unmodifiableMap(new LinkedHashMap<>(templateVariables));
        }

        /** No truncation, loss on answers only. */
        public static Options of(int maxLength) {
            return new Options(maxLength, false, Supervise.ANSWERS, Map.of());
        }
    }

    /**
     * A stretch of a decoded example.
     *
     * @param supervised whether its tokens are targets
     */
    public record Piece(String text, boolean supervised) {}

    private final Tokenizer tokenizer;
    private final @Nullable ChatTemplate template;
    private final @Nullable Labels labels;
    private final Options options;

    /**
     * @param template for chats, or null
     * @param labels for labelled texts, or null
     */
    public Encoder(Tokenizer tokenizer, @Nullable ChatTemplate template, @Nullable Labels labels, Options options) {
        this.tokenizer = tokenizer;
        this.template = template;
        this.labels = labels;
        this.options = options;
    }

    /**
     * Encodes a data set.
     *
     * @throws EspalierException naming the first example that cannot be used
     */
    public Encodings encode(Dataset data) {
        List<Encoding> encodings = new ArrayList<>(data.examples().size());
        int truncated = 0;
        for (Example example : data.examples()) {
            Cut cut = cut(example);
            truncated += cut.truncated() ? 1 : 0;
            encodings.add(cut.encoding());
        }
        return new Encodings(encodings, truncated);
    }

    /** Encodes one example. */
    public Encoding encode(Example example) {
        return cut(example).encoding();
    }

    /**
     * Encodes a text, or a pair, whose class or score is asked for.
     *
     * @param pair the second text, or null
     */
    public Encoding encode(String text, @Nullable String pair, String source) {
        return text(text, pair, null, source).encoding();
    }

    private record Cut(Encoding encoding, boolean truncated) {}

    private Cut cut(Example example) {
        if (example instanceof Example.Labelled labelled) {
            if (labels == null) {
                throw new EspalierException(
                        "%s: text + label is data for classification; for a language model use prompt + completion"
                                .formatted(example.source()));
            }
            return text(labelled.text(), labelled.textPair(), labels.id(labelled), labelled.source());
        } else if (example instanceof Example.Scored scored) {
            return text(scored.text(), scored.textPair(), scored.score(), scored.source());
        }
        return fit(written(example), example);
    }

    private Encoding written(Example example) {
        if (example instanceof Example.Completion completion) {
            return completion(completion);
        } else if (example instanceof Example.Chat chat) {
            return chat(chat);
        } else if (example instanceof Example.Plain plain) {
            int[] ids = withEos(tokenizer.encode(plain.text(), true));
            return new Encoding(ids, null, all(ids.length), null, plain.source());
        }
        return tokens((Example.Tokens) example);
    }

    /** A text to classify or to score: the model reads it whole and writes nothing. */
    private Cut text(String text, @Nullable String pair, @Nullable Number label, String source) {
        Encoded encoded =
                pair == null ? tokenizer.encodeWithOffsets(text, true) : tokenizer.encodePairWithOffsets(text, pair);
        int[] kept = kept(encoded, source);
        int[] ids = Arrays.stream(kept).map(i -> encoded.ids()[i]).toArray();
        boolean typed = Arrays.stream(encoded.typeIds()).anyMatch(t -> t != 0);
        int[] types = typed ? Arrays.stream(kept).map(i -> encoded.typeIds()[i]).toArray() : null;
        Encoding encoding = new Encoding(ids, types, new boolean[kept.length], label, source);
        return new Cut(encoding, kept.length < encoded.ids().length);
    }

    /**
     * Indices of the tokens that fit: all, or without the ends of the texts, the longer one first. Added tokens such as
     * [SEP] stay, since a classifier has never seen a text without them.
     */
    private int[] kept(Encoded encoded, String source) {
        int length = encoded.ids().length;
        boolean[] keep = all(length);
        if (length > options.maxLength()) {
            check(options.truncate(), "%s", tooLong(source, length));
            List<int[]> texts = new ArrayList<>(); // [from, to) of each run of tokens that a text made
            for (int i = 0; i < length; i++) {
                boolean ofText = encoded.starts()[i] >= 0;
                boolean goesOn = i > 0 && encoded.starts()[i - 1] >= 0;
                if (ofText && goesOn) {
                    texts.get(texts.size() - 1)[1] = i + 1;
                } else if (ofText) {
                    texts.add(new int[] {i, i + 1});
                }
            }
            for (int left = length; left > options.maxLength(); left--) {
                int[] longest = texts.stream()
                        .max((a, b) -> Integer.compare(a[1] - a[0], b[1] - b[0]))
                        .filter(t -> t[1] > t[0])
                        .orElseThrow(() -> new EspalierException(tooLong(source, length)));
                keep[--longest[1]] = false;
            }
        }
        int[] indices = new int[length];
        int count = 0;
        for (int i = 0; i < length; i++) {
            if (keep[i]) {
                indices[count++] = i;
            }
        }
        return Arrays.copyOf(indices, count);
    }

    private Encoding completion(Example.Completion example) {
        check(
                tokenizer.special().eos() != null,
                "%s: the tokenizer names no EOS token, so the model would never learn to stop; "
                        + "set eos_token in its tokenizer_config.json",
                example.source());
        int border = example.prompt().length();
        String text = example.prompt() + example.completion();
        Encoded encoded = tokenizer.encodeWithOffsets(text, true);
        boolean[] inside = encoded.within(List.of(new Span(border, text.length())));
        int[] ids = withEos(encoded.ids());
        boolean[] supervised = Arrays.copyOf(inside, ids.length);
        supervised[ids.length - 1] = true; // EOS, whoever put it there
        return new Encoding(ids, null, supervised(supervised), null, example.source());
    }

    private Encoding chat(Example.Chat chat) {
        if (template == null) {
            throw new EspalierException(
                    ("%s: a conversation needs a chat template and the model has none; set task.template, "
                                    + "or use prompt + completion")
                            .formatted(chat.source()));
        }
        Rendered rendered;
        try {
            rendered = template.supervisedSpans(
                    chat.turns().stream().map(Turn::toMap).toList(),
                    new ChatTemplate.Options(
                            false, chat.tools().isEmpty() ? null : chat.tools(), options.templateVariables()));
        } catch (EspalierException e) {
            throw new EspalierException("%s: %s".formatted(chat.source(), e.getMessage()), e);
        }
        List<Span> spans = chosen(chat, rendered);
        // The template writes BOS itself where there is one; the tokenizer must not add a second.
        Encoded encoded = tokenizer.encodeWithOffsets(rendered.text(), false);
        boolean[] supervised = encoded.within(spans);
        boolean alone = chat.turns().stream().allMatch(t -> t.role().equals("assistant"));
        check(
                alone || !Arrays.equals(supervised, all(supervised.length)),
                "%s: the chat template marks every token as the assistant's, the user's too; check its generation tags",
                chat.source());
        checkStops(chat, encoded, spans);
        return new Encoding(encoded.ids(), null, supervised(supervised), null, chat.source());
    }

    private List<Span> chosen(Example.Chat chat, Rendered rendered) {
        List<Span> spans = rendered.assistant();
        check(
                !spans.isEmpty(),
                "%s: the chat template writes no assistant's turn, so there is nothing to learn; check the template",
                chat.source());
        List<Turn> answers =
                chat.turns().stream().filter(t -> t.role().equals("assistant")).toList();
        List<Boolean> wanted = new ArrayList<>();
        for (int i = 0; i < answers.size(); i++) {
            boolean last = i == answers.size() - 1;
            wanted.add(answers.get(i).supervised() && (last || options.supervise() != Supervise.LAST_TURN));
        }
        if (!wanted.contains(false)) {
            return spans;
        }
        check(
                spans.size() == answers.size(),
                "%s: the chat template marks %d stretches for %d assistant's turns, so single turns cannot be chosen; "
                        + "supervise all of them",
                chat.source(),
                spans.size(),
                answers.size());
        List<Span> chosen = new ArrayList<>();
        for (int i = 0; i < spans.size(); i++) {
            if (wanted.get(i)) {
                chosen.add(spans.get(i));
            }
        }
        check(
                !chosen.isEmpty(),
                "%s: the assistant's last turn has weight 0, so there is nothing to learn; supervise all turns",
                chat.source());
        return chosen;
    }

    /** A turn whose end is no target teaches the model to talk on for ever. */
    private void checkStops(Example.Chat chat, Encoded encoded, List<Span> spans) {
        Span last = spans.get(spans.size() - 1);
        boolean[] inside = encoded.within(List.of(last));
        for (int i = inside.length - 1; i >= 0; i--) {
            int[] one = {encoded.ids()[i]};
            if (inside[i] && !tokenizer.decode(one, false).isBlank()) { // a line break may follow the end of the turn
                if (tokenizer.decode(one, true).isEmpty()) {
                    return; // a special token
                }
                break;
            }
        }
        throw new EspalierException(
                "%s: the chat template ends the assistant's turn with no special token, so the model would never learn to stop; write {{ eos_token }} behind the assistant's content"
                        .formatted(chat.source()));
    }

    private Encoding tokens(Example.Tokens example) {
        for (int id : example.ids()) {
            check(
                    id >= 0 && id < tokenizer.vocabSize(),
                    "%s: token id %d lies outside the model's vocabulary of %,d; encode the text with its tokenizer",
                    example.source(),
                    id,
                    tokenizer.vocabSize());
        }
        return new Encoding(example.ids(), null, supervised(example.supervised()), null, example.source());
    }

    private boolean[] supervised(boolean[] answers) {
        return options.supervise() == Supervise.EVERYTHING ? all(answers.length) : answers;
    }

    private static boolean[] all(int length) {
        boolean[] all = new boolean[length];
        Arrays.fill(all, true);
        return all;
    }

    /** The ids with EOS at the end, unless the tokenizer has none or has put it there. */
    private int[] withEos(int[] ids) {
        Integer eos = tokenizer.id(tokenizer.special().eos());
        if (eos == null || (ids.length > 0 && ids[ids.length - 1] == eos)) {
            return ids;
        }
        int[] ended = Arrays.copyOf(ids, ids.length + 1);
        ended[ids.length] = eos;
        return ended;
    }

    /** Cuts a text for a language model, and refuses one in which no target is left. */
    private Cut fit(Encoding encoding, Example example) {
        Encoding cut = encoding;
        if (encoding.length() > options.maxLength()) {
            check(options.truncate(), "%s", tooLong(encoding.source(), encoding.length()));
            cut = new Encoding(
                    Arrays.copyOf(encoding.ids(), options.maxLength()),
                    null,
                    Arrays.copyOf(encoding.supervised(), options.maxLength()),
                    null,
                    encoding.source());
            check(
                    cut.targets() > 0 || encoding.targets() == 0,
                    "%s: all %,d supervised of %,d tokens lie behind the %,d that the model takes; shorten the prompt",
                    encoding.source(),
                    encoding.targets(),
                    encoding.length(),
                    options.maxLength());
        }
        check(
                cut.targets() > 0,
                "%s: none of its %,d tokens is supervised, so there is nothing to learn; %s",
                encoding.source(),
                encoding.length(),
                example instanceof Example.Tokens ? "mend its labels or delete the row" : "lengthen or delete the row");
        return new Cut(cut, cut.length() < encoding.length());
    }

    private String tooLong(String source, int length) {
        return String.format(
                Locale.ROOT,
                "%s: %,d tokens, but the model takes %,d; shorten the text or set truncate: true",
                source,
                length,
                options.maxLength());
    }

    /** An example as the model reads it, in stretches of targets and others. */
    public List<Piece> pieces(Encoding encoding) {
        List<Piece> pieces = new ArrayList<>();
        for (int from = 0, to; from < encoding.length(); from = to) {
            boolean supervised = encoding.supervised()[from];
            to = from + 1;
            while (to < encoding.length() && encoding.supervised()[to] == supervised) {
                to++;
            }
            String text = tokenizer.decode(Arrays.copyOfRange(encoding.ids(), from, to), false);
            pieces.add(new Piece(text, supervised));
        }
        return pieces;
    }

    /** {@link #pieces} as one text, with the targets between "[[" and "]]". */
    public String preview(Encoding encoding) {
        StringBuilder text = new StringBuilder();
        for (Piece piece : pieces(encoding)) {
            text.append(piece.supervised() ? "[[" + piece.text() + "]]" : piece.text());
        }
        return text.toString();
    }
}
