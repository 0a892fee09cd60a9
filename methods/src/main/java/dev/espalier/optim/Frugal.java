package dev.espalier.optim;

import static dev.espalier.Check.check;

import dev.espalier.adapter.Method;
import dev.espalier.adapter.OptimizerMethod;
import dev.espalier.adapter.Setting;
import dev.espalier.io.Fields;
import dev.espalier.train.AdamW;
import dev.espalier.train.Optimizer;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/**
 * FRUGAL: a share of each gradient moves by Adam, and the rest, for which nothing is remembered, by its sign.
 *
 * <p>Zmushko et al., <i>FRUGAL: Memory-Efficient Optimization by Reducing State Overhead for Scalable Training</i>,
 * arXiv:2411.07837, algorithm 1.
 *
 * <pre>{@code
 * every T updates, from the first on:  other subspaces, state to zero
 * z = down(G),   E = G - up(z)
 * W ← (1 - lr λ) W,   W ← W - lr s_p up(Adam(z)),   W ← W - lr s_p s_f sign(E)
 * G, E, W [out, in]    columns: z = G[:, J] [out, ⌊ρ in⌋]    block: z = G of ρ of the matrices, nothing of the others
 * svd, random, randperm: z = G Pᵀ [out, r], P [r, in], or Pᵀ G [r, in], P [out, r];  r = ρ min(out, in)
 * }</pre>
 *
 * <p>Matrices are the linear layers of the network's blocks; all else moves by AdamW. A choice is a function of seed, matrix and
 * number, so that a resumed run chooses the same. Departures from the authors' code: each matrix counts its own updates (there the
 * first one's count decides for all), a momentum of plain descent starts at zero, and singular vectors have fixed signs. Checked
 * against the authors' code over several steps (svd and block), and by hand (the rest).
 */
public final class Frugal implements OptimizerMethod<Frugal.Config> {

    /** What share of a gradient has state. */
    public enum Subspace {
        /** Random columns. */
        COLUMNS,
        /** Random rows. */
        ROWS,
        /** Random entries. */
        RANDK,
        /** Some of the matrices whole, of the others nothing. */
        BLOCK,
        /** The leading singular vectors of the gradient. */
        SVD,
        /** Random orthonormal vectors. */
        RANDOM,
        /** Random unit vectors. */
        RANDPERM;

        boolean projects() {
            return this == SVD || this == RANDOM || this == RANDPERM;
        }
    }

    /** How the share without state moves. */
    public enum Rule {
        /** By the sign of its gradient. */
        SIGN,
        /** By its gradient. */
        SGD,
        /** Not at all. */
        NONE
    }

    /** How the share with state moves. */
    public enum Active {
        /** Adam. */
        ADAMW,
        /** Lion: the sign of a mean with β1, the mean then kept with β2. */
        LION,
        /** Descent with momentum β1. */
        SGD
    }

    /** Which matrices are whole in a period. */
    public enum Order {
        /** Drawn anew. */
        RANDOM,
        /** From the last on downwards, and round. */
        DESCENDING,
        /** From the first on upwards, and round. */
        ASCENDING,
        /** Half from each end inwards, and round. */
        MIRROR
    }

    /** Which side of a matrix is projected. */
    public enum Side {
        /** The shorter. */
        STD,
        /** The longer. */
        REVERSE_STD,
        /** The outputs. */
        LEFT,
        /** The inputs. */
        RIGHT
    }

    /**
     * Settings, by the authors' names in brackets.
     *
     * @param rho [density] ρ, share of the gradients that has state, in [0, 1]
     * @param gap [update_gap] T, updates between two choices, at least 1
     * @param subspace [coord_choice, proj_type] what that share is
     * @param order [block_order] which matrices are whole in a period
     * @param side [proj_side] which side of a matrix is projected
     * @param active how it moves
     * @param rule [inactive_update_rule] how the rest moves
     * @param scale [proj_params_lr_scale] s_p, multiplies the rate of matrices, at least 0
     * @param inactiveScale [inactive_lr_scale] s_f, multiplies the rate of the rest, at least 0
     * @param reset [reset_statistics] whether state is zero after a choice; with block it always is
     * @param stateful last names of the layers that have state at all, such as query; none for all
     * @param adam β1, β2, ε and weight decay, of all parameters
     */
    public record Config(
            double rho,
            int gap,
            Subspace subspace,
            Order order,
            Side side,
            Active active,
            Rule rule,
            double scale,
            double inactiveScale,
            boolean reset,
            List<String> stateful,
            AdamW.Config adam) {

        /** As the authors' optimisers, with the subspace of their fine-tuning. */
        public static final Config DEFAULT = new Config(
                0.25,
                200,
                Subspace.COLUMNS,
                Order.RANDOM,
                Side.STD,
                Active.ADAMW,
                Rule.SIGN,
                1,
                1,
                true,
                List.of(),
                new AdamW.Config(0.9, 0.999, 1e-8, 0.01));

        /** Checks the ranges. */
        public Config {
            check(rho >= 0 && rho <= 1, "density must lie in [0, 1], found %s; try 0.25", rho);
            check(gap >= 1, "update_gap must be at least 1, found %d; try 200", gap);
            checkScale("proj_params_lr_scale", scale);
            checkScale("inactive_lr_scale", inactiveScale);
            stateful = List.copyOf(stateful);
        }

        private static void checkScale(String name, double scale) {
            check(
                    scale >= 0 && Double.isFinite(scale),
                    "%s must be at least 0 and finite, found %s; try 1",
                    name,
                    scale);
        }

        Config withRho(double other) {
            return new Config(
                    other, gap, subspace, order, side, active, rule, scale, inactiveScale, reset, stateful, adam);
        }
    }

    @Override
    public About about() {
        return new About(
                "frugal",
                "optimizer",
                "whole weights train: a share of each gradient by Adam, the rest without state by its sign",
                "Zmushko et al., FRUGAL: Memory-Efficient Optimization by Reducing State Overhead for Scalable Training,"
                        + " arXiv:2411.07837",
                """
                z = down(G),  W ← W - lr s_p (up(Adam(z)) + s_f sign(G - up(z))),  another subspace every T updates
                state a matrix: 2 ρ out · in numbers (and ρ in integers, or P), against 2 · out · in of Adam""",
                "full, with any loss term and with layer samplers; not with adapters, whose factors are small already",
                "nothing: it leaves no trace in the weights that are saved",
                true);
    }

    @Override
    public Map<String, String> meanings() {
        return Map.ofEntries(
                Map.entry("density", "ρ, share of the matrices' gradients that has state, in [0, 1]; 0: signs alone"),
                Map.entry("update_gap", "T, updates between two choices of that share, at least 1"),
                Map.entry(
                        "subspace",
                        "what the share is: columns, rows, randk (entries), block (some matrices whole), or a projection"
                                + " on svd, random or randperm vectors"),
                Map.entry(
                        "block_order", "of block: random, descending, ascending or mirror (an even number at a time)"),
                Map.entry("proj_side", "of a projection: std (the shorter side), reverse_std, left or right"),
                Map.entry(
                        "active",
                        "how the share with state moves: adamw, lion (β2 0.99 is usual) or sgd (momentum β1)"),
                Map.entry("inactive_update_rule", "how the rest moves: sign, sgd or none"),
                Map.entry("proj_params_lr_scale", "s_p, multiplies the learning rate of matrices, at least 0"),
                Map.entry("inactive_lr_scale", "s_f, multiplies it for the rest, at least 0; 0.1 for fine-tuning"),
                Map.entry("reset_statistics", "whether state is zero after a choice; with block it always is"),
                Map.entry("stateful_modules", "layers that have state at all, by their last name; none for all"),
                Map.entry("beta1", "decay of the mean gradient, in [0, 1)"),
                Map.entry("beta2", "decay of the mean squared gradient, in [0, 1)"),
                Map.entry("eps", "added to the denominator, above 0"),
                Map.entry("weightDecay", "λ, at least 0, scaled by neither s_p nor s_f"));
    }

    @Override
    public Config read(Fields f) {
        Config usual = Config.DEFAULT;
        return new Config(
                f.number("density", usual.rho()),
                f.integer("update_gap", usual.gap()),
                f.choice("subspace", usual.subspace()),
                f.choice("block_order", usual.order()),
                f.choice("proj_side", usual.side()),
                f.choice("active", usual.active()),
                f.choice("inactive_update_rule", usual.rule()),
                f.number("proj_params_lr_scale", usual.scale()),
                f.number("inactive_lr_scale", usual.inactiveScale()),
                f.bool("reset_statistics", usual.reset()),
                f.strings("stateful_modules", usual.stateful()),
                AdamWMethod.read(f, usual.adam()));
    }

    @Override
    public @Nullable String objection(Method other) {
        return Matrices.objection("FRUGAL", other);
    }

    @Override
    public Optimizer.Config create(Config config, Setting setting) {
        return FrugalMatrices.of(
                config, List.copyOf(Matrices.ofBlocks(setting, name(), 1).keySet()), setting.seed());
    }
}
