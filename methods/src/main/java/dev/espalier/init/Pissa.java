package dev.espalier.init;

import dev.espalier.adapter.Attached;
import dev.espalier.adapter.Calibration;
import dev.espalier.adapter.Initializer;
import dev.espalier.adapter.LowRank;
import dev.espalier.adapter.Site;
import dev.espalier.io.Fields;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Generator;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import java.util.List;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.jspecify.annotations.Nullable;

/**
 * PiSSA: LoRA that starts with the principal singular vectors of the weight, and trains those instead of noise.
 *
 * <p>Meng et al., <i>PiSSA: Principal Singular Values and Singular Vectors Adaptation</i>, arXiv:2404.02948, section 3.
 *
 * <pre>{@code
 * W = U S Vᵀ,   B0 = U_r √(S_r / s),   A0 = √(S_r / s) V_rᵀ,   y = x (W - s B0 A0 + s B A)ᵀ + b
 * W [out, in]    A, A0 [r, in]    B, B0 [out, r]
 * }</pre>
 *
 * <p>{@code pissa} decomposes exactly, {@code pissa_niter_K} by r random probes and K power iterations (the randomised method
 * of Halko et al., arXiv:0909.4061, without oversampling, as PEFT). The paper puts W - s B0 A0 in the network; we leave the
 * network alone and keep A0, B0 in the adapter. Embeddings start as usual, as in PEFT. Checked against PEFT 0.21.
 */
public final class Pissa implements Initializer {

    private static final Pattern NAME = Pattern.compile("pissa(?:_niter_(\\d{1,3}))?");

    private final int iterations; // of the randomised method; -1 for the exact one

    /** The exact one. */
    public Pissa() {
        this(-1);
    }

    private Pissa(int iterations) {
        this.iterations = iterations;
    }

    @Override
    public About about() {
        return new About(
                "pissa",
                "initializer",
                "LoRA that starts with the principal singular vectors of the weight",
                "Meng et al., PiSSA: Principal Singular Values and Singular Vectors Adaptation, arXiv:2404.02948",
                """
                W = U S Vᵀ,  B0 = U_r √(S_r / s),  A0 = √(S_r / s) V_rᵀ,  y = x (W - s B0 A0 + s B A)ᵀ + b
                pissa: exact; pissa_niter_K: r random probes, K power iterations""",
                "lora, rslora, dora; any optimizer",
                "a plain LoRA of twice the rank, [A; A0] and [B, -B0]; or A and B alone, as PEFT",
                true);
    }

    @Override
    public List<Fields.Field> fields() {
        return List.of();
    }

    @Override
    public @Nullable Initializer named(String name) {
        Matcher matcher = NAME.matcher(name);
        if (!matcher.matches()) {
            return null;
        }
        return new Pissa(matcher.group(1) == null ? -1 : Integer.parseInt(matcher.group(1)));
    }

    @Override
    public boolean isRepeatable() {
        return iterations < 0;
    }

    @Override
    public void initialize(Attached adapter, Calibration calibration, Seed seed) {
        for (Site site : Starts.sites(adapter)) {
            start(adapter, site, seed.named(site.path() + ".pissa"));
        }
    }

    private void start(Attached adapter, Site site, Seed seed) {
        try (Grad off = Grad.off();
                Scope scope = Scope.open()) {
            LowRank lowRank = adapter.lowRank(site.path());
            long r = lowRank.a().shape()[0];
            // Double width: every LAPACK then finds the same subspace to float32, and a file of A and B alone can be
            // read.
            Tensor w = site.layer().weight().to(DType.FLOAT64); // [out, in]
            Starts.checkRank("PiSSA", adapter, site);
            List<Tensor> svd = iterations < 0 ? w.svd() : randomised(w, r, seed);
            Tensor root = svd.get(1).narrow(0, 0, r).div(lowRank.scale()).sqrt(); // √(S_r / s) [r]
            Tensor b = svd.get(0).narrow(1, 0, r).mul(root); // [out, r]
            Tensor a = svd.get(2).narrow(0, 0, r).mul(root.unsqueeze(1)); // [r, in]
            adapter.start(site.path(), a, b);
        }
    }

    /** r probes, without oversampling, as PEFT. */
    private List<Tensor> randomised(Tensor w, long r, Seed seed) {
        try (Generator generator = seed.generator()) {
            return w.svdLowrank(r, iterations, generator);
        }
    }
}
