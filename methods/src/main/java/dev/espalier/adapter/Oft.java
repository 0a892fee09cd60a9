package dev.espalier.adapter;

import static dev.espalier.Check.check;

import dev.espalier.io.Fields;
import dev.espalier.nn.Parameter;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Generator;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import dev.espalier.train.Callback;
import dev.espalier.train.StepContext;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/**
 * OFT: a trained rotation of a layer's input, in blocks.
 *
 * <p>Qiu et al., <i>Controlling Text-to-Image Diffusion by Orthogonal Finetuning</i>, arXiv:2306.07280, section 3; on the
 * input side, with the Neumann series, Qiu et al., <i>Orthogonal Finetuning Made Scalable</i>, arXiv:2506.19847.
 *
 * <pre>{@code
 * y = (x R) Wᵀ + b,    R = blockdiag(R_1 .. R_k),    k = in / block
 * R_i = (I - Q_i) (I + Q_i)⁻¹                        exactly orthogonal, or
 * R_i = I + 2 Q_i + 2 Q_i² + 2 Q_i³ + Q_i⁴           near (I + Q_i) (I - Q_i)⁻¹, the opposite turn
 * x [.., in]    W [out, in]    R_i, Q_i [block, block], Q_i skew-symmetric    y [.., out]
 * }</pre>
 *
 * <p>Trained is what stands above the diagonals of Q, row by row: [k, block (block - 1) / 2], from 0: no change yet. The two
 * forms turn in opposite directions, as in PEFT 0.21, against which they were checked. Blocks drop out each by itself; PEFT
 * reads {@code module_dropout} and does nothing with it. COFT's bound is kept after every step of a training, and acts on
 * what is used of any other value, as if that had been brought within it first.
 */
public final class Oft implements Adapter, Mergeable {

    /**
     * OFT's settings, by the names of PEFT in brackets.
     *
     * @param r number of blocks, or 0 to say their size
     * @param blockSize [oft_block_size] size of a block, or 0 to say their number
     * @param moduleDropout [module_dropout] share of the blocks that do not turn in training, in [0, 1)
     * @param coft whether Q is held near 0
     * @param eps how near: each ‖Q_i‖ at most eps / √(blocks trained), above 0
     * @param blockShare [block_share] whether all blocks turn alike
     * @param neumann [use_cayley_neumann] whether R is the series instead of exact
     * @param terms [num_cayley_neumann_terms] of the series, at least 1
     * @param init [init_weights] whether Q starts at 0; else at N(0, 0.1²), for tests
     */
    public record Config(
            int r,
            int blockSize,
            double moduleDropout,
            boolean coft,
            double eps,
            boolean blockShare,
            boolean neumann,
            int terms,
            boolean init) {

        /** PEFT's defaults. */
        public static final Config DEFAULT = ofBlockSize(32);

        /** Checks ranges. */
        public Config {
            check(r >= 0 && blockSize >= 0, "r and oft_block_size must be at least 0, found %d and %d", r, blockSize);
            check(
                    (r == 0) != (blockSize == 0),
                    "one of r and oft_block_size must be 0 and the other not, for their product is the width, found %d and %d; try 0 and 32",
                    r,
                    blockSize);
            check(
                    moduleDropout >= 0 && moduleDropout < 1,
                    "module_dropout must lie in [0, 1), found %s; try 0",
                    moduleDropout);
            check(eps > 0 && Double.isFinite(eps), "eps must be positive and finite, found %s; try 6e-5", eps);
            check(terms >= 1, "num_cayley_neumann_terms must be at least 1, found %d; try 5", terms);
        }

        /** Blocks of some size, all else as usual. */
        public static Config ofBlockSize(int size) {
            return new Config(0, size, 0, false, 6e-5, false, true, 5, true);
        }

        /** The same with the series of some terms, or 0 for the exact transform. */
        public Config withNeumann(int ofTerms) {
            return new Config(
                    r, blockSize, moduleDropout, coft, eps, blockShare, ofTerms > 0, Math.max(ofTerms, 1), init);
        }

        /** The same with all blocks alike, or not. */
        public Config withBlockShare(boolean share) {
            return new Config(r, blockSize, moduleDropout, coft, eps, share, neumann, terms, init);
        }

        /** The same with Q held near 0. */
        public Config withCoft(double within) {
            return new Config(r, blockSize, moduleDropout, true, within, blockShare, neumann, terms, init);
        }

        /** The same with blocks that do not turn in training. */
        public Config withDropout(double p) {
            return new Config(r, blockSize, p, coft, eps, blockShare, neumann, terms, init);
        }

        /** The size of the blocks on a layer: the one asked for, or as PEFT has it the divisor of its width nearest to it. */
        long blockOn(long in) {
            return r == 0 ? Rotations.nearestDivisor(blockSize, in) : in / Rotations.nearestDivisor(r, in);
        }
    }

    /** How OFT is set up, read and written. */
    public static final class Type implements AdapterType<Config> {

        @Override
        public About about() {
            return new About(
                    "oft",
                    "adapter",
                    "a trained rotation of a layer's input, in blocks",
                    "Qiu et al., Controlling Text-to-Image Diffusion by Orthogonal Finetuning, arXiv:2306.07280",
                    """
                    y = (x R) Wᵀ + b,  R = blockdiag(R_1 .. R_k) orthogonal, made of skew-symmetric Q_i [block, block]
                    W [out, in] frozen, Q trained: in (block - 1) / 2 parameters a layer""",
                    "any optimizer, trained heads (modules_to_save) and biases; not with embeddings or initialisers of factors",
                    "the upper triangles of Q of each layer, in PEFT's format (OFT)",
                    true);
        }

        @Override
        public Map<String, String> meanings() {
            return Map.of(
                    "r", "number of blocks, a divisor of every in, with oft_block_size 0",
                    "oft_block_size", "size of a block, a divisor of every in, with r 0",
                    "module_dropout", "share of the blocks that do not turn in training, in [0, 1)",
                    "coft", "hold Q near 0",
                    "eps", "how near: each block's norm at most eps / √(blocks trained), above 0",
                    "block_share", "all blocks turn alike",
                    "use_cayley_neumann",
                            "R by a series (true) or exactly orthogonal (false), which turns the other way",
                    "num_cayley_neumann_terms", "of the series, at least 1",
                    "init_weights", "true starts Q at 0, false at random, for tests");
        }

        @Override
        public String peftType() {
            return "OFT";
        }

        @Override
        public Config read(Fields f) {
            Config d = Config.DEFAULT;
            boolean series = f.bool("use_cayley_neumann", d.neumann());
            if (f.has("peft_type")) { // a file: what older releases wrote means something else
                if (!f.has("oft_block_size")) {
                    throw f.fault("oft_block_size", "is missing: before PEFT 0.14 OFT was another; train it again");
                }
                if (series && !f.has("peft_version")) {
                    throw f.fault(
                            "peft_version",
                            "is missing: before PEFT 0.18 the series of use_cayley_neumann was another; train it again");
                }
            }
            return new Config(
                    f.integer("r", d.r()),
                    f.integer("oft_block_size", d.blockSize()),
                    f.number("module_dropout", d.moduleDropout()),
                    f.bool("coft", d.coft()),
                    f.number("eps", d.eps()),
                    f.bool("block_share", d.blockShare()),
                    series,
                    f.integer("num_cayley_neumann_terms", d.terms()),
                    f.bool("init_weights", d.init()));
        }

        @Override
        public Map<String, @Nullable Object> write(Config config) {
            Map<String, @Nullable Object> json = new LinkedHashMap<>();
            json.put("r", config.r());
            json.put("oft_block_size", config.blockSize());
            json.put("module_dropout", config.moduleDropout());
            json.put("coft", config.coft());
            json.put("eps", config.eps());
            json.put("block_share", config.blockShare());
            json.put("use_cayley_neumann", config.neumann());
            json.put("num_cayley_neumann_terms", config.terms());
            json.put("init_weights", config.init());
            json.put("bias", "none");
            json.put("fan_in_fan_out", false);
            return json;
        }

        @Override
        public void check(Config config, List<Site> sites) {
            for (Site site : sites) {
                long in = site.layer().inFeatures();
                int asked = config.r() + config.blockSize(); // one of them is 0
                dev.espalier.Check.check(
                        in % asked == 0,
                        "%s is %d, which does not divide the input width %d of %s; try %d",
                        config.r() == 0 ? "oft_block_size" : "r",
                        asked,
                        in,
                        site.path(),
                        Rotations.nearestDivisor(asked, in));
            }
        }

        @Override
        public Made create(Config config, List<Site> sites, Seed seed) {
            return Made.each(sites, site -> new Oft(config, site, seed));
        }

        @Override
        public Parts parts(Config config, Attached adapter, Seed seed) {
            return config.coft()
                    ? Parts.of(new Callback() {
                        @Override
                        public void afterStep(StepContext step) {
                            adapter.made().adapters().values().forEach(each -> ((Oft) each).bind());
                        }
                    })
                    : Parts.NONE;
        }
    }

    private final Config config;
    private final long block;
    private final Tensor
            places; // int64 [1, block (block - 1) / 2]: where row, column above the diagonal lie in a block
    private final Parameter q; // [k, block (block - 1) / 2], or [1, ..] for all

    /** OFT on one layer. */
    public Oft(Config config, Site site, Seed seed) {
        this.config = config;
        long in = site.linear("oft").inFeatures();
        block = config.blockOn(in);
        long rows = config.blockShare() ? 1 : in / block;
        long[] shape = {rows, block * (block - 1) / 2};
        try (Scope scope = Scope.open();
                Generator generator = seed.named(site.path()).named("oft_R").generator()) {
            q = site.trained(config.init() ? Tensor.zeros(DType.FLOAT32, shape) : generator.normal(0, 0.1, shape));
            places = Tensor.of(upper(Math.toIntExact(block)), 1, shape[1])
                    .to(q.tensor().device())
                    .keep();
        }
    }

    private static long[] upper(int block) {
        long[] places = new long[block * (block - 1) / 2];
        int n = 0;
        for (int row = 0; row < block; row++) {
            for (int column = row + 1; column < block; column++) {
                places[n++] = (long) row * block + column;
            }
        }
        return places;
    }

    @Override
    public Tensor forward(Tensor x, Base base) {
        Tensor blocks = rotations();
        boolean drops = config.moduleDropout() > 0 && base.layer().isTraining() && blocks.size(0) > 1;
        return base.forward(Rotations.apply(x, drops ? Rotations.thinned(blocks, config.moduleDropout()) : blocks));
    }

    /** W to W Rᵀ. */
    @Override
    public Base.Affine merge(Base.Affine base) {
        return new Base.Affine(Rotations.apply(base.weight(), rotations().mT()), base.bias());
    }

    /** R [k, block, block], or [1, block, block]. */
    Tensor rotations() {
        Tensor skew = skew(config.coft() ? bounded(q.tensor()) : q.tensor());
        return config.neumann() ? series(skew, config.terms()) : Rotations.cayley(skew);
    }

    /** Q [k, block, block] of its upper triangles. */
    private Tensor skew(Tensor triangles) {
        long rows = triangles.size(0);
        Tensor above = Tensor.zeros(triangles.dtype(), rows, block * block)
                .to(triangles.device())
                .scatter_(1, places.expand(rows, triangles.size(1)), triangles)
                .view(rows, block, block);
        return above.sub(above.mT());
    }

    /** I + 2 Q + 2 Q² + .. + Qⁿ; from three terms on the last power counts once, and three are as good as four. */
    private static Tensor series(Tensor skew, int terms) {
        Tensor sum = Rotations.identity(skew).expand(skew.shape());
        if (terms > 1) {
            sum = sum.add(skew, 2);
        }
        if (terms > 2) {
            Tensor power = skew.matmul(skew);
            sum = sum.add(power, 2);
            for (int i = 3; i < terms - 1; i++) {
                power = power.matmul(skew);
                sum = sum.add(power, 2);
            }
            sum = sum.add(power.matmul(skew));
        }
        return sum;
    }

    /** The triangles of Q brought within ‖Q_i‖ = eps / √rows; the gradient is that of the result. */
    private Tensor bounded(Tensor triangles) {
        Tensor step;
        try (Grad off = Grad.off()) {
            double most = config.eps() / Math.sqrt((double) triangles.size(0));
            Tensor norm = triangles.norm(1, true).mul(Math.sqrt(2)); // of Q_i, which holds each number twice
            Tensor factor = norm.maximum(norm.zerosLike().add(most)).div(most); // at least 1
            step = triangles.div(factor).sub(triangles);
        }
        return triangles.add(step);
    }

    /** Brings the parameter itself within the bound. */
    void bind() {
        try (Grad off = Grad.off();
                Scope scope = Scope.open()) {
            q.tensor().copy_(bounded(q.tensor()));
        }
    }

    @Override
    public Map<String, Parameter> parameters() {
        return Map.of("oft_R.weight", q);
    }

    @Override
    public void close() {
        Adapter.super.close();
        places.close();
    }
}
