package dev.espalier.init;

import dev.espalier.adapter.Attached;
import dev.espalier.adapter.Calibration;
import dev.espalier.adapter.Initializer;
import dev.espalier.adapter.LowRank;
import dev.espalier.adapter.Site;
import dev.espalier.io.Fields;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import java.util.List;
import org.jspecify.annotations.Nullable;

/**
 * OLoRA: LoRA that starts with an orthonormal B.
 *
 * <p>Büyükakyüz, <i>OLoRA: Orthonormal Low-Rank Adaptation of Large Language Models</i>, arXiv:2406.01775, algorithm 1.
 *
 * <pre>{@code
 * W = Q R,   B0 = Q[:, :r],   A0 = R[:r],   y = x (W - s B0 A0 + s B A)ᵀ + b
 * W [out, in]    A, A0 [r, in]    B, B0 [out, r]
 * }</pre>
 *
 * <p>As in PEFT the factors are not divided by s. The decomposition is not pivoted, so this is not the best part of rank r.
 * PEFT puts W - s B0 A0 in the network and forgets that GPT-2's weights are transposed; we leave the network alone, keep A0, B0
 * in the adapter, and transpose. Embeddings start as usual. Checked against PEFT 0.21.
 */
public final class Olora implements Initializer {

    @Override
    public About about() {
        return new About(
                "olora",
                "initializer",
                "LoRA that starts with an orthonormal B",
                "Büyükakyüz, OLoRA: Orthonormal Low-Rank Adaptation of Large Language Models, arXiv:2406.01775",
                "W = Q R,  B0 = Q[:, :r],  A0 = R[:r],  y = x (W - s B0 A0 + s B A)ᵀ + b",
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
        return name.equals("olora") ? this : null;
    }

    @Override
    public boolean isRepeatable() {
        return true;
    }

    @Override
    public void initialize(Attached adapter, Calibration calibration, Seed seed) {
        for (Site site : Starts.sites(adapter)) {
            start(adapter, site);
        }
    }

    private static void start(Attached adapter, Site site) {
        try (Grad off = Grad.off();
                Scope scope = Scope.open()) {
            LowRank lowRank = adapter.lowRank(site.path());
            long r = lowRank.a().shape()[0];
            Tensor w = site.layer().weight().to(DType.FLOAT64); // [out, in]; in double width as PiSSA's decomposition
            Starts.checkRank("OLoRA", adapter, site);
            List<Tensor> qr = w.qr();
            adapter.start(
                    site.path(),
                    qr.get(1).narrow(0, 0, r), // [r, in]
                    qr.get(0).narrow(1, 0, r)); // [out, r]
        }
    }
}
