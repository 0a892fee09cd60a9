package dev.espalier.recipe;

import static dev.espalier.Check.check;

import dev.espalier.EspalierException;
import dev.espalier.data.Column;
import dev.espalier.data.DataOptions;
import dev.espalier.data.Dataset;
import dev.espalier.data.Example;
import dev.espalier.data.Shape;
import java.io.IOException;
import java.nio.charset.CharacterCodingException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/** Texts to predict from files. */
public final class Texts {

    private static final List<String> TABLES = List.of(".csv", ".tsv", ".jsonl", ".json", ".parquet");

    private Texts() {}

    /**
     * Reads the text column of a data file, or the lines of any other file; blank lines are left out.
     *
     * @param column name of the column, or null to find it
     */
    public static List<String> read(Path file, @Nullable String column) {
        check(Files.isRegularFile(file), "%s is not a file; check the path", file);
        String name = file.getFileName().toString().toLowerCase(Locale.ROOT);
        if (TABLES.stream().anyMatch(name::endsWith)) {
            Map<Column, String> columns = column == null ? Map.of() : Map.of(Column.TEXT, column);
            return Dataset.read(file, new DataOptions(columns, Shape.PLAIN)).examples().stream()
                    .map(e -> ((Example.Plain) e).text())
                    .toList();
        }
        try {
            return Files.readAllLines(file).stream()
                    .filter(line -> !line.isBlank())
                    .toList();
        } catch (CharacterCodingException e) {
            throw new EspalierException("%s is not UTF-8 text; convert it first".formatted(file), e);
        } catch (IOException e) {
            throw new EspalierException("%s cannot be read: %s".formatted(file, e.getMessage()), e);
        }
    }
}
