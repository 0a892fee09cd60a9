package dev.espalier.text;

import dev.espalier.EspalierException;
import java.io.IOException;
import java.nio.charset.CharacterCodingException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Map;
import org.jspecify.annotations.Nullable;
import tools.jackson.core.JacksonException;
import tools.jackson.core.type.TypeReference;
import tools.jackson.databind.json.JsonMapper;

/** Reads the JSON files of a tokenizer. */
final class JsonText {

    static final JsonMapper MAPPER = new JsonMapper();
    private static final TypeReference<Map<String, @Nullable Object>> OBJECT = new TypeReference<>() {};

    private JsonText() {}

    static Map<String, @Nullable Object> object(Path file) {
        return object(read(file), file.toString());
    }

    static Map<String, @Nullable Object> object(String json, String where) {
        Map<String, @Nullable Object> object;
        try {
            object = MAPPER.readValue(json, OBJECT);
        } catch (JacksonException e) {
            throw new EspalierException("%s is not a JSON object: %s".formatted(where, e.getOriginalMessage()), e);
        }
        if (object == null) {
            throw new EspalierException(where + " is not a JSON object: found null");
        }
        return object;
    }

    static String read(Path file) {
        try {
            return Files.readString(file, StandardCharsets.UTF_8);
        } catch (CharacterCodingException e) {
            throw new EspalierException(file + " is not UTF-8; save it as UTF-8", e);
        } catch (IOException e) {
            throw new EspalierException("cannot read %s: %s".formatted(file, e.getMessage()), e);
        }
    }

    /** A value as it reads in a message: at most 60 characters. */
    static String brief(@Nullable Object value) {
        String text = String.valueOf(value);
        return text.length() <= 60 ? text : text.substring(0, 57) + "...";
    }
}
