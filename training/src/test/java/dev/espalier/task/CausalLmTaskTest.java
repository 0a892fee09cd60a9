package dev.espalier.task;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import dev.espalier.data.Batch;
import dev.espalier.data.Collator;
import dev.espalier.data.Encoding;
import dev.espalier.nn.Embedding;
import dev.espalier.nn.Linear;
import dev.espalier.nn.Module;
import dev.espalier.nn.Parameter;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Generator;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import dev.espalier.train.Callback;
import dev.espalier.train.StepContext;
import dev.espalier.train.TrainConfig;
import dev.espalier.train.Trainer;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

class CausalLmTaskTest {

    private static final int VOCAB = 50;
    private static final int WIDTH = 8;

    /** A table of hidden states under a head: every token's state depends on that token alone. */
    private static final class Net extends Module {
        final Embedding embed;
        final Linear head;

        Net(DType dtype) {
            embed = child("embed", new Embedding(VOCAB, WIDTH, dtype));
            head = child("lm_head", new Linear(WIDTH, VOCAB, true, dtype));
            try (Generator g = Generator.of(3);
                    Scope scope = Scope.open()) {
                embed.weightParameter().set(g.randn(VOCAB, WIDTH).to(dtype));
                head.weightParameter().set(g.randn(VOCAB, WIDTH).to(dtype));
                head.biasParameter().set(g.randn(VOCAB).to(dtype));
            }
            embed.weightParameter().trainable(true);
        }

        CausalLmTask task(double smoothing) {
            return new CausalLmTask(this, batch -> embed.forward(batch.inputIds()), head, smoothing);
        }
    }

    private static Batch batch(int rows, int width, int supervisedFrom) {
        long[] ids = new long[rows * width];
        long[] labels = new long[rows * width];
        long targets = 0;
        for (int i = 0; i < ids.length; i++) {
            ids[i] = (i * 31L + 7) % VOCAB;
            boolean supervised = i % width >= Math.max(1, supervisedFrom);
            labels[i] = supervised ? ids[i] : Batch.IGNORED;
            targets += supervised ? 1 : 0;
        }
        Tensor ones = Tensor.ones(DType.INT64, rows, width);
        return new Batch(
                Tensor.of(ids, rows, width),
                ones,
                ones,
                null,
                null,
                Tensor.of(labels, rows, width),
                targets,
                ids.length,
                List.of("data.jsonl:1"));
    }

    @ParameterizedTest
    @ValueSource(doubles = {0, 0.1})
    void chunksGiveThePlainLossAndGradient(double smoothing) {
        for (DType dtype : List.of(DType.FLOAT64, DType.FLOAT32)) {
            double tolerance = dtype == DType.FLOAT64 ? 1e-11 : 1e-5; // sums of 285 tokens
            try (Net net = new Net(dtype);
                    Scope scope = Scope.open()) {
                Batch batch = batch(15, 21, 2); // 285 supervised tokens: two whole chunks and a part
                Tensor chunked = net.task(smoothing).loss(batch).mul(0.5);
                chunked.backward();
                Tensor gradient = net.embed.weightParameter().tensor().grad();
                net.embed.weightParameter().tensor().clearGrad();

                Tensor logits = net.head.forward(net.embed.forward(batch.inputIds())); // [B, T, V]
                Tensor plain = logits.narrow(1, 0, 20)
                        .flatten(0, 1)
                        .crossEntropy(
                                batch.labels().narrow(1, 1, 20).flatten(0, 1), null, smoothing, Tensor.Reduction.SUM)
                        .mul(0.5);
                plain.backward();
                assertThat(chunked.item()).isEqualTo(plain.item(), within(tolerance * plain.item()));
                Tensor expected = net.embed.weightParameter().tensor().grad();
                assertThat(gradient.allclose(expected, 0, 10 * tolerance)).isTrue();
            }
        }
    }

    @Test
    void theHandWrittenGradientIsTheSlopeOfTheLoss() {
        try (Net net = new Net(DType.FLOAT64);
                Scope scope = Scope.open()) {
            CausalLmTask task = net.task(0.1);
            Batch batch = batch(2, 5, 1);
            task.loss(batch).backward();
            Tensor table = net.embed.weightParameter().tensor();
            double[] gradient = table.grad().doubles();
            Tensor values = table.detach();
            double h = 1e-5;
            for (int i = 0; i < gradient.length; i += 7) {
                Tensor one = values.view(-1).narrow(0, i, 1);
                one.add_(h);
                double above = task.loss(batch).item();
                one.add_(-2 * h);
                double below = task.loss(batch).item();
                one.add_(h);
                assertThat(gradient[i]).isEqualTo((above - below) / (2 * h), within(1e-7));
            }
        }
    }

    /** Texts of different lengths, and different shares of them supervised: a mean of means would be another number. */
    @Test
    void accumulationDoesNotChangeTheGradient() {
        List<Encoding> texts = new ArrayList<>();
        for (int i = 0; i < 8; i++) {
            int[] ids = new int[3 + 5 * (i % 3)];
            boolean[] supervised = new boolean[ids.length];
            for (int t = 0; t < ids.length; t++) {
                ids[t] = (i * 7 + t * 3) % VOCAB;
                supervised[t] = t >= 1 + i % 2;
            }
            texts.add(new Encoding(ids, null, supervised, null, "data.jsonl:" + i));
        }
        List<double[]> gradients = new ArrayList<>();
        List<Double> losses = new ArrayList<>();
        for (int accumulation : new int[] {1, 4}) {
            int rows = 8 / accumulation;
            Collator data =
                    new Collator(texts, new Collator.Options(rows, 0, Collator.Side.RIGHT, false, 0), new Seed(1));
            try (Net net = new Net(DType.FLOAT64);
                    Trainer trainer = Trainer.builder(net.task(0), data)
                            .parameters(Map.of("embed.weight", net.embed.weightParameter()))
                            .config(TrainConfig.builder()
                                    .steps(1)
                                    .accumulation(accumulation)
                                    .clip(0)
                                    .build())
                            .callback(new Callback() {
                                @Override
                                public void afterBackward(StepContext step) {
                                    gradients.add(net.embed
                                            .weightParameter()
                                            .tensor()
                                            .grad()
                                            .doubles());
                                }
                            })
                            .build()) {
                losses.add(trainer.train().trainLoss());
            }
        }
        assertThat(gradients.get(1)).containsExactly(gradients.get(0), within(1e-14));
        assertThat(losses.get(1)).isEqualTo(losses.get(0), within(1e-12));
        assertThat(Arrays.stream(gradients.get(0)).map(Math::abs).max().orElseThrow())
                .isGreaterThan(0.01);
    }

    @Test
    void aTrainingOrReplacedHeadTakesThePlainPath() {
        try (Net net = new Net(DType.FLOAT64);
                Scope scope = Scope.open()) {
            Batch batch = batch(3, 6, 1);
            double frozen = net.task(0).loss(batch).item();
            net.head.weightParameter().trainable(true);
            Tensor loss = net.task(0).loss(batch);
            loss.backward();
            assertThat(loss.item()).isEqualTo(frozen, within(1e-10));
            assertThat(net.head.weight().grad().norm().item()).isPositive();
            net.head.weightParameter().trainable(false);
            net.head.substitute((x, layer) -> layer.compute(x).mul(0));
            // Equal logits: the loss is log V for each of the 15 targets.
            assertThat(net.task(0).loss(batch).item()).isEqualTo(15 * Math.log(VOCAB), within(1e-10));
        }
    }

    @Test
    void aStatePredictsTheTokenAfterIt() {
        try (Net net = new Net(DType.FLOAT64);
                Scope scope = Scope.open()) {
            // A head that answers with the token it sees: right exactly where a token repeats.
            Tensor identity = Tensor.eye(VOCAB, DType.FLOAT64).mul(20);
            CausalLmTask task = new CausalLmTask(
                    net,
                    b -> Tensor.embedding(b.inputIds(), identity),
                    new Linear(new Parameter(Tensor.eye(VOCAB, DType.FLOAT64))),
                    0);
            Tensor ids = Tensor.of(new long[] {4, 4, 9, 9, 9}, 1, 5);
            Tensor labels = Tensor.of(new long[] {-100, 4, 9, 9, -100}, 1, 5);
            Batch batch = new Batch(ids, ids, ids, null, null, labels, 3, 5, List.of("x"));
            Evaluator evaluator = task.evaluator();
            evaluator.add(batch);
            double right = Math.log(Math.exp(20) + VOCAB - 1) - 20; // loss where the answer is right
            assertThat(evaluator.metrics().get("token_accuracy")).isEqualTo(2 / 3.0);
            assertThat(evaluator.metrics().get("loss")).isEqualTo((2 * right + right + 20) / 3, within(1e-9));
            assertThat(evaluator.metrics().get("perplexity"))
                    .isEqualTo(Math.exp(evaluator.metrics().get("loss")));
        }
    }

    @Test
    void aBatchWithoutTargetsIsRefused() {
        try (Net net = new Net(DType.FLOAT32);
                Scope scope = Scope.open()) {
            Tensor ids = Tensor.of(new long[] {4, 4}, 1, 2);
            Batch batch = new Batch(ids, ids, ids, null, null, null, 0, 2, List.of("chats.jsonl:7"));
            assertThatThrownBy(() -> net.task(0).loss(batch))
                    .hasMessage(
                            "language modelling needs supervised tokens, and chats.jsonl:7 brings none; check what the"
                                    + " data supervises");
        }
    }
}
