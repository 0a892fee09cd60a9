package dev.espalier.testtime;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import dev.espalier.adapter.Card;
import dev.espalier.model.Input;
import dev.espalier.model.LoadOptions;
import dev.espalier.model.Models;
import dev.espalier.model.Precision;
import dev.espalier.model.Pretrained;
import dev.espalier.model.Purpose;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Generator;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Tensor;
import dev.espalier.testtime.Lame.Affinity;
import dev.espalier.testtime.Lame.Config;
import java.net.URISyntaxException;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Objects;
import java.util.Random;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

/** By hand, by brute force, and on the card's toy. */
class LameTest {

    private static final Config USUAL = Config.DEFAULT;

    private Scope scope;

    @BeforeEach
    void open() {
        scope = Scope.open();
    }

    @AfterEach
    void close() {
        scope.close();
    }

    private static Config of(Affinity affinity, int k) {
        return new Config(affinity, k, 100, 1e-8, false);
    }

    private static Tensor matrix(int columns, double... values) {
        return Tensor.of(values, values.length / columns, columns);
    }

    private static Tensor random(Generator g, long... shape) {
        return g.randn(shape).to(DType.FLOAT64);
    }

    private static double gap(Tensor a, Tensor b) {
        return a.sub(b).abs().max().item();
    }

    /** F(Z) for a symmetric W. */
    private static double energy(Tensor z, Tensor q, Tensor w) {
        double kl =
                z.mul(z.clamp(1e-300, 1).log().sub(q.add(1e-10).log())).sum().item();
        return kl - 0.5 * w.mul(z.matmul(z.t())).sum().item();
    }

    @Test
    @Card(
            value = "lame",
            checks = {1})
    void withoutNeighboursNothingChanges() {
        Tensor q = matrix(3, 0.7, 0.2, 0.1, 1, 0, 0, 0.3, 0.3, 0.4);
        Lame.Corrected none = Lame.correct(USUAL, q, Tensor.zeros(DType.FLOAT64, 3, 3));
        assertThat(gap(none.z(), q.add(1e-10).div(1 + 3e-10))).isLessThan(1e-15);
        assertThat(none.steps()).isEqualTo(3);
        Tensor sharper =
                Lame.correct(USUAL, q, Tensor.eye(3, DType.FLOAT64).mul(2)).z();
        assertThat(sharper.argmax(1).longs()).containsExactly(q.argmax(1).longs());
        assertThat(sharper.amax(1, false).ge(q.amax(1, false).sub(1e-9)).all()).isTrue();
    }

    @Test
    @Card(
            value = "lame",
            checks = {2})
    void energyNeverRises() {
        for (int seed = 0; seed < 3; seed++) {
            try (Generator g = Generator.of(seed)) {
                Tensor q = random(g, 20, 4).softmax(1);
                Tensor w = Lame.affinity(USUAL, random(g, 20, 6));
                double before = energy(q, q, w);
                for (int steps = 1; steps <= 12; steps++) {
                    Tensor z = Lame.correct(new Config(Affinity.RBF, 5, steps, 0, false), q, w)
                            .z();
                    double now = energy(z, q, w);
                    assertThat(now).isLessThanOrEqualTo(before + 1e-12 * Math.abs(before));
                    before = now;
                }
            }
        }
    }

    /** The card's numbers, and the least F on a grid of 1/1000. */
    @Test
    @Card(
            value = "lame",
            checks = {3})
    void findsTheMinimumOfAGrid() {
        Tensor q = matrix(2, 0.7, 0.3, 0.45, 0.55);
        Tensor w = matrix(2, 0.6, 0.5, 0.5, 0.6);
        Lame.Corrected found = Lame.correct(USUAL, q, w);
        double[] z = found.z().doubles();
        assertThat(z[0]).isCloseTo(0.766979, within(1e-6));
        assertThat(z[2]).isCloseTo(0.523656, within(1e-6));
        assertThat(found.steps()).isEqualTo(22);
        double least = Double.POSITIVE_INFINITY;
        double[] at = new double[2];
        for (int i = 1; i < 1000; i++) {
            for (int j = 1; j < 1000; j++) {
                double a = i / 1000.0;
                double b = j / 1000.0;
                double f = kl(a, 0.7)
                        + kl(b, 0.45)
                        - 0.5 * (0.6 * (a * a + (1 - a) * (1 - a)) + 0.6 * (b * b + (1 - b) * (1 - b)))
                        - 0.5 * (a * b + (1 - a) * (1 - b));
                if (f < least) {
                    least = f;
                    at = new double[] {a, b};
                }
            }
        }
        assertThat(z[0]).isCloseTo(at[0], within(1e-3));
        assertThat(z[2]).isCloseTo(at[1], within(1e-3));
    }

    private static double kl(double z, double q) {
        return z * Math.log(z / q) + (1 - z) * Math.log((1 - z) / (1 - q));
    }

    /** With a spectral norm below 2 the fixed point is one: iterating by hand from elsewhere ends there too. */
    @Test
    @Card(
            value = "lame",
            checks = {4})
    void aContractionHasOneFixedPoint() {
        try (Generator g = Generator.of(1)) {
            Tensor q = random(g, 6, 3).softmax(1);
            Tensor half = random(g, 6, 6);
            Tensor w = half.add(half.t());
            w = w.mul(1.5 / w.svd().get(1).max().item());
            Tensor expected = Lame.correct(new Config(Affinity.RBF, 5, 300, 0, false), q, w)
                    .z();
            for (int start = 0; start < 3; start++) {
                Tensor z = random(g, 6, 3).mul(3).softmax(1);
                for (int i = 0; i < 300; i++) {
                    z = q.add(1e-10).log().add(w.matmul(z)).softmax(1);
                }
                assertThat(gap(z, expected)).isLessThan(1e-10);
            }
        }
    }

    @Test
    @Card(
            value = "lame",
            checks = {5})
    void theIndefiniteExampleOscillatesUntilTheLastStep() {
        Tensor q = matrix(2, 0.6, 0.4, 0.4, 0.6);
        Lame.Corrected found = Lame.correct(USUAL, q, matrix(2, 0, 5, 5, 0));
        assertThat(found.steps()).isEqualTo(100);
        assertThat(found.z().doubles()[0]).isCloseTo(0.99504, within(1e-5));
        assertThat(found.z().doubles()[2]).isCloseTo(0.00496, within(1e-5));
    }

    @Test
    @Card(
            value = "lame",
            checks = {6})
    void permutationsAndBlocksCarryOver() {
        try (Generator g = Generator.of(2)) {
            Tensor q = random(g, 10, 3).softmax(1);
            Tensor f = random(g, 10, 4);
            Tensor order = Tensor.of(new long[] {3, 1, 4, 0, 5, 9, 2, 6, 8, 7}, 10);
            Tensor classes = Tensor.of(new long[] {2, 0, 1}, 3);
            for (Affinity affinity : Affinity.values()) {
                Config config = of(affinity, 3);
                Tensor z = Lame.correct(config, q, Lame.affinity(config, f)).z();
                Tensor turned = Lame.correct(
                                config,
                                q.indexSelect(0, order).indexSelect(1, classes),
                                Lame.affinity(config, f.indexSelect(0, order)))
                        .z();
                assertThat(gap(turned, z.indexSelect(0, order).indexSelect(1, classes)))
                        .as(affinity.name())
                        .isLessThan(1e-6);
            }
            // Two batches side by side with nothing between them.
            Config fixed = new Config(Affinity.RBF, 5, 30, 0, false);
            Tensor w = Lame.affinity(fixed, f);
            Tensor left = w.narrow(0, 0, 4).narrow(1, 0, 4);
            Tensor right = w.narrow(0, 4, 6).narrow(1, 4, 6);
            Tensor block = Tensor.cat(java.util.List.of(left.pad(0, 6), right.pad(4, 0)), 0);
            Tensor together = Lame.correct(fixed, q, block).z();
            Tensor apart = Tensor.cat(
                    java.util.List.of(
                            Lame.correct(fixed, q.narrow(0, 0, 4), left).z(),
                            Lame.correct(fixed, q.narrow(0, 4, 6), right).z()),
                    0);
            assertThat(gap(together, apart)).isLessThan(1e-12);
        }
    }

    @Test
    @Card(
            value = "lame",
            checks = {7})
    void theModelStaysAsItIsAndBatchesForgetEachOther() throws URISyntaxException {
        Path bert = Path.of(Objects.requireNonNull(LameTest.class.getResource("/golden/peft/bases/bert"))
                .toURI());
        try (Pretrained base = Models.load(
                        bert, Purpose.classification(), LoadOptions.defaults().withPrecision(Precision.FP32));
                Adaptation lame = new Lame().start(USUAL, base.classifier());
                Grad off = Grad.off()) {
            Map<String, Tensor> before = new LinkedHashMap<>();
            base.model()
                    .namedParameters()
                    .forEach((path, p) -> before.put(path, p.tensor().clone()));
            Input first = Input.of(Tensor.of(new long[] {5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}, 4, 3));
            Input second = Input.of(Tensor.of(new long[] {20, 21, 22, 23, 24, 25}, 3, 2));
            Tensor fresh = lame.predict(first);
            assertThat(fresh.shape()).containsExactly(4, 3);
            assertThat(gap(fresh.sum(1, false), Tensor.ones(DType.FLOAT64, 4))).isLessThan(1e-12);
            assertThat(gap(fresh, base.model().forward(first).to(DType.FLOAT64).softmax(1)))
                    .isGreaterThan(1e-4);
            assertThat(lame.figures()).containsKeys("steps", "affinity_row_sum");
            lame.predict(second);
            assertThat(lame.predict(first).equal(fresh)).isTrue();
            Input one = Input.of(Tensor.of(new long[] {5, 6}, 1, 2));
            assertThat(gap(
                            lame.predict(one),
                            base.model().forward(one).to(DType.FLOAT64).softmax(1)))
                    .isLessThan(1e-15);
            base.model()
                    .namedParameters()
                    .forEach((path, p) -> assertThat(p.tensor().equal(before.get(path)))
                            .as(path)
                            .isTrue());
        }
    }

    /** 40 batches of 64 from 100 Gaussian classes in 64 dimensions. */
    @Test
    @Card(
            value = "lame",
            checks = {8})
    void correlatedStreamsGainAndMixedOnesLoseLittle() {
        Config knn = of(Affinity.KNN, 5);
        double[] three = toy(knn, 3);
        assertThat(three[0]).isBetween(0.85, 0.97);
        assertThat(three[1]).isGreaterThanOrEqualTo(0.98);
        double[] mixed = toy(knn, 100);
        assertThat(mixed[1]).isCloseTo(mixed[0], within(0.02));
        double[] collapsed = toy(USUAL, 100);
        assertThat(collapsed[1]).isLessThan(collapsed[0] - 0.05);
    }

    /** Accuracy before and after where a batch has so many classes. */
    private static double[] toy(Config config, int classesOfABatch) {
        try (Generator g = Generator.of(11)) {
            Random random = new Random(5);
            Tensor means = random(g, 100, 64);
            Tensor m = means.add(random(g, 100, 64));
            Tensor bias = m.square().sum(1, false).div(2);
            int before = 0;
            int after = 0;
            for (int b = 0; b < 40; b++) {
                int[] allowed = random.ints(classesOfABatch, 0, 100).toArray();
                long[] labels = new long[64];
                for (int i = 0; i < 64; i++) {
                    labels[i] = classesOfABatch == 100 ? random.nextInt(100) : allowed[random.nextInt(classesOfABatch)];
                }
                Tensor x = means.indexSelect(0, Tensor.of(labels, 64)).add(random(g, 64, 64));
                Tensor q = x.matmul(m.t()).sub(bias).mul(0.25).softmax(1);
                before += right(q, labels);
                after += right(Lame.correct(config, q, Lame.affinity(config, x)).z(), labels);
            }
            return new double[] {before / 2560.0, after / 2560.0};
        }
    }

    private static int right(Tensor z, long[] labels) {
        long[] found = z.argmax(1).longs();
        int right = 0;
        for (int i = 0; i < labels.length; i++) {
            right += found[i] == labels[i] ? 1 : 0;
        }
        return right;
    }

    /** Four points on a circle at 0, 10, 20 and 90 degrees. */
    @Test
    void affinitiesByHand() {
        double[] angle = {0, 10, 20, 90};
        double[] f = new double[8];
        for (int i = 0; i < 4; i++) {
            f[2 * i] = 3 * Math.cos(Math.toRadians(angle[i])); // length does not matter
            f[2 * i + 1] = 3 * Math.sin(Math.toRadians(angle[i]));
        }
        Tensor features = matrix(2, f);
        assertThat(Lame.affinity(of(Affinity.KNN, 1), features).doubles())
                .containsExactly(0, 1, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0);
        assertThat(Lame.affinity(of(Affinity.LINEAR, 1), features).doubles()[3]).isCloseTo(0, within(1e-15));
        assertThat(Lame.affinity(new Config(Affinity.KNN, 1, 100, 1e-8, true), features)
                        .doubles()[6])
                .isEqualTo(0.5);
        // Chords: 2 sin(δ/2). The second smallest distance, the sample counted: 10, 10, 10 and 70 degrees.
        double sigma = (3 * chord(10) + chord(70)) / 4;
        double[] rbf = Lame.affinity(of(Affinity.RBF, 2), features).doubles();
        assertThat(rbf[0]).isEqualTo(1);
        assertThat(rbf[1]).isCloseTo(Math.exp(-Math.pow(chord(10) / sigma, 2) / 2), within(1e-12));
    }

    private static double chord(double degrees) {
        return 2 * Math.sin(Math.toRadians(degrees) / 2);
    }

    /** Duplicates, where a bandwidth of 0 would give NaN, and more neighbours than there are. */
    @Test
    void duplicatesGiveNoNaN() {
        Tensor same = Tensor.ones(DType.FLOAT64, 4, 3);
        Tensor q = matrix(2, 0.6, 0.4, 0.3, 0.7, 0.9, 0.1, 0.5, 0.5);
        for (Affinity affinity : Affinity.values()) {
            Tensor w = Lame.affinity(of(affinity, 9), same);
            assertThat(Lame.correct(USUAL, q, w).z().isFinite().all())
                    .as(affinity.name())
                    .isTrue();
        }
        assertThat(Lame.affinity(of(Affinity.KNN, 9), same).sum(1, false).doubles())
                .containsOnly(3);
    }

    @Test
    void badSettingsAreRefusedWithAReason() {
        assertThatThrownBy(() -> of(Affinity.RBF, 1))
                .hasMessage(
                        "k is 1, but for rbf the sample itself counts as the first neighbour, at distance 0; try 5");
        assertThatThrownBy(() -> of(Affinity.KNN, 0)).hasMessage("k must be at least 1, found 0; try 5");
        assertThatThrownBy(() -> new Config(Affinity.KNN, 5, 0, 1e-8, false))
                .hasMessage("steps must be at least 1, found 0; try 100");
        assertThatThrownBy(() -> new Config(Affinity.KNN, 5, 9, Double.NaN, false))
                .hasMessage("tolerance must be at least 0 and finite, found NaN; try 1e-8");
    }
}
