package dev.espalier.rank;

import static dev.espalier.Check.check;

import dev.espalier.nn.Parameter;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Tensor;
import dev.espalier.train.Callback;
import dev.espalier.train.StepContext;
import dev.espalier.train.TrainingRun;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.concurrent.atomic.AtomicLong;
import org.jspecify.annotations.Nullable;

/**
 * Takes the least important triplets of all layers away step by step, until a budget is met.
 *
 * <p>Zhang et al., <i>AdaLoRA</i>, arXiv:2303.10512, eq. 8 to 11, algorithm 1.
 *
 * <pre>{@code
 * score of triplet k = s(E_k) + mean s(A_k,:) + mean s(B_:,k),    s = Ī Ū of I = |w ∂L/∂w|
 * budget(t) = target + (init - target) (1 - (t - tinit) / (total - tfinal - tinit))³
 * }</pre>
 */
public final class TripletBudget implements Callback {

    /**
     * Triplets of a layer; one with E_k = 0 is away.
     *
     * @param a A [r, in]
     * @param b B [out, r]
     * @param e E [r, 1]
     */
    public record Triplets(Parameter a, Parameter b, Parameter e) {

        /** Zeroes E wherever {@code stays} [r, 1] is false. */
        private void keep(Tensor stays) {
            Tensor value = e.tensor().detach();
            value.copy_(value.maskedFill(stays.logicalNot(), 0));
        }

        /** Which triplets are not away: bool [r, 1]. */
        public Tensor open() {
            return e.tensor().detach().ne(0);
        }

        /** A, B and E of the triplets that are not away, by name. */
        public Map<String, Tensor> left() {
            Tensor numbers = open().reshape(-1).nonzero().reshape(-1);
            Map<String, Tensor> left = new LinkedHashMap<>();
            named().forEach((leaf, p) -> left.put(leaf, p.tensor().indexSelect(p == b ? 1 : 0, numbers)));
            return left;
        }

        /** Which of the triplets that there were at first are not away; {@code before}: which were left before, null for all. */
        public List<Boolean> pattern(@Nullable List<Boolean> before) {
            double[] now = e.tensor().doubles();
            List<Boolean> were = before == null ? Collections.nCopies(now.length, true) : before;
            List<Boolean> pattern = new ArrayList<>();
            int next = 0;
            for (boolean was : were) {
                pattern.add(was && now[next++] != 0);
            }
            return pattern;
        }

        /** By name in files. */
        public Map<String, Parameter> named() {
            Map<String, Parameter> named = new LinkedHashMap<>();
            named.put("lora_A", a);
            named.put("lora_B", b);
            named.put("lora_E", e);
            return named;
        }
    }

    /**
     * When how much is taken away.
     *
     * @param targetR mean rank at the end
     * @param tinit steps before the budget begins to fall
     * @param tfinal steps at the end in which ranks stay
     * @param deltaT steps between allocations
     * @param beta1 decay of the sensitivity
     * @param beta2 decay of its uncertainty
     * @param totalStep steps of the training; 0 for those of the run
     */
    public record Plan(int targetR, long tinit, long tfinal, long deltaT, double beta1, double beta2, long totalStep) {

        /** Ranks of all layers together that step t, from 0, may leave. */
        public long budget(long t, long total, long init, long target) {
            if (t <= tinit) {
                return init;
            }
            double rest = 1 - (double) (t - tinit) / (total - tfinal - tinit);
            return (long) ((init - target) * (rest * rest * rest) + target);
        }
    }

    private final Plan plan;
    private final Map<String, Triplets> layers;
    private final AtomicLong total;
    private final Importance importance;
    private final Map<String, Tensor> frozen = new LinkedHashMap<>(); // by path, bool [r, 1]: what stays at the end

    /**
     * A budget for layers.
     *
     * @param layers by path
     * @param total steps of the training, noted in it when one begins
     */
    public TripletBudget(Plan plan, Map<String, Triplets> layers, AtomicLong total) {
        this.plan = plan;
        this.layers = layers;
        this.total = total;
        this.importance = new Importance(plan.beta1(), plan.beta2());
    }

    @Override
    public void beforeTraining(TrainingRun run, long stepsDone) {
        total.set(plan.totalStep() == 0 ? run.totalSteps() : plan.totalStep());
        check(
                plan.tinit() < total.get() - plan.tfinal(),
                "tinit %d and tfinal %d leave none of the %d steps for the budget to fall in; their sum must be below %d",
                plan.tinit(),
                plan.tfinal(),
                total.get(),
                total.get());
    }

    @Override
    public void afterUpdate(StepContext step) {
        allocate(step.step() - 1);
    }

    private void allocate(long t) {
        long end = total.get() - plan.tfinal();
        try (Grad off = Grad.off();
                Scope scope = Scope.open()) {
            long init = layers.values().stream()
                    .mapToLong(each -> each.e().tensor().numel())
                    .sum();
            long target = Math.min(init, (long) plan.targetR() * layers.size());
            if (t < end) {
                layers.forEach(this::observe);
                if (t > plan.tinit() && t % plan.deltaT() == 0) {
                    mask(init - plan.budget(t, total.get(), init, target));
                }
            } else if (t == end) {
                mask(init - target);
                layers.forEach((path, each) -> frozen.put(path, each.open().keep()));
                importance.reset();
            } else {
                frozen.forEach((path, stays) ->
                        Objects.requireNonNull(layers.get(path)).keep(stays));
            }
        }
    }

    private void observe(String path, Triplets layer) {
        layer.named().forEach((leaf, p) -> {
            Tensor gradient = p.tensor().grad();
            if (gradient != null) {
                importance.observe(
                        path + "." + leaf, p.tensor().detach().mul(gradient).abs());
            }
        });
    }

    /** Zeroes E wherever the score is not above the {@code gone}-th smallest of all layers. */
    private void mask(long gone) {
        if (gone == 0) {
            return;
        }
        Map<String, Tensor> scores = new LinkedHashMap<>(); // [r] each
        layers.keySet()
                .forEach(path -> scores.put(
                        path,
                        importance
                                .score(path + ".lora_E")
                                .reshape(-1)
                                .add(importance.score(path + ".lora_A").mean(1, false))
                                .add(importance.score(path + ".lora_B").mean(0, false))));
        double[] sorted = Tensor.cat(List.copyOf(scores.values()), 0).doubles();
        Arrays.sort(sorted);
        double threshold = sorted[(int) gone - 1];
        scores.forEach((path, score) -> Objects.requireNonNull(layers.get(path))
                .keep(score.gt(threshold).unsqueeze(1)));
    }

    @Override
    public Map<String, Tensor> state() {
        Map<String, Tensor> all = new LinkedHashMap<>(importance.state());
        frozen.forEach((path, stays) -> all.put("stays." + path, stays));
        return all;
    }

    @Override
    public void load(TrainingRun run, Map<String, Tensor> state) {
        importance.load(state);
        layers.keySet().forEach(path -> {
            Tensor stays = state.get("stays." + path);
            if (stays != null) {
                frozen.put(path, stays.clone().keep());
            }
        });
    }
}
