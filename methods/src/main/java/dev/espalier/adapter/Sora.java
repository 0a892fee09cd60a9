package dev.espalier.adapter;

import static dev.espalier.Check.check;

import dev.espalier.io.Fields;
import dev.espalier.nn.Parameter;
import dev.espalier.rank.GateAdam;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Generator;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/**
 * SoRA: LoRA with a gate on each rank, driven to exact zeros; what is shut at the end is cut out.
 *
 * <p>Ding et al., <i>Sparse Low-rank Adaptation of Pre-trained Language Models</i>, EMNLP 2023, arXiv:2311.11696, eq. 3 to 6.
 *
 * <pre>{@code
 * y = x Wᵀ + b + s ((drop(x) Aᵀ) ∘ g) Bᵀ,    s = lora_alpha / r
 * g ← soft(Adam(g), ξ),    soft(v, ξ) = sign(v) max(|v| - ξ, 0)
 * x [.., in]    W [out, in]    A [r, in]    g [r]    B [out, r]    y [.., out]
 * }</pre>
 *
 * <p>The paper's W_d, W_u are our A, B. A starts Kaiming-uniform, B at zero, g at N(0, 1). A rank whose gate is zero may
 * come back while training lasts; files hold the others only, and s stays what it was. The paper's threshold is the gates'
 * rate times λ; the authors' code takes ξ as it is, and so do we by default, for their values are meant so. Their code also
 * zeroes everything below 2 ξ, which {@code released_threshold} repeats. Checked against the authors' formulas by hand
 * derivation.
 */
public final class Sora implements Adapter, LoraExpressible {

    /** The gates' name in files. */
    static final String GATE = "gate";

    /**
     * SoRA's settings.
     *
     * @param r rank at the start, at least 1
     * @param alpha [lora_alpha] numerator of the scale, positive
     * @param dropout [lora_dropout] in [0, 1)
     * @param xi ξ, at least 0
     * @param thresholdMode [threshold_mode] what ξ is multiplied by
     * @param releasedThreshold [released_threshold] whether the dead zone is 2 ξ wide, as in the authors' code
     * @param l1LossCoef [l1_loss_coef] weight of the gates' mean absolute value in the loss, at least 0
     * @param gateRate [gate_rate] the gates' learning rate as a multiple of the run's, above 0
     * @param ranks [rank_pattern] ranks left, by path of the layer; others have r
     */
    public record Config(
            int r,
            double alpha,
            double dropout,
            double xi,
            GateAdam.ThresholdMode thresholdMode,
            boolean releasedThreshold,
            double l1LossCoef,
            double gateRate,
            Map<String, Integer> ranks) {

        /** The authors' script, without its additional loss. */
        public static final Config DEFAULT =
                new Config(8, 16, 0, 3e-4, GateAdam.ThresholdMode.ABSOLUTE, false, 0, 1, Map.of());

        /** Checks ranges. */
        public Config {
            Lora.Config.of(r, alpha).withDropout(dropout);
            check(xi >= 0 && Double.isFinite(xi), "xi must be at least 0 and finite, found %s; try 3e-4", xi);
            check(
                    l1LossCoef >= 0 && Double.isFinite(l1LossCoef),
                    "l1_loss_coef must be at least 0 and finite, found %s; try 0",
                    l1LossCoef);
            check(
                    gateRate > 0 && Double.isFinite(gateRate),
                    "gate_rate must be above 0 and finite, found %s; try 1",
                    gateRate);
            int most = r;
            ranks = Collections.unmodifiableMap(new LinkedHashMap<>(ranks));
            ranks.forEach((path, rank) -> check(
                    rank >= 0 && rank <= most,
                    "rank_pattern: the rank left for %s must lie in 0 to r = %d, found %d",
                    path,
                    most,
                    rank));
        }

        /** The same with another threshold. */
        public Config withXi(double value) {
            return new Config(r, alpha, dropout, value, thresholdMode, releasedThreshold, l1LossCoef, gateRate, ranks);
        }

        Config withRanks(Map<String, Integer> left) {
            return new Config(r, alpha, dropout, xi, thresholdMode, releasedThreshold, l1LossCoef, gateRate, left);
        }

        /** What moves the gates. */
        public GateAdam gates() {
            return new GateAdam(xi, thresholdMode, releasedThreshold, gateRate);
        }
    }

    /** How SoRA is set up, read and written. */
    public static final class Type implements AdapterType<Config> {

        @Override
        public About about() {
            return new About(
                    "sora",
                    "adapter",
                    "LoRA with a gate on each rank, driven to exact zeros and then cut out",
                    "Ding et al., Sparse Low-rank Adaptation of Pre-trained Language Models, EMNLP 2023, arXiv:2311.11696",
                    """
                    y = x Wᵀ + b + s ((drop(x) Aᵀ) ∘ g) Bᵀ,  s = lora_alpha / r;  g ← soft(Adam(g), ξ) at each step
                    A [r, in], g [r], B [out, r] trained: r (in + out) + r parameters a layer, fewer when saved""",
                    "any optimizer for A and B (the gates have their own), modules_to_save and bias; no initializer",
                    "A, g and B of the ranks that are left in each layer, of our own type (SORA); export --to lora is exact",
                    true);
        }

        @Override
        public Map<String, String> meanings() {
            return Map.of(
                    "r", "rank at the start, 1 to the layer's smaller width",
                    "lora_alpha", "numerator of the scale s = lora_alpha / r, above 0; often twice the rank",
                    "lora_dropout", "share of the input dropped in training, in [0, 1)",
                    "xi", "how far each step moves every gate towards 0, at least 0; 0 to 1e-3",
                    "threshold_mode", "absolute (ξ as it is) or times_lr (ξ times the gates' rate: the paper's λ)",
                    "released_threshold", "zero all gates below 2 ξ, as the authors' code does by mistake",
                    "l1_loss_coef",
                            "weight in the loss of the mean |g| of all gates, at least 0; the authors' runs have 10",
                    "gate_rate", "the gates' learning rate as a multiple of the run's, above 0",
                    "rank_pattern", "ranks left, 0 to r, by path of the layer; written by training");
        }

        @Override
        public String peftType() {
            return "SORA";
        }

        @Override
        public Config read(Fields f) {
            Config usual = Config.DEFAULT;
            return new Config(
                    f.integer("r", usual.r()),
                    f.number("lora_alpha", usual.alpha()),
                    f.number("lora_dropout", usual.dropout()),
                    f.number("xi", usual.xi()),
                    f.choice("threshold_mode", usual.thresholdMode()),
                    f.bool("released_threshold", usual.releasedThreshold()),
                    f.number("l1_loss_coef", usual.l1LossCoef()),
                    f.number("gate_rate", usual.gateRate()),
                    f.integerMap("rank_pattern", usual.ranks()));
        }

        @Override
        public Map<String, @Nullable Object> write(Config config) {
            Map<String, @Nullable Object> json = new LinkedHashMap<>();
            json.put("r", config.r());
            json.put("lora_alpha", config.alpha());
            json.put("lora_dropout", config.dropout());
            json.put("xi", config.xi());
            json.put("threshold_mode", config.thresholdMode().name().toLowerCase(java.util.Locale.ROOT));
            json.put("released_threshold", config.releasedThreshold());
            json.put("l1_loss_coef", config.l1LossCoef());
            json.put("gate_rate", config.gateRate());
            json.put("rank_pattern", config.ranks());
            json.put("bias", "none");
            return json;
        }

        @Override
        public void check(Config config, List<Site> sites) {
            Lora.Config.of(config.r(), config.alpha()).fit(sites);
        }

        @Override
        public Made create(Config config, List<Site> sites, Seed seed) {
            Map<String, Adapter> adapters = new LinkedHashMap<>();
            for (Site site : sites) {
                int rank = config.ranks().getOrDefault(site.path(), config.r());
                if (rank > 0) {
                    adapters.put(site.path(), new Sora(config, rank, site, seed));
                }
            }
            return new Made(adapters, Map.of());
        }

        @Override
        public Parts parts(Config config, Attached adapter, Seed seed) {
            List<Parameter> gates = adapter.made().adapters().values().stream()
                    .map(each -> ((Sora) each).gate)
                    .toList();
            double coef = config.l1LossCoef();
            return new Parts(
                    List.of(),
                    coef == 0
                            ? List.of()
                            : List.of((step, outcome) -> Tensor.cat(
                                            gates.stream()
                                                    .map(Parameter::tensor)
                                                    .toList(),
                                            0)
                                    .abs()
                                    .mean()
                                    .mul(coef)),
                    Map.of(GATE, config.gates()));
        }

        /** The ranks that are left. */
        @Override
        public Saved<Config> saved(Config config, Made made) {
            Map<String, Integer> ranks = new LinkedHashMap<>(config.ranks());
            Map<String, Tensor> tensors = new LinkedHashMap<>();
            made.adapters().forEach((path, adapter) -> {
                Sora sora = (Sora) adapter;
                Tensor open = sora.open();
                int rank = (int) open.numel();
                if (rank < config.r()) {
                    ranks.put(path, rank);
                }
                if (rank > 0) {
                    sora.parameters().forEach((leaf, p) -> {
                        int dim = p == sora.factors.b ? 1 : 0;
                        tensors.put(Made.key(path, leaf), p.tensor().indexSelect(dim, open));
                    });
                }
            });
            return new Saved<>(config.withRanks(ranks), tensors);
        }
    }

    private final Factors factors;
    private final Parameter gate; // g [r]

    private Sora(Config config, int rank, Site site, Seed seed) {
        factors = new Factors(rank, config.alpha() / config.r(), config.dropout(), site, seed);
        try (Generator generator = seed.named(site.path()).named(GATE).generator()) {
            Tensor a = factors.a.tensor();
            gate = new Parameter(generator.randn(rank).to(a.dtype()).to(a.device()));
            gate.trainable(true);
        }
    }

    @Override
    public Tensor forward(Tensor x, Base base) {
        Tensor rows = factors.rows(x); // [n, in]
        Tensor y = base.forward(rows); // [n, out]
        DType dtype = y.dtype();
        Tensor down = factors.down(factors.dropped(rows, base), factors.a.tensor(), dtype); // [n, r]
        down = down.mul(gate.tensor().to(dtype));
        return factors.shaped(y.addmm_(down, factors.b.tensor().to(dtype).t(), factors.scale), x);
    }

    /** W to W + s B diag(g) A. */
    @Override
    public Base.Affine merge(Base.Affine base) {
        Tensor gated = factors.b.tensor().mul(gate.tensor()); // [out, r]
        return new Base.Affine(base.weight().addmm(gated, factors.a.tensor(), factors.scale), base.bias());
    }

    /** The ranks whose gate is not zero, the gate in B. */
    @Override
    public LoraFactors toLora() {
        Tensor open = open();
        Tensor gated = factors.b.tensor().mul(gate.tensor()).indexSelect(1, open); // [out, r']
        return new LoraFactors(factors.a.tensor().indexSelect(0, open), gated, factors.scale, null);
    }

    /** Numbers of the ranks whose gate is not zero, int64. */
    private Tensor open() {
        return gate.tensor().detach().ne(0).nonzero().reshape(-1);
    }

    @Override
    public Map<String, Parameter> parameters() {
        Map<String, Parameter> named = new LinkedHashMap<>(factors.named());
        named.put(GATE, gate);
        return named;
    }
}
