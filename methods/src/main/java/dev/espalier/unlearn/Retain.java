package dev.espalier.unlearn;

import static dev.espalier.Check.check;

import dev.espalier.io.Fields;
import java.util.Map;

/**
 * How what is to be retained takes part in the loss.
 *
 * @param kind which term
 * @param weight of it, at least 0
 */
public record Retain(Kind kind, double weight) {

    /** Terms, each a mean over a batch of what is to be retained. */
    public enum Kind {
        /** None. */
        NONE,
        /** Cross-entropy of the target tokens ("GD", gradient difference). */
        CE,
        /** KL(original || current) over the vocabulary at every position, also of prompts and padding ("KL"). */
        KL
    }

    /** Checks the range. */
    public Retain {
        check(
                weight >= 0 && Double.isFinite(weight),
                "retainWeight must be at least 0 and finite, found %s; try 1",
                weight);
    }

    /** What the settings that {@link #read} reads mean. */
    static final Map<String, String> MEANINGS = Map.of(
            "retain", "term that keeps the rest: none, ce (cross-entropy) or kl (to the original model)",
            "retainWeight", "of that term, at least 0");

    static Retain read(Fields f, Kind usual) {
        return new Retain(f.choice("retain", usual), f.number("retainWeight", 1));
    }
}
