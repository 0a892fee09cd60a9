package dev.espalier.model;

import java.nio.file.Path;

/** Models that are too large for a repository and lie beside it, where they lie. */
final class Shared {

    private Shared() {}

    static Path models() {
        String folder = System.getenv("ESPALIER_MODELS");
        return folder != null
                ? Path.of(folder)
                : Path.of(System.getProperty("espalier.root", "..")).resolve("../shared/models");
    }
}
