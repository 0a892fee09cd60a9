package dev.espalier.optim;

import static dev.espalier.optim.Steps.gap;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import dev.espalier.EspalierException;
import dev.espalier.adapter.AdaptedModel;
import dev.espalier.adapter.AdapterSpec;
import dev.espalier.adapter.AdapterType;
import dev.espalier.adapter.Card;
import dev.espalier.adapter.Full;
import dev.espalier.adapter.Lora;
import dev.espalier.adapter.Setting;
import dev.espalier.adapter.Targets;
import dev.espalier.adapter.Tiny;
import dev.espalier.adapter.TinyTask;
import dev.espalier.optim.LoraPro.Gauge;
import dev.espalier.optim.LoraPro.Mode;
import dev.espalier.optim.LoraPro.Pair;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Generator;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.SymmetricEigen;
import dev.espalier.tensor.Tensor;
import dev.espalier.train.AdamW;
import dev.espalier.train.Optimizer;
import dev.espalier.train.ParameterGroup;
import dev.espalier.train.Sgd;
import dev.espalier.train.TrainConfig;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

/** B [5, 2], A [2, 4] and s = 2 where nothing else is said. */
class LoraProTest {

    private static final double S = 2;

    private Scope scope;
    private Generator generator;
    private Tensor a;
    private Tensor b;
    private Tensor g;

    @BeforeEach
    void open() {
        scope = Scope.open();
        generator = Generator.of(8);
        a = noise(2, 4);
        b = noise(5, 2);
        g = noise(5, 4);
    }

    @AfterEach
    void close() {
        generator.close();
        scope.close();
    }

    private Tensor noise(long... shape) {
        return generator.randn(shape).to(DType.FLOAT64);
    }

    private static Adjustment.Gradients adjusted(Tensor a, Tensor b, Tensor g, Gauge gauge) {
        Adjustment pair = Adjustment.of(a, b, S, 0);
        return pair.gradients(pair.ofA(g), pair.ofB(g), gauge);
    }

    private static Tensor effect(Tensor a, Tensor b, Tensor g, Gauge gauge) {
        return Adjustment.of(a, b, S, 0).effect(adjusted(a, b, g, gauge));
    }

    private static LoraPro.Bound bound(Mode mode, double delta) {
        return new LoraPro.Bound(
                new LoraPro.Config(mode, Gauge.SYLVESTER, delta, AdamW.Config.DEFAULT), Map.of("A", new Pair("B", S)));
    }

    /** Orthogonal projector on the columns of a matrix. */
    private static Tensor projector(Tensor m) {
        return m.matmul(SymmetricEigen.of(m.t().matmul(m)).inverse(0)).matmul(m.t());
    }

    private static double dot(Tensor x, Tensor y) {
        return x.mul(y).sum().item();
    }

    /** Five steps of the authors' code, their count of steps put right. */
    @Test
    void stepsAreThoseOfTheAuthorsCode() {
        Steps.followsTheAuthors("lora-pro", bound(Mode.FULL, 1e-8), 0.05, 0, 1e-10);
    }

    @Test
    @Card(
            value = "lora-pro",
            checks = {1})
    void theEffectIsTheNearestThatTwoFactorsCanHave() {
        Tensor found = effect(a, b, g, Gauge.SYLVESTER);
        Tensor onB = projector(b);
        Tensor onA = projector(a.t());
        Tensor rest = Tensor.eye(5, DType.FLOAT64).sub(onB);
        assertThat(gap(found, onB.matmul(g).add(rest.matmul(g).matmul(onA)))).isLessThan(1e-10);
        // By brute force: G projected on all s (B dA + dB A), spanned by single elements of dA and dB.
        List<Tensor> directions = new java.util.ArrayList<>();
        for (int i = 0; i < 2; i++) {
            for (int j = 0; j < 4; j++) {
                directions.add(b.matmul(unit(2, 4, i, j)).mul(S).reshape(-1));
            }
            for (int j = 0; j < 5; j++) {
                directions.add(unit(5, 2, j, i).matmul(a).mul(S).reshape(-1));
            }
        }
        List<Tensor> svd = Tensor.stack(directions, 1).svd(); // [20, 18] of rank 2 (4 + 5) - 4
        Tensor range = svd.get(0).narrow(1, 0, 14);
        assertThat(svd.get(1).doubles()[14]).isLessThan(1e-12);
        Tensor nearest = range.matmul(range.t().matmul(g.reshape(-1, 1))).reshape(5, 4);
        assertThat(gap(found, nearest)).isLessThan(1e-10);
    }

    private static Tensor unit(int rows, int columns, int i, int j) {
        double[] values = new double[rows * columns];
        values[i * columns + j] = 1;
        return Tensor.of(values, rows, columns);
    }

    @Test
    @Card(
            value = "lora-pro",
            checks = {2})
    void theEffectDoesNotDependOnTheGauge() {
        Tensor zero = effect(a, b, g, Gauge.ZERO);
        assertThat(gap(effect(a, b, g, Gauge.SYMMETRIC), zero)).isLessThan(1e-10);
        assertThat(gap(effect(a, b, g, Gauge.SYLVESTER), zero)).isLessThan(1e-10);
        Adjustment.Gradients h = adjusted(a, b, g, Gauge.ZERO);
        Tensor x = noise(2, 2);
        Tensor other = Adjustment.of(a, b, S, 0)
                .effect(new Adjustment.Gradients(h.a().add(x.matmul(a)), h.b().sub(b.matmul(x))));
        assertThat(gap(other, zero)).isLessThan(1e-10);
    }

    @Test
    @Card(
            value = "lora-pro",
            checks = {3})
    void sylvestersGaugeStaysNearestToTheOrdinaryGradients() {
        Adjustment pair = Adjustment.of(a, b, S, 0);
        double best = distance(pair, adjusted(a, b, g, Gauge.SYLVESTER));
        assertThat(best).isLessThan(distance(pair, adjusted(a, b, g, Gauge.ZERO)));
        assertThat(best).isLessThan(distance(pair, adjusted(a, b, g, Gauge.SYMMETRIC)));
        Adjustment.Gradients h = adjusted(a, b, g, Gauge.SYLVESTER);
        for (int i = 0; i < 20; i++) {
            Tensor x = noise(2, 2).mul(Math.pow(10, -i % 4));
            assertThat(distance(pair, new Adjustment.Gradients(h.a().add(x.matmul(a)), h.b().sub(b.matmul(x)))))
                    .isGreaterThan(best);
        }
        SymmetricEigen left = SymmetricEigen.of(b.t().matmul(b));
        SymmetricEigen right = SymmetricEigen.of(a.matmul(a.t()));
        Tensor c = noise(2, 2);
        Tensor x = left.sylvester(right, c);
        assertThat(gap(b.t().matmul(b).matmul(x).add(x.matmul(a).matmul(a.t())), c))
                .isLessThan(1e-10);
    }

    private double distance(Adjustment pair, Adjustment.Gradients h) {
        return h.a().sub(pair.ofA(g)).square().sum().item()
                + h.b().sub(pair.ofB(g)).square().sum().item();
    }

    @Test
    @Card(
            value = "lora-pro",
            checks = {4})
    void aStepGoesDownhillAndNoMultipleOfPlainLoraIsNearer() {
        Adjustment pair = Adjustment.of(a, b, S, 0);
        Tensor effect = effect(a, b, g, Gauge.SYLVESTER);
        Adjustment.Gradients h = adjusted(a, b, g, Gauge.SYLVESTER);
        double square = effect.square().sum().item();
        assertThat(dot(pair.ofA(g), h.a()) + dot(pair.ofB(g), h.b())).isCloseTo(square, within(1e-10 * square));
        Tensor plain = pair.effect(new Adjustment.Gradients(pair.ofA(g), pair.ofB(g)));
        double c = dot(plain, g) / dot(plain, plain); // the best multiple there is
        assertThat(g.sub(effect).norm().item())
                .isLessThan(g.sub(plain.mul(c)).norm().item());
    }

    @Test
    @Card(
            value = "lora-pro",
            checks = {5})
    void atFullRankItIsFullFineTuningToFirstOrder() {
        Tensor fullA = noise(3, 5);
        Tensor fullB = noise(3, 3);
        Tensor full = noise(3, 5);
        assertThat(gap(effect(fullA, fullB, full, Gauge.SYLVESTER), full)).isLessThan(1e-10);
        Adjustment.Gradients h = adjusted(fullA, fullB, full, Gauge.SYLVESTER);
        Steps steps = step(fullA, fullB, full, 0.01);
        Tensor change = steps.value("B")
                .matmul(steps.value("A"))
                .sub(fullB.matmul(fullA))
                .mul(S);
        Tensor expected = full.mul(-0.01).add(h.b().matmul(h.a()).mul(0.01 * 0.01 * S));
        assertThat(gap(change, expected)).isLessThan(1e-10);
    }

    /** One step in the SGD form. */
    private static Steps step(Tensor a, Tensor b, Tensor g, double rate) {
        Steps steps = new Steps().with("A", a).with("B", b);
        try (Optimizer optimizer = bound(Mode.SGD, 0).create(steps.groups(0))) {
            steps.gradient("A", b.t().matmul(g).mul(S));
            steps.gradient("B", g.matmul(a.t()).mul(S));
            optimizer.step(rate);
        }
        return steps;
    }

    @Test
    @Card(
            value = "lora-pro",
            checks = {6})
    void whileBIsZeroAStays() {
        Tensor none = Tensor.zeros(DType.FLOAT64, 5, 2);
        Steps steps = step(a, none, g, 0.1);
        assertThat(steps.value("A").equal(a)).isTrue();
        Tensor change = steps.value("B").matmul(steps.value("A")).mul(S);
        assertThat(gap(change, g.matmul(projector(a.t())).mul(-0.1))).isLessThan(1e-12);
    }

    @Test
    @Card(
            value = "lora-pro",
            checks = {7})
    void theEffectDependsOnTheProductAlone() {
        Tensor m = noise(2, 2);
        Tensor inverse = SymmetricEigen.of(m.t().matmul(m)).inverse(0).matmul(m.t());
        Tensor otherA = inverse.matmul(a);
        Tensor otherB = b.matmul(m);
        assertThat(gap(effect(otherA, otherB, g, Gauge.SYLVESTER), effect(a, b, g, Gauge.SYLVESTER)))
                .isLessThan(1e-10);
        Adjustment one = Adjustment.of(a, b, S, 0);
        Adjustment other = Adjustment.of(otherA, otherB, S, 0);
        assertThat(gap(
                        other.effect(new Adjustment.Gradients(other.ofA(g), other.ofB(g))),
                        one.effect(new Adjustment.Gradients(one.ofA(g), one.ofB(g)))))
                .isGreaterThan(0.1);
    }

    @Test
    @Card(
            value = "lora-pro",
            checks = {8})
    void stateIsThatOfTheMode() {
        Steps steps = new Steps()
                .noise("A", DType.FLOAT32, generator, 2, 4)
                .noise("B", DType.FLOAT32, generator, 5, 2)
                .noise("bias", DType.FLOAT32, generator, 7);
        long beside = 2 * 7 * 4;
        assertThat(bound(Mode.FULL, 0).stateBytes(steps.groups(0))).isEqualTo(beside + 2 * 5 * 4 * 4);
        assertThat(bound(Mode.EFFICIENT, 0).stateBytes(steps.groups(0))).isEqualTo(beside + 2 * 2 * (4 + 5) * 4);
        assertThat(bound(Mode.SGD, 0).stateBytes(steps.groups(0))).isEqualTo(beside);
        for (Mode mode : Mode.values()) {
            Steps.declaresItsStateAndResumes(steps, bound(mode, 1e-8));
        }
    }

    /** The setting of the card, seeds aside; plain LoRA's step is inflated by s². */
    @Test
    @Card(
            value = "lora-pro",
            checks = {9})
    void descentTracksFullFineTuning() {
        Tensor x = noise(256, 16);
        Tensor w0 = noise(20, 16).mul(0.25);
        Tensor target = w0.add(noise(20, 4).matmul(noise(4, 16)).mul(0.25));
        Tensor startA = generator.uniform(-0.25, 0.25, 4, 16).to(DType.FLOAT64);
        Steps pro = new Steps().with("A", startA).with("B", Tensor.zeros(DType.FLOAT64, 20, 4));
        Steps plain = pro.copy();
        Tensor full = w0.clone();
        try (Optimizer ours = bound(Mode.SGD, 1e-8).create(pro.groups(0));
                Optimizer sgd = Sgd.Config.DEFAULT.create(plain.groups(0))) {
            for (int step = 1; step <= 40; step++) {
                full = full.sub(gradient(x, full, target).mul(0.5));
                descend(pro, ours, x, w0, target);
                descend(plain, sgd, x, w0, target);
                double wanted = loss(x, full, target);
                if (step >= 2) {
                    assertThat(loss(x, whole(pro, w0), target))
                            .as("step %d", step)
                            .isCloseTo(wanted, within(0.05 * wanted));
                }
                if (step >= 10) {
                    assertThat(Math.abs(loss(x, whole(plain, w0), target) - wanted))
                            .as("plain, step %d", step)
                            .isGreaterThan(0.5 * wanted);
                }
            }
        }
    }

    private static void descend(Steps steps, Optimizer optimizer, Tensor x, Tensor w0, Tensor target) {
        Tensor g = gradient(x, whole(steps, w0), target);
        Tensor a = steps.value("A").clone();
        Tensor b = steps.value("B").clone();
        steps.gradient("A", b.t().matmul(g).mul(S));
        steps.gradient("B", g.matmul(a.t()).mul(S));
        optimizer.step(0.5);
    }

    private static Tensor whole(Steps steps, Tensor w0) {
        return w0.add(steps.value("B").matmul(steps.value("A")), S);
    }

    private static Tensor gradient(Tensor x, Tensor w, Tensor target) {
        Tensor error = x.matmul(w.sub(target).t()); // [256, 20]
        return error.t().matmul(x).mul(2.0 / error.numel());
    }

    private static double loss(Tensor x, Tensor w, Tensor target) {
        return x.matmul(w.sub(target).t()).square().mean().item();
    }

    @Test
    void aWarmStartTakesTheGeneralBranchAtItsFirstStep() {
        Steps steps = new Steps().with("A", a).with("B", b);
        try (Optimizer optimizer = bound(Mode.FULL, 0).create(steps.groups(0))) {
            steps.gradient("A", b.t().matmul(g).mul(S));
            steps.gradient("B", g.matmul(a.t()).mul(S));
            optimizer.step(0.1);
        }
        // Adam's first direction is the sign of Geq, up to ε
        Tensor effect = effect(a, b, g, Gauge.ZERO);
        Tensor sign = effect.div(effect.abs().add(1e-8));
        Adjustment.Gradients h = adjusted(a, b, sign, Gauge.SYLVESTER);
        assertThat(gap(steps.value("A"), a.sub(h.a().mul(0.1)))).isLessThan(1e-10);
        assertThat(gap(steps.value("B"), b.sub(h.b().mul(0.1)))).isLessThan(1e-10);
    }

    @Test
    void itFindsPairsWithTheirTrueScale() {
        LoraPro.Bound bound = bound(new Lora.Type(), Lora.Config.of(4, 6).withRslora(true), Targets.of("fc", "proj"));
        assertThat(bound.pairs()).hasSize(4);
        bound.pairs().forEach((nameOfA, pair) -> {
            assertThat(nameOfA).endsWith(".lora_A.weight");
            assertThat(pair.b()).isEqualTo(nameOfA.replace("lora_A", "lora_B"));
            assertThat(pair.scale()).isEqualTo(6 / Math.sqrt(4));
        });
        assertThat(bound.toString())
                .isEqualTo(bound(new Lora.Type(), Lora.Config.of(4, 6).withRslora(true), Targets.of("fc", "proj"))
                        .toString())
                .doesNotContain("@");
    }

    private static <C> LoraPro.Bound bound(AdapterType<C> type, C config, Targets targets) {
        Tiny net = new Tiny(DType.FLOAT32);
        AdaptedModel model = new AdaptedModel(net, net.heads());
        Setting setting = new Setting(
                model,
                model.attach("default", AdapterSpec.of(type, config, targets), new Seed(1)),
                new TinyTask(net),
                TrainConfig.DEFAULT,
                new Seed(0));
        return (LoraPro.Bound) new LoraPro().create(LoraPro.Config.DEFAULT, setting);
    }

    @Test
    void factorsMayHaveRatesOfTheirOwn() {
        Steps steps = new Steps().with("A", a).with("B", b);
        List<ParameterGroup> groups = List.of(
                new ParameterGroup("A", Map.of("A", steps.parameters.get("A")), 0, 0),
                new ParameterGroup("B", Map.of("B", steps.parameters.get("B")), 3, 0));
        try (Optimizer optimizer = bound(Mode.SGD, 0).create(groups)) {
            steps.gradient("A", b.t().matmul(g).mul(S));
            steps.gradient("B", g.matmul(a.t()).mul(S));
            optimizer.step(0.1);
        }
        assertThat(steps.value("A").equal(a)).isTrue();
        Tensor h = adjusted(a, b, g, Gauge.SYLVESTER).b();
        assertThat(gap(steps.value("B"), b.sub(h.mul(0.3)))).isLessThan(1e-12);
    }

    @Test
    void adaptersWithoutFactorsAreRefused() {
        assertThatThrownBy(() -> bound(new Full(), Full.Config.DEFAULT, Targets.NONE))
                .isInstanceOf(EspalierException.class)
                .hasMessage(
                        "lora-pro adjusts gradients of the factors A and B, and full has none; use lora, or another optimizer");
        assertThatThrownBy(() -> new LoraPro.Config(Mode.FULL, Gauge.ZERO, -1, AdamW.Config.DEFAULT))
                .hasMessage("delta must be at least 0 and finite, found -1.0; try 1e-8");
    }
}
