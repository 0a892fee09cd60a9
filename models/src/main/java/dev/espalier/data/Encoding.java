package dev.espalier.data;

import static dev.espalier.Check.check;

import org.jspecify.annotations.Nullable;

/**
 * An example as a model reads it.
 *
 * @param ids token ids [T], T at least 1
 * @param typeIds 0 for the tokens of the first text and 1 for those of the second [T]; null where all are 0
 * @param supervised for each token, whether it is a target of the language model [T]
 * @param label the class's id (Integer) or the score (Double) of the whole, or null
 * @param source {@code file:line}
 */
@SuppressWarnings("ArrayRecordComponent") // token ids are arrays from here to the tensor; nobody compares encodings
public record Encoding(
        int[] ids,
        int @Nullable [] typeIds,
        boolean[] supervised,
        @Nullable Number label,
        String source) {

    public Encoding {
        check(ids.length > 0, "%s: there are no tokens; fill the row in or delete it", source);
        check(
                supervised.length == ids.length && (typeIds == null || typeIds.length == ids.length),
                "%s: an encoding needs as many flags and type ids as its %d ids",
                source,
                ids.length);
    }

    /** The number of tokens. */
    public int length() {
        return ids.length;
    }

    /** Targets of the language model. The first token is none: nothing stands before it to predict it from. */
    public int targets() {
        int count = 0;
        for (int i = 1; i < supervised.length; i++) {
            count += supervised[i] ? 1 : 0;
        }
        return count;
    }
}
