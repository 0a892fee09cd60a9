package dev.espalier.adapter;

import dev.espalier.io.Fields;
import java.util.List;

/** A published method, as the catalogue knows it. Found by its line in {@code META-INF/services}. */
public interface Method {

    /** What it is. */
    About about();

    /** Its settings with their defaults. */
    List<Fields.Field> fields();

    /** Its name in recipes and on the command line. */
    default String name() {
        return about().name();
    }

    /**
     * What a reader wants to know about a method before using it.
     *
     * @param name in recipes: {@code lora}
     * @param kind the door it comes through: {@code adapter}, {@code initializer}, {@code optimizer}, ...
     * @param title in a few words
     * @param citation authors, title, arXiv number or venue
     * @param formula what it computes, with shapes
     * @param combines what it can be combined with, and what not
     * @param saves what an adapter folder holds
     * @param merges whether its effect can be folded into the weights
     */
    record About(
            String name,
            String kind,
            String title,
            String citation,
            String formula,
            String combines,
            String saves,
            boolean merges) {}
}
