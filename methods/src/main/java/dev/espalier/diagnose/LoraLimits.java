package dev.espalier.diagnose;

import static dev.espalier.Check.check;

import dev.espalier.EspalierException;
import dev.espalier.adapter.AdaptedModel;
import dev.espalier.io.Fields;
import dev.espalier.model.Model;
import dev.espalier.nn.Layer;
import dev.espalier.nn.Module;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Generator;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/**
 * LoRA's computational limits: how large the adapted queries and keys are, which decides whether attention's gradients can be had in
 * time almost linear in the length.
 *
 * <p>Hu, Su, Kuo, Song, Liu, <i>Computational Limits of Low-Rank Adaptation (LoRA) for Transformer-Based Models</i>, ICLR 2025,
 * arXiv:2406.03136.
 *
 * <pre>{@code
 * Γ = max(|√β Q|, |√β K|),   Q = x W_Qᵀ + s (x A_Qᵀ) B_Qᵀ, K alike,   β = 1 / √E
 * Γ = o(√log L): gradients of error 1 / poly(L) in time L^(1 + o(1)) exist;   Γ = Ω(√log L): none in L^(2 - Ω(1)), under SETH
 * gamma_hat = Γ / √(ln L),   |S_ij| <= M = max_i ‖√β q_i‖ max_j ‖√β k_j‖ of the worst head
 * x [L, in]    q, k [E]    L tokens of the longest text
 * }</pre>
 *
 * <p>The theorem has no constant, so the meter adds what the construction would cost: the degree g of {@link AttentionGradients} for an
 * error eps on scores up to M, its t features for each token, and the length from which they are fewer than tokens. That is far off
 * for published head widths: the approximation is measured beside, on drawn heads of few dimensions, against the exact gradients, and
 * is nowhere used in training. Measured before rotary positions, which keep norms and M. Derived by hand and checked against
 * automatic differentiation; no code has been published.
 */
public final class LoraLimits implements Diagnosis<LoraLimits.Config> {

    /**
     * Settings.
     *
     * @param eps relative error of an attention weight that the approximation may have, in (0, 1)
     * @param lengths of the comparison, each at least 16; none for no comparison
     * @param head dimensions of a head there, at least 1
     * @param bound M there, above 0 and at most 5
     */
    public record Config(double eps, List<Integer> lengths, int head, double bound) {

        /** An error of a thousandth. */
        public static final Config DEFAULT = new Config(1e-3, List.of(512, 1024, 2048, 4096), 4, 0.43);

        /** Checks ranges. */
        public Config {
            lengths = List.copyOf(lengths);
            check(eps > 0 && eps < 1, "eps must lie in (0, 1), found %s; try 1e-3", eps);
            lengths.forEach(
                    length -> check(length >= 16, "lengths must be at least 16 tokens, found %d; try 512", length));
            check(head >= 1, "head must be at least 1, found %d; try 4", head);
            check(
                    bound > 0 && bound <= AttentionGradients.LARGEST_BOUND,
                    "bound must lie in (0, 5], beyond which float32 is mostly rounding, found %s; try 0.43",
                    bound);
        }
    }

    @Override
    public About about() {
        return new About(
                "lora-limits",
                "diagnosis",
                "how large adapted queries and keys are, and what approximate attention gradients would cost",
                "Hu, Su, Kuo, Song, Liu, Computational Limits of Low-Rank Adaptation (LoRA) for Transformer-Based Models, ICLR"
                        + " 2025, arXiv:2406.03136",
                """
                Γ = max(|√β Q|, |√β K|) with adapters,  gamma_hat = Γ / √(ln L),  scores at most M
                almost linear time exists where Γ = o(√log L);  features: t = C(E + g, g) a token, g from M and eps""",
                "any adapter, on networks with q_proj and k_proj, or query and key; needs texts (--data)",
                "nothing",
                false);
    }

    @Override
    public String reading() {
        return "the theorems were not at hand: the thresholds and the chained gradient are from the abstract and memory, the matrix"
                + " form and the rule for the degree are derived here. The paper's β is taken as 1 / √E; its norms as largest"
                + " entries, with the bound M on scores beside them.";
    }

    @Override
    public Map<String, String> meanings() {
        return Map.of(
                "eps", "relative error that the approximation of a weight may have, in (0, 1)",
                "lengths",
                        "numbers of tokens at which exact and approximate gradients are compared, each at least 16; may be none",
                "head", "dimensions of a head in that comparison, at least 1",
                "bound", "largest score in that comparison, in (0, 5]");
    }

    @Override
    public Config read(Fields f) {
        Config usual = Config.DEFAULT;
        return new Config(
                f.number("eps", usual.eps()),
                f.integers("lengths", usual.lengths()),
                f.integer("head", usual.head()),
                f.number("bound", usual.bound()));
    }

    @Override
    public Report examine(Config config, AdaptedModel model) {
        throw new EspalierException(
                "lora-limits measures queries and keys on texts, and there are none; name a file with --data");
    }

    @Override
    public Report examine(Config config, AdaptedModel model, List<Pass> passes) {
        if (passes.isEmpty()) {
            return examine(config, model);
        }
        long longest = passes.stream().mapToLong(Pass::tokens).max().orElse(0);
        check(longest >= 2, "the longest text has %d tokens, and √(ln L) needs 2 or more; give longer texts", longest);
        if (!(model.network() instanceof Model network)) {
            throw new EspalierException("lora-limits needs a network that tells its heads; examine a pretrained model");
        }
        Map<String, AttentionMeter> meters =
                meters(model.network(), network.config().headDim());
        try (Grad off = Grad.off()) {
            for (Pass pass : passes) {
                try (Scope scope = Scope.open()) {
                    pass.run();
                }
            }
            return report(config, meters, longest, passes.size());
        } finally {
            meters.values().forEach(AttentionMeter::close);
        }
    }

    private static Map<String, AttentionMeter> meters(Module network, long headDim) {
        Map<String, AttentionMeter> meters = new LinkedHashMap<>();
        Map<String, Module> modules = network.namedModules();
        modules.forEach((path, module) -> {
            for (String[] names : new String[][] {{"q_proj", "k_proj"}, {"query", "key"}}) {
                String parent = path.substring(0, path.lastIndexOf('.') + 1);
                if (path.equals(parent + names[0])
                        && module instanceof Layer queries
                        && modules.get(parent + names[1]) instanceof Layer keys) {
                    check(
                            !modules.containsKey(parent + "q_norm"),
                            "%s is normalised before it is scored, so that its size says nothing; lora-limits is for attention without q_norm",
                            path);
                    meters.put(
                            parent.substring(0, parent.length() - 1),
                            new AttentionMeter(queries, keys, headDim, 1 / Math.sqrt((double) headDim)));
                }
            }
        });
        check(
                !meters.isEmpty(),
                "the network has neither q_proj and k_proj nor query and key; lora-limits knows Llama's and BERT's families");
        return meters;
    }

    private static Report report(Config config, Map<String, AttentionMeter> meters, long longest, int texts) {
        List<List<@Nullable Object>> rows = new ArrayList<>();
        double worst = 0;
        int reached = 0;
        for (Map.Entry<String, AttentionMeter> e : meters.entrySet()) {
            AttentionMeter meter = e.getValue();
            double hat = hat(meter.gamma(), longest);
            int degree = AttentionGradients.degree(meter.bound(), config.eps());
            double width = AttentionGradients.width(meter.headDim(), degree);
            List<@Nullable Object> row = new ArrayList<>();
            row.add(e.getKey());
            row.add(meter.gamma());
            row.add(hat);
            row.add(meter.ofQueries()[0]);
            row.add(meter.ofQueries()[1]);
            row.add(meter.ofKeys()[0]);
            row.add(meter.ofKeys()[1]);
            row.add(meter.bound());
            row.add(degree);
            row.add("%.1e".formatted(width * meter.headDim()));
            rows.add(row);
            worst = Math.max(worst, hat);
            reached += width * meter.headDim() <= longest ? 1 : 0;
        }
        Map<String, Object> totals = new LinkedHashMap<>();
        totals.put("texts", texts);
        totals.put("longest", longest);
        totals.put("largest_gamma_hat", worst);
        totals.put("layers", meters.size());
        totals.put("layers_where_it_pays", reached);
        totals.put("eps", config.eps());
        List<String> columns = List.of(
                "attention",
                "gamma",
                "gamma_hat",
                "q_layer",
                "q_adapter",
                "k_layer",
                "k_adapter",
                "score_bound",
                "degree",
                "pays_from_length");
        Map<String, Report> beside = config.lengths().isEmpty()
                ? Map.of()
                : Map.of("exact against approximate attention gradients", comparison(config));
        return new Report(columns, rows, totals, beside);
    }

    /** Γ / √(ln L). */
    static double hat(double gamma, long length) {
        return gamma / Math.sqrt(Math.log((double) length));
    }

    /** Errors, times and numbers held of one drawn head by length. */
    private static Report comparison(Config config) {
        List<List<@Nullable Object>> rows = new ArrayList<>();
        int degree = AttentionGradients.degree(config.bound(), config.eps());
        long features = (long) AttentionGradients.width(config.head(), degree);
        AttentionGradients.Head warm = drawn(config, 64);
        AttentionGradients.approximate(warm, o -> o, degree);
        AttentionGradients.exact(warm, o -> o);
        for (int length : config.lengths()) {
            try (Grad off = Grad.off();
                    Scope scope = Scope.open()) {
                AttentionGradients.Head head = drawn(config, length);
                Tensor target = drawn(config, length).q().roll(1, 0);
                long start = System.nanoTime();
                AttentionGradients.Gradients near = AttentionGradients.approximate(head, o -> o.sub(target), degree);
                long middle = System.nanoTime();
                AttentionGradients.Gradients exact = AttentionGradients.exact(head, o -> o.sub(target));
                long end = System.nanoTime();
                List<@Nullable Object> row = new ArrayList<>();
                row.add(length);
                row.add(degree);
                row.add("%.1e".formatted(error(near.dq(), exact.dq())));
                row.add("%.1e".formatted(error(near.dk(), exact.dk())));
                row.add("%.1e".formatted(error(near.dv(), exact.dv())));
                row.add((end - middle) / 1e6);
                row.add((middle - start) / 1e6);
                row.add((long) length * length);
                row.add(length * features);
                rows.add(row);
            }
        }
        return new Report(
                List.of(
                        "length",
                        "degree",
                        "error_dq",
                        "error_dk",
                        "error_dv",
                        "exact_ms",
                        "approximate_ms",
                        "exact_largest",
                        "approximate_largest"),
                rows,
                Map.of("head", config.head(), "score_bound", config.bound(), "features", features));
    }

    /** Largest difference over the largest entry. */
    static double error(Tensor near, Tensor exact) {
        return near.sub(exact).abs().max().item() / exact.abs().max().item();
    }

    private static AttentionGradients.Head drawn(Config config, int length) {
        try (Generator g = new Seed(length).named("lora-limits").generator()) {
            double beta = 1 / Math.sqrt((double) config.head());
            Tensor q = bounded(g.randn(length, config.head()), config.bound() / beta);
            Tensor k = bounded(g.randn(length, config.head()), config.bound() / beta);
            return new AttentionGradients.Head(q, k, g.randn(length, config.head()), beta);
        }
    }

    private static Tensor bounded(Tensor x, double square) {
        return x.to(DType.FLOAT32)
                .mul(Math.sqrt(square) / x.norm(1, false).max().item());
    }
}
