package dev.espalier.text.jinja;

/**
 * A piece of a template.
 *
 * @param kind what it is
 * @param text as written; a string's content with its escapes resolved
 * @param line counted from 1
 */
record Token(Kind kind, String text, int line) {

    enum Kind {
        DATA,
        VARIABLE_BEGIN,
        VARIABLE_END,
        BLOCK_BEGIN,
        BLOCK_END,
        NAME,
        STRING,
        INTEGER,
        FLOAT,
        OPERATOR,
        END
    }

    boolean is(Kind kind, String text) {
        return this.kind == kind && this.text.equals(text);
    }

    String described() {
        return switch (kind) {
            case END -> "the end of the template";
            case BLOCK_END, VARIABLE_END -> "the end of the tag";
            default -> "\"" + text + "\"";
        };
    }
}
