package dev.espalier.unlearn;

import dev.espalier.adapter.Setting;
import dev.espalier.io.Fields;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Tensor;
import java.util.Map;

/**
 * LoKU: the true token is made less likely than its strongest competitor, on a LoRA that starts where the forgotten is stored.
 *
 * <p>Cha et al., <i>Towards Robust and Parameter-Efficient Knowledge Unlearning for LLMs</i>, ICLR 2025, arXiv:2408.06621, eqs. 4
 * and 9: the inverted hinge loss here, the start FILA in {@code dev.espalier.init.Fila}.
 *
 * <pre>{@code
 * IHL = 1/n Σ_t 1 + p(y_t) - p(v_t),   v_t = argmax_{v ≠ y_t} p(v),    p = softmax(z_t) in float32
 * L = IHL(forget) + retainWeight · CE(retain)
 * dl/dz_y = p_y (1 - p_y + p_v),   dl/dz_v = -p_v (1 - p_v + p_y),   dl/dz_k = p_k (p_v - p_y)
 * z [n, V]    y [n]
 * }</pre>
 *
 * <p>Each term lies in [0, 2], so the loss stops by itself; the hinge around it never bites and is left out. v is a constant of the
 * step, the lowest of equals. Trained far too long it sharpens on the substitute. Checked by derivation in its test.
 */
public final class Loku implements Unlearning<Loku.Config> {

    /**
     * Settings, and the loss they make.
     *
     * @param retain how the rest is kept
     */
    public record Config(Retain retain) implements Objective {
        @Override
        public Tensor forget(Forgetting step) {
            return invertedHinge(step.outcome().logits(), step.outcome().targets());
        }
    }

    /**
     * The inverted hinge loss.
     *
     * @param logits z [n, V]
     * @param targets y int64 [n]
     * @return the mean, a scalar in [0, 2]
     */
    static Tensor invertedHinge(Tensor logits, Tensor targets) {
        Tensor wide = logits.dtype().bytes() < 4 ? logits.to(DType.FLOAT32) : logits;
        Tensor p = wide.softmax(-1); // [n, V]
        Tensor y = targets.unsqueeze(-1); // [n, 1]
        Tensor others = p.detach().clone();
        others.scatter_(-1, y, Tensor.full(-1, p.dtype(), y.shape()).to(p.device()));
        Tensor v = others.argmax(-1).unsqueeze(-1); // [n, 1]
        return p.gather(-1, y).sub(p.gather(-1, v)).mean().add(1);
    }

    @Override
    public About about() {
        return new About(
                "loku",
                "unlearning",
                "the true token made less likely than its strongest competitor, bounded; with FILA's start",
                "Cha et al., Towards Robust and Parameter-Efficient Knowledge Unlearning for LLMs, arXiv:2408.06621",
                """
                L = 1/n Σ_t [1 + p(y_t) - max_{v ≠ y_t} p(v)] on forget + retainWeight · CE(retain)
                each term in [0, 2]""",
                "any adapter and optimizer; lora started by fila in the paper",
                "the adapter; started by fila a plain LoRA of twice the rank",
                true);
    }

    @Override
    public Config read(Fields f) {
        return new Config(Retain.read(f, Retain.Kind.CE));
    }

    @Override
    public Map<String, String> meanings() {
        return Retain.MEANINGS;
    }

    @Override
    public Objective create(Config config, Setting setting) {
        return config;
    }
}
