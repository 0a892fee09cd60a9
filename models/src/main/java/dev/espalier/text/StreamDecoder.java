package dev.espalier.text;

import java.util.Arrays;

/**
 * Decodes ids one by one and gives out whole characters only: a character whose bytes are still to come is held back.
 *
 * <p>What it gave out, joined, is the {@link Tokenizer#decode} of all ids. For one thread.
 */
public final class StreamDecoder {

    private final Tokenizer tokenizer;
    private int[] ids = new int[16];
    private int count; // ids seen since the window began
    private int read; // of those, given out already: they stay as context, for a space may hang on them
    private String given = ""; // their text

    StreamDecoder(Tokenizer tokenizer) {
        this.tokenizer = tokenizer;
    }

    /** Adds a token; returns the text that became certain, often empty. */
    public String next(int id) {
        if (count == ids.length) {
            ids = Arrays.copyOf(ids, 2 * count);
        }
        ids[count++] = id;
        String text = window(0, count);
        if (text.endsWith("\uFFFD") || text.length() <= given.length()) {
            return "";
        }
        String fresh = text.substring(given.length());
        // The window keeps the last piece only, so that the cost of a token does not grow with the text.
        System.arraycopy(ids, read, ids, 0, count - read);
        count -= read;
        read = count;
        given = window(0, count);
        return fresh;
    }

    /** The end: what was held back, broken characters as U+FFFD. */
    public String finish() {
        String text = window(0, count);
        String rest = text.length() > given.length() ? text.substring(given.length()) : "";
        count = 0;
        read = 0;
        given = "";
        return rest;
    }

    private String window(int from, int to) {
        return tokenizer.decode(Arrays.copyOfRange(ids, from, to), true);
    }
}
