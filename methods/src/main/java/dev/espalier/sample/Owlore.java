package dev.espalier.sample;

import static dev.espalier.Check.check;

import dev.espalier.adapter.Calibration;
import dev.espalier.adapter.LayerSampler;
import dev.espalier.adapter.Method;
import dev.espalier.adapter.Setting;
import dev.espalier.io.Fields;
import dev.espalier.nn.Embedding;
import dev.espalier.nn.Layer;
import dev.espalier.nn.Module;
import dev.espalier.nn.Parameter;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Generator;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import dev.espalier.train.Callback;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collection;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeSet;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import org.jspecify.annotations.Nullable;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * OwLore: {@link Lisa} that draws blocks the more often the more outlier weights they hold; with GaLore as the optimiser more of them
 * train at a time.
 *
 * <p>Li et al., <i>OwLore: Outlier-weighed Layerwise Sampled Low-Rank Projection for Memory-Efficient LLM Fine-tuning</i>,
 * arXiv:2405.18380.
 *
 * <pre>{@code
 * A[i, j] = |W[i, j]| ‖X[:, j]‖ of all linear layers of a block,  m its mean
 * D = share of the entries of A above tau m,   q = D / Σ D
 * before the steps 1, K + 1, ...:  draw gamma blocks by q, one after another without replacement; freeze the others
 * W [out, in]    X [tokens, in]: what the layer receives on calibration data, once before training
 * }</pre>
 *
 * <p>A block's chance to be among the gamma is that of successive draws, not gamma q, as the paper writes. Norms are over all
 * tokens of the calibration data (OWL: means over sequences, which differ by a factor that D does not see). Departures from the
 * authors' code, which reads scores from a file: they are computed; and the state of blocks that become frozen is dropped, as the
 * paper's memory asks ({@code state: keep} keeps it). The calibration data are taken to be like OWL's, which the paper does not
 * say. Checked by hand derivation.
 */
public final class Owlore implements LayerSampler<Owlore.Config> {

    private static final Logger LOG = LoggerFactory.getLogger(Owlore.class);

    /** What a block is drawn by. */
    public enum Weighting {
        /** Its share of outliers D. */
        OWL,
        /** The largest share less its own. */
        OWL_REVERSE,
        /** Nothing: LISA. */
        UNIFORM,
        /** Its place, the first block most. */
        DECREASE,
        /** Its place, the last block most. */
        INCREASE,
        /** The norm of its linear layers' weights. */
        NORM
    }

    /**
     * Settings, by the authors' names in brackets.
     *
     * @param activatedLayers [lisa_activated_layers] gamma, blocks that train at a time, at least 0
     * @param intervalSteps [lisa_interval_steps] K, optimiser steps between draws, at least 1
     * @param tau [M in OWL] multiple of the mean above which an entry is an outlier, at least 0
     * @param weighting what blocks are drawn by
     * @param sequences calibration examples, at least 1
     * @param scores [outlier_scores] D of each block where it is known already; else empty
     * @param state what becomes of the optimiser's state at a draw
     */
    public record Config(
            int activatedLayers,
            int intervalSteps,
            double tau,
            Weighting weighting,
            int sequences,
            List<Double> scores,
            Lisa.State state) {

        /** The authors' script. */
        public static final Config DEFAULT = new Config(5, 50, 13, Weighting.OWL, 128, List.of(), Lisa.State.RESET);

        /** Checks the ranges. */
        public Config {
            new Lisa.Config(activatedLayers, intervalSteps, state);
            check(tau >= 0 && Double.isFinite(tau), "tau must be at least 0 and finite, found %s; try 13", tau);
            check(sequences >= 1, "calibration_sequences must be at least 1, found %d; try 128", sequences);
            scores = List.copyOf(scores);
            scores.forEach(d -> check(
                    d >= 0 && Double.isFinite(d),
                    "outlier_scores must be at least 0 and finite, found %s; leave them out to have them computed",
                    d));
        }

        Lisa.Config sampling() {
            return new Lisa.Config(activatedLayers, intervalSteps, state);
        }
    }

    @Override
    public About about() {
        return new About(
                "owlore",
                "sampler",
                "whole weights train, of the blocks a few at a time, those with many outlier weights more often",
                "Li et al., OwLore: Outlier-weighed Layerwise Sampled Low-Rank Projection for Memory-Efficient LLM Fine-tuning,"
                        + " arXiv:2405.18380",
                """
                D = share of |W[i, j]| ‖X[:, j]‖ above tau times their mean in a block,  q = D / Σ D
                every K steps: draw gamma of N blocks by q without replacement, freeze the others""",
                "full, with galore (as published), adamw or sgd, and any loss term; not with adapters",
                "nothing beside the trained weights",
                true);
    }

    @Override
    public Map<String, String> meanings() {
        return Map.of(
                "lisa_activated_layers", "gamma, blocks that train at a time, 0 to all",
                "lisa_interval_steps", "K, optimiser steps between draws, at least 1",
                "tau", "multiple of a block's mean above which an entry is an outlier, at least 0; 5 to 13 is usual",
                "weighting",
                        "what blocks are drawn by: owl (outliers), owl_reverse, uniform, decrease, increase or norm",
                "calibration_sequences", "examples of the training data that outliers are found on, at least 1",
                "outlier_scores", "D of each block, where it is known already: at least 0, one number a block",
                "state",
                        "what the optimiser drops at a draw: reset (what is frozen now), reset_all (everything), keep (nothing)");
    }

    @Override
    public Config read(Fields f) {
        Config usual = Config.DEFAULT;
        return new Config(
                f.integer("lisa_activated_layers", usual.activatedLayers()),
                f.integer("lisa_interval_steps", usual.intervalSteps()),
                f.number("tau", usual.tau()),
                f.choice("weighting", usual.weighting()),
                f.integer("calibration_sequences", usual.sequences()),
                f.numbers("outlier_scores", usual.scores()),
                f.choice("state", usual.state()));
    }

    @Override
    public @Nullable String objection(Method other) {
        return Lisa.objection("OwLore", other);
    }

    @Override
    public Callback create(Config config, Setting setting) {
        List<Module> blocks = Lisa.blocks(setting, name(), config.activatedLayers());
        check(
                config.scores().isEmpty() || config.scores().size() == blocks.size(),
                "outlier_scores has %d numbers, and the network has %d blocks; give one for each, or leave them out",
                config.scores().size(),
                blocks.size());
        double[] weights = weights(config, blocks, setting.calibration());
        LOG.info(
                "blocks are drawn by {}",
                Arrays.stream(weights).mapToObj("%.3g"::formatted).collect(Collectors.joining(" ")));
        List<Collection<Parameter>> parameters = new ArrayList<>();
        blocks.forEach(block -> parameters.add(block.namedParameters().values()));
        return new Lisa.Sampling(
                config.sampling(),
                parameters,
                weighted(setting.seed().named("owlore"), weights, config.activatedLayers()));
    }

    /** What each block is drawn by, not normalised. */
    static double[] weights(Config config, List<? extends Module> blocks, Calibration data) {
        int n = blocks.size();
        IntStream all = IntStream.range(0, n);
        return switch (config.weighting()) {
            case UNIFORM -> all.mapToDouble(i -> 1).toArray();
            case DECREASE -> all.mapToDouble(i -> (double) n - i).toArray();
            case INCREASE -> all.mapToDouble(i -> i + 1.0).toArray();
            case NORM -> all.mapToDouble(i -> norm(layers(blocks.get(i)))).toArray();
            case OWL -> shares(config, blocks, data);
            case OWL_REVERSE -> {
                double[] shares = shares(config, blocks, data);
                double most = Arrays.stream(shares).max().orElse(0);
                yield Arrays.stream(shares).map(d -> most - d).toArray();
            }
        };
    }

    /** The linear layers of a block, in its order. */
    private static List<Layer> layers(Module block) {
        List<Layer> layers = new ArrayList<>();
        block.namedModules().values().forEach(module -> {
            if (module instanceof Layer layer && !(layer instanceof Embedding)) {
                layers.add(layer);
            }
        });
        return layers;
    }

    private static double norm(List<Layer> layers) {
        try (Grad off = Grad.off();
                Scope scope = Scope.open()) {
            return Math.sqrt(layers.stream()
                    .mapToDouble(layer ->
                            layer.weight().to(DType.FLOAT64).square().sum().item())
                    .sum());
        }
    }

    private static double[] shares(Config config, List<? extends Module> blocks, Calibration data) {
        if (!config.scores().isEmpty()) {
            return config.scores().stream().mapToDouble(Double::doubleValue).toArray();
        }
        data.require("owlore");
        Map<Layer, Tensor> squares = new LinkedHashMap<>(); // of each column of X [in]
        Map<Layer, Layer.@Nullable Substitute> former = new LinkedHashMap<>();
        try (Grad off = Grad.off();
                Scope all = Scope.open()) {
            for (Module block : blocks) {
                for (Layer layer : layers(block)) {
                    former.put(layer, layer.substitute());
                    squares.put(layer, Tensor.zeros(DType.FLOAT64, layer.inFeatures()));
                    layer.substitute((x, self) -> {
                        squares.computeIfPresent(
                                layer,
                                (key, sum) -> sum.add_(x.reshape(-1, x.size(-1))
                                        .to(DType.FLOAT64)
                                        .square()
                                        .sum(0, false)
                                        .to(sum.device())));
                        return self.compute(x);
                    });
                }
            }
            for (int i = 0; i < Math.min(config.sequences(), data.batches()); i++) {
                try (Scope scope = Scope.open()) {
                    data.loss(i);
                }
            }
            return blocks.stream()
                    .mapToDouble(block -> {
                        List<Tensor> scores = new ArrayList<>();
                        layers(block)
                                .forEach(layer -> scores.add(layer.weight()
                                        .to(DType.FLOAT64)
                                        .to(dev.espalier.tensor.Device.CPU)
                                        .abs()
                                        .mul(java.util.Objects.requireNonNull(squares.get(layer))
                                                .sqrt())));
                        return share(scores, config.tau());
                    })
                    .toArray();
        } finally {
            former.forEach(Layer::substitute);
        }
    }

    /** D: the share of all entries that are above tau times their mean. */
    static double share(List<Tensor> scores, double tau) {
        try (Scope scope = Scope.open()) {
            Tensor all = Tensor.cat(scores.stream().map(a -> a.reshape(-1)).toList(), 0);
            return all.gt(all.mean().item() * tau).to(DType.FLOAT64).mean().item();
        }
    }

    /**
     * So many, one after another: each is drawn by its weight among those that are left. The first of n clocks to ring have that
     * distribution, clock i at rate w_i.
     *
     * @throws dev.espalier.EspalierException if fewer have a weight above 0
     */
    static Lisa.Draw weighted(Seed seed, double[] weights, int count) {
        long possible = Arrays.stream(weights).filter(w -> w > 0).count();
        check(
                possible >= count,
                "owlore draws %d blocks, and only %d of %d have a weight above 0; lower tau, or lisa_activated_layers to %d",
                count,
                possible,
                weights.length,
                possible);
        return number -> {
            try (Scope scope = Scope.open();
                    Generator generator = seed.at(number).generator()) {
                double[] luck =
                        generator.uniform(0, 1, DType.FLOAT64, weights.length).doubles();
                Set<Integer> drawn = new TreeSet<>();
                IntStream.range(0, weights.length)
                        .filter(i -> weights[i] > 0)
                        .boxed()
                        .sorted(java.util.Comparator.comparingDouble(i -> -Math.log1p(-luck[i]) / weights[i]))
                        .limit(count)
                        .forEach(drawn::add);
                return drawn;
            }
        };
    }
}
