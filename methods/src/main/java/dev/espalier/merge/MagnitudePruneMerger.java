package dev.espalier.merge;

import static dev.espalier.Check.check;

import dev.espalier.adapter.LoraFactors;
import dev.espalier.io.Fields;
import dev.espalier.tensor.Seed;
import java.util.List;
import java.util.Map;

/**
 * Magnitude pruning before a weighted sum: only the large entries of each adapter count.
 *
 * <p>PEFT's {@code add_weighted_adapter} of types {@code magnitude_prune} and, with {@code svd}, {@code magnitude_prune_svd}: the
 * trimming of TIES (Yadav et al., arXiv:2306.01708, section 3.1) without its vote.
 *
 * <pre>{@code
 * f(X; c) = Σ c_i keep(X_i),   keep: the ⌊density · n⌋ entries of largest |X| of a tensor of n, all else 0
 * }</pre>
 *
 * <p>X and c are those of the factors or, with {@code svd}, of the changes: see {@link #merge}. Where PEFT breaks ties of |X|
 * arbitrarily, the first in flat order stay. A density above 1, which PEFT takes for 1 with a warning, is refused. Checked against
 * PEFT 0.21.
 */
public final class MagnitudePruneMerger implements Merger<MagnitudePruneMerger.Config> {

    /**
     * Settings.
     *
     * @param density fraction kept, in [0, 1]
     * @param form what is combined
     */
    public record Config(double density, Form form) {

        /** Checks the range. */
        public Config {
            check(density >= 0 && density <= 1, "density must lie in [0, 1], found %s; try 0.5", density);
        }
    }

    @Override
    public About about() {
        return new About(
                "magnitude-prune",
                "merger",
                "a weighted sum of the large entries alone",
                "the trimming of Yadav et al., TIES-Merging, NeurIPS 2023, arXiv:2306.01708, without its vote; as in PEFT",
                """
                Σ c_i keep(X_i),  keep: the ⌊density · n⌋ entries of largest |X|, all else 0
                X = A and B with c = √|w s| (the sign of w with A), or with svd X = s B A with c = w""",
                "plain LoRAs of one base; of equal rank unless svd is true",
                "a plain LoRA, with lora_alpha = r",
                true);
    }

    @Override
    public Map<String, String> meanings() {
        return Form.meanings(Map.of("density", "fraction of the entries kept, in [0, 1]"));
    }

    @Override
    public Config read(Fields f) {
        return new Config(f.number("density"), Form.read(f));
    }

    @Override
    public Map<String, LoraFactors> merge(Config config, List<Source> sources, Seed seed) {
        return config.form()
                .merge(
                        sources,
                        (x, weights, at) -> TaskVectors.sum(
                                x.stream()
                                        .map(t -> TaskVectors.keep(t, config.density()))
                                        .toList(),
                                weights));
    }
}
