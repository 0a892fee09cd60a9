package dev.espalier.federated;

import static dev.espalier.Check.check;

import dev.espalier.adapter.Attached;
import dev.espalier.adapter.LowRank;
import dev.espalier.adapter.Setting;
import dev.espalier.adapter.Site;
import dev.espalier.io.Fields;
import dev.espalier.nn.Parameter;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Tensor;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * FedSVD: clients train B alone, and after a round the server factors B A again so that A has orthonormal rows.
 *
 * <p>Lee et al., <i>FedSVD: Adaptive Orthogonalization for Private Federated Learning with LoRA</i>, arXiv:2505.12805, algorithm 1.
 *
 * <pre>{@code
 * B ← Σ w_k B_k,   then   B A = U S Vᵀ,   A ← V_rᵀ,   B ← U_r S_r
 * by   Aᵀ = Q R,   B Rᵀ = U S Pᵀ,   A ← (Q P)ᵀ,   B ← U S
 * A [r, in]    B [out, r]    Q [in, r]    R, P [r, r]
 * }</pre>
 *
 * <p>The product is unchanged; being computed from what was sent, it costs no privacy; and ‖dL/dB‖ ≤ s ‖dL/dy‖ ‖x‖, so that less is
 * lost to clipping. The authors' code decomposes B A itself, which agrees where B has full column rank and else puts rows into A
 * that nothing asked for; the form through QR never forms B A and keeps A in its row space. That space never changes, therefore:
 * with plain descent all that follows the first refactorisation is {@link FfaLora} with that orthonormal A. Checked by derivation.
 */
public final class FedSvd implements FederatedRule<FedSvd.Config> {

    /**
     * Settings of its own.
     *
     * @param period rounds between refactorisations, at least 1; 0 for none, which is FFA-LoRA
     * @param warmup rounds before the first may come, at least 0
     */
    public record Config(int period, int warmup) {

        /** The paper's: after every round. */
        public static final Config DEFAULT = new Config(1, 0);

        /** Checks ranges. */
        public Config {
            check(period >= 0, "period must be at least 1 round, or 0 for never, found %d; try 1", period);
            check(warmup >= 0, "warmup must be at least 0 rounds, found %d; try 0", warmup);
        }
    }

    @Override
    public About about() {
        return new About(
                "fedsvd",
                "federated",
                "federated averaging of B, and A made orthonormal by the server after each round",
                "Lee et al., FedSVD: Adaptive Orthogonalization for Private Federated Learning with LoRA, arXiv:2505.12805",
                """
                B ← Σ w_k B_k,  then B A = U S Vᵀ,  A ← V_rᵀ,  B ← U_r S_r: the same product
                A [r, in], B [out, r]: r out numbers a layer sent up, r (in + out) down""",
                "lora with its own start; clients' steps by any optimizer, plain sgd in the paper",
                "a plain LoRA, in PEFT's format",
                true);
    }

    @Override
    public Config read(Fields f) {
        return new Config(f.integer("period", Config.DEFAULT.period()), f.integer("warmup", Config.DEFAULT.warmup()));
    }

    @Override
    public Map<String, String> meanings() {
        Map<String, String> all = new LinkedHashMap<>(FederatedRule.super.meanings());
        all.put("period", "rounds between refactorisations, at least 1; 0 for none");
        all.put("warmup", "rounds before the first refactorisation may come, at least 0");
        return all;
    }

    @Override
    public Server create(Config config, Setting setting) {
        Attached adapter = setting.adapter();
        Map<String, Parameter> trained = FederatedRule.factors(adapter, false);
        return new Server() {
            @Override
            public Map<String, Parameter> trained() {
                return trained;
            }

            @Override
            public void afterRound(int round) {
                if (config.period() > 0 && round % config.period() == 0 && round > config.warmup()) {
                    for (Site site : adapter.sites()) {
                        refactorise(adapter.lowRank(site.path()));
                    }
                }
            }
        };
    }

    /** Gives A orthonormal rows and B orthogonal columns, longest first, without changing B A. */
    static void refactorise(LowRank layer) {
        try (Grad off = Grad.off();
                Scope scope = Scope.open()) {
            Tensor a = layer.a().tensor().to(DType.FLOAT64); // [r, in]
            Tensor b = layer.b().tensor().to(DType.FLOAT64); // [out, r]
            List<Tensor> qr = a.t().qr(); // Q [in, r], R [r, r]
            List<Tensor> svd = b.matmul(qr.get(1).t()).svd(); // U [out, r], S [r], Pᵀ [r, r]
            layer.a().tensor().copy_(svd.get(2).matmul(qr.get(0).t()));
            layer.b().tensor().copy_(svd.get(0).mul(svd.get(1)));
        }
    }
}
