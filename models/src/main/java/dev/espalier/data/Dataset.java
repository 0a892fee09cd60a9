package dev.espalier.data;

import static dev.espalier.Check.check;

import dev.espalier.EspalierException;
import dev.espalier.tensor.Seed;
import java.io.IOException;
import java.io.InputStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.ArrayList;
import java.util.HexFormat;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.stream.Collectors;
import org.jspecify.annotations.Nullable;

/**
 * The examples of one split, in the order of their files.
 *
 * @param shape what the rows were recognised as
 * @param examples at least one
 * @param files where they came from
 * @param columns which column of the file plays which part
 * @param unused columns that nothing reads
 * @param sha256 of the files' bytes, one after the other, in hexadecimal
 */
public record Dataset(
        Shape shape,
        List<Example> examples,
        List<Path> files,
        Map<Column, String> columns,
        List<String> unused,
        String sha256) {

    public Dataset {
        examples = List.copyOf(examples);
        files = List.copyOf(files);
        columns = Map.copyOf(columns);
        unused = List.copyOf(unused);
    }

    /**
     * Reads a file, or a folder that holds one split.
     *
     * @throws EspalierException naming file and line of the first row that cannot be used
     */
    public static Dataset read(Path path, DataOptions options) {
        Splits splits = Splits.read(path, options);
        check(
                splits.validation() == null && splits.test() == null,
                "%s: the folder holds several splits; name one of its files",
                path);
        return splits.train();
    }

    static Dataset readFiles(List<Path> files, DataOptions options) {
        List<Example> examples = new ArrayList<>();
        MessageDigest digest = newSha256();
        Reading reading = new Reading(options, examples);
        for (Path file : files) {
            int before = examples.size();
            reading.mapper = null;
            update(digest, file);
            RowReader.read(file, reading::accept);
            check(examples.size() > before, "%s: the file has no rows; name another file", file);
        }
        RowMapper mapper = reading.mapper;
        if (mapper == null || reading.first == null) {
            throw new IllegalArgumentException("no files");
        }
        Shape shape = mapper.shape();
        Map<Column, String> columns = mapper.names();
        boolean recognised = options.shape() == null && !options.columns().containsKey(Column.LABEL);
        if (shape == Shape.LABELLED && recognised && areFractions(examples)) {
            examples.replaceAll(Dataset::scored);
            shape = Shape.SCORED;
        }
        List<String> unused = RowMapper.unused(reading.first, columns);
        return new Dataset(
                shape, examples, files, columns, unused, HexFormat.of().formatHex(digest.digest()));
    }

    /** Collects the rows of several files, whose shapes must agree. */
    private static final class Reading {
        private final DataOptions options;
        private final List<Example> examples;
        private @Nullable RowMapper mapper;
        private @Nullable Row first;
        private @Nullable Shape shape;

        Reading(DataOptions options, List<Example> examples) {
            this.options = options;
            this.examples = examples;
        }

        void accept(Row row) {
            RowMapper current = mapper;
            if (current == null) {
                current = RowMapper.recognise(row, options);
                check(
                        shape == null || shape == current.shape(),
                        "%s: %s here, but %s in the file before; files of one folder must have one shape",
                        row.source(),
                        current.shape().title(),
                        shape == null ? "" : shape.title());
                mapper = current;
                shape = current.shape();
                first = first == null ? row : first;
            }
            examples.add(current.map(row));
        }
    }

    /** Labels such as 3.8 are scores; 0, 1 and 2 are classes. */
    private static boolean areFractions(List<Example> examples) {
        boolean fraction = false;
        for (Example example : examples) {
            try {
                double value = Double.parseDouble(((Example.Labelled) example).label());
                fraction |= Double.isFinite(value) && value != Math.rint(value);
            } catch (NumberFormatException e) {
                return false;
            }
        }
        return fraction;
    }

    private static Example scored(Example example) {
        Example.Labelled l = (Example.Labelled) example;
        return new Example.Scored(l.text(), l.textPair(), RowMapper.number(l.label(), l.source()), l.source());
    }

    private static MessageDigest newSha256() {
        try {
            return MessageDigest.getInstance("SHA-256");
        } catch (NoSuchAlgorithmException e) {
            throw new IllegalStateException("every JDK has SHA-256", e);
        }
    }

    private static void update(MessageDigest digest, Path file) {
        byte[] buffer = new byte[1 << 16];
        try (InputStream in = Files.newInputStream(file)) {
            for (int read = in.read(buffer); read >= 0; read = in.read(buffer)) {
                digest.update(buffer, 0, read);
            }
        } catch (IOException e) {
            throw new EspalierException(
                    "%s: cannot be read (%s); check the path and its permissions".formatted(file, e), e);
        }
    }

    /** What was read and how it was understood, in one line. */
    public String summary() {
        String mapping = columns.entrySet().stream()
                .filter(e -> !e.getKey().key().equals(e.getValue()))
                .sorted(Map.Entry.comparingByKey())
                .map(e -> ", %s from \"%s\"".formatted(e.getKey().key(), e.getValue()))
                .collect(Collectors.joining());
        return String.format(
                Locale.ROOT,
                "%s: %,d rows of %s%s%s",
                files.size() == 1 ? files.get(0) : files.get(0).toAbsolutePath().getParent(),
                examples.size(),
                shape.title(),
                mapping,
                unused.isEmpty() ? "" : "; columns not used: " + String.join(", ", unused));
    }

    /**
     * Holds out a share of the examples, of each label the same share, as a pure function of the examples and the seed.
     * A label keeps at least one example for training.
     *
     * @param fraction of the examples to hold out, in (0, 1)
     * @return training and held-out examples, both in file order
     * @throws EspalierException if either side would be empty
     */
    public Splits split(double fraction, Seed seed) {
        check(fraction > 0 && fraction < 1, "the held-out fraction must lie in (0, 1), found %s; try 0.1", fraction);
        Map<String, List<Integer>> strata = new LinkedHashMap<>();
        for (int i = 0; i < examples.size(); i++) {
            String stratum = examples.get(i) instanceof Example.Labelled labelled ? labelled.label() : "";
            strata.computeIfAbsent(stratum, s -> new ArrayList<>()).add(i);
        }
        boolean[] heldOut = new boolean[examples.size()];
        long count = 0;
        double due = 0; // carried from stratum to stratum, so that many small ones still add up to the share asked for
        for (List<Integer> stratum : strata.values()) {
            due += fraction * stratum.size();
            int take = (int) Math.min(Math.round(due - count), stratum.size() - 1);
            int[] order = Order.permutation(stratum.size(), seed.named("split").at(stratum.get(0)));
            for (int k = 0; k < take; k++) {
                heldOut[stratum.get(order[k])] = true;
            }
            count += Math.max(take, 0);
        }
        check(
                count > 0 && count < examples.size(),
                "holding out %s of %d examples leaves one side empty; add examples or change the fraction",
                fraction,
                examples.size());
        List<Example> train = new ArrayList<>();
        List<Example> held = new ArrayList<>();
        for (int i = 0; i < heldOut.length; i++) {
            (heldOut[i] ? held : train).add(examples.get(i));
        }
        return new Splits(with(train), with(held), null);
    }

    private Dataset with(List<Example> some) {
        return new Dataset(shape, some, files, columns, unused, sha256);
    }
}
