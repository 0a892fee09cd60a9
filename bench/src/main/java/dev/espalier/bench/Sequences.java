package dev.espalier.bench;

import dev.espalier.data.DataOptions;
import dev.espalier.data.Dataset;
import dev.espalier.data.Encoding;
import dev.espalier.data.Example;
import dev.espalier.data.Shape;
import dev.espalier.io.Fields;
import dev.espalier.io.Json;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Random;

/** What is trained on. */
public final class Sequences {

    private static final Path SENTENCES = Path.of("recipes/src/main/resources/quickstart/train.csv");

    private Sequences() {}

    /** A file of {@code bench/data}. */
    public static List<Integer> lengths(Path file) {
        return Fields.of(file.toString(), Json.read(file)).integers("lengths", List.of());
    }

    /** The quickstart's training sentences. */
    public static List<String> sentences() {
        return Dataset.read(SENTENCES, DataOptions.of(Shape.LABELLED)).examples().stream()
                .map(example -> ((Example.Labelled) example).text())
                .toList();
    }

    /**
     * Random tokens, always the same ones.
     *
     * @param supervised share of each sequence, at its end, that has a loss
     * @param classes of which each sequence has one instead; 0 for none
     */
    @SuppressWarnings("NullAway") // type ids may be absent, which NullAway does not see of an array in a class file
    public static List<Encoding> random(List<Integer> lengths, int vocabulary, double supervised, int classes) {
        Random random = new Random(0);
        List<Encoding> all = new ArrayList<>();
        for (int length : lengths) {
            int[] ids = random.ints(length, 0, vocabulary).toArray();
            boolean[] targets = new boolean[length];
            if (classes == 0) {
                int silent = length - Math.toIntExact(Math.round(supervised * length));
                Arrays.fill(targets, silent, length, true);
            }
            all.add(new Encoding(ids, null, targets, classes == 0 ? null : random.nextInt(classes), "random"));
        }
        return all;
    }
}
