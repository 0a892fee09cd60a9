package dev.espalier.bench;

import dev.espalier.io.AtomicFile;
import dev.espalier.io.Json;
import dev.espalier.model.Models;
import dev.espalier.model.Pretrained;
import dev.espalier.model.Purpose;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.stream.Stream;

/**
 * Wrote the files of {@code bench/data}: how many tokens the sequences have that both sides train on.
 *
 * <pre>{@code java ... dev.espalier.bench.Lengths}</pre>
 */
public final class Lengths {

    private static final Path DATA = Path.of("bench/data");
    private static final int SEQUENCES = 96;
    private static final double MEDIAN = 60;
    private static final double SIGMA = 0.75; // of the logarithm; chats' lengths spread so
    private static final int SENTENCES = 256;
    private static final int LEAST = 8;
    private static final int MOST = 256;

    private Lengths() {}

    /** Writes both. */
    public static void main(String[] args) {
        Random random = new Random(0);
        List<Integer> drawn = Stream.generate(() -> Math.exp(Math.log(MEDIAN) + SIGMA * random.nextGaussian()))
                .map(length -> (int) Math.round(Math.max(LEAST, Math.min(MOST, length))))
                .limit(SEQUENCES)
                .toList();
        write("lognormal.json", "log-normal, median 60, sigma 0.75, clipped to 8..256", drawn);
        try (Pretrained minilm = Models.load("minilm", Purpose.embedding())) {
            List<Integer> real = Sequences.sentences().stream()
                    .limit(SENTENCES)
                    .map(sentence -> minilm.tokenizer().encode(sentence, true).length)
                    .toList();
            write(
                    "quickstart.json",
                    "tokens of the first of the quickstart's training sentences, with MiniLM's tokenizer",
                    real);
        }
    }

    private static void write(String file, String what, List<Integer> lengths) {
        AtomicFile.write(DATA.resolve(file), Json.text(Map.of("what", what, "lengths", lengths)) + "\n");
    }
}
