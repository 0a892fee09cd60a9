package dev.espalier.federated;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import dev.espalier.adapter.Card;
import org.junit.jupiter.api.Test;

class RenyiAccountantTest {

    /** The card's vectors, which Opacus 1.6 confirms when it is restricted to these orders. */
    @Test
    @Card(
            value = "fedsvd",
            checks = {7})
    void reproducesTheTestVectors() {
        assertThat(RenyiAccountant.epsilon(0.01, 1, 1000, 1e-5)).isCloseTo(2.1078, within(1e-4));
        assertThat(RenyiAccountant.epsilon(1, 10, 1, 1e-5)).isCloseTo(0.3753, within(1e-4));
        assertThat(RenyiAccountant.epsilon(256.0 / 60000, 1.1, 14062, 1e-5)).isCloseTo(2.5970, within(1e-4));
        assertThat(RenyiAccountant.epsilon(1 / 88.0, 0.6609, 500, 1e-5)).isCloseTo(6.00, within(5e-3));
    }

    @Test
    @Card(
            value = "fedsvd",
            checks = {7})
    void growsWithStepsAndChanceAndFallsWithNoise() {
        double usual = RenyiAccountant.epsilon(0.05, 1, 100, 1e-5);
        assertThat(RenyiAccountant.epsilon(0.05, 1, 200, 1e-5)).isGreaterThan(usual);
        assertThat(RenyiAccountant.epsilon(0.1, 1, 100, 1e-5)).isGreaterThan(usual);
        assertThat(RenyiAccountant.epsilon(0.05, 1.5, 100, 1e-5)).isLessThan(usual);
        RenyiAccountant inTwo = new RenyiAccountant();
        inTwo.add(0.05, 1, 40);
        inTwo.add(0.05, 1, 60);
        assertThat(inTwo.epsilon(1e-5)).isCloseTo(usual, within(1e-12));
        assertThat(new RenyiAccountant().epsilon(1e-5)).isLessThan(0.02);
    }

    /** At order 2 the sum has a closed form: ln(1 + q² (e^(1/σ²) - 1)). */
    @Test
    @Card(
            value = "fedsvd",
            checks = {7})
    void orderTwoHasAClosedForm() {
        for (double q : new double[] {0.001, 0.1, 0.7}) {
            for (double sigma : new double[] {0.5, 1, 4}) {
                assertThat(RenyiAccountant.rdp(2, q, sigma))
                        .isCloseTo(Math.log1p(q * q * Math.expm1(1 / (sigma * sigma))), within(1e-12));
            }
        }
        assertThat(RenyiAccountant.rdp(5, 1, 2)).isEqualTo(5 / 8.0);
    }

    /** The card's noises for ε 6 and 3 at q = 1/88, 500 steps, δ 1e-5. */
    @Test
    void findsTheLeastNoise() {
        assertThat(RenyiAccountant.sigma(6, 1e-5, 1 / 88.0, 500)).isCloseTo(0.6609, within(1e-4));
        assertThat(RenyiAccountant.sigma(3, 1e-5, 1 / 88.0, 500)).isCloseTo(0.8313, within(1e-4));
        double sigma = RenyiAccountant.sigma(1, 1e-6, 0.2, 300);
        assertThat(RenyiAccountant.epsilon(0.2, sigma, 300, 1e-6))
                .isLessThanOrEqualTo(1)
                .isGreaterThan(0.9999);
    }

    @Test
    void anEpsilonOutOfReachIsSaid() {
        assertThatThrownBy(() -> RenyiAccountant.sigma(0.01, 1e-5, 0.1, 100))
                .hasMessage(
                        "epsilon 0.01 cannot be reached at delta 1.0E-5 by any noise: with Renyi orders up to 256 the least is"
                                + " 0.0195; raise epsilon, such as to 6, or delta");
    }
}
