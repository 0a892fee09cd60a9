package dev.espalier.adapter;

import static dev.espalier.Check.check;

import dev.espalier.io.Fields;
import dev.espalier.nn.Parameter;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Generator;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/**
 * BOFT: a trained rotation of a layer's input as a product of sparse ones, as in a butterfly, and a factor for every output.
 *
 * <p>Liu et al., <i>Parameter-Efficient Orthogonal Finetuning via Butterfly Factorization</i>, arXiv:2311.06243, section 4.
 *
 * <pre>{@code
 * y = s * ((x B_f .. B_1) Wᵀ) + b,    B_i = P_i blockdiag(R_i1 .. R_ik) P_iᵀ,    k = in / block
 * R_ij = (I - S) (I + S)⁻¹,  S = (M_ij - M_ijᵀ) / 2
 * x [.., in]    W [out, in]    M [f, k, block, block]    s [out]    P_i permutations    y [.., out]
 * }</pre>
 *
 * <p>P_1 is the identity; P_i brings together what lies half a block of factor i - 1 apart, so that f factors let every 2^(f -
 * 1) blocks mix. M starts at 0 and s at 1: no change yet. Checked against PEFT 0.21, which without its CUDA extension has f =
 * 1 whatever was asked for. Blocks drop out each by itself, so many as PEFT leaves out on average: a share of one factor.
 */
public final class Boft implements Adapter, Mergeable {

    /**
     * BOFT's settings, by the names of PEFT in brackets.
     *
     * @param blockSize [boft_block_size] size of a block, or 0 to say their number
     * @param blockNum [boft_block_num] number of blocks, or 0 to say their size
     * @param factors [boft_n_butterfly_factor] f, at least 1; above it the size is even and the number a multiple of 2^(f - 1)
     * @param dropout [boft_dropout] share of the blocks of one factor that do not turn in training, in [0, 1)
     * @param init [init_weights] whether M starts at 0 and s at 1; else both 0.1 N(0, 1) away, for tests
     */
    public record Config(int blockSize, int blockNum, int factors, double dropout, boolean init) {

        /** PEFT's defaults. */
        public static final Config DEFAULT = new Config(4, 0, 1, 0, true);

        /** Checks ranges. */
        public Config {
            check(
                    blockSize >= 0 && blockNum >= 0 && (blockSize == 0) != (blockNum == 0),
                    "one of boft_block_size and boft_block_num must be 0 and the other above, for their product is the width, found %d and %d; try 4 and 0",
                    blockSize,
                    blockNum);
            check(factors >= 1, "boft_n_butterfly_factor must be at least 1, found %d; try 1", factors);
            check(dropout >= 0 && dropout < 1, "boft_dropout must lie in [0, 1), found %s; try 0", dropout);
        }

        /** Blocks of some size in so many factors. */
        public static Config of(int blockSize, int factors) {
            return new Config(blockSize, 0, factors, 0, true);
        }
    }

    /** How BOFT is set up, read and written. */
    public static final class Type implements AdapterType<Config> {

        @Override
        public About about() {
            return new About(
                    "boft",
                    "adapter",
                    "a trained rotation of a layer's input as a butterfly of sparse ones, and a factor for every output",
                    "Liu et al., Parameter-Efficient Orthogonal Finetuning via Butterfly Factorization, arXiv:2311.06243",
                    """
                    y = s * ((x B_f .. B_1) Wᵀ) + b,  B_i = P_i blockdiag(R_i1 .. R_ik) P_iᵀ, each R [block, block] orthogonal
                    W [out, in] frozen, f in block + out numbers trained a layer""",
                    "any optimizer, trained heads (modules_to_save) and biases; not with embeddings or initialisers of factors",
                    "the matrices of R and s of each layer, in PEFT's format (BOFT)",
                    true);
        }

        @Override
        public Map<String, String> meanings() {
            return Map.of(
                    "boft_block_size", "size of a block, a divisor of every in, with boft_block_num 0",
                    "boft_block_num", "number of blocks, a divisor of every in, with boft_block_size 0",
                    "boft_n_butterfly_factor",
                            "f, at least 1; above it the size is even, the number a multiple of 2^(f - 1)",
                    "boft_dropout", "share of the blocks of one factor that do not turn in training, in [0, 1)",
                    "init_weights", "true starts at no change, false at random, for tests");
        }

        @Override
        public String peftType() {
            return "BOFT";
        }

        @Override
        public Config read(Fields f) {
            Config d = Config.DEFAULT;
            return new Config(
                    f.integer("boft_block_size", d.blockSize()),
                    f.integer("boft_block_num", d.blockNum()),
                    f.integer("boft_n_butterfly_factor", d.factors()),
                    f.number("boft_dropout", d.dropout()),
                    f.bool("init_weights", d.init()));
        }

        @Override
        public Map<String, @Nullable Object> write(Config config) {
            Map<String, @Nullable Object> json = new LinkedHashMap<>();
            json.put("boft_block_size", config.blockSize());
            json.put("boft_block_num", config.blockNum());
            json.put("boft_n_butterfly_factor", config.factors());
            json.put("boft_dropout", config.dropout());
            json.put("init_weights", config.init());
            json.put("bias", "none");
            json.put("fan_in_fan_out", false);
            return json;
        }

        @Override
        public Made create(Config config, List<Site> sites, Seed seed) {
            return Made.each(sites, site -> new Boft(config, site, seed));
        }
    }

    private final double dropout;
    private final Parameter r; // M [f, k, block, block]
    private final Parameter s; // [out, 1]
    private final List<Tensor> order =
            new ArrayList<>(); // of each P but the first: int64 [in], column of the 1 in each row
    private final List<Tensor> back = new ArrayList<>(); // the inverse

    /** BOFT on one layer. */
    public Boft(Config config, Site site, Seed seed) {
        long in = site.linear("boft").inFeatures();
        int asked = config.blockSize() + config.blockNum(); // one of them is 0
        check(
                in % asked == 0,
                "%s is %d, which does not divide the input width %d of %s; try %d",
                config.blockSize() > 0 ? "boft_block_size" : "boft_block_num",
                asked,
                in,
                site.path(),
                Rotations.nearestDivisor(asked, in));
        long block = config.blockSize() > 0 ? asked : in / asked;
        long number = in / block;
        long mixed = 1L << Math.min(config.factors() - 1, 62);
        check(
                config.factors() == 1 || (block % 2 == 0 && number % mixed == 0),
                "boft_n_butterfly_factor is %d, which wants blocks of an even size and a multiple of %d of them, and %s has %d of size %d; try 1",
                config.factors(),
                mixed,
                site.path(),
                number,
                block);
        dropout = config.dropout() / config.factors();
        int f = config.factors();
        long out = site.layer().outFeatures();
        try (Scope scope = Scope.open();
                Generator generator = seed.named(site.path()).named("boft").generator()) {
            r = site.trained(
                    config.init()
                            ? Tensor.zeros(DType.FLOAT32, f, number, block, block)
                            : generator.normal(0, 0.1, f, number, block, block));
            s = site.trained(config.init() ? Tensor.ones(DType.FLOAT32, out, 1) : generator.normal(1, 0.1, out, 1));
            for (int i = 1; i < f; i++) {
                long[] columns = columns(Math.toIntExact(in), Math.toIntExact(block << i), Math.toIntExact(block / 2));
                order.add(kept(columns));
                back.add(kept(inverse(columns)));
            }
        }
    }

    private Tensor kept(long[] indices) {
        return Tensor.of(indices, indices.length).to(r.tensor().device()).keep();
    }

    /** Within each stretch, pieces of half a block: first the even ones, then the odd ones. */
    static long[] columns(int in, int stretch, int half) {
        long[] columns = new long[in];
        int pieces = stretch / half;
        for (int at = 0; at < in; at++) {
            int piece = at % stretch / half;
            int from = piece < pieces / 2 ? 2 * piece : 2 * (piece - pieces / 2) + 1;
            columns[at] = (long) at / stretch * stretch + (long) from * half + at % half;
        }
        return columns;
    }

    private static long[] inverse(long[] columns) {
        long[] back = new long[columns.length];
        for (int i = 0; i < columns.length; i++) {
            back[(int) columns[i]] = i;
        }
        return back;
    }

    @Override
    public Tensor forward(Tensor x, Base base) {
        Tensor blocks = rotations();
        if (dropout > 0 && base.layer().isTraining()) {
            blocks = Rotations.thinned(blocks, dropout);
        }
        Tensor turned = x;
        for (int i = Math.toIntExact(blocks.size(0)) - 1; i >= 0; i--) {
            turned = turned(turned, blocks.select(0, i), i);
        }
        Tensor y = base.forward(turned);
        Tensor bias = base.affine().bias();
        Tensor factors = s.tensor().view(-1);
        Tensor scaled = y.mul(factors); // y has the bias in it, which is not scaled
        return (bias == null ? scaled : scaled.add(bias.mul(factors.neg().add(1)))).to(y.dtype());
    }

    /** W to diag(s) W (B_f .. B_1)ᵀ = diag(s) W B_1ᵀ .. B_fᵀ. */
    @Override
    public Base.Affine merge(Base.Affine base) {
        Tensor blocks = rotations().mT();
        Tensor w = base.weight();
        for (int i = 0; i < blocks.size(0); i++) {
            w = turned(w, blocks.select(0, i), i);
        }
        return new Base.Affine(w.mul(s.tensor()), base.bias());
    }

    /** R [f, k, block, block]. */
    Tensor rotations() {
        Tensor m = r.tensor();
        return Rotations.cayley(m.sub(m.mT()).mul(0.5));
    }

    /** x P blockdiag(blocks) Pᵀ for the P of a factor. */
    private Tensor turned(Tensor x, Tensor blocks, int factor) {
        if (factor == 0) {
            return Rotations.apply(x, blocks);
        }
        int last = x.dim() - 1;
        Tensor together = x.indexSelect(last, back.get(factor - 1));
        return Rotations.apply(together, blocks).indexSelect(last, order.get(factor - 1));
    }

    @Override
    public Map<String, Parameter> parameters() {
        Map<String, Parameter> named = new LinkedHashMap<>();
        named.put("boft_R", r);
        named.put("boft_s", s);
        return named;
    }

    @Override
    public void close() {
        Adapter.super.close();
        order.forEach(Tensor::close);
        back.forEach(Tensor::close);
    }
}
