package dev.espalier.optim;

import static dev.espalier.Check.check;

import dev.espalier.adapter.AdaptedModel;
import dev.espalier.adapter.OptimizerGroups;
import dev.espalier.io.Fields;
import dev.espalier.nn.LayerNorm;
import dev.espalier.nn.Module;
import dev.espalier.nn.Parameter;
import dev.espalier.nn.RMSNorm;
import dev.espalier.train.ParameterGroup;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * LoRA+: the factor B learns faster than A.
 *
 * <p>Hayou, Ghosh, Yu, <i>LoRA+: Efficient Low Rank Adaptation of Large Models</i>, arXiv:2402.12354, section 4. Four groups, as
 * PEFT's {@code create_loraplus_optimizer} makes them:
 *
 * <pre>{@code
 * embedding adapters                          loraplus_lr_embedding      decay
 * lora_B, and vectors that are no bias        lr · loraplus_lr_ratio     decay
 * biases, and vectors of a norm               lr · loraplus_lr_ratio     none
 * all else: lora_A, heads trained in full     lr                         decay
 * }</pre>
 *
 * <p>Weight decay is {@code loraplus_weight_decay} for every group, whatever the optimiser's own; the authors' code takes the
 * optimiser's.
 */
public final class LoraPlus implements OptimizerGroups {

    /**
     * Settings, by PEFT's names in brackets.
     *
     * @param ratio [loraplus_lr_ratio] rate of B over rate of A, at least 1
     * @param embeddingRate [loraplus_lr_embedding] rate of adapters on embeddings, above 0
     * @param weightDecay [loraplus_weight_decay] at least 0
     */
    public record Config(double ratio, double embeddingRate, double weightDecay) {

        /** The paper's ratio, PEFT's other defaults. */
        public static final Config DEFAULT = new Config(16, 1e-6, 0);

        /** Checks ranges. */
        public Config {
            check(
                    ratio >= 1 && Double.isFinite(ratio),
                    "loraplus_lr_ratio must be at least 1 and finite, found %s; try 16",
                    ratio);
            check(
                    embeddingRate > 0 && Double.isFinite(embeddingRate),
                    "loraplus_lr_embedding must be positive and finite, found %s; try 1e-6",
                    embeddingRate);
            check(
                    weightDecay >= 0 && Double.isFinite(weightDecay),
                    "loraplus_weight_decay must be at least 0 and finite, found %s; try 0",
                    weightDecay);
        }

        static Config read(Fields f) {
            return new Config(
                    f.number("loraplus_lr_ratio", DEFAULT.ratio()),
                    f.number("loraplus_lr_embedding", DEFAULT.embeddingRate()),
                    f.number("loraplus_weight_decay", DEFAULT.weightDecay()));
        }
    }

    @Override
    public About about() {
        return new About(
                "lora+",
                "optimizer",
                "the factor B of a LoRA learns faster than A",
                "Hayou, Ghosh, Yu, LoRA+: Efficient Low Rank Adaptation of Large Models, arXiv:2402.12354",
                "rate of B = loraplus_lr_ratio · rate of A; halve the usual rate to begin with",
                "lora, rslora, dora with any initializer and optimizer",
                "nothing: it leaves no trace in the adapter",
                true);
    }

    @Override
    public Map<String, String> meanings() {
        return Map.of(
                "loraplus_lr_ratio", "rate of B over rate of A, at least 1",
                "loraplus_lr_embedding", "rate of adapters on embeddings, above 0",
                "loraplus_weight_decay", "for every group, at least 0");
    }

    @Override
    public List<Fields.Field> fields() {
        return Fields.askedBy(Config::read);
    }

    @Override
    public List<ParameterGroup> groups(AdaptedModel model, Fields settings, double learningRate) {
        return groups(model, Config.read(settings), learningRate);
    }

    /** Groups of all that an adapted model trains; those that would be empty are left out. */
    public static List<ParameterGroup> groups(AdaptedModel model, Config config, double learningRate) {
        Map<String, Parameter> embedding = new LinkedHashMap<>();
        Map<String, Parameter> fast = new LinkedHashMap<>();
        Map<String, Parameter> fastPlain = new LinkedHashMap<>();
        Map<String, Parameter> slow = new LinkedHashMap<>();
        Map<String, Module> modules = model.network().namedModules();
        model.trainableParameters().forEach((key, p) -> {
            Map<String, Parameter> group;
            if (key.contains("lora_embedding_")) {
                group = embedding;
            } else if (key.contains("lora_B") || p.tensor().dim() == 1) {
                group = key.contains("bias") || ofNorm(key, modules) ? fastPlain : fast;
            } else {
                group = slow;
            }
            group.put(key, p);
        });
        List<ParameterGroup> groups = new ArrayList<>();
        add(groups, "lora_A", slow, 1, config.weightDecay());
        add(groups, "embedding", embedding, config.embeddingRate() / learningRate, config.weightDecay());
        add(groups, "lora_B", fast, config.ratio(), config.weightDecay());
        add(groups, "lora_B without decay", fastPlain, config.ratio(), 0);
        return groups;
    }

    private static void add(
            List<ParameterGroup> groups, String name, Map<String, Parameter> parameters, double factor, double decay) {
        if (!parameters.isEmpty()) {
            groups.add(new ParameterGroup(name, parameters, factor, decay));
        }
    }

    private static boolean ofNorm(String key, Map<String, Module> modules) {
        String path = key.substring(key.indexOf("base_model.model.") + "base_model.model.".length());
        Module owner = modules.get(path.substring(0, Math.max(0, path.lastIndexOf('.'))));
        return owner instanceof LayerNorm || owner instanceof RMSNorm;
    }
}
