package dev.espalier.optim;

import static dev.espalier.optim.Steps.gap;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import dev.espalier.adapter.Card;
import dev.espalier.adapter.Full;
import dev.espalier.adapter.Lora;
import dev.espalier.optim.DctAdamW.Feedback;
import dev.espalier.optim.DctAdamW.Path;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Dct;
import dev.espalier.tensor.Generator;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Tensor;
import dev.espalier.train.AdamW;
import dev.espalier.train.Optimizer;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

class DctAdamWTest {

    private Scope scope;
    private Generator generator;

    @BeforeEach
    void open() {
        scope = Scope.open();
        generator = Generator.of(6);
    }

    @AfterEach
    void close() {
        generator.close();
        scope.close();
    }

    private Tensor noise(long... shape) {
        return generator.randn(shape).to(DType.FLOAT64);
    }

    private static DctAdamW.Bound bound(int rank, int gap, Feedback feedback, Path path) {
        return new DctAdamW.Bound(
                new DctAdamW.Config(rank, gap, true, feedback, 1, path, AdamW.Config.DEFAULT),
                Map.of("tall", new long[] {8, 5}, "wide", new long[] {5, 9}));
    }

    private Steps matrices(DType dtype) {
        return new Steps().noise("tall", dtype, generator, 8, 5).noise("wide", dtype, generator, 5, 9);
    }

    private static Tensor eye(long n) {
        return Tensor.eye(n, DType.FLOAT64);
    }

    @Test
    @Card(
            value = "dct-adamw",
            checks = {1})
    void theMatrixIsOrthogonalAndTheFourierTransformComputesIt() {
        for (int n : new int[] {1, 2, 5, 8, 12, 13}) {
            Tensor d = Dct.matrix(n, DType.FLOAT64);
            assertThat(gap(d.matmul(d.t()), eye(n))).isLessThan(1e-12);
            Tensor x = noise(3, n);
            assertThat(gap(Dct.transform(x), x.matmul(d.t()))).as("n = %d", n).isLessThan(1e-10);
        }
        // By hand, n = 2: (1, 1) / √2 and (cos 45°, cos 135°)
        assertThat(gap(
                        Dct.matrix(2, DType.FLOAT64),
                        Tensor.of(new double[] {1, 1, 1, -1}, 2, 2).mul(Math.sqrt(0.5))))
                .isLessThan(1e-15);
        Tensor rows = Dct.rows(Tensor.of(new long[] {3, 7}), 9, DType.FLOAT64);
        assertThat(gap(rows, Dct.matrix(9, DType.FLOAT64).indexSelect(0, Tensor.of(new long[] {3, 7}))))
                .isZero();
        Tensor wide = Dct.matrix(700, DType.FLOAT64);
        assertThat(gap(wide.matmul(wide.t()), eye(700))).isLessThan(1e-12);
    }

    @Test
    @Card(
            value = "dct-adamw",
            checks = {2})
    void theTwoNormLeavesTheSmallestRest() {
        Tensor a = noise(7, 6);
        Tensor d = Dct.matrix(6, DType.FLOAT64);
        Tensor spectrum = a.matmul(d.t());
        Tensor chosen = CosineStep.choose(spectrum, true, 3, 2);
        double found = rest(a, d, chosen);
        double best = Double.POSITIVE_INFINITY;
        for (int i = 0; i < 6; i++) {
            for (int j = i + 1; j < 6; j++) {
                for (int k = j + 1; k < 6; k++) {
                    best = Math.min(best, rest(a, d, Tensor.of(new long[] {i, j, k})));
                }
            }
        }
        assertThat(found).isCloseTo(best, within(1e-12));
        double all = a.square().sum().item();
        double kept = spectrum.indexSelect(1, chosen).square().sum().item();
        assertThat(found).isCloseTo(all - kept, within(1e-10));
        assertThat(found).isLessThanOrEqualTo((1 - 3 / 6.0) * all);
        assertThat(chosen.equal(chosen.sort(0, false).get(0))).isTrue();
        assertThat(CosineStep.choose(spectrum.t(), false, 3, 2).equal(chosen)).isTrue();
    }

    private static double rest(Tensor a, Tensor d, Tensor indices) {
        Tensor vectors = d.indexSelect(0, indices);
        return a.sub(a.matmul(vectors.t()).matmul(vectors)).square().sum().item();
    }

    @Test
    @Card(
            value = "dct-adamw",
            checks = {3})
    void stateFollowsItsVectors() {
        Tensor d = Dct.matrix(9, DType.FLOAT64);
        Tensor before = Tensor.of(new long[] {0, 2, 5, 6});
        Tensor now = Tensor.of(new long[] {2, 3, 6, 8});
        Tensor r = d.indexSelect(0, before).matmul(d.indexSelect(0, now).t()); // [4, 4]
        Tensor expected = Tensor.of(new double[] {0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0}, 4, 4);
        assertThat(gap(r, expected)).isLessThan(1e-12);
        Tensor state = noise(7, 4).abs();
        assertThat(gap(
                        CosineStep.carried(state, before, now, 1),
                        state.matmul(r).abs()))
                .isLessThan(1e-10);
        Tensor lying = noise(4, 7).abs();
        assertThat(gap(
                        CosineStep.carried(lying, before, now, 0),
                        r.t().matmul(lying).abs()))
                .isLessThan(1e-10);
    }

    @Test
    @Card(
            value = "dct-adamw",
            checks = {4})
    void withAllVectorsNothingIsLeftAndTheMomentIsAdams() {
        Steps steps = matrices(DType.FLOAT64);
        Steps plain = steps.copy();
        try (Optimizer ours = bound(5, 1, Feedback.EXACT, Path.MATMUL).create(steps.groups(0));
                Optimizer adam = AdamW.Config.DEFAULT.create(plain.groups(0))) {
            for (int i = 0; i < 3; i++) {
                steps.noiseGradients(generator);
                steps.parameters.forEach(
                        (name, p) -> plain.gradient(name, p.tensor().grad()));
                ours.step(0.1);
                adam.step(0.1);
                Tensor d = Dct.matrix(5, DType.FLOAT64);
                Map<String, Tensor> state = ours.state();
                assertThat(state.get("error.tall").abs().max().item()).isLessThan(1e-13);
                assertThat(gap(state.get("exp_avg.tall").matmul(d), adam.state().get("exp_avg.tall")))
                        .isLessThan(1e-13);
                assertThat(gap(
                                d.t().matmul(state.get("exp_avg.wide")),
                                adam.state().get("exp_avg.wide")))
                        .isLessThan(1e-13);
            }
        }
    }

    @Test
    @Card(
            value = "dct-adamw",
            checks = {5})
    void gradientsInASpanMoveTheWeightInItAlone() {
        Steps steps = matrices(DType.FLOAT64);
        Steps start = steps.copy();
        Tensor vectors = Dct.matrix(5, DType.FLOAT64).indexSelect(0, Tensor.of(new long[] {1, 3}));
        try (Optimizer optimizer = bound(2, 1, Feedback.EXACT, Path.MATMUL).create(steps.groups(0))) {
            for (int i = 0; i < 4; i++) {
                steps.gradient("tall", noise(8, 2).matmul(vectors));
                steps.gradient("wide", vectors.t().matmul(noise(2, 9)));
                optimizer.step(0.1);
                for (String name : steps.parameters.keySet()) {
                    assertThat(optimizer.state().get("indices." + name).longs()).containsExactly(1, 3);
                    assertThat(optimizer
                                    .state()
                                    .get("error." + name)
                                    .abs()
                                    .max()
                                    .item())
                            .isLessThan(1e-13);
                }
            }
        }
        Tensor tall = steps.value("tall").sub(start.value("tall"));
        assertThat(gap(tall.matmul(vectors.t()).matmul(vectors), tall)).isLessThan(1e-12);
        Tensor wide = steps.value("wide").sub(start.value("wide"));
        assertThat(gap(vectors.t().matmul(vectors).matmul(wide), wide)).isLessThan(1e-12);
        assertThat(wide.abs().max().item()).isGreaterThan(0.01);
    }

    /** With β1 = 0 the first moment is a itself. */
    @Test
    @Card(
            value = "dct-adamw",
            checks = {6})
    void whatIsKeptAndWhatIsLeftIsWhatCame() {
        for (Feedback feedback : List.of(Feedback.EXACT, Feedback.EIGHT_BIT)) {
            for (int gap : new int[] {1, 3}) {
                Steps steps = matrices(DType.FLOAT64);
                DctAdamW.Config config = new DctAdamW.Config(
                        2, gap, true, feedback, 1, Path.MATMUL, new AdamW.Config(0, 0.999, 1e-8, 0));
                try (Optimizer optimizer = new DctAdamW.Bound(
                                config, bound(1, 1, feedback, Path.MATMUL).matrices())
                        .create(steps.groups(0))) {
                    Tensor before = Tensor.zeros(DType.FLOAT64, 8, 5);
                    for (int i = 0; i < 5; i++) {
                        steps.noiseGradients(generator);
                        optimizer.step(0.1);
                        Map<String, Tensor> state = optimizer.state();
                        Tensor vectors = Dct.matrix(5, DType.FLOAT64)
                                .indexSelect(0, state.get("indices.tall").to(DType.INT64));
                        Tensor back = state.get("exp_avg.tall").matmul(vectors);
                        Tensor came =
                                steps.parameters.get("tall").tensor().grad().add(before);
                        Tensor error = error(state, feedback);
                        Tensor missing = back.add(error).sub(came).abs();
                        if (feedback == Feedback.EXACT) {
                            assertThat(missing.max().item()).isLessThan(1e-13);
                        } else {
                            Tensor most = state.get("error_unit.tall").mul(0.5).add(1e-12);
                            assertThat(missing.sub(most).max().item()).isLessThanOrEqualTo(0);
                        }
                        before = error.clone();
                    }
                }
            }
        }
    }

    private static Tensor error(Map<String, Tensor> state, Feedback feedback) {
        return feedback == Feedback.EXACT
                ? state.get("error.tall")
                : state.get("error_codes.tall")
                        .to(DType.FLOAT64)
                        .mul(state.get("error_unit.tall"))
                        .add(state.get("error_low.tall"));
    }

    @Test
    void aRowOfOneValueSurvivesEightBits() {
        Steps steps = matrices(DType.FLOAT64);
        try (Optimizer optimizer = bound(2, 1, Feedback.EIGHT_BIT, Path.MATMUL).create(steps.groups(0))) {
            steps.parameters.forEach(
                    (name, p) -> steps.gradient(name, p.tensor().detach().zerosLike()));
            optimizer.step(0.1);
            optimizer.step(0.1);
        }
        assertThat(steps.value("tall").isFinite().all()).isTrue();
    }

    @Test
    @Card(
            value = "dct-adamw",
            checks = {7})
    void stateIsThatOfTheFormula() {
        long moments = 4 * 2 * (2 * 8 + 2 * 9);
        long indices = 4 * 2 * 2;
        long basis = 4 * 5 * 5; // both matrices have the width 5
        Steps steps = matrices(DType.FLOAT32);
        assertThat(bound(2, 1, Feedback.NONE, Path.MATMUL).stateBytes(steps.groups(0)))
                .isEqualTo(moments + indices + basis);
        assertThat(bound(2, 1, Feedback.NONE, Path.FFT).stateBytes(steps.groups(0)))
                .isEqualTo(moments + indices);
        assertThat(bound(2, 1, Feedback.EXACT, Path.FFT).stateBytes(steps.groups(0)))
                .isEqualTo(moments + indices + 4 * (8 * 5 + 5 * 9));
        assertThat(bound(2, 1, Feedback.EIGHT_BIT, Path.FFT).stateBytes(steps.groups(0)))
                .isEqualTo(moments + indices + (8 * 5 + 5 * 9) + 2 * 4 * (8 + 5));
        for (Feedback feedback : Feedback.values()) {
            Steps.declaresItsStateAndResumes(matrices(DType.FLOAT32), bound(2, 2, feedback, Path.MATMUL), basis);
        }
        Steps.declaresItsStateAndResumes(matrices(DType.FLOAT32), bound(2, 2, Feedback.EIGHT_BIT, Path.FFT), 0);
    }

    @Test
    void bothPathsMakeTheSameSteps() {
        Steps one = matrices(DType.FLOAT64);
        Steps two = one.copy();
        try (Optimizer matmul = bound(2, 2, Feedback.EXACT, Path.MATMUL).create(one.groups(0.1));
                Optimizer fft = bound(2, 2, Feedback.EXACT, Path.FFT).create(two.groups(0.1))) {
            for (int i = 0; i < 5; i++) {
                one.noiseGradients(generator);
                one.parameters.forEach(
                        (name, p) -> two.gradient(name, p.tensor().grad()));
                matmul.step(0.1);
                fft.step(0.1);
            }
        }
        one.parameters
                .keySet()
                .forEach(name ->
                        assertThat(gap(one.value(name), two.value(name))).isLessThan(1e-9));
    }

    /** By the equations, with matrices throughout: choices at updates 1, 2, 4; decay first; rotation by R. */
    @Test
    void stepsAreThoseOfTheEquations() {
        Steps steps = new Steps().with("tall", noise(8, 5));
        Tensor w = steps.value("tall").clone();
        Tensor m = Tensor.zeros(DType.FLOAT64, 8, 2);
        Tensor v = Tensor.zeros(DType.FLOAT64, 8, 2);
        Tensor e = Tensor.zeros(DType.FLOAT64, 8, 5);
        Tensor d = Dct.matrix(5, DType.FLOAT64);
        List<Tensor> q = new ArrayList<>();
        try (Optimizer optimizer = bound(2, 2, Feedback.EXACT, Path.MATMUL).create(steps.groups(0.1))) {
            for (int t = 1; t <= 5; t++) {
                steps.noiseGradients(generator);
                Tensor all = steps.parameters.get("tall").tensor().grad().add(e);
                w = w.mul(1 - 0.05 * 0.1);
                if (t == 1 || t % 2 == 0) {
                    Tensor sizes = all.matmul(d.t()).abs().sum(0, false);
                    Tensor now = d.indexSelect(0, sizes.topk(2).get(1)).t(); // [5, 2], in whatever order
                    if (!q.isEmpty()) {
                        Tensor r = q.get(q.size() - 1).t().matmul(now);
                        m = m.matmul(r);
                        v = v.matmul(r).abs();
                    }
                    q.add(now);
                }
                Tensor now = q.get(q.size() - 1);
                Tensor low = all.matmul(now);
                e = all.sub(low.matmul(now.t()));
                m = m.mul(0.9).add(low.mul(0.1));
                v = v.mul(0.999).add(low.square().mul(0.001));
                double bias = Math.sqrt(1 - Math.pow(0.999, t));
                Tensor u = m.div(v.sqrt().add(1e-8 * bias));
                w = w.sub(u.matmul(now.t()).mul(0.05 * bias / (1 - Math.pow(0.9, t))));
                optimizer.step(0.05);
                assertThat(gap(steps.value("tall"), w)).as("step %d", t).isLessThan(1e-10);
            }
        }
    }

    @Test
    void badSettingsAndAdaptersAreRefused() {
        assertThat(new DctAdamW().objection(new Full())).isNull();
        assertThat(new DctAdamW().objection(new Lora.Type()))
                .isEqualTo(
                        "DCT-AdamW projects gradients of whole weights, and lora trains none; use the adapter full, or another optimizer");
        AdamW.Config adam = AdamW.Config.DEFAULT;
        assertThatThrownBy(() -> new DctAdamW.Config(0, 1, true, Feedback.NONE, 1, Path.FFT, adam))
                .hasMessage("rank must be at least 1, found 0; try 128");
        assertThatThrownBy(() -> new DctAdamW.Config(1, 0, true, Feedback.NONE, 1, Path.FFT, adam))
                .hasMessage("update_proj_gap must be at least 1, found 0; try 1");
        assertThatThrownBy(() -> new DctAdamW.Config(1, 1, true, Feedback.NONE, 3, Path.FFT, adam))
                .hasMessage("ell_norm must be 1 or 2, found 3; try 1");
    }
}
