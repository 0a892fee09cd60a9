package dev.espalier.data;

import static dev.espalier.Check.check;

import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/** One row of a data set. */
public sealed interface Example {

    /** Where the row stands, as {@code file:line}; {@code file:row N} for Parquet. */
    String source();

    /**
     * A text, or a pair of texts, of one class.
     *
     * @param textPair the second text, or null
     * @param label the name of the class
     */
    record Labelled(String text, @Nullable String textPair, String label, String source) implements Example {}

    /**
     * A text, or a pair of texts, with a number to predict.
     *
     * @param textPair the second text, or null
     * @param score finite
     */
    record Scored(String text, @Nullable String textPair, double score, String source) implements Example {}

    /** What the model is given, and what it shall answer. Neither passes through a chat template. */
    record Completion(String prompt, String completion, String source) implements Example {}

    /**
     * A conversation; it needs a chat template.
     *
     * @param tools JSON schemas of the tools the assistant may call, or empty
     */
    record Chat(List<Turn> turns, List<Map<String, Object>> tools, String source) implements Example {
        public Chat {
            turns = List.copyOf(turns);
            tools = List.copyOf(tools);
        }
    }

    /** Text to learn from as it stands. */
    record Plain(String text, String source) implements Example {}

    /**
     * Token ids that somebody else's tokenizer made.
     *
     * @param ids at least one
     * @param supervised for each id, whether it is a target; the {@code labels} of the row that are not -100
     */
    @SuppressWarnings("ArrayRecordComponent") // token ids are arrays from here to the tensor; nobody compares examples
    record Tokens(int[] ids, boolean[] supervised, String source) implements Example {
        public Tokens {
            check(ids.length > 0, "%s: input_ids is empty; delete the row", source);
            check(
                    ids.length == supervised.length,
                    "%s: labels has %d entries for %d input_ids; they must be as many",
                    source,
                    supervised.length,
                    ids.length);
        }
    }
}
