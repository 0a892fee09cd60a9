package dev.espalier.data;

import java.util.List;
import java.util.Locale;

/**
 * An encoded data set.
 *
 * @param items in the order of the examples
 * @param truncated how many were cut to fit the model
 */
public record Encodings(List<Encoding> items, int truncated) {

    public Encodings {
        items = List.copyOf(items);
    }

    /** All tokens. */
    public long tokens() {
        return items.stream().mapToLong(Encoding::length).sum();
    }

    /** All targets of the language model. */
    public long targets() {
        return items.stream().mapToLong(Encoding::targets).sum();
    }

    /** The tokens of the longest. */
    public int longest() {
        return items.stream().mapToInt(Encoding::length).max().orElse(0);
    }

    /** What came out, in one line. */
    public String summary() {
        long tokens = tokens();
        long targets = targets();
        return String.format(
                Locale.ROOT,
                "%,d tokens in %,d examples, the longest %,d%s%s",
                tokens,
                items.size(),
                longest(),
                targets == 0
                        ? ""
                        : String.format(Locale.ROOT, "; %,d supervised (%.0f %%)", targets, 100.0 * targets / tokens),
                truncated == 0 ? "" : "; " + truncated + " truncated");
    }
}
