package dev.espalier.recipe;

import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.Map;

/**
 * What a model says of one text.
 *
 * @param text the text
 * @param label name of the likeliest class; for regression, empty
 * @param score its probability; for regression, the number
 * @param probabilities of all classes, likeliest first; for regression, empty
 */
public record Prediction(String text, String label, double score, Map<String, Double> probabilities) {

    /** Copies. */
    public Prediction {
        probabilities = Collections.unmodifiableMap(new LinkedHashMap<>(probabilities));
    }
}
