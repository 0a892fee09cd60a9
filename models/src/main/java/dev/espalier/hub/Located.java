package dev.espalier.hub;

import java.nio.file.Path;

/** Where a model is. */
public sealed interface Located {

    /**
     * A model that comes with Espalier.
     *
     * @param name one of {@link Hub#BUILT_IN}
     */
    record BuiltIn(String name) implements Located {}

    /**
     * A folder in Hugging Face's layout, or a single file such as a GGUF.
     *
     * @param path exists
     */
    record Local(Path path) implements Located {}
}
