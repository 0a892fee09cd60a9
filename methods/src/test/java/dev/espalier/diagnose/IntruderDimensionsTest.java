package dev.espalier.diagnose;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import dev.espalier.adapter.AdaptedModel;
import dev.espalier.adapter.AdapterSpec;
import dev.espalier.adapter.Base;
import dev.espalier.adapter.Card;
import dev.espalier.adapter.Dora;
import dev.espalier.adapter.Lora;
import dev.espalier.adapter.LoraFactors;
import dev.espalier.adapter.PlainLora;
import dev.espalier.adapter.Targets;
import dev.espalier.adapter.Tiny;
import dev.espalier.diagnose.IntruderDimensions.Config;
import dev.espalier.diagnose.IntruderDimensions.Side;
import dev.espalier.nn.Linear;
import dev.espalier.nn.Module;
import dev.espalier.nn.Parameter;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Generator;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

/** Planted intruders in a layer of 128 to 128 whose weight has the singular values 10 · 0.9^i, in float64. */
class IntruderDimensionsTest {

    private static final int N = 128;
    private static final Config USUAL = Config.DEFAULT;

    private Scope scope;
    private Net net;
    private AdaptedModel model;
    private Tensor u; // [N, N], left singular vectors by columns
    private Tensor v; // [N, N], right ones

    /** One linear layer. */
    private static final class Net extends Module {
        final Linear fc = child("fc", new Linear(N, N, false, DType.FLOAT64));
    }

    @BeforeEach
    void open() {
        scope = Scope.open();
        try (Generator g = Generator.of(3)) {
            u = g.randn(N, N).to(DType.FLOAT64).qr().get(0);
            v = g.randn(N, N).to(DType.FLOAT64).qr().get(0);
        }
        double[] values = new double[N];
        for (int i = 0; i < N; i++) {
            values[i] = 10 * Math.pow(0.9, i);
        }
        use(u.mul(Tensor.of(values, N)).matmul(v.t()));
    }

    @AfterEach
    void close() {
        scope.close();
    }

    private void use(Tensor weight) {
        net = new Net();
        net.fc.setWeight(weight);
        model = new AdaptedModel(net, List.of());
    }

    private static Tensor unit(long seed) {
        try (Generator g = Generator.of(seed)) {
            Tensor x = g.randn(N, 1).to(DType.FLOAT64);
            return x.div(x.norm().item());
        }
    }

    /** Puts a change a bᵀ on the layer. */
    private void change(Tensor b, Tensor aT) {
        if (!model.names().isEmpty()) {
            model.remove("default");
        }
        PlainLora.attach(
                model,
                "default",
                new PlainLora.Parts(
                        Map.of("fc", new LoraFactors(aT.t().contiguous(), b, 1, null)),
                        Targets.of("fc"),
                        List.of(),
                        Map.of()));
    }

    private void dense(Tensor delta) {
        change(delta, Tensor.eye(N, DType.FLOAT64));
    }

    private Report examine(Config config) {
        return new IntruderDimensions().examine(config, model);
    }

    private int intruders(Config config) {
        return (int) examine(config).totals().get("intruders");
    }

    @SuppressWarnings("unchecked") // the last column is a list of numbers
    private List<Double> cosines(Config config) {
        return (List<Double>) examine(config).rows().get(0).get(4);
    }

    private Tensor weight() {
        Base ground = new Base.Ground(net.fc);
        return model.adapter("default").on("fc", ground).affine().weight();
    }

    private static Tensor after(Map<String, LoraFactors> repaired, Tensor before) {
        return before.add(repaired.get("fc").product());
    }

    private static double gap(Tensor a, Tensor b) {
        return a.sub(b).abs().max().item();
    }

    @Test
    @Card(
            value = "intruder-dimensions",
            checks = {1})
    void scalingAndTurningBringNoIntruders() {
        Tensor w0 = net.fc.weight().clone();
        for (double c : new double[] {1, 0.5, 3}) {
            dense(w0.mul(c - 1));
            assertThat(intruders(USUAL)).isZero();
            assertThat(cosines(USUAL)).allSatisfy(x -> assertThat(x).isCloseTo(1, within(1e-9)));
        }
        change(unit(1).mul(30), unit(2));
        List<Double> before = cosines(USUAL);
        Tensor q;
        try (Generator g = Generator.of(9)) {
            q = g.randn(N, N).to(DType.FLOAT64).qr().get(0);
        }
        use(q.matmul(w0));
        change(q.matmul(unit(1)).mul(30), unit(2));
        List<Double> turned = cosines(USUAL);
        for (int j = 0; j < 10; j++) {
            assertThat(turned.get(j)).isCloseTo(before.get(j), within(1e-9));
        }
    }

    @Test
    @Card(
            value = "intruder-dimensions",
            checks = {2})
    void strongRandomDirectionsAreIntruders() {
        for (long seed = 10; seed < 16; seed++) {
            Tensor b = unit(seed);
            Tensor a = unit(seed + 100);
            for (double strength : new double[] {16, 30}) {
                change(b.mul(strength), a);
                assertThat(intruders(USUAL)).isEqualTo(1);
                assertThat(cosines(USUAL).get(0)).isLessThan(0.5);
            }
            assertThat(cosines(USUAL).get(0)).isBetween(0.15, 0.4);
            change(b.mul(3), a);
            assertThat(intruders(USUAL)).isZero();
        }
        change(unit(10).mul(30), unit(110));
        List<?> row = examine(USUAL).rows().get(0);
        assertThat((double) row.get(2)).isBetween(0.5, 1.0); // S_1 is near 30, the others 10 and below
        assertThat((double) row.get(3)).isGreaterThan(0.5);
    }

    @Test
    @Card(
            value = "intruder-dimensions",
            checks = {3})
    void onlyTheTestedSideCounts() {
        change(u.narrow(1, 0, 1).mul(20), v.narrow(1, 0, 1));
        assertThat(intruders(USUAL)).isZero();
        change(u.narrow(1, 0, 1).mul(20), unit(1));
        assertThat(intruders(USUAL)).isZero();
        change(unit(1).mul(20), v.narrow(1, 40, 1));
        assertThat(intruders(USUAL)).isEqualTo(1);
        assertThat(cosines(USUAL).get(0)).isLessThan(0.5);
        // The other way round on the other side.
        Config right = new Config(10, 0.5, 0.75, Side.RIGHT);
        assertThat(intruders(right)).isZero();
        change(u.narrow(1, 40, 1).mul(20), unit(1));
        assertThat(intruders(right)).isEqualTo(1);
        assertThat(intruders(USUAL)).isZero();
    }

    @Test
    @Card(
            value = "intruder-dimensions",
            checks = {4})
    void denseNoiseBringsNone() {
        try (Generator g = Generator.of(4)) {
            Tensor noise = g.randn(N, N).to(DType.FLOAT64);
            double norm = net.fc.weight().norm().item();
            dense(noise.mul(0.02 * norm / noise.norm().item()));
        }
        assertThat(intruders(USUAL)).isZero();
    }

    @Test
    @Card(
            value = "intruder-dimensions",
            checks = {5, 6})
    void repairScalesTheIntrudersAlone() {
        Tensor w0 = net.fc.weight().clone();
        change(unit(1).mul(30), unit(2));
        for (Side side : Side.values()) {
            List<Tensor> before = weight().svd();
            double[] s = before.get(1).doubles();
            for (double lambda : new double[] {0, 0.7, 1, 1.5}) {
                Map<String, LoraFactors> repaired =
                        new IntruderDimensions().repair(new Config(10, 0.5, lambda, side), model);
                Tensor now = after(repaired, w0);
                double[] expected = s.clone();
                expected[0] *= lambda;
                java.util.Arrays.sort(expected);
                double[] found = now.svd().get(1).doubles();
                for (int i = 0; i < N; i++) {
                    assertThat(found[i]).isCloseTo(expected[N - 1 - i], within(1e-11));
                }
                // Vectors unchanged: the same U and V take it to a diagonal. The exact formula, of rank 1 + 1.
                Tensor formula = before.get(0)
                        .mul(before.get(1)
                                .mul(Tensor.cat(
                                        List.of(
                                                Tensor.full(lambda, DType.FLOAT64, 1),
                                                Tensor.ones(DType.FLOAT64, N - 1)),
                                        0)))
                        .matmul(before.get(2));
                assertThat(gap(now, formula)).isLessThan(1e-12 * 30);
                assertThat(repaired.get("fc").rank()).isEqualTo(lambda == 1 ? 1 : 2);
            }
        }
        // Cut to rank 1 again it is no longer exact.
        LoraFactors repaired = new IntruderDimensions()
                .repair(new Config(10, 0.5, 0.75, Side.LEFT), model)
                .get("fc");
        assertThat(LoraFactors.approximate(repaired.product(), 1).relativeError())
                .isGreaterThan(1e-3);
    }

    @Test
    @Card(
            value = "intruder-dimensions",
            checks = {7})
    void countGrowsWithThresholdAndDepth() {
        change(Tensor.cat(List.of(unit(1).mul(30), unit(2).mul(20)), 1), Tensor.cat(List.of(unit(3), unit(4)), 1));
        assertThat(intruders(new Config(10, 0, 0.75, Side.LEFT))).isZero();
        assertThat(intruders(new Config(10, 1.01, 0.75, Side.LEFT))).isEqualTo(10);
        assertThat(intruders(new Config(500, 1.01, 0.75, Side.LEFT))).isEqualTo(N); // no more than there are
        int before = 0;
        for (double eps : new double[] {0.1, 0.3, 0.5, 0.8, 0.95, 1}) {
            int now = intruders(new Config(10, eps, 0.75, Side.LEFT));
            assertThat(now).isGreaterThanOrEqualTo(before);
            before = now;
        }
        before = 0;
        for (int k : new int[] {1, 2, 5, 20}) {
            int now = intruders(new Config(k, 0.5, 0.75, Side.LEFT));
            assertThat(now).isGreaterThanOrEqualTo(before);
            before = now;
        }
        assertThat(before).isEqualTo(2);
    }

    /**
     * What of the behaviour can be seen on one layer: trained on a task of one foreign direction, the count grows with the learning
     * rate, and scaling intruders from 1 to 0.7 brings the layer nearer to what it computed before, at a task loss that rises less
     * than if they were taken out. The comparison with full fine-tuning and sequences of tasks need a pretrained model and hours.
     */
    @Test
    @Card(
            value = "intruder-dimensions",
            checks = {8})
    void countGrowsWithTheLearningRateAndRepairTradesTaskForMemory() {
        Tensor w0 = net.fc.weight().clone();
        Tensor goal = w0.add(unit(1).mul(40).matmul(unit(2).t()));
        List<Integer> counts = new ArrayList<>();
        for (double rate : new double[] {1e-5, 5e-3}) {
            if (!model.names().isEmpty()) {
                model.remove("default");
            }
            var adapter = model.attach(
                    "default", AdapterSpec.of(new Lora.Type(), Lora.Config.of(2, 2), Targets.of("fc")), new Seed(0));
            for (int step = 0; step < 300; step++) {
                try (Scope inner = Scope.open()) {
                    Tensor x = unit(2).t(); // the task's input
                    net.fc.forward(x).sub(x.matmul(goal.t())).square().sum().backward();
                    try (Grad off = Grad.off()) {
                        for (Parameter p : adapter.parameters().values()) {
                            p.tensor().add_(p.tensor().grad(), -rate);
                            p.tensor().clearGrad();
                        }
                    }
                }
            }
            counts.add(intruders(USUAL));
        }
        assertThat(counts.get(0)).isZero();
        assertThat(counts.get(1)).isPositive();

        double[] task = new double[3];
        double[] memory = new double[3];
        double[] lambdas = {1, 0.7, 0};
        for (int i = 0; i < 3; i++) {
            Tensor now = after(new IntruderDimensions().repair(new Config(10, 0.5, lambdas[i], Side.LEFT), model), w0);
            task[i] = now.sub(goal).matmul(unit(2)).square().sum().item();
            memory[i] = now.sub(w0).square().sum().item();
        }
        assertThat(memory[1]).isLessThan(memory[0]);
        assertThat(task[1]).isGreaterThan(task[0]).isLessThan(0.2 * task[2]);
        // The control: all of the change scaled to the same norm.
        double scale = Math.sqrt(memory[1] / memory[0]);
        assertThat(scale).isBetween(0.5, 1.0);
    }

    /** Embeddings and GPT-2's transposed layers are seen as [out, in]; what is no weight at all is refused. */
    @Test
    void everyKindOfLayerIsExamined() {
        Tiny tiny = new Tiny(DType.FLOAT32);
        AdaptedModel host = new AdaptedModel(tiny, tiny.heads());
        assertThatThrownBy(() -> new IntruderDimensions().examine(USUAL, host))
                .hasMessage("intruder dimensions are those of one adapter, and 0 are active; activate one");
        host.attach(
                "default",
                AdapterSpec.of(new Lora.Type(), Lora.Config.of(2, 4), Targets.of("fc", "proj", "embed_tokens")),
                new Seed(0));
        Report report = new IntruderDimensions().examine(USUAL, host);
        assertThat(report.rows()).hasSize(5);
        assertThat(report.totals()).containsEntry("intruders", 0).containsEntry("tested", 5 * 8);
        assertThat(report.columns()).containsExactly("layer", "intruders", "energy", "gap", "cosines");
        host.remove("default");
        host.attach("d", AdapterSpec.of(new Dora.Type(), Lora.Config.of(2, 4), Targets.of("fc")), new Seed(0));
        assertThat(new IntruderDimensions().examine(USUAL, host).totals()).containsEntry("intruders", 0);
        assertThatThrownBy(() -> new IntruderDimensions().repair(USUAL, host))
                .hasMessage(
                        "dora is not exactly a plain LoRA on layers.0.fc, so its repair would be none; write it as one first, by export --to lora --rank 16");
    }

    @Test
    void badSettingsAreRefusedWithAReason() {
        assertThatThrownBy(() -> new Config(0, 0.5, 1, Side.LEFT)).hasMessage("k must be at least 1, found 0; try 10");
        assertThatThrownBy(() -> new Config(10, -0.1, 1, Side.LEFT))
                .hasMessage("eps must be at least 0 and finite, found -0.1; try 0.5");
        assertThatThrownBy(() -> new Config(10, 0.5, -1, Side.LEFT))
                .hasMessage("lambda must be at least 0 and finite, found -1.0; try 0.75, which keeps three quarters");
        assertThatThrownBy(() -> new Report(List.of("a"), List.of(List.of(1, 2)), Map.of()))
                .hasMessage("a row of a report has 2 values for 1 columns");
    }
}
