package dev.espalier.adapter;

import static dev.espalier.Check.check;

import dev.espalier.EspalierException;
import dev.espalier.io.Fields;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.function.Function;
import java.util.stream.Collectors;
import org.jspecify.annotations.Nullable;

/**
 * LoRA: a frozen linear map plus a trained map of low rank.
 *
 * <p>Hu et al., <i>LoRA: Low-Rank Adaptation of Large Language Models</i>, arXiv:2106.09685, eq. 3.
 *
 * <pre>{@code
 * y = x Wᵀ + b + s (drop(x) Aᵀ) Bᵀ,    s = lora_alpha / r
 * x [.., in]    W [out, in]    A [r, in]    B [out, r]    y [.., out]
 * }</pre>
 *
 * <p>A starts Kaiming-uniform (a = √5, as the authors' code; the paper: Gaussian), B at zero: no change yet. On an embedding
 * x Aᵀ is a row of Aᵀ, A starts at zero, B at N(0, 1), and nothing is dropped. Checked against PEFT 0.21.
 */
public final class Lora implements OnFactors {

    /**
     * LoRA's settings, by the names of PEFT in brackets.
     *
     * @param r rank, at least 1
     * @param alpha [lora_alpha] numerator of the scale, positive
     * @param dropout [lora_dropout] in [0, 1)
     * @param rslora [use_rslora] whether s = alpha / √r
     * @param loraBias [lora_bias] whether a bias [out] is trained with B
     * @param init [init_lora_weights] {@code true}, {@code gaussian}, {@code false} (random, not zero), or an {@link
     *     Initializer}
     * @param rankPattern [rank_pattern] other ranks for the modules that a regular expression means; the first wins
     * @param alphaPattern [alpha_pattern] likewise, other alphas
     */
    public record Config(
            int r,
            double alpha,
            double dropout,
            boolean rslora,
            boolean loraBias,
            String init,
            Map<String, Integer> rankPattern,
            Map<String, Double> alphaPattern) {

        /** LoRA's own start. */
        public static final String STANDARD = "true";

        /** A from N(0, 1/r²). */
        public static final String GAUSSIAN = "gaussian";

        /** Both factors random. */
        public static final String RANDOM = "false";

        /** PEFT's defaults. */
        public static final Config DEFAULT = new Config(8, 8, 0, false, false, STANDARD, Map.of(), Map.of());

        /** Checks ranges and expressions. */
        public Config {
            check(r >= 1, "r must be at least 1, found %d; try 8", r);
            check(dropout >= 0 && dropout < 1, "lora_dropout must lie in [0, 1), found %s; try 0", dropout);
            rankPattern = java.util.Collections.unmodifiableMap(new LinkedHashMap<>(rankPattern));
            alphaPattern = java.util.Collections.unmodifiableMap(new LinkedHashMap<>(alphaPattern));
            Patterns.checkRanges("lora_alpha", alpha, rankPattern, alphaPattern);
        }

        /** LoRA of some rank and alpha, all else as usual. */
        public static Config of(int r, double alpha) {
            return new Config(r, alpha, 0, false, false, STANDARD, Map.of(), Map.of());
        }

        /** Settings that give layers the ranks and scales of given factors. */
        public static Config of(Map<String, LoraFactors> factors) {
            Function<LoraFactors, Double> alphaOf = f -> f.scale() * f.rank();
            int rank = Math.toIntExact(mostCommon(factors, LoraFactors::rank));
            double alpha = mostCommon(factors, alphaOf);
            Map<String, Integer> ranks = new LinkedHashMap<>();
            Map<String, Double> alphas = new LinkedHashMap<>();
            factors.forEach((path, f) -> {
                String pattern = path.replace(".", "\\.");
                if (f.rank() != rank) {
                    ranks.put(pattern, Math.toIntExact(f.rank()));
                }
                if (alphaOf.apply(f) != alpha) {
                    alphas.put(pattern, alphaOf.apply(f));
                }
            });
            boolean bias = factors.values().stream().anyMatch(f -> f.bias() != null);
            return new Config(rank, alpha, 0, false, bias, STANDARD, ranks, alphas);
        }

        private static <T> T mostCommon(Map<String, LoraFactors> factors, Function<LoraFactors, T> property) {
            List<T> values = new ArrayList<>();
            factors.values().forEach(f -> values.add(property.apply(f)));
            Map<T, Long> counts =
                    values.stream().collect(Collectors.groupingBy(v -> v, LinkedHashMap::new, Collectors.counting()));
            return counts.entrySet().stream()
                    .max(Map.Entry.comparingByValue())
                    .orElseThrow()
                    .getKey();
        }

        /** The same with another start. */
        public Config withInit(String name) {
            return new Config(r, alpha, dropout, rslora, loraBias, name, rankPattern, alphaPattern);
        }

        /** The same with s = alpha / √r, or without. */
        public Config withRslora(boolean stabilised) {
            return new Config(r, alpha, dropout, stabilised, loraBias, init, rankPattern, alphaPattern);
        }

        /** The same with dropout. */
        public Config withDropout(double p) {
            return new Config(r, alpha, p, rslora, loraBias, init, rankPattern, alphaPattern);
        }

        /** The rank for a module. */
        public int rankAt(String path) {
            return Patterns.at(path, rankPattern, r);
        }

        /** The factor s for a module. */
        public double scaleAt(String path) {
            double alphaHere = Patterns.at(path, alphaPattern, alpha);
            return rslora ? alphaHere / Math.sqrt(rankAt(path)) : alphaHere / rankAt(path);
        }

        /** Whether an {@link Initializer} chooses the start. */
        boolean startsOtherwise() {
            return !List.of(STANDARD, GAUSSIAN, RANDOM).contains(init);
        }

        /** Settings read by PEFT's names, with other defaults where {@code defaults} says so. */
        static Config read(Fields f, Config defaults) {
            Object init = f.has("init_lora_weights") ? f.any("init_lora_weights") : defaults.init();
            f.ignore("init_lora_weights");
            if (!(init instanceof String) && !(init instanceof Boolean)) {
                throw f.fault("init_lora_weights", "should be true, false or a name such as gaussian or pissa");
            }
            return new Config(
                    f.integer("r", defaults.r()),
                    f.number("lora_alpha", defaults.alpha()),
                    f.number("lora_dropout", defaults.dropout()),
                    f.bool("use_rslora", defaults.rslora()),
                    f.bool("lora_bias", defaults.loraBias()),
                    init.toString().toLowerCase(java.util.Locale.ROOT),
                    f.integerMap("rank_pattern", defaults.rankPattern()),
                    f.numberMap("alpha_pattern", defaults.alphaPattern()));
        }

        /** These settings by PEFT's names. */
        Map<String, @Nullable Object> write() {
            Map<String, @Nullable Object> json = new LinkedHashMap<>();
            json.put("r", r);
            json.put("lora_alpha", Patterns.whole(alpha));
            json.put("lora_dropout", dropout);
            json.put("use_rslora", rslora);
            json.put("lora_bias", loraBias);
            json.put("init_lora_weights", init.equals(STANDARD) || init.equals(RANDOM) ? Boolean.valueOf(init) : init);
            json.put("rank_pattern", rankPattern);
            Map<String, Object> alphas = new LinkedHashMap<>();
            alphaPattern.forEach((p, value) -> alphas.put(p, Patterns.whole(value)));
            json.put("alpha_pattern", alphas);
            json.put("use_dora", false);
            // What PEFT 0.21 has beside, at its defaults: a file with other values is refused.
            json.put("loftq_config", Map.of());
            json.put("megatron_core", "megatron.core");
            json.put("qalora_group_size", 16);
            json.put("use_qalora", false);
            for (String unused : List.of(
                    "alora_invocation_tokens",
                    "arrow_config",
                    "corda_config",
                    "eva_config",
                    "kasa_config",
                    "layer_replication",
                    "lora_ga_config",
                    "megatron_config",
                    "monteclora_config",
                    "target_parameters",
                    "trainable_token_indices",
                    "use_bdlora",
                    "velora_config")) {
                json.put(unused, null);
            }
            json.put("bias", "none");
            json.put("fan_in_fan_out", false);
            json.put("ensure_weight_tying", false);
            return json;
        }

        /** Stops where ranks or patterns do not fit the layers. */
        void fit(List<Site> sites) {
            Patterns.fit(sites, this::rankAt, rankPattern, alphaPattern);
        }
    }

    /** What the settings of LoRA and its variants mean. */
    static final Map<String, String> MEANINGS = Map.of(
            "r", "rank, 1 to the layer's smaller width",
            "lora_alpha", "numerator of the scale s, above 0; often twice the rank",
            "lora_dropout", "share of the input dropped in training, in [0, 1)",
            "use_rslora", "s = lora_alpha / √r instead of lora_alpha / r",
            "lora_bias", "train a bias with B",
            "init_lora_weights", "true, gaussian, false (random, not zero), or an initialiser such as pissa",
            "rank_pattern", "other ranks by regular expression over module paths; the first that matches wins",
            "alpha_pattern", "other alphas, likewise");

    /** How LoRA is set up, read and written. */
    public static final class Type implements AdapterType<Config> {

        @Override
        public About about() {
            return new About(
                    "lora",
                    "adapter",
                    "a frozen layer plus a trained map of low rank",
                    "Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, arXiv:2106.09685",
                    """
                    y = x Wᵀ + b + s (drop(x) Aᵀ) Bᵀ,  s = lora_alpha / r
                    W [out, in] frozen, A [r, in] and B [out, r] trained: r (in + out) parameters a layer""",
                    "any optimizer, any initializer, trained heads (modules_to_save) and biases (bias)",
                    "A and B of each layer, in PEFT's format (LORA)",
                    true);
        }

        @Override
        public Map<String, String> meanings() {
            return MEANINGS;
        }

        @Override
        public String peftType() {
            return "LORA";
        }

        @Override
        public boolean recognises(Map<String, Object> config) {
            return !Boolean.TRUE.equals(config.get("use_dora"));
        }

        @Override
        public Config read(Fields f) {
            return read(f, Config.DEFAULT);
        }

        Config read(Fields f, Config defaults) {
            return Config.read(f, defaults);
        }

        @Override
        public Map<String, @Nullable Object> write(Config config) {
            return config.write();
        }

        @Override
        public void check(Config config, List<Site> sites) {
            config.fit(sites);
        }

        @Override
        public Made create(Config config, List<Site> sites, Seed seed) {
            return Made.each(sites, site -> new Lora(config, site, seed));
        }

        @Override
        public String initializer(Config config) {
            return config.startsOtherwise() ? config.init() : "";
        }
    }

    private final Factors factors;

    /** LoRA on one layer, its tensors drawn from streams named after the layer. */
    public Lora(Config config, Site site, Seed seed) {
        factors = new Factors(config, site, seed);
        if (factors.bias != null && site.layer() instanceof dev.espalier.nn.Embedding) {
            throw new EspalierException(
                    "lora_bias cannot be had on an embedding (%s); switch it off".formatted(site.path()));
        }
    }

    @Override
    public Tensor forward(Tensor x, Base base) {
        Tensor rows = factors.rows(x); // [n, in]: a matrix product that adds in place wants matrices
        Tensor y = factors.addTo(base.forward(rows), factors.dropped(rows, base)); // [n, out]
        return factors.shaped(y, x); // [.., out]
    }

    @Override
    public Factors factors() {
        return factors;
    }
}
