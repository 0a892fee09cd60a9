package dev.espalier.tensor;

import java.util.List;

/**
 * LU decomposition with row pivoting, panel by panel. LAPACK's own is not used: in the OpenBLAS at hand it ends the process for
 * matrices of more than a thousand rows or so.
 */
final class Lu {

    private static final long PANEL = 32;

    private Lu() {}

    /** See {@link Tensor#lu}. */
    static List<Tensor> of(Tensor matrix) {
        try (Grad off = Grad.off();
                Scope scope = Scope.open()) {
            long m = matrix.size(0);
            long n = matrix.size(1);
            long k = Math.min(m, n);
            Tensor lu = matrix.clone(); // L below the diagonal, U on it and above, as far as done
            long[] order = Tensor.arange(m).longs();
            for (long j = 0; j < k; j += PANEL) {
                long end = Math.min(j + PANEL, k);
                eliminate(lu, j, end, order);
                if (end < n) {
                    try (Scope each = Scope.open()) {
                        Tensor eye = Tensor.eye(end - j, lu.dtype()).to(lu.device());
                        Tensor square = lu.narrow(0, j, end - j).narrow(1, j, end - j);
                        Tensor right = lu.narrow(0, j, end - j).narrow(1, end, n - end);
                        right.copy_(square.tril(-1).add(eye).solve(right));
                        if (end < m) {
                            Tensor below = lu.narrow(0, end, m - end);
                            below.narrow(1, end, n - end)
                                    .sub_(below.narrow(1, j, end - j).matmul(right));
                        }
                    }
                }
            }
            Tensor l = lu.narrow(1, 0, k).tril(-1);
            l.narrow(0, 0, k).add_(Tensor.eye(k, lu.dtype()).to(lu.device()));
            Tensor u = lu.narrow(0, 0, k);
            return List.of(
                    scope.promote(Tensor.of(order, order.length).to(lu.device())),
                    scope.promote(l),
                    scope.promote(u.sub(u.tril(-1))));
        }
    }

    /** Columns j to end of the rows from j on; whole rows change places. */
    private static void eliminate(Tensor lu, long j, long end, long[] order) {
        long m = lu.size(0);
        for (long c = j; c < end; c++) {
            try (Scope each = Scope.open()) {
                Tensor below = lu.narrow(0, c, m - c).select(1, c); // [m - c]
                long pivot = c + (long) below.abs().argmax(0).item();
                if (pivot != c) {
                    Tensor here = lu.select(0, c).clone();
                    lu.select(0, c).copy_(lu.select(0, pivot));
                    lu.select(0, pivot).copy_(here);
                    long moved = order[(int) c];
                    order[(int) c] = order[(int) pivot];
                    order[(int) pivot] = moved;
                }
                double value = lu.select(0, c).select(0, c).item();
                if (c + 1 < m && value != 0) { // where it is 0, all below are
                    Tensor factors = lu.narrow(0, c + 1, m - c - 1).narrow(1, c, 1); // [m - c - 1, 1]
                    factors.copy_(factors.div(value));
                    if (c + 1 < end) {
                        Tensor row = lu.narrow(0, c, 1).narrow(1, c + 1, end - c - 1);
                        lu.narrow(0, c + 1, m - c - 1)
                                .narrow(1, c + 1, end - c - 1)
                                .sub_(factors.mul(row));
                    }
                }
            }
        }
    }
}
