package dev.espalier.adapter;

import static dev.espalier.Check.check;

import dev.espalier.io.Fields;
import dev.espalier.nn.Parameter;
import dev.espalier.rank.ExpertRouter;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Generator;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/**
 * SMoRA: a LoRA each of whose ranks is an expert; a router gives every token some of them.
 *
 * <p>Zhao et al., <i>Each Rank Could be an Expert: Single-Ranked Mixture of Experts LoRA for Multi-Task Learning</i>, KDD 2026,
 * arXiv:2501.15103; the authors' code calls it SRMoLE.
 *
 * <pre>{@code
 * h = sigmoid(x' Rᵀ) + c,   x' = drop(x)
 * G_e = k_E h_e / Σ h_j over the chosen,   the k_E largest h are chosen;   0 for the others      k_E = k / p of E = r / p
 * y = x Wᵀ + b + (lora_alpha / k) ((x' Aᵀ) ∘ G) Bᵀ,   each gate of a block of p ranks
 * c_e ← c_e + u sign(mean n - n_e)   after each pass of a training,   n_e tokens that chose e
 * x [.., in]    W [out, in]    A [r, in]    B [out, r]    R [E, in]    c [E] not trained    G [.., E]    y [.., out]
 * }</pre>
 *
 * <p>The settings are the authors' names: r, activate_r (k), rank_partition (p, 1 in the paper). Two dense products give what their
 * indexed ones give, and cost little more where the router reads all of x anyway. A block has one bias, where their code has one a
 * rank, which tears blocks apart; with p = 1 there is no difference. They count c among what trains, so that AdamW moves it further
 * than the rule does; we keep it out ({@code train_balance_bias} repeats it). The paper's own equation of the gates was not at hand:
 * the code's is taken, whose bias is part of a gate's value, and {@code bias_in_gates} has the other reading. Of the state of the best
 * evaluation c is not kept: the last one stands. Checked against the authors' layer, run as it is.
 */
public final class Smora implements Adapter {

    /**
     * SMoRA's settings.
     *
     * @param r ranks, at least 1
     * @param active [activate_r] k, ranks that a token has, at most r
     * @param block [rank_partition] p, ranks that are chosen together, a divisor of r and of k
     * @param alpha [lora_alpha] numerator of the scale alpha / k, positive
     * @param dropout [lora_dropout] in [0, 1)
     * @param rate [bias_update_rate] u, at least 0
     * @param biasInGates [bias_in_gates] whether c is part of the gates, or chooses only
     * @param trainBias [train_balance_bias] whether the optimiser moves c too
     */
    public record Config(
            int r,
            int active,
            int block,
            double alpha,
            double dropout,
            double rate,
            boolean biasInGates,
            boolean trainBias) {

        /** The authors' script. */
        public static final Config DEFAULT = of(64, 8);

        /** Checks ranges. */
        public Config {
            Lora.Config.of(r, alpha).withDropout(dropout);
            check(
                    active >= 1 && active <= r,
                    "activate_r must lie in 1 to r = %d, the ranks there are, found %d; try %d",
                    r,
                    active,
                    Math.max(1, r / 8));
            check(
                    block >= 1 && r % block == 0 && active % block == 0,
                    "rank_partition must divide r = %d and activate_r = %d, found %d; try 1",
                    r,
                    active,
                    block);
            check(
                    rate >= 0 && Double.isFinite(rate),
                    "bias_update_rate must be at least 0 and finite, found %s; try 1e-5",
                    rate);
        }

        /** Some ranks, of which a token has some. */
        public static Config of(int r, int active) {
            return new Config(r, active, 1, 16, 0, 1e-5, true, false);
        }

        /** The same with ranks chosen in blocks. */
        public Config withBlock(int ranks) {
            return new Config(r, active, ranks, alpha, dropout, rate, biasInGates, trainBias);
        }

        /** The same with another numerator of the scale. */
        public Config withAlpha(double value) {
            return new Config(r, active, block, value, dropout, rate, biasInGates, trainBias);
        }

        /** The same with another u. */
        public Config withRate(double u) {
            return new Config(r, active, block, alpha, dropout, u, biasInGates, trainBias);
        }

        /** The same with another part for c. */
        public Config withBias(boolean inGates, boolean trained) {
            return new Config(r, active, block, alpha, dropout, rate, inGates, trained);
        }
    }

    /** How SMoRA is set up, read and written. */
    public static final class Type implements AdapterType<Config> {

        @Override
        public About about() {
            return new About(
                    "smora",
                    "adapter",
                    "a LoRA each of whose ranks is an expert, some of which a router gives every token",
                    "Zhao et al., Each Rank Could be an Expert: Single-Ranked Mixture of Experts LoRA for Multi-Task Learning,"
                            + " KDD 2026, arXiv:2501.15103",
                    """
                    y = x Wᵀ + b + (lora_alpha / k) ((x Aᵀ) ∘ G) Bᵀ,  G: of sigmoid(x Rᵀ) + c the k largest, k in sum, else 0
                    A [r, in], B [out, r], R [r, in] trained: r (2 in + out) parameters a layer; c [r] balanced by a rule""",
                    "any optimizer, modules_to_save and bias; linear layers only, no initializer",
                    "A, B, R and c of each layer, of our own type (SMORA); it depends on the token, so it has no export to lora",
                    false);
        }

        @Override
        public String reading() {
            return "the paper's equation of the gates was not at hand: they are those of the authors' code, with c in their"
                    + " values; bias_in_gates: false lets c choose and nothing else. That their optimiser moves c too is taken"
                    + " for an accident; train_balance_bias: true repeats it.";
        }

        @Override
        public Map<String, String> meanings() {
            return Map.of(
                    "r", "ranks, 1 to the layer's smaller width",
                    "activate_r", "k, ranks that each token has, 1 to r; with 1 the router learns nothing",
                    "rank_partition",
                            "p, ranks that are chosen together, a divisor of r and of activate_r; 1 in the paper",
                    "lora_alpha", "numerator of the scale lora_alpha / activate_r, above 0",
                    "lora_dropout", "share of the input dropped in training, for the router too, in [0, 1)",
                    "bias_update_rate", "u, by which each pass moves every c, at least 0; 0 is without balance",
                    "bias_in_gates",
                            "true: c is part of a gate's value, as in the authors' code; false: it only chooses",
                    "train_balance_bias", "let the optimiser move c too, as the authors' code does by accident");
        }

        @Override
        public String peftType() {
            return "SMORA";
        }

        @Override
        public Config read(Fields f) {
            Config usual = Config.DEFAULT;
            return new Config(
                    f.integer("r", usual.r()),
                    f.integer("activate_r", usual.active()),
                    f.integer("rank_partition", usual.block()),
                    f.number("lora_alpha", usual.alpha()),
                    f.number("lora_dropout", usual.dropout()),
                    f.number("bias_update_rate", usual.rate()),
                    f.bool("bias_in_gates", usual.biasInGates()),
                    f.bool("train_balance_bias", usual.trainBias()));
        }

        @Override
        public Map<String, @Nullable Object> write(Config config) {
            Map<String, @Nullable Object> json = new LinkedHashMap<>();
            json.put("r", config.r());
            json.put("activate_r", config.active());
            json.put("rank_partition", config.block());
            json.put("lora_alpha", config.alpha());
            json.put("lora_dropout", config.dropout());
            json.put("bias_update_rate", config.rate());
            json.put("bias_in_gates", config.biasInGates());
            json.put("train_balance_bias", config.trainBias());
            json.put("bias", "none");
            return json;
        }

        @Override
        public void check(Config config, List<Site> sites) {
            Lora.Config.of(config.r(), config.alpha()).fit(sites);
        }

        @Override
        public Made create(Config config, List<Site> sites, Seed seed) {
            return Made.each(sites, site -> new Smora(config, site, seed));
        }

        @Override
        public Parts parts(Config config, Attached adapter, Seed seed) {
            Map<String, ExpertRouter> routers = new LinkedHashMap<>();
            adapter.made().adapters().forEach((path, each) -> routers.put(path, ((Smora) each).router));
            return Parts.of(new ExpertRouter.Balance(routers));
        }
    }

    private final int block; // p
    private final Factors factors;
    private final ExpertRouter router; // R [E, in], c [E]

    /** SMoRA on one layer, A and B drawn as those of a LoRA. */
    Smora(Config config, Site site, Seed seed) {
        block = config.block();
        site.linear("smora");
        factors = new Factors(config.r(), config.alpha() / config.active(), config.dropout(), site, seed);
        long experts = config.r() / block;
        try (Scope scope = Scope.open();
                Generator generator =
                        seed.named(site.path()).named("lora_router").generator()) {
            Tensor start = generator.kaimingUniform(experts, site.layer().inFeatures());
            Tensor zero = Tensor.zeros(DType.FLOAT32, experts);
            router = new ExpertRouter(
                    site.trained(start),
                    config.trainBias() ? site.trained(zero) : site.frozen(zero),
                    config.active() / block,
                    config.biasInGates(),
                    config.rate());
        }
    }

    @Override
    public Tensor forward(Tensor x, Base base) {
        return Base.onRows(x, rows -> {
            Tensor y = base.forward(rows); // [n, out]
            Tensor dropped = factors.dropped(rows, base);
            Tensor gates = ofRanks(router.gates(dropped, base.layer().isTraining())); // [n, r]
            Tensor down = factors.down(dropped, factors.a.tensor(), y.dtype()).mul(gates.to(y.dtype()));
            return y.addmm_(down, factors.b.tensor().to(y.dtype()).t(), factors.scale);
        });
    }

    /** Of every rank, [n, r]. */
    private Tensor ofRanks(Tensor gates) {
        long n = gates.size(0);
        return block == 1
                ? gates
                : gates.unsqueeze(2).expand(n, gates.size(1), block).reshape(n, -1);
    }

    /** What gives every token its experts. */
    public ExpertRouter router() {
        return router;
    }

    @Override
    public Map<String, Parameter> parameters() {
        Map<String, Parameter> named = new LinkedHashMap<>(factors.named());
        named.put("lora_router.weight", router.weight());
        named.put("balance_bias", router.bias());
        return named;
    }
}
