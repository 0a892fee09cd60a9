package dev.espalier.adapter;

import static dev.espalier.Check.check;

import dev.espalier.io.Fields;
import dev.espalier.io.TensorSource;
import dev.espalier.nn.Layer;
import dev.espalier.nn.Parameter;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Generator;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Set;
import org.jspecify.annotations.Nullable;

/**
 * Bone: all shards of a weight changed by one trained matrix. Its forms are MiSS, mini and Bat.
 *
 * <p>Kang and Yin, <i>Bone: Block-Affine Adaptation of Large Language Models</i>, later <i>MiSS</i>, arXiv:2409.15371. Until
 * its third version the paper calls Bone what it calls Bat afterwards.
 *
 * <pre>{@code
 * MiSS  y = x Wᵀ + b + xs D              D [r, out], xs [.., r] the sum of x's chunks of width r
 *       ΔW[o, c] = D[c mod r, o]         so ΔW = Dᵀ E with E = [I I ..] [r, in]: exactly a LoRA
 * mini  D = [D' D' ..], D' [r, mini_r]   ΔW[o, c] = D'[c mod r, o mod mini_r]
 * Bat   y = x (W + ΔW)ᵀ + b              ΔW_ij = W_ij b_i + b_i, b [out / r, r, r], W_ij [r, r] block i, j of W
 * x [.., in]    W [out, in]    y [.., out]
 * }</pre>
 *
 * <p>All start at 0: no change yet, but a gradient at once. There is no scale. MiSS pads x with zeros where r does not divide
 * in; its dropout comes after. Several Bat adapters change the weight one after the other, so their order counts. Checked
 * against PEFT 0.21 (type MISS); its former type BONE is read.
 */
public final class Bone {

    private Bone() {}

    /**
     * Bone's settings, by the names of PEFT in brackets.
     *
     * @param r width of a shard, at least 1; no rank of a LoRA
     * @param miniR [mini_r] width of D' where init is "mini", a divisor of every out
     * @param dropout [miss_dropout] in [0, 1), of x; Bat has none
     * @param init [init_weights] which form: {@code true} MiSS, "mini" or {@code bat}; {@code false} is MiSS with a
     *     random start, for tests
     */
    public record Config(int r, int miniR, double dropout, String init) {

        /** MiSS. */
        public static final String MISS = "true";

        /** Smaller MiSS. */
        public static final String MINI = "mini";

        /** Products with the frozen shards. */
        public static final String BAT = "bat";

        private static final List<String> FORMS = List.of(MISS, MINI, BAT, "false");

        /** PEFT's defaults. */
        public static final Config DEFAULT = new Config(64, 1, 0, MISS);

        /** Checks ranges. */
        public Config {
            check(r >= 1, "r must be at least 1, found %d; try 64", r);
            check(miniR >= 1, "mini_r must be at least 1, found %d; try 8", miniR);
            check(dropout >= 0 && dropout < 1, "miss_dropout must lie in [0, 1), found %s; try 0", dropout);
            check(FORMS.contains(init), "init_weights must be true, bat, mini or false, found %s; try true", init);
        }

        /** Some form and width, all else as usual. */
        public static Config of(String form, int r) {
            return new Config(r, 1, 0, form);
        }

        /** The same with another width of D'. */
        public Config withMiniR(int width) {
            return new Config(r, width, dropout, init);
        }

        /** The same with dropout. */
        public Config withDropout(double p) {
            return new Config(r, miniR, p, init);
        }
    }

    /** How Bone is set up, read and written. */
    public static final class Type implements AdapterType<Config> {

        @Override
        public About about() {
            return new About(
                    "bone",
                    "adapter",
                    "all shards of a weight changed by one trained matrix (MiSS, mini, Bat)",
                    "Kang and Yin, Bone: Block-Affine Adaptation of Large Language Models, arXiv:2409.15371",
                    """
                    MiSS: y = x Wᵀ + b + xs D, xs [.., r] the sum of x's chunks; mini: D [r, out] repeats D' [r, mini_r]
                    Bat: ΔW_ij = W_ij b_i + b_i over blocks [r, r] of W [out, in], b [out / r, r, r]
                    r out parameters a layer (mini r mini_r)""",
                    "any optimizer, trained heads (modules_to_save) and biases; not with embeddings or initialisers of factors",
                    "D, D' or b of each layer, in PEFT's format (MISS; files of type BONE are read)",
                    true);
        }

        @Override
        public Map<String, String> meanings() {
            return Map.of(
                    "r", "width of a shard, 1 to the layer's input; Bat wants a divisor of in and out",
                    "mini_r", "width of the repeated matrix of mini, a divisor of out",
                    "miss_dropout", "share of the input dropped in training, in [0, 1); not for Bat",
                    "init_weights", "the form: true (MiSS), mini or bat; false is a random start, for tests");
        }

        @Override
        public String peftType() {
            return "MISS";
        }

        @Override
        public Set<String> formerPeftTypes() {
            return Set.of("BONE");
        }

        @Override
        public Config read(Fields f) {
            Config d = Config.DEFAULT;
            Object init = f.any("init_weights");
            return new Config(
                    f.integer("r", d.r()),
                    f.integer("mini_r", d.miniR()),
                    f.number("miss_dropout", d.dropout()),
                    init == null ? d.init() : init.toString().toLowerCase(Locale.ROOT));
        }

        @Override
        public Map<String, @Nullable Object> write(Config config) {
            Map<String, @Nullable Object> json = new LinkedHashMap<>();
            json.put("r", config.r());
            json.put("mini_r", config.miniR());
            json.put("miss_dropout", config.dropout());
            boolean named = List.of(Config.BAT, Config.MINI).contains(config.init());
            json.put("init_weights", named ? config.init() : (Object) Boolean.valueOf(config.init()));
            json.put("bias", "none");
            return json;
        }

        @Override
        public void check(Config config, List<Site> sites) {
            dev.espalier.Check.check(
                    config.dropout() == 0 || !config.init().equals(Config.BAT),
                    "miss_dropout is %s, and bat drops nothing; set it to 0, or init_weights to true",
                    config.dropout());
        }

        @Override
        public Made create(Config config, List<Site> sites, Seed seed) {
            return Made.each(
                    sites,
                    site -> config.init().equals(Config.BAT) ? new Bat(config, site) : new Miss(config, site, seed));
        }

        /** Files of type BONE call the matrix otherwise. */
        @Override
        public @Nullable Map<String, Tensor> restored(Config config, Made made, TensorSource file) {
            Map<String, Tensor> values = new LinkedHashMap<>();
            for (Map.Entry<String, Tensor> e : made.tensors().entrySet()) {
                String former = e.getKey().replace("miss_block", "bone_block");
                if (!file.tensors().containsKey(former)) {
                    return null;
                }
                long[] found = file.info(former).dims();
                dev.espalier.Check.check(
                        Arrays.equals(found, e.getValue().shape()),
                        "%s is %s in %s and %s here; use the base model it was trained on",
                        former,
                        Arrays.toString(found),
                        file.where(),
                        Arrays.toString(e.getValue().shape()));
                values.put(e.getKey(), file.read(former));
            }
            return values;
        }
    }

    private static Layer wideEnough(Config config, Site site) {
        long in = site.linear("bone").inFeatures();
        check(
                config.r() <= in,
                "r is %d, above the input width %d of %s; try %d, or name other layers",
                config.r(),
                in,
                site.path(),
                in);
        return site.layer();
    }

    /** MiSS and mini: D added to every shard, as one matrix product of the summed chunks of x. */
    public static final class Miss implements Adapter, LoraExpressible {

        private final double dropout;
        private final long in;
        private final long copies; // out / mini_r, or 1
        private final Parameter d; // D [r, out], or D' [r, mini_r]

        /** MiSS on one layer. */
        public Miss(Config config, Site site, Seed seed) {
            Layer layer = wideEnough(config, site);
            dropout = config.dropout();
            in = layer.inFeatures();
            boolean mini = config.init().equals(Config.MINI);
            long out = layer.outFeatures();
            check(
                    !mini || out % config.miniR() == 0,
                    "mini_r is %d, which does not divide the output width %d of %s; try %d",
                    config.miniR(),
                    out,
                    site.path(),
                    divisor(config.miniR(), out));
            copies = mini ? out / config.miniR() : 1;
            long width = out / copies;
            try (Scope scope = Scope.open();
                    Generator generator =
                            seed.named(site.path()).named("miss_block").generator()) {
                d = site.trained(
                        config.init().equals("false")
                                ? generator.kaimingUniform(config.r(), width)
                                : Tensor.zeros(DType.FLOAT32, config.r(), width));
            }
        }

        @Override
        public Tensor forward(Tensor x, Base base) {
            long r = d.shape()[0];
            return Base.onRows(x, rows -> {
                Tensor y = base.forward(rows); // [N, out]
                Tensor padded = in % r == 0 ? rows : rows.pad(0, r - in % r);
                Tensor thin = dropout > 0 && base.layer().isTraining() ? padded.dropout(dropout, true) : padded;
                Tensor sums = thin.reshape(-1, padded.size(1) / r, r).sum(1, false); // xs [N, r]
                Tensor change = sums.to(y.dtype()).matmul(d.tensor().to(y.dtype())); // [N, mini_r] or [N, out]
                return y.add_(copies == 1 ? change : change.repeat(1, copies));
            });
        }

        /** A = E [r, in] and B = Dᵀ [out, r] at scale 1. */
        @Override
        public LoraFactors toLora() {
            long r = d.shape()[0];
            Tensor e = Tensor.eye(r, d.tensor().dtype())
                    .to(d.tensor().device())
                    .repeat(1, (in + r - 1) / r)
                    .narrow(1, 0, in);
            return new LoraFactors(e, d.tensor().repeat(1, copies).t(), 1, null);
        }

        @Override
        public Map<String, Parameter> parameters() {
            return Map.of("miss_block", d);
        }
    }

    /** Bat: every shard times its row's trained matrix, so that the change has full rank. */
    public static final class Bat implements Adapter, Mergeable {

        private final Parameter b; // [out / r, r, r]

        /** Bat on one layer. */
        public Bat(Config config, Site site) {
            Layer layer = wideEnough(config, site);
            long r = config.r();
            long in = layer.inFeatures();
            long out = layer.outFeatures();
            check(
                    in % r == 0 && out % r == 0,
                    "r is %d, and bat wants a divisor of both widths of %s [%d, %d]; try %d, or init_weights true",
                    r,
                    site.path(),
                    out,
                    in,
                    divisor(r, gcd(in, out)));
            try (Scope scope = Scope.open()) {
                b = site.trained(Tensor.zeros(DType.FLOAT32, out / r, r, r));
            }
        }

        @Override
        public Tensor forward(Tensor x, Base base) {
            Base.Affine changed = merge(base.affine());
            return x.linear(changed.weight(), changed.bias());
        }

        /** W to W + ΔW. */
        @Override
        public Base.Affine merge(Base.Affine base) {
            Tensor w = base.weight();
            long r = b.shape()[1];
            long out = w.size(0);
            long in = w.size(1);
            Tensor blocks = w.reshape(out / r, r, in / r, r).permute(2, 0, 1, 3); // W_ij at [j, i]: [in/r, out/r, r, r]
            Tensor change = blocks.matmul(b.tensor()).add(b.tensor()); // [in/r, out/r, r, r]
            return new Base.Affine(w.add(change.permute(1, 2, 0, 3).reshape(out, in)), base.bias());
        }

        @Override
        public Map<String, Parameter> parameters() {
            return Map.of("miss_block", b);
        }
    }

    /** The largest divisor of a width that is no larger than a number. */
    private static long divisor(long atMost, long width) {
        long d = Math.min(atMost, width);
        while (width % d != 0) {
            d--;
        }
        return d;
    }

    private static long gcd(long a, long b) {
        return b == 0 ? a : gcd(b, a % b);
    }
}
