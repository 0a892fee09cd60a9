package dev.espalier.compress;

import static dev.espalier.Check.check;

import dev.espalier.adapter.Calibration;
import dev.espalier.adapter.Site;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Tensor;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;

/**
 * Which weights of a layer to leave out, by what that does to its outputs when those that stay make up for it.
 *
 * <p>Frantar and Alistarh, <i>SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot</i>, arXiv:2301.00774,
 * algorithm 1.
 *
 * <pre>{@code
 * H = Xᵀ X + λ I,   λ = 0.01 mean diag(Xᵀ X),   H⁻¹ = Uᵀ U with U upper triangular
 * from the left, column j:  the score of w_j is (w_j / U_jj)²;  of what is left out e = w_j / U_jj,  w_k -= e U_jk for k > j
 * W [out, in]    X [tokens, in]
 * }</pre>
 *
 * <p>Columns go in blocks of 128 whose scores are compared with each other (unstructured), or in groups of m of a row, of which n
 * go (n:m). What never occurs in X scores 0. Checked against the authors' code.
 */
final class SparseGpt {

    private static final int BLOCK = 128;
    private static final double DAMPING = 0.01;

    private SparseGpt() {}

    /**
     * Zeroes weights block by block, by what layers receive from the zeroed blocks below; those that stay keep their values.
     *
     * @param sites frozen layers in the network's order
     * @param sequences how many batches of one example to use; all where there are fewer
     * @param ratio as of {@link #mask}, like n and m
     */
    static void zero(List<Site> sites, Calibration data, int sequences, double ratio, int n, int m) {
        data.require("the importance of weights");
        sites.forEach(site -> check(
                m == 0 || site.layer().inFeatures() % m == 0,
                "%s has %d inputs, which are no multiple of %d; choose a pattern whose second number divides them",
                site.path(),
                site.layer().inFeatures(),
                m));
        try (Grad off = Grad.off()) {
            for (List<Site> block : Eora.blocks(sites)) {
                try (Scope scope = Scope.open()) {
                    Map<String, Tensor> weights = new LinkedHashMap<>();
                    block.forEach(site -> weights.put(site.path(), Weights.of(site.layer())));
                    try (ReceivedInputs inputs = ReceivedInputs.of(block, weights, data, sequences, false)) {
                        for (Site site : block) {
                            Tensor w = Objects.requireNonNull(weights.get(site.path()));
                            Tensor stays = mask(w, inputs.at(site.path()).sum(), ratio, n, m);
                            Weights.set(site.layer(), Tensor.where(stays, w, w.zerosLike()));
                        }
                    }
                }
            }
        }
    }

    /**
     * The weights that stay.
     *
     * @param weight W [out, in]
     * @param covariance Xᵀ X [in, in], its scale does not matter
     * @param ratio share of each block of columns that goes, in [0, 1); where m is 0
     * @param n how many of m go
     * @param m neighbouring weights of a row, a divisor of in; 0 for the ratio
     * @return bool [out, in], in the current scope
     */
    static Tensor mask(Tensor weight, Tensor covariance, double ratio, int n, int m) {
        try (Scope scope = Scope.open()) {
            Tensor h = covariance.to(DType.FLOAT64);
            Tensor w = weight.to(DType.FLOAT64).clone();
            Tensor silent = diagonal(h).eq(0); // [in]
            w = w.maskedFill(silent, 0);
            Tensor u = root(h, silent); // U [in, in]
            Tensor d = diagonal(u).abs();
            long in = w.size(1);
            Tensor gone = Tensor.zeros(DType.FLOAT64, w.size(0), in);
            for (long start = 0; start < in; start += BLOCK) {
                long width = Math.min(BLOCK, in - start);
                block(w, u, d, gone, start, width, ratio, n, m);
            }
            return scope.promote(gone.eq(0));
        }
    }

    private static void block(
            Tensor w, Tensor u, Tensor d, Tensor gone, long start, long width, double ratio, int n, int m) {
        try (Scope scope = Scope.open()) {
            Tensor errors = Tensor.zeros(DType.FLOAT64, w.size(0), width);
            Tensor mine = w.narrow(1, start, width); // a view: what follows is changed in w
            Tensor flags = gone.narrow(1, start, width);
            if (m == 0) {
                Tensor scores = scores(mine, d.narrow(0, start, width)).flatten(0, 1);
                long last = Math.min(scores.numel() - 1, (long) (scores.numel() * ratio));
                double threshold = scores.sort(0, false).get(0).select(0, last).item();
                flags.copy_(scores.le(threshold).view(w.size(0), width));
            }
            for (long j = 0; j < width; j++) {
                try (Scope column = Scope.open()) {
                    if (m > 0 && (start + j) % m == 0) {
                        Tensor rising = scores(mine.narrow(1, j, m), d.narrow(0, start + j, m))
                                .sort(1, false)
                                .get(1);
                        Tensor places = rising.narrow(1, 0, n); // [out, n]
                        flags.narrow(1, j, m).scatter_(1, places, Tensor.ones(DType.FLOAT64, w.size(0), n));
                    }
                    double pivot = u.select(0, start + j).select(0, start + j).item();
                    Tensor e = mine.select(1, j).mul(flags.select(1, j)).div(pivot); // [out]
                    Tensor row = u.select(0, start + j).narrow(0, start + j, width - j); // [width - j]
                    mine.narrow(1, j, width - j).addmm_(e.unsqueeze(1), row.unsqueeze(0), -1);
                    errors.select(1, j).copy_(e);
                }
            }
            long rest = w.size(1) - start - width;
            if (rest > 0) {
                Tensor below = u.narrow(0, start, width).narrow(1, start + width, rest);
                w.narrow(1, start + width, rest).addmm_(errors, below, -1);
            }
        }
    }

    private static Tensor scores(Tensor w, Tensor d) {
        return w.div(d).square();
    }

    /** U with Uᵀ U = H⁻¹, up to the signs of its rows: H^(-1/2) by eigenvalues, then the R of its QR. */
    private static Tensor root(Tensor h, Tensor silent) {
        Tensor diagonal = diagonal(h);
        double damping = DAMPING * diagonal.mean(0, false).item();
        Tensor eye = Tensor.eye(h.size(0), DType.FLOAT64);
        Tensor more = silent.to(DType.FLOAT64).add(damping == 0 ? 1 : damping); // 1 where nothing occurs
        List<Tensor> eigen = h.add(eye.mul(more)).eigh(); // L [in], V [in, in] in columns
        Tensor half = eigen.get(1).mul(eigen.get(0).rsqrt()).t(); // L^(-1/2) Vᵀ
        return half.qr().get(1);
    }

    private static Tensor diagonal(Tensor square) {
        return square.mul(Tensor.eye(square.size(0), DType.FLOAT64)).sum(0, false);
    }
}
