package dev.espalier.data;

import java.util.List;
import java.util.Locale;
import org.jspecify.annotations.Nullable;

/**
 * A column that a {@link Shape} reads, and the names it goes by in public data sets. The first name is the one used in
 * messages and in a recipe's {@code columns}.
 */
@SuppressWarnings("ImmutableEnumChecker") // the lists are List.of
public enum Column {
    /** The text to classify, to score, or to learn from as it stands. */
    TEXT("text", "sentence", "utterance", "sentence1", "premise", "text1", "content"),
    /** The second text of a pair. */
    TEXT_PAIR("text_pair", "sentence2", "hypothesis", "text2"),
    /** The name of a class. */
    LABEL("label", "labels", "class", "category", "intent"),
    /** The number to predict; also called label, where the task says that it is a number. */
    SCORE("score", "similarity", "target", "label", "labels"),
    /** What the model is given. */
    PROMPT("prompt", "question"),
    /** What the model shall answer. */
    COMPLETION("completion", "response", "answer"),
    /** Alpaca: the task. */
    INSTRUCTION("instruction"),
    /** Alpaca: the material of the task; may be empty. */
    INPUT("input"),
    /** Alpaca: the answer. */
    OUTPUT("output"),
    /** Alpaca: earlier turns, a list of [question, answer]. */
    HISTORY("history"),
    /** The turns of a conversation. */
    MESSAGES("messages", "conversations", "conversation"),
    /** The system prompt, where the turns do not carry it. */
    SYSTEM("system"),
    /** Tools the assistant may call: a list of JSON schemas, as chat templates take them. */
    TOOLS("tools"),
    /** Token ids. */
    INPUT_IDS("input_ids");

    private final List<String> names;

    Column(String... names) {
        this.names = List.of(names);
    }

    /** The name in a recipe's {@code columns}, such as {@code text_pair}. */
    public String key() {
        return name().toLowerCase(Locale.ROOT);
    }

    /** Names under which the column is recognised, most usual first. */
    public List<String> names() {
        return names;
    }

    static @Nullable Column ofKey(String key) {
        for (Column column : values()) {
            if (column.key().equals(key)) {
                return column;
            }
        }
        return null;
    }
}
