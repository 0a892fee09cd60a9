package dev.espalier.compress;

import static dev.espalier.Check.check;

import dev.espalier.adapter.AdapterSpec;
import dev.espalier.adapter.Attached;
import dev.espalier.adapter.Lora;
import dev.espalier.adapter.LoraFactors;
import dev.espalier.adapter.LowRank;
import dev.espalier.adapter.Site;
import dev.espalier.adapter.Targets;
import dev.espalier.io.Fields;
import dev.espalier.nn.LayerNorm;
import dev.espalier.nn.Module;
import dev.espalier.nn.RMSNorm;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Tensor;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import org.jspecify.annotations.Nullable;

/**
 * WeLore: weights that lose most of their rank at one common threshold become pairs of factors, which alone train.
 *
 * <p>Jaiswal et al., <i>From GaLore to WeLore: How Low-Rank Weights Non-uniformly Emerge from Low-Rank Gradients</i>,
 * arXiv:2407.11239, section 3.
 *
 * <pre>{@code
 * W = U S Vᵀ,  z_i = (s_i - s_q) / (s_1 - s_q),  r = #{i : z_i ≥ k},  q = min(out, in);  k: Σ (q - r) / Σ q ≈ err
 * where (q - r) / q > min_ratio:  y = (x Aᵀ) Bᵀ + b,  B = U_r √S_r,  A = √S_r V_rᵀ     W [out, in], A [r, in], B [out, r]
 * else W stays as it is, and frozen
 * }</pre>
 *
 * <p>The pairs are written as a LoRA with s = 1 on a base that holds zeros in their place, so that every tool reads them and
 * training is that of any LoRA; the zeros are stored and multiplied, so what is saved is trained numbers and optimizer state, not
 * the base's memory. Where a pair would be larger than the weight ({@code min_ratio} near 0), the base holds its product. Factors
 * are float32; the authors' are bfloat16. Checked against the authors' code.
 */
public final class Welore implements Compressor<Welore.Config> {

    /** Whose lost ranks count towards the target. */
    public enum Count {
        /** Those of weights that become pairs, for only these lose any: what is tuned afterwards meets the target. */
        LOW,
        /** Those of all, as if all were cut. */
        ALL
    }

    /**
     * Settings.
     *
     * @param err share of all ranks to leave out, in [0, 1)
     * @param k [k] threshold in [0, 1], or null to search for it
     * @param count whose ranks the search counts
     * @param minRatio [min_ratio] a weight that loses a larger share of its rank becomes a pair, in [0, 1)
     * @param norms whether norms train beside the pairs
     * @param targets layers that may
     */
    public record Config(double err, @Nullable Double k, Count count, double minRatio, boolean norms, Targets targets) {

        /** Checks ranges. */
        public Config {
            check(err >= 0 && err < 1, "err must lie in [0, 1), found %s; try 0.5", err);
            check(
                    k == null || (k >= 0 && k <= 1),
                    "k must lie in [0, 1], for above 1 no rank is left, found %s; leave it out to have it searched",
                    k);
            check(minRatio >= 0 && minRatio < 1, "min_ratio must lie in [0, 1), found %s; try 0.4999", minRatio);
        }
    }

    @Override
    public About about() {
        return new About(
                "welore",
                "compressor",
                "weights of low rank become pairs of factors, which alone train",
                "Jaiswal et al., From GaLore to WeLore: How Low-Rank Weights Non-uniformly Emerge from Low-Rank Gradients,"
                        + " arXiv:2407.11239",
                """
                W = U S Vᵀ,  z_i = (s_i - s_q) / (s_1 - s_q),  r = #{i : z_i ≥ k},  one k for all
                y = (x Aᵀ) Bᵀ + b,  B = U_r √S_r, A = √S_r V_rᵀ  where at least half of the rank goes
                W [out, in]; A [r, in], B [out, r] trained""",
                "training of its adapter with any optimizer, which repairs it; rtn before it",
                "a model folder with zeros in the pairs' place, and the pairs as a plain LoRA with s = 1, with the norms",
                true);
    }

    @Override
    public Map<String, String> meanings() {
        Map<String, String> meanings = new LinkedHashMap<>(TARGETS);
        meanings.put("err", "share of all ranks to leave out (effective rank reduction), in [0, 1)");
        meanings.put("k", "threshold on normalised singular values in [0, 1]; none: the one that meets err");
        meanings.put("count", "whose ranks meet err: low, those of the pairs, or all, as if all weights were cut");
        meanings.put("min_ratio", "a weight that loses more than this share of its rank becomes a pair, in [0, 1)");
        meanings.put("norms", "whether norms train beside the pairs, as in the authors' code");
        return meanings;
    }

    @Override
    public Config read(Fields f) {
        return new Config(
                f.number("err", 0.5),
                f.orNull("k", Fields::number),
                f.choice("count", Count.LOW),
                f.number("min_ratio", 0.4999),
                f.bool("norms", true),
                Targets.read(f));
    }

    @Override
    public CompressionReport compress(Config config, Subject subject) {
        List<Site> sites = subject.sites(config.targets());
        try (Grad off = Grad.off()) {
            Spectra spectra = new Spectra(sites.stream().map(Welore::spectrum).toList());
            double bound = config.count() == Count.ALL ? -1 : config.minRatio();
            Double given = config.k();
            double k = given == null ? spectra.search(config.err(), bound) : given;
            List<CompressionReport.Row> rows = new ArrayList<>();
            Map<String, LoraFactors> pairs = new LinkedHashMap<>();
            for (int i = 0; i < sites.size(); i++) {
                Spectra.Spectrum s = spectra.all().get(i);
                boolean low = s.isLow(k, config.minRatio());
                rows.add(cut(sites.get(i), s, low ? s.rank(k) : s.width(), pairs));
            }
            if (!pairs.isEmpty()) {
                attach(config, pairs, subject);
            }
            return new CompressionReport(
                    rows, Map.of(), "", "weight", notes(k, spectra.reduction(k, config.minRatio()), pairs, sites));
        }
    }

    private static Spectra.Spectrum spectrum(Site site) {
        try (Scope scope = Scope.open()) {
            return new Spectra.Spectrum(Weights.of(site.layer()).svdvals().floats());
        }
    }

    /** Puts a pair of a rank in a weight's place: zeros and the factors, or their product where that is smaller. */
    private static CompressionReport.Row cut(Site site, Spectra.Spectrum s, int r, Map<String, LoraFactors> pairs) {
        double bits = 8.0 * site.layer().dtype().bytes();
        if (r == s.width()) {
            return CompressionReport.Row.of(site, bits, 0, 0);
        }
        double error = CompressionReport.ratio(s.tail(r), s.tail(0));
        long out = site.layer().outFeatures();
        long in = site.layer().inFeatures();
        try (Scope scope = Scope.open()) {
            Tensor w = Weights.of(site.layer()); // [out, in]
            LoraFactors pair = LoraFactors.approximate(w, r).factors();
            if (r * (out + in) > out * in) {
                Weights.set(site.layer(), pair.product());
                return CompressionReport.Row.of(site, bits, error, error);
            }
            Weights.set(site.layer(), w.zerosLike());
            scope.promote(pair.a());
            scope.promote(pair.b());
            pairs.put(site.path(), pair);
        }
        return CompressionReport.Row.of(site, bits * r * (out + in) / (out * in), error, error);
    }

    private static void attach(Config config, Map<String, LoraFactors> pairs, Subject subject) {
        Set<String> kept = new LinkedHashSet<>(subject.modulesToSave());
        if (config.norms()) {
            subject.model().network().namedModules().forEach((path, module) -> {
                if (isNorm(module)) {
                    kept.add(path);
                }
            });
        }
        Attached adapter = subject.model()
                .attach(
                        ADAPTER,
                        AdapterSpec.of(
                                        new Lora.Type(),
                                        Lora.Config.of(pairs),
                                        Targets.of(pairs.keySet().toArray(String[]::new)))
                                .withModulesToSave(List.copyOf(kept)),
                        subject.seed());
        pairs.forEach((path, pair) -> {
            LowRank lora = adapter.lowRank(path);
            lora.a().tensor().copy_(pair.a());
            lora.b().tensor().copy_(pair.b());
        });
    }

    private static boolean isNorm(Module module) {
        return module instanceof RMSNorm || module instanceof LayerNorm;
    }

    private static List<String> notes(double k, double err, Map<String, LoraFactors> pairs, List<Site> sites) {
        if (pairs.isEmpty()) {
            return List.of("k is %.3f, and no weight loses enough of its rank to become a pair".formatted(k));
        }
        return List.of(
                "k is %.3f: %d of %d weights are pairs of ranks %d to %d, and %.1f %% of all ranks are left out"
                        .formatted(
                                k,
                                pairs.size(),
                                sites.size(),
                                pairs.values().stream()
                                        .mapToLong(LoraFactors::rank)
                                        .min()
                                        .orElse(0),
                                pairs.values().stream()
                                        .mapToLong(LoraFactors::rank)
                                        .max()
                                        .orElse(0),
                                100 * err),
                "the base holds zeros in the pairs' place: without the adapter it is of no use");
    }
}
