package dev.espalier.bench.hot;

import dev.espalier.bench.Sequences;
import dev.espalier.data.Collator;
import dev.espalier.data.Encoding;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import java.nio.file.Path;
import java.util.List;
import org.openjdk.jmh.annotations.Benchmark;

/** An epoch of the sequences whose lengths are log-normal, from encodings to batches of about a thousand tokens. */
public class CollatorBench extends Hot {

    private final List<Encoding> sequences =
            Sequences.random(Sequences.lengths(Path.of("bench/data/lognormal.json")), 49152, 1, 0);

    /** Sorted by length in windows and padded. */
    @Benchmark
    public void padded() {
        epoch(new Collator.Options(16, 0, Collator.Side.RIGHT, true, 0));
    }

    /** Packed to rows of 256. */
    @Benchmark
    public void packed() {
        epoch(new Collator.Options(4, 0, Collator.Side.RIGHT, true, 256));
    }

    private void epoch(Collator.Options options) {
        Collator collator = new Collator(sequences, options, new Seed(0));
        for (int b = 0; b < collator.batches(0); b++) {
            try (Scope scope = Scope.open()) {
                collator.batch(new Collator.Cursor(0, b));
            }
        }
    }
}
