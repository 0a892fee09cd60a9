package dev.espalier.rank;

import static dev.espalier.Check.check;

import dev.espalier.nn.Parameter;
import dev.espalier.tensor.Tensor;
import dev.espalier.train.Callback;
import dev.espalier.train.ParameterGroup;
import dev.espalier.train.Schedule;
import dev.espalier.train.StepContext;
import dev.espalier.train.TrainingRun;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.function.DoubleSupplier;
import java.util.function.Function;

/**
 * Gives more ranks to the layers where they matter most, and remembers when and to whom, so that a resumed run can do it again.
 *
 * <p>Zhang et al., <i>IncreLoRA</i>, arXiv:2308.12043. Every {@code interval} steps the reserves of the {@code topH} layers with the
 * best scores Ī Ū go live and get a fresh reserve, until the live ranks are {@code targetR} on average.
 */
public final class Growth implements Callback {

    /** A layer that can grow. */
    public interface Layer {

        /** Its components. */
        GrowingFactors factors();

        /** What it records for its sensitivity. */
        ChangeGradient gradient();

        /** How much its change matters to the loss of the passes since it was last asked: a scalar. */
        Tensor sensitivity();
    }

    /**
     * When how much comes.
     *
     * @param targetR mean of the ranks at the end
     * @param step ranks that a layer gets at a time
     * @param topH layers that grow at a time; 0 for as many as end growth in the first half of training
     * @param initWarmup steps before growth
     * @param interval steps between growths
     * @param beta1 decay of the sensitivity
     * @param beta2 decay of its uncertainty
     * @param restartWarmup whether what comes late has a schedule of its own, else the full rate to the end
     * @param penalised whether a penalty moves reserves when growth has ended
     */
    public record Plan(
            int targetR,
            int step,
            int topH,
            long initWarmup,
            long interval,
            double beta1,
            double beta2,
            boolean restartWarmup,
            boolean penalised) {}

    private final Plan plan;
    private final List<String> paths;
    private final Function<String, String> prefix;
    private final List<Layer> layers;
    private final Importance importance;
    private final List<long[]> events = new ArrayList<>(); // step t and layer; -1 for the first reserves of all
    private final long initial; // ranks
    private long now; // the step t, from 0
    private int topH;

    /**
     * Growth of layers.
     *
     * @param layers by path
     * @param prefix of a layer's parameters in a run, by its path
     */
    public Growth(Plan plan, Map<String, ? extends Layer> layers, Function<String, String> prefix) {
        this.plan = plan;
        this.prefix = prefix;
        this.paths = List.copyOf(layers.keySet());
        this.layers = List.copyOf(layers.values());
        this.importance = new Importance(plan.beta1(), plan.beta2());
        this.initial = total();
    }

    private long total() {
        return layers.stream().mapToLong(layer -> layer.factors().rank()).sum();
    }

    private long target() {
        return (long) plan.targetR() * layers.size();
    }

    @Override
    public void beforeTraining(TrainingRun run, long stepsDone) {
        check(
                run.config().patience() == 0,
                "increlora grows, and the best state may be one of fewer ranks that cannot be put back; set patience to 0, found %d",
                run.config().patience());
        boolean grows = total() < target();
        layers.forEach(each -> each.gradient().record(grows));
        if (!grows) {
            return;
        }
        long step = plan.step();
        long missing = target() - initial;
        long first = (plan.initWarmup() / plan.interval() + 1) * plan.interval(); // step of the first growth
        long rounds = Math.max(1, (run.totalSteps() / 2 - first) / plan.interval() + 1);
        topH = plan.topH() > 0 ? plan.topH() : (int) Math.ceil((double) missing / (step * rounds));
        long needed = (missing + topH * step - 1) / (topH * step);
        long last = first + (needed - 1) * plan.interval();
        check(
                last < run.totalSteps(),
                "the last ranks would come at step %d, after the end of the training of %d steps; lower init_warmup %d and interval"
                        + " %d, or raise top_h",
                last,
                run.totalSteps(),
                plan.initWarmup(),
                plan.interval());
    }

    @Override
    public void beforeStep(TrainingRun run, long step) {
        now = step - 1;
    }

    @Override
    public void afterBackward(StepContext step) {
        if (total() < target()) {
            for (int m = 0; m < layers.size(); m++) {
                importance.observe(paths.get(m), layers.get(m).sensitivity());
            }
            if (now > plan.initWarmup() && now % plan.interval() == 0) {
                grow(step.run());
            }
        }
        if (now == 0) {
            layers.forEach(this::reserve);
            events.add(new long[] {0, -1});
            join(step.run(), 0, allNumbers(), false);
            finishIfDone();
        }
    }

    private List<Integer> allNumbers() {
        List<Integer> all = new ArrayList<>();
        for (int m = 0; m < layers.size(); m++) {
            all.add(m);
        }
        return all;
    }

    private void grow(TrainingRun run) {
        double[] scores = new double[layers.size()];
        for (int m = 0; m < scores.length; m++) {
            scores[m] = importance.score(paths.get(m)).item();
        }
        double[] sorted = scores.clone();
        Arrays.sort(sorted);
        int h = (int) Math.min(Math.min(topH, target() - total()), layers.size());
        double threshold = sorted[sorted.length - h];
        List<Integer> chosen = new ArrayList<>();
        for (int m = 0; m < scores.length; m++) {
            if (scores[m] >= threshold) {
                chosen.add(m);
            }
        }
        release(run, now, chosen);
    }

    private void release(TrainingRun run, long t, List<Integer> chosen) {
        chosen.forEach(m -> {
            reserve(layers.get(m));
            events.add(new long[] {t, m});
        });
        join(run, t, chosen, true);
        finishIfDone();
    }

    private void reserve(Layer layer) {
        layer.factors().reserve(plan.step());
    }

    private void rest() {
        layers.forEach(layer -> {
            layer.gradient().record(false);
            layer.factors().rest(plan.penalised());
        });
    }

    private void finishIfDone() {
        if (total() >= target()) {
            rest();
        }
    }

    /** Trains from the next step on what has come: the fresh reserves, and what has just gone live. */
    private void join(TrainingRun run, long t, List<Integer> chosen, boolean released) {
        Map<String, Parameter> come = new LinkedHashMap<>();
        for (int m : chosen) {
            layers.get(m).factors().come(released).forEach((leaf, p) -> come.put(prefix.apply(paths.get(m)) + leaf, p));
        }
        if (!come.isEmpty()) {
            double decay = run.config().optimizer().weightDecay();
            run.grow(new ParameterGroup("grown at step " + t, come, clock(run, t), decay));
        }
    }

    /** What the run's rate is multiplied by to give a schedule that begins after step t. */
    private DoubleSupplier clock(TrainingRun run, long t) {
        Schedule schedule = run.config().schedule();
        long whole = run.totalSteps();
        long warmup =
                schedule.warmupRatio() > 0 ? (long) Math.ceil(whole * schedule.warmupRatio()) : schedule.warmupSteps();
        Schedule own = new Schedule(schedule.curve(), warmup, 0);
        return () -> {
            double usual = schedule.factor(now, whole);
            double wanted = plan.restartWarmup() ? own.factor(Math.max(0, now - t - 1), whole - t - 1) : 1;
            return usual == 0 ? 0 : wanted / usual;
        };
    }

    @Override
    public void afterTraining(TrainingRun run) {
        rest();
    }

    @Override
    public Map<String, Tensor> state() {
        Map<String, Tensor> all = new LinkedHashMap<>(importance.state());
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
        importance.load(state);
        Tensor grown = state.get("events");
        if (grown == null) {
            return;
        }
        long[] rows = grown.longs();
        for (int i = 0; i < rows.length; ) {
            long t = rows[i];
            if (rows[i + 1] < 0) {
                layers.forEach(this::reserve);
                events.add(new long[] {t, -1});
                join(run, t, allNumbers(), false);
                finishIfDone();
                i += 2;
                continue;
            }
            List<Integer> chosen = new ArrayList<>();
            for (; i < rows.length && rows[i] == t; i += 2) {
                chosen.add((int) rows[i + 1]);
            }
            release(run, t, chosen);
        }
    }
}
