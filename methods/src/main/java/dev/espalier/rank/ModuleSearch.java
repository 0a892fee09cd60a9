package dev.espalier.rank;

import static dev.espalier.Check.check;

import dev.espalier.nn.Parameter;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Tensor;
import dev.espalier.train.AdamW;
import dev.espalier.train.Optimizer;
import dev.espalier.train.ParameterGroup;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.function.LongFunction;

/**
 * A search at two levels: θ is to make the loss on data that the weights have not seen small, while the weights learn.
 *
 * <p>Liu et al., <i>DARTS: Differentiable Architecture Search</i>, arXiv:1806.09055, algorithm 1 and eq. 7 and 8:
 *
 * <pre>{@code
 * θ ← Adam(θ, ∂L_val(w, θ) / ∂θ)                        w fixed
 * w ← AdamW(w, ∂L_train(w, θ) / ∂w)                     θ fixed
 * unrolled:  w' = w - ξ ∂L_train(w, θ) / ∂w,   w± = w ± ε ∂L_val(w', θ) / ∂w',   ε = 0.01 / ‖∂L_val / ∂w'‖
 *            ∂θ = ∂L_val(w', θ) / ∂θ - ξ (∂L_train(w₊, θ) / ∂θ - ∂L_train(w₋, θ) / ∂θ) / (2 ε)
 * }</pre>
 */
public final class ModuleSearch {

    /**
     * How it is searched.
     *
     * @param steps of θ and w, at least 1
     * @param warmup share of them in which θ stays, in [0, 1): while B = 0 its gradient is none
     * @param thetaRate learning rate of θ, above 0
     * @param rate learning rate of w, above 0; ξ too
     * @param unrolled whether θ is judged one step of w ahead
     */
    public record Config(int steps, double warmup, double thetaRate, double rate, boolean unrolled) {

        /** Our own. */
        public static final Config DEFAULT = new Config(50, 0.1, 1e-2, 1e-3, false);

        /** Checks ranges. */
        public Config {
            check(steps >= 1, "search_steps must be at least 1, found %d; try 50", steps);
            check(warmup >= 0 && warmup < 1, "search_warmup must lie in [0, 1), found %s; try 0.1", warmup);
            checkRate("lr_theta", thetaRate, "0.01");
            checkRate("lr_w", rate, "0.001");
        }

        private static void checkRate(String name, double rate, String usual) {
            check(
                    rate > 0 && Double.isFinite(rate),
                    "%s must be above 0 and finite, found %s; try %s",
                    name,
                    rate,
                    usual);
        }
    }

    /** The two losses, on disjoint data. */
    public interface Losses {

        /** By which the weights learn, at a step from 0: a scalar that carries gradients. */
        Tensor train(long step);

        /** By which θ is judged. */
        Tensor validation(long step);
    }

    private static final AdamW.Config OF_THETA = new AdamW.Config(0.5, 0.999, 1e-8, 0);
    private static final AdamW.Config OF_WEIGHTS = new AdamW.Config(0.9, 0.999, 1e-8, 0.01);

    private final Config config;
    private final Parameter theta;
    private final Map<String, Parameter> weights;
    private final Losses losses;

    /**
     * A search that has not begun.
     *
     * @param theta changed in place
     * @param weights A, B and whatever learns with them, changed in place
     */
    public ModuleSearch(Config config, Parameter theta, Map<String, Parameter> weights, Losses losses) {
        this.config = config;
        this.theta = theta;
        this.weights = new LinkedHashMap<>(weights);
        this.losses = losses;
    }

    /** Searches. */
    public void run() {
        ParameterGroup ofTheta = new ParameterGroup("theta", Map.of("theta", theta), 1, OF_THETA.weightDecay());
        ParameterGroup ofWeights = new ParameterGroup("w", weights, 1, OF_WEIGHTS.weightDecay());
        try (Optimizer outer = OF_THETA.create(List.of(ofTheta));
                Optimizer inner = OF_WEIGHTS.create(List.of(ofWeights))) {
            for (int step = 0; step < config.steps(); step++) {
                try (Scope scope = Scope.open()) {
                    if (step >= config.warmup() * config.steps()) {
                        Tensor gradient = thetaGradient(step);
                        theta.trainable(true);
                        theta.tensor().mul(gradient).sum().backward(); // makes it θ's gradient
                        outer.step(config.thetaRate());
                        outer.zeroGrad();
                    }
                    learn(losses::train, step, false);
                    inner.step(config.rate());
                    inner.zeroGrad();
                }
            }
        } finally {
            theta.trainable(false);
            trains(true);
        }
    }

    /** Gradients of a loss: of θ with w fixed, or of w with θ fixed. */
    private void learn(LongFunction<Tensor> loss, long step, boolean ofTheta) {
        theta.trainable(ofTheta);
        trains(!ofTheta);
        descend(loss.apply(step));
    }

    /** Gradients of a loss, if it depends on anything that has any. */
    private static void descend(Tensor loss) {
        if (loss.requiresGrad()) {
            loss.backward();
        }
    }

    private void trains(boolean wanted) {
        weights.values().forEach(p -> p.trainable(wanted));
    }

    /** The gradient by which θ moves at a step; the weights are as before. */
    public Tensor thetaGradient(long step) {
        if (!config.unrolled()) {
            return gradientOfTheta(losses::validation, step);
        }
        double xi = config.rate();
        Map<String, Tensor> start = new LinkedHashMap<>();
        weights.forEach((name, p) -> start.put(name, p.tensor().detach().clone()));
        learn(losses::train, step, false);
        move(start, gradients(), -xi); // w'
        theta.trainable(true);
        trains(true);
        descend(losses.validation(step));
        Tensor outer = taken(theta);
        Map<String, Tensor> ahead = gradients();
        double square = ahead.values().stream()
                .mapToDouble(g -> g.to(DType.FLOAT64).square().sum().item())
                .sum();
        double epsilon = square == 0 ? 0 : 0.01 / Math.sqrt(square);
        if (epsilon > 0) {
            move(start, ahead, epsilon);
            Tensor above = gradientOfTheta(losses::train, step);
            move(start, ahead, -epsilon);
            Tensor below = gradientOfTheta(losses::train, step);
            outer = outer.sub(above.sub(below).mul(xi / (2 * epsilon)));
        }
        move(start, Map.of(), 0);
        return outer;
    }

    private Tensor gradientOfTheta(LongFunction<Tensor> loss, long step) {
        learn(loss, step, true);
        return taken(theta);
    }

    /** A parameter's gradient, zeros where it has none, which is then gone from there. */
    private static Tensor taken(Parameter p) {
        Tensor gradient = p.tensor().grad();
        Tensor own = gradient == null ? p.tensor().detach().zerosLike() : gradient.clone();
        p.tensor().clearGrad();
        return own;
    }

    private Map<String, Tensor> gradients() {
        Map<String, Tensor> all = new LinkedHashMap<>();
        weights.forEach((name, p) -> all.put(name, taken(p)));
        return all;
    }

    /** Sets w to a point and so much of a direction. */
    private void move(Map<String, Tensor> from, Map<String, Tensor> direction, double by) {
        try (Grad off = Grad.off()) {
            weights.forEach((name, p) -> {
                p.tensor().copy_(java.util.Objects.requireNonNull(from.get(name)));
                Tensor along = direction.get(name);
                if (along != null) {
                    p.tensor().add_(along, by);
                }
            });
        }
    }

    /**
     * The ⌈ρ n⌉ best of each group of n; of equals the first.
     *
     * @param groups the group of each
     */
    public static boolean[] select(double[] scores, List<String> groups, double rho) {
        boolean[] chosen = new boolean[scores.length];
        Set<String> names = new LinkedHashSet<>(groups);
        for (String name : names) {
            List<Integer> members = new ArrayList<>();
            for (int i = 0; i < scores.length; i++) {
                if (groups.get(i).equals(name)) {
                    members.add(i);
                }
            }
            members.sort((i, j) -> Double.compare(scores[j], scores[i])); // stable
            int best = (int) Math.ceil(rho * members.size() - 1e-9);
            members.subList(0, best).forEach(i -> chosen[i] = true);
        }
        return chosen;
    }
}
