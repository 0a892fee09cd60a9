package dev.espalier.recipe;

import static dev.espalier.Check.check;

import dev.espalier.EspalierException;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;
import tools.jackson.core.JacksonException;
import tools.jackson.core.StreamReadFeature;
import tools.jackson.core.TokenStreamLocation;
import tools.jackson.core.type.TypeReference;
import tools.jackson.dataformat.yaml.YAMLFactory;
import tools.jackson.dataformat.yaml.YAMLMapper;

/** YAML as ordered maps, and single settings laid over them. */
public final class Yaml {

    private static final int MAX_BYTES = 1 << 20;

    private static final YAMLMapper MAPPER = YAMLMapper.builder(YAMLFactory.builder()
                    .enable(StreamReadFeature.STRICT_DUPLICATE_DETECTION)
                    .build())
            .build();

    private Yaml() {}

    /**
     * Reads a file that holds one YAML mapping.
     *
     * @throws EspalierException if it cannot be read or is no mapping, with file and line
     */
    public static Map<String, Object> read(Path file) {
        try {
            check(Files.isRegularFile(file), "%s is not a file; name a recipe, such as tickets.yaml", file);
            check(
                    Files.size(file) <= MAX_BYTES,
                    "%s is larger than a recipe can be (1 MiB); is it the right file?",
                    file);
            return parse(file.toString(), Files.readString(file));
        } catch (IOException e) {
            throw new EspalierException("%s cannot be read: %s".formatted(file, e.getMessage()), e);
        }
    }

    /**
     * Reads one YAML mapping.
     *
     * @param where the source, for messages
     */
    public static Map<String, Object> parse(String where, String text) {
        try {
            Map<String, Object> map = MAPPER.readValue(text, new TypeReference<LinkedHashMap<String, Object>>() {});
            check(map != null, "%s is empty; a recipe has at least a model and a task", where);
            return java.util.Objects.requireNonNull(map);
        } catch (JacksonException e) {
            TokenStreamLocation at = e.getLocation();
            String line = at == null ? "" : ":" + at.getLineNr();
            String reason = e.getOriginalMessage().lines().findFirst().orElse("not a YAML mapping");
            throw new EspalierException("%s%s is not a valid recipe: %s".formatted(where, line, reason), e);
        }
    }

    /**
     * Lays settings such as {@code train.learningRate=1e-4} over a mapping; values are read as YAML.
     *
     * @return a new mapping; the given one is left alone
     */
    public static Map<String, Object> with(Map<String, Object> map, List<String> settings) {
        Map<String, Object> result = copyOf(map);
        for (String setting : settings) {
            int equals = setting.indexOf('=');
            check(equals > 0, "--set %s has no value; write it as key=value, such as train.epochs=3", setting);
            String[] path = setting.substring(0, equals).strip().split("\\.", -1);
            put(result, path, 0, value(setting, setting.substring(equals + 1)));
        }
        return result;
    }

    /** The mapping as YAML text. */
    public static String text(Map<String, Object> map) {
        return MAPPER.writeValueAsString(map);
    }

    private static @Nullable Object value(String setting, String text) {
        if (text.isBlank()) {
            return "";
        }
        try {
            return MAPPER.readValue(text, Object.class);
        } catch (JacksonException e) {
            throw new EspalierException(
                    "--set %s: the value is not valid YAML; put quotes around it".formatted(setting), e);
        }
    }

    private static void put(Map<String, Object> map, String[] path, int depth, @Nullable Object value) {
        String key = path[depth];
        if (depth == path.length - 1) {
            map.put(key, value);
            return;
        }
        Object below = map.get(key);
        Map<String, Object> next = below instanceof Map<?, ?> nested ? copyOf(nested) : new LinkedHashMap<>();
        map.put(key, next);
        put(next, path, depth + 1, value);
    }

    private static Map<String, Object> copyOf(Map<?, ?> map) {
        Map<String, Object> copy = new LinkedHashMap<>();
        map.forEach((key, value) ->
                copy.put(String.valueOf(key), value instanceof Map<?, ?> nested ? copyOf(nested) : value));
        return copy;
    }
}
