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

    /** The variable that tells a child when it was started: milliseconds since 1970. */
    private static final String STARTED = "BENCH_STARTED";

    private static final int LINES_SHOWN = 20;

    private Child() {}

    /**
     * Runs a command to its end.
     *
     * @param variables beside those of this process
     * @throws EspalierException with the end of what it said, if it fails
     */
    static Map<String, Object> json(List<String> command, Map<String, String> variables)
            throws IOException, InterruptedException {
        Path answer = Files.createTempFile("answer", ".json");
        Path errors = Files.createTempFile("errors", ".txt");
        try {
            ProcessBuilder builder =
                    new ProcessBuilder(command).redirectOutput(answer.toFile()).redirectError(errors.toFile());
            builder.environment().putAll(variables);
            builder.environment().put(STARTED, Long.toString(System.currentTimeMillis()));
            int code = builder.start().waitFor();
            if (code != 0) {
                List<String> said = Files.readAllLines(errors);
                throw new EspalierException("%s ended with %d: %s"
                        .formatted(
                                String.join(" ", command),
                                code,
                                String.join("\n", said.subList(Math.max(0, said.size() - LINES_SHOWN), said.size()))));
            }
            return Json.read(answer);
        } finally {
            Files.delete(answer);
            Files.delete(errors);
        }
    }

    /** In a child: seconds since its parent started it. */
    static double secondsSinceStart() {
        String started = System.getenv(STARTED);
        return started == null ? Double.NaN : (System.currentTimeMillis() - Long.parseLong(started)) / 1e3;
    }

    /** In a child: its answer. */
    @SuppressWarnings("SystemOut") // what a parent reads
    static void answer(Map<String, Object> json) {
        System.out.println(Json.text(json));
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
