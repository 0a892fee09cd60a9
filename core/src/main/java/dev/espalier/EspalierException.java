package dev.espalier;

import org.jspecify.annotations.Nullable;

/**
 * What stops a run, said to the person who started it: one sentence with the value found, the rule, and what to do next.
 *
 * <p>Every fault that input can cause (files, configurations, data, requests) arrives as this type; any other exception
 * out of Espalier is a defect of Espalier.
 */
public class EspalierException extends RuntimeException {

    private static final long serialVersionUID = 1L;

    /** @param sentence for the user, complete in itself */
    public EspalierException(String sentence) {
        super(sentence);
    }

    /**
     * @param sentence for the user, complete in itself
     * @param cause what the layer below said
     */
    public EspalierException(String sentence, @Nullable Throwable cause) {
        super(sentence, cause);
    }
}
