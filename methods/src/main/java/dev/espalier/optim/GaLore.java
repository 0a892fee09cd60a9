package dev.espalier.optim;

import static dev.espalier.Check.check;

import dev.espalier.adapter.Method;
import dev.espalier.adapter.OptimizerMethod;
import dev.espalier.adapter.Setting;
import dev.espalier.io.Fields;
import dev.espalier.optim.PerParameter.Kept;
import dev.espalier.optim.PerParameter.Memory;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Svd;
import dev.espalier.tensor.Tensor;
import dev.espalier.train.AdamW;
import dev.espalier.train.Optimizer;
import dev.espalier.train.ParameterGroup;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import org.jspecify.annotations.Nullable;

/**
 * GaLore: whole weights train, but the optimiser remembers only a projection of each gradient on its dominant subspace.
 *
 * <p>Zhao et al., <i>GaLore: Memory-Efficient LLM Training by Gradient Low-Rank Projection</i>, arXiv:2403.03507, algorithm 2.
 *
 * <pre>{@code
 * every T updates, from the first on:  G = U S Vᵀ,  P = the first r rows of Vᵀ
 * R = G Pᵀ,   N = inner optimiser's step for R,   W ← W - alpha N P
 * G, W [out, in], out ≥ in    P [r, in]    R, N [out, r];    out < in: P [out, r], R = Pᵀ G [r, in], W ← W - alpha P N
 * }</pre>
 *
 * <p>The moments stay as they are when the basis changes, as published. Matrices are the linear layers of the network's blocks;
 * all else moves by AdamW. Departures from the authors' code: each basis vector's largest entry is made positive, so that runs
 * repeat; float64 gradients are decomposed in float64; what is not projected has ε added after the bias correction. Checked
 * against the authors' code over several steps with that sign.
 */
public final class GaLore implements OptimizerMethod<GaLore.Config> {

    /** What moves a projected gradient. */
    public enum Form {
        /** Adam with moments in float32. */
        ADAMW,
        /** Adam with moments in 8 bits. */
        ADAMW8BIT,
        /** Adafactor. */
        ADAFACTOR
    }

    /**
     * Settings, by the authors' names in brackets.
     *
     * @param form what moves a projected gradient
     * @param rank r, 1 to the smaller side of each matrix
     * @param gap [update_proj_gap] T, updates between two decompositions, at least 1
     * @param scale alpha, multiplies the step that is mapped back, above 0
     * @param adam β1, β2, ε and weight decay, of the projected gradients (Adafactor has no β1, β2, ε) and of what is not projected
     */
    public record Config(Form form, int rank, int gap, double scale, AdamW.Config adam) {

        /** As in the authors' examples and in transformers. */
        public static final Config DEFAULT =
                new Config(Form.ADAMW, 128, 200, 0.25, new AdamW.Config(0.9, 0.999, 1e-6, 0));

        /** Checks the ranges. */
        public Config {
            check(rank >= 1, "rank must be at least 1, found %d; try 128", rank);
            check(gap >= 1, "update_proj_gap must be at least 1, found %d; try 200", gap);
            check(scale > 0 && Double.isFinite(scale), "scale must be above 0 and finite, found %s; try 0.25", scale);
        }

        private Inner inner() {
            return switch (form) {
                case ADAMW -> new Inner.Adam(adam);
                case ADAMW8BIT -> new Inner.Adam8bit(adam);
                case ADAFACTOR -> new Inner.Adafactor();
            };
        }
    }

    @Override
    public About about() {
        return new About(
                "galore",
                "optimizer",
                "whole weights train, with the optimiser's state in a projection of each gradient",
                "Zhao et al., GaLore: Memory-Efficient LLM Training by Gradient Low-Rank Projection, arXiv:2403.03507",
                """
                W ← W - lr alpha Adam(G Pᵀ) P,  P [r, in]: top right singular vectors of G [out, in], anew every T updates
                state a matrix: r · short + 2 r · long numbers, against 2 · out · in of Adam""",
                "full, with any loss term and with layer samplers; not with adapters, whose factors are small already",
                "nothing: it leaves no trace in the weights that are saved",
                true);
    }

    @Override
    public Map<String, String> meanings() {
        return Map.of(
                "form", "what moves a projected gradient: adamw, adamw8bit or adafactor",
                "rank", "r, 1 to the smaller side of each matrix",
                "update_proj_gap", "T, updates between two decompositions, at least 1",
                "scale", "alpha, multiplies the projected step and nothing else, above 0",
                "beta1", "decay of the mean gradient, in [0, 1)",
                "beta2", "decay of the mean squared gradient, in [0, 1)",
                "eps", "added to the denominator, above 0; 1e-8 by default with adamw8bit",
                "weightDecay", "λ, at least 0, not scaled by alpha");
    }

    @Override
    public Config read(Fields f) {
        Form form = f.choice("form", Config.DEFAULT.form());
        AdamW.Config adam = Config.DEFAULT.adam();
        double eps = form == Form.ADAMW8BIT ? 1e-8 : adam.eps();
        return new Config(
                form,
                f.integer("rank", Config.DEFAULT.rank()),
                f.integer("update_proj_gap", Config.DEFAULT.gap()),
                f.number("scale", Config.DEFAULT.scale()),
                AdamWMethod.read(f, new AdamW.Config(adam.beta1(), adam.beta2(), eps, adam.weightDecay())));
    }

    @Override
    public @Nullable String objection(Method other) {
        return Matrices.objection("GaLore", other);
    }

    @Override
    public Optimizer.Config create(Config config, Setting setting) {
        return new Bound(
                config, Matrices.ofBlocks(setting, name(), config.rank()).keySet());
    }

    /** Settings with the matrices that they are for, by name. */
    record Bound(Config config, Set<String> matrices) implements Optimizer.Config {

        @Override
        public Optimizer create(List<ParameterGroup> groups) {
            return new PerParameter(groups, this::rule, config.adam());
        }

        @Override
        public long stateBytes(List<ParameterGroup> groups) {
            return PerParameter.stateBytes(groups, this::rule, config.adam());
        }

        @Override
        public double weightDecay() {
            return config.adam().weightDecay();
        }

        private PerParameter.@Nullable Rule rule(String name) {
            return matrices.contains(name)
                    ? new Projected(config.rank(), config.gap(), config.scale(), config.inner())
                    : null;
        }

        @Override
        public String toString() {
            return "%s on %d matrices".formatted(config, matrices.size());
        }
    }

    /** The step of one matrix. */
    record Projected(int rank, int gap, double scale, Inner inner) implements PerParameter.Rule {

        @Override
        public Map<String, Kept> layout(DType dtype, long[] shape) {
            Map<String, Kept> layout = new LinkedHashMap<>();
            layout.put(
                    "projection",
                    new Kept(dtype, right(shape) ? new long[] {rank, shape[1]} : new long[] {shape[0], rank}));
            layout.putAll(
                    inner.layout(dtype, right(shape) ? new long[] {shape[0], rank} : new long[] {rank, shape[1]}));
            return layout;
        }

        @Override
        public void update(Tensor value, Tensor gradient, Memory memory, ParameterGroup group, double learningRate) {
            double rate = learningRate * group.lrFactor();
            double decay = group.weightDecay();
            boolean right = right(value.shape());
            if ((memory.step() - 1) % gap == 0) {
                memory.set("projection", basis(gradient, right, rank));
            }
            if (inner.decaysFirst() && decay != 0) {
                value.mul_(1 - rate * decay);
            }
            Tensor p = memory.at("projection");
            Tensor low = right ? gradient.matmul(p.t()) : p.t().matmul(gradient); // R [out, r] or [r, in]
            Tensor step = inner.step(low, memory, rate);
            if (right) {
                value.addmm_(step, p, -scale);
            } else {
                value.addmm_(p, step, -scale);
            }
            if (!inner.decaysFirst() && decay != 0) {
                value.mul_(1 - rate * decay);
            }
        }

        private static boolean right(long[] shape) {
            return shape[0] >= shape[1];
        }
    }

    /** P: the top r singular vectors of one side of a gradient, each with its entry of largest magnitude positive. */
    static Tensor basis(Tensor gradient, boolean right, long rank) {
        Tensor vectors = Svd.EXACT
                .of(right ? gradient.t() : gradient, 0, 0, new Seed(0))
                .get(0)
                .narrow(1, 0, rank); // [side, r]
        return right ? vectors.t() : vectors;
    }
}
