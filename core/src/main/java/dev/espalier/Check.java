package dev.espalier;

import com.google.errorprone.annotations.FormatMethod;
import com.google.errorprone.annotations.FormatString;
import java.util.Locale;
import org.jspecify.annotations.Nullable;

/** Preconditions that speak to the user. */
public final class Check {

    private Check() {}

    /**
     * Stops with a sentence unless a condition holds.
     *
     * @param holds the condition
     * @param format the sentence, as for {@link String#format}: value found, rule, next step
     * @param arguments its values
     * @throws EspalierException if the condition does not hold
     */
    @FormatMethod
    public static void check(boolean holds, @FormatString String format, @Nullable Object... arguments) {
        if (!holds) {
            throw new EspalierException(String.format(Locale.ROOT, format, arguments));
        }
    }
}
