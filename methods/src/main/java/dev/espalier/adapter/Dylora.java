package dev.espalier.adapter;

import static dev.espalier.Check.check;

import dev.espalier.io.Fields;
import dev.espalier.io.TensorSource;
import dev.espalier.nn.Parameter;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.SplittableRandom;
import org.jspecify.annotations.Nullable;

/**
 * DyLoRA: LoRA trained at a rank drawn anew for each step, so that it can be cut to any rank afterwards.
 *
 * <p>Valipour et al., <i>DyLoRA: Parameter Efficient Tuning of Pre-trained Models using Dynamic Search-Free Low-Rank
 * Adaptation</i>, EACL 2023, arXiv:2210.07558, algorithm 1.
 *
 * <pre>{@code
 * y = x Wᵀ + bias + s_b (drop(x) A_bᵀ) B_bᵀ,    A_b = A[0:b],  B_b = B[:, 0:b],  s_b = lora_alpha / b
 * x [.., in]    W [out, in]    A [r, in]    B [out, r]    y [.., out]    b ~ p_B over r_min .. r
 * }</pre>
 *
 * <p>The paper's W_dw, W_up are our A, B. One b a step serves all layers and all of its batches. With {@code frozen}, only row
 * b of A and column b of B learn. That no other component moves then, not even by old momentum, is the paper's algorithm and
 * our default; the authors' code lets them ({@code inactive: dense}). Checked by hand derivation and against the card's
 * numbers of the authors' layer.
 */
public final class Dylora implements Adapter, LoraExpressible {

    /** What happens to components that have no part in a step. */
    public enum Inactive {
        /** The optimiser sees zero gradients; what it changes is put back. */
        RESTORE,
        /** The optimiser sees zero gradients and moves them by momentum and weight decay: the authors' code. */
        DENSE,
        /** Each component is a parameter of its own, which the optimiser leaves alone without a gradient. */
        SPLIT
    }

    /** p_B. */
    public enum Distribution {
        /** All ranks alike. */
        UNIFORM,
        /** Rank r_min + k with a probability proportional to (1 - p)ᵏ. */
        GEOMETRIC
    }

    /**
     * DyLoRA's settings.
     *
     * @param r largest rank, at least 1
     * @param rMin [r_min] smallest rank that is trained, 1 to r
     * @param rank the rank at inference and export, r_min to r; 0 for r
     * @param alpha [lora_alpha] numerator of the scale, positive
     * @param dropout [lora_dropout] in [0, 1)
     * @param distribution of the drawn rank
     * @param p [geometric_p] of the geometric distribution, in (0, 1)
     * @param frozen whether a step trains component b alone
     * @param inactive what happens to components that have no part in a step
     */
    public record Config(
            int r,
            int rMin,
            int rank,
            double alpha,
            double dropout,
            Distribution distribution,
            double p,
            boolean frozen,
            Inactive inactive) {

        /** The authors' script, inactive components at rest. */
        public static final Config DEFAULT =
                new Config(8, 1, 0, 16, 0, Distribution.UNIFORM, 0.15, true, Inactive.RESTORE);

        /** Checks ranges. */
        public Config {
            Lora.Config.of(r, alpha).withDropout(dropout);
            check(rMin >= 1 && rMin <= r, "r_min must lie in 1 to r = %d, found %d; try 1", r, rMin);
            checkRank(rank, rMin, r);
            check(p > 0 && p < 1, "geometric_p must lie in (0, 1), found %s; try 0.15", p);
        }

        private static void checkRank(int rank, int rMin, int r) {
            check(
                    rank == 0 || (rank >= rMin && rank <= r),
                    "rank %d was not trained: the adapter can be cut to %d to %d",
                    rank,
                    rMin,
                    r);
        }

        /** The same, cut to a rank at inference. */
        public Config withRank(int b) {
            return new Config(r, rMin, b, alpha, dropout, distribution, p, frozen, inactive);
        }

        /** A rank of {@link #distribution}. */
        int draw(Seed seed) {
            double u = new SplittableRandom(seed.value()).nextDouble();
            int n = r - rMin + 1;
            if (distribution == Distribution.UNIFORM) {
                return rMin + (int) (u * n);
            }
            double mass = 1 - Math.pow(1 - p, n); // of the first n of all geometric ranks
            return rMin + Math.min(n - 1, (int) (Math.log1p(-u * mass) / Math.log1p(-p)));
        }
    }

    /** How DyLoRA is set up, read and written. */
    public static final class Type implements AdapterType<Config> {

        @Override
        public About about() {
            return new About(
                    "dylora",
                    "adapter",
                    "LoRA trained at a rank drawn for each step, to be cut to any rank afterwards",
                    "Valipour et al., DyLoRA: Parameter Efficient Tuning of Pre-trained Models using Dynamic Search-Free"
                            + " Low-Rank Adaptation, EACL 2023, arXiv:2210.07558",
                    """
                    y = x Wᵀ + bias + (lora_alpha / b) (drop(x) A[0:b]ᵀ) B[:, 0:b]ᵀ,  b drawn from r_min .. r each step
                    A [r, in], B [out, r] trained: r (in + out) parameters a layer""",
                    "any optimizer, modules_to_save and bias; no initializer",
                    "A and B of each layer and the rank to use, of our own type (DYLORA); export --to lora --rank b cuts exactly",
                    true);
        }

        @Override
        public Map<String, String> meanings() {
            return Map.of(
                    "r", "largest rank, 1 to the layer's smaller width",
                    "r_min", "smallest rank that is trained, 1 to r",
                    "rank", "rank at inference and export, r_min to r; 0 for r",
                    "lora_alpha", "numerator of the scale lora_alpha / b, above 0",
                    "lora_dropout", "share of the input dropped in training, in [0, 1)",
                    "distribution", "of the drawn rank: uniform or geometric",
                    "geometric_p", "the geometric distribution's p, in (0, 1); larger draws smaller ranks",
                    "frozen", "a step at rank b trains component b alone, and not those below it",
                    "inactive",
                            "components without part in a step: restore (stay as they are), dense (drift by momentum,"
                                    + " as in the authors' code) or split (stay, with moments of their own)");
        }

        @Override
        public String peftType() {
            return "DYLORA";
        }

        @Override
        public Config read(Fields f) {
            Config usual = Config.DEFAULT;
            return new Config(
                    f.integer("r", usual.r()),
                    f.integer("r_min", usual.rMin()),
                    f.integer("rank", usual.rank()),
                    f.number("lora_alpha", usual.alpha()),
                    f.number("lora_dropout", usual.dropout()),
                    f.choice("distribution", usual.distribution()),
                    f.number("geometric_p", usual.p()),
                    f.bool("frozen", usual.frozen()),
                    f.choice("inactive", usual.inactive()));
        }

        @Override
        public Map<String, @Nullable Object> write(Config config) {
            Map<String, @Nullable Object> json = new LinkedHashMap<>();
            json.put("r", config.r());
            json.put("r_min", config.rMin());
            json.put("rank", config.rank());
            json.put("lora_alpha", config.alpha());
            json.put("lora_dropout", config.dropout());
            json.put("distribution", config.distribution().name().toLowerCase(Locale.ROOT));
            json.put("geometric_p", config.p());
            json.put("frozen", config.frozen());
            json.put("inactive", config.inactive().name().toLowerCase(Locale.ROOT));
            json.put("bias", "none");
            return json;
        }

        @Override
        public void check(Config config, List<Site> sites) {
            Lora.Config.of(config.r(), config.alpha()).fit(sites);
        }

        @Override
        public Made create(Config config, List<Site> sites, Seed seed) {
            Active active = new Active();
            active.drawn = config.r();
            active.chosen = config.rank() == 0 ? config.r() : config.rank();
            return Made.each(sites, site -> new Dylora(config, active, site, seed));
        }

        @Override
        public Parts parts(Config config, Attached adapter, Seed seed) {
            return Parts.of(new DyloraDraws(config, layers(adapter.made()), seed.named("dylora")));
        }

        /** A and B whole, however they are kept. */
        @Override
        public Saved<Config> saved(Config config, Made made) {
            Map<String, Tensor> tensors = new LinkedHashMap<>();
            made.adapters().forEach((path, adapter) -> {
                Dylora each = (Dylora) adapter;
                tensors.put(Made.key(path, each.nested.nameOfA), NestedFactors.whole(each.nested.a, 0));
                tensors.put(Made.key(path, each.nested.nameOfB), NestedFactors.whole(each.nested.b, 1));
            });
            int chosen = layers(made).get(0).active.chosen;
            return new Saved<>(config.withRank(chosen == config.r() ? 0 : chosen), tensors);
        }

        @Override
        public @Nullable Map<String, Tensor> restored(Config config, Made made, TensorSource file) {
            if (config.inactive() != Inactive.SPLIT) {
                return null;
            }
            Map<String, Tensor> parts = new LinkedHashMap<>();
            made.adapters().forEach((path, adapter) -> {
                Dylora each = (Dylora) adapter;
                Tensor a = file.read(Made.key(path, each.nested.nameOfA));
                Tensor b = file.read(Made.key(path, each.nested.nameOfB));
                for (int k = 0; k < config.r(); k++) {
                    parts.put(Made.key(path, each.nested.nameOfA + "." + k), a.narrow(0, k, 1));
                    parts.put(Made.key(path, each.nested.nameOfB + "." + k), b.narrow(1, k, 1));
                }
            });
            return parts;
        }

        private static List<Dylora> layers(Made made) {
            return made.adapters().values().stream()
                    .map(adapter -> (Dylora) adapter)
                    .toList();
        }
    }

    /** The ranks that all layers have in common. */
    static final class Active {
        int drawn; // in training
        int chosen; // at inference
    }

    private final Config config;
    final Active active;
    final NestedFactors nested;

    private Dylora(Config config, Active active, Site site, Seed seed) {
        this.config = config;
        this.active = active;
        nested = new NestedFactors(
                new Factors(config.r(), 1, config.dropout(), site, seed),
                config.r(),
                config.inactive() == Inactive.SPLIT,
                config.frozen());
    }

    /** The active rank b: the step's while training, else the chosen one. */
    int rank(boolean training) {
        return training ? active.drawn : active.chosen;
    }

    /** Whether component k, from 0, learns in this step. */
    boolean learns(int k) {
        return config.frozen() ? k == active.drawn - 1 : k < active.drawn;
    }

    /**
     * Cuts an adapter to a rank at inference, merging and export, until the next call.
     *
     * @param rank r_min to r
     */
    public static void cut(Attached adapter, int rank) {
        adapter.made().adapters().values().forEach(each -> {
            Dylora dylora = (Dylora) each;
            Config.checkRank(rank, dylora.config.rMin(), dylora.config.r());
            dylora.active.chosen = rank == 0 ? dylora.config.r() : rank;
        });
    }

    @Override
    public Tensor forward(Tensor x, Base base) {
        int rank = rank(base.layer().isTraining());
        Tensor rows = nested.factors.rows(x); // [n, in]
        Tensor y = base.forward(rows); // [n, out]
        DType dtype = y.dtype();
        Tensor down = nested.factors.down(
                nested.factors.dropped(rows, base), nested.first(nested.a, 0, rank), dtype); // [n, b]
        y.addmm_(down, nested.first(nested.b, 1, rank).to(dtype).t(), config.alpha() / rank);
        return nested.factors.shaped(y, x);
    }

    @Override
    public LoraFactors toLora() {
        return toLora(active.chosen);
    }

    /** A cut at a smaller rank is as much the adapter's own as the whole. */
    @Override
    public LoraFactors toLora(int maxRank) {
        int rank = Math.min(maxRank, active.chosen);
        Config.checkRank(rank, config.rMin(), config.r());
        return new LoraFactors(
                nested.first(nested.a, 0, rank).contiguous(),
                nested.first(nested.b, 1, rank).contiguous(),
                config.alpha() / rank,
                null);
    }

    @Override
    public Map<String, Parameter> parameters() {
        return nested.named();
    }
}
