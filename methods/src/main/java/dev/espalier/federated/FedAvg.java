package dev.espalier.federated;

import dev.espalier.adapter.Setting;
import dev.espalier.io.Fields;
import dev.espalier.nn.Parameter;
import java.util.Map;

/**
 * FedAvg with LoRA: clients train both factors, the server averages each.
 *
 * <p>McMahan et al., <i>Communication-Efficient Learning of Deep Networks from Decentralized Data</i>, arXiv:1602.05629, algorithm
 * 1, on the factors of a LoRA.
 *
 * <pre>{@code
 * A ← Σ w_k A_k,   B ← Σ w_k B_k,    w_k = n_k / Σ n   over the drawn clients
 * A [r, in]    B [out, r]
 * }</pre>
 *
 * <p>The product of the means is not the mean of the products, and under privacy both factors carry noise, whose product is a term
 * of its own: {@link FfaLora} and {@link FedSvd} avoid both. Checked by derivation in its test.
 */
public final class FedAvg implements FederatedRule<FedAvg.Config> {

    /** It has no settings of its own. */
    public record Config() {}

    @Override
    public About about() {
        return new About(
                "fedavg",
                "federated",
                "federated averaging of both factors of a LoRA",
                "McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized Data, arXiv:1602.05629",
                """
                A ← Σ w_k A_k,  B ← Σ w_k B_k,  w_k = n_k / Σ n over the drawn clients
                A [r, in], B [out, r]: r (in + out) numbers a layer sent each way""",
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
        Map<String, Parameter> trained = FederatedRule.factors(setting.adapter(), true);
        return () -> trained;
    }
}
