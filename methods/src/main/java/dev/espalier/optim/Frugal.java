package dev.espalier.optim;

import static dev.espalier.Check.check;

import dev.espalier.adapter.Method;
import dev.espalier.adapter.OptimizerMethod;
import dev.espalier.adapter.Setting;
import dev.espalier.io.Fields;
import dev.espalier.optim.PerParameter.Kept;
import dev.espalier.optim.PerParameter.Memory;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Generator;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import dev.espalier.train.AdamW;
import dev.espalier.train.Optimizer;
import dev.espalier.train.ParameterGroup;
import java.util.LinkedHashMap;
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

        private boolean projects() {
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
        return bound(config, List.copyOf(Matrices.ofBlocks(setting, name(), 1).keySet()), setting.seed());
    }

    /** Settings for matrices by name, in the network's order. */
    static Bound bound(Config config, List<String> matrices, Seed seed) {
        config.stateful()
                .forEach(last -> check(
                        matrices.stream().anyMatch(name -> isCalled(name, last)),
                        "stateful_modules: %s is the last name of none of the %d trained matrices; the first is %s",
                        last,
                        matrices.size(),
                        matrices.get(0)));
        List<String> stateful = matrices.stream()
                .filter(name -> config.stateful().isEmpty()
                        || config.stateful().stream().anyMatch(last -> isCalled(name, last)))
                .toList();
        int whole = (int) Math.rint(config.rho() * stateful.size());
        check(
                config.subspace() != Subspace.BLOCK || config.order() != Order.MIRROR || whole % 2 == 0,
                "block_order mirror takes matrices in pairs, and a density of %s means %d of %d; try %s",
                config.rho(),
                whole,
                stateful.size(),
                (whole + 1.0) / stateful.size() <= 1
                        ? (whole + 1.0) / stateful.size()
                        : (whole - 1.0) / stateful.size());
        return new Bound(config, List.copyOf(matrices), stateful, whole, seed.named("frugal"));
    }

    private static boolean isCalled(String parameter, String last) {
        return parameter.endsWith("." + last + ".weight");
    }

    /**
     * Settings with what they are for.
     *
     * @param matrices names of the parameters, in the network's order
     * @param stateful those of them that may have state
     * @param whole how many of these have it at a time, with block
     */
    record Bound(Config config, List<String> matrices, List<String> stateful, int whole, Seed seed)
            implements Optimizer.Config {

        @Override
        public Optimizer create(List<ParameterGroup> groups) {
            return new PerParameter(groups, this::rule, config.adam());
        }

        /** With block, where matrices differ in size, the most that a period can hold. */
        @Override
        public long stateBytes(List<ParameterGroup> groups) {
            long all = PerParameter.stateBytes(groups, this::rule, config.adam());
            if (config.subspace() != Subspace.BLOCK) {
                return all;
            }
            long[] sizes = groups.stream()
                    .flatMap(group -> group.parameters().entrySet().stream())
                    .filter(e -> stateful.contains(e.getKey()))
                    .mapToLong(e -> new Split(this, e.getKey())
                                    .layout(
                                            PerParameter.wide(e.getValue()),
                                            e.getValue().shape())
                                    .values()
                                    .stream()
                                    .mapToLong(Kept::bytes)
                                    .sum())
                    .sorted()
                    .toArray();
            for (int i = 0; i < sizes.length - whole; i++) {
                all -= sizes[i];
            }
            return all;
        }

        @Override
        public double weightDecay() {
            return config.adam().weightDecay();
        }

        private PerParameter.@Nullable Rule rule(String name) {
            return matrices.contains(name) ? new Split(this, name) : null;
        }

        /** Whether a matrix is whole in a period, counted from 0. */
        boolean isWhole(String name, long period) {
            int n = stateful.size();
            int i = stateful.indexOf(name);
            long start = period * whole;
            return i >= 0
                    && switch (config.order()) {
                        case RANDOM -> {
                            try (Generator generator = seed.at(period).generator()) {
                                long[] order = generator.randperm(n).longs();
                                boolean drawn = false;
                                for (int j = 0; j < whole; j++) {
                                    drawn |= order[j] == i;
                                }
                                yield drawn;
                            }
                        }
                        case ASCENDING -> Math.floorMod(i - start, (long) n) < whole;
                        case DESCENDING -> Math.floorMod(n - 1 - i - start, (long) n) < whole;
                        case MIRROR -> {
                            int fromEnd = Math.min(i, n - 1 - i);
                            yield fromEnd < n / 2
                                    && Math.floorMod(fromEnd - period * (whole / 2), (long) (n / 2)) < whole / 2;
                        }
                    };
        }

        @Override
        public String toString() {
            return "%s on %d matrices, %s".formatted(config, matrices.size(), seed);
        }
    }

    /** The step of one matrix. */
    record Split(Bound bound, String name) implements PerParameter.Rule {

        private Config config() {
            return bound.config();
        }

        /** How many columns, rows, entries or vectors have state; of block, whether the matrix may have any. */
        private long kept(long[] shape) {
            double rho = bound.stateful().contains(name) ? config().rho() : 0;
            long all = switch (config().subspace()) {
                case BLOCK -> bound.whole() > 0 && rho > 0 ? 1 : 0;
                case COLUMNS -> shape[1];
                case ROWS -> shape[0];
                case RANDK -> shape[0] * shape[1];
                case SVD, RANDOM, RANDPERM -> right(shape) ? shape[1] : shape[0];
            };
            return switch (config().subspace()) {
                case BLOCK -> all;
                case COLUMNS, ROWS, RANDK -> (long) Math.floor(rho * (double) all + 1e-9); // 0.29 · 100 is 29
                case SVD, RANDOM, RANDPERM ->
                    Math.min((long) Math.rint(rho * (double) all), Math.min(shape[0], shape[1]));
            };
        }

        private boolean right(long[] shape) {
            return switch (config().side()) {
                case STD -> shape[0] >= shape[1];
                case REVERSE_STD -> shape[0] < shape[1];
                case LEFT -> false;
                case RIGHT -> true;
            };
        }

        @Override
        public Map<String, Kept> layout(DType dtype, long[] shape) {
            long k = kept(shape);
            if (k == 0) {
                return Map.of();
            }
            boolean right = right(shape);
            long[] low = switch (config().subspace()) {
                case BLOCK -> shape;
                case COLUMNS -> new long[] {shape[0], k};
                case ROWS -> new long[] {k, shape[1]};
                case RANDK -> new long[] {k};
                case SVD, RANDOM, RANDPERM -> right ? new long[] {shape[0], k} : new long[] {k, shape[1]};
            };
            Map<String, Kept> layout = new LinkedHashMap<>();
            if (config().active() != Active.SGD || config().adam().beta1() > 0) {
                layout.put("exp_avg", new Kept(dtype, low));
            }
            if (config().active() == Active.ADAMW) {
                layout.put("exp_avg_sq", new Kept(dtype, low));
            }
            if (config().subspace().projects()) {
                layout.put("projection", new Kept(dtype, right ? new long[] {k, shape[1]} : new long[] {shape[0], k}));
            } else if (config().subspace() != Subspace.BLOCK) {
                layout.put("indices", new Kept(DType.INT32, k));
            }
            return layout;
        }

        @Override
        public boolean holds(long step) {
            return config().subspace() != Subspace.BLOCK || bound.isWhole(name, (step - 1) / config().gap());
        }

        @Override
        public void update(Tensor value, Tensor gradient, Memory memory, ParameterGroup group, double learningRate) {
            double rate = learningRate * group.lrFactor();
            long period = (memory.step() - 1) / config().gap();
            boolean stateful = kept(value.shape()) > 0 && holds(memory.step());
            if ((memory.step() - 1) % config().gap() == 0) {
                if (config().reset() || config().subspace() == Subspace.BLOCK) {
                    memory.drop();
                }
                if (stateful) {
                    choose(gradient, memory, period);
                }
            }
            if (group.weightDecay() != 0) {
                value.mul_(1 - rate * group.weightDecay());
            }
            rate *= config().scale();
            Tensor rest = gradient; // E
            if (stateful) {
                Tensor low = down(gradient, memory); // z
                rest = gradient.sub(up(low, gradient, memory));
                value.add_(up(direction(low, memory), gradient, memory), -rate);
            }
            switch (config().rule()) {
                case SIGN -> value.add_(rest.sign(), -rate * config().inactiveScale());
                case SGD -> value.add_(rest, -rate * config().inactiveScale());
                case NONE -> {}
            }
        }

        /** Another subspace. */
        private void choose(Tensor gradient, Memory memory, long period) {
            long[] shape = gradient.shape();
            long k = kept(shape);
            boolean right = right(shape);
            try (Generator generator = bound.seed().named(name).at(period).generator()) {
                switch (config().subspace()) {
                    case BLOCK -> {}
                    case COLUMNS -> memory.set("indices", drawn(generator, shape[1], k));
                    case ROWS -> memory.set("indices", drawn(generator, shape[0], k));
                    case RANDK -> memory.set("indices", drawn(generator, shape[0] * shape[1], k));
                    case SVD -> memory.set("projection", GaLore.basis(gradient, right, k));
                    case RANDOM -> {
                        Tensor q = generator
                                .randn(right ? shape[1] : shape[0], k)
                                .qr()
                                .get(0); // [n, r]
                        memory.set("projection", right ? q.t() : q);
                    }
                    case RANDPERM -> {
                        long n = right ? shape[1] : shape[0];
                        Tensor units = Tensor.eye(n, DType.FLOAT32).indexSelect(0, drawn(generator, n, k)); // [r, n]
                        memory.set("projection", right ? units : units.t());
                    }
                }
            }
        }

        private static Tensor drawn(Generator generator, long n, long k) {
            return generator.randperm(n).narrow(0, 0, k);
        }

        /** down(G). */
        private Tensor down(Tensor g, Memory memory) {
            return switch (config().subspace()) {
                case BLOCK -> g;
                case COLUMNS -> g.indexSelect(1, indices(memory));
                case ROWS -> g.indexSelect(0, indices(memory));
                case RANDK -> g.reshape(-1).indexSelect(0, indices(memory));
                case SVD, RANDOM, RANDPERM -> {
                    Tensor p = memory.at("projection");
                    yield right(g.shape()) ? g.matmul(p.t()) : p.t().matmul(g);
                }
            };
        }

        /** up(z), in the shape of a gradient. */
        private Tensor up(Tensor z, Tensor like, Memory memory) {
            return switch (config().subspace()) {
                case BLOCK -> z;
                case COLUMNS -> like.zerosLike().indexAdd(1, indices(memory), z);
                case ROWS -> like.zerosLike().indexAdd(0, indices(memory), z);
                case RANDK ->
                    like.zerosLike().reshape(-1).indexAdd(0, indices(memory), z).reshape(like.shape());
                case SVD, RANDOM, RANDPERM -> {
                    Tensor p = memory.at("projection");
                    yield right(like.shape()) ? z.matmul(p) : p.matmul(z);
                }
            };
        }

        private static Tensor indices(Memory memory) {
            return memory.at("indices").to(DType.INT64);
        }

        /** The step of the share with state, at rate 1. */
        private Tensor direction(Tensor z, Memory memory) {
            AdamW.Config adam = config().adam();
            boolean reset = config().reset() || config().subspace() == Subspace.BLOCK;
            long t = reset ? (memory.step() - 1) % config().gap() + 1 : memory.step();
            return switch (config().active()) {
                case ADAMW -> Inner.direction(memory.at("exp_avg"), memory.at("exp_avg_sq"), z, t, adam);
                case LION -> {
                    Tensor mean = memory.at("exp_avg");
                    Tensor u = mean.mul(adam.beta1()).add(z, 1 - adam.beta1()).sign();
                    mean.lerp_(z, 1 - adam.beta2());
                    yield u;
                }
                case SGD ->
                    adam.beta1() == 0
                            ? z
                            : memory.at("exp_avg").mul_(adam.beta1()).add_(z);
            };
        }
    }
}
