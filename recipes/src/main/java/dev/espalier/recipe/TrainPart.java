package dev.espalier.recipe;

import dev.espalier.adapter.Catalog;
import dev.espalier.adapter.OptimizerGroups;
import dev.espalier.io.Fields;
import dev.espalier.model.Precision;
import dev.espalier.train.AdamW;
import dev.espalier.train.Optimizer;
import dev.espalier.train.Schedule;
import dev.espalier.train.Sgd;
import dev.espalier.train.TrainConfig;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/**
 * How it is trained: the {@code train} of a recipe.
 *
 * @param config length, rates, seed and the like
 * @param precision element type of the base's weights and activations
 * @param device {@code cpu}, {@code cuda}, {@code cuda:N} or {@code auto}
 * @param groups a method that gives parameters rates of their own, such as {@code {type: lora+}}; null for one rate
 */
public record TrainPart(
        TrainConfig config,
        Precision precision,
        String device,
        @Nullable Groups groups) {

    /**
     * A method of rates.
     *
     * @param settings its own
     */
    public record Groups(OptimizerGroups method, Map<String, Object> settings) {
        /** Copies. */
        public Groups {
            settings = Map.copyOf(settings);
        }

        /** The settings, to be read by the method. */
        Fields fields() {
            return Fields.of("train.groups", settings);
        }
    }

    static TrainPart read(Fields f) {
        TrainConfig usual = TrainConfig.DEFAULT;
        boolean bySteps = f.integer("steps", 0) != 0 && !f.has("epochs");
        TrainConfig config = new TrainConfig(
                f.integer("epochs", bySteps ? 0 : usual.epochs()),
                f.longInteger("steps", 0),
                f.integer("batch", usual.batchSize()),
                f.integer("accumulation", usual.accumulation()),
                f.number("learningRate", usual.learningRate()),
                optimizer(f),
                new Schedule(
                        f.choice("schedule", usual.schedule().curve()),
                        f.longInteger("warmupSteps", 0),
                        f.number("warmupRatio", 0)),
                f.number("clip", usual.clip()),
                f.longInteger("evalEvery", usual.evalEvery()),
                f.integer("patience", usual.patience()),
                f.longInteger("checkpointEvery", usual.checkpointEvery()),
                f.integer("keepCheckpoints", usual.keepCheckpoints()),
                f.longInteger("seed", usual.seed()),
                f.longInteger("logEvery", usual.logEvery()));
        return new TrainPart(
                config, f.choice("precision", Precision.AUTO), f.string("device", "cpu"), groups(f.fields("groups")));
    }

    /** {@code optimizer: adamw}, or a map with a type and its settings. */
    private static Optimizer.Config optimizer(Fields f) {
        boolean nested = f.any("optimizer") instanceof Map;
        Fields own = nested ? f.fields("optimizer") : Fields.of("", Map.of());
        String type = nested ? own.string("type", "adamw") : f.string("optimizer", "adamw");
        double decay = f.number("weightDecay", 0);
        return switch (type.toLowerCase(java.util.Locale.ROOT)) {
            case "adamw" ->
                new AdamW.Config(
                        own.number("beta1", AdamW.Config.DEFAULT.beta1()),
                        own.number("beta2", AdamW.Config.DEFAULT.beta2()),
                        own.number("eps", AdamW.Config.DEFAULT.eps()),
                        own.number("weightDecay", decay));
            case "sgd" ->
                new Sgd.Config(
                        own.number("momentum", 0), own.bool("nesterov", false), own.number("weightDecay", decay));
            default -> throw f.fault("optimizer", "is %s; it must be adamw or sgd".formatted(type));
        };
    }

    private static @Nullable Groups groups(Fields f) {
        if (!f.has("type")) {
            return null;
        }
        String name = f.string("type");
        if (!(Catalog.method(name) instanceof OptimizerGroups method)) {
            throw f.fault("type", "is %s, which gives parameters no rates of their own; try lora+".formatted(name));
        }
        Map<String, Object> settings = new java.util.LinkedHashMap<>(f.unread());
        f.ignore(settings.keySet().toArray(String[]::new)); // the method reads and checks them
        return new Groups(method, settings);
    }
}
