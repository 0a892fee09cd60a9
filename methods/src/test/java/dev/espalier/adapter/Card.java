package dev.espalier.adapter;

import java.lang.annotation.ElementType;
import java.lang.annotation.Repeatable;
import java.lang.annotation.Retention;
import java.lang.annotation.RetentionPolicy;
import java.lang.annotation.Target;

/**
 * Which numbered checks of a method's card a test holds the method to. {@code docs/evidence.md} is made from these and from what
 * the tests came to. On a class: what its family's contract holds the method to.
 */
@Retention(RetentionPolicy.SOURCE)
@Target({ElementType.METHOD, ElementType.TYPE})
@Repeatable(Card.Several.class)
public @interface Card {

    /** The method, by its name in the catalogue. */
    String value();

    /** Numbers in the list "what a correct implementation shows". */
    int[] checks();

    /** A test of several methods. */
    @Retention(RetentionPolicy.SOURCE)
    @Target({ElementType.METHOD, ElementType.TYPE})
    @interface Several {
        /** One for each. */
        Card[] value();
    }
}
