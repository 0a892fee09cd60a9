package dev.espalier.text;

import static dev.espalier.Check.check;

/**
 * Characters of a text, as {@link String#substring(int, int)} counts them.
 *
 * @param start the first
 * @param end one past the last
 */
public record Span(int start, int end) {
    public Span {
        check(0 <= start && start <= end, "a span must have 0 <= start <= end, found %d to %d", start, end);
    }
}
