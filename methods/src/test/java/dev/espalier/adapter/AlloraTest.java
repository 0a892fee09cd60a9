package dev.espalier.adapter;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

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
import dev.espalier.train.Sgd;
import dev.espalier.train.TrainConfig;
import dev.espalier.train.Trainer;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Test;

/** Every start, the contract's merging included, stands for check 1. */
@Card(value = "allora", checks = 1)
class AlloraTest extends AdapterContract {

    private static Allora.Config config(int r, double eta2) {
        return new Allora.Config(r, eta2, 0, Allora.Variant.ROWS, false);
    }

    @Override
    protected AdapterSpec<?> spec() {
        return AdapterSpec.of(new Allora.Type(), config(3, 4), Targets.of("fc", "proj"));
    }

    @Override
    protected long parameters(long out, long in) {
        return 3 * (in + out);
    }

    private static Allora on(Linear layer, Allora.Config config) {
        return new Allora(config, new Site("x", layer), new Seed(0));
    }

    private static Lora plain(Linear layer, int r) {
        return new Lora(Lora.Config.of(r, r), new Site("x", layer), new Seed(0)); // s = 1
    }

    private static void set(LowRank adapter, Tensor a, Tensor b) {
        try (Grad off = Grad.off()) {
            adapter.a().tensor().copy_(a);
            adapter.b().tensor().copy_(b);
        }
    }

    private static Tensor wide(Generator g, long... shape) {
        return g.randn(shape).to(DType.FLOAT64);
    }

    /** Σ y ∘ target of an adapter's output, so that ∂L/∂y is the target. */
    private static void backward(Adapter adapter, Linear layer, Tensor x, Tensor target) {
        adapter.forward(x, new Base.Ground(layer)).mul(target).sum().backward();
    }

    @Test
    @Card(
            value = "allora",
            checks = {1, 2})
    void gradientsAreThoseOfTheFormulas() {
        Linear layer = Gradients.layer(); // 4 to 5
        try (Generator g = Generator.of(3)) {
            Tensor a = wide(g, 2, 4);
            Tensor b = wide(g, 5, 2);
            Tensor target = wide(g, 2, 3, 5);
            Tensor x = wide(g, 2, 3, 4).requiresGrad_(true);
            Allora allora = on(layer, config(2, 4));
            set(allora, a, b);
            backward(allora, layer, x, target);
            // g = ∂L/∂(B A), by a dense leaf
            Tensor dense = b.matmul(a).requiresGrad_(true);
            x.detach().matmul(dense.t()).mul(target).sum().backward();
            Tensor full = dense.grad();
            Tensor c = b.matmul(a).norm(1, false).add(0.25).rsqrt(); // [5]
            Tensor rows = full.mul(c.unsqueeze(1));
            assertThat(gap(allora.a().tensor().grad(), b.t().matmul(rows))).isLessThan(1e-10);
            assertThat(gap(allora.b().tensor().grad(), rows.matmul(a.t()))).isLessThan(1e-10);
            // the input's is plain LoRA's
            Tensor other = x.detach().clone().requiresGrad_(true);
            Lora lora = plain(layer, 2);
            set(lora, a, b);
            backward(lora, layer, other, target);
            assertThat(gap(x.grad(), other.grad())).isLessThan(1e-12);
            assertThat(gap(allora.forward(x, new Base.Ground(layer)), lora.forward(x, new Base.Ground(layer))))
                    .isLessThan(1e-13);
        }
    }

    @Test
    @Card(value = "allora", checks = 3)
    void theFactorFallsFromEtaAsARowGrows() {
        Linear layer = Gradients.layer();
        try (Generator g = Generator.of(3)) {
            Allora allora = on(layer, config(2, 4));
            assertThat(allora.rowFactors().doubles()).containsOnly(2);
            Tensor a = wide(g, 2, 4);
            Tensor b = wide(g, 5, 2);
            double[] last = {3, 3, 3, 3, 3};
            for (double size : new double[] {0.1, 0.5, 1, 10}) {
                set(allora, a, b.mul(size));
                double[] now = allora.rowFactors().doubles();
                double[] norms = b.mul(size).matmul(a).norm(1, false).doubles();
                for (int i = 0; i < 5; i++) {
                    assertThat(now[i]).isLessThan(last[i]);
                    assertThat(now[i]).isCloseTo(1 / Math.sqrt(norms[i] + 0.25), within(1e-12));
                }
                last = now;
            }
        }
    }

    private static Optimizer optimizer(Optimizer.Config config, LowRank adapter) {
        return config.create(List.of(new ParameterGroup("all", Map.of("A", adapter.a(), "B", adapter.b()), 1, 0)));
    }

    @Test
    @Card(value = "allora", checks = 4)
    void theFirstStepIsEtaTimesLorasByDescentAndLorasOwnByAdam() {
        Linear layer = Gradients.layer();
        try (Generator g = Generator.of(3)) {
            Tensor x = wide(g, 6, 4);
            Tensor target = wide(g, 6, 5);
            for (Optimizer.Config config : List.of(Sgd.Config.DEFAULT, AdamW.Config.DEFAULT)) {
                Allora allora = on(layer, config(2, 4));
                Lora lora = plain(layer, 2);
                Tensor a0 = allora.a().tensor().detach().clone();
                backward(allora, layer, x, target);
                backward(lora, layer, x, target);
                try (Optimizer one = optimizer(config, allora);
                        Optimizer two = optimizer(config, lora)) {
                    one.step(0.01);
                    two.step(0.01);
                }
                double times = config == Sgd.Config.DEFAULT ? 2 : 1;
                assertThat(gap(allora.b().tensor(), lora.b().tensor().mul(times)))
                        .isLessThan(times == 2 ? 1e-15 : 0.01 * 1e-5);
                assertThat(allora.a().tensor().equal(a0)).isTrue();
            }
        }
    }

    @Test
    void updatesOfRowsAreMultipliedWhereAdamIsToFeelIt() {
        Tiny net = new Tiny(DType.FLOAT64);
        AdaptedModel model = new AdaptedModel(net, net.heads());
        Allora.Config rows = new Allora.Config(3, 4, 0, Allora.Variant.ROWS, true);
        Tensor twice = afterOneStep(net, model, AdapterSpec.of(new Allora.Type(), rows, Targets.of("fc")));
        Tensor once = afterOneStep(net, model, AdapterSpec.of(new Lora.Type(), Lora.Config.of(3, 3), Targets.of("fc")));
        assertThat(gap(twice, once.mul(2))).isLessThan(1e-12);
    }

    private static Tensor afterOneStep(Tiny net, AdaptedModel model, AdapterSpec<?> spec) {
        Attached adapter = model.attach("default", spec, new Seed(1));
        TrainConfig config =
                TrainConfig.builder().steps(1).clip(0).learningRate(0.01).build();
        try (Trainer trainer = TinyTask.trainer(net, adapter, model, config).build()) {
            trainer.train();
        }
        Tensor b = adapter.lowRank("layers.0.fc").b().tensor().detach().clone();
        model.remove("default");
        return b;
    }

    /** Descent at l_b η = 0.05 for 20 steps; B A of a layer that learns another map. */
    private static Tensor learnt(LowRank adapter, Linear layer, double rate, List<double[]> norms) {
        try (Generator g = Generator.of(9);
                Optimizer sgd = optimizer(Sgd.Config.DEFAULT, adapter)) {
            Tensor change = wide(g, 5, 4);
            for (int i = 0; i < 20; i++) {
                try (Scope scope = Scope.open()) {
                    Tensor x = wide(g, 8, 4);
                    Tensor wanted = layer.compute(x).add(x.matmul(change.t()));
                    sgd.zeroGrad();
                    adapter.forward(x, new Base.Ground(layer))
                            .sub(wanted)
                            .square()
                            .mean()
                            .backward();
                    sgd.step(rate);
                    norms.add(adapter.b()
                            .tensor()
                            .detach()
                            .matmul(adapter.a().tensor().detach())
                            .norm(1, false)
                            .doubles());
                }
            }
            return adapter.b().tensor().detach().matmul(adapter.a().tensor().detach());
        }
    }

    @Test
    @Card(value = "allora", checks = 5)
    void aSmallEtaIsPlainLora() {
        Linear layer = Gradients.layer();
        double[] gaps = new double[2];
        double size = 0;
        for (int i = 0; i < 2; i++) {
            double eta = i == 0 ? 1e-2 : 1e-3;
            Lora lora = plain(layer, 2);
            Tensor expected = learnt(lora, layer, 0.05, new ArrayList<>());
            Tensor got = learnt(on(layer, config(2, eta * eta)), layer, 0.05 / eta, new ArrayList<>());
            gaps[i] = gap(got, expected);
            size = expected.norm().item();
        }
        assertThat(gaps[1] / size).isLessThan(1e-6);
        assertThat(gaps[0] / gaps[1]).isBetween(90.0, 110.0); // as η²
    }

    @Test
    @Card(value = "allora", checks = 6)
    void rowsOfEqualGradientLearnInTheRatioOfTheirFactors() {
        Linear layer = Gradients.layer();
        try (Generator g = Generator.of(3)) {
            Allora allora = on(layer, config(2, 4));
            Tensor b = wide(g, 5, 2);
            set(allora, wide(g, 2, 4), b);
            Tensor x = wide(g, 6, 4);
            Tensor same = wide(g, 6, 1).expand(6, 5); // every output has the same gradient
            backward(allora, layer, x, same);
            double[] c = allora.rowFactors().doubles();
            Tensor grad = allora.b().tensor().grad();
            for (int i = 1; i < 5; i++) {
                assertThat(gap(grad.select(0, i), grad.select(0, 0).mul(c[i] / c[0])))
                        .isLessThan(1e-12);
            }
            assertThat(Math.abs(c[1] / c[0] - 1)).isGreaterThan(1e-3); // a constant factor would not do
        }
    }

    @Test
    @Card(value = "allora", checks = 7)
    void theLowerLayerDoesNotFeelTheFactorAbove() {
        Linear layer = Gradients.layer();
        Linear above = new Linear(5, 3, false, DType.FLOAT64);
        List<Tensor> gradients = new ArrayList<>();
        for (double eta2 : new double[] {1, 100}) {
            try (Generator g = Generator.of(3)) {
                above.weightParameter().tensor().copy_(wide(g, 3, 5));
                Allora lower = on(layer, config(2, 4));
                Allora upper = on(above, config(2, eta2));
                set(lower, wide(g, 2, 4), wide(g, 5, 2));
                set(upper, wide(g, 2, 5), wide(g, 3, 2));
                Tensor between = lower.forward(wide(g, 6, 4), new Base.Ground(layer));
                upper.forward(between, new Base.Ground(above)).square().sum().backward();
                gradients.add(lower.a().tensor().grad());
                gradients.add(lower.b().tensor().grad());
                gradients.add(upper.b().tensor().grad());
            }
        }
        assertThat(gradients.get(0).equal(gradients.get(3))).isTrue();
        assertThat(gradients.get(1).equal(gradients.get(4))).isTrue();
        assertThat(gap(gradients.get(2), gradients.get(5))).isGreaterThan(1e-3);
    }

    @Test
    @Card(value = "allora", checks = 8)
    void rowsFollowLoraAtFirstAndFallBehindIt() {
        Linear layer = Gradients.layer();
        List<double[]> ours = new ArrayList<>();
        List<double[]> loras = new ArrayList<>();
        learnt(on(layer, config(2, 4)), layer, 0.2, ours);
        learnt(plain(layer, 2), layer, 0.4, loras);
        double late = 0;
        for (int i = 0; i < 5; i++) {
            assertThat(ours.get(0)[i]).isCloseTo(loras.get(0)[i], within(1e-12));
            late += ours.get(10)[i] / loras.get(10)[i] / 5;
        }
        assertThat(late).isLessThan(0.95);
    }

    /** Each token and output has a factor of its own, a constant: gB = (δ ∘ c)ᵀ (x Aᵀ). */
    @Test
    void theFactorMayDependOnOutputs() {
        Linear layer = Gradients.layer();
        try (Generator g = Generator.of(3)) {
            Allora allora = on(layer, new Allora.Config(2, 4, 0, Allora.Variant.OUTPUTS, false));
            Tensor a = wide(g, 2, 4);
            Tensor b = wide(g, 5, 2);
            set(allora, a, b);
            Tensor x = wide(g, 6, 4);
            Tensor target = wide(g, 6, 5);
            backward(allora, layer, x, target);
            Tensor c = x.matmul(a.t()).matmul(b.t()).abs().add(0.25).rsqrt();
            assertThat(gap(allora.b().tensor().grad(), target.mul(c).t().matmul(x.matmul(a.t()))))
                    .isLessThan(1e-12);
        }
    }

    @Test
    void withoutGradientsThePassIsTheSame() {
        Linear layer = Gradients.layer();
        try (Generator g = Generator.of(3)) {
            Allora allora = on(layer, config(2, 4));
            set(allora, wide(g, 2, 4), wide(g, 5, 2));
            Tensor x = wide(g, 6, 4);
            Tensor with = allora.forward(x, new Base.Ground(layer));
            try (Grad off = Grad.off()) {
                assertThat(allora.forward(x, new Base.Ground(layer)).equal(with))
                        .isTrue();
            }
            for (Parameter p : allora.parameters().values()) {
                assertThat(p.isTrainable()).isTrue();
            }
        }
    }

    @Test
    void badInputIsRefusedWithAReason() {
        assertThatThrownBy(() -> config(2, 0)).hasMessage("eta_squared must be above 0 and finite, found 0.0; try 4");
        assertThatThrownBy(() -> config(0, 4)).hasMessage("r must be at least 1, found 0; try 8");
        assertThatThrownBy(() -> new Allora.Config(2, 4, 0, Allora.Variant.OUTPUTS, true))
                .hasMessage(
                        "update_rows multiplies rows of B, and the variant outputs has a factor for each token; use variant rows");
        Tiny net = new Tiny(DType.FLOAT32);
        assertThatThrownBy(() -> new AdaptedModel(net, net.heads())
                        .attach(
                                "a",
                                AdapterSpec.of(new Allora.Type(), config(2, 4), Targets.of("embed_tokens")),
                                new Seed(1)))
                .hasMessage(
                        "embed_tokens is an embedding, whose input is ids and no vector that allora could change; name linear layers, or use lora");
    }
}
