package dev.espalier.adapter;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import dev.espalier.io.Fields;
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
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class SvfitTest extends AdapterContract {

    private static final Svfit.Type TYPE = new Svfit.Type();
    private static final int OUT = 6;
    private static final int IN = 5;

    @Override
    protected AdapterSpec<?> spec() {
        return spec(Svfit.Config.of(3));
    }

    private static AdapterSpec<?> spec(Svfit.Config config) {
        return AdapterSpec.of(TYPE, config, Targets.of("fc", "proj"));
    }

    @Override
    @Card(value = "svfit", checks = 2)
    protected long parameters(long out, long in) {
        return 3;
    }

    private static Tensor random(long seed, long... shape) {
        try (Generator g = Generator.of(seed)) {
            return g.randn(shape).to(DType.FLOAT64);
        }
    }

    private static Linear linear(Tensor weight) {
        Linear layer = new Linear((int) weight.size(1), (int) weight.size(0), false, weight.dtype());
        layer.weightParameter().tensor().copy_(weight);
        return layer;
    }

    private static Svfit on(Linear layer, Svfit.Config config) {
        return new Svfit(config, new Site("x", layer));
    }

    private static Tensor value(Adapter adapter, String name) {
        return adapter.parameters().get(name).tensor();
    }

    private static Tensor delta(Adapter adapter) {
        return value(adapter, "svfit_delta");
    }

    private static Tensor merged(Svfit svfit, Linear layer) {
        return svfit.merge(Base.Affine.of(layer)).weight();
    }

    /** Nothing to the bit at first; afterwards the paper's split, which is computed here, whatever the vectors' signs. */
    @Test
    @Card(value = "svfit", checks = 1)
    void itIsThePapersSplitForAnySigma() {
        for (DType type : List.of(DType.FLOAT32, DType.FLOAT64)) {
            double tolerance = type == DType.FLOAT32 ? 1e-5 : 1e-12;
            Linear layer = linear(random(1, OUT, IN).to(type));
            Svfit svfit = on(layer, Svfit.Config.of(3));
            Tensor x = random(2, 4, IN).to(type);
            Base base = new Base.Ground(layer);
            assertThat(svfit.forward(x, base).equal(layer.compute(x))).isTrue();
            Tensor move = random(3, 3).to(type).mul(5); // some below zero
            delta(svfit).detach().copy_(move);
            List<Tensor> svd = layer.weight().svd();
            for (double sign : new double[] {1, -1}) {
                Tensor u = svd.get(0).narrow(1, 0, 3).mul(sign);
                Tensor v = svd.get(2).narrow(0, 0, 3).mul(sign);
                Tensor s = svd.get(1).narrow(0, 0, 3);
                Tensor rest = layer.weight().sub(u.mul(s).matmul(v)); // W_e
                assertThat(gap(x.matmul(u.mul(s).matmul(v).add(rest).t()), layer.compute(x)))
                        .isLessThan(tolerance);
                Tensor split =
                        x.matmul(rest.t()).add(x.matmul(v.t()).mul(s.add(move)).matmul(u.t()));
                assertThat(gap(svfit.forward(x, base), split)).isLessThan(5 * tolerance);
            }
        }
    }

    @Test
    @Card(value = "svfit", checks = 2)
    void theOptimiserRemembersTwoNumbersForEach() {
        Linear layer = linear(random(1, OUT, IN).to(DType.FLOAT32));
        Svfit svfit = on(layer, Svfit.Config.of(4));
        Parameter p = svfit.parameters().get("svfit_delta");
        assertThat(AdamW.Config.DEFAULT.stateBytes(List.of(new ParameterGroup("all", Map.of("d", p), 1, 0))))
                .isEqualTo(2 * 4 * 4);
    }

    @Test
    @Card(value = "svfit", checks = 3)
    void theGradientIsThatOfTheFormulaAndOfDifferences() {
        Linear layer = Gradients.layer();
        Svfit svfit = on(layer, Svfit.Config.of(3));
        Tensor x = random(4, 7, 4);
        delta(svfit).detach().copy_(random(5, 3));
        Tensor y = svfit.forward(x, new Base.Ground(layer));
        y.square().sum().backward();
        Tensor g = y.detach().mul(2).t().matmul(x);
        Tensor u = value(svfit, "lora_B.weight");
        Tensor expected = u.t().matmul(g).mul(value(svfit, "lora_A.weight")).sum(1, false);
        assertThat(gap(delta(svfit).grad(), expected)).isLessThan(1e-10);
        double[] at = delta(svfit).doubles();
        for (int i = 0; i < 3; i++) {
            double[] sides = new double[2];
            for (int side = 0; side < 2; side++) {
                double[] moved = at.clone();
                moved[i] += side == 0 ? 1e-5 : -1e-5;
                try (Grad off = Grad.off()) {
                    delta(svfit).copy_(Tensor.of(moved, 3));
                    sides[side] = svfit.forward(x, new Base.Ground(layer))
                            .square()
                            .sum()
                            .item();
                }
            }
            double numeric = (sides[0] - sides[1]) / 2e-5;
            assertThat(expected.doubles()[i]).isCloseTo(numeric, within(1e-6 * Math.abs(numeric) + 1e-6));
        }
    }

    /** min ‖W'(σ) - T‖²: σ_i = u_iᵀ T v_i, reached by one step of ½ as the problem is orthonormal. */
    @Test
    @Card(value = "svfit", checks = 4)
    void oneStepReachesTheClosedForm() {
        Linear layer = linear(random(1, OUT, IN));
        Tensor target = random(6, OUT, IN);
        Svfit svfit = on(layer, Svfit.Config.of(3));
        Tensor u = value(svfit, "lora_B.weight");
        Tensor v = value(svfit, "lora_A.weight");
        Tensor s = layer.weight().svd().get(1).narrow(0, 0, 3);
        merged(svfit, layer).sub(target).square().sum().backward();
        delta(svfit).detach().add_(delta(svfit).grad(), -0.5);
        Tensor best = u.t().matmul(target).mul(v).sum(1, false); // u_iᵀ T v_i
        assertThat(gap(delta(svfit).detach().add(s), best)).isLessThan(1e-10);
        double least = target.sub(layer.weight()).square().sum().item()
                - best.sub(s).square().sum().item();
        assertThat(merged(svfit, layer).detach().sub(target).square().sum().item())
                .isCloseTo(least, within(1e-10));
    }

    @Test
    @Card(value = "svfit", checks = 5)
    void vectorsAndWeightStayBitForBit() {
        Linear layer = linear(random(1, OUT, IN));
        Svfit svfit = on(layer, Svfit.Config.of(3));
        Tensor u = value(svfit, "lora_B.weight").clone();
        Tensor v = value(svfit, "lora_A.weight").clone();
        Tensor w = layer.weight().clone();
        train(svfit, layer, new AdamW.Config(0.9, 0.999, 1e-8, 0.1), 100);
        assertThat(value(svfit, "lora_B.weight").equal(u)).isTrue();
        assertThat(value(svfit, "lora_A.weight").equal(v)).isTrue();
        assertThat(layer.weight().equal(w)).isTrue();
        assertThat(delta(svfit).abs().min().item()).isPositive();
    }

    /** Steps towards a target on fixed inputs. */
    private static void train(Svfit svfit, Linear layer, Optimizer.Config rule, int steps) {
        Tensor x = random(7, 8, IN);
        Tensor wanted = random(8, 8, OUT);
        try (Optimizer optimizer = rule.create(List.of(new ParameterGroup(
                "all", Map.of("d", svfit.parameters().get("svfit_delta")), 1, rule.weightDecay())))) {
            for (int i = 0; i < steps; i++) {
                try (Scope scope = Scope.open()) {
                    svfit.forward(x, new Base.Ground(layer))
                            .sub(wanted)
                            .square()
                            .mean()
                            .backward();
                    optimizer.step(0.05);
                    optimizer.zeroGrad();
                }
            }
        }
    }

    /** SVFT's plain form: a diagonal M [q] added to diag(s), by autograd here; of a smaller r its last entries are held at 0. */
    @Test
    @Card(value = "svfit", checks = 6)
    void itIsThePlainDiagonalOfSvft() {
        for (int r : new int[] {IN, 2}) {
            for (Optimizer.Config rule : List.of(Sgd.Config.DEFAULT, AdamW.Config.DEFAULT)) {
                Linear layer = linear(random(1, OUT, IN));
                Svfit svfit = on(layer, Svfit.Config.of(r));
                train(svfit, layer, rule, 5);
                List<Tensor> svd = layer.weight().svd();
                Parameter m = new Parameter(Tensor.zeros(DType.FLOAT64, IN));
                m.trainable(true);
                double[] held = new double[IN];
                java.util.Arrays.fill(held, 0, r, 1);
                Tensor x = random(7, 8, IN);
                Tensor wanted = random(8, 8, OUT);
                try (Optimizer optimizer = rule.create(List.of(new ParameterGroup("all", Map.of("m", m), 1, 0)))) {
                    for (int i = 0; i < 5; i++) {
                        Tensor middle = svd.get(1).add(m.tensor().mul(Tensor.of(held, IN)));
                        Tensor weight = svd.get(0).mul(middle).matmul(svd.get(2));
                        x.matmul(weight.t()).sub(wanted).square().mean().backward();
                        optimizer.step(0.05);
                        optimizer.zeroGrad();
                    }
                }
                assertThat(gap(delta(svfit).detach(), m.tensor().detach().narrow(0, 0, r)))
                        .isLessThan(1e-9);
            }
        }
    }

    @Test
    @Card(value = "svfit", checks = 7)
    void theRuleTakesTheLeastThatHoldsTheShare() {
        Linear layer = linear(random(1, 9, 8));
        Tensor w = layer.weight();
        Tensor s = w.svdvals();
        double[] values = s.doubles();
        for (int r = 1; r < 8; r++) {
            Svfit svfit = on(layer, Svfit.Config.of(r));
            Tensor top = value(svfit, "lora_B.weight").mul(s.narrow(0, 0, r)).matmul(value(svfit, "lora_A.weight"));
            Tensor rest = w.sub(top);
            double squares = s.narrow(0, r, 8 - r).square().sum().item();
            assertThat(rest.square().sum().item()).isCloseTo(squares, within(1e-10));
            assertThat(rest.svdvals().max().item()).isCloseTo(values[r], within(1e-10));
        }
        long before = 0;
        for (double energy = 0.05; energy <= 1; energy += 0.05) {
            long sum = Svfit.Config.DEFAULT
                    .withEnergy(energy, Svfit.Measure.VALUES)
                    .rank(s);
            long ofSquares = Svfit.Config.DEFAULT
                    .withEnergy(energy, Svfit.Measure.SQUARES)
                    .rank(s);
            assertThat(sum).isGreaterThanOrEqualTo(before);
            assertThat(ofSquares).isLessThanOrEqualTo(sum);
            before = sum;
        }
        for (Svfit.Measure measure : Svfit.Measure.values()) {
            assertThat(Svfit.Config.DEFAULT.withEnergy(1, measure).rank(s)).isEqualTo(8);
        }
        Tensor falling =
                Tensor.of(new double[] {4, 3, 2, 1}, 4); // shares 0.4, 0.7, 0.9; of squares 16/30, 25/30, 29/30
        assertThat(Svfit.Config.DEFAULT.withEnergy(0.7, Svfit.Measure.VALUES).rank(falling))
                .isEqualTo(2);
        assertThat(Svfit.Config.DEFAULT.withEnergy(0.71, Svfit.Measure.VALUES).rank(falling))
                .isEqualTo(3);
        assertThat(Svfit.Config.DEFAULT.withEnergy(0.53, Svfit.Measure.SQUARES).rank(falling))
                .isEqualTo(1);
    }

    /** A teacher with other singular values is found; one with other vectors is not, and a LoRA of rank 1 does not find the first. */
    @Test
    @Card(value = "svfit", checks = 8)
    void aRescaledTeacherIsRecoveredAndARotatedOneIsNot() {
        Linear layer = linear(random(1, OUT, IN));
        List<Tensor> svd = layer.weight().svd();
        double[] factors = {1.5, 0.4, 2, 0.7, 1.2};
        Tensor scaled = svd.get(1).mul(Tensor.of(factors, IN));
        Tensor teacher = svd.get(0).mul(scaled).matmul(svd.get(2));
        assertThat(fit(layer, teacher)).isLessThan(1e-10);
        double[] steps = scaled.sub(svd.get(1)).square().sort(0, true).get(0).doubles();
        double[] difference = teacher.sub(layer.weight()).svdvals().square().doubles();
        double floor = 0;
        double ofLora = 0;
        for (int i = 1; i < IN; i++) {
            floor += steps[i];
            ofLora += difference[i];
        }
        assertThat(ofLora).isCloseTo(floor, within(1e-9)).isGreaterThan(0.1); // Eckart and Young: the best of rank 1
        Tensor rotated = random(9, OUT, OUT).qr().get(0).matmul(layer.weight());
        Svfit at = on(layer, Svfit.Config.of(IN));
        Tensor inFrames = value(at, "lora_B.weight")
                .t()
                .matmul(rotated)
                .mul(value(at, "lora_A.weight"))
                .sum(1, false);
        double least = rotated.sub(layer.weight()).square().sum().item()
                - inFrames.sub(svd.get(1)).square().sum().item();
        assertThat(fit(layer, rotated)).isCloseTo(least, within(1e-8)).isGreaterThan(1);
    }

    /** The loss that descent in weight space ends with. */
    private static double fit(Linear layer, Tensor teacher) {
        Svfit svfit = on(layer, Svfit.Config.of(IN));
        double loss = 0;
        for (int i = 0; i < 60; i++) {
            try (Scope scope = Scope.open()) {
                Tensor each = merged(svfit, layer).sub(teacher).square().sum();
                loss = each.item();
                each.backward();
                delta(svfit).detach().add_(delta(svfit).grad(), -0.3);
                delta(svfit).clearGrad();
            }
        }
        return loss;
    }

    /** The rule's ranks go into the files, with vectors and without; the export is a plain LoRA. */
    @Test
    void whatTheRuleChoseIsSavedAndExported(@TempDir Path folder) {
        for (boolean frames : new boolean[] {true, false}) {
            Tiny net = new Tiny(DType.FLOAT64);
            AdaptedModel model = new AdaptedModel(net, net.heads());
            AdapterSpec<?> spec = spec(
                    Svfit.Config.of(0).withEnergy(0.8, Svfit.Measure.VALUES).withSaveFrames(frames));
            move(model.attach("default", spec, new Seed(1)), 0.3);
            Tensor adapted = run(net);
            Path file = folder.resolve("saved-" + frames);
            PeftFolder.save(model, "default", file, PeftFolder.Info.of("tiny", null), PeftFolder.Form.PLAIN, Map.of());
            PeftFolder.exportLora(model, "default", folder.resolve("lora-" + frames), null, 0, Map.of());
            model.remove("default");
            PeftFolder.load(model, file, null, false);
            assertThat(gap(run(net), adapted)).isLessThan(1e-12);
            model.remove("default");
            PeftFolder.load(model, folder.resolve("lora-" + frames), null, false);
            assertThat(gap(run(net), adapted)).isLessThan(1e-9);
            model.remove("default");
            if (!frames) {
                net.layers.get(0).fc.weightParameter().tensor().add_(random(9, 10, 8), 0.3);
                assertThatThrownBy(() -> PeftFolder.load(model, file, null, false))
                        .hasMessageContaining("layers.0.fc");
            }
        }
    }

    @Test
    void badInputIsRefusedWithAReason() {
        assertThatThrownBy(() -> Svfit.Config.of(-1))
                .hasMessage("r must be at least 1, or 0 for as many as hold the energy, found -1; try 0");
        for (double bad : new double[] {0, 1.1, Double.NaN}) {
            assertThatThrownBy(() -> Svfit.Config.of(0).withEnergy(bad, Svfit.Measure.VALUES))
                    .hasMessage("energy must lie in (0, 1], found " + bad + "; try 0.99");
        }
        Tiny net = new Tiny(DType.FLOAT32);
        AdaptedModel model = new AdaptedModel(net, net.heads());
        assertThatThrownBy(() -> model.attach("a", spec(Svfit.Config.of(9)), new Seed(1)))
                .hasMessageStartingWith("r is 9, above the width 8 of layers.0.fc [10, 8]");
        assertThatThrownBy(() -> TYPE.read(Fields.of("recipe", Map.of("rank_pattern", Map.of("a", 0)))))
                .hasMessage("rank_pattern: the rank of a must be at least 1, found 0; try 8");
        assertThat(Catalog.describe(TYPE)).contains("Our reading: ", "energy_of");
    }
}
