package dev.espalier.compress;

import static dev.espalier.Check.check;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.Comparator;
import java.util.List;

/**
 * Which format each matrix gets under one budget: the integer program of LQ-LoRA, a multiple-choice knapsack.
 *
 * <pre>{@code
 * min Σ_ic x_ic w_ic   subject to   Σ_ic x_ic m_ic ≤ M,   Σ_c x_ic = 1 for each i,   x binary
 * bound, for any µ ≥ 0:   Σ_i min_c (w_ic + µ m_ic) - µ M
 * }</pre>
 *
 * <p>Branch and bound in depth with the Lagrange bound at the best µ, which is found by bisection. A choice whose own bound is no
 * better than what is known already is dropped before the search, which leaves few to branch on. Exact unless the search is cut
 * short; then the gap says how far from the best it may be.
 */
final class BitBudget {

    private static final long MOST_NODES = 20_000_000;
    private static final int BISECTIONS = 200;

    /** A format for a matrix, by its place among those offered, with cost w and size m in bits. */
    record Choice(int index, double cost, long size) {}

    /**
     * An allocation.
     *
     * @param choice index of each matrix's format
     * @param cost Σ w
     * @param size Σ m
     * @param gap how much less the best cost may be; 0 where this is proved to be the best
     */
    @SuppressWarnings("ArrayRecordComponent") // carried, never compared
    record Allocation(int[] choice, double cost, long size, double gap) {}

    private final List<List<Choice>> matrices; // without dominated choices, by rising size
    private final long budget;
    private double mu;
    private double[] least = {}; // sum over matrices from i on of min (w + µ m)
    private long[] smallest = {}; // likewise of min m
    private Choice[] best = {};
    private double bestCost = Double.POSITIVE_INFINITY;
    private long nodes;

    private BitBudget(List<List<Choice>> matrices, long budget) {
        this.matrices = matrices;
        this.budget = budget;
    }

    /**
     * A budget in bits.
     *
     * @param bits a weight on average, or 0 for no bound
     * @param sizes m in bits [matrices][formats]
     * @param weights of all matrices
     * @throws dev.espalier.EspalierException if the smallest formats take more
     */
    static long of(double bits, long[][] sizes, long weights) {
        if (bits == 0) {
            return Long.MAX_VALUE / 4;
        }
        long budget = (long) (bits * weights);
        long least = Arrays.stream(sizes)
                .mapToLong(m -> Arrays.stream(m).min().orElseThrow())
                .sum();
        check(
                least <= budget,
                "budget is %s bits a weight and the smallest formats on offer take %.4f; set it to %.2f or more, or offer smaller ones (bits, block_sizes)",
                bits,
                (double) least / weights,
                Math.ceil(100.0 * least / weights) / 100);
        return budget;
    }

    /**
     * Solves.
     *
     * @param costs w [matrices][formats], finite
     * @param sizes m in bits, likewise
     * @param budget M in bits; at least the sum of the smallest sizes
     */
    static Allocation solve(double[][] costs, long[][] sizes, long budget) {
        List<List<Choice>> matrices = new ArrayList<>();
        for (int i = 0; i < costs.length; i++) {
            matrices.add(undominated(costs[i], sizes[i]));
        }
        long least = matrices.stream().mapToLong(m -> m.get(0).size()).sum();
        check(
                least <= budget,
                "the budget is %d bits and the smallest formats take %d; raise the budget",
                budget,
                least);
        return new BitBudget(matrices, budget).solve();
    }

    /** By rising size and falling cost: others are never better. */
    private static List<Choice> undominated(double[] costs, long[] sizes) {
        List<Choice> all = new ArrayList<>();
        for (int c = 0; c < costs.length; c++) {
            all.add(new Choice(c, costs[c], sizes[c]));
        }
        all.sort(Comparator.comparingLong(Choice::size).thenComparingDouble(Choice::cost));
        List<Choice> kept = new ArrayList<>();
        for (Choice choice : all) {
            if (kept.isEmpty() || choice.cost() < kept.get(kept.size() - 1).cost()) {
                kept.add(choice);
            }
        }
        return kept;
    }

    private Allocation solve() {
        bisect();
        List<List<Choice>> open = new ArrayList<>(matrices);
        double bound = prepare(open);
        drop(open, bound);
        prepare(open);
        search(open, 0, new Choice[open.size()], 0, 0);
        double lowest = nodes > MOST_NODES ? bound : bestCost;
        long size = Arrays.stream(best).mapToLong(Choice::size).sum();
        return new Allocation(
                Arrays.stream(best).mapToInt(Choice::index).toArray(), bestCost, size, Math.max(0, bestCost - lowest));
    }

    /** The µ at which the cheapest choices by w + µ m just fit; on the way, the first allocations that do. */
    private void bisect() {
        double low = 0;
        double high = 0;
        if (!fits(0)) {
            high = 1;
            while (!fits(high)) {
                low = high;
                high *= 4;
            }
            for (int i = 0; i < BISECTIONS && high - low > 1e-15 * high; i++) {
                double middle = (low + high) / 2;
                if (fits(middle)) {
                    high = middle;
                } else {
                    low = middle;
                }
            }
        }
        mu = high;
    }

    /** Whether the choices at a price fit; then they, improved where there is room, are remembered. */
    private boolean fits(double price) {
        Choice[] chosen = new Choice[matrices.size()];
        long size = 0;
        for (int i = 0; i < chosen.length; i++) {
            chosen[i] = cheapest(matrices.get(i), price);
            size += chosen[i].size();
        }
        if (size > budget) {
            return false;
        }
        for (int i = 0; i < chosen.length; i++) { // what is left goes to whoever can use it
            for (Choice c : matrices.get(i)) {
                if (c.cost() < chosen[i].cost() && size - chosen[i].size() + c.size() <= budget) {
                    size += c.size() - chosen[i].size();
                    chosen[i] = c;
                }
            }
        }
        double cost = Arrays.stream(chosen).mapToDouble(Choice::cost).sum();
        if (cost < bestCost) {
            bestCost = cost;
            best = chosen;
        }
        return true;
    }

    /** Of equal ones the smallest, so that some price always fits. */
    private static Choice cheapest(List<Choice> choices, double price) {
        return choices.stream()
                .min(Comparator.comparingDouble((Choice c) -> c.cost() + price * c.size())
                        .thenComparingLong(Choice::size))
                .orElseThrow();
    }

    /** Sums from the end for bounds; returns the bound of the whole. */
    private double prepare(List<List<Choice>> open) {
        least = new double[open.size() + 1];
        smallest = new long[open.size() + 1];
        for (int i = open.size() - 1; i >= 0; i--) {
            least[i] = least[i + 1] + priced(cheapest(open.get(i), mu));
            smallest[i] = smallest[i + 1]
                    + open.get(i).stream().mapToLong(Choice::size).min().orElseThrow();
        }
        return least[0] - mu * budget;
    }

    /** Drops choices that cannot be part of anything better than what is known. */
    private void drop(List<List<Choice>> open, double bound) {
        for (int i = 0; i < open.size(); i++) {
            List<Choice> choices = open.get(i);
            double lowest = priced(cheapest(choices, mu));
            List<Choice> left = choices.stream()
                    .filter(c -> bound + priced(c) - lowest < bestCost)
                    .sorted(Comparator.comparingDouble(this::priced))
                    .toList();
            open.set(i, left.isEmpty() ? List.of(best[i]) : left); // all dropped: what is known is the best
        }
    }

    private double priced(Choice c) {
        return c.cost() + mu * c.size();
    }

    private void search(List<List<Choice>> open, int at, Choice[] chosen, double cost, long size) {
        if (at == chosen.length) {
            if (cost < bestCost) {
                bestCost = cost;
                best = chosen.clone();
            }
            return;
        }
        for (Choice c : open.get(at)) {
            if (++nodes > MOST_NODES) {
                return;
            }
            double costs = cost + c.cost();
            long sizes = size + c.size();
            if (sizes + smallest[at + 1] <= budget
                    && costs + mu * sizes + least[at + 1] - mu * budget < bestCost - 1e-12 * Math.abs(bestCost)) {
                chosen[at] = c;
                search(open, at + 1, chosen, costs, sizes);
            }
        }
    }
}
