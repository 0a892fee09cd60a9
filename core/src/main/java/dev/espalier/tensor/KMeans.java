package dev.espalier.tensor;

import static dev.espalier.Check.check;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Random;

/**
 * k-means: groups of points with a small sum of squared distances to their means.
 *
 * <pre>{@code
 * minimise Σ_c Σ_{i in c} w_i ‖x_i - μ_c‖²,   μ_c = Σ_{i in c} w_i x_i / Σ_{i in c} w_i
 * }</pre>
 *
 * <p>Lloyd's iteration, and where it stands still the single moves of Hartigan (<i>Clustering Algorithms</i>, 1975), from starts of k-means++ (Arthur, Vassilvitskii, <i>k-means++: The Advantages of Careful Seeding</i>, SODA
 * 2007), the best of several. All distances come from the Gram matrix of the points, so the points' width costs one matrix
 * product. No group is ever empty: one that is gets the point farthest from its mean. Random numbers are those of {@link Random}.
 */
public final class KMeans {

    /**
     * Groups.
     *
     * @param groups the points of each, by row; none empty
     * @param objective the sum that is minimised
     * @param path the objective after each iteration of the start that won
     */
    public record Clustering(List<List<Integer>> groups, double objective, List<Double> path) {

        /** Copies. */
        public Clustering {
            groups = groups.stream().map(List::copyOf).toList();
            path = List.copyOf(path);
        }
    }

    private final double[][] gram; // ⟨x_i, x_j⟩
    private final double[] weights;
    private final int k;
    private final int n;

    private KMeans(double[][] gram, double[] weights, int k) {
        this.gram = gram;
        this.weights = weights;
        this.k = k;
        this.n = gram.length;
    }

    /**
     * Groups the rows of a matrix.
     *
     * @param points [n, d]
     * @param weights one a row, positive
     * @param k number of groups, 1 to n
     * @param restarts how many starts are tried, at least 1
     * @param iterations at most, of each, at least 1
     * @param seed of the starts
     */
    public static Clustering of(Tensor points, double[] weights, int k, int restarts, int iterations, Seed seed) {
        int n = Math.toIntExact(points.size(0));
        check(k >= 1 && k <= n, "%d points cannot form %d groups; ask for 1 to %d", n, k, n);
        check(weights.length == n, "%d weights were given for %d points", weights.length, n);
        check(restarts >= 1 && iterations >= 1, "k-means needs at least one start and one iteration");
        double[][] gram = new double[n][];
        try (Scope scope = Scope.open()) {
            Tensor wide = points.to(DType.FLOAT64);
            double[] all = wide.matmul(wide.t()).doubles();
            Arrays.setAll(gram, i -> Arrays.copyOfRange(all, i * n, (i + 1) * n));
        }
        KMeans means = new KMeans(gram, weights, k);
        Clustering best = null;
        for (int start = 0; start < (k == n ? 1 : restarts); start++) {
            Clustering found = means.run(new Random(seed.at(start).value()), iterations);
            best = best == null || found.objective() < best.objective() ? found : best;
        }
        return java.util.Objects.requireNonNull(best);
    }

    private Clustering run(Random random, int iterations) {
        int[] groupOf = start(random);
        List<Double> path = new ArrayList<>();
        for (int i = 0; i < iterations; i++) {
            boolean moved = k < n && (assign(groupOf) || moveOne(groupOf));
            path.add(objective(groupOf));
            if (!moved) {
                break;
            }
        }
        List<List<Integer>> groups = new ArrayList<>();
        for (int c = 0; c < k; c++) {
            groups.add(new ArrayList<>());
        }
        for (int i = 0; i < n; i++) {
            groups.get(groupOf[i]).add(i);
        }
        return new Clustering(groups, path.get(path.size() - 1), path);
    }

    /** k-means++: each centre is a point drawn by its weighted squared distance from those before; all others join the nearest. */
    private int[] start(Random random) {
        int[] groupOf = new int[n];
        if (k == n) {
            Arrays.setAll(groupOf, i -> i);
            return groupOf;
        }
        boolean[] chosen = new boolean[n];
        double[] nearest = new double[n]; // squared distance to the nearest centre
        double[] share = weights.clone();
        for (int c = 0; c < k; c++) {
            int centre = draw(share, chosen, random);
            chosen[centre] = true;
            for (int i = 0; i < n; i++) {
                double square = Math.max(0, gram[i][i] + gram[centre][centre] - 2 * gram[i][centre]);
                if (i == centre || (!chosen[i] && (c == 0 || square < nearest[i]))) {
                    nearest[i] = i == centre ? 0 : square;
                    groupOf[i] = c;
                }
                share[i] = weights[i] * nearest[i];
            }
        }
        return groupOf;
    }

    /** A point that is no centre yet, by shares; any, where all lie on centres. */
    private int draw(double[] share, boolean[] chosen, Random random) {
        double total = 0;
        for (int i = 0; i < n; i++) {
            total += chosen[i] ? 0 : share[i];
        }
        double at = random.nextDouble() * total;
        int last = -1;
        for (int i = 0; i < n; i++) {
            if (chosen[i]) {
                continue;
            }
            last = i;
            at -= share[i];
            if (at < 0) {
                break;
            }
        }
        return last;
    }

    /** One iteration; whether anything moved. */
    private boolean assign(int[] groupOf) {
        double[] mass = new double[k];
        double[][] inner = new double[n][k]; // ⟨x_i, Σ_{j in c} w_j x_j⟩
        double[] square = new double[k]; // ‖Σ_{j in c} w_j x_j‖²
        sums(groupOf, mass, inner, square);
        int[] before = groupOf.clone();
        double[] distance = new double[n];
        int[] size = new int[k];
        for (int i = 0; i < n; i++) {
            int best = before[i];
            double least = distance(i, best, mass, inner, square);
            for (int c = 0; c < k; c++) {
                double d = distance(i, c, mass, inner, square);
                if (d < least) { // a tie stays where it is, so that the iteration ends
                    least = d;
                    best = c;
                }
            }
            groupOf[i] = best;
            distance[i] = least;
            size[best]++;
        }
        for (int c = 0; c < k; c++) {
            if (size[c] == 0) {
                int farthest = -1;
                for (int i = 0; i < n; i++) {
                    if (size[groupOf[i]] > 1 && (farthest < 0 || distance[i] > distance[farthest])) {
                        farthest = i;
                    }
                }
                size[groupOf[farthest]]--;
                groupOf[farthest] = c;
                size[c] = 1;
                distance[farthest] = 0;
            }
        }
        return !Arrays.equals(before, groupOf);
    }

    /**
     * Moves the first point whose change of group lowers the objective, means moving along; whether there was one. Taking x out of
     * a group of mass M saves w M / (M - w) ‖x - μ‖², adding it costs w M / (M + w) ‖x - μ‖².
     */
    private boolean moveOne(int[] groupOf) {
        double[] mass = new double[k];
        double[][] inner = new double[n][k];
        double[] square = new double[k];
        sums(groupOf, mass, inner, square);
        int[] size = new int[k];
        for (int c : groupOf) {
            size[c]++;
        }
        for (int i = 0; i < n; i++) {
            int from = groupOf[i];
            if (size[from] == 1) {
                continue;
            }
            double w = weights[i];
            double saved = mass[from] / (mass[from] - w) * distance(i, from, mass, inner, square);
            for (int c = 0; c < k; c++) {
                double cost = mass[c] / (mass[c] + w) * distance(i, c, mass, inner, square);
                if (c != from && cost < saved - 1e-12 * gram[i][i]) { // more than rounding
                    groupOf[i] = c;
                    return true;
                }
            }
        }
        return false;
    }

    /** ‖x_i - μ_c‖². */
    private double distance(int i, int c, double[] mass, double[][] inner, double[] square) {
        return gram[i][i] - 2 * inner[i][c] / mass[c] + square[c] / (mass[c] * mass[c]);
    }

    private void sums(int[] groupOf, double[] mass, double[][] inner, double[] square) {
        for (int j = 0; j < n; j++) {
            mass[groupOf[j]] += weights[j];
            for (int i = 0; i < n; i++) {
                inner[i][groupOf[j]] += weights[j] * gram[i][j];
            }
        }
        for (int i = 0; i < n; i++) {
            square[groupOf[i]] += weights[i] * inner[i][groupOf[i]];
        }
    }

    private double objective(int[] groupOf) {
        double[] mass = new double[k];
        double[][] inner = new double[n][k];
        double[] square = new double[k];
        sums(groupOf, mass, inner, square);
        double sum = 0;
        for (int i = 0; i < n; i++) {
            sum += weights[i] * Math.max(0, distance(i, groupOf[i], mass, inner, square));
        }
        return sum;
    }
}
