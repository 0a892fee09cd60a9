package dev.espalier.adapter;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import dev.espalier.data.Batch;
import dev.espalier.io.Fields;
import dev.espalier.nn.Linear;
import dev.espalier.nn.Module;
import dev.espalier.nn.Parameter;
import dev.espalier.rank.ColumnFreeze;
import dev.espalier.rank.SpectrumRanks;
import dev.espalier.task.Evaluator;
import dev.espalier.task.Task;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Generator;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import dev.espalier.train.AdamW;
import dev.espalier.train.Callback;
import dev.espalier.train.Optimizer;
import dev.espalier.train.ParameterGroup;
import dev.espalier.train.Schedule;
import dev.espalier.train.StepContext;
import dev.espalier.train.TrainConfig;
import dev.espalier.train.Trainer;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.atomic.AtomicReference;
import java.util.stream.IntStream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class LamdaTest extends AdapterContract {

    private static final Lamda.Type TYPE = new Lamda.Type();
    private static final int OUT = 6;
    private static final int IN = 5;

    @Override
    protected AdapterSpec<?> spec() {
        return spec(config(Map.of("r", 3, "lora_alpha", 4.5)));
    }

    private static Lamda.Config config(Map<String, ?> settings) {
        return TYPE.read(Fields.of("recipe", settings));
    }

    private static AdapterSpec<?> spec(Lamda.Config config) {
        return AdapterSpec.of(TYPE, config, Targets.of("fc", "proj"));
    }

    @Override
    protected long parameters(long out, long in) {
        return 3 * 3 + 3 * out;
    }

    private static Tensor random(long seed, long... shape) {
        try (Generator g = Generator.of(seed)) {
            return g.randn(shape).to(DType.FLOAT64);
        }
    }

    private static Linear linear(int out, int in, DType dtype) {
        Linear layer = new Linear(in, out, true, dtype);
        layer.weightParameter().tensor().copy_(random(1, out, in).to(dtype));
        layer.biasParameter().tensor().copy_(random(2, out).to(dtype));
        return layer;
    }

    private static Lamda on(Linear layer, Map<String, ?> settings) {
        Lamda.Config config = config(settings);
        return new Lamda(config, config.r(), new Site("x", layer), new Seed(3));
    }

    private static Tensor value(Adapter adapter, String name) {
        return adapter.parameters().get(name).tensor();
    }

    private static Tensor update(Lamda lamda) {
        return lamda.toLora().product().detach();
    }

    @Test
    @Card(value = "lamda", checks = 1)
    void noStartChangesTheLayer() {
        for (Lamda.Start start : Lamda.Start.values()) {
            for (double alpha : new double[] {3, 5.1}) {
                Linear layer = linear(OUT, IN, DType.FLOAT32);
                Lamda lamda = on(layer, Map.of("r", 3, "lora_alpha", alpha, "start", start.name()));
                Tensor x = random(4, 2, 7, IN).to(DType.FLOAT32);
                assertThat(lamda.forward(x, new Base.Ground(layer)).equal(layer.compute(x)))
                        .isTrue();
            }
        }
        Linear layer = linear(OUT, IN, DType.FLOAT64); // the paper's split, written out
        Lamda lamda = on(layer, Map.of("r", 3, "lora_alpha", 5.1));
        List<Tensor> svd = layer.weight().svd();
        Tensor top = svd.get(0)
                .narrow(1, 0, 3)
                .mul(svd.get(1).narrow(0, 0, 3))
                .matmul(svd.get(2).narrow(0, 0, 3));
        Tensor b = random(5, OUT, 3);
        Tensor s = random(6, 3, 3);
        value(lamda, "lora_B.weight").detach().copy_(b);
        value(lamda, "lamda_S").detach().copy_(s);
        Tensor x = random(4, 7, IN);
        Tensor whole = s.add(Tensor.eye(3, DType.FLOAT64).mul(value(lamda, "lamda_S0"))); // S of the paper
        Tensor expected = layer.compute(x)
                .sub(x.matmul(top.t()))
                .add(x.matmul(value(lamda, "lora_A.weight").t())
                        .matmul(whole.t())
                        .matmul(b.t())
                        .mul(1.7));
        assertThat(gap(lamda.forward(x, new Base.Ground(layer)).detach(), expected))
                .isLessThan(1e-12);
    }

    /** Were x kept for the backward pass, changing it in between would be an error, as it is once A trains. */
    @Test
    @Card(value = "lamda", checks = 2)
    void theInputIsNotKept() {
        for (boolean trains : new boolean[] {false, true}) {
            Linear layer = linear(OUT, IN, DType.FLOAT32);
            layer.weightParameter().trainable(false);
            layer.biasParameter().trainable(false);
            Lamda lamda = on(layer, Map.of("r", 3));
            lamda.parameters().get("lora_A.weight").trainable(trains);
            Tensor x = random(4, 7, IN).to(DType.FLOAT32);
            Tensor loss = lamda.forward(x, new Base.Ground(layer)).square().sum();
            x.add_(1);
            if (trains) {
                assertThatThrownBy(loss::backward).hasMessageContaining("modified by an inplace operation");
            } else {
                loss.backward();
                assertThat(value(lamda, "lamda_S").grad().abs().max().item()).isPositive();
                assertThat(value(lamda, "lora_A.weight").grad()).isNull();
            }
        }
    }

    private static TrainConfig training(long steps) {
        return TrainConfig.builder()
                .steps(steps)
                .batchSize(8)
                .learningRate(0.02)
                .optimizer(new AdamW.Config(0.9, 0.999, 1e-8, 0.1))
                .logEvery(steps)
                .build();
    }

    /** A Tiny whose adapter has been trained, watched by a callback. */
    private record Trained(Tiny net, AdaptedModel model, Attached adapter) {

        static Trained of(Map<String, ?> settings, long steps, Callback... watchers) {
            Tiny net = new Tiny(DType.FLOAT32);
            AdaptedModel model = new AdaptedModel(net, net.heads());
            Attached adapter = model.attach("default", spec(config(settings)), new Seed(1));
            Trainer.Builder builder = TinyTask.trainer(net, adapter, model, training(steps));
            List.of(watchers).forEach(builder::callback);
            try (Trainer trainer = builder.build()) {
                trainer.train();
            }
            return new Trained(net, model, adapter);
        }

        Lamda at(String path) {
            return (Lamda) adapter.at(path);
        }
    }

    /** At each step, how many of the first columns of each B have stayed as they were. */
    private static final class Watch implements Callback {

        private final Map<Parameter, double[]> before = new HashMap<>();
        private final List<Integer> frozen = new ArrayList<>(); // by step: t = 0 first
        private long stateBytes;

        @Override
        public void afterStep(StepContext step) {
            int least = Integer.MAX_VALUE;
            for (Map.Entry<String, Parameter> e : step.run().parameters().entrySet()) {
                if (e.getKey().endsWith("lora_B.weight")) {
                    Tensor b = e.getValue().tensor().detach();
                    double[] last = before.put(e.getValue(), b.doubles());
                    if (last != null) {
                        int k = 0;
                        Tensor former = Tensor.of(last, b.shape()).to(b.dtype());
                        while (k < b.size(1) && b.select(1, k).equal(former.select(1, k))) {
                            k++;
                        }
                        least = Math.min(least, k);
                    }
                }
            }
            frozen.add(least);
            stateBytes = step.run().optimizer().stateBytes();
        }
    }

    @Test
    @Card(
            value = "lamda",
            checks = {2, 3, 4})
    void columnsFreezeForGoodOneAfterAnother() {
        ColumnFreeze.Schedule gradual = ColumnFreeze.Schedule.GRADUAL;
        assertThat(gradual.columns(8, 1, 30)).isZero();
        assertThat(gradual.columns(8, 5, 30)).isEqualTo(1);
        assertThat(gradual.columns(8, 16, 30)).isEqualTo(4);
        assertThat(gradual.columns(8, 31, 30)).isEqualTo(8);
        assertThat(ColumnFreeze.Schedule.RELEASED.columns(8, 100, 30)).isEqualTo(3); // never 8
        Tiny fresh = new Tiny(DType.FLOAT32);
        Attached start =
                new AdaptedModel(fresh, fresh.heads()).attach("default", spec(config(Map.of("r", 8))), new Seed(1));
        Watch watch = new Watch();
        Trained done = Trained.of(Map.of("r", 8), 100, watch);
        for (int t = 1; t < 100; t++) {
            assertThat(watch.frozen.get(t)).as("t = %d", t).isEqualTo(Math.min(8, 8 * t / 30));
        }
        for (Site site : done.adapter.sites()) {
            Lamda lamda = done.at(site.path());
            assertThat(value(lamda, "lora_B.weight").requiresGrad()).isFalse();
            assertThat(value(lamda, "lora_A.weight").equal(value(start.at(site.path()), "lora_A.weight")))
                    .isTrue();
        }
        assertThat(done.model.trainableParameters().values().stream()
                        .mapToLong(p -> p.tensor().numel())
                        .sum())
                .isEqualTo(4 * 8 * 8);
        assertThat(watch.stateBytes).isEqualTo(2 * 4 * 4 * 8 * 8); // of S alone
    }

    @Test
    @Card(value = "lamda", checks = 5)
    void frozenFromTheStartItStaysInTheSpanOfU() {
        Watch watch = new Watch();
        Trained done = Trained.of(Map.of("r", 3, "start", "spectral_zero", "eta", 0), 12, watch);
        assertThat(watch.frozen.subList(1, 12)).containsOnly(3);
        for (Site site : done.adapter.sites()) {
            Lamda lamda = done.at(site.path());
            Tensor u = value(lamda, "lora_B.weight").detach();
            Tensor change = update(lamda);
            assertThat(change.abs().max().item()).isGreaterThan(1e-3);
            assertThat(gap(u.matmul(u.t()).matmul(change), change)).isLessThan(1e-5);
            Tensor left = site.layer().weight().to(DType.FLOAT64).svd().get(0).narrow(1, 0, 3);
            Tensor wide = change.to(DType.FLOAT64);
            assertThat(gap(left.matmul(left.t()).matmul(wide), wide)).isLessThan(1e-5);
        }
    }

    @Test
    @Card(value = "lamda", checks = 5)
    void neverFrozenWithAnIdentityBetweenItIsLora() {
        Watch watch = new Watch();
        Trained.of(Map.of("r", 3, "start", "code", "eta", 1e9), 6, watch);
        assertThat(watch.frozen.subList(1, 6)).containsOnly(0);

        Linear layer = linear(OUT, IN, DType.FLOAT64);
        Lora lora = new Lora(Lora.Config.of(3, 4.5), new Site("x", layer), new Seed(3));
        Lamda lamda = on(layer, Map.of("r", 3, "lora_alpha", 4.5, "start", "code"));
        value(lamda, "lamda_S").detach().copy_(Tensor.eye(3, DType.FLOAT64));
        lamda.parameters().get("lamda_S").trainable(false);
        lamda.parameters().get("lora_A.weight").trainable(true);
        for (Adapter adapter : List.of(lora, lamda)) {
            Map<String, Parameter> moved = new LinkedHashMap<>(adapter.parameters());
            moved.remove("lamda_S");
            try (Optimizer optimizer = AdamW.Config.DEFAULT.create(List.of(new ParameterGroup("all", moved, 1, 0.1)))) {
                for (int i = 0; i < 20; i++) {
                    adapter.forward(random(7, 8, IN), new Base.Ground(layer))
                            .sub(random(8, 8, OUT))
                            .square()
                            .mean()
                            .backward();
                    optimizer.step(0.05);
                    optimizer.zeroGrad();
                }
            }
        }
        assertThat(gap(update(lamda), lora.toLora().product().detach())).isLessThan(1e-12);
    }

    /** min over S of ‖W0 + s B S A - T‖: S* = U_rᵀ (T - W0) V_r / s. */
    @Test
    @Card(value = "lamda", checks = 6)
    void theBestMiddleIsTheProjectionOfTheTarget() {
        Linear layer = linear(OUT, IN, DType.FLOAT64);
        Lamda lamda = on(layer, Map.of("r", 3, "lora_alpha", 4.5));
        Tensor target = random(9, OUT, IN);
        Tensor u = value(lamda, "lora_B.weight").detach();
        Tensor v = value(lamda, "lora_A.weight"); // [r, in]
        Tensor w0 = layer.weight().sub(value(lamda, "lamda_C").matmul(v));
        Tensor best = u.t().matmul(target.sub(w0)).matmul(v.t()).div(1.5);
        Tensor s = value(lamda, "lamda_S");
        s.detach().copy_(best.sub(Tensor.eye(3, DType.FLOAT64).mul(value(lamda, "lamda_S0"))));
        Tensor loss =
                lamda.merge(Base.Affine.of(layer)).weight().sub(target).square().sum();
        loss.backward();
        assertThat(s.grad().abs().max().item()).isLessThan(1e-10); // the loss is convex in S
        Tensor rest = target.sub(w0);
        Tensor projected = u.t().matmul(rest).matmul(v.t());
        assertThat(loss.item())
                .isCloseTo(rest.square().sum().item() - projected.square().sum().item(), within(1e-10));
    }

    @Test
    @Card(value = "lamda", checks = 7)
    void mergedAndExportedItIsTheSameInTheRowsOfA(@TempDir Path folder) {
        for (Lamda.Start start : Lamda.Start.values()) {
            Trained done = Trained.of(Map.of("r", 3, "lora_alpha", 4.5, "start", start.name()), 12);
            for (Site site : done.adapter.sites()) {
                Lamda lamda = done.at(site.path());
                Base.Affine before = Base.Affine.of(site.layer());
                Tensor change =
                        lamda.merge(before).weight().sub(before.weight()).detach();
                assertThat(change.to(DType.FLOAT64).svdvals().doubles()[3]).isLessThan(1e-6);
                Tensor a = value(lamda, "lora_A.weight");
                if (start != Lamda.Start.CODE) {
                    assertThat(gap(change.matmul(a.t()).matmul(a), change)).isLessThan(1e-5);
                }
            }
            Tensor trained = run(done.net);
            Path lora = folder.resolve(start.name());
            PeftFolder.exportLora(done.model, "default", lora, null, 0, Map.of());
            done.model.merge();
            assertThat(gap(run(done.net), trained)).isLessThan(1e-5);
            done.model.unmerge();
            done.model.remove("default");
            Attached exported = PeftFolder.load(done.model, lora, null, false);
            assertThat(exported.exactFactors("layers.0.fc").rank()).isEqualTo(3);
            assertThat(gap(run(done.net), trained)).isLessThan(1e-5);
        }
    }

    /** Layers, each with the spectrum that is named for it. */
    private static final class Tower extends Module {
        Tower(double... decay) {
            for (int i = 0; i < decay.length; i++) {
                Linear layer = new Linear(8, 8, false, DType.FLOAT64);
                double ratio = decay[i];
                double[] values = IntStream.range(0, 8)
                        .mapToDouble(k -> Math.pow(ratio, k))
                        .toArray();
                Tensor u = random(20 + i, 8, 8).qr().get(0);
                layer.weightParameter()
                        .tensor()
                        .copy_(u.mul(Tensor.of(values, 8))
                                .matmul(random(30 + i, 8, 8).qr().get(0)));
                child("fc" + i, layer);
            }
        }
    }

    private static Map<String, Integer> ranks(Tower tower, Map<String, ?> settings) {
        Attached adapter = new AdaptedModel(tower, List.of())
                .attach("default", AdapterSpec.of(TYPE, config(settings), Targets.ALL), new Seed(1));
        Map<String, Integer> ranks = new LinkedHashMap<>();
        adapter.sites()
                .forEach(site -> ranks.put(site.path(), (int)
                        value(adapter.at(site.path()), "lora_A.weight").size(0)));
        return ranks;
    }

    @Test
    @Card(value = "lamda", checks = 8)
    void flatSpectraGetMoreAndTheMeanIsTheBudget() {
        double[] e = SpectrumRanks.energy(Tensor.of(new double[] {4, 3, 2, 1}, 4)); // 16, 25, 29, 30 of 30
        assertThat(e).containsExactly(new double[] {16 / 30.0, 25 / 30.0, 29 / 30.0, 1}, within(1e-12));
        // fast, flat, middling, flat, very fast, middling, and one more that stays in the middle
        double[] decay = {0.3, 1, 0.7, 0.95, 0.1, 0.65, 0.68};
        Map<String, Integer> grouped =
                ranks(new Tower(decay), Map.of("r", 4, "allocation", "grouped", "rank_set", List.of(2, 4, 6)));
        assertThat(grouped.values()).containsExactly(2, 6, 4, 6, 2, 4, 4);
        assertThat(ranks(new Tower(decay), Map.of("r", 4, "allocation", "grouped")))
                .isEqualTo(grouped); // r/2, r, 3r/2
        Map<String, Integer> threshold = ranks(new Tower(decay), Map.of("r", 4, "allocation", "threshold"));
        assertThat(threshold.values().stream().mapToInt(k -> k).sum()).isEqualTo(7 * 4);
        assertThat(threshold.get("fc1")).isGreaterThan(threshold.get("fc2")).isGreaterThan(5);
        assertThat(threshold.get("fc4")).isEqualTo(1);
        double held = 1; // what all hold at the least; no layer holds it with fewer
        for (int i = 0; i < decay.length; i++) {
            held = Math.min(held, share(decay[i], threshold.get("fc" + i)));
        }
        for (int i = 0; i < decay.length; i++) {
            assertThat(threshold.get("fc" + i) == 1 ? 0 : share(decay[i], threshold.get("fc" + i) - 1))
                    .isLessThanOrEqualTo(held);
        }
    }

    /** The energy of the k first of eight values 1, ρ, ρ², .. */
    private static double share(double ratio, int k) {
        double sum = 0;
        double first = 0;
        for (int i = 0; i < 8; i++) {
            sum += Math.pow(ratio, 2 * i);
            first = i < k ? sum : first;
        }
        return first / sum;
    }

    @Test
    @Card(value = "lamda", checks = 8)
    void otherKindsOfLayersAreComparedAmongThemselves() {
        Map<String, double[]> energies = new LinkedHashMap<>();
        for (int i = 0; i < 3; i++) {
            energies.put("layers." + i + ".q", new double[] {0.5 + 0.1 * i, 0.7 + 0.1 * i, 1});
            energies.put("layers." + i + ".v", new double[] {0.9 - 0.1 * i, 0.95, 1});
        }
        assertThat(SpectrumRanks.grouped(energies, List.of(1, 2, 3)))
                .containsAllEntriesOf(Map.of("layers.0.q", 3, "layers.1.q", 2, "layers.2.q", 1))
                .containsAllEntriesOf(Map.of("layers.0.v", 1, "layers.1.v", 2, "layers.2.v", 3));
    }

    @Test
    @Card(value = "lamda", checks = 8)
    void ranksOfTheLayersOwnAreSaved(@TempDir Path folder) {
        Tower tower = new Tower(0.3, 1, 0.7);
        AdaptedModel model = new AdaptedModel(tower, List.of());
        Lamda.Config config = config(Map.of("r", 4, "allocation", "grouped"));
        move(model.attach("default", AdapterSpec.of(TYPE, config, Targets.ALL), new Seed(1)), 0.3);
        Tensor x = random(4, 3, 8);
        List<Tensor> before = outputs(tower, x);
        PeftFolder.save(model, "default", folder, PeftFolder.Info.of("tower", null), PeftFolder.Form.PLAIN, Map.of());
        model.remove("default");
        PeftFolder.load(model, folder, null, false);
        List<Tensor> after = outputs(tower, x);
        for (int i = 0; i < 3; i++) {
            assertThat(gap(after.get(i), before.get(i))).isLessThan(1e-12);
        }
    }

    private static List<Tensor> outputs(Tower tower, Tensor x) {
        return IntStream.range(0, 3)
                .mapToObj(i ->
                        ((Linear) tower.namedModules().get("fc" + i)).forward(x).detach())
                .toList();
    }

    @Test
    @Card(value = "lamda", checks = 9)
    void theReleasedScheduleTakesAwayGradientsOnly() {
        ColumnFreeze.Schedule released = ColumnFreeze.Schedule.RELEASED;
        for (int i = 1; i <= 100; i++) {
            assertThat(released.columns(8, i, 30)).isEqualTo(i / 30);
        }
        List<Long> zeroed = new ArrayList<>();
        Callback gradients = new Callback() {
            @Override
            public void afterBackward(StepContext step) {
                step.run().parameters().forEach((key, p) -> {
                    if (key.endsWith("layers.0.fc.lora_B.weight")) {
                        double[] columns = p.tensor().grad().abs().sum(0, false).doubles();
                        zeroed.add(IntStream.range(0, 8)
                                .filter(k -> columns[k] == 0)
                                .count());
                    }
                });
            }
        };
        Watch watch = new Watch();
        Trained.of(Map.of("r", 8, "start", "code", "freeze", "released"), 100, gradients, watch);
        for (int i : new int[] {1, 29, 30, 59, 60, 89, 90, 100}) {
            assertThat(zeroed.get(i - 1)).as("i = %d", i).isEqualTo(i / 30);
        }
        assertThat(watch.frozen.subList(1, 100)).containsOnly(0); // column 0 moves all the time
    }

    /** One layer, whose loss is a mean over fixed inputs. */
    private static final class Fit extends Module implements Task {
        private final Linear fc = child("fc", new Linear(IN, OUT, true, DType.FLOAT64));
        private final Tensor x;
        private final Tensor wanted;

        Fit(Map<String, Object> one) {
            fc.weightParameter().tensor().copy_(Golden.tensor(one, "weight", OUT, IN));
            fc.biasParameter().tensor().copy_(Golden.tensor(one, "bias", OUT));
            x = Golden.tensor(one, "x", 9, IN);
            wanted = Golden.tensor(one, "wanted", 9, OUT);
        }

        @Override
        public Module model() {
            return this;
        }

        @Override
        public double units(Batch batch) {
            return 1;
        }

        @Override
        public Outcome forward(Batch batch) {
            Tensor y = fc.forward(x);
            return new Outcome() {
                @Override
                public Tensor loss() {
                    return y.sub(wanted).square().mean();
                }

                @Override
                public Tensor logits() {
                    return y;
                }

                @Override
                public Tensor targets() {
                    return wanted;
                }
            };
        }

        @Override
        public Evaluator evaluator() {
            throw new UnsupportedOperationException();
        }

        @Override
        public Metric metric() {
            return new Metric("loss", false);
        }
    }

    /** Ten steps of the authors' code, of which the second case's B is frozen at the sixth: {@code tools/golden/make_adapter_fixtures.py}. */
    @Test
    @Card(value = "lamda", checks = 9)
    void codeAndReleasedAreWhatTheAuthorsCodeDoes() {
        Map<String, Object> fixture = Golden.json("adapters/lamda.json");
        double decay = Golden.number(fixture, "weight_decay");
        for (Map<String, Object> one : Golden.list(fixture, "cases")) {
            int r = Golden.ints(one, "r")[0];
            Fit fit = new Fit(one);
            AdaptedModel model = new AdaptedModel(fit, List.of());
            Lamda.Config config = config(Map.of(
                    "r", r, "lora_alpha", Golden.number(fixture, "alpha"), "start", "code", "freeze", "released"));
            Attached adapter = model.attach("default", AdapterSpec.of(TYPE, config, Targets.ALL), new Seed(1));
            Adapter lamda = adapter.at("fc");
            value(lamda, "lora_A.weight").copy_(Golden.tensor(one, "A", r, IN));
            value(lamda, "lamda_S").detach().copy_(Golden.tensor(one, "S", r, r));
            TrainConfig train = TrainConfig.builder()
                    .steps((long) Golden.number(fixture, "steps"))
                    .learningRate(Golden.number(fixture, "rate"))
                    .schedule(Schedule.of(Schedule.Curve.CONSTANT))
                    .clip(0)
                    .build();
            Trainer.Builder builder = Trainer.builder(fit, TinyTask.data(8, 24))
                    .config(train)
                    .groups(List.of(new ParameterGroup("all", model.trainableParameters(), 1, decay)));
            adapter.parts(new Seed(0)).callbacks().forEach(builder::callback);
            try (Trainer trainer = builder.build()) {
                trainer.train();
            }
            assertThat(gap(value(lamda, "lora_B.weight").detach(), Golden.tensor(one, "last_B", OUT, r)))
                    .isLessThan(2e-5);
            assertThat(gap(value(lamda, "lamda_S").detach(), Golden.tensor(one, "last_S", r, r)))
                    .isLessThan(2e-5);
            assertThat(gap(fit.fc.forward(fit.x).detach(), Golden.tensor(one, "y", 9, OUT)))
                    .isLessThan(2e-5);
        }
    }

    @Test
    void resumedInEveryPhaseItEndsOnTheSameBits(@TempDir Path folder) {
        Map<String, Tensor> expected = trained(folder.resolve("whole"), -1, false);
        for (long stop : new long[] {2, 9, 15}) { // no column frozen, some, all
            Path out = folder.resolve("stopped" + stop);
            trained(out, stop, false);
            Map<String, Tensor> resumed = trained(out, -1, true);
            expected.forEach((key, value) -> assertThat(resumed.get(key).equal(value))
                    .as("%d %s", stop, key)
                    .isTrue());
        }
    }

    private static Map<String, Tensor> trained(Path out, long stopAt, boolean resume) {
        Tiny net = new Tiny(DType.FLOAT32);
        AdaptedModel model = new AdaptedModel(net, net.heads());
        Attached adapter = model.attach("default", spec(config(Map.of("r", 4, "eta", 0.6))), new Seed(1));
        AtomicReference<Trainer> made = new AtomicReference<>();
        made.set(TinyTask.trainer(net, adapter, model, training(20))
                .out(out)
                .resume(resume)
                .callback(new Callback() {
                    @Override
                    public void afterStep(StepContext step) {
                        if (step.step() == stopAt) {
                            made.get().requestStop();
                        }
                    }
                })
                .build());
        try (Trainer trainer = made.get()) {
            trainer.train();
        }
        return adapter.made().tensors();
    }

    @Test
    void gradientsAreThoseOfDifferences() {
        Linear layer = Gradients.layer();
        Lamda lamda = on(layer, Map.of("r", 3, "lora_alpha", 4.5));
        Tensor x = random(4, 7, 4);
        value(lamda, "lamda_S").detach().copy_(random(5, 3, 3));
        value(lamda, "lora_B.weight").detach().copy_(random(6, 5, 3));
        Tensor y = lamda.forward(x, new Base.Ground(layer));
        y.square().sum().backward();
        Tensor g = y.detach().mul(2).t().matmul(x); // of ΔW
        Tensor a = value(lamda, "lora_A.weight");
        Tensor b = value(lamda, "lora_B.weight");
        Tensor s = value(lamda, "lamda_S")
                .detach()
                .add(Tensor.eye(3, DType.FLOAT64).mul(value(lamda, "lamda_S0")));
        Tensor ofS = b.detach().t().matmul(g).matmul(a.t()).mul(1.5);
        Tensor ofB = g.matmul(a.t()).matmul(s.t()).mul(1.5);
        assertThat(gap(value(lamda, "lamda_S").grad(), ofS)).isLessThan(1e-10);
        assertThat(gap(b.grad(), ofB)).isLessThan(1e-10);
    }

    @Test
    void badInputIsRefusedWithAReason() {
        assertThatThrownBy(() -> config(Map.of("eta", -0.1)))
                .hasMessage("eta must be at least 0 and finite, found -0.1; try 0.3");
        for (List<Integer> set : List.of(List.of(2, 4), List.of(2, 4, 5), List.of(4, 4, 4), List.of(0, 4, 8))) {
            assertThatThrownBy(() -> config(Map.of("r", 4, "allocation", "grouped", "rank_set", set)))
                    .hasMessage("rank_set must be an odd number of rising ranks, symmetric around r, which is 4, found "
                            + set + "; try [2, 4, 6]");
        }
        Tiny net = new Tiny(DType.FLOAT32);
        AdaptedModel model = new AdaptedModel(net, net.heads());
        assertThatThrownBy(() -> model.attach("a", spec(config(Map.of("r", 9))), new Seed(1)))
                .hasMessageStartingWith("r is 9, above the width 8 of layers.0.fc [10, 8]");
        assertThatThrownBy(() -> model.attach("a", spec(config(Map.of("r", 6, "allocation", "grouped"))), new Seed(1)))
                .hasMessageStartingWith("r is 9, above the width 8");
        assertThat(Catalog.describe(TYPE)).contains("Our reading: ", "freeze: released");
    }
}
