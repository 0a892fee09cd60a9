package dev.espalier.adapter;

import static dev.espalier.Check.check;

import dev.espalier.io.Fields;
import dev.espalier.io.TensorSource;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Svd;
import dev.espalier.tensor.Tensor;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/**
 * SVFit: the largest singular values of the weight are trained, between their own frozen vectors.
 *
 * <p>Sun et al., <i>SVFit: Parameter-Efficient Fine-Tuning of Large Pre-Trained Models Using Singular Values</i>,
 * arXiv:2409.05926.
 *
 * <pre>{@code
 * W = U S Vᵀ,   y = x Wᵀ + b + ((x V_r) ∘ (σ - s_r)) U_rᵀ
 * x [.., in]    W [out, in]    V_r [in, r] and U_r [out, r] frozen    σ [r] trained, s_r at the start    y [.., out]
 * }</pre>
 *
 * <p>The same function as the paper's split (W - U_r S_r V_rᵀ) + U_r diag(σ) V_rᵀ, which would alter W. What trains is σ - s_r,
 * so that weight decay draws towards the weight and not towards none; without decay SGD's and Adam's paths are those of σ. A σ may
 * become negative. Where r is not given, the smallest one is taken whose singular values hold a share of the whole: the measure of
 * the paper's "information" is our reading, and {@code energy_of} has the other one. Authors' code was not to be found; checked by
 * hand derivation.
 */
public final class Svfit implements OnFrames {

    private static final String DELTA = "svfit_delta"; // σ - s_r

    /** What a share of the spectrum is measured in. */
    public enum Measure {
        /** The singular values' sum. */
        VALUES,
        /** The sum of their squares; the same share takes fewer. */
        SQUARES
    }

    /**
     * SVFit's settings.
     *
     * @param r singular values that train; 0: as many as hold the share
     * @param energy the share, in (0, 1]; 1 is all of them
     * @param measure [energy_of] what of
     * @param saveFrames [save_frames] whether files hold the singular vectors, or only what was trained
     * @param initWeights [init_weights] whether the weight is decomposed; false in files that hold the vectors
     * @param ranks [rank_pattern] how many there are by path of the layer where it is not r; written when saved
     */
    public record Config(
            int r,
            double energy,
            Measure measure,
            boolean saveFrames,
            boolean initWeights,
            Map<String, Integer> ranks) {

        /** As many as hold 99 % of the singular values' sum. */
        public static final Config DEFAULT = of(0);

        /** Checks the ranges. */
        public Config {
            check(r >= 0, "r must be at least 1, or 0 for as many as hold the energy, found %d; try 0", r);
            check(energy > 0 && energy <= 1, "energy must lie in (0, 1], found %s; try 0.99", energy);
            ranks = Patterns.ranks(ranks);
        }

        /** Some number of singular values, or 0. */
        public static Config of(int r) {
            return new Config(r, 0.99, Measure.VALUES, true, true, Map.of());
        }

        /** The same with another share of something. */
        public Config withEnergy(double share, Measure of) {
            return new Config(r, share, of, saveFrames, initWeights, ranks);
        }

        /** The same with or without the vectors in files. */
        public Config withSaveFrames(boolean save) {
            return new Config(r, energy, measure, save, initWeights, ranks);
        }

        /** How many singular values [q], falling, train. */
        long rank(Tensor values) {
            if (r > 0) {
                return r;
            }
            double[] s = values.to(DType.FLOAT64).doubles();
            double[] sums = new double[s.length];
            double sum = 0;
            for (int i = 0; i < s.length; i++) {
                sum += measure == Measure.VALUES ? s[i] : s[i] * s[i];
                sums[i] = sum;
            }
            int count = 1;
            while (count < s.length && sums[count - 1] < energy * sum) { // the last running sum: all is all
                count++;
            }
            return count;
        }
    }

    /** How SVFit is set up, read and written. */
    public static final class Type implements AdapterType<Config> {

        @Override
        public About about() {
            return new About(
                    "svfit",
                    "adapter",
                    "the largest singular values of the weight, trained",
                    "Sun et al., SVFit: Parameter-Efficient Fine-Tuning of Large Pre-Trained Models Using Singular Values,"
                            + " arXiv:2409.05926",
                    """
                    y = x Wᵀ + b + ((x V_r) ∘ (σ - s_r)) U_rᵀ,  W = U S Vᵀ
                    V_r [in, r], U_r [out, r] frozen; σ [r] trained, s_r at the start: r parameters a layer""",
                    "any optimizer with a large learning rate, modules_to_save and bias; linear layers only, no initializer",
                    "σ - s_r of each layer, with the vectors unless save_frames is false; export --to lora is exact",
                    true);
        }

        @Override
        public String reading() {
            return "the method section was not at hand. The rule for r takes \"99 % of the information\" as the singular"
                    + " values' sum; energy_of: squares has the other reading. The paper's counts fit energy: 1.";
        }

        @Override
        public Map<String, String> meanings() {
            return Map.of(
                    "r", "singular values that train, 1 to the layer's smaller width; 0: as many as hold the energy",
                    "energy", "share of the spectrum that these hold, in (0, 1]; 1 is all",
                    "energy_of", "what the share is of: values (their sum) or squares (fewer)",
                    "save_frames",
                            "true: files hold the singular vectors; false: they are found again in the weight, and compared",
                    "init_weights", "true: the weight is decomposed; false in files, which hold the vectors",
                    "rank_pattern", "how many there are, by path of the layer; written when saved");
        }

        @Override
        public String peftType() {
            return "SVFIT";
        }

        @Override
        public Config read(Fields f) {
            Config usual = Config.DEFAULT;
            return new Config(
                    f.integer("r", usual.r()),
                    f.number("energy", usual.energy()),
                    f.choice("energy_of", usual.measure()),
                    f.bool("save_frames", usual.saveFrames()),
                    f.bool("init_weights", usual.initWeights()),
                    f.integerMap("rank_pattern", usual.ranks()));
        }

        @Override
        public Map<String, @Nullable Object> write(Config config) {
            Map<String, @Nullable Object> json = new LinkedHashMap<>();
            json.put("r", config.r());
            json.put("energy", config.energy());
            json.put("energy_of", config.measure().name().toLowerCase(Locale.ROOT));
            json.put("save_frames", config.saveFrames());
            json.put("init_weights", config.initWeights());
            json.put("rank_pattern", config.ranks());
            json.put("bias", "none");
            return json;
        }

        @Override
        public void check(Config config, List<Site> sites) {
            if (config.r() > 0) {
                Lora.Config.of(config.r(), 1).fit(sites);
            }
        }

        @Override
        public Made create(Config config, List<Site> sites, Seed seed) {
            return Made.each(sites, site -> new Svfit(config, site));
        }

        @Override
        public Saved<Config> saved(Config c, Made made) {
            Map<String, Integer> ranks = made.ranks(
                    c.r(), adapter -> (int) ((Svfit) adapter).frames.d.tensor().numel());
            boolean again = !c.saveFrames();
            return new Saved<>(
                    new Config(c.r(), c.energy(), c.measure(), c.saveFrames(), again, ranks),
                    Frames.saved(made, c.saveFrames()));
        }

        @Override
        public Map<String, Tensor> restored(Config config, Made made, TensorSource file) {
            return Frames.restored(made, file);
        }
    }

    private final Frames frames;

    /** SVFit on one layer. */
    Svfit(Config config, Site site) {
        @Nullable Integer known = config.ranks().get(site.path());
        if (!config.initWeights()) {
            frames = Frames.empty(site, known == null ? config.r() : known, 1, DELTA);
            return;
        }
        try (Grad off = Grad.off();
                Scope scope = Scope.open()) {
            Tensor weight = Frames.weight(site, "svfit");
            List<Tensor> svd = Svd.EXACT.of(weight, Math.min(weight.size(0), weight.size(1)), 0, new Seed(0));
            long r = known == null ? config.rank(svd.get(1)) : known;
            frames = new Frames(
                    site,
                    svd.get(2).narrow(0, 0, r).clone(),
                    svd.get(0).narrow(1, 0, r).clone(),
                    Tensor.zeros(weight.dtype(), r),
                    1,
                    DELTA);
        }
    }

    @Override
    public Frames frames() {
        return frames;
    }
}
