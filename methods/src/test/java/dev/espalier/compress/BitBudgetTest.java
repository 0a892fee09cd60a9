package dev.espalier.compress;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import dev.espalier.adapter.Card;
import java.util.Random;
import org.junit.jupiter.api.Test;

class BitBudgetTest {

    @Test
    @Card(value = "lq-lora", checks = 7)
    void equalsBruteForceAndKeepsTheBudget() {
        Random random = new Random(1);
        for (int run = 0; run < 300; run++) {
            int formats = run % 3 == 0 ? 4 : 7;
            int matrices = run % 3 == 0 ? 3 : 5;
            double[][] costs = new double[matrices][formats];
            long[][] sizes = new long[matrices][formats];
            fill(random, costs, sizes);
            long least = least(sizes);
            long budget = least + random.nextInt(400);
            BitBudget.Allocation found = BitBudget.solve(costs, sizes, budget);
            assertThat(found.size()).isLessThanOrEqualTo(budget);
            assertThat(found.gap()).isZero();
            assertThat(found.cost()).isCloseTo(brute(costs, sizes, budget, 0), within(1e-9));
            double sum = 0;
            for (int i = 0; i < matrices; i++) {
                sum += costs[i][found.choice()[i]];
            }
            assertThat(sum).isCloseTo(found.cost(), within(1e-9));
        }
    }

    @Test
    @Card(value = "lq-lora", checks = 7)
    void moreBitsNeverCostMore() {
        Random random = new Random(2);
        double[][] costs = new double[40][27];
        long[][] sizes = new long[40][27];
        fill(random, costs, sizes);
        double former = Double.POSITIVE_INFINITY;
        for (long budget = least(sizes); budget < least(sizes) + 4000; budget += 97) {
            BitBudget.Allocation found = BitBudget.solve(costs, sizes, budget);
            assertThat(found.cost() - found.gap()).isLessThanOrEqualTo(former + 1e-9);
            former = found.cost();
        }
    }

    @Test
    @Card(value = "lq-lora", checks = 7)
    void aBudgetThatCannotBeMetIsRefused() {
        assertThatThrownBy(() -> BitBudget.solve(new double[][] {{1, 2}}, new long[][] {{10, 20}}, 9))
                .hasMessage("the budget is 9 bits and the smallest formats take 10; raise the budget");
    }

    /** Costs that fall with size, but for some noise. */
    private static void fill(Random random, double[][] costs, long[][] sizes) {
        for (int i = 0; i < costs.length; i++) {
            for (int c = 0; c < costs[i].length; c++) {
                sizes[i][c] = 50 + random.nextInt(100);
                costs[i][c] = (1 + i) * Math.exp(-sizes[i][c] / 40.0) * (1 + 0.3 * random.nextDouble());
            }
        }
    }

    private static long least(long[][] sizes) {
        long sum = 0;
        for (long[] of : sizes) {
            sum += java.util.Arrays.stream(of).min().orElseThrow();
        }
        return sum;
    }

    private static double brute(double[][] costs, long[][] sizes, long left, int at) {
        if (left < 0) {
            return Double.POSITIVE_INFINITY;
        }
        if (at == costs.length) {
            return 0;
        }
        double best = Double.POSITIVE_INFINITY;
        for (int c = 0; c < costs[at].length; c++) {
            best = Math.min(best, costs[at][c] + brute(costs, sizes, left - sizes[at][c], at + 1));
        }
        return best;
    }
}
