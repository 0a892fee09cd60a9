package dev.espalier.adapter;

import static dev.espalier.Check.check;

import dev.espalier.io.Fields;
import dev.espalier.tensor.DType;
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

/**
 * LoRA-GGPO: a LoRA that trains at a noisy point, with the most noise where weights and gradients are largest.
 *
 * <p>Chang et al., <i>LoRA-GGPO: Mitigating Double Descent in LoRA Fine-Tuning via Gradient-Guided Perturbation Optimization</i>,
 * arXiv:2502.14538v1; from v2 on the same number is LoRA-MGPO, here {@code variant: mgpo}.
 *
 * <pre>{@code
 * y = x (W + E)ᵀ + b + s (drop(x) Aᵀ) Bᵀ,   E = 0 in evaluation
 * ggpo:  E_ij ~ N(0, τ_i² / in),  τ_i = σ √(‖W'_i‖² + β ‖G_i‖²),  W' = W + s B A,  G = s (gB A + B gA) of the step before
 * mgpo:  E = -ρ v / ‖v‖ · min(1 / ḡ, 10),  v = s (mB A + B mA),  ḡ a mean of ‖G‖ with decay β_g
 * x [.., in]    W, E, G, v [out, in]    A, gA, mA [r, in]    B, gB, mB [out, r]    m: the optimiser's first moments
 * }</pre>
 *
 * <p>No matrix [out, in] is formed for the norms, nor for mgpo. A step of ggpo costs, for each layer, in · out random numbers and one
 * more product of the frozen layer's size forward and one backward; the random ones are held from one to the other. mgpo costs
 * four thin products. As β ‖G‖² is mostly small beside ‖W'‖², β = 0 (Flat-LoRA) differs little. Reconstructed, not confirmed: that G
 * is of the step before, and that σ is constant ({@code sigma_schedule: cosine} is the other reading); σ and β are the community's.
 * Losses reported in training are those of the noisy point. With accumulation mgpo's ḡ sees each step once, its authors' each
 * batch. Checked by hand derivation.
 */
public final class LoraGgpo implements OnFactors {

    /** What moves the point that gradients are taken at. */
    public enum Variant {
        /** Noise, v1 of the paper. */
        GGPO,
        /** The optimiser's momentum, v2 and later. */
        MGPO
    }

    /** How σ runs over the training. */
    public enum SigmaSchedule {
        /** As it is. */
        CONSTANT,
        /** From 0 to σ, as Flat-LoRA. */
        COSINE
    }

    /**
     * LoRA-GGPO's settings.
     *
     * @param r rank, at least 1
     * @param alpha [lora_alpha] numerator of the scale, positive
     * @param dropout [lora_dropout] in [0, 1)
     * @param variant ggpo or mgpo
     * @param sigma σ, of ggpo, at least 0
     * @param beta β, weight of gradients beside weights, of ggpo, at least 0
     * @param schedule [sigma_schedule] how σ runs over the training
     * @param rho ρ, length of mgpo's step, at least 0
     * @param decay [gradient_decay] β_g of mgpo, in [0, 1)
     */
    public record Config(
            int r,
            double alpha,
            double dropout,
            Variant variant,
            double sigma,
            double beta,
            SigmaSchedule schedule,
            double rho,
            double decay) {

        /** The community's σ and β, and the successor's ρ and decay for small models. */
        public static final Config DEFAULT =
                new Config(8, 16, 0, Variant.GGPO, 0.03, 0.01, SigmaSchedule.CONSTANT, 0.05, 0.9);

        /** Checks ranges. */
        public Config {
            Lora.Config.of(r, alpha).withDropout(dropout);
            checkSize("sigma", sigma, "0.03");
            checkSize("beta", beta, "0.01");
            checkSize("rho", rho, "0.05");
            check(decay >= 0 && decay < 1, "gradient_decay must lie in [0, 1), found %s; try 0.9", decay);
        }

        private static void checkSize(String name, double value, String usual) {
            check(
                    value >= 0 && Double.isFinite(value),
                    "%s must be at least 0 and finite, found %s; try %s",
                    name,
                    value,
                    usual);
        }

        Lora.Config lora() {
            return Lora.Config.of(r, alpha).withDropout(dropout);
        }
    }

    /** How LoRA-GGPO is set up, read and written. */
    public static final class Type implements AdapterType<Config> {

        @Override
        public About about() {
            return new About(
                    "lora-ggpo",
                    "adapter",
                    "a LoRA that trains at a noisy point, with the most noise where weights and gradients are largest",
                    "Chang et al., LoRA-GGPO: Mitigating Double Descent in LoRA Fine-Tuning via Gradient-Guided Perturbation"
                            + " Optimization, arXiv:2502.14538v1 (variant mgpo: LoRA-MGPO, v2 and later)",
                    """
                    y = x (W + E)ᵀ + b + s (x Aᵀ) Bᵀ,  E_ij ~ N(0, σ² (‖W'_i‖² + β ‖G_i‖²) / in) in training, else 0
                    A [r, in] and B [out, r] trained: r (in + out) parameters a layer, and nothing of E is kept
                    reconstructed, not confirmed: G of the step before; a constant σ (sigma_schedule has the other reading)""",
                    "any optimizer (mgpo: one with a first moment, adamw or sgd with momentum); linear layers only",
                    "A and B of each layer, of our own type (LORA_GGPO); export --to lora is exact",
                    true);
        }

        @Override
        public Map<String, String> meanings() {
            return Map.of(
                    "r", "rank, 1 to the layer's smaller width",
                    "lora_alpha", "numerator of the scale s, above 0; often twice the rank",
                    "lora_dropout", "share of the input dropped in training, in [0, 1)",
                    "variant", "ggpo (noise, v1 of the paper) or mgpo (along the optimiser's momentum, v2 and later)",
                    "sigma", "σ of ggpo, at least 0; 0.03 to 0.1 is usual",
                    "beta", "β of ggpo, weight of gradients beside weights, at least 0; 0 is Flat-LoRA",
                    "sigma_schedule", "constant, or cosine: from 0 to σ over the training",
                    "rho", "ρ of mgpo, length of its step, at least 0; 0.01 for large models",
                    "gradient_decay", "β_g of mgpo, decay of the mean gradient norm, in [0, 1)");
        }

        @Override
        public String peftType() {
            return "LORA_GGPO";
        }

        @Override
        public Config read(Fields f) {
            Config usual = Config.DEFAULT;
            return new Config(
                    f.integer("r", usual.r()),
                    f.number("lora_alpha", usual.alpha()),
                    f.number("lora_dropout", usual.dropout()),
                    f.choice("variant", usual.variant()),
                    f.number("sigma", usual.sigma()),
                    f.number("beta", usual.beta()),
                    f.choice("sigma_schedule", usual.schedule()),
                    f.number("rho", usual.rho()),
                    f.number("gradient_decay", usual.decay()));
        }

        @Override
        public Map<String, @Nullable Object> write(Config config) {
            Map<String, @Nullable Object> json = new LinkedHashMap<>();
            json.put("r", config.r());
            json.put("lora_alpha", config.alpha());
            json.put("lora_dropout", config.dropout());
            json.put("variant", config.variant().name().toLowerCase(Locale.ROOT));
            json.put("sigma", config.sigma());
            json.put("beta", config.beta());
            json.put("sigma_schedule", config.schedule().name().toLowerCase(Locale.ROOT));
            json.put("rho", config.rho());
            json.put("gradient_decay", config.decay());
            json.put("bias", "none");
            return json;
        }

        @Override
        public void check(Config config, List<Site> sites) {
            config.lora().fit(sites);
        }

        @Override
        public Made create(Config config, List<Site> sites, Seed seed) {
            return Made.each(sites, site -> new LoraGgpo(config, site, seed));
        }

        @Override
        public Parts parts(Config config, Attached adapter, Seed seed) {
            Map<String, LoraGgpo> layers = new LinkedHashMap<>();
            adapter.made().adapters().forEach((path, each) -> layers.put(path, (LoraGgpo) each));
            return Parts.of(new Perturbation(config, layers, seed.named("lora-ggpo")));
        }
    }

    private final Config config;
    private final Site site;
    private final Factors factors;
    private @Nullable Tensor weights; // ‖W_i‖² [out], float32 at least

    @Nullable
    Tensor gradients; // ‖G_i‖² [out] of the step before; of mgpo ḡ, a scalar

    private @Nullable Tensor tau; // τ / √in [out] of this step
    private @Nullable LoraFactors shift; // E of mgpo at this step
    private Seed noise = new Seed(0);
    private long pass; // of this step

    LoraGgpo(Config config, Site site, Seed seed) {
        this.config = config;
        this.site = site;
        site.linear("lora-ggpo");
        factors = new Factors(config.lora(), site, seed);
    }

    @Override
    public Tensor forward(Tensor x, Base base) {
        Tensor rows = factors.rows(x); // [n, in]
        Tensor y = factors.addTo(base.forward(rows), factors.dropped(rows, base)); // [n, out]
        if (base.layer().isTraining() && Grad.isOn()) {
            if (tau != null) {
                Tensor e = noise(noise.at(pass++)).to(y.dtype()); // a constant, which the backward pass holds on to
                y = y.addmm_(rows, e.t(), 1);
            } else if (shift != null) {
                y = y.addmm_(
                        rows.linear(shift.a(), null), shift.b().to(y.dtype()).t(), shift.scale());
            }
        }
        return factors.shaped(y, x);
    }

    /** E [out, in] of a pass. */
    Tensor noise(Seed ofPass) {
        Tensor size = java.util.Objects.requireNonNull(tau);
        try (Generator generator = ofPass.generator()) {
            Tensor z = generator.randn(site.layer().outFeatures(), site.layer().inFeatures());
            return z.to(size.dtype()).to(size.device()).mul(size.unsqueeze(1));
        }
    }

    /** Sets τ for the next passes. */
    void shake(double sigma, Seed ofStep) {
        settle();
        pass = 0;
        noise = ofStep;
        if (sigma == 0) {
            return;
        }
        try (Grad off = Grad.off();
                Scope scope = Scope.open()) {
            Tensor squares = weightNorms();
            if (gradients != null) {
                squares = squares.add(gradients, config.beta());
            }
            tau = squares.sqrt()
                    .mul(sigma / Math.sqrt((double) site.layer().inFeatures()))
                    .keep();
        }
    }

    /** Sets E of mgpo for the next passes, if the moments are any. */
    void lookAhead(Tensor ofA, Tensor ofB) {
        settle();
        try (Grad off = Grad.off();
                Scope scope = Scope.open()) {
            LoraFactors v = spread(ofA, ofB);
            double length = v.norm();
            if (length <= 1e-12 || config.rho() == 0) {
                return;
            }
            double mean = gradients == null ? 0 : gradients.item();
            double size = -config.rho() / (length + 1e-12) * Math.min(1 / (mean + 1e-12), 10);
            shift = new LoraFactors(v.a().clone().keep(), v.b().clone().keep(), v.scale() * size, null);
        }
    }

    /** s (uB A + B uA) as factors of twice the rank. */
    private LoraFactors spread(Tensor ofA, Tensor ofB) {
        Tensor a = factors.a.tensor().detach();
        Tensor b = factors.b.tensor().detach();
        Tensor down = Tensor.cat(List.of(a, ofA.to(a.dtype()).reshape(a.shape())), 0); // [2 r, in]
        Tensor up = Tensor.cat(List.of(ofB.to(b.dtype()).reshape(b.shape()), b), 1); // [out, 2 r]
        return new LoraFactors(down, up, factors.scale, null);
    }

    /** ‖W'_i‖² [out] = ‖W_i‖² + 2 s Σ ((W Aᵀ) ∘ B)_i + s² Σ ((B (A Aᵀ)) ∘ B)_i. */
    Tensor weightNorms() {
        Tensor a = factors.a.tensor().detach();
        Tensor b = factors.b.tensor().detach();
        Tensor w = site.layer().weight();
        if (weights == null) {
            weights = w.to(a.dtype()).square().sum(1, false).keep();
        }
        double s = factors.scale;
        Tensor cross = w.to(a.dtype()).matmul(a.t()).mul(b).sum(1, false).mul(2 * s);
        Tensor own = b.matmul(a.matmul(a.t())).mul(b).sum(1, false).mul(s * s);
        return weights.add(cross).add(own).relu();
    }

    /** ‖G_i‖² [out], G = s (gB A + B gA), from Grams of r by r. */
    Tensor gradientNorms() {
        Tensor ofA = java.util.Objects.requireNonNull(factors.a.tensor().grad());
        Tensor ofB = java.util.Objects.requireNonNull(factors.b.tensor().grad());
        Tensor a = factors.a.tensor().detach();
        Tensor b = factors.b.tensor().detach();
        Tensor first = ofB.matmul(a.matmul(a.t())).mul(ofB);
        Tensor both = ofB.matmul(a.matmul(ofA.t())).mul(b).mul(2);
        Tensor second = b.matmul(ofA.matmul(ofA.t())).mul(b);
        return first.add(both)
                .add(second)
                .sum(1, false)
                .mul(factors.scale * factors.scale)
                .relu();
    }

    /** Takes in the gradients of a step, before they are clipped. */
    void observe() {
        if (factors.a.tensor().grad() == null || factors.b.tensor().grad() == null) {
            return;
        }
        try (Grad off = Grad.off();
                Scope scope = Scope.open()) {
            Tensor rows = gradientNorms();
            if (config.variant() == Variant.GGPO) {
                remember(rows);
                return;
            }
            Tensor norm = rows.to(DType.FLOAT64).sum().sqrt();
            remember(gradients == null ? norm : gradients.mul(config.decay()).add(norm, 1 - config.decay()));
        }
    }

    void remember(Tensor values) {
        if (gradients != null) {
            gradients.close();
        }
        gradients = values.keep();
    }

    /** Back to the point itself. */
    void settle() {
        if (tau != null) {
            tau.close();
            tau = null;
        }
        if (shift != null) {
            shift.a().close();
            shift.b().close();
            shift = null;
        }
    }

    @Override
    public Factors factors() {
        return factors;
    }

    @Override
    public void close() {
        settle();
        for (Tensor each : new Tensor[] {weights, gradients}) {
            if (each != null) {
                each.close();
            }
        }
        weights = null;
        gradients = null;
        parameters().values().forEach(p -> p.tensor().close());
    }
}
