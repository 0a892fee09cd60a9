package dev.espalier.adapter;

import static dev.espalier.Check.check;

import dev.espalier.io.Fields;
import dev.espalier.nn.Parameter;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Generator;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import dev.espalier.tensor.Wavelet;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/**
 * WaRA: a low-rank map between the wavelet coefficients of a layer's input and those of its output.
 *
 * <p>Heidari, Medghalchi, Hacihaliloglu et al., <i>WaRA: Wavelet Low Rank Adaptation</i>, arXiv:2506.24092v1.
 *
 * <pre>{@code
 * y = x (W + s Σ_b F'_bᵀ B_b A_b F_b)ᵀ + b,    s = lora_alpha / r
 * F_b [n_b, in] and F'_b [m_b, out] take in and out features into band b    A_b [r, n_b]    B_b [m_b, r]
 * one level: b = low, high, n_b = in / 2, m_b = out / 2, and the same A, B for both; for Haar ΔW = s (B A) ⊗ I_2, of rank 2 r
 * }</pre>
 *
 * <p>The paper transforms tokens too; as that transform is orthogonal and the map the same for its bands, it cancels, and no tokens
 * mix. Here it is the few rows of A and columns of B that are transformed, and not x. A side that 2^levels does not divide is filled
 * up with zeros, and what they would give is dropped. Each further level splits the low band and has a pair of its own. Checked
 * against the literal path with written-out filters; authors' code was not to be found.
 *
 * <p>Reconstructed: one pair for both bands is read off the paper's figure, {@code sharing: per_band} is the other reading. The
 * paper's wavelet ({@code wavelet}), r, alpha and start are not known. Its second version maps coefficients of an image's grid, which
 * is LoRA unless something in between is not linear, and what that is could not be read: it is not here.
 */
public final class Wara implements Adapter, LoraExpressible {

    /** Which bands have the same A and B. */
    public enum Sharing {
        /** Both of the last level; those of levels before have their own, being of another size. */
        SHARED,
        /** None. */
        PER_BAND
    }

    /**
     * WaRA's settings.
     *
     * @param r rank of A and B, at least 1; the change's is r times the number of bands
     * @param alpha [lora_alpha] numerator of the scale, positive
     * @param dropout [lora_dropout] in [0, 1)
     * @param wavelet which
     * @param levels how often the low band is split, at least 1
     * @param sharing which bands have a pair in common
     */
    public record Config(int r, double alpha, double dropout, Wavelet wavelet, int levels, Sharing sharing) {

        /** Ours, for the paper's are not known. */
        public static final Config DEFAULT = of(8, 8);

        /** Checks the ranges. */
        public Config {
            Lora.Config.of(r, alpha).withDropout(dropout);
            check(levels >= 1 && levels <= 20, "levels must lie in 1 to 20, found %d; try 1", levels);
        }

        /** Haar, one level, one pair. */
        public static Config of(int r, double alpha) {
            return new Config(r, alpha, 0, Wavelet.HAAR, 1, Sharing.SHARED);
        }

        /** The same with another wavelet, depth and sharing. */
        public Config with(Wavelet other, int depth, Sharing pairs) {
            return new Config(r, alpha, dropout, other, depth, pairs);
        }
    }

    /** How WaRA is set up, read and written. */
    public static final class Type implements AdapterType<Config> {

        @Override
        public About about() {
            return new About(
                    "wara",
                    "adapter",
                    "a low-rank map between wavelet coefficients of input and output",
                    "Heidari, Medghalchi, Hacihaliloglu et al., WaRA: Wavelet Low Rank Adaptation, arXiv:2506.24092v1",
                    """
                    y = x (W + s Σ_b F'_bᵀ B A F_b)ᵀ + b, bands b = low, high,  s = lora_alpha / r;  Haar: ΔW = s (B A) ⊗ I_2
                    A [r, in / 2], B [out / 2, r] trained: r (in + out) / 2 parameters a layer, a change of rank 2 r""",
                    "any optimizer, modules_to_save and bias; linear layers only, no initializer",
                    "A and B of each layer, of our own type (WARA); export --to lora is exact, at rank 2 r",
                    true);
        }

        @Override
        public String reading() {
            return "one pair A, B for both bands is read off the paper's figure; sharing: per_band is the other reading. Its"
                    + " wavelet, r, alpha and start are not known, and its second version, for images, is not here.";
        }

        @Override
        public Map<String, String> meanings() {
            return Map.of(
                    "r", "rank of A and B, 1 to half the layer's smaller width; the change's is twice that",
                    "lora_alpha", "numerator of the scale s = lora_alpha / r, above 0; r if not given",
                    "lora_dropout", "share of the input dropped in training, in [0, 1)",
                    "wavelet", "haar or db2",
                    "levels",
                            "how often the low band is split, at least 1 and as long as r coefficients are left in it; each level has a pair of its own",
                    "sharing",
                            "shared: low and high band of the last level have the same pair; per_band: each its own");
        }

        @Override
        public String peftType() {
            return "WARA";
        }

        @Override
        public Config read(Fields f) {
            Config usual = Config.DEFAULT;
            int r = f.integer("r", usual.r());
            return new Config(
                    r,
                    f.number("lora_alpha", r),
                    f.number("lora_dropout", usual.dropout()),
                    f.choice("wavelet", usual.wavelet()),
                    f.integer("levels", usual.levels()),
                    f.choice("sharing", usual.sharing()));
        }

        @Override
        public Map<String, @Nullable Object> write(Config config) {
            Map<String, @Nullable Object> json = new LinkedHashMap<>();
            json.put("r", config.r());
            json.put("lora_alpha", config.alpha());
            json.put("lora_dropout", config.dropout());
            json.put("wavelet", config.wavelet().name().toLowerCase(Locale.ROOT));
            json.put("levels", config.levels());
            json.put("sharing", config.sharing().name().toLowerCase(Locale.ROOT));
            json.put("bias", "none");
            return json;
        }

        @Override
        public void check(Config config, List<Site> sites) {
            for (Site site : sites) {
                long in = site.linear("wara").inFeatures();
                long out = site.layer().outFeatures();
                long width = Math.min(in, out);
                int deepest = 63 - Long.numberOfLeadingZeros(Math.max(2, width)); // log2, rounded down
                dev.espalier.Check.check(
                        config.levels() <= deepest,
                        "levels is %d, and the width %d of %s [%d, %d] cannot be halved so often; try %d",
                        config.levels(),
                        width,
                        site.path(),
                        out,
                        in,
                        deepest);
                long most = lowBand(width, config.levels());
                dev.espalier.Check.check(
                        config.r() <= most,
                        "r is %d, above the %d wavelet coefficients that a band of %s [%d, %d] has at level %d, where a higher rank adds nothing; try %d",
                        config.r(),
                        most,
                        site.path(),
                        out,
                        in,
                        config.levels(),
                        most);
            }
        }

        @Override
        public Made create(Config config, List<Site> sites, Seed seed) {
            return Made.each(sites, site -> new Wara(config, site, seed));
        }
    }

    /** Coefficients of the low band of so many features, filled up, at a level. */
    private static long lowBand(long features, int level) {
        long parts = 1L << level;
        return (features + parts - 1) / parts;
    }

    /** A band: which level and half it is, and the pair that acts on it. */
    private record Band(int level, boolean high, Parameter a, Parameter b) {}

    private final Map<String, Parameter> named = new LinkedHashMap<>();
    private final List<Band> bands = new ArrayList<>();
    private final Wavelet wavelet;
    private final double scale; // s
    private final double dropout;
    private final long in;
    private final long out;

    /** WaRA on one layer. */
    Wara(Config config, Site site, Seed seed) {
        in = site.linear("wara").inFeatures();
        out = site.layer().outFeatures();
        wavelet = config.wavelet();
        scale = config.alpha() / config.r();
        dropout = config.dropout();
        int last = config.levels();
        for (int level = 1; level <= last; level++) {
            boolean both = level == last && config.sharing() == Sharing.SHARED;
            Band high = band(config, site, seed, level, true, both ? "shared" : "high");
            bands.add(high);
            if (both) {
                bands.add(new Band(level, false, high.a(), high.b()));
            } else if (level == last) {
                bands.add(band(config, site, seed, level, false, "low"));
            }
        }
    }

    /** A band with a new pair: A Kaiming-uniform, B zero. */
    private Band band(Config config, Site site, Seed seed, int level, boolean high, String kind) {
        long widening = 1L << (config.levels() - level); // sides are filled up once, for the last level
        String leaf = "." + kind + level;
        try (Scope scope = Scope.open();
                Generator generator =
                        seed.named(site.path()).named("wara_A" + leaf).generator()) {
            Parameter a = site.trained(generator.kaimingUniform(config.r(), lowBand(in, config.levels()) * widening));
            Parameter b =
                    site.trained(Tensor.zeros(DType.FLOAT32, lowBand(out, config.levels()) * widening, config.r()));
            named.put("wara_A" + leaf, a);
            named.put("wara_B" + leaf, b);
            return new Band(level, high, a, b);
        }
    }

    /** What rows of a band's coefficients [rows, n_b] stand for, [rows, features]. */
    private Tensor synthesis(Tensor coefficients, Band band, long features) {
        Tensor signal = wavelet.synthesis(coefficients, band.high());
        for (int level = band.level(); level > 1; level--) {
            signal = wavelet.synthesis(signal, false);
        }
        return signal.narrow(1, 0, features);
    }

    @Override
    public Tensor forward(Tensor x, Base base) {
        return toLora().forward(x, base, dropout);
    }

    /** Of all bands A_b F_b [bands r, in], and F'_bᵀ B_b [out, bands r]. */
    @Override
    public LoraFactors toLora() {
        List<Tensor> down = new ArrayList<>();
        List<Tensor> up = new ArrayList<>();
        for (Band band : bands) {
            down.add(synthesis(band.a().tensor(), band, in));
            up.add(synthesis(band.b().tensor().t(), band, out).t());
        }
        return new LoraFactors(Tensor.cat(down, 0), Tensor.cat(up, 1), scale, null);
    }

    @Override
    public Map<String, Parameter> parameters() {
        return named;
    }
}
