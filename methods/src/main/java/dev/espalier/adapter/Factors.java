package dev.espalier.adapter;

import dev.espalier.nn.Embedding;
import dev.espalier.nn.Parameter;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Generator;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import java.util.LinkedHashMap;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/** The trained pair A, B that LoRA and its variants share: starting values, names in the file, and y += s (x Aᵀ) Bᵀ. */
final class Factors {

    final Parameter a; // [rank, in]
    final Parameter b; // [out, rank]
    final @Nullable Parameter bias; // [out]
    final double scale; // s
    private final double dropout;
    private final boolean table; // the layer is an embedding: x holds ids

    Factors(Lora.Config config, Site site, Seed seed) {
        this(
                config.rankAt(site.path()),
                config.scaleAt(site.path()),
                config.dropout(),
                config.init(),
                config.loraBias(),
                site,
                seed);
    }

    /** LoRA's usual start with a scale that need not be alpha / r. */
    Factors(long r, double scale, double dropout, Site site, Seed seed) {
        this(r, scale, dropout, Lora.Config.STANDARD, false, site, seed);
    }

    private Factors(long r, double scale, double dropout, String init, boolean withBias, Site site, Seed seed) {
        long in = site.layer().inFeatures();
        long out = site.layer().outFeatures();
        this.scale = scale;
        this.dropout = dropout;
        this.table = site.layer() instanceof Embedding;
        Seed here = seed.named(site.path());
        try (Scope scope = Scope.open();
                Generator forA = here.named("lora_A").generator();
                Generator forB = here.named("lora_B").generator()) {
            Tensor startA = table ? Tensor.zeros(DType.FLOAT32, r, in) : startA(init, forA, r, in);
            Tensor startB = table ? forB.randn(out, r) : Tensor.zeros(DType.FLOAT32, out, r);
            if (init.equals(Lora.Config.RANDOM)) { // not zero at the start: for tests, as in PEFT
                startA = table ? forA.randn(r, in) : startA;
                startB = table ? startB : forB.kaimingUniform(out, r);
            }
            this.a = site.trained(startA);
            this.b = site.trained(startB);
            this.bias = withBias ? site.trained(Tensor.zeros(DType.FLOAT32, out)) : null;
        }
    }

    private static Tensor startA(String init, Generator generator, long r, long in) {
        return init.equals(Lora.Config.GAUSSIAN)
                ? generator.normal(0, 1.0 / r, r, in)
                : generator.kaimingUniform(r, in);
    }

    /** By name in the file. */
    Map<String, Parameter> named() {
        Map<String, Parameter> named = new LinkedHashMap<>();
        named.put(table ? "lora_embedding_A" : "lora_A.weight", a);
        named.put(table ? "lora_embedding_B" : "lora_B.weight", b);
        if (bias != null) {
            named.put("lora_B.bias", bias);
        }
        return named;
    }

    /** x as rows: [n, in], or ids [n]. */
    Tensor rows(Tensor x) {
        return table ? (x.dim() == 1 ? x : x.reshape(-1)) : (x.dim() == 2 ? x : x.reshape(-1, x.size(-1)));
    }

    /** Rows y [n, out] in the shape that x asks for, [.., out]. */
    Tensor shaped(Tensor y, Tensor x) {
        int leading = table ? x.dim() : x.dim() - 1;
        if (leading == 1) {
            return y;
        }
        long[] shape = new long[leading + 1];
        System.arraycopy(x.shape(), 0, shape, 0, leading);
        shape[leading] = y.size(1);
        return y.view(shape);
    }

    boolean drops(Base base) {
        return dropout > 0 && !table && base.layer().isTraining();
    }

    /** Rows thinned out while training. */
    Tensor dropped(Tensor rows, Base base) {
        return drops(base) ? rows.dropout(dropout, true) : rows;
    }

    /** y += s (x Aᵀ) Bᵀ + s c, in place, for rows: y is fresh, and the last use of it is to be added to. */
    Tensor addTo(Tensor y, Tensor rows) {
        DType dtype = y.dtype(); // bfloat16 over float32 factors on machines that have it
        y.addmm_(down(rows, a.tensor(), dtype), b.tensor().to(dtype).t(), scale); // [n, out]
        return bias == null ? y : y.add_(bias.tensor().to(dtype), scale);
    }

    /** x Aᵀ [n, r] for rows and an A, in the type that the layer computes in. */
    Tensor down(Tensor rows, Tensor factor, DType dtype) {
        return table ? Tensor.embedding(rows, factor.t()).to(dtype) : rows.linear(factor, null);
    }

    /** W + s B A. */
    Tensor added(Tensor weight) {
        return weight.addmm(b.tensor(), a.tensor(), scale);
    }

    LoraFactors factors() {
        return new LoraFactors(a.tensor(), b.tensor(), scale, bias == null ? null : bias.tensor());
    }
}
