package dev.espalier.merge;

import dev.espalier.tensor.DType;
import dev.espalier.tensor.Tensor;
import java.util.ArrayList;
import java.util.List;

/** What the merging methods do with tensors X_i of one shape and their weights c_i; elementwise, so factors and changes alike. */
final class TaskVectors {

    private TaskVectors() {}

    /** Σ c_i X_i. */
    static Tensor sum(List<Tensor> x, double[] weights) {
        Tensor sum = x.get(0).mul(weights[0]);
        for (int i = 1; i < weights.length; i++) {
            sum.add_(x.get(i), weights[i]);
        }
        return sum;
    }

    /** The ⌊density · n⌋ entries of largest |X|, all else 0; of equal ones the first in flat order. All of X if density is 1. */
    static Tensor keep(Tensor x, double density) {
        long count = (long) (density * x.numel());
        if (density >= 1) {
            return x;
        }
        if (count == 0) {
            return x.zerosLike();
        }
        Tensor size = x.abs().reshape(-1);
        double cut = size.topk(count).get(0).min().item();
        Tensor above = size.gt(cut).to(DType.INT64);
        Tensor level = size.eq(cut).to(DType.INT64);
        double room = count - above.sum().item();
        Tensor kept = level.cumsum(0).le(room).to(DType.INT64).mul(level).add(above);
        return x.mul(kept.reshape(x.shape()).to(x.dtype()));
    }

    /** The entries that a mask of ones and zeros keeps, over density: X in the mean over masks. All of X if density is 1. */
    static Tensor drop(Tensor x, double density, Tensor mask) {
        return density >= 1 ? x : x.mul(mask.to(x.dtype())).div(density);
    }

    /**
     * The mean of c_i Y_i over those that have the elected sign; zeros have none, an exact tie elects +. The weights have no vote.
     */
    static Tensor vote(List<Tensor> y, double[] weights, TiesMerger.Majority majority) {
        List<Tensor> votes = new ArrayList<>();
        y.forEach(t -> votes.add(t.sign()));
        double[] ones = new double[weights.length];
        java.util.Arrays.fill(ones, 1);
        Tensor total = sum(majority == TiesMerger.Majority.TOTAL ? y : votes, ones);
        Tensor elected = total.ge(0).to(total.dtype()).mul(2).sub(1); // +1 or -1
        Tensor sum = total.zerosLike();
        Tensor count = total.zerosLike();
        for (int i = 0; i < weights.length; i++) {
            Tensor agrees = votes.get(i).eq(elected).to(total.dtype());
            sum.addcmul_(agrees, y.get(i), weights[i]);
            count.add_(agrees);
        }
        return sum.div(count.clamp(1, Double.POSITIVE_INFINITY));
    }
}
