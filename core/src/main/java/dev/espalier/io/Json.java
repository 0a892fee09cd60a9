package dev.espalier.io;

import static dev.espalier.Check.check;

import dev.espalier.EspalierException;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;
import tools.jackson.core.JacksonException;
import tools.jackson.core.StreamReadConstraints;
import tools.jackson.core.StreamReadFeature;
import tools.jackson.core.TokenStreamLocation;
import tools.jackson.core.json.JsonFactory;
import tools.jackson.core.json.JsonReadFeature;
import tools.jackson.core.util.DefaultIndenter;
import tools.jackson.core.util.DefaultPrettyPrinter;
import tools.jackson.core.util.Separators;
import tools.jackson.core.util.Separators.Spacing;
import tools.jackson.databind.DeserializationFeature;
import tools.jackson.databind.ObjectWriter;
import tools.jackson.databind.json.JsonMapper;

/**
 * JSON objects as ordered maps of {@code Map}, {@code List}, {@code String}, {@code Boolean}, {@code Long},
 * {@code BigInteger}, {@code Double} and {@code null}.
 *
 * <p>Input is taken as hostile: at most {@value #MAX_BYTES} bytes, {@value #MAX_DEPTH} levels deep, no key twice, nothing
 * after the end. {@code NaN} and {@code Infinity} are read, because Python's {@code json} writes them.
 */
public final class Json {

    /** The largest file read as JSON: tokenizer files of large vocabularies reach tens of megabytes. */
    public static final int MAX_BYTES = 256 << 20;

    /** The deepest nesting read. */
    public static final int MAX_DEPTH = 200;

    private static final JsonMapper MAPPER = JsonMapper.builder(JsonFactory.builder()
                    .streamReadConstraints(StreamReadConstraints.builder()
                            .maxNestingDepth(MAX_DEPTH)
                            .maxDocumentLength(MAX_BYTES)
                            .build())
                    .enable(StreamReadFeature.STRICT_DUPLICATE_DETECTION)
                    .enable(JsonReadFeature.ALLOW_NON_NUMERIC_NUMBERS)
                    .build())
            .enable(DeserializationFeature.FAIL_ON_TRAILING_TOKENS)
            .build();

    /** Two spaces and {@code "key": value}, as Hugging Face's libraries write. */
    private static final ObjectWriter PRETTY = MAPPER.writer()
            .with(new DefaultPrettyPrinter(Separators.createDefaultInstance()
                            .withObjectNameValueSpacing(Spacing.AFTER)
                            .withObjectEmptySeparator("")
                            .withArrayEmptySeparator(""))
                    .withObjectIndenter(new DefaultIndenter("  ", "\n"))
                    .withArrayIndenter(new DefaultIndenter("  ", "\n")));

    private Json() {}

    /**
     * Reads a file that holds one JSON object.
     *
     * @throws EspalierException if it cannot be read or is not one JSON object, with file, line and column
     */
    public static Map<String, Object> read(Path file) {
        try {
            long size = Files.size(file);
            check(
                    size <= MAX_BYTES,
                    "%s holds %d bytes, more than the %d that are read as JSON; is it the right file?",
                    file,
                    size,
                    MAX_BYTES);
            return parse(file.toString(), Files.readAllBytes(file));
        } catch (IOException e) {
            throw Faults.reading(file, e);
        }
    }

    /**
     * Reads one JSON object.
     *
     * @param where what the text is, for messages: a file, or a file and line
     */
    public static Map<String, Object> parse(String where, String json) {
        return parse(where, json.getBytes(StandardCharsets.UTF_8));
    }

    /** Reads one JSON object in UTF-8. */
    public static Map<String, Object> parse(String where, byte[] json) {
        Object value;
        try {
            value = MAPPER.readValue(json, Object.class);
        } catch (JacksonException e) {
            throw new EspalierException(sentence(where, e), e);
        }
        check(
                value instanceof Map,
                "%s should hold one JSON object, {...}, but holds %s",
                where,
                value == null ? "null" : FieldValues.describe(value));
        Map<String, Object> object = new LinkedHashMap<>();
        ((Map<?, ?>) value).forEach((key, v) -> object.put((String) key, widen(v)));
        return object;
    }

    /** A value as JSON on one line. */
    public static String text(Object value) {
        return MAPPER.writeValueAsString(value);
    }

    /** A value as indented JSON. */
    public static String pretty(Object value) {
        return PRETTY.writeValueAsString(value);
    }

    /** Writes a value as indented JSON, atomically. */
    public static void write(Path file, Map<String, ?> value) {
        AtomicFile.write(file, pretty(value) + "\n");
    }

    /** Integers as {@code Long}, whatever their size, so that no reader depends on how large a number happened to be. */
    @SuppressWarnings("unchecked") // Jackson's untyped containers take any value
    private static @Nullable Object widen(@Nullable Object value) {
        if (value instanceof Integer i) {
            return i.longValue();
        } else if (value instanceof Map<?, ?> map) {
            ((Map<String, Object>) map).replaceAll((key, v) -> widen(v));
        } else if (value instanceof List<?> list) {
            ((List<Object>) list).replaceAll(Json::widen);
        }
        return value;
    }

    private static String sentence(String where, JacksonException fault) {
        TokenStreamLocation at = fault.getLocation();
        String place = at == null || at.getLineNr() < 1
                ? ""
                : " line %d, column %d".formatted(at.getLineNr(), at.getColumnNr());
        String message = fault.getOriginalMessage() == null ? "cannot be parsed" : fault.getOriginalMessage();
        int end = message.indexOf('\n');
        String first = end < 0 ? message : message.substring(0, end);
        return "%s%s is not valid JSON: %s".formatted(where, place, first);
    }
}
