package dev.espalier.tensor;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import java.util.Arrays;
import java.util.List;
import org.junit.jupiter.api.Test;

class KMeansTest {

    private static double[] ones(int n) {
        double[] ones = new double[n];
        Arrays.fill(ones, 1);
        return ones;
    }

    private static double[] values(int n, long seed) {
        try (Scope scope = Scope.open();
                Generator g = Generator.of(seed)) {
            return g.randn(n).doubles();
        }
    }

    /** Against every way to put 7 points into 2 or 3 groups. */
    @Test
    void objectiveIsTheLeastOfAllPartitions() {
        for (int k = 2; k <= 3; k++) {
            for (long seed = 0; seed < 10; seed++) {
                double[] x = values(7 * 3, seed);
                double[] w = {1, 2, 1, 0.5, 1, 3, 1};
                double least = Double.POSITIVE_INFINITY;
                int[] group = new int[7];
                for (int code = 0; code < Math.pow(k, 7); code++) {
                    for (int i = 0, rest = code; i < 7; i++, rest /= k) {
                        group[i] = rest % k;
                    }
                    least = Math.min(least, objective(x, w, group, k));
                }
                try (Scope scope = Scope.open()) {
                    KMeans.Clustering found = KMeans.of(Tensor.of(x, 7, 3), w, k, 30, 300, new Seed(seed));
                    assertThat(found.objective()).isCloseTo(least, within(1e-9 * least));
                    assertThat(found.groups()).hasSize(k).noneMatch(List::isEmpty);
                }
            }
        }
    }

    private static double objective(double[] x, double[] w, int[] group, int k) {
        double sum = 0;
        for (int c = 0; c < k; c++) {
            double[] mean = new double[3];
            double mass = 0;
            for (int i = 0; i < 7; i++) {
                if (group[i] == c) {
                    mass += w[i];
                    for (int d = 0; d < 3; d++) {
                        mean[d] += w[i] * x[3 * i + d];
                    }
                }
            }
            for (int i = 0; i < 7; i++) {
                for (int d = 0; d < 3 && group[i] == c; d++) {
                    sum += w[i] * Math.pow(x[3 * i + d] - mean[d] / mass, 2);
                }
            }
        }
        return sum;
    }

    @Test
    void objectiveNeverRises() {
        for (long seed = 0; seed < 5; seed++) {
            try (Scope scope = Scope.open()) {
                List<Double> path = KMeans.of(
                                Tensor.of(values(60 * 2, seed), 60, 2), ones(60), 6, 1, 300, new Seed(seed))
                        .path();
                assertThat(path.size()).isGreaterThan(2);
                for (int i = 1; i < path.size(); i++) {
                    assertThat(path.get(i)).isLessThanOrEqualTo(path.get(i - 1) + 1e-12);
                }
            }
        }
    }

    /** More groups than different points: no group is empty, nothing is NaN. */
    @Test
    void equalPointsLeaveNoGroupEmpty() {
        try (Scope scope = Scope.open()) {
            Tensor points = Tensor.of(new double[] {1, 1, 1, 1, 5}, 5, 1);
            KMeans.Clustering found = KMeans.of(points, ones(5), 4, 3, 50, new Seed(0));
            assertThat(found.groups()).hasSize(4).noneMatch(List::isEmpty);
            assertThat(found.objective()).isZero();
            assertThat(KMeans.of(points, ones(5), 5, 3, 50, new Seed(0)).groups())
                    .allMatch(g -> g.size() == 1);
        }
    }

    @Test
    void groupsThatCannotBeAreRefused() {
        try (Scope scope = Scope.open()) {
            Tensor points = Tensor.of(new double[] {1, 2}, 2, 1);
            assertThatThrownBy(() -> KMeans.of(points, ones(2), 3, 1, 1, new Seed(0)))
                    .hasMessage("2 points cannot form 3 groups; ask for 1 to 2");
        }
    }
}
