package dev.espalier.bench;

import dev.espalier.EspalierException;
import dev.espalier.io.Json;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;

/** A process whose output is one JSON object. */
final class Child {

    private Child() {}

    /** Runs a command to its end. */
    static Map<String, Object> json(List<String> command, ProcessBuilder.Redirect errors)
            throws IOException, InterruptedException {
        Path answer = Files.createTempFile("answer", ".json");
        try {
            int code = new ProcessBuilder(command)
                    .redirectOutput(answer.toFile())
                    .redirectError(errors)
                    .start()
                    .waitFor();
            if (code != 0) {
                throw new EspalierException("%s ended with %d".formatted(String.join(" ", command), code));
            }
            return Json.read(answer);
        } finally {
            Files.delete(answer);
        }
    }

    /** The command that starts a class of this class path in a Java of its own. */
    static List<String> java(String... options) {
        List<String> command = new ArrayList<>(List.of(
                Path.of(System.getProperty("java.home"), "bin", "java").toString(),
                "-cp",
                System.getProperty("java.class.path")));
        command.addAll(List.of(options));
        return command;
    }
}
