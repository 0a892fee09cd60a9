package dev.espalier.adapter;

import dev.espalier.io.Fields;
import dev.espalier.tensor.Seed;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/**
 * rsLoRA: LoRA whose scale shrinks with √r, so that large ranks keep learning.
 *
 * <p>Kalajdzievski, <i>A Rank Stabilization Scaling Factor for Fine-Tuning with LoRA</i>, arXiv:2312.03732. It is {@link Lora}
 * with s = lora_alpha / √r: setting {@code use_rslora} of any LoRA does the same.
 */
public final class RsLora implements AdapterType<Lora.Config> {

    private static final Lora.Type LORA = new Lora.Type();

    @Override
    public About about() {
        return new About(
                "rslora",
                "adapter",
                "LoRA whose scale shrinks with the root of the rank",
                "Kalajdzievski, A Rank Stabilization Scaling Factor for Fine-Tuning with LoRA, arXiv:2312.03732",
                "y = x Wᵀ + b + s (drop(x) Aᵀ) Bᵀ,  s = lora_alpha / √r",
                LORA.about().combines(),
                "what lora saves, with use_rslora true",
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

    /** Files are read as LoRA with {@code use_rslora}. */
    @Override
    public boolean recognises(Map<String, Object> config) {
        return false;
    }

    @Override
    public Lora.Config read(Fields f) {
        return LORA.read(f, Lora.Config.DEFAULT.withRslora(true));
    }

    @Override
    public Map<String, @Nullable Object> write(Lora.Config config) {
        return LORA.write(config);
    }

    @Override
    public void check(Lora.Config config, List<Site> sites) {
        LORA.check(config, sites);
    }

    @Override
    public Made create(Lora.Config config, List<Site> sites, Seed seed) {
        return LORA.create(config, sites, seed);
    }

    @Override
    public String initializer(Lora.Config config) {
        return LORA.initializer(config);
    }
}
