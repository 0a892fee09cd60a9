package dev.espalier.unlearn;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import dev.espalier.adapter.Card;
import dev.espalier.data.Collator;
import dev.espalier.data.Encoding;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Generator;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Tensor;
import java.util.List;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

/** The losses of LoKU, NPO and gradient ascent on given logits. */
class LokuTest {

    private static final long[] TARGETS = {2, 0, 5};

    private Scope scope;
    private double[] values; // [3, 6]

    @BeforeEach
    void open() {
        scope = Scope.open();
        try (Generator random = Generator.of(4)) {
            values = random.randn(3, 6).to(DType.FLOAT64).doubles();
        }
    }

    @AfterEach
    void close() {
        scope.close();
    }

    private static Tensor loss(double[] logits) {
        return Loku.invertedHinge(Tensor.of(logits, 3, 6), Tensor.of(TARGETS, 3));
    }

    @Test
    @Card(value = "loku", checks = 3)
    void gradientIsTheClosedFormsAndSumsToZero() {
        Tensor z = Tensor.of(values, 3, 6).requiresGrad_(true);
        Loku.invertedHinge(z, Tensor.of(TARGETS, 3)).backward();
        double[] gradient = z.grad().doubles();
        double[] p = z.detach().softmax(-1).doubles();
        for (int row = 0; row < 3; row++) {
            int y = (int) TARGETS[row];
            int v = y == 0 ? 1 : 0;
            for (int k = 0; k < 6; k++) {
                v = k != y && p[row * 6 + k] > p[row * 6 + v] ? k : v;
            }
            double py = p[row * 6 + y];
            double pv = p[row * 6 + v];
            double sum = 0;
            for (int k = 0; k < 6; k++) {
                double expected =
                        k == y ? py * (1 - py + pv) : k == v ? -pv * (1 - pv + py) : p[row * 6 + k] * (pv - py);
                double found = 3 * gradient[row * 6 + k];
                assertThat(found).isCloseTo(expected, within(1e-12));
                sum += found;
                double[] more = values.clone();
                double[] less = values.clone();
                more[row * 6 + k] += 1e-6;
                less[row * 6 + k] -= 1e-6;
                double numeric = (loss(more).item() - loss(less).item()) / 2e-6;
                assertThat(gradient[row * 6 + k]).isCloseTo(numeric, within(1e-8));
            }
            assertThat(sum).isCloseTo(0, within(1e-12));
        }
    }

    @Test
    @Card(value = "loku", checks = 4)
    @Card(value = "ga", checks = 4)
    void lossIsBoundedWhereAscentIsNot() {
        assertThat(loss(new double[18]).item()).isEqualTo(1);
        assertThat(peaked(0).item()).isCloseTo(2, within(1e-12));
        assertThat(peaked(1).item()).isCloseTo(0, within(1e-12));
        for (int i = 0; i < 20; i++) {
            try (Generator random = Generator.of(i)) {
                assertThat(loss(random.normal(0, 5, 3, 6).to(DType.FLOAT64).doubles())
                                .item())
                        .isBetween(0.0, 2.0);
            }
        }
        for (double depth : new double[] {1e2, 1e4}) {
            double[] logits = new double[18];
            for (int row = 0; row < 3; row++) {
                logits[row * 6 + (int) TARGETS[row]] = -depth;
            }
            Tensor ascent = Tensor.of(logits, 3, 6)
                    .crossEntropy(Tensor.of(TARGETS, 3), null, 0, Tensor.Reduction.MEAN)
                    .neg();
            assertThat(ascent.item()).isLessThan(-depth);
        }
    }

    /** All probability on the token {@code shift} after the target. */
    private static Tensor peaked(int shift) {
        double[] logits = new double[18];
        for (int row = 0; row < 3; row++) {
            logits[row * 6 + (int) (TARGETS[row] + shift) % 6] = 1000;
        }
        return loss(logits);
    }

    /** Of equal competitors the lowest is taken: it alone is pushed up. */
    @Test
    void tiesGoToTheLowerIndex() {
        Tensor z = Tensor.zeros(DType.FLOAT64, 1, 6).requiresGrad_(true);
        Loku.invertedHinge(z, Tensor.of(new long[] {0}, 1)).backward();
        assertThat(z.grad().doubles()).containsExactly(new double[] {1 / 6.0, -1 / 6.0, 0, 0, 0, 0}, within(1e-12));
    }

    /** Two rows of 2 and 1 targets, β 0.5: (2/β) mean softplus(β Σ ratios), its gradient 2 σ(β Σ) / rows. */
    @Test
    void npoIsASoftplusOfEachRowsGain() {
        double[] gains = {0.3, -1.1, 0.7};
        Tensor ratios = Tensor.of(gains, 3).requiresGrad_(true);
        Tensor rows = Tensor.of(new double[] {1, 1, 0, 0, 0, 1}, 2, 3);
        Tensor loss = Npo.loss(ratios, rows, 0.5);
        double first = 0.5 * (0.3 - 1.1);
        double second = 0.5 * 0.7;
        assertThat(loss.item())
                .isCloseTo(4 * (Math.log1p(Math.exp(first)) + Math.log1p(Math.exp(second))) / 2, within(1e-12));
        loss.backward();
        double a = 1 / (1 + Math.exp(-first));
        double b = 1 / (1 + Math.exp(-second));
        assertThat(ratios.grad().doubles()).containsExactly(new double[] {a, a, b}, within(1e-12));

        Tensor start = Tensor.zeros(DType.FLOAT64, 3).requiresGrad_(true); // where every training begins
        Npo.loss(start, rows, 0.1).backward();
        assertThat(start.grad().doubles()).containsExactly(new double[] {0.5, 0.5, 0.5}, within(1e-12));
        double far = Npo.loss(Tensor.of(new double[] {-4000, 0, -4000}, 3), rows, 0.5)
                .item();
        assertThat(far).as("bounded below").isCloseTo(0, within(1e-12));
    }

    @Test
    void npoTellsRowsFromTheBatch() {
        List<Encoding> rows = List.of(
                new Encoding(new int[] {4, 5, 6}, null, new boolean[] {true, true, true}, null, "a:1"),
                new Encoding(new int[] {4, 5}, null, new boolean[] {false, false}, null, "a:2"),
                new Encoding(new int[] {4, 5, 6, 7}, null, new boolean[] {false, false, true, false}, null, "a:3"));
        Tensor members = Npo.rows(Collator.batch(rows, 0));
        assertThat(members.shape()).containsExactly(2, 3);
        assertThat(members.doubles()).containsExactly(1, 1, 0, 0, 0, 1);
    }

    @Test
    void badSettingsAreRefusedWithAReason() {
        Retain none = new Retain(Retain.Kind.NONE, 1);
        assertThatThrownBy(() -> new Npo.Config(0, none))
                .hasMessage("beta must be above 0 and finite, found 0.0; try 0.1");
        assertThatThrownBy(() -> new Npo.Config(Double.POSITIVE_INFINITY, none))
                .hasMessageStartingWith("beta must be above 0 and finite");
        assertThatThrownBy(() -> new Retain(Retain.Kind.CE, Double.NaN))
                .hasMessage("retainWeight must be at least 0 and finite, found NaN; try 1");
    }
}
