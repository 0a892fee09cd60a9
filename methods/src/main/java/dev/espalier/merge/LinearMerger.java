package dev.espalier.merge;

import dev.espalier.adapter.LoraFactors;
import dev.espalier.io.Fields;
import dev.espalier.tensor.Seed;
import java.util.List;
import java.util.Map;

/**
 * Linear merging: weighted sums of the factors.
 *
 * <p>Task arithmetic (Ilharco et al., <i>Editing Models with Task Arithmetic</i>, arXiv:2212.04089) on A and B, as PEFT's {@code
 * add_weighted_adapter} of type {@code linear} has it.
 *
 * <pre>{@code
 * p_i = w_i s_i,   A* = Σ sign(p_i) √|p_i| A_i,   B* = Σ √|p_i| B_i,   y = x Wᵀ + (x A*ᵀ) B*ᵀ
 * A_i, A* [r, in]    B_i, B* [out, r]
 * }</pre>
 *
 * <p>It is not the weighted sum of the changes: B* A* has cross terms B_i A_j, for unrelated adapters as large as the sum itself.
 * {@link SvdMerger} and {@link CatMerger} have none. Checked against PEFT 0.21.
 */
public final class LinearMerger implements Merger<LinearMerger.Config> {

    /** It has no settings. */
    public record Config() {}

    @Override
    public About about() {
        return new About(
                "linear",
                "merger",
                "weighted sums of the factors A and B, with cross terms",
                "Ilharco et al., Editing Models with Task Arithmetic, ICLR 2023, arXiv:2212.04089; as in PEFT",
                """
                p_i = w_i s_i,  A* = Σ sign(p_i) √|p_i| A_i,  B* = Σ √|p_i| B_i
                A* [r, in], B* [out, r]; not Σ w_i s_i B_i A_i, which svd and cat give""",
                "adapters of equal rank that are plain LoRAs, of one base, with weights of any sign",
                "a plain LoRA of the same rank, with lora_alpha = r",
                true);
    }

    @Override
    public Config read(Fields f) {
        return new Config();
    }

    @Override
    public Map<String, LoraFactors> merge(Config config, List<Source> sources, Seed seed) {
        return Form.FACTORS.merge(sources, (x, weights, at) -> TaskVectors.sum(x, weights));
    }
}
