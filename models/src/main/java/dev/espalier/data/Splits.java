package dev.espalier.data;

import static dev.espalier.Check.check;

import dev.espalier.EspalierException;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.EnumMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.regex.Pattern;
import java.util.stream.Stream;
import org.jspecify.annotations.Nullable;

/**
 * A data set in up to three parts.
 *
 * @param train to learn from
 * @param validation to choose by, or null
 * @param test to report on, or null
 */
public record Splits(
        Dataset train,
        @Nullable Dataset validation,
        @Nullable Dataset test) {

    private enum Part {
        TRAIN("train(ing)?"),
        VALIDATION("valid(ation)?|val|dev|eval"),
        TEST("test");

        /** "train.csv", "train-00000-of-00002.parquet", "test_b.jsonl"; not "trainer.csv". */
        private final Pattern name;

        Part(String stem) {
            name = Pattern.compile("(" + stem + ")([-_.].*)?", Pattern.CASE_INSENSITIVE);
        }
    }

    /**
     * Reads a file (all of it to train), or a folder: files called train, validation (valid, val, dev) and test become
     * the parts of those names; files called otherwise are all to train, in the order of their names.
     *
     * @throws EspalierException naming file and line of the first row that cannot be used
     */
    public static Splits read(Path path, DataOptions options) {
        check(Files.exists(path), "%s: there is no such file or folder; check the path", path);
        if (!Files.isDirectory(path)) {
            return new Splits(Dataset.readFiles(List.of(path), options), null, null);
        }
        List<Path> files;
        try (Stream<Path> list = Files.list(path)) {
            files = list.filter(f -> Files.isRegularFile(f) && RowReader.reads(f))
                    .sorted()
                    .toList();
        } catch (IOException e) {
            throw new EspalierException(
                    "%s: the folder cannot be read (%s); check its permissions".formatted(path, e), e);
        }
        check(
                !files.isEmpty(),
                "%s: the folder has no data files; they end in %s",
                path,
                String.join(", ", RowReader.ENDINGS));
        Map<Part, List<Path>> parts = new EnumMap<>(Part.class);
        List<Path> others = new ArrayList<>();
        for (Path file : files) {
            Part part = partOf(file);
            if (part == null) {
                others.add(file);
            } else {
                parts.computeIfAbsent(part, p -> new ArrayList<>()).add(file);
            }
        }
        if (parts.isEmpty()) {
            return new Splits(Dataset.readFiles(others, options), null, null);
        }
        check(
                others.isEmpty(),
                "%s: beside files named after splits there is %s; rename it or move it away",
                path,
                others.isEmpty() ? "" : others.get(0).getFileName());
        check(parts.containsKey(Part.TRAIN), "%s: there is no train file; add one or name a single file", path);
        Dataset train = Dataset.readFiles(parts.getOrDefault(Part.TRAIN, List.of()), options);
        return new Splits(train, read(parts, Part.VALIDATION, options), read(parts, Part.TEST, options));
    }

    private static @Nullable Dataset read(Map<Part, List<Path>> parts, Part part, DataOptions options) {
        List<Path> files = parts.get(part);
        return files == null ? null : Dataset.readFiles(files, options);
    }

    private static @Nullable Part partOf(Path file) {
        String name = file.getFileName().toString().toLowerCase(Locale.ROOT);
        for (Part part : Part.values()) {
            if (part.name.matcher(name).matches()) {
                return part;
            }
        }
        return null;
    }
}
