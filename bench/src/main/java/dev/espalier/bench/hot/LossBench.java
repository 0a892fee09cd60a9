package dev.espalier.bench.hot;

import dev.espalier.adapter.AdaptedModel;
import dev.espalier.adapter.AdapterSpec;
import dev.espalier.bench.Folders;
import dev.espalier.bench.RandomModel;
import dev.espalier.bench.Sequences;
import dev.espalier.data.Collator;
import dev.espalier.data.Encoding;
import dev.espalier.io.Fields;
import dev.espalier.model.Models;
import dev.espalier.model.Pretrained;
import dev.espalier.model.Purpose;
import dev.espalier.task.CausalLmTask;
import dev.espalier.task.Task;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import java.io.IOException;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import org.openjdk.jmh.annotations.Benchmark;
import org.openjdk.jmh.annotations.Level;
import org.openjdk.jmh.annotations.TearDown;

/**
 * The loss of 256 tokens over a vocabulary of 49,152 from hidden states of 576, behind a network of one layer: what {@link #loss}
 * takes beyond {@link #network} is the loss with its gradient, and the little that the layer's own gradient costs.
 */
public class LossBench extends Hot {

    private static final int TOKENS = 257; // the first is no target

    private final Path folder;
    private final Pretrained pretrained;
    private final AdaptedModel adapted;
    private final CausalLmTask task;
    private final List<Encoding> row = Sequences.random(List.of(TOKENS), 49152, 1, 0);

    /** Writes and loads the network. */
    public LossBench() {
        folder = Folders.temporary("loss");
        RandomModel.write(folder, 1);
        pretrained = Models.load(folder, Purpose.causalLm());
        adapted = AdaptedModel.of(pretrained.model());
        adapted.attach("default", AdapterSpec.read(Fields.of("the benchmark", Map.of("type", "lora"))), new Seed(0));
        task = new CausalLmTask(pretrained.causalLm(), 0);
    }

    /** Frees all. */
    @TearDown(Level.Trial)
    public void close() throws IOException {
        adapted.close();
        pretrained.close();
        Folders.delete(folder);
    }

    /** Up to the hidden states. */
    @Benchmark
    public void network() {
        try (Scope scope = Scope.open()) {
            task.forward(Collator.batch(row, 0));
        }
    }

    /** As training computes it. */
    @Benchmark
    public void loss() {
        try (Scope scope = Scope.open()) {
            task.forward(Collator.batch(row, 0)).loss().backward();
        }
    }

    /** By way of all logits. */
    @Benchmark
    public void lossOverLogits() {
        try (Scope scope = Scope.open()) {
            Task.Outcome outcome = task.forward(Collator.batch(row, 0));
            outcome.logits();
            outcome.loss().backward();
        }
    }
}
