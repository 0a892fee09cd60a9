package dev.espalier.text;

import java.util.List;

/**
 * A text's tokens and where each comes from.
 *
 * <p>{@code starts[i]} to {@code ends[i]} are the characters of token i, as {@link String#substring(int, int)} counts
 * them, a leading space included; both are -1 for a token that no text made, such as an added BOS. The tokens of one
 * character cut into bytes all carry that character.
 *
 * @param ids the token ids [T]
 * @param typeIds 0 for the first text, 1 for the second [T]
 * @param starts first character [T]
 * @param ends one past the last character [T]
 */
@SuppressWarnings("ArrayRecordComponent") // a carrier on the hot path, never compared
public record Encoded(int[] ids, int[] typeIds, int[] starts, int[] ends) {

    /**
     * Which tokens lie in the spans: those that share a character with one.
     *
     * @param spans in rising order, apart from one another
     * @return one flag a token [T]
     */
    public boolean[] within(List<Span> spans) {
        boolean[] inside = new boolean[ids.length];
        for (int i = 0; i < ids.length; i++) {
            for (Span span : spans) {
                if (starts[i] >= 0 && starts[i] < span.end() && ends[i] > span.start()) {
                    inside[i] = true;
                    break;
                }
            }
        }
        return inside;
    }
}
