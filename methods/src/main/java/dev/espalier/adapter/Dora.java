package dev.espalier.adapter;

import dev.espalier.EspalierException;
import dev.espalier.io.Fields;
import dev.espalier.nn.Embedding;
import dev.espalier.nn.Parameter;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/**
 * DoRA: LoRA for the direction of a weight's rows, and a trained length for each row.
 *
 * <p>Liu et al., <i>DoRA: Weight-Decomposed Low-Rank Adaptation</i>, arXiv:2402.09353, eq. 5; section 4.3 takes the norm as a
 * constant in the gradient, and so do we.
 *
 * <pre>{@code
 * V = W + s B A,   n_o = ‖V_o‖ (constant in the gradient),   y = x ((m / n) V)ᵀ + b
 * x [.., in]    W [out, in]    A [r, in]    B [out, r]    m, n [out]    y [.., out]
 * }</pre>
 *
 * <p>m starts as the lengths of W's rows, A and B as in {@link Lora}: no change yet. While dropout thins x to d, the whole
 * change uses d, as PEFT has it: y = x Wᵀ + b + (m/n - 1) (d Wᵀ) + (m/n) s (d Aᵀ) Bᵀ. Checked against PEFT 0.21.
 */
public final class Dora implements LowRank, Mergeable {

    /** How DoRA is set up, read and written: LoRA's settings. */
    public static final class Type implements AdapterType<Lora.Config> {

        private static final Lora.Type LORA = new Lora.Type();

        @Override
        public About about() {
            return new About(
                    "dora",
                    "adapter",
                    "LoRA for the direction of a weight's rows, and a trained length for each",
                    "Liu et al., DoRA: Weight-Decomposed Low-Rank Adaptation, arXiv:2402.09353",
                    """
                    y = x ((m / n) (W + s B A))ᵀ + b,  n_o = ‖row o of W + s B A‖, constant in the gradient
                    A [r, in], B [out, r], m [out] trained: r (in + out) + out parameters a layer""",
                    "any optimizer, any initializer, modules_to_save and bias; not with lora_bias",
                    "A, B and m of each layer, in PEFT's format (LORA with use_dora true)",
                    true);
        }

        @Override
        public Map<String, String> meanings() {
            return LORA.meanings();
        }

        @Override
        public String peftType() {
            return LORA.peftType();
        }

        @Override
        public boolean recognises(Map<String, Object> config) {
            return Boolean.TRUE.equals(config.get("use_dora"));
        }

        @Override
        public Lora.Config read(Fields f) {
            Lora.Config config = LORA.read(f);
            if (config.loraBias()) {
                throw f.fault("lora_bias", "cannot be combined with DoRA; switch one of them off");
            }
            return config;
        }

        @Override
        public Map<String, @Nullable Object> write(Lora.Config config) {
            Map<String, @Nullable Object> json = LORA.write(config);
            json.put("use_dora", true);
            return json;
        }

        @Override
        public void check(Lora.Config config, List<Site> sites) {
            LORA.check(config, sites);
        }

        @Override
        public Made create(Lora.Config config, List<Site> sites, Seed seed) {
            return Made.each(sites, site -> new Dora(config, site, seed));
        }

        @Override
        public String initializer(Lora.Config config) {
            return LORA.initializer(config);
        }
    }

    private final Factors factors;
    private final Parameter magnitude; // m [out]
    private final boolean table;

    /** DoRA on one layer. */
    public Dora(Lora.Config config, Site site, Seed seed) {
        if (config.loraBias()) {
            throw new EspalierException("lora_bias cannot be combined with DoRA; switch one of them off");
        }
        factors = new Factors(config, site, seed);
        table = site.layer() instanceof Embedding;
        try (Grad off = Grad.off();
                Scope scope = Scope.open()) {
            magnitude = new Parameter(norms(Base.Affine.of(site.layer()).weight()));
            magnitude.trainable(true);
        }
    }

    @Override
    public Tensor forward(Tensor x, Base base) {
        Base.Affine under = base.affine();
        Tensor weight = under.weight(); // [out, in]
        Tensor rows = factors.rows(x); // [n, in]
        Tensor ratio = ratio(weight, rows, base); // m / n [out]
        if (factors.drops(base)) {
            Tensor thin = factors.dropped(rows, base);
            Tensor plain = product(thin, weight, ratio); // d Wᵀ [n, out]
            Tensor whole = factors.addTo(product(thin, weight, ratio), thin); // d Vᵀ [n, out]
            Tensor y = base.forward(rows).add(whole.mul(ratio)).sub(plain);
            return factors.shaped(y, x);
        }
        Tensor y = factors.addTo(product(rows, weight, ratio), rows).mul(ratio); // x ((m / n) V)ᵀ [n, out]
        Tensor bias = under.bias();
        return factors.shaped(bias == null ? y : y.add(bias.to(y.dtype())), x);
    }

    /** x Wᵀ [n, out], or the rows of Wᵀ that ids mean. */
    private Tensor product(Tensor rows, Tensor weight, Tensor ratio) {
        return table ? Tensor.embedding(rows, weight.t()).to(ratio.dtype()) : rows.linear(weight, null);
    }

    /** m / n [out] in the type that the layer computes in. */
    private Tensor ratio(Tensor weight, Tensor rows, Base base) {
        Tensor n;
        try (Grad off = Grad.off()) {
            n = norms(weight);
        }
        DType dtype = table ? base.layer().dtype() : rows.dtype();
        return magnitude.tensor().div(n).to(dtype);
    }

    /**
     * ‖row o of W + s B A‖ [out] without forming that matrix: with q = W Aᵀ, its square is ‖W_o‖² + 2 s Σ_k q_ok B_ok + s²
     * Σ_k (B A Aᵀ)_ok B_ok, all but the first of width r.
     */
    private Tensor norms(Tensor weight) {
        try (Scope scope = Scope.open()) {
            double s = factors.scale;
            Tensor a = factors.a.tensor();
            Tensor b = factors.b.tensor();
            Tensor ownSquare = weight.norm(1, false).square(); // [out]
            Tensor cross = weight.matmul(a.t()); // [out, r]
            Tensor low = b.matmul(a.matmul(a.t())); // [out, r]
            Tensor change = cross.mul(2 * s).add(low, s * s).mul(b).sum(1, false); // [out]
            return scope.promote(
                    ownSquare.add(change).clamp(0, Double.POSITIVE_INFINITY).sqrt());
        }
    }

    /** W to (m / n) (W + s B A). */
    @Override
    public Base.Affine merge(Base.Affine base) {
        Tensor v = factors.added(base.weight()); // [out, in]
        Tensor ratio = magnitude.tensor().div(v.norm(1, false)); // [out]
        return new Base.Affine(v.mul(ratio.unsqueeze(1)), base.bias());
    }

    @Override
    public Map<String, Parameter> parameters() {
        Map<String, Parameter> named = new LinkedHashMap<>(factors.named());
        named.put("lora_magnitude_vector", magnitude);
        return named;
    }

    @Override
    public Parameter a() {
        return factors.a;
    }

    @Override
    public Parameter b() {
        return factors.b;
    }

    @Override
    public double scale() {
        return factors.scale;
    }
}
