package dev.espalier.recipe;

import dev.espalier.adapter.Catalog;
import dev.espalier.adapter.LayerSampler;
import dev.espalier.adapter.Method;
import dev.espalier.adapter.OptimizerGroups;
import dev.espalier.adapter.OptimizerMethod;
import dev.espalier.adapter.Part;
import dev.espalier.adapter.Regularizer;
import dev.espalier.io.Fields;
import dev.espalier.model.Precision;
import dev.espalier.train.Callback;
import dev.espalier.train.LossTerm;
import dev.espalier.train.Optimizer;
import dev.espalier.train.Schedule;
import dev.espalier.train.TrainConfig;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/**
 * How it is trained: the {@code train} of a recipe.
 *
 * @param config length, rates, seed and the like
 * @param precision element type of the base's weights and activations
 * @param recompute when layers are computed again in the backward pass [gradientCheckpointing]
 * @param device {@code cpu}, {@code cuda}, {@code cuda:N} or {@code auto}
 * @param groups a method that gives parameters rates of their own, such as {@code {type: lora+}}; null for one rate
 * @param optimizer makes the optimiser; the one in {@code config} is not used
 * @param sampler chooses the layers that train at a step, or null for all
 * @param losses terms beside the task's loss
 */
public record TrainPart(
        TrainConfig config,
        Precision precision,
        Recomputing recompute,
        String device,
        @Nullable Groups groups,
        Part.Chosen<?, Optimizer.Config> optimizer,
        Part.@Nullable Chosen<?, Callback> sampler,
        List<Part.Chosen<?, LossTerm>> losses) {

    /** When layers keep only their input, and are computed again in the backward pass: less memory, more time. */
    public enum Recomputing {
        /** Where memory would not do otherwise, by the forecast. */
        AUTO,
        ALWAYS,
        NEVER
    }

    /** Copies. */
    public TrainPart {
        losses = List.copyOf(losses);
    }

    /** Everything of the catalogue that takes part. */
    List<Method> methods() {
        List<Method> all = new ArrayList<>();
        all.add(optimizer.method());
        if (groups != null) {
            all.add(groups.method());
        }
        if (sampler != null) {
            all.add(sampler.method());
        }
        losses.forEach(loss -> all.add(loss.method()));
        return all;
    }

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
                usual.optimizer(),
                new Schedule(
                        f.choice("schedule", usual.schedule().curve()),
                        f.longInteger("warmupSteps", 0),
                        f.number("warmupRatio", 0)),
                f.bool("inBackward", usual.inBackward()),
                f.number("clip", usual.clip()),
                f.longInteger("evalEvery", usual.evalEvery()),
                f.integer("patience", usual.patience()),
                f.longInteger("checkpointEvery", usual.checkpointEvery()),
                f.integer("keepCheckpoints", usual.keepCheckpoints()),
                f.longInteger("seed", usual.seed()),
                f.longInteger("logEvery", usual.logEvery()));
        Fields sampler = f.fields("sampler");
        List<Part.Chosen<?, LossTerm>> losses = new ArrayList<>();
        for (Fields loss : f.fieldsList("losses")) {
            losses.add(chosen(Catalog.method(loss.string("type"), Regularizer.class, "train.losses", "ba-lora"), loss));
        }
        return new TrainPart(
                config,
                f.choice("precision", Precision.AUTO),
                f.choice("gradientCheckpointing", Recomputing.AUTO),
                f.string("device", "cpu"),
                groups(f.fields("groups")),
                optimizer(f),
                sampler.has("type")
                        ? chosen(
                                Catalog.method(sampler.string("type"), LayerSampler.class, "train.sampler", "lisa"),
                                sampler)
                        : null,
                losses);
    }

    /** {@code optimizer: adamw}, or a map with a type and its settings; {@code weightDecay} may stand beside it. */
    private static Part.Chosen<?, Optimizer.Config> optimizer(Fields f) {
        Map<String, Object> settings = new LinkedHashMap<>();
        if (f.any("optimizer") instanceof Map) {
            settings.putAll(f.map("optimizer", Map.of()));
        } else {
            settings.put("type", f.string("optimizer", "adamw").toLowerCase(Locale.ROOT));
        }
        double decay = f.number("weightDecay", 0);
        if (decay != 0) {
            settings.putIfAbsent("weightDecay", decay);
        }
        Fields own = Fields.of("train.optimizer", settings);
        String type = own.string("type", "adamw");
        Part.Chosen<?, Optimizer.Config> chosen =
                chosen(Catalog.method(type, OptimizerMethod.class, "train.optimizer", "adamw"), own);
        own.done();
        return chosen;
    }

    @SuppressWarnings("unchecked") // a catalogue entry's class says which part it makes
    static <P> Part.Chosen<?, P> chosen(Part<?, ?> method, Fields own) {
        return Part.Chosen.read((Part<Object, P>) method, own);
    }

    private static @Nullable Groups groups(Fields f) {
        if (!f.has("type")) {
            return null;
        }
        String name = f.string("type");
        OptimizerGroups method = Catalog.method(name, OptimizerGroups.class, "train.groups", "lora+");
        Map<String, Object> settings = new LinkedHashMap<>(f.unread());
        f.ignore(settings.keySet().toArray(String[]::new)); // the method reads and checks them
        return new Groups(method, settings);
    }
}
