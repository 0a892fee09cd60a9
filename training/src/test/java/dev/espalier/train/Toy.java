package dev.espalier.train;

import dev.espalier.data.Batch;
import dev.espalier.data.Collator;
import dev.espalier.data.Encoding;
import dev.espalier.nn.Dropout;
import dev.espalier.nn.Embedding;
import dev.espalier.nn.Linear;
import dev.espalier.nn.Module;
import dev.espalier.nn.Parameter;
import dev.espalier.task.Evaluator;
import dev.espalier.task.Task;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Generator;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/** A small network with dropout, and a task: which of three classes is the first token of, by its remainder? */
final class Toy extends Module implements Task {

    static final int CLASSES = 3;
    private static final int VOCAB = 24;

    final Embedding embed = child("embed", new Embedding(VOCAB, 8, DType.FLOAT32));
    final Linear hidden = child("hidden", new Linear(8, 16, true, DType.FLOAT32));
    final Dropout dropout;
    final Linear out = child("out", new Linear(16, CLASSES, true, DType.FLOAT32));

    Toy(double dropout) {
        this.dropout = child("dropout", new Dropout(dropout));
        try (Scope scope = Scope.open();
                Generator g = new Seed(7).generator()) {
            namedParameters().forEach((name, p) -> p.set(g.normal(0, 0.3, p.shape())));
        }
    }

    /** All but the table. */
    Map<String, Parameter> trainable() {
        Map<String, Parameter> all = new LinkedHashMap<>(namedParameters());
        all.remove("embed.weight");
        return all;
    }

    static Collator data(int batchSize, int examples) {
        List<Encoding> encodings = new ArrayList<>();
        for (int i = 0; i < examples; i++) {
            int[] ids = new int[1 + i % 4];
            Arrays.fill(ids, i % VOCAB);
            encodings.add(new Encoding(ids, null, new boolean[ids.length], i % VOCAB % CLASSES, "toy.csv:" + (i + 1)));
        }
        return new Collator(encodings, Collator.Options.of(batchSize, 0), new Seed(11));
    }

    Tensor logits(Batch batch) {
        Tensor x = embed.forward(batch.inputIds().select(1, 0)); // [B, 8]
        return out.forward(dropout.forward(hidden.forward(x).tanh()));
    }

    @Override
    public Module model() {
        return this;
    }

    @Override
    public Outcome forward(Batch batch) {
        Tensor logits = logits(batch);
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
                loss += loss(batch).item();
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

    /** Bits of every parameter. */
    Map<String, List<Integer>> bits() {
        Map<String, List<Integer>> bits = new LinkedHashMap<>();
        namedParameters().forEach((name, p) -> {
            List<Integer> values = new ArrayList<>();
            for (float value : p.tensor().floats()) {
                values.add(Float.floatToRawIntBits(value));
            }
            bits.put(name, values);
        });
        return bits;
    }
}
