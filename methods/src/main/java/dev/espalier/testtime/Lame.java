package dev.espalier.testtime;

import static dev.espalier.Check.check;

import dev.espalier.io.Fields;
import dev.espalier.model.Input;
import dev.espalier.model.SequenceClassifier;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Tensor;
import java.util.Map;

/**
 * LAME: the probabilities of a batch, corrected so that neighbours agree.
 *
 * <p>Boudiaf et al., <i>Parameter-free Online Test-time Adaptation</i>, CVPR 2022, arXiv:2201.05718, equation 4 and algorithm 1.
 *
 * <pre>{@code
 * minimise F(Z) = Σ_i KL(z_i ‖ q_i) - 1/2 Σ_ij w_ij ⟨z_i, z_j⟩
 * Z <- q;  until E stands still, 100 times at most:  P = W Z,  Z <- softmax(log q + P) by rows
 * E = Σ [Z log Z - Z log q - Z P]
 * q, Z [N, K] probabilities    W [N, N] affinity of the features f [N, D], rows of length 1
 * }</pre>
 *
 * <p>The network is left alone, and a batch knows nothing of those before. Where W is symmetric and has no negative eigenvalue, F
 * never rises; the affinity of nearest neighbours is neither, and may oscillate until the last step. Written from the mathematics
 * alone, in float64, and tested on numbers derived by hand or found by brute force. A batch of one is returned as it is, and a
 * bandwidth of 0, NaN in other hands, is raised to 1e-10.
 */
public final class Lame implements TestTime<Lame.Config> {

    /** In log q. */
    private static final double FLOOR = 1e-10;

    /** How alike two features are. */
    public enum Affinity {
        /** 1 for the k nearest, else 0: not symmetric. */
        KNN,
        /** exp(-‖f_i - f_j‖² / 2σ²), with σ the mean distance of the k-th nearest, counting the sample itself. */
        RBF,
        /** ⟨f_i, f_j⟩. */
        LINEAR
    }

    /**
     * Settings.
     *
     * @param affinity how alike two features are
     * @param k neighbours, or the rank of the neighbour that sets the bandwidth; of no effect if linear
     * @param steps at most, at least 1
     * @param tolerance relative change of E at which to stop, at least 0
     * @param symmetric whether W becomes (W + Wᵀ) / 2
     */
    public record Config(Affinity affinity, int k, int steps, double tolerance, boolean symmetric) {

        /** The authors'. */
        public static final Config DEFAULT = new Config(Affinity.RBF, 5, 100, 1e-8, false);

        /** Checks ranges. */
        public Config {
            check(k >= 1, "k must be at least 1, found %d; try 5", k);
            check(
                    k >= 2 || affinity != Affinity.RBF,
                    "k is 1, but for rbf the sample itself counts as the first neighbour, at distance 0; try 5");
            check(steps >= 1, "steps must be at least 1, found %d; try 100", steps);
            check(
                    tolerance >= 0 && Double.isFinite(tolerance),
                    "tolerance must be at least 0 and finite, found %s; try 1e-8",
                    tolerance);
        }
    }

    @Override
    public About about() {
        return new About(
                "lame",
                "test time",
                "the probabilities of a batch, corrected so that neighbours agree",
                "Boudiaf et al., Parameter-free Online Test-time Adaptation, CVPR 2022, arXiv:2201.05718",
                """
                minimise Σ_i KL(z_i ‖ q_i) - 1/2 Σ_ij w_ij ⟨z_i, z_j⟩ by Z <- softmax(log q + W Z)
                q, Z [N, K] probabilities, W [N, N] affinity of the features that the classifier receives""",
                "any classifier, with or without an adapter; helps where neighbours in the stream share their class",
                "nothing: model and adapter stay as they are",
                false);
    }

    @Override
    public Map<String, String> meanings() {
        return Map.of(
                "affinity", "how alike two samples are: knn, rbf or linear",
                "k", "neighbours (knn), or the neighbour whose distance is the bandwidth (rbf, at least 2); at least 1",
                "steps", "iterations at most, at least 1",
                "tolerance", "relative change of the bound at which to stop, at least 0",
                "symmetric", "make the affinity symmetric, (W + Wᵀ) / 2");
    }

    @Override
    public Config read(Fields f) {
        return new Config(
                f.choice("affinity", Config.DEFAULT.affinity()),
                f.integer("k", Config.DEFAULT.k()),
                f.integer("steps", Config.DEFAULT.steps()),
                f.number("tolerance", Config.DEFAULT.tolerance()),
                f.bool("symmetric", Config.DEFAULT.symmetric()));
    }

    @Override
    public Adaptation start(Config config, SequenceClassifier model) {
        check(
                model.classes() > 1,
                "lame corrects probabilities of classes, and this model predicts a number; use it on a classifier");
        return new Correction(config, model);
    }

    private static final class Correction implements Adaptation {
        private final Config config;
        private final SequenceClassifier model;
        private Map<String, Double> figures = Map.of();

        Correction(Config config, SequenceClassifier model) {
            this.config = config;
            this.model = model;
        }

        @Override
        public Tensor predict(Input batch) {
            try (Grad off = Grad.off();
                    Scope scope = Scope.open()) {
                Tensor features = model.features(batch);
                Tensor q = model.logits(features).to(DType.FLOAT64).softmax(1);
                Tensor w = affinity(config, features);
                Corrected corrected = correct(config, q, w);
                figures = Map.of(
                        "steps",
                        (double) corrected.steps(),
                        "affinity_row_sum",
                        w.sum(1, false).mean().item());
                return scope.promote(corrected.z());
            }
        }

        @Override
        public Map<String, Double> figures() {
            return figures;
        }

        @Override
        public void close() {}
    }

    /**
     * What the iteration came to.
     *
     * @param z probabilities [N, K]
     * @param steps iterations taken
     */
    record Corrected(Tensor z, int steps) {}

    /** Corrects probabilities q [N, K] by an affinity W [N, N], both float64. */
    static Corrected correct(Config config, Tensor q, Tensor w) {
        if (q.size(0) == 1) {
            return new Corrected(q.clone(), 0);
        }
        Tensor logQ = q.add(FLOOR).log();
        Tensor z = logQ.softmax(1);
        double before = Double.POSITIVE_INFINITY;
        for (int step = 1; ; step++) {
            Tensor pull = w.matmul(z); // P [N, K]
            z = logQ.add(pull).softmax(1);
            double bound =
                    z.mul(z.clamp(1e-20, 1).log().sub(logQ).sub(pull)).sum().item();
            boolean still = step >= 3 && Math.abs(bound - before) <= config.tolerance() * Math.abs(before);
            if (still || step >= config.steps()) {
                return new Corrected(z, step);
            }
            before = bound;
        }
    }

    /** W [N, N], float64, of features [N, D]. */
    static Tensor affinity(Config config, Tensor features) {
        Tensor wide = features.to(DType.FLOAT64);
        Tensor f = wide.div(wide.norm(1, true).clamp(1e-12, Double.POSITIVE_INFINITY)); // rows of length 1
        long n = f.size(0);
        Tensor w = n == 1
                ? Tensor.ones(DType.FLOAT64, 1, 1)
                : switch (config.affinity()) {
                    case LINEAR -> f.matmul(f.t());
                    case RBF -> {
                        Tensor square = squares(f);
                        double sigma = square.sort(1, false)
                                .get(0)
                                .select(1, Math.min(config.k(), n) - 1)
                                .sqrt()
                                .mean()
                                .item();
                        yield square.div(-2 * Math.pow(Math.max(sigma, 1e-10), 2))
                                .exp();
                    }
                    case KNN -> {
                        // The sample itself is masked out, not dropped as the first: of duplicates it need not be the
                        // first.
                        Tensor self = Tensor.eye(n, DType.FLOAT64).gt(0);
                        Tensor near = squares(f).neg().maskedFill(self, Double.NEGATIVE_INFINITY);
                        long k = Math.min(config.k(), n - 1);
                        Tensor chosen = near.topk(k).get(1); // [N, k]
                        yield Tensor.zeros(DType.FLOAT64, n, n).scatter_(1, chosen, Tensor.ones(DType.FLOAT64, n, k));
                    }
                };
        return config.symmetric() ? w.add(w.t()).div(2) : w;
    }

    /** ‖f_i - f_j‖² [N, N] of rows of length 1, not below 0. */
    private static Tensor squares(Tensor f) {
        Tensor zero = Tensor.eye(f.size(0), DType.FLOAT64).gt(0);
        return f.matmul(f.t()).mul(-2).add(2).clamp(0, 4).maskedFill(zero, 0);
    }
}
