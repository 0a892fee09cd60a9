package dev.espalier.unlearn;

import dev.espalier.adapter.Setting;
import dev.espalier.io.Fields;
import dev.espalier.tensor.Tensor;
import java.util.Map;

/**
 * Gradient ascent: training backwards on what is to be forgotten.
 *
 * <p>Jang et al., <i>Knowledge Unlearning for Mitigating Privacy Risks in Language Models</i>, arXiv:2210.01504, eq. 1; with {@code
 * retain: ce} gradient difference (Liu et al., arXiv:2203.12817), with {@code kl} as in TOFU (Maini et al., arXiv:2401.06121).
 *
 * <pre>{@code
 * L = 1/n Σ_t ln p(y_t)  [ + weight · CE(retain)  or  weight · KL(original || current) on retain ]
 * }</pre>
 *
 * <p>Unbounded below: it does not stop by itself, and takes the rest of the model with it. A reference for {@link Loku}. Checked by
 * derivation in its test.
 */
public final class GradientAscent implements Unlearning<GradientAscent.Config> {

    /**
     * Settings, and the loss they make.
     *
     * @param retain how the rest is kept
     */
    public record Config(Retain retain) implements Objective {
        @Override
        public Tensor forget(Forgetting step) {
            return step.outcome().loss().div(-(double) step.outcome().targets().numel());
        }
    }

    @Override
    public About about() {
        return new About(
                "ga",
                "unlearning",
                "gradient ascent on what is to be forgotten; the reference that does not stop",
                "Jang et al., Knowledge Unlearning for Mitigating Privacy Risks in Language Models, arXiv:2210.01504",
                """
                L = -CE(forget) [ + retainWeight · CE(retain) or KL(original || current) on retain ]
                CE a mean over target tokens""",
                "any adapter, initializer and optimizer",
                "the adapter",
                true);
    }

    @Override
    public Config read(Fields f) {
        return new Config(Retain.read(f, Retain.Kind.NONE));
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
