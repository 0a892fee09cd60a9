package dev.espalier.text.jinja;

import com.google.errorprone.annotations.FormatMethod;
import com.google.errorprone.annotations.FormatString;

/** What is wrong with a template or its input; the nearest statement adds its line, {@link Jinja} makes it a sentence. */
final class Fault extends RuntimeException {

    private static final long serialVersionUID = 1L;

    private final String message;
    private final int line; // 0: not known yet

    private Fault(String message, int line) {
        super(message, null, false, false);
        this.message = message;
        this.line = line;
    }

    @FormatMethod
    static Fault of(@FormatString String format, Object... arguments) {
        return new Fault(format.formatted(arguments), 0);
    }

    int line() {
        return line;
    }

    /** This fault, on that line unless it has one. */
    Fault at(int line) {
        return this.line > 0 ? this : new Fault(message, line);
    }
}
