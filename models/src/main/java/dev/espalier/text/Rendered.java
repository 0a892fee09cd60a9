package dev.espalier.text;

import java.util.List;

/**
 * A conversation as its model reads it.
 *
 * @param text the whole
 * @param assistant what the assistant wrote, in order and apart from one another, each with the token that ends the turn
 */
public record Rendered(String text, List<Span> assistant) {
    public Rendered {
        assistant = List.copyOf(assistant);
    }
}
