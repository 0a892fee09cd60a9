package dev.espalier.rank;

import dev.espalier.nn.Parameter;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Tensor;
import dev.espalier.train.Callback;
import dev.espalier.train.StepContext;
import dev.espalier.train.TrainingRun;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;

/**
 * Gives every token the experts that score highest, and keeps their loads even without a loss term: Wang et al.,
 * <i>Auxiliary-Loss-Free Load Balancing Strategy for Mixture-of-Experts</i>, arXiv:2408.15664, algorithm 1, with sigmoid scores.
 *
 * <pre>{@code
 * h = sigmoid(x Rᵀ) + c,   S = the k largest,   G_e = k h_e / Σ_S h for e in S, else 0
 * c_e ← c_e + u sign(mean n - n_e)      n_e: rows that chose e
 * x [n, in]    R [E, in]    c [E]    G [n, E]
 * }</pre>
 *
 * <p>What is chosen carries no gradient; what it counts for does, R's part of it.
 */
public final class ExpertRouter {

    private static final double LEAST = 1e-6; // of the sum that gates are divided by: c may be negative

    private final Parameter weight; // R [E, in]
    private final Parameter bias; // c [E]
    private final int chosen; // k
    private final boolean biasInGates;
    private final double rate; // u
    private final List<Tensor> waiting = new ArrayList<>(); // moves [E] of a c that is trained too
    private boolean balanced; // whether passes move c

    /**
     * Routes by given tensors.
     *
     * @param weight R [E, in]
     * @param bias c [E]
     * @param chosen k, 1 to E
     * @param biasInGates whether c is part of what an expert counts for, or chooses only
     * @param rate u, at least 0
     */
    public ExpertRouter(Parameter weight, Parameter bias, int chosen, boolean biasInGates, double rate) {
        this.weight = weight;
        this.bias = bias;
        this.chosen = chosen;
        this.biasInGates = biasInGates;
        this.rate = rate;
    }

    /** R [E, in]. */
    public Parameter weight() {
        return weight;
    }

    /** c [E]. */
    public Parameter bias() {
        return bias;
    }

    /**
     * What the experts count for. While a {@link Balance} is in a step, a pass that is learnt from moves c when it has read it.
     *
     * @param x [n, in]
     * @param training whether the layer is in training mode
     * @return G [n, E]: k of each row are not 0, and their sum is k
     */
    public Tensor gates(Tensor x, boolean training) {
        Tensor c = bias.tensor();
        Tensor scores = x.linear(weight.tensor(), null).to(c.dtype()).sigmoid(); // [n, E]
        Tensor biased = scores.add(c);
        Tensor mask = mask(biased); // [n, E]
        Tensor kept = (biasInGates ? biased : scores).mul(mask);
        Tensor sum = kept.sum(1, true).clamp(LEAST, Double.POSITIVE_INFINITY); // [n, 1]
        Tensor gates = kept.mul(chosen).div(sum);
        if (balanced && training && Grad.isOn()) {
            move(mask);
        }
        return gates;
    }

    /** 1 where one of the k largest of a row stands, else 0. */
    private Tensor mask(Tensor biased) {
        try (Grad off = Grad.off()) {
            Tensor indices = biased.topk(chosen).get(1); // [n, k]
            Tensor ones = Tensor.ones(biased.dtype(), indices.shape()).to(biased.device());
            return biased.zerosLike().scatter_(1, indices, ones);
        }
    }

    private void move(Tensor mask) {
        try (Grad off = Grad.off()) {
            Tensor counts = mask.sum(0, false); // n [E]
            Tensor by = counts.mean().sub(counts).sign().mul(rate); // [E]
            if (bias.isTrainable()) { // it lies in memory that the backward pass still wants as it is
                waiting.add(by.keep());
            } else {
                bias.tensor().add_(by);
            }
        }
    }

    private void settle() {
        try (Grad off = Grad.off()) {
            for (Tensor by : waiting) {
                bias.tensor().add_(by);
                by.close();
            }
            waiting.clear();
        }
    }

    /**
     * Lets the biases of routers follow their loads while a training lasts.
     *
     * @param routers by the path of their layer
     */
    public record Balance(Map<String, ExpertRouter> routers) implements Callback {

        /** Copies. */
        public Balance {
            routers = java.util.Collections.unmodifiableMap(new LinkedHashMap<>(routers));
        }

        @Override
        public void beforeStep(TrainingRun run, long step) {
            routers.values().forEach(router -> router.balanced = true);
        }

        @Override
        public void afterBackward(StepContext step) {
            routers.values().forEach(ExpertRouter::settle);
        }

        @Override
        public void afterStep(StepContext step) {
            routers.values().forEach(router -> router.balanced = false);
        }

        @Override
        public Map<String, Tensor> state() {
            Map<String, Tensor> all = new LinkedHashMap<>();
            routers.forEach((path, router) -> all.put(path, router.bias.tensor().detach()));
            return all;
        }

        @Override
        public void load(TrainingRun run, Map<String, Tensor> state) {
            try (Grad off = Grad.off()) {
                routers.forEach(
                        (path, router) -> router.bias.tensor().copy_(Objects.requireNonNull(state.get(path), path)));
            }
        }
    }
}
