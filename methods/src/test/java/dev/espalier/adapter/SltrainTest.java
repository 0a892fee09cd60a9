package dev.espalier.adapter;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import dev.espalier.io.Safetensors;
import dev.espalier.io.TensorSource;
import dev.espalier.nn.Layer;
import dev.espalier.nn.Linear;
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
import dev.espalier.train.Schedule;
import dev.espalier.train.TrainConfig;
import dev.espalier.train.TrainResult;
import dev.espalier.train.Trainer;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.stream.LongStream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class SltrainTest extends AdapterContract {

    private static final Sltrain.Type TYPE = new Sltrain.Type();

    private static Sltrain.Config config(int r, double delta, double alpha) {
        return new Sltrain.Config(r, delta, alpha, false);
    }

    @Override
    protected AdapterSpec<?> spec() {
        return AdapterSpec.of(TYPE, config(2, 0.3, 3), Targets.of("fc", "proj"));
    }

    @Override
    protected long parameters(long out, long in) {
        return 2 * (in + out) + 24 + out; // ⌊0.3 · 80⌋ free entries and a bias
    }

    @Override
    protected boolean startsAtZero() {
        return false; // the layer begins anew
    }

    private static Linear layer(int in, int out, boolean bias, DType dtype) {
        Linear layer = new Linear(in, out, bias, dtype);
        layer.weightParameter().tensor().fill_(Double.NaN); // nothing of it may be used
        return layer;
    }

    private static Sltrain on(Layer layer, Sltrain.Config config) {
        return (Sltrain) TYPE.create(config, List.of(new Site("x", layer)), new Seed(4))
                .adapters()
                .get("x");
    }

    private static Tensor tensor(Sltrain sltrain, String name) {
        return sltrain.parameters().get(name).tensor();
    }

    private static void randomB(Sltrain sltrain) {
        try (Generator g = Generator.of(8);
                Grad off = Grad.off()) {
            Tensor b = tensor(sltrain, "lora_B");
            b.copy_(g.randn(b.shape()));
        }
    }

    /** W entry by entry in Java's doubles. */
    private static Tensor assembled(Sltrain sltrain, int out, int in, double scale) {
        double[] a = tensor(sltrain, "lora_A").doubles();
        double[] b = tensor(sltrain, "lora_B").doubles();
        int r = a.length / in;
        double[] w = new double[out * in];
        for (int o = 0; o < out; o++) {
            for (int c = 0; c < in; c++) {
                for (int k = 0; k < r; k++) {
                    w[o * in + c] += scale * b[o * r + k] * a[k * in + c];
                }
            }
        }
        double[] v = tensor(sltrain, "sparse_values").doubles();
        long[] places = tensor(sltrain, "sparse_index").longs();
        for (int k = 0; k < v.length; k++) {
            w[(int) places[k]] += v[k];
        }
        return Tensor.of(w, out, in);
    }

    @Test
    @Card(
            value = "sltrain",
            checks = {1, 2})
    void outputAndGradientsAreThoseOfTheDenseWeight() {
        for (boolean withBias : new boolean[] {true, false}) {
            for (DType dtype : new DType[] {DType.FLOAT64, DType.FLOAT32}) {
                double tolerance = dtype == DType.FLOAT64 ? 1e-10 : 1e-5;
                Linear layer = layer(6, 5, withBias, dtype);
                Sltrain sltrain = on(layer, config(2, 0.3, 3)); // s = 1.5
                randomB(sltrain);
                Tensor w = assembled(sltrain, 5, 6, 1.5).to(dtype);
                try (Generator g = Generator.of(2)) {
                    Tensor x = g.randn(2, 3, 6).to(dtype).requiresGrad_(true);
                    Tensor up = g.randn(2, 3, 5).to(dtype);
                    Tensor y = sltrain.forward(x, new Base.Ground(layer));
                    Tensor bias = withBias ? tensor(sltrain, "sltrain_bias").detach() : null;
                    assertThat(relative(y.detach(), x.detach().linear(w, bias))).isLessThan(tolerance);
                    y.mul(up).sum().backward();
                    Tensor rows = x.detach().reshape(-1, 6);
                    Tensor gradient = up.reshape(-1, 5);
                    Tensor a = tensor(sltrain, "lora_A").detach();
                    Tensor b = tensor(sltrain, "lora_B").detach();
                    assertThat(relative(x.grad().reshape(-1, 6), gradient.matmul(w)))
                            .isLessThan(tolerance);
                    assertThat(relative(
                                    tensor(sltrain, "lora_B").grad(),
                                    gradient.t().matmul(rows.matmul(a.t())).mul(1.5)))
                            .isLessThan(tolerance);
                    assertThat(relative(
                                    tensor(sltrain, "lora_A").grad(),
                                    gradient.matmul(b).t().matmul(rows).mul(1.5)))
                            .isLessThan(tolerance);
                    Tensor dv = tensor(sltrain, "sparse_values").grad();
                    assertThat(dv.shape()).containsExactly(9);
                    assertThat(relative(
                                    dv,
                                    gradient.t()
                                            .matmul(rows)
                                            .reshape(-1)
                                            .indexSelect(
                                                    0,
                                                    tensor(sltrain, "sparse_index")
                                                            .to(DType.INT64))))
                            .isLessThan(tolerance);
                    if (withBias) {
                        assertThat(relative(tensor(sltrain, "sltrain_bias").grad(), gradient.sum(0, false)))
                                .isLessThan(tolerance);
                    }
                }
            }
        }
    }

    private static double relative(Tensor a, Tensor b) {
        return gap(a, b) / b.abs().max().item();
    }

    @Test
    @Card(value = "sltrain", checks = 3)
    void placesAreExactUniqueAscendingAndFixed(@TempDir Path folder) {
        assertThat(new Sltrain.Config(1, 0.29, 1, false).entries(10, 10)).isEqualTo(28);
        assertThat(new Sltrain.Config(1, 0.57, 1, false).entries(100, 70)).isEqualTo(3989);
        Tiny net = new Tiny(DType.FLOAT32);
        AdaptedModel model = new AdaptedModel(net, net.heads());
        Attached adapter = model.attach("default", spec(), new Seed(1));
        Map<String, long[]> places = places(adapter);
        assertThat(places).hasSize(4);
        places.values()
                .forEach(each -> assertThat(each)
                        .hasSize(24)
                        .isEqualTo(LongStream.of(each)
                                .filter(at -> at >= 0 && at < 80)
                                .sorted()
                                .distinct()
                                .toArray()));
        train(net, adapter, model, 100);
        Sltrain fc = (Sltrain) adapter.at("layers.0.fc");
        double[] left = assembled(fc, 10, 8, 1.5)
                .sub(tensor(fc, "lora_B")
                        .to(DType.FLOAT64)
                        .matmul(tensor(fc, "lora_A").to(DType.FLOAT64))
                        .mul(1.5))
                .doubles();
        long[] at = places.get(Attached.PREFIX + "layers.0.fc.sparse_index");
        for (int i = 0; i < left.length; i++) {
            if (Arrays.binarySearch(at, i) < 0) {
                assertThat(left[i]).isCloseTo(0, within(1e-14));
            }
        }
        PeftFolder.save(model, "default", folder, PeftFolder.Info.of("tiny", null), PeftFolder.Form.PLAIN, Map.of());
        model.remove("default");
        try (TensorSource file = Safetensors.open(folder.resolve("adapter_model.safetensors"))) {
            file.tensors()
                    .forEach((key, info) -> assertThat(info.dims()) // check 4: nothing dense
                            .as(key)
                            .isNotIn(new long[] {10, 8}, new long[] {8, 10}));
        }
        places(PeftFolder.load(model, folder, null, true))
                .forEach((key, each) -> assertThat(each).isEqualTo(places.get(key)));
    }

    private static Map<String, long[]> places(Attached adapter) {
        Map<String, long[]> places = new LinkedHashMap<>();
        adapter.parameters().forEach((key, p) -> {
            if (key.endsWith("sparse_index")) {
                places.put(key, p.tensor().longs());
            }
        });
        return places;
    }

    private static TrainResult train(Tiny net, Attached adapter, AdaptedModel model, int steps) {
        TrainConfig config = TrainConfig.builder()
                .steps(steps)
                .batchSize(8)
                .learningRate(0.01)
                .schedule(new Schedule(Schedule.Curve.COSINE_TO_TENTH, steps / 10, 0))
                .logEvery(20)
                .build();
        long trained = model.trainableParameters().values().stream()
                .mapToLong(p -> p.tensor().numel())
                .sum();
        try (Trainer trainer = TinyTask.trainer(net, adapter, model, config).build()) {
            assertThat(trainer.memory().optimizerBytes()).isEqualTo(2 * 4 * trained); // check 4
            return trainer.train();
        }
    }

    /** Embeddings, norms and head train beside it, the adapted layers' own weights do not; and it learns, from noise. */
    @Test
    @Card(value = "sltrain", checks = 4)
    void theWholeNetworkIsLearnt() {
        Tiny net = new Tiny(DType.FLOAT32);
        AdaptedModel model = new AdaptedModel(net, net.heads());
        Attached adapter = model.attach(
                "default",
                AdapterSpec.of(TYPE, new Sltrain.Config(2, 0.3, 3, true), Targets.of("fc", "proj")),
                new Seed(1));
        assertThat(model.trainableParameters().keySet())
                .contains(
                        Attached.PREFIX + "embed_tokens.weight",
                        Attached.PREFIX + "layers.1.norm.bias",
                        Attached.PREFIX + "head.weight")
                .doesNotContain(Attached.PREFIX + "layers.0.fc.weight", Attached.PREFIX + "layers.0.fc.bias");
        double first = train(net, adapter, model, 20).trainLoss();
        double last = train(net, adapter, model, 200).trainLoss();
        assertThat(last).isLessThan(0.5 * first);
    }

    @Test
    @Card(value = "sltrain", checks = 5)
    void atFirstTheWeightIsTheSparsePart() {
        Linear layer = layer(6, 5, true, DType.FLOAT64);
        Sltrain sltrain = on(layer, config(2, 0.3, 3));
        assertThat(tensor(sltrain, "lora_B").ne(0).any()).isFalse();
        Tensor s = Tensor.zeros(DType.FLOAT64, 30)
                .indexAdd(
                        0,
                        tensor(sltrain, "sparse_index").to(DType.INT64),
                        tensor(sltrain, "sparse_values").detach())
                .view(5, 6);
        try (Generator g = Generator.of(2)) {
            Tensor x = g.randn(7, 6).to(DType.FLOAT64);
            Tensor y = sltrain.forward(x, new Base.Ground(layer));
            assertThat(gap(
                            y.detach(),
                            x.linear(s, tensor(sltrain, "sltrain_bias").detach())))
                    .isLessThan(1e-14);
            y.square().sum().backward();
            assertThat(tensor(sltrain, "lora_A").grad().ne(0).any()).isFalse();
            assertThat(tensor(sltrain, "lora_B").grad().ne(0).all()).isTrue();
            double bound = 1 / Math.sqrt(6);
            assertThat(largest(sltrain, "sparse_values")).isBetween(0.5 * bound, bound);
            assertThat(largest(sltrain, "lora_A")).isBetween(0.5 * bound, bound);
            assertThat(largest(sltrain, "sltrain_bias")).isBetween(0.3 / Math.sqrt(5), 1 / Math.sqrt(5));
        }
    }

    private static double largest(Sltrain sltrain, String name) {
        return tensor(sltrain, name).abs().max().item();
    }

    @Test
    @Card(value = "sltrain", checks = 6)
    void aFewFreeEntriesGiveFullRank() {
        assertThat(rank(0.03)).isEqualTo(256);
        assertThat(rank(0.005)).isBetween(140, 200);
    }

    private static int rank(double delta) {
        try (Scope scope = Scope.open()) {
            Linear layer = layer(256, 256, false, DType.FLOAT64);
            Sltrain sltrain = on(layer, config(4, delta, 4));
            randomB(sltrain);
            double[] s = sltrain.merge(new Base.Affine(Tensor.zeros(DType.FLOAT64, 1), null))
                    .weight()
                    .detach()
                    .svd()
                    .get(1)
                    .doubles();
            return (int) Arrays.stream(s).filter(each -> each > 1e-12 * s[0]).count();
        }
    }

    /** δ = 1 with B at zero is a dense weight: the same losses under AdamW, entry by entry. */
    @Test
    @Card(value = "sltrain", checks = 7)
    void allEntriesFreeIsDenseTraining() {
        Linear layer = layer(6, 5, false, DType.FLOAT64);
        Sltrain sltrain = on(layer, config(2, 1, 2));
        Tensor v = tensor(sltrain, "sparse_values");
        Parameter dense = new Parameter(v.detach().clone().view(5, 6));
        dense.trainable(true);
        double[] own = losses(
                t -> sltrain.forward(t, new Base.Ground(layer)),
                sltrain.parameters().get("sparse_values"));
        double[] plain = losses(t -> t.linear(dense.tensor(), null), dense);
        for (int i = 0; i < own.length; i++) {
            assertThat(own[i]).isCloseTo(plain[i], within(1e-12));
        }
        Sltrain low = on(layer, config(2, 0, 2)); // no free entries: the low-rank model alone
        randomB(low);
        assertThat(tensor(low, "sparse_values").numel()).isZero();
        Tensor product =
                tensor(low, "lora_B").detach().matmul(tensor(low, "lora_A").detach());
        Tensor x = Tensor.ones(DType.FLOAT64, 3, 6);
        assertThat(gap(low.forward(x, new Base.Ground(layer)).detach(), x.linear(product, null)))
                .isLessThan(1e-14);
    }

    private static double[] losses(java.util.function.UnaryOperator<Tensor> forward, Parameter trained) {
        double[] losses = new double[20];
        try (Generator g = Generator.of(6);
                Optimizer optimizer =
                        AdamW.Config.DEFAULT.create(List.of(new ParameterGroup("all", Map.of("w", trained), 1, 0)))) {
            for (int t = 0; t < 20; t++) {
                Tensor x = g.randn(8, 6).to(DType.FLOAT64);
                Tensor loss = forward.apply(x).sub(x.narrow(1, 0, 5)).square().mean();
                losses[t] = loss.item();
                loss.backward();
                optimizer.step(0.02);
                optimizer.zeroGrad();
            }
        }
        return losses;
    }

    @Test
    @Card(value = "sltrain", checks = 8)
    void ratesFallToATenth() {
        Schedule schedule = new Schedule(Schedule.Curve.COSINE_TO_TENTH, 4, 0);
        double[] first = {0, 0.25, 0.5, 0.75, 1, 0.99135, 0.96575};
        for (int t = 0; t < first.length; t++) {
            assertThat(schedule.factor(t, 20)).isCloseTo(first[t], within(5e-6));
        }
        assertThat(schedule.factor(19, 20)).isCloseTo(0.10865, within(5e-6));
    }

    /**
     * A dense map [24, 32] learnt from nothing, at rank 2, over three seeds. A linear layer stands for the card's language model:
     * the order of the losses is that of what the weight can express, and a run takes a fraction of a second.
     */
    @Test
    @Card(value = "sltrain", checks = 9)
    void freeEntriesHelpWhereverTheyAre() {
        double[] low = new double[3];
        double[] some = new double[3];
        double[] more = new double[3];
        double[] dense = new double[3];
        for (int seed = 0; seed < 3; seed++) {
            low[seed] = fit(0, seed);
            some[seed] = fit(0.1, seed);
            more[seed] = fit(0.4, seed);
            dense[seed] = fit(1, seed);
        }
        assertThat(max(some)).isLessThan(0.98 * min(low));
        assertThat(max(more)).isLessThan(0.9 * min(some));
        assertThat(max(dense)).isLessThan(0.1 * min(more));
        assertThat(max(some) - min(some)).isLessThan(0.2 * min(low)); // another support, much the same
    }

    private static double max(double[] values) {
        return Arrays.stream(values).max().orElseThrow();
    }

    private static double min(double[] values) {
        return Arrays.stream(values).min().orElseThrow();
    }

    private static double fit(double delta, int seed) {
        Linear layer = layer(32, 24, false, DType.FLOAT32);
        Sltrain sltrain = (Sltrain) TYPE.create(config(2, delta, 2), List.of(new Site("x", layer)), new Seed(seed))
                .adapters()
                .get("x");
        Map<String, Parameter> trained = new LinkedHashMap<>(sltrain.parameters());
        trained.values().removeIf(p -> !p.isTrainable());
        double loss = 0;
        try (Scope all = Scope.open();
                Generator g = Generator.of(3);
                Optimizer optimizer = AdamW.Config.DEFAULT.create(List.of(new ParameterGroup("all", trained, 1, 0)))) {
            Tensor wanted = g.randn(24, 32);
            for (int t = 0; t < 300; t++) {
                try (Scope step = Scope.open()) {
                    Tensor x = g.randn(64, 32);
                    Tensor error = sltrain.forward(x, new Base.Ground(layer)).sub(x.linear(wanted, null));
                    Tensor mean = error.square().mean();
                    mean.backward();
                    loss = 0.9 * loss + 0.1 * mean.item();
                    optimizer.step(0.03 * (1 - t / 300.0));
                    optimizer.zeroGrad();
                }
            }
        }
        return loss;
    }

    @Test
    void badSettingsAreRefusedWithAReason() {
        assertThatThrownBy(() -> config(2, 1.1, 3)).hasMessage("delta must lie in [0, 1], found 1.1; try 0.03");
        assertThatThrownBy(() -> config(2, Double.NaN, 3)).hasMessage("delta must lie in [0, 1], found NaN; try 0.03");
        Tiny net = new Tiny(DType.FLOAT32);
        AdaptedModel model = new AdaptedModel(net, net.heads());
        assertThatThrownBy(() -> model.attach(
                        "default", AdapterSpec.of(TYPE, config(2, 0.1, 3), Targets.of("embed_tokens")), new Seed(1)))
                .hasMessage(
                        "sltrain is for linear layers, and embed_tokens is an embedding; take it out of target_modules");
        model.attach("default", spec(), new Seed(1));
        assertThatThrownBy(() -> PeftFolder.exportLora(model, "default", Path.of("x"), null, 0, Map.of()))
                .hasMessage(
                        "sltrain is not exactly a LoRA on layers.0.fc; say with which rank to approximate it, such as 16");
    }
}
