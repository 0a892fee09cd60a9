package dev.espalier.bench.hot;

import dev.espalier.bench.Sequences;
import dev.espalier.model.Models;
import dev.espalier.model.Pretrained;
import dev.espalier.model.Purpose;
import java.util.List;
import org.openjdk.jmh.annotations.Benchmark;
import org.openjdk.jmh.annotations.Level;
import org.openjdk.jmh.annotations.TearDown;

/** The quickstart's training sentences, with MiniLM's tokenizer, one by one. */
public class TokenizerBench extends Hot {

    private final Pretrained minilm = Models.load("minilm", Purpose.embedding());
    private final List<String> sentences = Sequences.sentences();

    /** Frees all. */
    @TearDown(Level.Trial)
    public void close() {
        minilm.close();
    }

    /** All sentences' tokens. */
    @Benchmark
    public int encode() {
        return sentences.stream()
                .mapToInt(sentence -> minilm.tokenizer().encode(sentence, true).length)
                .sum();
    }
}
