package dev.espalier.federated;

import dev.espalier.adapter.AdaptedModel;
import dev.espalier.adapter.AdapterSpec;
import dev.espalier.adapter.Attached;
import dev.espalier.adapter.Lora;
import dev.espalier.adapter.Setting;
import dev.espalier.adapter.Targets;
import dev.espalier.data.Batch;
import dev.espalier.data.Collator;
import dev.espalier.data.Encoding;
import dev.espalier.nn.Embedding;
import dev.espalier.nn.Linear;
import dev.espalier.nn.Module;
import dev.espalier.task.Evaluator;
import dev.espalier.task.Task;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Generator;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import dev.espalier.train.Optimizer;
import dev.espalier.train.TrainConfig;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;

/** A small network in float64 that tells which of some topics a bag of words is of, and a LoRA on its two layers. */
final class ToyFederation {

    static final int WORDS = 40;
    static final int CLASSES = 4;
    private static final int WIDTH = 12;

    /** ids [n, T] to logits [n, 4]: out(mean_t relu(fc(embed(id_t)))) through a fixed head. */
    static final class Net extends Module {
        final Embedding embed = child("embed", new Embedding(WORDS, WIDTH, DType.FLOAT64));
        final Linear fc = child("fc", new Linear(WIDTH, 16, true, DType.FLOAT64));
        final Linear out = child("out", new Linear(16, 10, true, DType.FLOAT64));
        final Linear head = child("head", new Linear(10, CLASSES, true, DType.FLOAT64));

        Net() {
            try (Generator generator = Generator.of(3)) {
                namedParameters().values().forEach(p -> p.tensor().copy_(generator.normal(0, 0.5, p.shape())));
            }
        }

        Tensor forward(Batch batch) {
            Tensor mask = batch.attentionMask().to(DType.FLOAT64).unsqueeze(-1);
            Tensor words = fc.forward(embed.forward(batch.inputIds())).relu().mul(mask); // [n, T, 16]
            return head.forward(
                    out.forward(words.sum(1, false).div(mask.sum(1, false))).relu());
        }
    }

    /** Cross-entropy, of some rows more than once. */
    static final class Topics implements Task {
        final Net net;
        final Map<String, Double> times = new HashMap<>(); // by source

        Topics(Net net) {
            this.net = net;
        }

        @Override
        public Module model() {
            return net;
        }

        @Override
        public Outcome forward(Batch batch) {
            Tensor logits = net.forward(batch);
            double[] weights = batch.sources().stream()
                    .mapToDouble(source -> times.getOrDefault(source, 1.0))
                    .toArray();
            return new Outcome() {
                @Override
                public Tensor loss() {
                    return logits.crossEntropy(batch.labels(), null, 0, Tensor.Reduction.NONE)
                            .mul(Tensor.of(weights, weights.length))
                            .sum();
                }

                @Override
                public Tensor logits() {
                    return logits;
                }

                @Override
                public Tensor targets() {
                    return batch.labels();
                }
            };
        }

        @Override
        public Evaluator evaluator() {
            throw new UnsupportedOperationException();
        }

        @Override
        public Metric metric() {
            return new Metric("accuracy", true);
        }
    }

    final Net net = new Net();
    final Topics task = new Topics(net);
    final AdaptedModel model = new AdaptedModel(net, List.of(net.head));
    final Attached adapter;

    ToyFederation(int rank) {
        this(Lora.Config.of(rank, rank));
    }

    ToyFederation(Lora.Config config) {
        adapter =
                model.attach("default", AdapterSpec.of(new Lora.Type(), config, Targets.of("fc", "out")), new Seed(4));
    }

    <C> FederatedRule.Server server(FederatedRule<C> rule, C config) {
        return rule.create(config, new Setting(model, adapter, task, TrainConfig.DEFAULT, new Seed(0)));
    }

    Federation federation(
            Federation.Config config, FederatedRule.Server server, List<List<Encoding>> data, Optimizer.Config by) {
        return new Federation(config, server, adapter, task, data, 0, by, new Seed(1));
    }

    /** A [r, in], B [out, r] of a layer, copied. */
    Tensor a(String path) {
        return adapter.lowRank(path).a().tensor().detach().clone();
    }

    Tensor b(String path) {
        return adapter.lowRank(path).b().tensor().detach().clone();
    }

    /** B A. */
    Tensor product(String path) {
        return b(path).matmul(a(path));
    }

    /** Bags of 3 to 7 words, most of them from the topic's own ten. */
    static List<Encoding> examples(int count, long seed) {
        Random random = new Random(seed);
        List<Encoding> all = new ArrayList<>();
        for (int i = 0; i < count; i++) {
            int topic = i % CLASSES;
            int[] ids = new int[3 + random.nextInt(5)];
            for (int t = 0; t < ids.length; t++) {
                ids[t] = random.nextDouble() < 0.7
                        ? topic + CLASSES * random.nextInt(WORDS / CLASSES)
                        : random.nextInt(WORDS);
            }
            all.add(new Encoding(ids, null, new boolean[ids.length], topic, "toy:" + i));
        }
        return all;
    }

    static Batch batch(List<Encoding> rows) {
        return Collator.batch(rows, 0);
    }

    double accuracy(List<Encoding> on) {
        try (Grad off = Grad.off();
                Scope scope = Scope.open()) {
            Batch batch = batch(on);
            return net.forward(batch)
                    .argmax(-1)
                    .eq(batch.labels())
                    .to(DType.FLOAT64)
                    .mean()
                    .item();
        }
    }

    static double gap(Tensor a, Tensor b) {
        return a.sub(b).abs().max().item();
    }
}
