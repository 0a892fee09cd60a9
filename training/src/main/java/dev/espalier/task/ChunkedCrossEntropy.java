package dev.espalier.task;

import dev.espalier.nn.Linear;
import dev.espalier.nn.Parameter;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Tensor;
import java.util.ArrayList;
import java.util.List;
import java.util.function.BiConsumer;

/**
 * Cross-entropy of a fixed output layer, a stretch of tokens at a time, with its gradient written by hand: neither the
 * logits [tokens, vocabulary] of a whole batch nor their gradient ever exist.
 *
 * <pre>{@code
 * z = W h + b,    q = (1 - s) onehot(y) + s / V
 * L = logsumexp(z) - q · z
 * dL/dh = Wᵀ (softmax(z) - q)
 * }</pre>
 *
 * h [D] a hidden state, W [V, D], s the label smoothing, L summed over tokens. The gradient is computed with the loss, in
 * the forward pass, while the logits are at hand.
 */
final class ChunkedCrossEntropy {

    /** Tokens a stretch: enough for a matrix product at full speed, and 128 rows of logits fit the caches' reach. */
    private static final int ROWS = 128;

    private ChunkedCrossEntropy() {}

    /**
     * The loss summed over tokens.
     *
     * @param hidden [n, D]
     * @param targets int64 [n]
     * @param head nothing of it trains
     * @return a scalar whose backward gives exactly dL/dh to {@code hidden}
     */
    static Tensor sum(Tensor hidden, Tensor targets, Linear head, double smoothing) {
        try (Scope scope = Scope.open()) {
            double[] loss = {0};
            List<Tensor> gradients = new ArrayList<>();
            try (Grad off = Grad.off()) {
                Parameter bias = head.biasParameter();
                Tensor weight = head.weight().to(hidden.dtype()); // once, not a stretch
                forEach(hidden.detach(), targets, (states, wanted) -> {
                    try (Scope chunk = Scope.open()) {
                        Tensor logits = states.linear(weight, bias == null ? null : bias.tensor());
                        Tensor z = CausalLmTask.wide(logits); // [rows, V]; becomes the gradient in place
                        loss[0] += lossAndGradient(z, wanted, smoothing);
                        gradients.add(chunk.promote(z.to(hidden.dtype()).matmul(weight))); // [rows, D]
                    }
                });
            }
            DType wide = hidden.dtype().bytes() < 4 ? DType.FLOAT32 : hidden.dtype();
            Tensor gradient = Tensor.cat(gradients, 0).to(wide);
            // The derivative of sum(h · g) by h is g; what the sum itself is worth is taken away again.
            Tensor carrier = hidden.to(wide).mul(gradient).sum();
            return scope.promote(carrier.sub(carrier.detach()).add(loss[0]));
        }
    }

    /** Calls {@code use} with each stretch; it opens a scope of its own. */
    static void forEach(Tensor hidden, Tensor targets, BiConsumer<Tensor, Tensor> use) {
        long n = targets.numel();
        for (long from = 0; from < n; from += ROWS) {
            long length = Math.min(ROWS, n - from);
            use.accept(hidden.narrow(0, from, length), targets.narrow(0, from, length));
        }
    }

    /** The loss of logits z [rows, V], which are overwritten by their gradient. */
    private static double lossAndGradient(Tensor z, Tensor targets, double smoothing) {
        double uniform = smoothing / z.size(-1);
        Tensor index = targets.unsqueeze(-1); // [rows, 1]
        Tensor wanted = z.gather(-1, index);
        Tensor mean = smoothing > 0 ? z.mean(-1, true) : wanted;
        // The softmax in place: one pass of exponentials serves loss and gradient.
        Tensor max = z.amax(-1, true);
        z.sub_(max).exp_();
        Tensor sum = z.sum(-1, true);
        z.div_(sum);
        Tensor total = max.add(sum.log()); // logsumexp
        Tensor logP = wanted.sub(total); // log-probability of each target
        double loss = -(1 - smoothing) * logP.to(DType.FLOAT64).sum().item();
        if (smoothing > 0) {
            loss -= smoothing * mean.sub(total).to(DType.FLOAT64).sum().item();
            z.add_(-uniform);
        }
        z.scatter_(-1, index, logP.exp().add(-uniform - (1 - smoothing)));
        return loss;
    }
}
