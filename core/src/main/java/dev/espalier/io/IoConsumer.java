package dev.espalier.io;

import java.io.IOException;

/** An action on one value that may fail as files do. */
@FunctionalInterface
public interface IoConsumer<T> {

    /** Acts on the value. */
    void accept(T value) throws IOException;
}
