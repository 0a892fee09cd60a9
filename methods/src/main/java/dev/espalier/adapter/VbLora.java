package dev.espalier.adapter;

import static dev.espalier.Check.check;

import dev.espalier.EspalierException;
import dev.espalier.io.Fields;
import dev.espalier.io.TensorSource;
import dev.espalier.nn.Parameter;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Generator;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/**
 * VB-LoRA: LoRA whose factors are laid out of short vectors, each a mixture of a few from a bank that all layers share.
 *
 * <p>Li et al., <i>VB-LoRA: Extreme Parameter Efficient Fine-Tuning with Vector Banks</i>, NeurIPS 2024, arXiv:2405.15179, eq. 2.
 *
 * <pre>{@code
 * y = x Wᵀ + base bias + (drop(x) Aᵀ) Bᵀ
 * A[i, tile t] = Σ_{j in top} softmax_top(P[i, t])_j V_j,    B[tile t, i] = Σ_{j in top} softmax_top(Q[t, i])_j V_j
 * V [h, L] bank    P [r, in/L, h], Q [out/L, r, h] logits, of which the topk largest count    A [r, in]    B [out, r]
 * }</pre>
 *
 * <p>V starts uniform, the logits normal: the adapter changes the layer from the start, as the paper and PEFT have it. With
 * {@code save_only_topk_weights} the file holds what is chosen and not the logits, and such a file is for use alone. Of its
 * weights the last is one minus the others, which PEFT lets fall below zero by rounding and we do not. Checked against PEFT
 * 0.21.
 */
public final class VbLora implements Adapter, LoraExpressible {

    private static final String BANK = "vblora_vector_bank";
    private static final String INDICES = "_topk_indices";
    private static final String WEIGHTS = "_topk_weights";

    /**
     * VB-LoRA's settings, by PEFT's names.
     *
     * @param r rank, at least 1
     * @param vectors [num_vectors] h, at least 1
     * @param length [vector_length] L, which divides the widths of all layers
     * @param topk how many vectors a mixture has, 1 to h
     * @param saveOnlyTopk [save_only_topk_weights] whether files hold choices instead of logits
     * @param dropout [vblora_dropout] in [0, 1)
     * @param bankBound [init_vector_bank_bound] V starts uniform in ± this, above 0
     * @param logitsStd [init_logits_std] standard deviation of the logits at the start, at least 0
     */
    public record Config(
            int r,
            int vectors,
            int length,
            int topk,
            boolean saveOnlyTopk,
            double dropout,
            double bankBound,
            double logitsStd) {

        /** PEFT's defaults. */
        public static final Config DEFAULT = new Config(4, 256, 256, 2, false, 0, 0.02, 0.1);

        /** Checks ranges. */
        public Config {
            check(r >= 1, "r must be at least 1, found %d; try 4", r);
            check(vectors >= 1, "num_vectors must be at least 1, found %d; try 256", vectors);
            check(length >= 1, "vector_length must be at least 1, found %d; try 256", length);
            check(
                    topk >= 1 && topk <= vectors,
                    "topk must lie in 1 to num_vectors = %d, found %d; try %d",
                    vectors,
                    topk,
                    Math.min(2, vectors));
            check(dropout >= 0 && dropout < 1, "vblora_dropout must lie in [0, 1), found %s; try 0", dropout);
            check(
                    bankBound > 0 && Double.isFinite(bankBound),
                    "init_vector_bank_bound must be above 0, where nothing would ever train, found %s; try 0.02",
                    bankBound);
            check(
                    logitsStd >= 0 && Double.isFinite(logitsStd),
                    "init_logits_std must be at least 0 and finite, found %s; try 0.1",
                    logitsStd);
        }

        /** Some sizes, all else as usual. */
        public static Config of(int r, int vectors, int length) {
            return new Config(r, vectors, length, Math.min(2, vectors), false, 0, 0.02, 0.1);
        }

        /** The same with mixtures of some number of vectors. */
        public Config withTopk(int k) {
            return new Config(r, vectors, length, k, saveOnlyTopk, dropout, bankBound, logitsStd);
        }

        /** The same with choices instead of logits in its files, or not. */
        public Config withSaveOnlyTopk(boolean only) {
            return new Config(r, vectors, length, topk, only, dropout, bankBound, logitsStd);
        }
    }

    /** How VB-LoRA is set up, read and written. */
    public static final class Type implements AdapterType<Config> {

        @Override
        public About about() {
            return new About(
                    "vblora",
                    "adapter",
                    "a LoRA laid out of mixtures of a few vectors from one bank",
                    "Li et al., VB-LoRA: Extreme Parameter Efficient Fine-Tuning with Vector Banks, NeurIPS 2024, arXiv:2405.15179",
                    """
                    y = x Wᵀ + base bias + B A drop(x),  each tile of A and B = Σ over topk of softmax(topk logits) V
                    V [h, L] shared, logits [r, in/L, h] and [out/L, r, h] trained: h L + Σ r (in + out)/L h parameters""",
                    "any optimizer, modules_to_save and bias; linear layers whose widths L divides, no initializer",
                    "the bank once and the logits of each layer, or the chosen alone, in PEFT's format (VBLORA)",
                    true);
        }

        @Override
        public Map<String, String> meanings() {
            return Map.of(
                    "r", "rank, at least 1",
                    "num_vectors", "vectors in the bank, h, at least 1",
                    "vector_length", "their length L, which must divide the widths of all layers",
                    "topk", "vectors in a mixture, 1 to num_vectors; 2 is usual",
                    "save_only_topk_weights", "keep what is chosen instead of the logits: small files, for use alone",
                    "vblora_dropout", "share of the input dropped in training, in [0, 1)",
                    "init_vector_bank_bound", "the bank starts uniform in ± this, above 0",
                    "init_logits_std", "standard deviation of the logits at the start, at least 0");
        }

        @Override
        public String peftType() {
            return "VBLORA";
        }

        @Override
        public Config read(Fields f) {
            Config usual = Config.DEFAULT;
            return new Config(
                    f.integer("r", usual.r()),
                    f.integer("num_vectors", usual.vectors()),
                    f.integer("vector_length", usual.length()),
                    f.integer("topk", usual.topk()),
                    f.bool("save_only_topk_weights", usual.saveOnlyTopk()),
                    f.number("vblora_dropout", usual.dropout()),
                    f.number("init_vector_bank_bound", usual.bankBound()),
                    f.number("init_logits_std", usual.logitsStd()));
        }

        @Override
        public Map<String, @Nullable Object> write(Config config) {
            Map<String, @Nullable Object> json = new LinkedHashMap<>();
            json.put("r", config.r());
            json.put("num_vectors", config.vectors());
            json.put("vector_length", config.length());
            json.put("topk", config.topk());
            json.put("save_only_topk_weights", config.saveOnlyTopk());
            json.put("vblora_dropout", config.dropout());
            json.put("init_vector_bank_bound", config.bankBound());
            json.put("init_logits_std", config.logitsStd());
            json.put("bias", "none");
            json.put("fan_in_fan_out", false);
            return json;
        }

        @Override
        public Made create(Config config, List<Site> sites, Seed seed) {
            Parameter bank;
            try (Scope scope = Scope.open();
                    Generator generator = seed.named(BANK).generator()) {
                double bound = config.bankBound();
                bank = sites.get(0).trained(generator.uniform(-bound, bound, config.vectors(), config.length()));
            }
            Map<String, Adapter> adapters = new LinkedHashMap<>();
            sites.forEach(site -> adapters.put(site.path(), new VbLora(config, site, bank, seed)));
            return new Made(adapters, Map.of(BANK, bank));
        }

        @Override
        public Saved<Config> saved(Config config, Made made) {
            if (!config.saveOnlyTopk()) {
                return new Saved<>(config, made.tensors());
            }
            DType type =
                    config.vectors() < 1 << 8 ? DType.UINT8 : config.vectors() < 1 << 15 ? DType.INT16 : DType.INT32;
            Map<String, Tensor> tensors = new LinkedHashMap<>();
            made.tensors().forEach((key, tensor) -> {
                if (key.equals(Made.key(BANK))) {
                    tensors.put(key, tensor);
                    return;
                }
                List<Tensor> top = tensor.topk(config.topk());
                tensors.put(key + INDICES, top.get(1).to(type));
                tensors.put(
                        key + WEIGHTS,
                        top.get(0).softmax(-1).narrow(-1, 0, config.topk() - 1).contiguous());
            });
            return new Saved<>(config, tensors);
        }

        /** Logits that choose what the file chose: logarithms of its weights, and -∞ elsewhere. */
        @Override
        public @Nullable Map<String, Tensor> restored(Config config, Made made, TensorSource file) {
            if (!config.saveOnlyTopk()) {
                return null;
            }
            Map<String, Tensor> logits = new LinkedHashMap<>();
            made.adapters().forEach((path, adapter) -> {
                ((VbLora) adapter).chosen = true;
                adapter.parameters().forEach((leaf, p) -> {
                    String key = Made.key(path, leaf);
                    Tensor first = file.read(key + WEIGHTS).to(p.tensor().dtype());
                    Tensor last = first.sum(-1, true).neg().add(1).clamp(0, 1);
                    Tensor none =
                            Tensor.full(Double.NEGATIVE_INFINITY, p.tensor().dtype(), p.shape());
                    logits.put(
                            key,
                            none.scatter_(
                                    -1,
                                    file.read(key + INDICES).to(DType.INT64),
                                    Tensor.cat(List.of(first, last), -1).log()));
                });
            });
            return logits;
        }
    }

    private final Parameter bank; // V [h, L], shared
    private final Parameter logitsA; // P [r, in/L, h]
    private final Parameter logitsB; // Q [out/L, r, h]
    private final int topk;
    private final double dropout;
    private boolean chosen; // the logits are those of a file that has only what is chosen

    private VbLora(Config config, Site site, Parameter bank, Seed seed) {
        long in = site.linear("vblora").inFeatures();
        long out = site.layer().outFeatures();
        check(
                in % config.length() == 0 && out % config.length() == 0,
                "vector_length is %d, which does not divide the widths of %s [%d, %d]; try %d, or leave the layer out",
                config.length(),
                site.path(),
                out,
                in,
                java.math.BigInteger.valueOf(in)
                        .gcd(java.math.BigInteger.valueOf(out))
                        .longValue());
        this.bank = bank;
        this.topk = config.topk();
        this.dropout = config.dropout();
        Seed here = seed.named(site.path());
        try (Scope scope = Scope.open();
                Generator forA = here.named("vblora_logits_A").generator();
                Generator forB = here.named("vblora_logits_B").generator()) {
            double std = config.logitsStd();
            this.logitsA = site.trained(forA.normal(0, std, config.r(), in / config.length(), config.vectors()));
            this.logitsB = site.trained(forB.normal(0, std, out / config.length(), config.r(), config.vectors()));
        }
    }

    /** The mixtures that logits [m, n, h] mean: [m, n, L]. */
    private Tensor mixtures(Tensor logits) {
        List<Tensor> top = logits.topk(topk); // [m, n, topk] each
        Tensor vectors = Tensor.embedding(top.get(1), bank.tensor()); // [m, n, topk, L]
        return top.get(0).softmax(-1).unsqueeze(-1).mul(vectors).sum(-2, false);
    }

    @Override
    public LoraFactors toLora() {
        Tensor a = mixtures(logitsA.tensor()); // [r, in/L, L]
        Tensor b = mixtures(logitsB.tensor()).transpose(1, 2); // [out/L, L, r]
        return new LoraFactors(a.flatten(1, 2), b.reshape(-1, b.size(2)), 1, null);
    }

    @Override
    public Tensor forward(Tensor x, Base base) {
        if (chosen && base.layer().isTraining()) {
            throw new EspalierException(
                    "an adapter from a file with save_only_topk_weights cannot be trained on, for its logits are gone; train from one that was saved without");
        }
        return toLora().forward(x, base, dropout);
    }

    @Override
    public Map<String, Parameter> parameters() {
        Map<String, Parameter> named = new LinkedHashMap<>();
        named.put("vblora_logits_A", logitsA);
        named.put("vblora_logits_B", logitsB);
        return named;
    }
}
