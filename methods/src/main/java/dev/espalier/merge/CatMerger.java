package dev.espalier.merge;

import dev.espalier.adapter.LoraFactors;
import dev.espalier.io.Fields;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;

/**
 * Concatenation: the exact weighted sum of the changes, at the sum of the ranks.
 *
 * <p>PEFT's {@code add_weighted_adapter} of type {@code cat}; the sum is that of task arithmetic (Ilharco et al., <i>Editing Models
 * with Task Arithmetic</i>, arXiv:2212.04089).
 *
 * <pre>{@code
 * A* = [w_1 s_1 A_1; w_2 s_2 A_2; ...],   B* = [B_1, B_2, ...],   B* A* = Σ w_i s_i B_i A_i
 * A_i [r_i, in]    B_i [out, r_i]    A* [Σ r_i, in]    B* [out, Σ r_i]
 * }</pre>
 *
 * <p>Where PEFT fills the ranks of an adapter that lacks a layer with zeros, the layer gets a smaller rank here. Checked against
 * PEFT 0.21.
 */
public final class CatMerger implements Merger<CatMerger.Config> {

    /** It has no settings. */
    public record Config() {}

    @Override
    public About about() {
        return new About(
                "cat",
                "merger",
                "the exact weighted sum of the changes, at the sum of the ranks",
                "Ilharco et al., Editing Models with Task Arithmetic, ICLR 2023, arXiv:2212.04089; as in PEFT",
                """
                A* = [w_1 s_1 A_1; w_2 s_2 A_2; ...],  B* = [B_1, B_2, ...]
                A* [Σ r_i, in], B* [out, Σ r_i]; export --to lora --rank R makes it smaller""",
                "adapters of any ranks that are plain LoRAs, of one base, with weights of any sign",
                "a plain LoRA whose rank is the sum of theirs, with lora_alpha = r",
                true);
    }

    @Override
    public Config read(Fields f) {
        return new Config();
    }

    @Override
    public Map<String, LoraFactors> merge(Config config, List<Source> sources, Seed seed) {
        return Merger.byLayer(sources, (path, parts) -> sum(parts));
    }

    /** Σ w_i s_i B_i A_i as factors of scale 1. */
    static LoraFactors sum(List<Part> parts) {
        List<Tensor> a = new ArrayList<>();
        List<Tensor> b = new ArrayList<>();
        for (Part part : parts) {
            a.add(part.factors().a().mul(part.weight() * part.factors().scale()));
            b.add(part.factors().b());
        }
        return new LoraFactors(Tensor.cat(a, 0), Tensor.cat(b, 1), 1, null);
    }
}
