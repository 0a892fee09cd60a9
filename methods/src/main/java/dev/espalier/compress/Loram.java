package dev.espalier.compress;

import static dev.espalier.Check.check;

import dev.espalier.adapter.Calibration;
import dev.espalier.adapter.Site;
import dev.espalier.adapter.Targets;
import dev.espalier.io.Fields;
import dev.espalier.io.TensorSource;
import dev.espalier.model.Backbone;
import dev.espalier.model.Inner;
import dev.espalier.model.Model;
import dev.espalier.tensor.Generator;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import java.math.BigDecimal;
import java.math.RoundingMode;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * LoRAM: an adapter trained on a pruned base, for the whole one.
 *
 * <p>Zhang et al., <i>Train Small, Infer Large: Memory-Efficient LoRA Training for Large Language Models</i>, ICLR 2025,
 * arXiv:2502.13533, section 3.
 *
 * <pre>{@code
 * W^P = W[Ro, Ri]    train y = x W^Pᵀ + s (x A^Pᵀ) B^Pᵀ    A^P [r, |Ri|], B^P [|Ro|, r]
 * A^R[:, Ri] = A^P, B^R[Ro, :] = B^P, 0 elsewhere    use y = x Wᵀ + s (x A^Rᵀ) B^Rᵀ
 * Ro, Ri: kept channels of an MLP, of whole key heads with their query heads    W [out, in]
 * }</pre>
 *
 * <p>This prunes: the network keeps its width, blocks lose inner channels and heads. The stages between are commands of their
 * own: {@code train full} and {@code merge} align the pruned model, {@code four_bit} (QLoRAM) or another compression stores it
 * in codes, {@code train lora} trains on it, {@code export --to whole} scatters. Semi and unstructured pruning zeroes weights
 * ({@link SparseGpt}) and saves no memory. The counts are those of the authors' model code, units are chosen by LLM-Pruner's
 * first-order {@link Salience}, as its files are named. Checked against their published sizes, against their recovery script and
 * by hand.
 */
public final class Loram implements Compressor<Loram.Config>, Coded {

    /** What is left out, in the paper's words. */
    public enum Pruning {
        /** The channels and heads that matter least: Stru. */
        STRUCTURED,
        /** Channels and heads at random: Rand. */
        RANDOM,
        /** Of every m neighbouring weights of a row the n that matter least: Semi. */
        SEMI,
        /** The weights that matter least: Unst. */
        UNSTRUCTURED;

        boolean masks() {
            return this == SEMI || this == UNSTRUCTURED;
        }
    }

    /**
     * Settings.
     *
     * @param pruning what is left out
     * @param ratio share of it, in [0, 1); of SEMI that of the pattern
     * @param pattern [pattern] n and m of SEMI: n of m go
     * @param denseFirst [dense_first] blocks at the start that are not made smaller
     * @param denseLast [dense_last] the same at the end
     * @param sequences examples for judging what matters
     * @param fourBit [four_bit] whether what is left is stored in NF4 codes
     */
    public record Config(
            Pruning pruning,
            double ratio,
            List<Integer> pattern,
            int denseFirst,
            int denseLast,
            int sequences,
            boolean fourBit) {

        /** Checks ranges. */
        public Config {
            check(ratio >= 0 && ratio < 1, "ratio must lie in [0, 1), found %s; try 0.65", ratio);
            pattern = List.copyOf(pattern);
            check(
                    pattern.size() == 2
                            && pattern.get(0) >= 1
                            && pattern.get(1) > pattern.get(0)
                            && 128 % pattern.get(1) == 0,
                    "pattern must be two numbers n and m, n below m and m a divisor of 128, found %s; try [4, 8]",
                    pattern);
            check(denseFirst >= 0, "dense_first must be at least 0, found %d; try 4", denseFirst);
            check(denseLast >= 0, "dense_last must be at least 0, found %d; try 2", denseLast);
            check(sequences >= 1, "sequences must be at least 1, found %d; try 64", sequences);
        }
    }

    @Override
    public About about() {
        return new About(
                "loram",
                "compressor",
                "a pruned base to train on, for an adapter of the whole one",
                "Zhang et al., Train Small, Infer Large: Memory-Efficient LoRA Training for Large Language Models,"
                        + " arXiv:2502.13533",
                """
                W^P = W[Ro, Ri];  train y = x W^Pᵀ + s (x A^Pᵀ) B^Pᵀ,  A^P [r, |Ri|], B^P [|Ro|, r]
                A^R[:, Ri] = A^P, B^R[Ro, :] = B^P, 0 elsewhere;  use y = x Wᵀ + s (x A^Rᵀ) B^Rᵀ
                Ro, Ri kept inner channels of an MLP, kept key heads with their query heads; W [out, in]""",
                "train full and merge, which align what it writes; lq-lora or rtn after that; then lora or what is exactly a LoRA",
                "a smaller model folder with cut.json: what was kept of which model; export --to whole reads it",
                false);
    }

    @Override
    public String reading() {
        return "Which n of m semi-structured pruning leaves out is not confirmed: 4 of 8 (pattern). Masked models keep the"
                + " values of W, without SparseGPT's update of what stays. The paper masks the product of their adapters too, which is not"
                + " confirmed: train masked-lora does, train lora takes the plain product.";
    }

    @Override
    public Map<String, String> meanings() {
        return Map.of(
                "pruning",
                        "structured: least important channels and heads; random: any; semi: n of m weights; unstructured: weights",
                "ratio", "share that goes, in [0, 1); for semi that of the pattern, for unstructured 0.55",
                "pattern", "n and m of semi: of every m neighbouring weights n go; m a divisor of 128",
                "dense_first", "blocks at the start that keep all channels and heads, at least 0",
                "dense_last", "blocks at the end that keep all channels and heads, at least 0",
                "sequences", "examples of the task's data by which importance is judged, at least 1",
                "four_bit", "whether what is left is stored in NF4 codes with doubly quantised scales (QLoRAM)");
    }

    @Override
    public Config read(Fields f) {
        Pruning pruning = f.choice("pruning", Pruning.STRUCTURED);
        check(
                pruning != Pruning.SEMI || !f.has("ratio"),
                "ratio has no meaning for semi-structured pruning, whose pattern says how much goes; leave it out, or set pattern");
        return new Config(
                pruning,
                f.number("ratio", pruning == Pruning.UNSTRUCTURED ? 0.55 : 0.65),
                f.integers("pattern", List.of(4, 8)),
                f.integer("dense_first", 4),
                f.integer("dense_last", 2),
                f.integer("sequences", 64),
                f.bool("four_bit", false));
    }

    @Override
    public CompressionReport compress(Config config, Subject subject) {
        check(
                subject.model().network() instanceof Model,
                "loram prunes the blocks of a transformer, and this network has none; name a language model or an encoder");
        Backbone backbone = ((Model) subject.model().network()).backbone();
        List<Site> sites = subject.sites(Targets.ALL).stream()
                .filter(site ->
                        backbone.layers().stream().anyMatch(block -> site.path().startsWith(block.path() + ".")))
                .toList();
        List<Original> before = sites.stream().map(Original::of).toList();
        long all = subject.model().network().parameterCount();
        List<Cut.Group> kept = List.of();
        if (config.pruning().masks()) {
            mask(config, sites, subject.data());
        } else {
            kept = cut(config, groups(config, backbone), subject);
        }
        List<CompressionReport.Row> rows = new ArrayList<>();
        Map<String, Tensor> codes = new LinkedHashMap<>();
        try (Grad off = Grad.off()) {
            for (Original layer : before) {
                rows.add(layer.row(config.fourBit() ? quantize(layer.site(), codes) : null));
            }
        }
        long left = subject.model().network().parameterCount();
        String note = config.pruning().masks()
                ? "all %,d parameters are stored, the zeros among them".formatted(all)
                : "%,d of %,d parameters are left".formatted(left, all);
        return new CompressionReport(rows, codes, codes.isEmpty() ? "" : name(), "weight", List.of(note), kept);
    }

    private static NormalFloat.Quantized quantize(Site site, Map<String, Tensor> codes) {
        NormalFloat.Quantized quantized = NormalFloat.NF4.quantize(Weights.of(site.layer()), site.path());
        quantized.packed().forEach((name, t) -> codes.put(site.path() + "." + name, t));
        return quantized;
    }

    /** What may be cut: all that is inside the blocks between the dense ones. */
    private static List<Inner> groups(Config config, Backbone backbone) {
        List<? extends Backbone.Block> blocks = backbone.layers();
        int dense = config.denseFirst() + config.denseLast();
        check(
                dense < blocks.size(),
                "dense_first %d and dense_last %d leave none of the %d blocks to be pruned; set them to %d and %d",
                config.denseFirst(),
                config.denseLast(),
                blocks.size(),
                blocks.size() > 2 ? 1 : 0,
                blocks.size() > 2 ? 1 : 0);
        List<Inner> groups = blocks.subList(config.denseFirst(), blocks.size() - config.denseLast()).stream()
                .flatMap(block -> block.inner().stream())
                .toList();
        check(
                !groups.isEmpty(),
                "the blocks of %s cannot be made smaller; set pruning to semi or unstructured",
                backbone.config().family().modelType());
        return groups;
    }

    private List<Cut.Group> cut(Config config, List<Inner> groups, Subject subject) {
        List<Integer> counts = groups.stream().map(g -> kept(config.ratio(), g)).toList();
        Seed seed = subject.seed().named(name());
        List<Tensor> scores;
        if (config.pruning() == Pruning.STRUCTURED && config.ratio() > 0) {
            subject.data().require("the importance that loram prunes by");
            scores = Salience.of(groups, subject.data(), config.sequences());
        } else {
            scores = groups.stream().map(g -> anyOrder(g, seed)).toList();
        }
        List<Cut.Group> cut = new ArrayList<>();
        for (int i = 0; i < groups.size(); i++) {
            Inner group = groups.get(i);
            List<Integer> kept = largest(scores.get(i), counts.get(i));
            cut.add(Cut.Group.of(group, kept));
            group.keep(kept);
        }
        return cut;
    }

    private static Tensor anyOrder(Inner group, Seed seed) {
        try (Generator g = seed.named(group.path()).generator()) {
            return g.randperm(group.units());
        }
    }

    /** Places of the k largest, in rising order. */
    private static List<Integer> largest(Tensor scores, int k) {
        long[] places = scores.sort(0, true).get(1).narrow(0, 0, k).longs();
        return Arrays.stream(places).sorted().mapToObj(Math::toIntExact).toList();
    }

    /** How many units are kept; stops where none would be. */
    private static int kept(double ratio, Inner group) {
        int kept = kept(ratio, group.units(), group.shared());
        check(
                kept >= 1,
                "ratio %s leaves nothing of the %d units of %s; a ratio up to %s leaves one",
                ratio,
                group.units(),
                group.path(),
                BigDecimal.valueOf(group.units() - 1)
                        .divide(BigDecimal.valueOf(group.units()), 3, RoundingMode.DOWN)
                        .stripTrailingZeros()
                        .toPlainString());
        return kept;
    }

    /**
     * How many of n units a ratio keeps: ⌊n (1 - ratio)⌋ channels or heads, ⌈n (1 - ratio)⌉ key heads that query heads share. By
     * the decimal digits of the ratio: 100 (1 - 0.9) is 10.
     */
    static int kept(double ratio, int n, boolean shared) {
        BigDecimal left = BigDecimal.ONE.subtract(BigDecimal.valueOf(ratio)).multiply(BigDecimal.valueOf(n));
        return left.setScale(0, shared ? RoundingMode.CEILING : RoundingMode.FLOOR)
                .intValueExact();
    }

    private static void mask(Config config, List<Site> sites, Calibration data) {
        if (config.pruning() == Pruning.SEMI) {
            SparseGpt.zero(
                    sites,
                    data,
                    config.sequences(),
                    0,
                    config.pattern().get(0),
                    config.pattern().get(1));
        } else if (config.ratio() > 0) {
            SparseGpt.zero(sites, data, config.sequences(), config.ratio(), 0, 0);
        }
    }

    @Override
    public Tensor decode(TensorSource codes, String path) {
        return NormalFloat.Quantized.read(codes, path).values();
    }
}
