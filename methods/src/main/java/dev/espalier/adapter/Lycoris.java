package dev.espalier.adapter;

import static dev.espalier.Check.check;

import dev.espalier.io.Fields;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Tensor;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/**
 * The settings that {@link Loha} and {@link Lokr} have in common, with the two kinds of dropout of the LyCORIS library, by
 * the names of PEFT in brackets.
 *
 * @param r rank, at least 1
 * @param alpha [alpha] numerator of the scale s = alpha / r, positive; not {@code lora_alpha}
 * @param rankDropout [rank_dropout] share of the rows of the change left out in training, in [0, 1)
 * @param moduleDropout [module_dropout] how often the whole change of a layer is left out in training, in [0, 1)
 * @param rankPattern [rank_pattern] other ranks for the modules that a regular expression means; the first wins
 * @param alphaPattern [alpha_pattern] likewise, other alphas
 */
public record Lycoris(
        int r,
        double alpha,
        double rankDropout,
        double moduleDropout,
        Map<String, Integer> rankPattern,
        Map<String, Double> alphaPattern) {

    /** PEFT's defaults. */
    public static final Lycoris DEFAULT = of(8, 8);

    /** What the settings mean. */
    static final Map<String, String> MEANINGS = Map.of(
            "r", "rank, 1 to the layer's smaller width",
            "alpha", "numerator of the scale s = alpha / r, above 0 (not lora_alpha)",
            "rank_dropout", "share of the rows of the change left out in training, in [0, 1)",
            "module_dropout", "how often the whole change of a layer is left out in training, in [0, 1)",
            "rank_pattern", "other ranks by regular expression over module paths; the first that matches wins",
            "alpha_pattern", "other alphas, likewise");

    /** Checks ranges and expressions. */
    public Lycoris {
        check(r >= 1, "r must be at least 1, found %d; try 8", r);
        check(rankDropout >= 0 && rankDropout < 1, "rank_dropout must lie in [0, 1), found %s; try 0", rankDropout);
        check(
                moduleDropout >= 0 && moduleDropout < 1,
                "module_dropout must lie in [0, 1), found %s; try 0",
                moduleDropout);
        Patterns.checkRanges("alpha", alpha, rankPattern, alphaPattern);
        rankPattern = Collections.unmodifiableMap(new LinkedHashMap<>(rankPattern));
        alphaPattern = Collections.unmodifiableMap(new LinkedHashMap<>(alphaPattern));
    }

    /** Some rank and alpha, nothing dropped. */
    public static Lycoris of(int r, double alpha) {
        return new Lycoris(r, alpha, 0, 0, Map.of(), Map.of());
    }

    /** The same with dropout. */
    public Lycoris withDropout(double ofRows, double ofAll) {
        return new Lycoris(r, alpha, ofRows, ofAll, rankPattern, alphaPattern);
    }

    /** The rank for a module. */
    public int rankAt(String path) {
        return Patterns.at(path, rankPattern, r);
    }

    /** The factor s for a module. */
    public double scaleAt(String path) {
        return Patterns.at(path, alphaPattern, alpha) / rankAt(path);
    }

    static Lycoris read(Fields f) {
        return new Lycoris(
                f.integer("r", DEFAULT.r),
                f.number("alpha", DEFAULT.alpha),
                f.number("rank_dropout", DEFAULT.rankDropout),
                f.number("module_dropout", DEFAULT.moduleDropout),
                f.integerMap("rank_pattern", DEFAULT.rankPattern),
                f.numberMap("alpha_pattern", DEFAULT.alphaPattern));
    }

    Map<String, @Nullable Object> write() {
        Map<String, @Nullable Object> json = new LinkedHashMap<>();
        json.put("r", r);
        json.put("alpha", Patterns.whole(alpha));
        json.put("rank_dropout", rankDropout);
        json.put("module_dropout", moduleDropout);
        json.put("rank_pattern", rankPattern);
        Map<String, Object> alphas = new LinkedHashMap<>();
        alphaPattern.forEach((p, value) -> alphas.put(p, Patterns.whole(value)));
        json.put("alpha_pattern", alphas);
        json.put("use_effective_conv2d", false); // for convolutions
        return json;
    }

    void fit(List<Site> sites) {
        Patterns.fit(sites, this::rankAt, rankPattern, alphaPattern);
    }

    /**
     * The change of an output with the rows of the weight's change that drop out set to 0.
     *
     * @param change [.., out]
     * @param kept whether what is kept grows so that the mean stays; in PEFT this is a setting of LoKr and fixed in LoHa
     */
    Tensor thinned(Tensor change, boolean kept, Base base) {
        if (!base.layer().isTraining()) {
            return change;
        }
        Tensor thin = change;
        if (rankDropout > 0) {
            thin = thin.mul(mask(change, change.size(-1), rankDropout, kept ? 1 : 1 - rankDropout));
        }
        return moduleDropout > 0 ? thin.mul(mask(change, 1, moduleDropout, 1 - moduleDropout)) : thin;
    }

    /** Zeros with probability p, else scale / (1 - p). */
    private static Tensor mask(Tensor like, long n, double p, double scale) {
        Tensor ones = Tensor.ones(DType.FLOAT32, n).to(like.device());
        return ones.dropout(p, true).mul(scale).to(like.dtype());
    }
}
