package dev.espalier.merge;

import static dev.espalier.Check.check;

import dev.espalier.adapter.LoraFactors;
import dev.espalier.io.Fields;
import dev.espalier.tensor.Seed;
import java.util.List;
import java.util.Map;

/**
 * TIES: trim the small entries, elect a sign for each, average those that have it.
 *
 * <p>Yadav et al., <i>TIES-Merging: Resolving Interference When Merging Models</i>, arXiv:2306.01708, algorithm 1, as PEFT's {@code
 * add_weighted_adapter} of types {@code ties} and, with {@code svd}, {@code ties_svd} has it.
 *
 * <pre>{@code
 * Y_i = keep(X_i),   t = Σ Y_i (total) or Σ sign(Y_i) (frequency),   e = +1 where t >= 0, else -1
 * f(X; c) = Σ m_i c_i Y_i / max(1, Σ m_i),   m_i = [sign(Y_i) = e]
 * keep: the ⌊density · n⌋ entries of largest |X| of a tensor of n, all else 0
 * }</pre>
 *
 * <p>X and c are those of the factors or, with {@code svd}, of the changes. The weights have no vote, and the sum is divided by how
 * many agree, not by their weights. The paper trims the task vector of a whole model and ends with one factor for all; PEFT trims
 * each tensor. Of equal |X| at the cut the first in flat order stay. A density above 1 is refused. Checked against PEFT 0.21.
 */
public final class TiesMerger implements Merger<TiesMerger.Config> {

    /** How a sign is elected. */
    public enum Majority {
        /** By the sum of values. */
        TOTAL,
        /** By the number of values of either sign. */
        FREQUENCY
    }

    /**
     * Settings, by PEFT's names in brackets.
     *
     * @param density fraction kept, in [0, 1]
     * @param majority [majority_sign_method] how a sign is elected
     * @param form what is combined
     */
    public record Config(double density, Majority majority, Form form) {

        /** Checks the range. */
        public Config {
            check(density >= 0 && density <= 1, "density must lie in [0, 1], found %s; try 0.2", density);
        }
    }

    @Override
    public About about() {
        return new About(
                "ties",
                "merger",
                "trim the small entries, elect signs, average what agrees",
                "Yadav et al., TIES-Merging: Resolving Interference When Merging Models, NeurIPS 2023, arXiv:2306.01708",
                """
                Y_i = keep(X_i),  e = sign of Σ Y_i,  Σ m_i c_i Y_i / max(1, Σ m_i),  m_i = [sign(Y_i) = e]
                X = A and B with c = √|w s| (the sign of w with A), or with svd X = s B A with c = w""",
                "plain LoRAs of one base; of equal rank unless svd is true",
                "a plain LoRA, with lora_alpha = r",
                true);
    }

    @Override
    public Map<String, String> meanings() {
        return Form.meanings(Map.of(
                "density", "fraction of the entries kept, in [0, 1]; the paper: 0.2",
                "majority_sign_method", "elect a sign by the total of values or by the frequency of signs"));
    }

    @Override
    public Config read(Fields f) {
        return new Config(f.number("density"), f.choice("majority_sign_method", Majority.TOTAL), Form.read(f));
    }

    @Override
    public Map<String, LoraFactors> merge(Config config, List<Source> sources, Seed seed) {
        return config.form()
                .merge(
                        sources,
                        (x, weights, at) -> TaskVectors.vote(
                                x.stream()
                                        .map(t -> TaskVectors.keep(t, config.density()))
                                        .toList(),
                                weights,
                                config.majority()));
    }
}
