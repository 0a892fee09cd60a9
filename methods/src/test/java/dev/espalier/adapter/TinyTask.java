package dev.espalier.adapter;

import dev.espalier.data.Batch;
import dev.espalier.data.Collator;
import dev.espalier.data.Encoding;
import dev.espalier.nn.Module;
import dev.espalier.task.Evaluator;
import dev.espalier.task.Task;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import dev.espalier.train.ParameterGroup;
import dev.espalier.train.TrainConfig;
import dev.espalier.train.Trainer;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Random;

/** A training of a {@link Tiny}: four tokens in, and which of three classes is the remainder of the first two's sum? */
public final class TinyTask implements Task {

    private final Tiny net;

    /** Over a network with or without adapters. */
    public TinyTask(Tiny net) {
        this.net = net;
    }

    /** Examples in batches. */
    public static Collator data(int batchSize, int examples) {
        Random random = new Random(5);
        List<Encoding> encodings = new ArrayList<>();
        for (int i = 0; i < examples; i++) {
            int[] ids = random.ints(4, 0, Tiny.ROWS).toArray();
            encodings.add(new Encoding(
                    ids, null, new boolean[ids.length], (ids[0] + ids[1]) % Tiny.CLASSES, "tiny.csv:" + (i + 1)));
        }
        return new Collator(encodings, Collator.Options.of(batchSize, 0), new Seed(11));
    }

    /** A trainer of the active adapter with all that its method brings. */
    public static Trainer.Builder trainer(Tiny net, Attached adapter, AdaptedModel model, TrainConfig config) {
        AdapterType.Parts parts = adapter.parts(new Seed(config.seed()));
        Trainer.Builder builder = Trainer.builder(new TinyTask(net), data(config.batchSize(), 24))
                .config(config)
                .groups(parts.groups(List.of(new ParameterGroup(
                        "all",
                        model.trainableParameters(),
                        1,
                        config.optimizer().weightDecay()))));
        parts.callbacks().forEach(builder::callback);
        parts.lossTerms().forEach(builder::lossTerm);
        return builder;
    }

    @Override
    public Module model() {
        return net;
    }

    @Override
    public Outcome forward(Batch batch) {
        Tensor logits = net.forward(batch.inputIds()).mean(1, false); // [n, 3]
        Tensor wanted = batch.labels();
        return new Outcome() {
            @Override
            public Tensor loss() {
                return logits.crossEntropy(wanted, null, 0, Tensor.Reduction.SUM);
            }

            @Override
            public Tensor logits() {
                return logits;
            }

            @Override
            public Tensor targets() {
                return wanted;
            }
        };
    }

    @Override
    public Evaluator evaluator() {
        return new Evaluator() {
            private double loss;
            private long rows;

            @Override
            public void add(Batch batch) {
                loss += TinyTask.this.loss(batch).item();
                rows += batch.targets();
            }

            @Override
            public Map<String, Double> metrics() {
                return Map.of("loss", loss / rows);
            }
        };
    }

    @Override
    public Metric metric() {
        return new Metric("loss", false);
    }
}
