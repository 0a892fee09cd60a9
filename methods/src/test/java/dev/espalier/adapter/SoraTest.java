package dev.espalier.adapter;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import dev.espalier.io.Json;
import dev.espalier.nn.Linear;
import dev.espalier.nn.Parameter;
import dev.espalier.rank.GateAdam;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Generator;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import dev.espalier.train.AdamW;
import dev.espalier.train.Optimizer;
import dev.espalier.train.ParameterGroup;
import dev.espalier.train.TrainConfig;
import dev.espalier.train.Trainer;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class SoraTest extends AdapterContract {

    private static final Sora.Type TYPE = new Sora.Type();
    private static final Sora.Config SMALL =
            new Sora.Config(3, 6, 0, 3e-4, GateAdam.ThresholdMode.ABSOLUTE, false, 0, 1, Map.of());

    @Override
    protected AdapterSpec<?> spec() {
        return AdapterSpec.of(TYPE, SMALL, Targets.of("embed_tokens", "fc", "proj"));
    }

    @Override
    @Card(value = "sora", checks = 7)
    protected long parameters(long out, long in) {
        return 3 * (in + out) + 3;
    }

    private static GateAdam gates(double xi, GateAdam.ThresholdMode mode) {
        return new GateAdam(xi, mode, false, 1);
    }

    private static double soft(double v, double by) {
        return Math.signum(v) * Math.max(Math.abs(v) - by, 0);
    }

    @Test
    @Card(value = "sora", checks = 1)
    void thresholdMinimisesTheProximalObjective() {
        Random random = new Random(1);
        for (int i = 0; i < 50; i++) {
            double v = random.nextGaussian();
            double xi = random.nextDouble();
            double got = gates(xi, GateAdam.ThresholdMode.ABSOLUTE)
                    .threshold(Tensor.of(new double[] {v}, 1), xi)
                    .item();
            double best = 0;
            double least = Double.POSITIVE_INFINITY;
            for (double u = -4; u <= 4; u += 1e-3) {
                double value = (u - v) * (u - v) / 2 + xi * Math.abs(u);
                if (value < least) {
                    least = value;
                    best = u;
                }
            }
            assertThat(got).isCloseTo(best, within(1.1e-3));
        }
        Tensor between = Tensor.of(new double[] {0.15, -0.15, 0.1, 0.2, 0.05}, 5);
        assertThat(gates(0.1, GateAdam.ThresholdMode.ABSOLUTE)
                        .threshold(between, 0.1)
                        .doubles())
                .containsExactly(0.15 - 0.1, -0.15 + 0.1, 0, 0.1, 0);
    }

    /** The authors' three passes, from their code as the card tells it: below 2 ξ all is zero, |g| = ξ alone stays. */
    @Test
    void releasedThresholdHasADeadZoneTwiceAsWide() {
        GateAdam released = new GateAdam(0.25, GateAdam.ThresholdMode.ABSOLUTE, true, 1);
        Tensor values = Tensor.of(new double[] {0.49, -0.49, 0.25, -0.25, 0.5, -0.5, 1, 0.1}, 8);
        assertThat(released.threshold(values, 0.25).doubles()).containsExactly(0, 0, 0.25, -0.25, 0.25, -0.25, 0.75, 0);
    }

    @Test
    @Card(value = "sora", checks = 2)
    void proximalDescentConvergesToTheLasso() {
        double[] v = {1.5, -0.7, 0.2, -0.05, 0};
        double lambda = 0.3;
        for (double eta : new double[] {0.05, 0.5, 1, 1.5, 1.9}) {
            double[] timesRate = descend(v, eta, eta * lambda);
            double[] absolute = descend(v, eta, 0.2);
            for (int i = 0; i < v.length; i++) {
                assertThat(timesRate[i]).isCloseTo(soft(v[i], lambda), within(1e-14));
                assertThat(absolute[i]).isCloseTo(soft(v[i], 0.2 / eta), within(1e-14));
            }
        }
    }

    private static double[] descend(double[] target, double eta, double by) {
        try (Scope scope = Scope.open()) {
            Tensor v = Tensor.of(target, target.length);
            Tensor g = v.zerosLike();
            for (int i = 0; i < 1000; i++) {
                g = gates(by, GateAdam.ThresholdMode.ABSOLUTE)
                        .threshold(g.sub(g.sub(v).mul(eta)), by);
            }
            return g.doubles();
        }
    }

    /** The formula in Java's doubles, and at ξ = 0 bit for bit the same without the threshold. */
    @Test
    @Card(value = "sora", checks = 3)
    void gateAdamFollowsItsFormula() {
        for (GateAdam.ThresholdMode mode : GateAdam.ThresholdMode.values()) {
            for (double xi : new double[] {0, 0.02}) {
                double by = mode == GateAdam.ThresholdMode.TIMES_LR ? xi * 0.1 : xi;
                double[] g = {0.5, -0.3, 0.01};
                double[] m = new double[3];
                double[] v = new double[3];
                Parameter p = new Parameter(Tensor.of(g, 3));
                p.trainable(true);
                try (Optimizer optimizer =
                        gates(xi, mode).create(List.of(new ParameterGroup("gate", Map.of("gate", p), 1, 0)))) {
                    for (int t = 1; t <= 6; t++) {
                        double[] gradient = {0.3 * t, -0.2, 1e-5 * t};
                        p.tensor().mul(Tensor.of(gradient, 3)).sum().backward();
                        optimizer.step(0.1);
                        optimizer.zeroGrad();
                        for (int i = 0; i < 3; i++) {
                            m[i] = 0.9 * m[i] + 0.1 * gradient[i];
                            v[i] = 0.999 * v[i] + 0.001 * gradient[i] * gradient[i];
                            double eta = 0.1 * Math.sqrt(1 - Math.pow(0.999, t)) / (1 - Math.pow(0.9, t));
                            g[i] = g[i] - eta * m[i] / (Math.sqrt(v[i]) + 1e-6);
                            g[i] = by == 0 ? g[i] : soft(g[i], by);
                            assertThat(p.tensor().doubles()[i]).isCloseTo(g[i], within(1e-13));
                        }
                    }
                    assertThat(optimizer.stateBytes()).isEqualTo(2 * 3 * 8);
                }
            }
        }
        Tensor some = Tensor.of(new float[] {1.5f, -1e-30f, 0.3f}, 3);
        assertThat(gates(0, GateAdam.ThresholdMode.ABSOLUTE).threshold(some, 0).equal(some))
                .isTrue();
    }

    @Test
    @Card(value = "sora", checks = 3)
    void gatesOfOneAreLora() {
        Tiny net = new Tiny(DType.FLOAT32);
        AdaptedModel model = new AdaptedModel(net, net.heads());
        Attached sora = model.attach("sora", AdapterSpec.of(TYPE, SMALL, Targets.of("fc", "proj")), new Seed(1));
        move(sora, 0.3);
        sora.parameters().forEach((key, p) -> {
            if (key.endsWith(".gate")) {
                p.tensor().detach().fill_(1);
            }
        });
        Tensor gated = run(net);
        Attached lora = model.attach(
                "lora", AdapterSpec.of(new Lora.Type(), Lora.Config.of(3, 6), Targets.of("fc", "proj")), new Seed(1));
        lora.parameters()
                .forEach((key, p) ->
                        p.tensor().detach().copy_(sora.parameters().get(key).tensor()));
        assertThat(gap(run(net), gated)).isLessThan(1e-6 * gated.abs().max().item());
    }

    @Test
    @Card(value = "sora", checks = 4)
    void aFreshOneChangesNotOneBit() {
        Tiny net = new Tiny(DType.FLOAT32);
        Tensor before = run(net);
        new AdaptedModel(net, net.heads())
                .attach("default", AdapterSpec.of(TYPE, SMALL, Targets.of("fc", "proj")), new Seed(1));
        assertThat(run(net).equal(before)).isTrue();
    }

    /** Trained with the real trainer: exact zeros, pruned on saving, and what is left computes the same. */
    @Test
    @Card(
            value = "sora",
            checks = {4, 5, 7})
    void trainingShutsGatesAndSavingCutsThemOut(@TempDir Path folder) {
        Tiny net = new Tiny(DType.FLOAT32);
        AdaptedModel model = new AdaptedModel(net, net.heads());
        Sora.Config config = new Sora.Config(4, 8, 0, 0.02, GateAdam.ThresholdMode.ABSOLUTE, false, 0.1, 1, Map.of());
        Attached adapter = model.attach("default", AdapterSpec.of(TYPE, config, Targets.of("fc", "proj")), new Seed(1));
        TrainConfig train = TrainConfig.builder()
                .steps(40)
                .batchSize(8)
                .learningRate(0.02)
                .optimizer(new AdamW.Config(0.9, 0.999, 1e-8, 0.1))
                .build();
        long trained = trained(model);
        try (Trainer trainer = TinyTask.trainer(net, adapter, model, train)
                .out(folder.resolve("run"))
                .build()) {
            assertThat(trainer.memory().optimizerBytes()).isEqualTo(2 * 4 * trained); // once, gates included
            trainer.train();
        }
        Map<String, Integer> left = new LinkedHashMap<>();
        adapter.sites().forEach(site -> {
            double[] gate = adapter.parameters()
                    .get(Attached.PREFIX + site.path() + ".gate")
                    .tensor()
                    .doubles();
            left.put(site.path(), (int)
                    java.util.Arrays.stream(gate).filter(g -> g != 0).count());
        });
        assertThat(left.values().stream().mapToInt(i -> i).sum()).isBetween(1, 15);
        Tensor trainedOutput = run(net);

        PeftFolder.save(
                model,
                "default",
                folder.resolve("own"),
                PeftFolder.Info.of("tiny", null),
                PeftFolder.Form.PLAIN,
                Map.of());
        List<PeftFolder.Exported> report = PeftFolder.exportLora(
                model, "default", folder.resolve("lora"), PeftFolder.Info.of("tiny", null), 0, Map.of());
        report.forEach(layer -> {
            assertThat(layer.relativeError()).isZero();
            assertThat(layer.rank()).isEqualTo((long) left.get(layer.path()));
        });
        model.remove("default");
        for (String form : List.of("own", "lora")) {
            PeftFolder.load(model, folder.resolve(form), null, false);
            assertThat(gap(run(net), trainedOutput)).isLessThan(1e-5);
            model.merge();
            assertThat(gap(run(net), trainedOutput)).isLessThan(1e-5);
            model.unmerge();
            model.remove("default");
        }
        assertThat(Json.text(
                        Json.read(folder.resolve("lora/adapter_config.json")).get("peft_type")))
                .contains("LORA");
    }

    private static long trained(AdaptedModel model) {
        return model.trainableParameters().values().stream()
                .mapToLong(p -> p.tensor().numel())
                .sum();
    }

    @Test
    @Card(value = "sora", checks = 5)
    void prunedEqualsGatedInFloat64WithRanksThatDiffer(@TempDir Path folder) {
        Tiny net = new Tiny(DType.FLOAT64);
        AdaptedModel model = new AdaptedModel(net, net.heads());
        Attached adapter = model.attach("default", spec(), new Seed(1));
        Tensor plain = run(net);
        move(adapter, 0.3);
        shut(adapter, "embed_tokens", 1);
        shut(adapter, "layers.0.fc", 0, 2);
        shut(adapter, "layers.1.proj", 0, 1, 2); // no rank left
        Tensor gated = run(net);
        assertThat(gap(gated, plain)).isGreaterThan(1e-3);
        model.merge();
        assertThat(gap(run(net), gated)).isLessThan(1e-12);
        model.unmerge();
        PeftFolder.exportLora(model, "default", folder.resolve("lora"), PeftFolder.Info.of("tiny", null), 0, Map.of());
        PeftFolder.save(
                model,
                "default",
                folder.resolve("own"),
                PeftFolder.Info.of("tiny", null),
                PeftFolder.Form.PLAIN,
                Map.of());
        model.remove("default");

        Attached own = PeftFolder.load(model, folder.resolve("own"), null, true);
        assertThat(gap(run(net), gated)).isLessThan(1e-12);
        assertThat(own.at("layers.1.proj")).isNull();
        assertThat(own.parameters().get(Attached.PREFIX + "layers.0.fc.gate").shape())
                .containsExactly(1);
        assertThat(own.changeNorm()).isPositive();
        model.remove("default");

        Map<String, Object> json = Json.read(folder.resolve("lora/adapter_config.json"));
        assertThat(json.get("target_modules"))
                .isEqualTo(List.of("embed_tokens", "layers.0.fc", "layers.0.proj", "layers.1.fc"));
        Attached lora = PeftFolder.load(model, folder.resolve("lora"), null, true);
        assertThat(gap(run(net), gated)).isLessThan(1e-12);
        assertThat(((Lora) lora.at("layers.0.fc")).scale()).isEqualTo(2); // 6 / 3, whatever is left
        assertThat(((Lora) lora.at("layers.0.fc")).a().shape()).containsExactly(1, 8);
    }

    private static void shut(Attached adapter, String path, int... ranks) {
        Tensor gate = adapter.parameters()
                .get(Attached.PREFIX + path + ".gate")
                .tensor()
                .detach();
        for (int rank : ranks) {
            gate.narrow(0, rank, 1).fill_(0);
        }
    }

    @Test
    void nothingLeftCannotBeExported(@TempDir Path folder) {
        Tiny net = new Tiny(DType.FLOAT32);
        AdaptedModel model = new AdaptedModel(net, net.heads());
        Attached adapter = model.attach("default", AdapterSpec.of(TYPE, SMALL, Targets.of("fc")), new Seed(1));
        shut(adapter, "layers.0.fc", 0, 1, 2);
        shut(adapter, "layers.1.fc", 0, 1, 2);
        assertThatThrownBy(() -> PeftFolder.exportLora(model, "default", folder, null, 0, Map.of()))
                .hasMessage(
                        "no rank is left in any layer of default, so there is nothing to export; train with less pressure on the ranks");
    }

    @Test
    @Card(value = "sora", checks = 6)
    void aShutGateStillHasItsGradient() {
        Linear layer = Gradients.layer();
        Sora sora = sora(layer, 3, 1.5);
        Tensor gate = sora.parameters().get("gate").tensor();
        gate.detach().narrow(0, 1, 1).fill_(0);
        try (Generator g = Generator.of(2)) {
            Tensor x = g.randn(7, 4).to(DType.FLOAT64);
            Tensor weight = g.randn(7, 5).to(DType.FLOAT64); // dY
            sora.forward(x, new Base.Ground(layer)).mul(weight).sum().backward();
            Tensor a = sora.parameters().get("lora_A.weight").tensor();
            Tensor b = sora.parameters().get("lora_B.weight").tensor();
            assertThat(a.grad().select(0, 1).ne(0).any()).isFalse();
            assertThat(b.grad().select(1, 1).ne(0).any()).isFalse();
            assertThat(a.grad().select(0, 0).ne(0).all()).isTrue();
            Tensor expected =
                    x.matmul(a.t()).mul(weight.matmul(b)).sum(0, false).mul(0.5); // s = 1.5 / 3
            assertThat(gap(gate.grad(), expected)).isLessThan(1e-10);
        }
    }

    private static Sora sora(Linear layer, int r, double alpha) {
        Sora.Config config = new Sora.Config(r, alpha, 0, 0, GateAdam.ThresholdMode.ABSOLUTE, false, 0, 1, Map.of());
        Sora sora = (Sora) TYPE.create(config, List.of(new Site("x", layer)), new Seed(0))
                .adapters()
                .get("x");
        try (Generator g = Generator.of(3);
                Grad off = Grad.off()) {
            Tensor b = sora.parameters().get("lora_B.weight").tensor();
            b.copy_(g.randn(b.shape()));
        }
        return sora;
    }

    @Test
    void gradientsEqualFiniteDifferences() {
        Gradients.check(layer -> sora(layer, 2, 3));
    }

    /** Two linear layers of one teacher, whose changes have ranks 1 and 3, among eight gates each. */
    @Test
    @Card(value = "sora", checks = 8)
    void moreThresholdLeavesFewerRanks() {
        List<int[]> ranks = new ArrayList<>();
        List<Double> losses = new ArrayList<>();
        for (double xi : new double[] {0, 3e-3, 0.012, 0.2}) {
            int[] left = new int[2];
            losses.add(fit(xi, left));
            ranks.add(left);
        }
        assertThat(ranks.get(0)).containsExactly(8, 8);
        for (int i = 1; i < 4; i++) {
            assertThat(ranks.get(i)[0] + ranks.get(i)[1])
                    .isLessThanOrEqualTo(ranks.get(i - 1)[0] + ranks.get(i - 1)[1]);
        }
        int[] middle = ranks.get(2);
        assertThat(middle[0] + middle[1]).isLessThan(12);
        assertThat(middle[0]).isLessThan(middle[1]); // where less is needed less is left
        assertThat(losses.get(2)).isLessThan(0.1); // of the untrained loss
        assertThat(losses.get(3)).isGreaterThan(5 * losses.get(2));
    }

    /** The loss relative to no adapter at all. */
    private static double fit(double xi, int[] left) {
        try (Scope scope = Scope.open();
                Generator g = Generator.of(4)) {
            double loss = 0;
            List<Sora> layers = new ArrayList<>();
            List<Tensor> changes = new ArrayList<>();
            Map<String, Parameter> factors = new LinkedHashMap<>();
            Map<String, Parameter> gates = new LinkedHashMap<>();
            for (int i = 0; i < 2; i++) {
                Linear layer = new Linear(12, 12, false, DType.FLOAT32);
                layer.weightParameter().tensor().fill_(0);
                Sora.Config config = SMALL.withXi(xi);
                Sora sora = (Sora) TYPE.create(
                                new Sora.Config(8, 16, 0, xi, config.thresholdMode(), false, 0, 1, Map.of()),
                                List.of(new Site("l" + i, layer)),
                                new Seed(i))
                        .adapters()
                        .get("l" + i);
                String name = "l" + i + ".";
                sora.parameters().forEach((leaf, p) -> (leaf.equals("gate") ? gates : factors).put(name + leaf, p));
                layers.add(sora);
                int rank = i == 0 ? 1 : 3;
                changes.add(g.randn(12, rank).matmul(g.randn(rank, 12)).mul(1 / Math.sqrt(rank)));
            }
            Linear zero = new Linear(12, 12, false, DType.FLOAT32);
            zero.weightParameter().tensor().fill_(0);
            try (Optimizer main = AdamW.Config.DEFAULT.create(List.of(new ParameterGroup("main", factors, 1, 0)));
                    Optimizer gate = gates(xi, GateAdam.ThresholdMode.ABSOLUTE)
                            .create(List.of(new ParameterGroup("gate", gates, 1, 0)))) {
                int steps = 600;
                for (int t = 0; t < steps; t++) {
                    try (Scope step = Scope.open()) {
                        double rate = 0.02;
                        Tensor total = Tensor.scalar(0, DType.FLOAT32);
                        Tensor of = Tensor.scalar(0, DType.FLOAT32);
                        for (int i = 0; i < 2; i++) {
                            Tensor x = g.randn(32, 12);
                            Tensor wanted = x.matmul(changes.get(i).t());
                            Tensor y = layers.get(i).forward(x, new Base.Ground(zero));
                            total = total.add(y.sub(wanted).square().mean());
                            of = of.add(wanted.square().mean());
                        }
                        total.backward();
                        main.step(rate);
                        gate.step(rate);
                        main.zeroGrad();
                        gate.zeroGrad();
                        loss = total.item() / of.item();
                    }
                }
            }
            for (int i = 0; i < 2; i++) {
                left[i] = (int) layers.get(i).toLora().rank();
            }
            return loss;
        }
    }

    @Test
    void badSettingsAreRefusedWithAReason() {
        assertThatThrownBy(() -> SMALL.withXi(-1)).hasMessage("xi must be at least 0 and finite, found -1.0; try 3e-4");
        assertThatThrownBy(() -> SMALL.withXi(Double.NaN))
                .hasMessage("xi must be at least 0 and finite, found NaN; try 3e-4");
        assertThatThrownBy(() -> new Sora.Config(3, 6, 0, 0, GateAdam.ThresholdMode.ABSOLUTE, false, -1, 1, Map.of()))
                .hasMessage("l1_loss_coef must be at least 0 and finite, found -1.0; try 0");
        assertThatThrownBy(() -> new Sora.Config(3, 6, 0, 0, GateAdam.ThresholdMode.ABSOLUTE, false, 0, 0, Map.of()))
                .hasMessage("gate_rate must be above 0 and finite, found 0.0; try 1");
        assertThatThrownBy(() ->
                        new Sora.Config(3, 6, 0, 0, GateAdam.ThresholdMode.ABSOLUTE, false, 0, 1, Map.of("fc", 4)))
                .hasMessage("rank_pattern: the rank left for fc must lie in 0 to r = 3, found 4");
        Tiny net = new Tiny(DType.FLOAT32);
        assertThatThrownBy(() -> new AdaptedModel(net, net.heads())
                        .attach(
                                "default",
                                AdapterSpec.of(
                                        TYPE,
                                        new Sora.Config(
                                                9, 16, 0, 0, GateAdam.ThresholdMode.ABSOLUTE, false, 0, 1, Map.of()),
                                        Targets.of("fc")),
                                new Seed(0)))
                .hasMessageStartingWith("r is 9, above the width 8 of layers.0.fc [10, 8]");
    }
}
