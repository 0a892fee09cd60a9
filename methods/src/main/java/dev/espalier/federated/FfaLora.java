package dev.espalier.federated;

import dev.espalier.adapter.Setting;
import dev.espalier.io.Fields;
import dev.espalier.nn.Parameter;
import java.util.Map;

/**
 * FFA-LoRA: clients train B alone, A stays as it was drawn.
 *
 * <p>Sun et al., <i>Improving LoRA in Privacy-preserving Federated Learning</i>, arXiv:2403.12313, section 3.2.
 *
 * <pre>{@code
 * B ← Σ w_k B_k,   A fixed,    (Σ w_k B_k) A = Σ w_k (B_k A)
 * A [r, in]    B [out, r]
 * }</pre>
 *
 * <p>The mean of the products is the product of the means, and noise on B alone has no noise to multiply. Checked by derivation in
 * its test.
 */
public final class FfaLora implements FederatedRule<FfaLora.Config> {

    /** It has no settings of its own. */
    public record Config() {}

    @Override
    public About about() {
        return new About(
                "ffa-lora",
                "federated",
                "federated averaging of B alone, A fixed as drawn",
                "Sun et al., Improving LoRA in Privacy-preserving Federated Learning, arXiv:2403.12313",
                """
                B ← Σ w_k B_k,  A fixed,  w_k = n_k / Σ n over the drawn clients
                A [r, in], B [out, r]: r out numbers a layer sent each way""",
                "lora with its own start; clients' steps by any optimizer",
                "a plain LoRA, in PEFT's format",
                true);
    }

    @Override
    public Config read(Fields f) {
        return new Config();
    }

    @Override
    public Server create(Config config, Setting setting) {
        Map<String, Parameter> trained = FederatedRule.factors(setting.adapter(), false);
        return () -> trained;
    }
}
