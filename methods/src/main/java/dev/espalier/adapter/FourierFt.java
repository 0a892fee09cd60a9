package dev.espalier.adapter;

import static dev.espalier.Check.check;

import dev.espalier.io.Fields;
import dev.espalier.nn.Parameter;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Generator;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import java.util.Collections;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/**
 * FourierFT: the change of a weight is the inverse Fourier transform of a few trained coefficients at random frequencies, the
 * same for all layers of a shape.
 *
 * <p>Gao et al., <i>Parameter-Efficient Fine-Tuning with Discrete Fourier Transform</i>, ICML 2024, arXiv:2405.03003, eq. 2 to 4.
 *
 * <pre>{@code
 * F[e / in, e mod in] = c_t for e = E_t,  else 0;    ΔW = α Re(ifft2(F)) = α / (out in) Σ_t c_t cos 2π(u_t p / out + v_t q / in)
 * y = x Wᵀ + b + x ΔWᵀ,    c [n] trained    F, ΔW [out, in]    α = scaling
 * }</pre>
 *
 * <p>E is the first n of {@code Generator.of(random_loc_seed).randperm(out · in)}, which {@link Generator} specifies to the bit; no
 * file holds it. c starts at N(0, 1), as the paper and PEFT have it: the adapter changes the layer from the start, and {@code
 * init_weights} true starts it at zero. Checked against PEFT 0.21.
 */
public final class FourierFt implements Adapter, Mergeable {

    /**
     * FourierFT's settings, by PEFT's names.
     *
     * @param n [n_frequency] coefficients a layer, at least 1
     * @param scaling α, finite and not 0
     * @param seed [random_loc_seed] of the frequencies
     * @param pattern [n_frequency_pattern] other n by regular expression over module paths; the first that matches wins
     * @param zero [init_weights] whether c starts at zero
     */
    public record Config(int n, double scaling, long seed, Map<String, Integer> pattern, boolean zero) {

        /** PEFT's defaults. */
        public static final Config DEFAULT = new Config(1000, 150, 777, Map.of(), false);

        /** Checks ranges and expressions. */
        public Config {
            check(n >= 1, "n_frequency must be at least 1, found %d; try 1000", n);
            check(
                    scaling != 0 && Double.isFinite(scaling),
                    "scaling must be finite and not 0, found %s; try 150",
                    scaling);
            pattern = Collections.unmodifiableMap(new LinkedHashMap<>(pattern));
            pattern.forEach((p, count) -> {
                Targets.compile("n_frequency_pattern", p);
                check(
                        count >= 1,
                        "n_frequency_pattern: the number for %s must be at least 1, found %d; try 1000",
                        p,
                        count);
            });
        }

        /** Some number of coefficients and scaling, all else as usual. */
        public static Config of(int n, double scaling) {
            return new Config(n, scaling, 777, Map.of(), false);
        }

        /** The same, starting at zero. */
        public Config startingAtZero() {
            return new Config(n, scaling, seed, pattern, true);
        }

        /** n for a module. */
        public int at(String path) {
            return Patterns.at(path, pattern, n);
        }
    }

    /** How FourierFT is set up, read and written. */
    public static final class Type implements AdapterType<Config> {

        @Override
        public About about() {
            return new About(
                    "fourierft",
                    "adapter",
                    "a change of the weight by a few trained coefficients of its Fourier transform",
                    "Gao et al., Parameter-Efficient Fine-Tuning with Discrete Fourier Transform, ICML 2024, arXiv:2405.03003",
                    """
                    y = x Wᵀ + b + x ΔWᵀ,  ΔW = scaling · Re(ifft2(F)), F zero but for c at n random places
                    c [n] trained: n parameters a layer, whatever its size""",
                    "any optimizer, modules_to_save and bias; linear layers only, no initializer",
                    "c of each layer, in PEFT's format (FOURIERFT); the places come from random_loc_seed",
                    true);
        }

        @Override
        public Map<String, String> meanings() {
            return Map.of(
                    "n_frequency", "trained coefficients a layer, 1 to out · in",
                    "scaling", "factor of the change, finite and not 0; 100 to 300",
                    "random_loc_seed", "seed of the places of the coefficients, any integer",
                    "n_frequency_pattern", "other numbers by regular expression over module paths; the first wins",
                    "init_weights", "start at zero instead of N(0, 1)");
        }

        @Override
        public String peftType() {
            return "FOURIERFT";
        }

        @Override
        public Config read(Fields f) {
            Config usual = Config.DEFAULT;
            return new Config(
                    f.integer("n_frequency", usual.n()),
                    f.number("scaling", usual.scaling()),
                    f.longInteger("random_loc_seed", usual.seed()),
                    f.integerMap("n_frequency_pattern", usual.pattern()),
                    f.bool("init_weights", usual.zero()));
        }

        @Override
        public Map<String, @Nullable Object> write(Config config) {
            Map<String, @Nullable Object> json = new LinkedHashMap<>();
            json.put("n_frequency", config.n());
            json.put("scaling", config.scaling());
            json.put("random_loc_seed", config.seed());
            json.put("n_frequency_pattern", config.pattern());
            json.put("init_weights", config.zero());
            json.put("bias", "none");
            json.put("fan_in_fan_out", false);
            return json;
        }

        @Override
        public void check(Config config, List<Site> sites) {
            Patterns.checkUsed("n_frequency_pattern", config.pattern().keySet(), sites);
        }

        @Override
        public Made create(Config config, List<Site> sites, Seed seed) {
            Map<Long, long[]> orders = new HashMap<>(); // by out · in; a permutation of all places is long to make
            return Made.each(sites, site -> {
                long size = site.linear("fourierft").inFeatures() * site.layer().outFeatures();
                int most =
                        sites.stream().mapToInt(s -> config.at(s.path())).max().orElseThrow();
                long[] order = orders.computeIfAbsent(size, key -> order(config.seed(), key, most));
                return new FourierFt(config, site, order, seed);
            });
        }

        private static long[] order(long seed, long size, long most) {
            try (Scope scope = Scope.open();
                    Generator generator = Generator.of(seed)) {
                return generator
                        .randperm(size)
                        .narrow(0, 0, Math.min(size, most))
                        .longs();
            }
        }
    }

    private final Parameter spectrum; // c [n]
    private final long[] places; // E
    private final long in;
    private final long out;
    private final double scaling; // α

    private FourierFt(Config config, Site site, long[] order, Seed seed) {
        this.in = site.layer().inFeatures();
        this.out = site.layer().outFeatures();
        this.scaling = config.scaling();
        int n = config.at(site.path());
        check(
                n <= in * out,
                "n_frequency is %d, more than the %d elements of %s [%d, %d]; try %d",
                n,
                in * out,
                site.path(),
                out,
                in,
                in * out);
        this.places = java.util.Arrays.copyOf(order, n);
        try (Scope scope = Scope.open();
                Generator generator =
                        seed.named(site.path()).named("fourierft_spectrum").generator()) {
            this.spectrum = site.trained(config.zero() ? Tensor.zeros(DType.FLOAT32, n) : generator.randn(n));
        }
    }

    /** ΔW [out, in]. */
    private Tensor change() {
        Tensor c = spectrum.tensor();
        Tensor at = Tensor.of(places, places.length).to(c.device());
        Tensor dense = Tensor.zeros(c.dtype(), out * in).to(c.device()).scatter_(0, at, c); // F, flat
        return dense.view(out, in).ifft2().real().mul(scaling);
    }

    @Override
    public Tensor forward(Tensor x, Base base) {
        return base.forward(x).add(x.linear(change(), null));
    }

    /** W to W + ΔW. */
    @Override
    public Base.Affine merge(Base.Affine base) {
        return new Base.Affine(base.weight().add(change()), base.bias());
    }

    @Override
    public Map<String, Parameter> parameters() {
        return Map.of("fourierft_spectrum", spectrum);
    }
}
