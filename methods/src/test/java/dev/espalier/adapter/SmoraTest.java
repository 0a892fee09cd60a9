package dev.espalier.adapter;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.espalier.nn.Linear;
import dev.espalier.nn.Parameter;
import dev.espalier.rank.ExpertRouter;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Generator;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import dev.espalier.train.AdamW;
import dev.espalier.train.Optimizer;
import dev.espalier.train.ParameterGroup;
import dev.espalier.train.Sgd;
import dev.espalier.train.TrainConfig;
import dev.espalier.train.Trainer;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

@Card(value = "smora", checks = 1)
class SmoraTest extends AdapterContract {

    @Override
    protected AdapterSpec<?> spec() {
        return spec(Smora.Config.of(6, 2));
    }

    private static AdapterSpec<?> spec(Smora.Config config) {
        return AdapterSpec.of(new Smora.Type(), config, Targets.of("fc", "proj"));
    }

    @Override
    protected long parameters(long out, long in) {
        return 6 * (in + out) + 6 * in;
    }

    @Override
    @Test
    void mergedEqualsUnmerged() {
        Tiny net = new Tiny(DType.FLOAT32);
        AdaptedModel model = new AdaptedModel(net, net.heads());
        model.attach("default", spec(), new Seed(1));
        String reason =
                "Smora on layers.0.fc depends on its input and is no weight that could be merged; leave it unmerged";
        assertThatThrownBy(model::merge).hasMessage(reason);
        assertThatThrownBy(() -> PeftFolder.exportLora(model, "default", Path.of("none"), null, 4, Map.of()))
                .hasMessage(reason);
    }

    @Override
    void mergedEqualsUnmergedInFloat32() {
        // it does not merge
    }

    @Override
    void unmergeRestoresEveryBit() {
        // it does not merge
    }

    // ---- one layer, 4 to 5

    private static Smora on(Linear layer, Smora.Config config) {
        return new Smora(config, new Site("x", layer), new Seed(0));
    }

    private static Tensor wide(Generator g, long... shape) {
        return g.randn(shape).to(DType.FLOAT64);
    }

    private static Tensor get(Adapter adapter, String name) {
        return adapter.parameters().get(name).tensor();
    }

    private static Tensor a(Adapter adapter) {
        return get(adapter, "lora_A.weight");
    }

    private static Tensor b(Adapter adapter) {
        return get(adapter, "lora_B.weight");
    }

    private static Tensor router(Adapter adapter) {
        return get(adapter, "lora_router.weight");
    }

    private static Tensor c(Adapter adapter) {
        return get(adapter, "balance_bias");
    }

    private static void fill(Adapter adapter, long seed) {
        try (Grad off = Grad.off();
                Generator g = Generator.of(seed)) {
            for (Tensor each : List.of(a(adapter), b(adapter), router(adapter))) {
                each.copy_(wide(g, each.shape()));
            }
        }
    }

    private static Tensor x(long seed, long... shape) {
        try (Generator g = Generator.of(seed)) {
            return wide(g, shape);
        }
    }

    private static Tensor forward(Adapter adapter, Linear layer, Tensor x) {
        return adapter.forward(x, new Base.Ground(layer));
    }

    private static void set(Tensor place, Tensor value) {
        try (Grad off = Grad.off()) {
            place.copy_(value);
        }
    }

    private static ExpertRouter.Balance balance(Smora smora) {
        return new ExpertRouter.Balance(Map.of("x", smora.router()));
    }

    @Test
    @Card(value = "smora", checks = 1)
    void withoutBItIsTheLayerBitForBit() {
        Linear layer = Gradients.layer();
        Smora smora = on(layer, Smora.Config.of(6, 2));
        set(router(smora), x(3, 6, 4));
        set(c(smora), x(4, 6));
        Tensor x = x(2, 2, 3, 4);
        assertThat(forward(smora, layer, x).equal(layer.compute(x))).isTrue();
    }

    @Test
    @Card(value = "smora", checks = 2)
    void withAllRanksEvenlyItIsLora() {
        Linear layer = Gradients.layer();
        Tensor x = x(2, 2, 3, 4);
        for (boolean zero : new boolean[] {true, false}) {
            Smora smora = on(layer, Smora.Config.of(3, 3));
            fill(smora, 5);
            Tensor rows = x(6, 1, 4).expand(3, 4);
            set(router(smora), zero ? rows.mul(0) : rows);
            Lora lora = new Lora(Lora.Config.of(3, 16), new Site("x", layer), new Seed(0));
            set(lora.a().tensor(), a(smora));
            set(lora.b().tensor(), b(smora));
            assertThat(gap(forward(smora, layer, x), forward(lora, layer, x))).isLessThan(1e-12);
            assertThat(gap(smora.router().gates(x.reshape(6, 4), false), Tensor.ones(DType.FLOAT64, 6, 3)))
                    .isLessThan(1e-14);
        }
    }

    @Test
    @Card(value = "smora", checks = 3)
    void aTokenHasKGatesAndKInSum() {
        Linear layer = Gradients.layer();
        Tensor x = x(2, 50, 4);
        for (int k : new int[] {1, 2, 5}) {
            Smora smora = on(layer, Smora.Config.of(6, k));
            fill(smora, 5);
            Tensor gates = smora.router().gates(x, false);
            assertThat(gates.ne(0).to(DType.FLOAT64).sum(1, false).doubles()).containsOnly(k);
            assertThat(gap(gates.sum(1, false), Tensor.full(k, DType.FLOAT64, 50)))
                    .isLessThan(1e-12);
            assertThat(gates.min().item()).isGreaterThanOrEqualTo(0);
            assertThat(gates.max().item()).isLessThanOrEqualTo(k + 1e-12);
            forward(smora, layer, x).square().sum().backward();
            double size = router(smora).grad().abs().max().item();
            if (k == 1) {
                assertThat(gates.max().item()).isEqualTo(1);
                assertThat(size).isLessThan(1e-10); // rounding
            } else {
                assertThat(size).isGreaterThan(1e-3);
            }
        }
    }

    @Test
    @Card(value = "smora", checks = 4)
    void blocksAreAMixtureOfLoras() {
        Linear layer = Gradients.layer();
        Smora smora = on(layer, Smora.Config.of(6, 4).withBlock(2)); // two of three LoRAs of rank 2
        fill(smora, 5);
        Tensor x = x(2, 7, 4);
        Tensor expected = layer.compute(x);
        double[] scores = x.matmul(router(smora).t()).sigmoid().doubles(); // [7, 3]
        for (int t = 0; t < 7; t++) {
            int worst = 0;
            double sum = 0;
            for (int e = 0; e < 3; e++) {
                sum += scores[3 * t + e];
                worst = scores[3 * t + e] < scores[3 * t + worst] ? e : worst;
            }
            sum -= scores[3 * t + worst];
            for (int e = 0; e < 3; e++) {
                if (e != worst) {
                    Tensor own = x.narrow(0, t, 1)
                            .matmul(a(smora).narrow(0, 2 * e, 2).t())
                            .matmul(b(smora).narrow(1, 2 * e, 2).t()); // of one LoRA
                    set(
                            expected.narrow(0, t, 1),
                            expected.narrow(0, t, 1).add(own, 16 / 2.0 * scores[3 * t + e] / sum));
                }
            }
        }
        assertThat(gap(forward(smora, layer, x), expected)).isLessThan(1e-11);
    }

    /** The same by gathering k rows of A and k columns of B for each token. */
    private static Tensor indexed(Smora smora, Linear layer, Tensor x, int k, double scale) {
        Tensor h = x.matmul(router(smora).t()).sigmoid().add(c(smora));
        List<Tensor> best = h.topk(k);
        Tensor gates = best.get(0).div(best.get(0).sum(1, true)).mul(k); // [n, k]
        Tensor flat = best.get(1).reshape(-1); // [n k]
        long n = x.size(0);
        Tensor down = a(smora).indexSelect(0, flat).view(n, k, 4).matmul(x.unsqueeze(2)); // [n, k, 1]
        Tensor up = b(smora).t().indexSelect(0, flat).view(n, k, 5);
        Tensor change = down.squeeze(2).mul(gates).unsqueeze(1).matmul(up).squeeze(1); // [n, 5]
        return layer.compute(x).add(change, scale);
    }

    @Test
    @Card(value = "smora", checks = 5)
    void denseProductsAreTheIndexedOnes() {
        Linear layer = Gradients.layer();
        List<List<Tensor>> gradients = new ArrayList<>();
        List<Tensor> outputs = new ArrayList<>();
        for (boolean dense : new boolean[] {true, false}) {
            Smora smora = on(layer, Smora.Config.of(6, 2));
            fill(smora, 5);
            set(c(smora), x(4, 6).mul(0.1));
            Tensor x = x(2, 9, 4).requiresGrad_(true);
            Tensor y = dense ? forward(smora, layer, x) : indexed(smora, layer, x, 2, 8);
            y.square().sum().backward();
            outputs.add(y);
            gradients.add(
                    List.of(a(smora).grad(), b(smora).grad(), router(smora).grad(), x.grad()));
        }
        assertThat(gap(outputs.get(0), outputs.get(1)))
                .isLessThan(1e-12 * outputs.get(1).abs().max().item());
        for (int i = 0; i < 4; i++) {
            Tensor expected = gradients.get(1).get(i);
            assertThat(gap(gradients.get(0).get(i), expected))
                    .isLessThan(1e-12 * expected.abs().max().item());
        }
    }

    @Test
    void gradientsAreThoseOfTheForwardPass() {
        Gradients.check(layer -> {
            Smora smora = on(layer, Smora.Config.of(3, 2).withBias(true, true));
            fill(smora, 5);
            return smora;
        });
    }

    @Test
    @Card(value = "smora", checks = 6)
    void ranksThatNobodyChoseLearnNothing() {
        Linear layer = Gradients.layer();
        Smora smora = on(layer, Smora.Config.of(6, 2));
        fill(smora, 5);
        set(c(smora), Tensor.of(new double[] {0, 2, 0, 2, 0, 0}, 6)); // all choose the second and the fourth
        forward(smora, layer, x(2, 9, 4)).square().sum().backward();
        for (int i = 0; i < 6; i++) {
            double size = a(smora).grad().select(0, i).norm().item()
                    + b(smora).grad().select(1, i).norm().item();
            if (i == 1 || i == 3) {
                assertThat(size).isGreaterThan(1e-3);
            } else {
                assertThat(size).isZero();
            }
        }
    }

    @Test
    @Card(value = "smora", checks = 7)
    void biasesFollowTheLoadByExactlyU() {
        Linear layer = Gradients.layer();
        Smora smora = on(layer, Smora.Config.of(4, 2).withRate(1e-3));
        // rows e1 and -e1: the first two experts are liked by the one, the last two by the other
        set(router(smora), Tensor.of(new double[] {3, 0, 0, 0, 2, 0, 0, 0, -3, 0, 0, 0, -2, 0, 0, 0}, 4, 4));
        Tensor skewed = Tensor.of(new double[] {1, 0, 0, 0, 1, 0, 0, 0, -1, 0, 0, 0}, 3, 4);
        Tensor even = skewed.narrow(0, 1, 2);
        ExpertRouter.Balance balance = balance(smora);
        layer.train(true);

        forward(smora, layer, skewed); // no training is on
        assertThat(c(smora).doubles()).containsOnly(0);
        balance.beforeStep(null, 1);
        forward(smora, layer, even); // n_e is the mean
        assertThat(c(smora).doubles()).containsOnly(0);
        forward(smora, layer, skewed);
        assertThat(c(smora).doubles()).containsExactly(-1e-3, -1e-3, 1e-3, 1e-3);
        forward(smora, layer, skewed.reshape(1, 3, 4)); // each batch of a step moves it
        assertThat(c(smora).doubles()).containsExactly(-2e-3, -2e-3, 2e-3, 2e-3);
        try (Grad off = Grad.off()) {
            forward(smora, layer, skewed); // nobody learns from this pass
        }
        layer.train(false);
        forward(smora, layer, skewed);
        layer.train(true);
        balance.afterStep(null);
        forward(smora, layer, skewed);
        assertThat(c(smora).doubles()).containsExactly(-2e-3, -2e-3, 2e-3, 2e-3);
    }

    /** Of 100 passes, the highest count over the mean in the last ten. */
    private static double load(double u) {
        Linear layer = Gradients.layer();
        Smora smora = on(layer, Smora.Config.of(6, 2).withRate(u));
        Tensor liked = x(8, 6, 4).mul(0.2);
        set(router(smora), liked);
        set(router(smora).select(0, 0), liked.select(0, 0).add(1.0));
        layer.train(true);
        balance(smora).beforeStep(null, 1);
        Tensor counts = Tensor.zeros(DType.FLOAT64, 6);
        try (Generator g = Generator.of(9)) {
            for (int i = 0; i < 100; i++) {
                Tensor x = wide(g, 64, 4).add(0.5); // mostly to the liking of the first
                if (i >= 90) {
                    counts = counts.add(smora.router()
                            .gates(x, false)
                            .detach()
                            .ne(0)
                            .to(DType.FLOAT64)
                            .sum(0, false));
                }
                forward(smora, layer, x);
            }
        }
        return counts.max().item() / counts.mean().item();
    }

    @Test
    @Card(value = "smora", checks = 7)
    void aLargerUFlattensTheLoad() {
        double none = load(0);
        double some = load(1e-3);
        double more = load(1e-2);
        assertThat(none).isGreaterThan(2);
        assertThat(some).isLessThan(none - 0.1);
        assertThat(more).isLessThan(some - 0.1).isLessThan(1.5);
    }

    @Test
    @Card(value = "smora", checks = 8)
    void gatesFeelSumsAndNoFactors() {
        Linear layer = Gradients.layer();
        Smora smora = on(layer, Smora.Config.of(6, 2));
        fill(smora, 5);
        Tensor x = x(2, 1, 4);
        Tensor g = x.matmul(router(smora).detach().t()).sigmoid().select(0, 0); // [6]
        Tensor before = smora.router().gates(x, false);
        set(c(smora), g); // h = 2 g
        assertThat(gap(smora.router().gates(x, false), before)).isLessThan(1e-14);
        set(c(smora), Tensor.full(0.5, DType.FLOAT64, 6));
        assertThat(gap(smora.router().gates(x, false), before)).isGreaterThan(1e-3);
        assertThat(smora.router().gates(x, false).ne(0).equal(before.ne(0))).isTrue();
        // where c chooses only, not even that
        Smora chooses = on(layer, Smora.Config.of(6, 2).withBias(false, false));
        fill(chooses, 5);
        set(c(chooses), c(smora));
        assertThat(gap(chooses.router().gates(x, false), before)).isLessThan(1e-14);
        // a bias below every score leaves a sum that can be divided by
        set(c(smora), Tensor.full(-2, DType.FLOAT64, 6));
        assertThat(smora.router().gates(x, false).isFinite().all()).isTrue();
    }

    // ---- two tasks

    private static Optimizer adam(Adapter adapter) {
        Map<String, Parameter> trained = new java.util.LinkedHashMap<>(adapter.parameters());
        trained.values().removeIf(p -> !p.isTrainable());
        return AdamW.Config.DEFAULT.create(List.of(new ParameterGroup("all", trained, 1, 0)));
    }

    /** y = x Wᵀ ± x Dᵀ for inputs around ±µ: what is learnt of it in 400 steps. */
    private record TwoTasks(Linear layer, Tensor d, Tensor mu) {

        static TwoTasks of(Generator g) {
            Linear layer = new Linear(16, 8, true, DType.FLOAT32);
            layer.weightParameter().tensor().copy_(g.randn(8, 16).mul(0.25));
            layer.biasParameter().tensor().zero_();
            return new TwoTasks(layer, g.randn(8, 2).matmul(g.randn(2, 16)).mul(0.5), g.randn(16));
        }

        Tensor inputs(Generator g, int rows, int sign) {
            return g.randn(rows, 16).add(mu, sign);
        }

        Tensor loss(Adapter adapter, Tensor x, int sign) {
            Tensor wanted = layer.compute(x).add(x.matmul(d.t()), sign);
            return forward(adapter, layer, x).sub(wanted).square().mean();
        }

        double learnt(Adapter adapter, long seed) {
            layer.train(true);
            try (Generator g = Generator.of(seed);
                    Optimizer optimizer = adam(adapter)) {
                for (int i = 0; i < 400; i++) {
                    try (Scope scope = Scope.open()) {
                        optimizer.zeroGrad();
                        loss(adapter, inputs(g, 32, 1), 1)
                                .add(loss(adapter, inputs(g, 32, -1), -1))
                                .mul(0.5)
                                .backward();
                        optimizer.step(1e-2);
                    }
                }
                try (Grad off = Grad.off()) {
                    return (loss(adapter, inputs(g, 500, 1), 1).item()
                                    + loss(adapter, inputs(g, 500, -1), -1).item())
                            / 2;
                }
            }
        }

        /** Σ min of the shares that the ranks have of each task's choices. */
        double overlap(Smora smora) {
            try (Grad off = Grad.off();
                    Generator g = Generator.of(99)) {
                List<Tensor> shares = new ArrayList<>();
                for (int sign : new int[] {1, -1}) {
                    Tensor chosen =
                            smora.router().gates(inputs(g, 500, sign), false).ne(0);
                    shares.add(chosen.to(DType.FLOAT32).mean(0, false).mul(0.5)); // two of eight
                }
                return shares.get(0).minimum(shares.get(1)).sum().item();
            }
        }
    }

    @Test
    @Card(value = "smora", checks = 9)
    void twoTasksFindRanksOfTheirOwn() {
        try (Generator g = Generator.of(1)) {
            TwoTasks tasks = TwoTasks.of(g);
            Site site = new Site("x", tasks.layer());
            Smora smora = new Smora(Smora.Config.of(8, 2).withAlpha(4), site, new Seed(1));
            balance(smora).beforeStep(null, 1);
            double ours = tasks.learnt(smora, 1);
            double few = tasks.learnt(new Lora(Lora.Config.of(2, 4), site, new Seed(1)), 1);
            double all = tasks.learnt(new Lora(Lora.Config.of(8, 16), site, new Seed(1)), 1);
            assertThat(ours).isLessThan(few / 4).isLessThan(all / 4);
            assertThat(tasks.overlap(smora)).isLessThanOrEqualTo(0.4);
        }
    }

    // ---- the authors' code

    /** Passes and steps of the authors' layer, whose u is a float32: {@code tools/golden/make_smora_fixtures.py}. */
    @Test
    @Card(
            value = "smora",
            checks = {5, 7})
    void passesAndStepsAreThoseOfTheAuthorsCode() {
        for (Map<String, Object> its : Golden.list(Golden.json("adapters/smora.json"), "cases")) {
            int r = (int) Golden.number(its, "r");
            int p = (int) Golden.number(its, "p");
            Linear layer = Gradients.layer();
            set(layer.weightParameter().tensor(), Golden.tensor(its, "W", 5, 4));
            set(layer.biasParameter().tensor(), Golden.tensor(its, "bias", 5));
            layer.train(true);
            Smora smora = on(
                    layer,
                    Smora.Config.of(r, (int) Golden.number(its, "k"))
                            .withBlock(p)
                            .withAlpha(Golden.number(its, "alpha"))
                            .withRate(Golden.number(its, "u")));
            set(a(smora), Golden.tensor(its, "A", r, 4));
            set(b(smora), Golden.tensor(its, "B", 5, r));
            set(router(smora), Golden.tensor(its, "R", r / p, 4));
            balance(smora).beforeStep(null, 1);
            Map<String, Parameter> moved = new java.util.LinkedHashMap<>(smora.parameters());
            moved.remove("balance_bias");
            Tensor wanted = Golden.tensor(its, "wanted", 2, 3, 5);
            try (Optimizer sgd = Sgd.Config.DEFAULT.create(List.of(new ParameterGroup("all", moved, 1, 0)))) {
                for (Map<String, Object> step : Golden.list(its, "steps")) {
                    sgd.zeroGrad();
                    Tensor x = Golden.tensor(its, "x", 2, 3, 4).requiresGrad_(true);
                    Tensor y = forward(smora, layer, x);
                    y.sub(wanted).square().mean().backward();
                    sgd.step(Golden.number(its, "rate"));
                    assertThat(gap(y, Golden.tensor(step, "y", 2, 3, 5))).isLessThan(1e-8);
                    assertThat(gap(x.grad(), Golden.tensor(step, "dx", 2, 3, 4)))
                            .isLessThan(1e-8);
                    assertThat(gap(a(smora), Golden.tensor(step, "A", r, 4))).isLessThan(1e-8);
                    assertThat(gap(b(smora), Golden.tensor(step, "B", 5, r))).isLessThan(1e-8);
                    assertThat(gap(router(smora), Golden.tensor(step, "R", r / p, 4)))
                            .isLessThan(1e-8);
                    Tensor c = Golden.tensor(step, "c", r / p, p).select(1, 0); // theirs has one a rank
                    assertThat(gap(c(smora), c)).isLessThan(1e-9);
                }
            }
        }
    }

    // ---- in a training

    private static Trainer.Builder training(Tiny net, AdaptedModel model, Smora.Config config, int steps) {
        Attached adapter = model.attach("default", spec(config), new Seed(1));
        return TinyTask.trainer(
                net,
                adapter,
                model,
                TrainConfig.builder().steps(steps).learningRate(0.01).build());
    }

    private static Tensor bias(AdaptedModel model) {
        return c(model.adapter("default").at("layers.0.fc")).detach().clone();
    }

    @Test
    @Card(value = "smora", checks = 7)
    void aTrainingMovesBiasesByTheRuleAlone() {
        Tiny net = new Tiny(DType.FLOAT64);
        AdaptedModel model = new AdaptedModel(net, net.heads());
        try (Trainer trainer =
                training(net, model, Smora.Config.of(6, 2).withRate(1e-4), 5).build()) {
            trainer.train();
        }
        double[] ruled = bias(model).doubles();
        for (double each : ruled) { // u times a whole number of steps
            assertThat(each / 1e-4 - Math.rint(each / 1e-4)).isBetween(-1e-6, 1e-6);
            assertThat(Math.abs(each)).isLessThan(6e-4);
        }
        assertThat(ruled).isNotEqualTo(new double[6]);
        run(net);
        assertThat(bias(model).doubles()).isEqualTo(ruled);
        model.remove("default");
        try (Trainer trainer = training(
                        net, model, Smora.Config.of(6, 2).withRate(1e-4).withBias(true, true), 5)
                .build()) {
            trainer.train();
        }
        assertThat(bias(model).abs().max().item()).isGreaterThan(5e-3); // Adam's own steps
    }

    @Test
    void aResumedTrainingGoesOnWithTheBiases(@TempDir Path folder) {
        List<Tensor> ends = new ArrayList<>();
        for (boolean cut : new boolean[] {false, true}) {
            Tiny net = new Tiny(DType.FLOAT64);
            AdaptedModel model = new AdaptedModel(net, net.heads());
            Smora.Config config = Smora.Config.of(6, 2).withRate(1e-3);
            if (!cut) {
                try (Trainer whole = training(net, model, config, 6).build()) {
                    whole.train();
                }
            } else {
                Trainer.Builder first = training(net, model, config, 6).out(folder.resolve("run"));
                List<Trainer> running = new ArrayList<>();
                first.callback(new dev.espalier.train.Callback() {
                    @Override
                    public void afterStep(dev.espalier.train.StepContext step) {
                        if (step.step() == 3) {
                            running.get(0).requestStop();
                        }
                    }
                });
                try (Trainer trainer = first.build()) {
                    running.add(trainer);
                    trainer.train();
                }
                model.remove("default");
                try (Trainer rest = training(net, model, config, 6)
                        .out(folder.resolve("run"))
                        .callback(new dev.espalier.train.Callback() {})
                        .resume(true)
                        .build()) {
                    rest.train();
                }
            }
            ends.add(bias(model));
        }
        assertThat(ends.get(0).equal(ends.get(1))).isTrue();
    }

    @Test
    void badInputIsRefusedWithAReason() {
        assertThatThrownBy(() -> Smora.Config.of(8, 9))
                .hasMessage("activate_r must lie in 1 to r = 8, the ranks there are, found 9; try 1");
        assertThatThrownBy(() -> Smora.Config.of(8, 0))
                .hasMessage("activate_r must lie in 1 to r = 8, the ranks there are, found 0; try 1");
        assertThatThrownBy(() -> Smora.Config.of(8, 4).withBlock(3))
                .hasMessage("rank_partition must divide r = 8 and activate_r = 4, found 3; try 1");
        assertThatThrownBy(() -> Smora.Config.of(8, 2).withBlock(4))
                .hasMessage("rank_partition must divide r = 8 and activate_r = 2, found 4; try 1");
        assertThatThrownBy(() -> Smora.Config.of(8, 2).withRate(Double.NaN))
                .hasMessage("bias_update_rate must be at least 0 and finite, found NaN; try 1e-5");
        Tiny net = new Tiny(DType.FLOAT32);
        assertThatThrownBy(() -> new AdaptedModel(net, net.heads())
                        .attach(
                                "a",
                                AdapterSpec.of(new Smora.Type(), Smora.Config.of(4, 2), Targets.of("embed_tokens")),
                                new Seed(1)))
                .hasMessageContaining("embed_tokens is an embedding")
                .hasMessageContaining("smora");
    }
}
