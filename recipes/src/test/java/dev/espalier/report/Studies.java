package dev.espalier.report;

import dev.espalier.compare.StudyResult;
import dev.espalier.io.Json;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.function.Consumer;

/** Studies to report on: the invented sample, and changes of it. */
final class Studies {

    /** Would change the page if anything took it for markup. */
    static final String HOSTILE = "</script><script>window.taken=1</script><img src=x onerror=window.taken=1>";

    private Studies() {}

    static StudyResult sample() {
        return changed(json -> {});
    }

    /** The sample with the reference's first seed only, as a study of one seed has it. */
    static StudyResult oneSeed() {
        return changed(json -> {
            at(json, "terms").put("seeds", List.of(0L));
            for (Map<String, Object> method : list(json, "methods")) {
                method.put("runs", list(method, "runs").subList(0, 1));
                Map<String, Object> summary = at(method, "summary");
                summary.put("runs", 1L);
                summary.put("standard_error", null);
                summary.put("forgetting_error", null);
                if (summary.get("difference") != null) {
                    at(summary, "difference").putAll(Map.of("pairs", 1L, "resampled", "test examples"));
                }
            }
        });
    }

    /** The sample with hostile texts wherever a study has texts of its own, and a method that failed throughout. */
    static StudyResult hostile() {
        return changed(json -> {
            json.put("name", HOSTILE);
            Map<String, Object> method = list(json, "methods").get(1);
            method.putAll(
                    Map.of("name", HOSTILE, "title", HOSTILE, "command", HOSTILE, "recipe", Map.of(HOSTILE, HOSTILE)));
            method.put("summary", null);
            for (Map<String, Object> run : list(method, "runs")) {
                run.put("status", "failed");
                run.put("failure", HOSTILE);
                run.put("measured", null);
            }
        });
    }

    static StudyResult changed(Consumer<Map<String, Object>> change) {
        try {
            Map<String, Object> json =
                    Json.read(Path.of(Objects.requireNonNull(Studies.class.getResource("/compare/sample-results.json"))
                            .toURI()));
            change.accept(json);
            Path file = Files.createTempFile("study", ".json");
            try {
                Json.write(file, json);
                return StudyResult.read(file);
            } finally {
                Files.delete(file);
            }
        } catch (java.io.IOException e) {
            throw new UncheckedIOException(e);
        } catch (java.net.URISyntaxException e) {
            throw new IllegalStateException(e);
        }
    }

    @SuppressWarnings("unchecked") // as results.json has it
    static Map<String, Object> at(Map<String, Object> json, String key) {
        return (Map<String, Object>) json.get(key);
    }

    @SuppressWarnings("unchecked") // as results.json has it
    static List<Map<String, Object>> list(Map<String, Object> json, String key) {
        return (List<Map<String, Object>>) json.get(key);
    }
}
