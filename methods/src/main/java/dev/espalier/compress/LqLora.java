package dev.espalier.compress;

import static dev.espalier.Check.check;

import dev.espalier.adapter.AdapterSpec;
import dev.espalier.adapter.Attached;
import dev.espalier.adapter.Lora;
import dev.espalier.adapter.LowRank;
import dev.espalier.adapter.Site;
import dev.espalier.adapter.Targets;
import dev.espalier.io.Fields;
import dev.espalier.io.TensorSource;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.stream.Collectors;

/**
 * LQ-LoRA: the weight becomes codes of a few bits plus a LoRA that starts at what the codes miss.
 *
 * <p>Guo et al., <i>LQ-LoRA: Low-rank Plus Quantized Matrix Decomposition for Efficient Language Model Finetuning</i>,
 * arXiv:2311.12023, algorithms 1 and 2, and the integer program of section 3.2.
 *
 * <pre>{@code
 * W ≈ Q + L1 L2:   repeat  L1 L2 = SVD_r(W - Q),  Q = quantise(W - L1 L2)  while ‖W - L1 L2 - Q‖ falls
 * y = x Qᵀ + b + s (x Aᵀ) Bᵀ,   A = L2 / √s,  B = L1 / √s,  s = lora_alpha / r
 * W, Q [out, in]    L1, B [out, r]    L2, A [r, in]
 * with F = Σ (∂L/∂W)²:  SVD_r(Dr ∘ (W - Q) ∘ Dc),  Dr = √(row means of F), Dc = √(column means of F)
 * }</pre>
 *
 * <p>Q are {@link NormalFloat} codes; which widths and blocks each weight gets is the best under a budget of bits ({@link
 * BitBudget}). We decompose exactly where the authors' code probes at random, and keep the best iterate where it keeps the last;
 * both can be asked for. The network holds Q dense, so training is no smaller for it; the file of codes is. Checked against
 * numbers that the authors' code gave.
 */
public final class LqLora implements Compressor<LqLora.Config>, Coded {

    /**
     * Settings. The formats on offer are all combinations of the five lists.
     *
     * @param loop rank, iterations and the like of the decomposition
     * @param alpha [lora_alpha] positive
     * @param dropout [lora_dropout] in [0, 1)
     * @param budget bits a weight may take on average, or 0 for no bound
     * @param bits of a code
     * @param scaleBits [scale_bits] of a block's scale
     * @param scaleTypes [scale_types] of a group's scale: fp32, fp16, bf16
     * @param blockSizes [block_sizes] weights of a block
     * @param groupSizes [group_sizes] blocks of a group
     * @param fisher examples whose gradients weigh the weights, or 0 to weigh all alike
     * @param targets layers
     */
    public record Config(
            Decomposition.Loop loop,
            double alpha,
            double dropout,
            double budget,
            List<Integer> bits,
            List<Integer> scaleBits,
            List<String> scaleTypes,
            List<Integer> blockSizes,
            List<Integer> groupSizes,
            int fisher,
            Targets targets) {

        /** Checks ranges; the formats check themselves. */
        public Config {
            check(
                    budget >= 0 && Double.isFinite(budget),
                    "budget must be bits a weight, or 0 for no bound, found %s; try 2.75",
                    budget);
            check(fisher >= 0, "fisher must be a number of examples, or 0 for none, found %d; try 64", fisher);
            bits = List.copyOf(bits);
            scaleBits = List.copyOf(scaleBits);
            scaleTypes = List.copyOf(scaleTypes);
            blockSizes = List.copyOf(blockSizes);
            groupSizes = List.copyOf(groupSizes);
        }

        /** All combinations. */
        List<NormalFloat> formats() {
            return NormalFloat.grid(bits, scaleBits, scaleTypes, blockSizes, groupSizes);
        }
    }

    @Override
    public About about() {
        return new About(
                "lq-lora",
                "compressor",
                "codes of a few bits plus a LoRA that starts at what they miss",
                "Guo et al., LQ-LoRA: Low-rank Plus Quantized Matrix Decomposition for Efficient Language Model Finetuning,"
                        + " arXiv:2311.12023",
                """
                W ≈ Q + L1 L2, fitted in turn: L1 L2 = SVD_r(W - Q), Q = quantise(W - L1 L2)
                y = x Qᵀ + b + s (x Aᵀ) Bᵀ,  A = L2 / √s, B = L1 / √s,  s = lora_alpha / r
                W, Q [out, in]; A [r, in], B [out, r] trained; formats by the best under a budget of bits""",
                "training of its adapter, or of any other on its base; any optimizer",
                "a model folder with Q dense, codes.safetensors with its codes packed to the bit, and a plain LoRA",
                false);
    }

    @Override
    public Map<String, String> meanings() {
        Map<String, String> meanings = new LinkedHashMap<>(TARGETS);
        meanings.put("r", "rank, 1 to the smaller width of the layers, or 0 for codes alone");
        meanings.put("lora_alpha", "numerator of the scale s, above 0");
        meanings.put("lora_dropout", "share of the input dropped in training, in [0, 1)");
        meanings.put("budget", "bits that a weight may take on average, or 0 for no bound");
        meanings.put("bits", "widths of a code on offer, 2 to 8");
        meanings.put("scale_bits", "widths of a block's scale on offer, 2 to 8");
        meanings.put("scale_types", "types of a group's scale on offer: fp32, fp16, bf16");
        meanings.put("block_sizes", "weights that share a scale, at least 1");
        meanings.put("group_sizes", "blocks that share a scale of scales, at least 1");
        meanings.put(
                "iterations", "of the decomposition at most, at least 1; it stops where the error no longer falls");
        meanings.put("svd", "exact, or randomised: faster, nearly as good");
        meanings.put("keep", "best iterate, or last as the authors' code");
        meanings.put("fisher", "examples whose gradients say which weights matter, or 0 to weigh all alike");
        meanings.put("fisher_root", "of_mean as the authors' code, or mean_of roots as the paper");
        return meanings;
    }

    @Override
    public Config read(Fields f) {
        return new Config(
                new Decomposition.Loop(
                        f.integer("r", 64),
                        f.integer("iterations", 100),
                        f.choice("svd", Decomposition.Svd.EXACT),
                        f.choice("keep", Decomposition.Keep.BEST),
                        f.choice("fisher_root", Decomposition.Root.OF_MEAN)),
                f.number("lora_alpha", 16),
                f.number("lora_dropout", 0),
                f.number("budget", 2.75),
                f.integers("bits", List.of(2, 3, 4)),
                f.integers("scale_bits", List.of(2, 3, 4)),
                f.strings("scale_types", List.of("bf16", "fp16", "fp32")),
                f.integers("block_sizes", List.of(16, 32, 64)),
                f.integers("group_sizes", List.of(16, 64, 256)),
                f.integer("fisher", 0),
                Targets.read(f));
    }

    @Override
    public CompressionReport compress(Config config, Subject subject) {
        List<Site> sites = subject.sites(config.targets());
        List<NormalFloat> formats = config.formats();
        long[][] sizes = sizes(sites, formats);
        long budget = BitBudget.of(
                config.budget(),
                sizes,
                sites.stream().mapToLong(LqLora::weights).sum());
        Attached adapter = config.loop().r() == 0 ? null : attach(config, subject);
        subject.model().disable();
        Map<String, Tensor> fisher =
                config.fisher() == 0 ? Map.of() : Fisher.of(sites, subject.data(), config.fisher());
        List<CompressionReport.Row> rows = new ArrayList<>();
        Map<String, Tensor> codes = new LinkedHashMap<>();
        List<String> notes = new ArrayList<>();
        try (Grad off = Grad.off()) {
            List<NormalFloat> chosen = allocate(config, sites, formats, sizes, budget, fisher, subject.seed(), notes);
            for (int i = 0; i < sites.size(); i++) {
                Site site = sites.get(i);
                try (Scope scope = Scope.open()) {
                    Tensor w = Weights.of(site.layer()); // [out, in]
                    Tensor f = fisher.get(site.path());
                    Tensor plain = chosen.get(i).quantize(w, site.path()).values();
                    Decomposition d = decompose(config, site, chosen.get(i), fisher, subject.seed());
                    double all = Decomposition.norm(w, f);
                    rows.add(CompressionReport.Row.of(
                            site,
                            (double) chosen.get(i).storedBits(w.numel()) / w.numel(),
                            CompressionReport.ratio(Decomposition.norm(w.sub(plain), f), all),
                            CompressionReport.ratio(d.error(), all)));
                    d.quantized().packed().forEach((name, t) -> codes.put(site.path() + "." + name, scope.promote(t)));
                    Weights.set(site.layer(), d.values());
                    if (adapter != null) {
                        start(adapter.lowRank(site.path()), d);
                    }
                }
            }
            notes.add(formatsUsed(chosen));
        }
        if (adapter != null) {
            subject.model().activate(ADAPTER);
        }
        return new CompressionReport(rows, codes, name(), "weight", notes);
    }

    private static Attached attach(Config config, Subject subject) {
        Lora.Config lora = Lora.Config.of(config.loop().r(), config.alpha()).withDropout(config.dropout());
        return subject.model()
                .attach(
                        ADAPTER,
                        AdapterSpec.of(new Lora.Type(), lora, config.targets())
                                .withModulesToSave(subject.modulesToSave()),
                        subject.seed());
    }

    /** s B A = L1 L2: half of 1/s goes to each. */
    private static void start(LowRank lora, Decomposition d) {
        double root = Math.sqrt(lora.scale());
        lora.a().tensor().copy_(d.l2().div(root));
        lora.b().tensor().copy_(d.l1().div(root));
    }

    private static Decomposition decompose(
            Config config, Site site, NormalFloat format, Map<String, Tensor> fisher, Seed seed) {
        return Decomposition.of(
                Weights.of(site.layer()),
                format,
                config.loop(),
                fisher.get(site.path()),
                site.path(),
                seed.named("lq-lora").named(site.path()));
    }

    /** Bits of each layer in each format. */
    private static long[][] sizes(List<Site> sites, List<NormalFloat> formats) {
        return sites.stream()
                .map(site -> formats.stream()
                        .mapToLong(format -> format.storedBits(weights(site)))
                        .toArray())
                .toArray(long[][]::new);
    }

    private static long weights(Site site) {
        return site.layer().outFeatures() * site.layer().inFeatures();
    }

    /** A format for each layer: the decomposition is tried with every one, and the integer program chooses. */
    private static List<NormalFloat> allocate(
            Config config,
            List<Site> sites,
            List<NormalFloat> formats,
            long[][] sizes,
            long budget,
            Map<String, Tensor> fisher,
            Seed seed,
            List<String> notes) {
        if (formats.size() == 1) {
            return java.util.Collections.nCopies(sites.size(), formats.get(0));
        }
        double[][] costs = new double[sites.size()][formats.size()];
        for (int i = 0; i < sites.size(); i++) {
            for (int c = 0; c < formats.size(); c++) {
                try (Scope scope = Scope.open()) {
                    double e = decompose(config, sites.get(i), formats.get(c), fisher, seed)
                            .error();
                    costs[i][c] = e * e;
                }
            }
        }
        BitBudget.Allocation best = BitBudget.solve(costs, sizes, budget);
        if (best.gap() > 0) {
            notes.add(
                    "the formats are within %.2g %% of the best under the budget; the search for better ones was cut short"
                            .formatted(100 * best.gap() / best.cost()));
        }
        List<NormalFloat> chosen = new ArrayList<>();
        for (int c : best.choice()) {
            chosen.add(formats.get(c));
        }
        return chosen;
    }

    private static String formatsUsed(List<NormalFloat> chosen) {
        return "bits of a code: "
                + chosen.stream()
                        .collect(
                                Collectors.groupingBy(NormalFloat::bits, java.util.TreeMap::new, Collectors.counting()))
                        .entrySet()
                        .stream()
                        .map(e -> "%d in %d layers".formatted(e.getKey(), e.getValue()))
                        .collect(Collectors.joining(", "));
    }

    @Override
    public Tensor decode(TensorSource codes, String path) {
        return NormalFloat.Quantized.read(codes, path).values();
    }
}
