package dev.espalier.data;

import static dev.espalier.Check.check;

import dev.espalier.EspalierException;
import java.io.BufferedReader;
import java.io.IOException;
import java.nio.file.Path;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.util.Collections;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.function.Consumer;
import org.jspecify.annotations.Nullable;
import tools.jackson.core.JacksonException;
import tools.jackson.core.JsonParser;
import tools.jackson.core.JsonToken;
import tools.jackson.core.StreamReadFeature;
import tools.jackson.core.TokenStreamLocation;
import tools.jackson.core.type.TypeReference;
import tools.jackson.databind.DeserializationFeature;
import tools.jackson.databind.json.JsonMapper;

/** Reads the rows of one file, whatever its format. */
final class RowReader {

    /** Endings of the formats that are read. */
    static final List<String> ENDINGS = List.of(".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".txt");

    private static final TypeReference<Map<String, @Nullable Object>> OBJECT = new TypeReference<>() {};

    private static final JsonMapper JSON = JsonMapper.builder()
            .enable(StreamReadFeature.STRICT_DUPLICATE_DETECTION)
            .enable(DeserializationFeature.FAIL_ON_TRAILING_TOKENS)
            .build();

    private RowReader() {}

    /** Whether the file's name has one of {@link #ENDINGS}. */
    static boolean reads(Path file) {
        String name = file.getFileName().toString().toLowerCase(Locale.ROOT);
        return ENDINGS.stream().anyMatch(name::endsWith);
    }

    /**
     * Reads all rows in the file's order.
     *
     * @throws EspalierException naming file and line of whatever cannot be read
     */
    static void read(Path file, Consumer<Row> rows) {
        String name = file.getFileName().toString().toLowerCase(Locale.ROOT);
        String ending = name.substring(Math.max(name.lastIndexOf('.'), 0));
        try {
            switch (ending) {
                case ".jsonl", ".ndjson" -> readJsonLines(file, rows);
                case ".json" -> readJson(file, rows);
                case ".csv" -> CsvParser.read(file, ',', rows);
                case ".tsv" -> CsvParser.read(file, '\t', rows);
                case ".txt" -> readLines(file, rows);
                case ".parquet" -> readParquet(file, rows);
                default ->
                    throw new EspalierException("%s: data files end in %s; convert it or rename it"
                            .formatted(file, String.join(", ", ENDINGS)));
            }
        } catch (IOException e) {
            throw new EspalierException(
                    "%s: cannot be read (%s); check the path and its permissions"
                            .formatted(
                                    file, e.getMessage() == null ? e.getClass().getSimpleName() : e.getMessage()),
                    e);
        }
    }

    private static void readLines(Path file, Consumer<Row> rows) throws IOException {
        try (BufferedReader in = TextFile.open(file)) {
            long line = 0;
            for (String text = in.readLine(); text != null; text = in.readLine()) {
                line++;
                if (!text.isBlank()) {
                    rows.accept(new Row(file + ":" + line, Collections.singletonMap("text", text)));
                }
            }
        }
    }

    private static void readJsonLines(Path file, Consumer<Row> rows) throws IOException {
        try (BufferedReader in = TextFile.open(file)) {
            long line = 0;
            for (String text = in.readLine(); text != null; text = in.readLine()) {
                line++;
                if (text.isBlank()) {
                    continue;
                }
                String source = file + ":" + line;
                check(
                        text.stripLeading().startsWith("{"),
                        "%s: a line of JSONL is one object in braces, found %s; rename the file if it is not JSONL",
                        source,
                        excerpt(text));
                Map<String, @Nullable Object> values;
                try {
                    values = JSON.readValue(text, OBJECT);
                } catch (JacksonException e) {
                    throw new EspalierException(
                            "%s: not valid JSON%s: %s; mend or delete the line".formatted(source, column(e), reason(e)),
                            e);
                }
                rows.accept(new Row(source, values));
            }
        }
    }

    /** An array of objects, or objects one after the other (JSONL that ends in .json). */
    private static void readJson(Path file, Consumer<Row> rows) throws IOException {
        try (BufferedReader in = TextFile.open(file);
                JsonParser parser = JSON.createParser(in)) {
            JsonToken token = parser.nextToken();
            boolean array = token == JsonToken.START_ARRAY;
            token = array ? parser.nextToken() : token;
            while (token != null && token != JsonToken.END_ARRAY) {
                String source = file + ":" + parser.currentTokenLocation().getLineNr();
                check(
                        token == JsonToken.START_OBJECT,
                        "%s: expected an object in braces, found %s; write a list of objects or one object a line",
                        source,
                        excerpt(parser.getString()));
                rows.accept(new Row(source, parser.readValueAs(OBJECT)));
                token = parser.nextToken();
            }
        } catch (JacksonException e) {
            TokenStreamLocation at = e.getLocation();
            throw new EspalierException(
                    "%s%s: not valid JSON%s: %s; mend the file"
                            .formatted(file, at == null ? "" : ":" + at.getLineNr(), column(e), reason(e)),
                    e);
        }
    }

    private static String column(JacksonException e) {
        TokenStreamLocation at = e.getLocation();
        return at == null ? "" : " at column " + at.getColumnNr();
    }

    private static String reason(JacksonException e) {
        String message = e.getOriginalMessage();
        // Jackson adds where the object began in terms of its own buffers, which tell the reader nothing.
        return message == null
                ? "unreadable"
                : message.lines()
                        .findFirst()
                        .orElse("unreadable")
                        .replaceAll(" \\(start marker at .*|: was expecting .*|(?<=valid value) \\(.*", "");
    }

    private static String excerpt(@Nullable String text) {
        String line = text == null ? "" : text.strip();
        return "\"" + (line.length() > 40 ? line.substring(0, 40) + "..." : line) + "\"";
    }

    /** Each row passes through DuckDB's {@code to_json}, which carries nested lists and structs as JSONL would. */
    private static void readParquet(Path file, Consumer<Row> rows) {
        // Brackets and wildcards are legal in a file's name but a pattern to DuckDB; [x] matches x itself.
        String pattern = file.toAbsolutePath().toString().replaceAll("[\\[*?]", "[$0]");
        try (Connection duckdb = DriverManager.getConnection("jdbc:duckdb:");
                PreparedStatement query =
                        duckdb.prepareStatement("SELECT to_json(t)::VARCHAR FROM read_parquet(?) AS t")) {
            query.setString(1, pattern);
            try (ResultSet result = query.executeQuery()) {
                for (long row = 1; result.next(); row++) {
                    rows.accept(new Row(file + ":row " + row, JSON.readValue(result.getString(1), OBJECT)));
                }
            }
        } catch (SQLException e) {
            String message = String.valueOf(e.getMessage()).lines().findFirst().orElse("");
            throw new EspalierException(
                    "%s: cannot be read as Parquet (%s); is the file complete?".formatted(file, message), e);
        }
    }
}
