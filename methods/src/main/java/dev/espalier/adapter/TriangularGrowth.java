package dev.espalier.adapter;

import static dev.espalier.Check.check;

import dev.espalier.adapter.TriAdaptLora.Config;
import dev.espalier.adapter.TriAdaptLora.GrowthModel;
import dev.espalier.nn.Parameter;
import dev.espalier.tensor.Tensor;
import dev.espalier.train.Callback;
import dev.espalier.train.ParameterGroup;
import dev.espalier.train.StepContext;
import dev.espalier.train.TrainingRun;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * Lets the layers of TriAdaptLoRA grow whose square matrices have grown most since the last look, and remembers it, so that a
 * resumed run can do it again.
 */
final class TriangularGrowth implements Callback {
    private final Config config;
    private final List<String> paths;
    private final List<TriAdaptLora> layers;
    private final double[] before; // ‖C‖ / n at the last look
    private final List<long[]> events = new ArrayList<>(); // step t and layer

    TriangularGrowth(Config config, Map<String, TriAdaptLora> layers) {
        this.config = config;
        this.paths = List.copyOf(layers.keySet());
        this.layers = List.copyOf(layers.values());
        before = this.layers.stream().mapToDouble(TriAdaptLora::norm).toArray();
    }

    /**
     * How many layers grow.
     *
     * @param left ranks that are missing, at least 1
     * @param layers all there are
     * @param time share of the training that has gone by since the warm-up
     */
    static int growing(GrowthModel model, long left, int layers, double time) {
        double m = model == GrowthModel.LINEAR ? left * time : Math.exp(time * Math.log((double) left));
        return (int) Math.max(1, Math.min(layers, (long) m));
    }

    private long total() {
        return layers.stream().mapToLong(TriAdaptLora::rank).sum();
    }

    private long target() {
        return config.targetTotal() > 0 ? config.targetTotal() : (long) config.referenceRank() * layers.size();
    }

    @Override
    public void beforeTraining(TrainingRun run, long stepsDone) {
        check(
                run.config().patience() == 0,
                "triadaptlora grows, and the best state may be one of fewer ranks that cannot be put back; set patience to 0, found %d",
                run.config().patience());
        check(
                config.initWarmup() < run.totalSteps(),
                "init_warmup is %d, and the training has %d steps; growth needs a lower one, such as %d",
                config.initWarmup(),
                run.totalSteps(),
                run.totalSteps() / 10);
    }

    @Override
    public void afterBackward(StepContext step) {
        long t = step.step();
        long left = target() - total();
        if (left <= 0 || t <= config.initWarmup() || t % config.interval() != 0) {
            return;
        }
        double time = (t - config.initWarmup()) / (double) (step.run().totalSteps() - config.initWarmup());
        double[] scores = new double[layers.size()];
        for (int i = 0; i < scores.length; i++) {
            double now = layers.get(i).norm();
            scores[i] = now - before[i];
            before[i] = now;
        }
        double[] sorted = scores.clone();
        Arrays.sort(sorted);
        double threshold = sorted[scores.length - growing(config.growth(), left, scores.length, time)];
        for (int i = 0; i < scores.length; i++) {
            if (scores[i] >= threshold) {
                grow(step.run(), t, i);
            }
        }
    }

    private void grow(TrainingRun run, long t, int i) {
        events.add(new long[] {t, i});
        Map<String, Parameter> come = new LinkedHashMap<>();
        layers.get(i).grow().forEach((leaf, p) -> come.put(AdapterType.Made.key(paths.get(i), leaf), p));
        run.grow(new ParameterGroup("%s grown at step %d".formatted(paths.get(i), t), come, 1, 0));
    }

    @Override
    public Map<String, Tensor> state() {
        Map<String, Tensor> all = new LinkedHashMap<>();
        all.put("norms", Tensor.of(before, before.length));
        if (!events.isEmpty()) {
            all.put(
                    "events",
                    Tensor.of(events.stream().flatMapToLong(Arrays::stream).toArray(), events.size(), 2));
        }
        return all;
    }

    /** Grows again as the run had grown. */
    @Override
    public void load(TrainingRun run, Map<String, Tensor> state) {
        Tensor grown = state.get("events");
        if (grown != null) {
            long[] rows = grown.longs();
            for (int i = 0; i < rows.length; i += 2) {
                grow(run, rows[i], (int) rows[i + 1]);
            }
        }
        Tensor norms = state.get("norms");
        if (norms != null) {
            System.arraycopy(norms.doubles(), 0, before, 0, before.length);
        }
    }
}
