package dev.espalier.merge;

import static dev.espalier.Check.check;

import dev.espalier.adapter.LoraFactors;
import dev.espalier.io.Fields;
import dev.espalier.tensor.Generator;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;

/**
 * DARE: drop entries at random, rescale the rest, then sum or let signs vote.
 *
 * <p>Yu et al., <i>Language Models are Super Mario: Absorbing Abilities from Homologous Models as a Free Lunch</i>,
 * arXiv:2311.03099, equation 1, as PEFT's {@code add_weighted_adapter} of types {@code dare_linear}, {@code dare_ties} and, with
 * {@code svd}, {@code dare_linear_svd}, {@code dare_ties_svd} has it.
 *
 * <pre>{@code
 * Y_i = M_i ∘ X_i / density,   M_i of independent ones with probability density, else zeros
 * f(X; c) = Σ c_i Y_i,   or with ties the vote of TIES on Y_i
 * }</pre>
 *
 * <p>X and c are those of the factors or, with {@code svd}, of the changes. The paper's drop rate is 1 - density. A mask comes from
 * the seed's stream named after its tensor, so that one seed gives one result; PEFT draws from PyTorch's global generator. Density
 * 0, which gives NaN in PEFT, and above 1 are refused. Checked against PEFT 0.21 on PEFT's own masks.
 */
public final class DareMerger implements Merger<DareMerger.Config> {

    /**
     * Settings, by PEFT's names in brackets.
     *
     * @param density fraction kept, in (0, 1]
     * @param ties whether signs vote
     * @param majority [majority_sign_method] how a sign is elected
     * @param form what is combined
     */
    public record Config(double density, boolean ties, TiesMerger.Majority majority, Form form) {

        /** Checks the range. */
        public Config {
            check(density > 0 && density <= 1, "density must lie in (0, 1], found %s; try 0.5", density);
        }
    }

    /** Ones and zeros. */
    @FunctionalInterface
    interface Masks {
        /**
         * A mask.
         *
         * @param at which tensor, such as a layer's path and {@code .lora_A}
         * @param i of which of the adapters that have the layer
         */
        Tensor mask(String at, int i, long... shape);
    }

    @Override
    public About about() {
        return new About(
                "dare",
                "merger",
                "drop entries at random, rescale the rest, then sum or let signs vote",
                "Yu et al., Language Models are Super Mario: Absorbing Abilities from Homologous Models as a Free Lunch, ICML"
                        + " 2024, arXiv:2311.03099",
                """
                Y_i = M_i ∘ X_i / density,  Σ c_i Y_i, or with ties the vote of TIES on Y_i
                X = A and B with c = √|w s| (the sign of w with A), or with svd X = s B A with c = w""",
                "plain LoRAs of one base; of equal rank unless svd is true",
                "a plain LoRA, with lora_alpha = r",
                true);
    }

    @Override
    public Map<String, String> meanings() {
        return Form.meanings(Map.of(
                "density", "probability that an entry is kept, in (0, 1]; the paper's drop rate is 1 - density",
                "ties", "let signs vote as in ties instead of summing",
                "majority_sign_method", "elect a sign by the total of values or by the frequency of signs"));
    }

    @Override
    public Config read(Fields f) {
        return new Config(
                f.number("density"),
                f.bool("ties", false),
                f.choice("majority_sign_method", TiesMerger.Majority.TOTAL),
                Form.read(f));
    }

    @Override
    public Map<String, LoraFactors> merge(Config config, List<Source> sources, Seed seed) {
        return merge(config, sources, (at, i, shape) -> {
            try (Generator generator = seed.named(at).at(i).generator()) {
                return generator.uniform(0, 1, shape).lt(config.density());
            }
        });
    }

    /** As {@link #merge}, with given masks. */
    static Map<String, LoraFactors> merge(Config config, List<Source> sources, Masks masks) {
        return config.form().merge(sources, (x, weights, at) -> {
            List<Tensor> thinned = new ArrayList<>();
            for (int i = 0; i < weights.length; i++) {
                Tensor mask = masks.mask(at, i, x.get(i).shape());
                thinned.add(TaskVectors.drop(x.get(i), config.density(), mask));
            }
            return config.ties()
                    ? TaskVectors.vote(thinned, weights, config.majority())
                    : TaskVectors.sum(thinned, weights);
        });
    }
}
