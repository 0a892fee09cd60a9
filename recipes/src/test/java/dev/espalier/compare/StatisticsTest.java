package dev.espalier.compare;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.within;

import dev.espalier.compare.MethodResult.Difference;
import java.util.stream.IntStream;
import org.junit.jupiter.api.Test;

class StatisticsTest {

    @Test
    void standardErrorIsThatOfTheMean() {
        // 2, 4, 9: mean 5, squares 9 + 1 + 16 = 26, variance 13, error √(13/3)
        assertThat(Statistics.standardError(new double[] {2, 4, 9})).isCloseTo(Math.sqrt(13.0 / 3), within(1e-12));
        assertThat(Statistics.standardError(new double[] {2})).isNull();
    }

    @Test
    void quantilesLieBetweenNeighbours() {
        double[] sorted = {0, 1, 2, 3, 4};
        assertThat(Statistics.quantile(sorted, 0.5)).isEqualTo(2);
        assertThat(Statistics.quantile(sorted, 0.125)).isEqualTo(0.5);
        assertThat(Statistics.quantile(sorted, 1)).isEqualTo(4);
    }

    @Test
    void aDifferenceThatIsAlwaysTheSameHasNoWidth() {
        Difference difference = Statistics.difference(new double[][] {{0.25}, {0.25}, {0.25}});
        assertThat(difference.low()).isEqualTo(0.25);
        assertThat(difference.high()).isEqualTo(0.25);
        assertThat(difference.insideNoise()).isFalse();
        assertThat(difference.resampled()).isEqualTo("seeds");
    }

    @Test
    void theIntervalOfManyExamplesIsTheNormalOne() {
        // 400 examples, 120 won, 80 lost, 200 alike: mean 0.1, variance 0.5 - 0.01, interval 0.1 ± 1.96 √(0.49/400)
        double[] row = IntStream.range(0, 400)
                .mapToDouble(i -> i < 120 ? 1 : i < 200 ? -1 : 0)
                .toArray();
        Difference difference = Statistics.difference(new double[][] {row});
        double half = 1.96 * Math.sqrt(0.49 / 400);
        assertThat(difference.mean()).isCloseTo(0.1, within(1e-12));
        assertThat(difference.low()).isCloseTo(0.1 - half, within(0.004));
        assertThat(difference.high()).isCloseTo(0.1 + half, within(0.004));
        assertThat(difference.insideNoise()).isFalse();
        assertThat(difference.resampled()).isEqualTo("test examples");
    }

    @Test
    void threeSeedsWithoutExamplesGiveTheirOwnRange() {
        // of 27 draws one is all of the smallest, one all of the largest: 3.7 % each, so 2.5 % lies there
        Difference difference = Statistics.difference(new double[][] {{-0.1}, {0.2}, {0.5}});
        assertThat(difference.mean()).isCloseTo(0.2, within(1e-12));
        assertThat(difference.low()).isEqualTo(-0.1, within(1e-12));
        assertThat(difference.high()).isEqualTo(0.5, within(1e-12));
        assertThat(difference.insideNoise()).isTrue();
        assertThat(difference.pairs()).isEqualTo(3);
    }

    @Test
    void seedsThatDisagreeWidenTheInterval() {
        double[] up =
                IntStream.range(0, 300).mapToDouble(i -> i % 10 < 3 ? 1 : 0).toArray();
        double[] down =
                IntStream.range(0, 300).mapToDouble(i -> i % 10 < 1 ? 1 : 0).toArray();
        Difference agreeing = Statistics.difference(new double[][] {up, up, up});
        Difference disagreeing = Statistics.difference(new double[][] {up, down, up});
        assertThat(disagreeing.high() - disagreeing.low()).isGreaterThan(agreeing.high() - agreeing.low());
        assertThat(disagreeing.resampled()).isEqualTo("seeds and test examples");
    }

    @Test
    void oneSeedWithoutExamplesTellsNothing() {
        assertThat(Statistics.difference(new double[][] {{0.9}}).insideNoise()).isTrue();
    }
}
