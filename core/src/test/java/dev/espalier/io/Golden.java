package dev.espalier.io;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;

/** Files that scripts under tools/golden made with the formats' reference implementations. */
final class Golden {

    private Golden() {}

    static Path path(String name) {
        return Path.of("src/test/resources/golden").resolve(name);
    }

    static byte[] bytes(String name) {
        try {
            return Files.readAllBytes(path(name));
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }
}
