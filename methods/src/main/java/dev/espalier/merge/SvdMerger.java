package dev.espalier.merge;

import dev.espalier.adapter.LoraFactors;
import dev.espalier.io.Fields;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

/**
 * The weighted sum of the changes, as near as a rank allows.
 *
 * <p>PEFT's {@code add_weighted_adapter} of type {@code svd}, its default; the sum is that of task arithmetic (Ilharco et al.,
 * <i>Editing Models with Task Arithmetic</i>, arXiv:2212.04089).
 *
 * <pre>{@code
 * Σ w_i s_i B_i A_i = U S Vᵀ,   B* = U_R S_R,   A* = V_Rᵀ
 * A* [R, in]    B* [out, R]    R = svd_rank, or the largest rank of the adapters
 * }</pre>
 *
 * <p>The sum, of rank Σ r_i at most, is never formed: with the QR decompositions [B_1, B_2, ...] = Q P and [w_1 s_1 A_1; ...]ᵀ = K L
 * the singular values are those of P Lᵀ [Σ r_i, Σ r_i], and U = Q U', V = K V'. Checked against PEFT 0.21.
 */
public final class SvdMerger implements Merger<Form> {

    @Override
    public About about() {
        return new About(
                "svd",
                "merger",
                "the weighted sum of the changes, as near as a rank allows",
                "Ilharco et al., Editing Models with Task Arithmetic, ICLR 2023, arXiv:2212.04089; as in PEFT",
                """
                Σ w_i s_i B_i A_i = U S Vᵀ,  B* = U_R S_R,  A* = V_Rᵀ
                A* [R, in], B* [out, R]; exact where R is at least the sum of the ranks""",
                "adapters of any ranks that are plain LoRAs, of one base, with weights of any sign",
                "a plain LoRA of rank R, with lora_alpha = r",
                true);
    }

    @Override
    public Map<String, String> meanings() {
        Map<String, String> meanings = new HashMap<>(Form.meanings(Map.of()));
        meanings.remove("svd");
        return meanings;
    }

    @Override
    public Form read(Fields f) {
        return new Form(true, f.integer("svd_rank", 0), f.number("svd_clamp", 0));
    }

    @Override
    public Map<String, LoraFactors> merge(Form config, List<Source> sources, Seed seed) {
        if (sources.size() == 1) { // as in PEFT: w D, whatever the rank
            return Form.FACTORS.merge(sources, (x, weights, at) -> TaskVectors.sum(x, weights));
        }
        int rank = config.svdRank() > 0 ? config.svdRank() : Form.largestRank(sources);
        return Merger.byLayer(sources, (path, parts) -> {
            LoraFactors sum = CatMerger.sum(parts);
            List<Tensor> qp = sum.b().to(DType.FLOAT64).qr();
            List<Tensor> kl = sum.a().to(DType.FLOAT64).t().qr();
            List<Tensor> small = qp.get(1).matmul(kl.get(1).t()).svd();
            List<Tensor> svd = List.of(
                    qp.get(0).matmul(small.get(0)),
                    small.get(1),
                    small.get(2).matmul(kl.get(0).t()));
            return config.truncated(svd, rank, path, sum.a().dtype());
        });
    }
}
