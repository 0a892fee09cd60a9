package dev.espalier.sample;

import static dev.espalier.Check.check;

import dev.espalier.EspalierException;
import dev.espalier.adapter.AdapterType;
import dev.espalier.adapter.LayerSampler;
import dev.espalier.adapter.Method;
import dev.espalier.adapter.Setting;
import dev.espalier.io.Fields;
import dev.espalier.model.Model;
import dev.espalier.nn.Module;
import dev.espalier.nn.Parameter;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Generator;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import dev.espalier.train.Callback;
import dev.espalier.train.TrainingRun;
import java.util.ArrayList;
import java.util.Collection;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeSet;
import org.jspecify.annotations.Nullable;

/**
 * LISA: whole weights train, but of the network's blocks only a few at a time, drawn anew every so many steps.
 *
 * <p>Pan et al., <i>LISA: Layerwise Importance Sampling for Memory-Efficient Large Language Model Fine-Tuning</i>,
 * arXiv:2403.17919, algorithm 1.
 *
 * <pre>{@code
 * before the steps 1, K + 1, 2K + 1, ...:  draw gamma of the N blocks uniformly, without replacement; freeze the others
 * trained at a time: |embeddings| + |final norm| + |head| + gamma |block|;  AdamW holds twice that
 * }</pre>
 *
 * <p>All that lies outside the blocks trains throughout: embeddings, final norm and head, as in the authors' code (the paper
 * names embeddings and head). A draw is a function of seed and number alone, so that a resumed run draws the same. Departures
 * from the authors' callback: by default the state of blocks that become frozen is dropped, as the paper's memory asks; their
 * callback keeps it ({@code state: keep}), and their experiments dropped all of it ({@code reset_all}). Checked by hand.
 */
public final class Lisa implements LayerSampler<Lisa.Config> {

    /** What becomes of the optimiser's state at a draw. */
    public enum State {
        /** That of blocks which are frozen now is dropped. */
        RESET,
        /** All of it is dropped, that of embeddings and head too. */
        RESET_ALL,
        /** Nothing is dropped, and nothing is saved in memory once all blocks have had their turn. */
        KEEP
    }

    /**
     * Settings, by the authors' names in brackets.
     *
     * @param activatedLayers [lisa_activated_layers] gamma, blocks that train at a time, 0 to all
     * @param intervalSteps [lisa_interval_steps] K, optimiser steps between draws, at least 1
     * @param state what becomes of the optimiser's state at a draw
     */
    public record Config(int activatedLayers, int intervalSteps, State state) {

        /** As the authors' arguments. */
        public static final Config DEFAULT = new Config(2, 20, State.RESET);

        /** Checks the ranges. */
        public Config {
            check(activatedLayers >= 0, "lisa_activated_layers must be at least 0, found %d; try 2", activatedLayers);
            check(intervalSteps >= 1, "lisa_interval_steps must be at least 1, found %d; try 20", intervalSteps);
        }
    }

    /** Which blocks a draw means. */
    @FunctionalInterface
    interface Draw {
        /** Numbers of the blocks of the n-th draw, counted from 0. */
        Set<Integer> of(long n);
    }

    @Override
    public About about() {
        return new About(
                "lisa",
                "sampler",
                "whole weights train, of the blocks a few at a time, drawn anew every so many steps",
                "Pan et al., LISA: Layerwise Importance Sampling for Memory-Efficient Large Language Model Fine-Tuning, arXiv:2403.17919",
                """
                every K steps: draw gamma of N blocks uniformly without replacement, freeze the others
                trained at a time: |embeddings| + |norm| + |head| + gamma |block|; a block is drawn with chance gamma / N""",
                "full, with adamw, sgd or galore, and any loss term; not with adapters",
                "nothing beside the trained weights",
                true);
    }

    @Override
    public Map<String, String> meanings() {
        return Map.of(
                "lisa_activated_layers", "gamma, blocks that train at a time, 0 to all",
                "lisa_interval_steps", "K, optimiser steps between draws, at least 1",
                "state",
                        "what the optimiser drops at a draw: reset (what is frozen now), reset_all (everything), keep (nothing)");
    }

    @Override
    public Config read(Fields f) {
        return new Config(
                f.integer("lisa_activated_layers", Config.DEFAULT.activatedLayers()),
                f.integer("lisa_interval_steps", Config.DEFAULT.intervalSteps()),
                f.choice("state", Config.DEFAULT.state()));
    }

    @Override
    public @Nullable String objection(Method other) {
        return objection("LISA", other);
    }

    /** Why a method that freezes whole blocks cannot be used with another, or null. */
    static @Nullable String objection(String title, Method other) {
        return other instanceof AdapterType<?> type && !type.trainsWeights()
                ? "%s trains whole blocks of the network, and %s leaves them as they are; use the adapter full, or no sampler"
                        .formatted(title, other.name())
                : null;
    }

    @Override
    public Callback create(Config config, Setting setting) {
        List<Collection<Parameter>> blocks = new ArrayList<>();
        blocks(setting, name(), config.activatedLayers())
                .forEach(block -> blocks.add(block.namedParameters().values()));
        return new Sampling(
                config, blocks, uniform(setting.seed().named("lisa"), blocks.size(), config.activatedLayers()));
    }

    /**
     * The network's blocks, of which so many are to train at a time.
     *
     * @param method that asks, for messages
     * @throws EspalierException if it has none, or fewer
     */
    static List<Module> blocks(Setting setting, String method, int activated) {
        if (!(setting.task().model() instanceof Model model)) {
            throw new EspalierException(
                    "%s needs a transformer, whose blocks it can draw; leave train.sampler out".formatted(method));
        }
        List<Module> blocks = List.copyOf(model.backbone().layers());
        check(
                activated <= blocks.size(),
                "lisa_activated_layers is %d, and the network has %d blocks; try %d",
                activated,
                blocks.size(),
                Math.min(2, blocks.size()));
        return blocks;
    }

    /** So many of {@code n}, without replacement: those of the smallest of n random numbers. */
    static Draw uniform(Seed seed, int n, int count) {
        return number -> {
            try (Scope scope = Scope.open();
                    Generator generator = seed.at(number).generator()) {
                long[] order = generator
                        .uniform(0, 1, n)
                        .to(DType.FLOAT64)
                        .sort(0, false)
                        .get(1)
                        .longs();
                Set<Integer> drawn = new TreeSet<>();
                for (int i = 0; i < count; i++) {
                    drawn.add((int) order[i]);
                }
                return drawn;
            }
        };
    }

    /** Freezes and unfreezes. */
    static final class Sampling implements Callback {

        private final Config config;
        private final List<Collection<Parameter>> blocks;
        private final Draw draw;
        private @Nullable Set<Integer> active; // null before the first step of this process

        Sampling(Config config, List<Collection<Parameter>> blocks, Draw draw) {
            this.config = config;
            this.blocks = blocks;
            this.draw = draw;
        }

        /** Each block's state in a place of its own, before there is any, so that it can be dropped. */
        private void separate(TrainingRun run) {
            if (config.state() != State.KEEP) {
                blocks.forEach(block -> run.optimizer().forget(block));
            }
        }

        @Override
        public void beforeTraining(TrainingRun run, long stepsDone) {
            if (stepsDone == 0) {
                separate(run);
            }
        }

        @Override
        public void load(TrainingRun run, Map<String, Tensor> state) {
            separate(run);
        }

        @Override
        public void beforeStep(TrainingRun run, long step) {
            long number = (step - 1) / config.intervalSteps();
            boolean boundary = (step - 1) % config.intervalSteps() == 0;
            Set<Integer> before = active;
            if (!boundary && before != null) {
                return;
            }
            Set<Integer> now = draw.of(number);
            for (int i = 0; i < blocks.size(); i++) {
                boolean trains = now.contains(i);
                for (Parameter p : blocks.get(i)) {
                    if (run.parameters().containsValue(p)) {
                        p.trainable(trains);
                    }
                }
                if (boundary && !trains && config.state() == State.RESET) {
                    run.optimizer().forget(blocks.get(i));
                }
            }
            if (boundary && config.state() == State.RESET_ALL) {
                run.optimizer().forget(run.parameters().values());
            }
            active = now;
        }

        @Override
        public void afterTraining(TrainingRun run) {
            run.parameters().values().forEach(p -> p.trainable(true));
        }
    }
}
