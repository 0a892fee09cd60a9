package dev.espalier.adapter;

import static dev.espalier.Check.check;

import dev.espalier.io.Fields;
import dev.espalier.nn.Parameter;
import dev.espalier.rank.ColumnFreeze;
import dev.espalier.rank.SpectrumRanks;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Generator;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Svd;
import dev.espalier.tensor.Tensor;
import java.util.ArrayList;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.function.Supplier;
import org.jspecify.annotations.Nullable;

/**
 * LaMDA: a small trained matrix between two frames of the weight, one frozen and one that freezes.
 *
 * <p>Azizi, Kundu, Pedram, <i>LaMDA: Large Model Fine-Tuning via Spectrally Decomposed Low-Dimensional Adaptation</i>,
 * arXiv:2406.12832; LaMDA++ beside it, {@link SpectrumRanks}.
 *
 * <pre>{@code
 * y = x Wᵀ + b + (x Aᵀ) (s B (S0 + S) - C)ᵀ,    s = lora_alpha / r,    W ≈ U_r Σ_r V_rᵀ
 * x [.., in]    A = V_rᵀ [r, in] frozen    S [r, r] trained, 0 at the start    B = U_r [out, r] trained, frozen column by column
 * S0 = Σ_r / s [r]    C = s B S0 [out, r], as it was at the start: frozen
 * }</pre>
 *
 * <p>The same function as the paper's s B S A beside the weight's rest W - U_r Σ_r V_rᵀ, without altering W. What trains of S is its
 * difference from the start, so that weight decay draws towards the weight and not towards none. Of x only x Aᵀ is kept for the
 * backward pass. {@code start: code} is checked against the authors' code.
 *
 * <p>Reconstructed: S starting from the singular values ({@code start: spectral_zero} starts it at 0), that B's columns
 * freeze one after another ({@code freeze: released} is the code's schedule, which never gets there), and LaMDA++'s groups
 * ({@code allocation: threshold} is another reading). All layers have one s, whatever rank LaMDA++ gives them.
 */
public final class Lamda implements Adapter, LoraExpressible {

    /** What A, B and S are at the start. None changes what the layer computes. */
    public enum Start {
        /** Singular vectors and values. */
        SPECTRAL,
        /** Singular vectors, and S zero; B moves only once S has. */
        SPECTRAL_ZERO,
        /** The authors' code: A Kaiming-uniform, B zero, S uniform in ±1/√r, rounded to bfloat16. */
        CODE
    }

    /**
     * LaMDA's settings.
     *
     * @param r rank, at least 1; with an allocation the ranks' mean
     * @param alpha [lora_alpha] numerator of the scale, positive
     * @param dropout [lora_dropout] in [0, 1)
     * @param start of A, B and S
     * @param eta share of the steps over which B freezes, at least 0; above 1 it never does whole
     * @param freeze how it does
     * @param allocation of ranks
     * @param rankSet [rank_set] the ranks of the groups, an odd number, rising, symmetric around r; none: r/2, r, 3r/2
     * @param svd how the weight is decomposed
     * @param initWeights [init_weights] whether it is; false in files, which hold what came of it
     * @param ranks [rank_pattern] ranks by path of the layer where they are not r; written when saved
     */
    public record Config(
            int r,
            double alpha,
            double dropout,
            Start start,
            double eta,
            ColumnFreeze.Schedule freeze,
            SpectrumRanks.Rule allocation,
            List<Integer> rankSet,
            Svd svd,
            boolean initWeights,
            Map<String, Integer> ranks) {

        /** Checks the ranges. */
        public Config {
            Lora.Config.of(r, alpha).withDropout(dropout);
            check(eta >= 0 && Double.isFinite(eta), "eta must be at least 0 and finite, found %s; try 0.3", eta);
            rankSet = allocation == SpectrumRanks.Rule.GROUPED
                    ? SpectrumRanks.symmetric(rankSet, r)
                    : List.copyOf(rankSet);
            ranks = Patterns.ranks(ranks);
        }
    }

    /** How LaMDA is set up, read and written. */
    public static final class Type implements AdapterType<Config> {

        @Override
        public About about() {
            return new About(
                    "lamda",
                    "adapter",
                    "a small trained matrix between two frames, one of which freezes",
                    "Azizi, Kundu, Pedram, LaMDA: Large Model Fine-Tuning via Spectrally Decomposed Low-Dimensional"
                            + " Adaptation, arXiv:2406.12832",
                    """
                    y = x Wᵀ + b + (x Aᵀ) (s B (S0 + S) - C)ᵀ,  s = lora_alpha / r,  C = s B S0 at the start
                    A = V_rᵀ [r, in] frozen, S [r, r] trained, B = U_r [out, r] trained until eta of the steps: r² parameters are left""",
                    "optimizers that can drop their state (adamw, sgd, galore), modules_to_save and bias; linear layers only",
                    "A, B, S, S0 and C of each layer; export --to lora is exact, at rank r",
                    true);
        }

        @Override
        public String reading() {
            return "the method section was not at hand. start: spectral_zero starts S at 0 and not at the singular values;"
                    + " freeze: released is the code's schedule, under which most of B never freezes; LaMDA++'s groups are"
                    + " ours, allocation: threshold is another rule. start: code is what the released code does.";
        }

        @Override
        public Map<String, String> meanings() {
            return Map.ofEntries(
                    Map.entry("r", "rank, 1 to the layer's smaller width; with an allocation the ranks' mean"),
                    Map.entry("lora_alpha", "numerator of the scale s = lora_alpha / r, above 0; r if not given"),
                    Map.entry("lora_dropout", "share of the input dropped in training, in [0, 1)"),
                    Map.entry("start", "spectral (S from the singular values), spectral_zero (S zero) or code"),
                    Map.entry(
                            "eta", "share of the steps over which B freezes, at least 0; above 1 it never does whole"),
                    Map.entry("freeze", "gradual: column after column, for good; released: the code's schedule"),
                    Map.entry("allocation", "same, or LaMDA++ from the weights' spectra: grouped or threshold"),
                    Map.entry("rank_set", "the groups' ranks: an odd number, rising, symmetric around r; r/2, r, 3r/2"),
                    Map.entry("svd", "exact, or randomised for layers wider than a thousand or so"),
                    Map.entry("init_weights", "true: the weight is decomposed; false in files, which hold the parts"),
                    Map.entry("rank_pattern", "ranks by path of the layer; written when saved"));
        }

        @Override
        public String peftType() {
            return "LAMDA";
        }

        @Override
        public Config read(Fields f) {
            int r = f.integer("r", 32);
            return new Config(
                    r,
                    f.number("lora_alpha", r),
                    f.number("lora_dropout", 0),
                    f.choice("start", Start.SPECTRAL),
                    f.number("eta", 0.3),
                    f.choice("freeze", ColumnFreeze.Schedule.GRADUAL),
                    f.choice("allocation", SpectrumRanks.Rule.SAME),
                    f.integers("rank_set", List.of()),
                    f.choice("svd", Svd.EXACT),
                    f.bool("init_weights", true),
                    f.integerMap("rank_pattern", Map.of()));
        }

        @Override
        public Map<String, @Nullable Object> write(Config config) {
            Map<String, @Nullable Object> json = new LinkedHashMap<>();
            json.put("r", config.r());
            json.put("lora_alpha", config.alpha());
            json.put("lora_dropout", config.dropout());
            json.put("start", word(config.start()));
            json.put("eta", config.eta());
            json.put("freeze", word(config.freeze()));
            json.put("allocation", word(config.allocation()));
            json.put("rank_set", config.rankSet());
            json.put("svd", word(config.svd()));
            json.put("init_weights", config.initWeights());
            json.put("rank_pattern", config.ranks());
            json.put("bias", "none");
            return json;
        }

        private static String word(Enum<?> choice) {
            return choice.name().toLowerCase(Locale.ROOT);
        }

        @Override
        public void check(Config config, List<Site> sites) {
            List<Integer> all = new ArrayList<>(config.rankSet());
            all.addAll(config.ranks().values());
            all.add(config.r());
            Lora.Config.of(Collections.max(all), 1).fit(sites);
        }

        @Override
        public Made create(Config config, List<Site> sites, Seed seed) {
            Map<String, Supplier<Tensor>> weights = new LinkedHashMap<>();
            sites.forEach(site -> weights.put(site.path(), () -> Frames.weight(site, "lamda")));
            Map<String, Integer> ranks = config.initWeights() && config.ranks().isEmpty()
                    ? config.allocation().ranks(weights, config.r(), config.rankSet())
                    : config.ranks();
            return Made.each(sites, site -> new Lamda(config, ranks.getOrDefault(site.path(), config.r()), site, seed));
        }

        @Override
        public Parts parts(Config config, Attached adapter, Seed seed) {
            List<Parameter> matrices = adapter.made().adapters().values().stream()
                    .map(each -> ((Lamda) each).b)
                    .toList();
            return Parts.of(new ColumnFreeze(matrices, config.freeze(), config.eta()));
        }

        @Override
        public Saved<Config> saved(Config c, Made made) {
            Map<String, Integer> ranks =
                    made.ranks(c.r(), adapter -> (int) ((Lamda) adapter).a.shape()[0]);
            return new Saved<>(
                    new Config(
                            c.r(),
                            c.alpha(),
                            c.dropout(),
                            c.start(),
                            c.eta(),
                            c.freeze(),
                            c.allocation(),
                            c.rankSet(),
                            c.svd(),
                            false,
                            ranks),
                    made.tensors());
        }
    }

    private final Parameter a; // A [r, in]
    private final Parameter b; // B [out, r]
    private final Parameter middle; // S [r, r]
    private final @Nullable Parameter first; // S0 [r]
    private final @Nullable Parameter taken; // C [out, r]
    private final double scale; // s
    private final double dropout;

    /** LaMDA on one layer, of some rank. */
    Lamda(Config config, long r, Site site, Seed seed) {
        scale = config.alpha() / config.r();
        dropout = config.dropout();
        Seed here = seed.named(site.path());
        try (Grad off = Grad.off();
                Scope scope = Scope.open()) {
            Tensor weight = Frames.weight(site, "lamda"); // [out, in]
            Tensor frameA = Tensor.zeros(weight.dtype(), r, weight.size(1));
            Tensor frameB = Tensor.zeros(weight.dtype(), weight.size(0), r);
            Tensor values = Tensor.zeros(weight.dtype(), r);
            Tensor start = Tensor.zeros(weight.dtype(), r, r);
            if (config.initWeights() && config.start() == Start.CODE) {
                try (Generator forA = here.named("lora_A").generator();
                        Generator forS = here.named("lamda_S").generator()) {
                    frameA = forA.kaimingUniform(r, weight.size(1));
                    start = forS.kaimingUniform(r, r).to(DType.BFLOAT16);
                }
            } else if (config.initWeights()) {
                List<Tensor> svd = LoraXs.leading(config.svd(), weight, r, here);
                frameA = svd.get(2).clone();
                frameB = svd.get(0).clone();
                values = svd.get(1).clone();
            }
            a = site.frozen(frameA);
            b = site.trained(frameB);
            middle = site.trained(start);
            first = config.start() == Start.SPECTRAL ? site.frozen(values.div(scale)) : null;
            taken = first == null
                    ? null
                    : site.frozen(b.tensor().mul(first.tensor()).mul(scale));
        }
    }

    @Override
    public Tensor forward(Tensor x, Base base) {
        return toLora().forward(x, base, dropout);
    }

    /** A, and s B (S0 + S) - C: the change from the original weight. */
    @Override
    public LoraFactors toLora() {
        Tensor up = b.tensor().matmul(middle.tensor()); // [out, r]
        if (first == null || taken == null) {
            return new LoraFactors(a.tensor(), up, scale, null);
        }
        up = b.tensor().mul(first.tensor()).add(up).mul(scale).sub(taken.tensor()); // in C's order: 0 at the start
        return new LoraFactors(a.tensor(), up, 1, null);
    }

    @Override
    public Map<String, Parameter> parameters() {
        Map<String, Parameter> named = new LinkedHashMap<>();
        named.put("lora_A.weight", a);
        named.put("lora_B.weight", b);
        named.put("lamda_S", middle);
        if (first != null && taken != null) {
            named.put("lamda_S0", first);
            named.put("lamda_C", taken);
        }
        return named;
    }
}
