package dev.espalier.adapter;

import static dev.espalier.Check.check;

import dev.espalier.io.TensorSource;
import dev.espalier.nn.Parameter;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Generator;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Objects;

/**
 * A trained diagonal between two frozen frames that were taken from the weight: y += s ((x Aᵀ) ∘ d) Bᵀ.
 *
 * <p>Files hold A and B, or d alone: then the weight is decomposed again, and a print of B, its columns on a fixed random vector,
 * tells whether the same frames came out.
 */
final class Frames {

    private static final double TOLERANCE = 1e-2; // of the print's largest element
    private static final String A = "lora_A.weight";
    private static final String B = "lora_B.weight";
    private static final String PRINT = "lora_print";

    final Parameter a; // A [r, in]
    final Parameter b; // B [out, r]
    final Parameter d; // [r]
    final double scale; // s
    private final Parameter print; // Bᵀ p [r]
    private final String name;

    /**
     * Frames on a layer.
     *
     * @param a A [r, in]
     * @param b B [out, r]
     * @param d [r] at the start, 0 for no change
     * @param name what d is called in files
     */
    Frames(Site site, Tensor a, Tensor b, Tensor d, double scale, String name) {
        this.a = site.frozen(a);
        this.b = site.frozen(b);
        this.d = site.trained(d);
        this.scale = scale;
        this.name = name;
        try (Generator generator = new Seed(0).named("print").generator()) {
            Tensor p = generator.randn(1, b.size(0)).to(b.dtype()).to(b.device());
            this.print = site.frozen(p.matmul(b).view(-1));
        }
    }

    /** Frames that a file is going to fill. */
    static Frames empty(Site site, long r, double scale, String name) {
        try (Scope scope = Scope.open()) {
            return new Frames(
                    site,
                    Tensor.zeros(DType.FLOAT32, r, site.layer().inFeatures()),
                    Tensor.zeros(DType.FLOAT32, site.layer().outFeatures(), r),
                    Tensor.zeros(DType.FLOAT32, r),
                    scale,
                    name);
        }
    }

    /** A layer's weight to decompose, in float32 at least. */
    static Tensor weight(Site site, String method) {
        Tensor weight = site.linear(method).weight();
        return weight.dtype() == DType.FLOAT64 ? weight : weight.to(DType.FLOAT32);
    }

    Tensor forward(Tensor x, Base base) {
        return Base.onRows(x, rows -> {
            Tensor y = base.forward(rows); // [n, out], fresh
            Tensor thin = rows.linear(a.tensor(), null); // [n, r]
            thin = thin.mul(d.tensor().to(thin.dtype()));
            return y.addmm_(thin, b.tensor().to(y.dtype()).t(), scale);
        });
    }

    /** A, and B diag(d). */
    LoraFactors factors() {
        return new LoraFactors(a.tensor(), b.tensor().mul(d.tensor()), scale, null);
    }

    /** By name in the file. */
    Map<String, Parameter> named() {
        Map<String, Parameter> named = new LinkedHashMap<>();
        named.put(A, a);
        named.put(B, b);
        named.put(name, d);
        named.put(PRINT, print);
        return named;
    }

    /** What goes into the file. */
    static Map<String, Tensor> saved(AdapterType.Made made, boolean withFrames) {
        Map<String, Tensor> tensors = made.tensors();
        if (!withFrames) {
            made.adapters().keySet().forEach(path -> {
                tensors.remove(AdapterType.Made.key(path, A));
                tensors.remove(AdapterType.Made.key(path, B));
            });
        }
        return tensors;
    }

    /** The frames that were found again, where a file has none. */
    static Map<String, Tensor> restored(AdapterType.Made made, TensorSource file) {
        Map<String, Tensor> found = new LinkedHashMap<>();
        made.adapters().forEach((path, adapter) -> {
            String keyA = AdapterType.Made.key(path, A);
            String print = AdapterType.Made.key(path, PRINT);
            if (file.tensors().containsKey(keyA) || !file.tensors().containsKey(print)) {
                return;
            }
            Map<String, Parameter> own = adapter.parameters();
            Tensor here = tensor(own, PRINT);
            try (Grad off = Grad.off();
                    Scope scope = Scope.open()) {
                Tensor there = file.read(print).to(here.dtype());
                check(
                        there.numel() == here.numel()
                                && there.sub(here).abs().max().item()
                                        <= TOLERANCE * there.abs().max().item(),
                        "%s: the weight of %s does not fall into the parts that the adapter was trained with; use the base model it was trained on, or save it there with save_frames: true",
                        file.where(),
                        path);
            }
            found.put(print, here);
            found.put(keyA, tensor(own, A));
            found.put(AdapterType.Made.key(path, B), tensor(own, B));
        });
        return found;
    }

    private static Tensor tensor(Map<String, Parameter> own, String name) {
        return Objects.requireNonNull(own.get(name)).tensor();
    }
}
