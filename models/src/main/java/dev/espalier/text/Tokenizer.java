package dev.espalier.text;

import static ai.djl.huggingface.tokenizers.jni.TokenizersLibrary.LIB;
import static dev.espalier.Check.check;

import ai.djl.huggingface.tokenizers.jni.CharSpan;
import ai.djl.huggingface.tokenizers.jni.LibUtils;
import dev.espalier.EspalierException;
import java.lang.ref.Cleaner;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.concurrent.locks.ReadWriteLock;
import java.util.concurrent.locks.ReentrantReadWriteLock;
import java.util.function.LongFunction;
import org.jspecify.annotations.Nullable;

/**
 * Text to token ids and back, by Hugging Face's own tokenizers library.
 *
 * <p>Built from a {@code tokenizer.json} or from GGUF metadata, never from the network. It neither truncates nor pads,
 * whatever the file says: cutting text is the caller's decision. Any number of threads may use one tokenizer; closing
 * waits for them. A lone surrogate, which is no character, is read as U+FFFD.
 */
public final class Tokenizer implements AutoCloseable {

    private static final Cleaner CLEANER = Cleaner.create();

    private final Native handle;
    private final Cleaner.Cleanable cleanable;
    private final Vocabulary vocabulary;
    private final SpecialTokens special;
    private final ReadWriteLock lock = new ReentrantReadWriteLock(); // read: use; write: close

    private Tokenizer(String json, Vocabulary vocabulary, SpecialTokens special) {
        this.vocabulary = vocabulary;
        this.special = special;
        this.handle = new Native(json);
        this.cleanable = CLEANER.register(this, handle);
    }

    /**
     * Opens the tokenizer of a model.
     *
     * @param path a Hugging Face folder, or a {@code tokenizer.json} beside which its special tokens are read
     * @throws EspalierException if there is no {@code tokenizer.json}, or it cannot be read
     */
    public static Tokenizer open(Path path) {
        Path file = Files.isDirectory(path) ? path.resolve("tokenizer.json") : path;
        check(
                Files.isRegularFile(file),
                "%s does not exist; a model folder needs a tokenizer.json (save the tokenizer in its fast form)",
                file);
        Path folder = file.toAbsolutePath().getParent();
        return of(
                JsonText.read(file), folder == null ? SpecialTokens.NONE : SpecialTokens.read(folder), file.toString());
    }

    /**
     * Builds a tokenizer in memory.
     *
     * @param tokenizerJson the content of a {@code tokenizer.json}
     * @throws EspalierException if the tokenizers library refuses it
     */
    public static Tokenizer of(String tokenizerJson, SpecialTokens special) {
        return of(tokenizerJson, special, "tokenizer.json");
    }

    /**
     * Builds a tokenizer from GGUF metadata ({@code tokenizer.ggml.*}): byte-level BPE ({@code gpt2}) or SentencePiece
     * BPE ({@code llama}).
     *
     * @throws EspalierException if the keys are missing or contradict one another, or the kind of tokenizer is unknown
     */
    public static Tokenizer fromGguf(Map<String, Object> values) {
        return of(GgufTokenizer.json(values), SpecialTokens.fromGguf(values), "GGUF metadata");
    }

    private static Tokenizer of(String json, SpecialTokens special, String where) {
        TokenizerFile file = TokenizerFile.parse(json, where);
        try {
            return new Tokenizer(file.json(), file.vocabulary(), special);
        } catch (EspalierException e) {
            throw new EspalierException("%s: %s".formatted(where, e.getMessage()), e);
        }
    }

    /** The {@code tokenizer.json} that GGUF metadata amounts to, as {@link #fromGguf} uses it. */
    public static String jsonFromGguf(Map<String, Object> values) {
        return GgufTokenizer.json(values);
    }

    /**
     * Token ids of a text.
     *
     * @param addSpecialTokens whether the tokenizer adds its own (BOS, CLS, SEP); false for text that a chat template
     *     rendered, which has them already
     */
    public int[] encode(String text, boolean addSpecialTokens) {
        String sound = sound(text);
        return use(pointer -> encoding(LIB.encode(pointer, sound, addSpecialTokens), e -> ints(LIB.getTokenIds(e))));
    }

    /** Token ids of two texts with the special tokens around and between them. */
    public int[] encodePair(String first, String second) {
        String a = sound(first);
        String b = sound(second);
        return use(pointer -> encoding(LIB.encodeDual(pointer, a, b, true), e -> ints(LIB.getTokenIds(e))));
    }

    /** As {@link #encode}, with each token's characters. */
    public Encoded encodeWithOffsets(String text, boolean addSpecialTokens) {
        String sound = sound(text);
        return use(pointer -> encoding(LIB.encode(pointer, sound, addSpecialTokens), e -> encoded(e, List.of(sound))));
    }

    /** As {@link #encodePair}, with type ids and each token's characters, counted in its own text. */
    public Encoded encodePairWithOffsets(String first, String second) {
        String a = sound(first);
        String b = sound(second);
        return use(pointer -> encoding(LIB.encodeDual(pointer, a, b, true), e -> encoded(e, List.of(a, b))));
    }

    /**
     * The text of token ids.
     *
     * @param skipSpecial whether to leave special tokens out
     * @throws EspalierException if an id lies outside the vocabulary
     */
    public String decode(int[] ids, boolean skipSpecial) {
        for (int id : ids) {
            check(
                    id >= 0 && id < vocabulary.size(),
                    "token id %d lies outside the tokenizer's vocabulary of %d; model and tokenizer do not match",
                    id,
                    vocabulary.size());
        }
        long[] wide = Arrays.stream(ids).asLongStream().toArray();
        return use(pointer -> LIB.decode(pointer, wide, skipSpecial));
    }

    /** Decodes a growing sequence piece by piece, leaving special tokens out. */
    public StreamDecoder stream() {
        return new StreamDecoder(this);
    }

    /** One past the largest id, added tokens included. */
    public int vocabSize() {
        return vocabulary.size();
    }

    /** The id of a token; null if there is no such token, or it is null itself. */
    public @Nullable Integer id(@Nullable String token) {
        return token == null ? null : vocabulary.id(token);
    }

    /** The token of an id, as the vocabulary spells it; null if there is none. */
    public @Nullable String token(int id) {
        return vocabulary.token(id);
    }

    /** The tokens with a meaning, such as EOS. */
    public SpecialTokens special() {
        return special;
    }

    /** Frees native memory; the tokenizer cannot be used after. */
    @Override
    public void close() {
        lock.writeLock().lock();
        try {
            cleanable.clean();
        } finally {
            lock.writeLock().unlock();
        }
    }

    private <T> T use(LongFunction<T> action) {
        lock.readLock().lock();
        try {
            check(handle.pointer != 0, "the tokenizer is closed; open it again");
            return action.apply(handle.pointer);
        } catch (EspalierException e) {
            throw e;
        } catch (RuntimeException e) {
            throw new EspalierException("the tokenizer failed: " + e.getMessage(), e);
        } finally {
            lock.readLock().unlock();
        }
    }

    private static <T> T encoding(long encoding, LongFunction<T> read) {
        try {
            return read.apply(encoding);
        } finally {
            LIB.deleteEncoding(encoding);
        }
    }

    private static Encoded encoded(long encoding, List<String> texts) {
        int[] ids = ints(LIB.getTokenIds(encoding));
        int[] types = ints(LIB.getTypeIds(encoding));
        long[] sequences = LIB.getSequenceIds(encoding);
        @Nullable CharSpan[] spans = LIB.getTokenCharSpans(encoding);
        int[] starts = new int[ids.length];
        int[] ends = new int[ids.length];
        CodePoints[] points = texts.stream().map(CodePoints::new).toArray(CodePoints[]::new);
        for (int i = 0; i < ids.length; i++) {
            CharSpan span = spans[i];
            if (span == null || sequences[i] < 0) {
                starts[i] = -1;
                ends[i] = -1;
            } else {
                CodePoints text = points[(int) sequences[i]];
                starts[i] = text.index(span.getStart());
                ends[i] = text.index(span.getEnd());
            }
        }
        return new Encoded(ids, types, starts, ends);
    }

    private static int[] ints(long[] values) {
        int[] ints = new int[values.length];
        for (int i = 0; i < values.length; i++) {
            ints[i] = Math.toIntExact(values[i]);
        }
        return ints;
    }

    /** The text with U+FFFD for each lone surrogate; the length stays, so that offsets do. */
    private static String sound(String text) {
        char[] mended = null;
        for (int i = 0; i < text.length(); i++) {
            if (Character.isSurrogate(text.charAt(i))) {
                if (Character.charCount(text.codePointAt(i)) == 2) {
                    i++; // a pair
                } else {
                    mended = mended == null ? text.toCharArray() : mended;
                    mended[i] = '\uFFFD';
                }
            }
        }
        return mended == null ? text : new String(mended);
    }

    /** Counts code points, as the tokenizers library does, in Java's chars. */
    private static final class CodePoints {

        private final int @Nullable [] indices; // null: every character is one char

        CodePoints(String text) {
            int points = text.codePointCount(0, text.length());
            if (points == text.length()) {
                indices = null;
                return;
            }
            int[] found = new int[points + 1];
            for (int point = 0, index = 0; point <= points; point++) {
                found[point] = index;
                index += index < text.length() ? Character.charCount(text.codePointAt(index)) : 0;
            }
            indices = found;
        }

        int index(int point) {
            return indices == null ? point : indices[point];
        }
    }

    /** The tokenizer on the Rust side; runs when closed, or when the owner was forgotten. */
    private static final class Native implements Runnable {

        private long pointer;

        Native(String json) {
            load();
            try {
                pointer = LIB.createTokenizerFromString(json);
            } catch (RuntimeException e) {
                throw new EspalierException("the tokenizers library cannot read it: " + e.getMessage(), e);
            }
            // Both may be set in a tokenizer.json; MiniLM's cuts at 128 tokens without a word.
            LIB.disableTruncation(pointer);
            LIB.disablePadding(pointer);
        }

        private static void load() {
            // On a machine with CUDA, DJL would download a GPU build of the library: text needs none.
            if (System.getenv("RUST_FLAVOR") == null && System.getProperty("RUST_FLAVOR") == null) {
                System.setProperty("RUST_FLAVOR", "cpu");
            }
            try {
                LibUtils.checkStatus(); // unpacks the library from the jar into DJL_CACHE_DIR (~/.djl.ai) and loads it
            } catch (RuntimeException | LinkageError e) {
                Throwable reason = e.getCause() == null ? e : e.getCause();
                throw new EspalierException(
                        "the native tokenizers library does not load on this machine (%s, %s); it runs on Linux, macOS and Windows and unpacks itself to a folder that DJL_CACHE_DIR names: %s"
                                .formatted(
                                        System.getProperty("os.name"),
                                        System.getProperty("os.arch"),
                                        reason.getMessage()),
                        e);
            }
        }

        @Override
        public void run() {
            if (pointer != 0) {
                LIB.deleteTokenizer(pointer);
                pointer = 0;
            }
        }
    }
}
