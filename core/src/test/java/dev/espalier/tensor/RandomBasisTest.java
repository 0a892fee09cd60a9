package dev.espalier.tensor;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import java.util.SplittableRandom;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

class RandomBasisTest {

    private Scope scope;

    @BeforeEach
    void open() {
        scope = Scope.open();
    }

    @AfterEach
    void close() {
        scope.close();
    }

    /** The JDK's SplittableRandom is SplitMix64 by others. */
    @Test
    void entriesAreThoseOfTheSpecification() {
        RandomBasis basis = new RandomBasis(new Seed(42), 4, 3, 5);
        for (int i = 0; i < 4; i++) {
            SplittableRandom words = new SplittableRandom(new Seed(42).at(i).value());
            double[] expected = new double[16];
            for (int n = 0; n < 8; n++) {
                long word = words.nextLong();
                expected[2 * n] = (word >>> 40) / (double) (1 << 23) - 1;
                expected[2 * n + 1] = ((word >>> 16) & 0xffffff) / (double) (1 << 23) - 1;
            }
            assertThat(basis.matrix(i).doubles()).containsExactly(java.util.Arrays.copyOf(expected, 15));
        }
    }

    /** The combination and its gradient against the matrices held at once, on shapes that fill blocks and that do not. */
    @Test
    void combinationsAndProductsAreThoseOfTheMatrices() {
        for (int columns : new int[] {1, 7, 3000}) {
            RandomBasis basis = new RandomBasis(new Seed(1), 5, 3, columns);
            try (Generator g = Generator.of(3)) {
                Tensor c = g.randn(5).to(DType.FLOAT64);
                Tensor gradient = g.randn(3, columns).to(DType.FLOAT64);
                Tensor sum = Tensor.zeros(DType.FLOAT64, 3, columns);
                double[] products = basis.products(gradient).doubles();
                for (int i = 0; i < 5; i++) {
                    Tensor w = basis.matrix(i).to(DType.FLOAT64);
                    sum.add_(w, c.select(0, i).item());
                    assertThat(products[i]).isCloseTo(w.mul(gradient).sum().item(), within(1e-11));
                }
                assertThat(basis.combine(c).sub(sum).abs().max().item()).isLessThan(1e-14);
            }
        }
    }

    @Test
    void entriesAreUniform() {
        double[] entries = new RandomBasis(new Seed(9), 1, 100, 1000).matrix(0).doubles();
        double sum = 0;
        double squares = 0;
        double neighbours = 0;
        for (int i = 0; i < entries.length; i++) {
            assertThat(entries[i]).isBetween(-1.0, Math.nextDown(1.0));
            sum += entries[i];
            squares += entries[i] * entries[i];
            neighbours += entries[i] * entries[(i + 1) % entries.length];
        }
        // Five standard deviations of the means of 10⁵ values: 1/√3, √(4/45) and 1/3 over √10⁵.
        assertThat(sum / 1e5).isCloseTo(0, within(0.0092));
        assertThat(squares / 1e5).isCloseTo(1.0 / 3, within(0.0048));
        assertThat(neighbours / 1e5).isCloseTo(0, within(0.0053));
    }

    @Test
    void wrongSizesAreRefused() {
        assertThatThrownBy(() -> new RandomBasis(new Seed(1), 0, 2, 3))
                .hasMessage("a basis of 0 matrices [2, 3] is empty");
        assertThatThrownBy(() -> new RandomBasis(new Seed(1), 4, 2, 3).combine(Tensor.zeros(DType.FLOAT32, 3)))
                .hasMessage("a basis needs 4 numbers here, found [3]");
    }
}
