package dev.espalier.data;

import static dev.espalier.Check.check;

import dev.espalier.EspalierException;
import java.io.BufferedReader;
import java.io.IOException;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.function.Consumer;
import org.jspecify.annotations.Nullable;

/**
 * CSV by RFC 4180 with a header line: fields in double quotes may hold delimiters, line breaks and doubled quotes; blank
 * lines are skipped; every record must have as many fields as the header.
 *
 * <p>DuckDB's reader is not used here because it guesses: it skips lines that do not fit, and when it gives up its
 * message names no line.
 */
final class CsvParser {

    private final Path file;
    private final BufferedReader in;
    private final char delimiter;
    private long line = 1; // of the character that is read next
    private int ahead;

    private final char[] buffer = new char[1 << 14]; // a call for each character of a reader takes a lock
    private int at;
    private int filled;

    private CsvParser(Path file, BufferedReader in, char delimiter) throws IOException {
        this.file = file;
        this.in = in;
        this.delimiter = delimiter;
        this.ahead = read();
    }

    /**
     * Reads all records.
     *
     * @param delimiter ',' gives way to ';' or tab where the header has those and no comma
     */
    static void read(Path file, char delimiter, Consumer<Row> rows) throws IOException {
        try (BufferedReader in = TextFile.open(file)) {
            if (delimiter == ',') {
                in.mark(1 << 16);
                String header = in.readLine();
                in.reset();
                delimiter = header == null ? ',' : delimiterOf(header);
            }
            new CsvParser(file, in, delimiter).records(rows);
        }
    }

    private static char delimiterOf(String header) {
        for (char candidate : new char[] {',', ';', '\t'}) {
            if (header.indexOf(candidate) >= 0) {
                return candidate;
            }
        }
        return ',';
    }

    private void records(Consumer<Row> rows) throws IOException {
        List<String> header = record();
        if (header == null) {
            return;
        }
        List<String> names = header.stream().map(String::strip).toList();
        Set<String> seen = new HashSet<>();
        for (String name : names) {
            check(seen.add(name), "%s: the header has the column \"%s\" twice; rename one", file, name);
        }
        while (true) {
            skipBlankLines();
            long start = line;
            List<String> record = record();
            if (record == null) {
                return;
            }
            check(
                    record.size() == names.size(),
                    "%s:%d: %d fields where the header has %d (%s); put a field that contains '%s' in double quotes",
                    file,
                    start,
                    record.size(),
                    names.size(),
                    String.join(", ", names),
                    delimiter == '\t' ? "\\t" : String.valueOf(delimiter));
            Map<String, @Nullable Object> values = new LinkedHashMap<>();
            for (int i = 0; i < names.size(); i++) {
                values.put(names.get(i), record.get(i));
            }
            rows.accept(new Row(file + ":" + start, values));
        }
    }

    private void skipBlankLines() throws IOException {
        while (ahead == '\n' || ahead == '\r') {
            next();
        }
    }

    /** The next record, or null at the end of the file. */
    private @Nullable List<String> record() throws IOException {
        if (ahead < 0) {
            return null;
        }
        List<String> fields = new ArrayList<>();
        while (true) {
            fields.add(ahead == '"' ? quoted() : plain());
            if (ahead == delimiter) {
                next();
                continue;
            }
            if (ahead == '\r') {
                next();
            }
            if (ahead == '\n') {
                next();
            }
            return fields;
        }
    }

    private String plain() throws IOException {
        StringBuilder field = new StringBuilder();
        while (!atFieldEnd()) {
            field.append((char) next());
        }
        return field.toString();
    }

    private String quoted() throws IOException {
        long opened = line;
        StringBuilder field = new StringBuilder();
        next();
        while (true) {
            if (ahead < 0) {
                throw new EspalierException("%s:%d: the quoted field that begins here is never closed; add a closing \""
                        .formatted(file, opened));
            }
            int c = next();
            if (c != '"') {
                field.append((char) c);
            } else if (ahead == '"') {
                field.append((char) next());
            } else {
                check(
                        atFieldEnd(),
                        "%s:%d: '%s' follows a closing quote; write a quote inside a quoted field twice",
                        file,
                        line,
                        (char) ahead);
                return field.toString();
            }
        }
    }

    private boolean atFieldEnd() {
        return ahead < 0 || ahead == delimiter || ahead == '\n' || ahead == '\r';
    }

    private int read() throws IOException {
        if (at == filled) {
            at = 0;
            filled = in.read(buffer, 0, buffer.length);
            if (filled < 0) {
                filled = 0;
                return -1;
            }
        }
        return buffer[at++];
    }

    private int next() throws IOException {
        int c = ahead;
        ahead = read();
        // A break is "\n", "\r\n" or, on old Macs, "\r" alone: count it once.
        if (c == '\n' || (c == '\r' && ahead != '\n')) {
            line++;
        }
        return c;
    }
}
