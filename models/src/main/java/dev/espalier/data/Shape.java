package dev.espalier.data;

import static dev.espalier.data.Column.COMPLETION;
import static dev.espalier.data.Column.HISTORY;
import static dev.espalier.data.Column.INPUT;
import static dev.espalier.data.Column.INPUT_IDS;
import static dev.espalier.data.Column.INSTRUCTION;
import static dev.espalier.data.Column.LABEL;
import static dev.espalier.data.Column.MESSAGES;
import static dev.espalier.data.Column.OUTPUT;
import static dev.espalier.data.Column.PROMPT;
import static dev.espalier.data.Column.SCORE;
import static dev.espalier.data.Column.SYSTEM;
import static dev.espalier.data.Column.TEXT;
import static dev.espalier.data.Column.TEXT_PAIR;
import static dev.espalier.data.Column.TOOLS;

import java.util.List;

/** The shapes of data that are recognised, in the order in which they are tried. */
@SuppressWarnings("ImmutableEnumChecker") // the lists are List.of
public enum Shape {
    /** {@code input_ids}: token ids. */
    TOKENS("token ids", List.of(INPUT_IDS), List.of()),
    /** {@code conversations} of {@code from} and {@code value}. */
    SHAREGPT("ShareGPT conversations", List.of(MESSAGES), List.of(SYSTEM, TOOLS)),
    /** {@code messages} of {@code role} and {@code content}. */
    CHAT("messages", List.of(MESSAGES), List.of(SYSTEM, TOOLS)),
    /** {@code instruction}, {@code input}, {@code output}. */
    ALPACA("Alpaca instructions", List.of(INSTRUCTION, OUTPUT), List.of(INPUT, SYSTEM, HISTORY)),
    /** {@code prompt}, {@code completion}. */
    PROMPTED("prompt + completion", List.of(PROMPT, COMPLETION), List.of()),
    /** {@code text}, {@code label}; perhaps {@code text_pair}. */
    LABELLED("text + label", List.of(TEXT, LABEL), List.of(TEXT_PAIR)),
    /** {@code text}, numeric {@code score}; perhaps {@code text_pair}. */
    SCORED("text + score", List.of(TEXT, SCORE), List.of(TEXT_PAIR)),
    /** {@code text} alone. */
    PLAIN("plain text", List.of(TEXT), List.of());

    private final String title;
    private final List<Column> required;
    private final List<Column> optional;

    Shape(String title, List<Column> required, List<Column> optional) {
        this.title = title;
        this.required = required;
        this.optional = optional;
    }

    /** For reports and messages, such as "text + label". */
    public String title() {
        return title;
    }

    /** Columns without which a row is not of this shape. */
    public List<Column> required() {
        return required;
    }

    /** Columns read where they exist. */
    public List<Column> optional() {
        return optional;
    }

    boolean uses(Column column) {
        return required.contains(column) || optional.contains(column);
    }
}
