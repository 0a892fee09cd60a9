package dev.espalier.unlearn;

import static dev.espalier.Check.check;

import dev.espalier.adapter.Setting;
import dev.espalier.data.Batch;
import dev.espalier.io.Fields;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Tensor;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * NPO: what is to be forgotten counts as the rejected answer of a preference without a preferred one.
 *
 * <p>Zhang et al., <i>Negative Preference Optimization: From Catastrophic Collapse to Effective Unlearning</i>, arXiv:2404.05868,
 * eq. 3.
 *
 * <pre>{@code
 * L = -(2/β) E ln σ( -β ln(π(y|x) / π_ref(y|x)) ) = (2/β) E softplus(β Σ_t [ln p(y_t) - ln p_ref(y_t)])
 * E over rows, Σ over a row's target tokens
 * }</pre>
 *
 * <p>π_ref is the model without its adapter. As β goes to 0 its gradient is that of gradient ascent on sums of tokens. Checked by
 * derivation in its test.
 */
public final class Npo implements Unlearning<Npo.Config> {

    /**
     * Settings, and the loss they make.
     *
     * @param beta β, above 0
     * @param retain how the rest is kept
     */
    public record Config(double beta, Retain retain) implements Objective {

        /** Checks the range. */
        public Config {
            check(beta > 0 && Double.isFinite(beta), "beta must be above 0 and finite, found %s; try 0.1", beta);
        }

        @Override
        public Tensor forget(Forgetting step) {
            Tensor ratios = step.logProbabilities().sub(step.originalLogProbabilities()); // [n] tokens
            return loss(ratios, rows(step.batch()), beta);
        }
    }

    /**
     * The loss from what the model gains over the original.
     *
     * @param ratios ln p - ln p_ref of each target token [n]
     * @param rows which row each token is of [rows, n], 1 or 0
     */
    static Tensor loss(Tensor ratios, Tensor rows, double beta) {
        Tensor x = rows.to(ratios.dtype()).matmul(ratios).mul(beta); // [rows]
        Tensor softplus =
                Tensor.stack(List.of(x, x.zerosLike()), 1).logsumexp(1, false); // smooth at 0, where training starts
        return softplus.mean().mul(2 / beta);
    }

    /** Which row each target token is of: [rows, n], 1 or 0, without rows that have none. */
    static Tensor rows(Batch batch) {
        Tensor labels = java.util.Objects.requireNonNull(batch.labels()); // [B, T], targets from the second column
        Tensor wanted = labels.narrow(1, 1, labels.size(1) - 1).ne(Batch.IGNORED);
        long[] counts = wanted.to(DType.INT64).sum(1, false).longs();
        int n = 0;
        int rows = 0;
        for (long count : counts) {
            n += (int) count;
            rows += count > 0 ? 1 : 0;
        }
        double[] member = new double[rows * n];
        int row = 0;
        int token = 0;
        for (long count : counts) {
            for (int k = 0; k < count; k++) {
                member[row * n + token++] = 1;
            }
            row += count > 0 ? 1 : 0;
        }
        return Tensor.of(member, rows, n).to(labels.device());
    }

    @Override
    public About about() {
        return new About(
                "npo",
                "unlearning",
                "what is to be forgotten is a rejected answer; bounded, measured against the original model",
                "Zhang et al., Negative Preference Optimization: From Catastrophic Collapse to Effective Unlearning,"
                        + " arXiv:2404.05868",
                """
                L = -(2/β) E ln σ( -β ln(π(y|x) / π_ref(y|x)) ) [ + retainWeight · CE(retain) or KL(original || current) ]
                π_ref: the model without its adapter""",
                "any adapter, initializer and optimizer",
                "the adapter",
                true);
    }

    @Override
    public Config read(Fields f) {
        return new Config(f.number("beta", 0.1), Retain.read(f, Retain.Kind.NONE));
    }

    @Override
    public Map<String, String> meanings() {
        Map<String, String> all = new LinkedHashMap<>(Retain.MEANINGS);
        all.put("beta", "β, above 0: towards 0 it becomes gradient ascent");
        return all;
    }

    @Override
    public Objective create(Config config, Setting setting) {
        return config;
    }
}
