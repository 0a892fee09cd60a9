package dev.espalier.adapter;

import static dev.espalier.Check.check;

import dev.espalier.io.Fields;
import dev.espalier.io.TensorSource;
import dev.espalier.tensor.Generator;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import org.jspecify.annotations.Nullable;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * LoLDU: of the weight's own LDU decomposition the first pivots are trained, and nothing else.
 *
 * <p>Shi, Wei et al., <i>LoLDU: Low-Rank Adaptation via Lower-Diag-Upper Decomposition for Parameter-Efficient Fine-Tuning</i>,
 * arXiv:2410.13618.
 *
 * <pre>{@code
 * W = P L diag(d) U,   A = U[:r],   B = (P L)[:, :r],   y = x Wᵀ + b + s ((x Aᵀ) ∘ (z - z0)) Bᵀ,   s = lora_alpha / r
 * x [.., in]    W [out, in]    A [r, in] and B [out, r] frozen    z [r] trained, z0 = d[:r]    y [.., out]
 * }</pre>
 *
 * <p>What trains here is z - z0, 0 at the start, so that W stays as it is and weight decay draws towards it; under Adam and SGD
 * without decay that is the same path. The authors' starts {@code uniform}, {@code normal} and {@code constant} move z and z0
 * alike, which changes nothing; the others, which move the network away from W, are {@code init_method}. Where a layer is
 * narrower than r, all its pivots train, with the same s. A pivot of less than 1e-6 of the largest is not divided by: its row of U
 * stays whole and its z0 is 1. Checked against the authors' code (4fe87a0). Not known: whether the paper trains s (its code
 * does not), and which start it prefers.
 */
public final class Loldu implements OnFrames {

    private static final Logger LOG = LoggerFactory.getLogger(Loldu.class);
    private static final double SMALL = 1e-6; // of the largest pivot
    private static final String DELTA = "loldu_delta"; // z - z0

    /** Where z starts; all but the first begin away from W. */
    public enum Start {
        /** The pivots. */
        LU,
        /** 1. */
        ONES,
        /** 0: what the pivots made is gone. */
        ZEROS,
        /** Uniform in (-1, 1). */
        S_UNIFORM,
        /** N(0, 1). */
        S_NORMAL
    }

    /**
     * LoLDU's settings, by the authors' names.
     *
     * @param r pivots that train, at least 1; of a narrower layer, all
     * @param alpha [lora_alpha] numerator of the scale, positive
     * @param start [init_method] where z starts
     * @param saveFrames [save_frames] whether files hold A and B, or only what was trained
     * @param initWeights [init_weights] whether the weight is decomposed; false in files that hold A and B
     */
    public record Config(int r, double alpha, Start start, boolean saveFrames, boolean initWeights) {

        /** The authors' package. */
        public static final Config DEFAULT = of(768, 1);

        /** Checks the ranges. */
        public Config {
            check(r >= 1, "r must be at least 1, found %d; try 768", r);
            check(
                    alpha > 0 && Double.isFinite(alpha),
                    "lora_alpha must be positive and finite, found %s; try the rank",
                    alpha);
        }

        /** Some rank and alpha, starting from the pivots. */
        public static Config of(int r, double alpha) {
            return new Config(r, alpha, Start.LU, true, true);
        }

        /** The same from another start. */
        public Config withStart(Start other) {
            return new Config(r, alpha, other, saveFrames, initWeights);
        }

        /** The same with or without A and B in files. */
        public Config withSaveFrames(boolean save) {
            return new Config(r, alpha, start, save, initWeights);
        }
    }

    /** How LoLDU is set up, read and written. */
    public static final class Type implements AdapterType<Config> {

        @Override
        public About about() {
            return new About(
                    "loldu",
                    "adapter",
                    "the first pivots of the weight's own LDU decomposition, trained",
                    "Shi, Wei et al., LoLDU: Low-Rank Adaptation via Lower-Diag-Upper Decomposition for Parameter-Efficient"
                            + " Fine-Tuning, arXiv:2410.13618",
                    """
                    y = x Wᵀ + b + s ((x Aᵀ) ∘ (z - z0)) Bᵀ,  s = lora_alpha / r,  W = P L diag(d) U, A = U[:r], B = (P L)[:, :r]
                    A [r, in], B [out, r] frozen; z [r] trained, z0 = d[:r]: min(r, in, out) parameters a layer""",
                    "any optimizer with a large learning rate, modules_to_save and bias; linear layers only, no initializer",
                    "z - z0 of each layer, with A and B unless save_frames is false; export --to lora is exact",
                    true);
        }

        @Override
        public String reading() {
            return "the paper's text was not at hand; as the authors' code, s is not trained. Which start the paper prefers is"
                    + " not known: init_method has the code's.";
        }

        @Override
        public Map<String, String> meanings() {
            return Map.of(
                    "r", "pivots that train, at least 1; of a layer narrower than that, all",
                    "lora_alpha", "numerator of the scale s, above 0; the rank for s = 1",
                    "init_method",
                            "where z starts: lu (the pivots: no change), or away from W: ones, zeros, s_uniform, s_normal",
                    "save_frames", "true: files hold A and B; false: they are found again in the weight, and compared",
                    "init_weights", "true: the weight is decomposed; false in files, which hold A and B");
        }

        @Override
        public String peftType() {
            return "LOLDU";
        }

        @Override
        public Config read(Fields f) {
            Config usual = Config.DEFAULT;
            return new Config(
                    f.integer("r", usual.r()),
                    f.number("lora_alpha", usual.alpha()),
                    f.choice("init_method", usual.start()),
                    f.bool("save_frames", usual.saveFrames()),
                    f.bool("init_weights", usual.initWeights()));
        }

        @Override
        public Map<String, @Nullable Object> write(Config config) {
            Map<String, @Nullable Object> json = new LinkedHashMap<>();
            json.put("r", config.r());
            json.put("lora_alpha", config.alpha());
            json.put("init_method", config.start().name().toLowerCase(Locale.ROOT));
            json.put("save_frames", config.saveFrames());
            json.put("init_weights", config.initWeights());
            json.put("bias", "none");
            return json;
        }

        @Override
        public Made create(Config config, List<Site> sites, Seed seed) {
            long narrow =
                    sites.stream().filter(site -> width(site) < config.r()).count();
            if (narrow > 0) {
                LOG.info(
                        "r is {}; {} of {} layers are narrower, and all their pivots train",
                        config.r(),
                        narrow,
                        sites.size());
            }
            return Made.each(sites, site -> new Loldu(config, site, seed));
        }

        @Override
        public Saved<Config> saved(Config c, Made made) {
            boolean again = !c.saveFrames();
            return new Saved<>(
                    new Config(c.r(), c.alpha(), c.start(), c.saveFrames(), again), Frames.saved(made, c.saveFrames()));
        }

        @Override
        public Map<String, Tensor> restored(Config config, Made made, TensorSource file) {
            return Frames.restored(made, file);
        }
    }

    /**
     * W = P L diag(d) U, as far as it is used.
     *
     * @param a U[:r] [r, in], whole rows where the pivot is too small to divide by
     * @param b (P L)[:, :r] [out, r]
     * @param z0 d[:r] [r], 1 where the row is whole
     * @param guarded how many of these there are
     */
    record Ldu(Tensor a, Tensor b, Tensor z0, long guarded) {

        /** Of a weight [out, in], float32 at least. */
        static Ldu of(Tensor weight, long r) {
            List<Tensor> lu = weight.lu();
            Tensor upper = lu.get(2).narrow(0, 0, r); // [r, in]
            Tensor l = lu.get(1).narrow(1, 0, r); // [out, r]
            Tensor at = lu.get(0).unsqueeze(1).expand(l.size(0), r); // where a row of L belongs
            Tensor b = l.zerosLike().scatter_(0, at, l);
            Tensor all = diagonal(lu.get(2)); // d
            Tensor pivots = all.narrow(0, 0, r);
            Tensor small = pivots.abs().le(all.abs().max().item() * SMALL);
            Tensor z0 = pivots.maskedFill(small, 1);
            return new Ldu(upper.div(z0.unsqueeze(1)), b, z0, (long)
                    small.to(weight.dtype()).sum().item());
        }

        private static Tensor diagonal(Tensor upper) {
            long k = upper.size(0);
            return upper.gather(1, Tensor.arange(k).unsqueeze(1).to(upper.device()))
                    .view(k);
        }
    }

    private final Frames frames;

    /** LoLDU on one layer. */
    Loldu(Config config, Site site, Seed seed) {
        long r = Math.min(config.r(), width(site));
        double scale = config.alpha() / config.r();
        if (!config.initWeights()) {
            frames = Frames.empty(site, r, scale, DELTA);
            return;
        }
        try (Grad off = Grad.off();
                Scope scope = Scope.open();
                Generator generator = seed.named(site.path()).named(DELTA).generator()) {
            Ldu ldu = Ldu.of(Frames.weight(site, "loldu"), r);
            frames = new Frames(site, ldu.a(), ldu.b(), start(config.start(), ldu.z0(), generator), scale, DELTA);
            if (ldu.guarded() > 0) {
                LOG.info(
                        "{}: {} of {} pivots are too small to divide by, and their rows of U stay whole",
                        site.path(),
                        ldu.guarded(),
                        r);
            }
        }
    }

    private static long width(Site site) {
        return Math.min(site.linear("loldu").inFeatures(), site.layer().outFeatures());
    }

    /** z - z0. */
    private static Tensor start(Start start, Tensor z0, Generator generator) {
        Tensor z = switch (start) {
            case LU -> z0;
            case ONES -> z0.zerosLike().add(1);
            case ZEROS -> z0.zerosLike();
            case S_UNIFORM -> generator.uniform(-1, 1, z0.shape()).to(z0.dtype());
            case S_NORMAL -> generator.randn(z0.shape()).to(z0.dtype());
        };
        return z.to(z0.device()).sub(z0);
    }

    @Override
    public Frames frames() {
        return frames;
    }
}
