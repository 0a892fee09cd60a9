package dev.espalier.adapter;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import dev.espalier.adapter.LoraGgpo.SigmaSchedule;
import dev.espalier.adapter.LoraGgpo.Variant;
import dev.espalier.nn.Linear;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Generator;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import dev.espalier.train.Callback;
import dev.espalier.train.Optimizer;
import dev.espalier.train.Sgd;
import dev.espalier.train.StepContext;
import dev.espalier.train.TrainConfig;
import dev.espalier.train.Trainer;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Test;

class LoraGgpoTest extends AdapterContract {

    private static LoraGgpo.Config config(Variant variant, double sigma, double beta, double rho) {
        return new LoraGgpo.Config(3, 6, 0, variant, sigma, beta, SigmaSchedule.CONSTANT, rho, 0.9);
    }

    private static LoraGgpo.Config noisy(double sigma, double beta) {
        return config(Variant.GGPO, sigma, beta, 0.05);
    }

    @Override
    protected AdapterSpec<?> spec() {
        return spec(noisy(0.03, 0.01));
    }

    private static AdapterSpec<?> spec(LoraGgpo.Config config) {
        return AdapterSpec.of(new LoraGgpo.Type(), config, Targets.of("fc", "proj"));
    }

    @Override
    protected long parameters(long out, long in) {
        return 3 * (in + out);
    }

    /** A layer 4 to 5 in training, with random factors and gradients. */
    private static final class Subject {
        final Linear layer = Gradients.layer();
        final LoraGgpo adapter;
        final Tensor a;
        final Tensor b;

        Subject(LoraGgpo.Config config) {
            adapter = new LoraGgpo(config, new Site("x", layer), new Seed(0));
            layer.train(true);
            try (Generator g = Generator.of(3);
                    Grad off = Grad.off()) {
                a = g.randn(3, 4).to(DType.FLOAT64);
                b = g.randn(5, 3).to(DType.FLOAT64);
                adapter.a().tensor().copy_(a);
                adapter.b().tensor().copy_(b);
            }
        }

        /** W' = W + s B A, s = 2. */
        Tensor merged() {
            return layer.weight().add(b.matmul(a), 2);
        }

        Tensor forward(Tensor x) {
            return adapter.forward(x, new Base.Ground(layer));
        }

        /** Gives the factors gradients of some loss. */
        void learn(double size) {
            try (Generator g = Generator.of(8)) {
                adapter.a().tensor().clearGrad();
                adapter.b().tensor().clearGrad();
                adapter.a()
                        .tensor()
                        .mul(g.randn(3, 4).to(DType.FLOAT64))
                        .sum()
                        .mul(size)
                        .backward();
                adapter.b()
                        .tensor()
                        .mul(g.randn(5, 3).to(DType.FLOAT64))
                        .sum()
                        .mul(size)
                        .backward();
            }
        }

        /** G = s (gB A + B gA). */
        Tensor g() {
            return adapter.b()
                    .tensor()
                    .grad()
                    .matmul(a)
                    .add(b.matmul(adapter.a().tensor().grad()))
                    .mul(2);
        }
    }

    private static Tensor x() {
        try (Generator g = Generator.of(2)) {
            return g.randn(2, 3, 4).to(DType.FLOAT64);
        }
    }

    private static Map<String, Tensor> trained(AdapterSpec<?> spec, Optimizer.Config optimizer, Callback... watching) {
        Tiny net = new Tiny(DType.FLOAT32);
        Map<String, Tensor> before = values(net);
        AdaptedModel model = new AdaptedModel(net, net.heads());
        Attached adapter = model.attach("default", spec, new Seed(1));
        TrainConfig.Builder config =
                TrainConfig.builder().steps(5).batchSize(4).accumulation(2).learningRate(0.02);
        if (optimizer != null) {
            config.optimizer(optimizer);
        }
        Trainer.Builder builder = TinyTask.trainer(net, adapter, model, config.build());
        for (Callback each : watching) {
            builder.callback(each);
        }
        try (Trainer trainer = builder.build()) {
            trainer.train();
        }
        Map<String, Tensor> result = new LinkedHashMap<>();
        adapter.parameters()
                .forEach((key, p) -> result.put(key, p.tensor().detach().clone()));
        assertThat(run(net).equal(run(net))).isTrue();
        model.disable();
        before.forEach((path, value) -> assertThat(
                        net.namedParameters().get(path).tensor().equal(value))
                .as(path)
                .isTrue());
        return result;
    }

    @Test
    @Card(
            value = "lora-ggpo",
            checks = {1, 6})
    void withoutNoiseItIsPlainLoraBitForBit() {
        Map<String, Tensor> lora =
                trained(AdapterSpec.of(new Lora.Type(), Lora.Config.of(3, 6), Targets.of("fc", "proj")), null);
        Map<String, Tensor> still = trained(spec(noisy(0, 0.01)), null);
        Map<String, Tensor> mgpo = trained(spec(config(Variant.MGPO, 0.03, 0.01, 0)), null);
        Map<String, Tensor> moved = trained(spec(noisy(0.3, 0.01)), null);
        Map<String, Tensor> again = trained(spec(noisy(0.3, 0.01)), null);
        lora.forEach((key, value) -> {
            assertThat(still.get(key).equal(value)).as(key).isTrue();
            assertThat(mgpo.get(key).equal(value)).as(key).isTrue();
            assertThat(moved.get(key).equal(value)).as(key).isFalse();
            assertThat(moved.get(key).equal(again.get(key))).as(key).isTrue();
        });
    }

    @Test
    @Card(
            value = "lora-ggpo",
            checks = {2, 3})
    void normsOfRowsAreThoseOfTheMatrices() {
        Subject s = new Subject(noisy(0.1, 0));
        Tensor weights = s.merged().square().sum(1, false);
        assertThat(gap(s.adapter.weightNorms(), weights)).isLessThan(1e-10);
        s.learn(1);
        Tensor gradients = s.g().square().sum(1, false);
        assertThat(gap(s.adapter.gradientNorms(), gradients))
                .isLessThan(1e-10 * gradients.max().item());
        // β = 0: τ_i = σ ‖W'_i‖, gradients or not; the noise of two seeds in the same proportion
        s.adapter.observe();
        s.adapter.shake(0.1, new Seed(5));
        Tensor z;
        try (Generator g = new Seed(6).generator()) {
            z = g.randn(5, 4).to(DType.FLOAT64);
        }
        Tensor tau = weights.sqrt().mul(0.1);
        assertThat(gap(s.adapter.noise(new Seed(6)), z.mul(tau.unsqueeze(1)).div(2)))
                .isLessThan(1e-12); // √in = 2
    }

    /** 20,000 draws: the standard error of a variance is 1 %. */
    @Test
    @Card(
            value = "lora-ggpo",
            checks = {4, 7})
    void theNoiseHasTheVarianceOfTheFormula() {
        Subject s = new Subject(noisy(0.5, 0.3));
        s.learn(1);
        Tensor rows = s.merged().square().sum(1, false).add(s.g().square().sum(1, false), 0.3); // τ'²
        s.adapter.observe();
        s.adapter.shake(0.5, new Seed(5));
        Tensor x = x().select(0, 0).select(0, 0); // [4]
        Tensor h;
        try (Generator g = Generator.of(12)) {
            Tensor half = g.randn(4, 4).to(DType.FLOAT64);
            h = half.matmul(half.t());
        }
        Tensor sum = Tensor.zeros(DType.FLOAT64, 5);
        double rise = 0;
        int draws = 20_000;
        Tensor w = s.merged();
        double at = w.matmul(h).mul(w).sum().item() / 2;
        for (int i = 0; i < draws; i++) {
            try (Scope scope = Scope.open()) {
                Tensor e = s.adapter.noise(new Seed(77).at(i));
                sum.add_(e.matmul(x).square());
                Tensor moved = w.add(e);
                rise += moved.matmul(h).mul(moved).sum().item() / 2 - at;
            }
        }
        double square = x.square().sum().item();
        double[] expected = rows.mul(0.25 / 4 * square).doubles();
        double[] found = sum.div(draws).doubles();
        for (int i = 0; i < 5; i++) {
            assertThat(found[i] / expected[i]).isCloseTo(1, within(0.05));
        }
        double trace = Tensor.eye(4, DType.FLOAT64).mul(h).sum().item();
        double wanted = 0.25 / (2 * 4) * trace * rows.sum().item();
        assertThat(rise / draws / wanted).isCloseTo(1, within(0.1)); // the term linear in E adds to the error
    }

    @Test
    @Card(
            value = "lora-ggpo",
            checks = {5, 6})
    void gradientsAreThoseAtTheNoisyPoint() {
        for (Variant variant : Variant.values()) {
            Subject s = new Subject(config(variant, 0.5, 0.3, 0.5));
            Tensor e;
            if (variant == Variant.GGPO) {
                s.adapter.shake(0.5, new Seed(5));
                e = s.adapter.noise(new Seed(5).at(0));
            } else {
                Tensor ofA = s.a.mul(0.3).add(1);
                Tensor ofB = s.b.mul(-0.2).add(1);
                s.adapter.lookAhead(ofA, ofB);
                Tensor v = ofB.matmul(s.a).add(s.b.matmul(ofA)).mul(2);
                e = v.mul(-0.5 * 10).div(v.norm()); // nothing known of gradients: the factor is 10
                assertThat(e.norm().item()).isCloseTo(5, within(1e-12));
            }
            Tensor x = x().requiresGrad_(true);
            Tensor y = s.forward(x);
            y.square().sum().backward();
            Tensor a = s.a.clone().requiresGrad_(true);
            Tensor b = s.b.clone().requiresGrad_(true);
            Tensor plain = x.detach().clone().requiresGrad_(true);
            Tensor dense = s.layer.weight().add(b.matmul(a).mul(2)).add(e);
            Tensor expected =
                    plain.matmul(dense.t()).add(s.layer.biasParameter().tensor());
            expected.square().sum().backward();
            assertThat(gap(y, expected)).isLessThan(1e-10);
            assertThat(gap(x.grad(), plain.grad()))
                    .isLessThan(1e-10 * plain.grad().abs().max().item() + 1e-10);
            assertThat(gap(s.adapter.a().tensor().grad(), a.grad())).isLessThan(1e-9);
            assertThat(gap(s.adapter.b().tensor().grad(), b.grad())).isLessThan(1e-9);
            s.layer.train(false);
            Tensor evaluated = s.forward(x);
            assertThat(gap(evaluated, s.layer.compute(x).add(x.matmul(s.a.t()).matmul(s.b.t()), 2)))
                    .isLessThan(1e-12);
            assertThat(s.forward(x).equal(evaluated)).isTrue();
        }
    }

    /** Two tokens see one Z: equal inputs give equal noise. */
    @Test
    void allTokensOfAPassShareTheNoise() {
        Subject s = new Subject(noisy(0.5, 0));
        s.adapter.shake(0.5, new Seed(5));
        Tensor row = x().select(0, 0).narrow(0, 0, 1);
        Tensor y = s.forward(Tensor.cat(List.of(row, row), 0));
        assertThat(gap(y.select(0, 0), y.select(0, 1))).isLessThan(1e-14);
        assertThat(gap(s.forward(row).select(0, 0), y.select(0, 0))).isGreaterThan(1e-3); // the next pass has its own
    }

    @Test
    @Card(value = "lora-ggpo", checks = 8)
    void gradientsCountFromTheNextStepOn() {
        Subject s = new Subject(noisy(0.5, 0.3));
        s.adapter.shake(0.5, new Seed(5));
        Tensor first = s.adapter.noise(new Seed(6));
        s.learn(1);
        assertThat(s.adapter.noise(new Seed(6)).equal(first)).isTrue();
        s.adapter.observe();
        assertThat(s.adapter.noise(new Seed(6)).equal(first)).isTrue();
        s.adapter.shake(0.5, new Seed(5));
        assertThat(gap(s.adapter.noise(new Seed(6)), first)).isGreaterThan(1e-3);
        // mgpo: no step without moments; 10 ρ for small gradients, ρ / ḡ for large ones
        Subject m = new Subject(config(Variant.MGPO, 0, 0, 0.05));
        m.adapter.lookAhead(m.a.zerosLike(), m.b.zerosLike());
        Tensor x = x();
        Tensor still = m.forward(x);
        assertThat(gap(still, m.layer.compute(x).add(x.matmul(m.a.t()).matmul(m.b.t()), 2)))
                .isLessThan(1e-12);
        m.learn(1e-6);
        m.adapter.observe();
        m.adapter.lookAhead(m.a, m.b);
        double small = gap(m.forward(x), still);
        m.adapter.close();
        Subject large = new Subject(config(Variant.MGPO, 0, 0, 0.05));
        large.learn(1);
        double norm = large.g().norm().item();
        large.adapter.observe();
        large.adapter.lookAhead(large.a, large.b);
        double shrunk = gap(large.forward(x), still);
        assertThat(norm).isGreaterThan(1);
        assertThat(small / shrunk).isCloseTo(10 * norm, within(1e-6 * norm));
        large.learn(2); // ḡ ← 0.9 ḡ + 0.1 · 2 ‖G‖
        large.adapter.observe();
        large.adapter.lookAhead(large.a, large.b);
        assertThat(shrunk / gap(large.forward(x), still)).isCloseTo(1.1, within(1e-6));
    }

    @Test
    @Card(value = "lora-ggpo", checks = 8)
    void mgpoFollowsTheOptimisersMomentum() {
        List<Double> sizes = new ArrayList<>();
        Map<String, Tensor> moved = trained(spec(config(Variant.MGPO, 0, 0, 0.5)), null, new Callback() {
            @Override
            public void afterStep(StepContext step) {
                sizes.add((double) step.step());
            }
        });
        Map<String, Tensor> lora =
                trained(AdapterSpec.of(new Lora.Type(), Lora.Config.of(3, 6), Targets.of("fc", "proj")), null);
        assertThat(sizes).hasSize(5);
        lora.forEach(
                (key, value) -> assertThat(moved.get(key).equal(value)).as(key).isFalse());
        assertThatThrownBy(() -> trained(spec(config(Variant.MGPO, 0, 0, 0.5)), Sgd.Config.DEFAULT))
                .hasMessage(
                        "mgpo moves along the optimiser's first moment, and it keeps none of layers.0.fc; train with adamw, or sgd with momentum 0.9");
        trained(spec(config(Variant.MGPO, 0, 0, 0.5)), new Sgd.Config(0.9, false, 0));
    }

    @Test
    void sigmaMayRise() {
        LoraGgpo.Config rising = new LoraGgpo.Config(3, 6, 0, Variant.GGPO, 0.3, 0.01, SigmaSchedule.COSINE, 0.05, 0.9);
        Map<String, Tensor> constant = trained(spec(noisy(0.3, 0.01)), null);
        trained(spec(rising), null)
                .forEach((key, value) ->
                        assertThat(value.equal(constant.get(key))).as(key).isFalse());
    }

    @Test
    void badInputIsRefusedWithAReason() {
        assertThatThrownBy(() -> noisy(-1, 0)).hasMessage("sigma must be at least 0 and finite, found -1.0; try 0.03");
        assertThatThrownBy(() -> noisy(0.1, Double.NaN))
                .hasMessage("beta must be at least 0 and finite, found NaN; try 0.01");
        assertThatThrownBy(() -> config(Variant.MGPO, 0, 0, -1))
                .hasMessage("rho must be at least 0 and finite, found -1.0; try 0.05");
        assertThatThrownBy(() -> new LoraGgpo.Config(3, 6, 0, Variant.MGPO, 0, 0, SigmaSchedule.CONSTANT, 0.05, 1))
                .hasMessage("gradient_decay must lie in [0, 1), found 1.0; try 0.9");
    }
}
