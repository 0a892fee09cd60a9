package dev.espalier.compress;

import dev.espalier.adapter.AdaptedModel;
import dev.espalier.adapter.Calibration;
import dev.espalier.nn.Embedding;
import dev.espalier.nn.Linear;
import dev.espalier.nn.Module;
import dev.espalier.nn.Parameter;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Generator;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import dev.espalier.train.AdamW;
import dev.espalier.train.Optimizer;
import dev.espalier.train.ParameterGroup;
import java.util.ArrayList;
import java.util.Collection;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * A small neural language model (Bengio et al. 2003): the next of 11 tokens from the last two, by two hidden layers. Trained on
 * sequences where nine in ten tokens follow the rule t = (a + 2 b) mod 11.
 */
final class TinyLm extends Module {

    private static final int WORDS = 11;
    private static final int WIDTH = 16;
    private static final int HIDDEN = 64;
    private static final long ROWS = 121;

    final List<Linear> hidden = new ArrayList<>();
    final Linear head;
    private final Embedding embed;

    private TinyLm() {
        embed = child("embed", new Embedding(WORDS, WIDTH, DType.FLOAT32));
        for (int i = 0; i < 2; i++) {
            hidden.add(
                    child("layers." + i + ".fc", new Linear(i == 0 ? 2 * WIDTH : HIDDEN, HIDDEN, true, DType.FLOAT32)));
        }
        head = child("head", new Linear(HIDDEN, WORDS, true, DType.FLOAT32));
        try (Generator g = new Seed(5).generator();
                Scope scope = Scope.open()) {
            for (Parameter p : namedParameters().values()) {
                long fan = p.shape()[p.shape().length - 1];
                p.tensor()
                        .copy_(g.normal(
                                0,
                                p.shape().length == 1 ? 0 : p.shape()[0] == WORDS ? 1 : Math.sqrt(2.0 / fan),
                                p.shape()));
            }
        }
    }

    private static final Map<String, float[]> TRAINED = new LinkedHashMap<>();

    /** A trained one; trained once, then copied. */
    static synchronized TinyLm trained() {
        TinyLm lm = new TinyLm();
        if (TRAINED.isEmpty()) {
            lm.namedParameters().values().forEach(p -> p.trainable(true));
            lm.train(lm.namedParameters().values(), 250, 4e-3, 1);
            lm.namedParameters().values().forEach(p -> p.trainable(false));
            lm.namedParameters()
                    .forEach((path, p) -> TRAINED.put(path, p.tensor().floats()));
        }
        lm.namedParameters().forEach((path, p) -> {
            try (Scope scope = Scope.open()) {
                p.tensor().copy_(Tensor.of(TRAINED.get(path), p.shape()));
            }
        });
        return lm;
    }

    AdaptedModel adapted() {
        return new AdaptedModel(this, List.of(head));
    }

    /** Moves parameters by AdamW and returns the loss on held-out data after each step. */
    List<Double> train(Collection<Parameter> parameters, int steps, double rate, long seed) {
        Map<String, Parameter> named = new LinkedHashMap<>();
        parameters.forEach(p -> named.put("p" + named.size(), p));
        List<Double> losses = new ArrayList<>();
        try (Optimizer optimizer =
                new AdamW.Config(0.9, 0.999, 1e-8, 0).create(List.of(new ParameterGroup("all", named, 1, 0)))) {
            for (int i = 0; i < steps; i++) {
                try (Scope scope = Scope.open()) {
                    loss(new Seed(seed).at(i), 2 * ROWS).backward();
                    optimizer.step(rate);
                    optimizer.zeroGrad();
                    losses.add(steps > 100 ? 0 : heldOut());
                }
            }
        }
        return losses;
    }

    /** On ten thousand tokens that nothing else sees. */
    double heldOut() {
        try (Grad off = Grad.off();
                Scope scope = Scope.open()) {
            return loss(new Seed(99), 10_000).item();
        }
    }

    /** Batches of eleven tokens. */
    Calibration calibration(int batches) {
        return new Calibration() {
            @Override
            public long batches() {
                return batches;
            }

            @Override
            public Tensor loss(long batch) {
                return TinyLm.this.loss(new Seed(1000).at(batch % batches), 11);
            }
        };
    }

    private Tensor loss(Seed seed, long rows) {
        try (Generator g = seed.generator()) {
            Tensor a = g.uniform(0, 1, rows).mul(WORDS).floor().to(DType.INT64);
            Tensor b = g.uniform(0, 1, rows).mul(WORDS).floor().to(DType.INT64);
            long[] first = a.longs();
            long[] second = b.longs();
            float[] luck = g.uniform(0, 1, rows).floats();
            float[] stray = g.uniform(0, 1, rows).floats();
            long[] next = new long[(int) rows];
            for (int i = 0; i < next.length; i++) {
                next[i] = luck[i] < 0.9 ? (first[i] + 2 * second[i]) % WORDS : (long) (stray[i] * WORDS);
            }
            return forward(a, b).crossEntropy(Tensor.of(next, rows), null, 0, Tensor.Reduction.MEAN);
        }
    }

    private Tensor forward(Tensor a, Tensor b) {
        Tensor x = Tensor.cat(List.of(embed.forward(a), embed.forward(b)), 1);
        for (Linear layer : hidden) {
            x = layer.forward(x).relu();
        }
        return head.forward(x);
    }
}
