package dev.espalier.adapter;

import dev.espalier.io.Fields;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/** A published method, as the catalogue knows it. Found by its line in {@code META-INF/services}. */
public interface Method {

    /** What it is. */
    About about();

    /** Its settings with their defaults. */
    List<Fields.Field> fields();

    /** The command that runs its recipe: {@code train}, {@code merge}, {@code compress} ... */
    default String verb() {
        return "train";
    }

    /** What each setting means and may be, by its name: {@code "rank, at least 1"}. */
    default Map<String, String> meanings() {
        return Map.of();
    }

    /**
     * What its paper and code leave open, how it is read here, and the setting that gives the other reading.
     *
     * @return a sentence or two; empty where all of it stands in the paper or was seen in the authors' code
     */
    default String reading() {
        return "";
    }

    /** Its name in recipes and on the command line. */
    default String name() {
        return about().name();
    }

    /**
     * Why this method cannot be used together with another one of the same recipe. Both are asked, before anything is trained.
     *
     * @return a reason that ends the sentence "A and B cannot be combined: ", or null
     */
    default @Nullable String objection(Method other) {
        return null;
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
