package dev.espalier.optim;

import dev.espalier.optim.Frugal.Active;
import dev.espalier.optim.Frugal.Config;
import dev.espalier.optim.Frugal.Subspace;
import dev.espalier.optim.PerParameter.Kept;
import dev.espalier.optim.PerParameter.Memory;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Generator;
import dev.espalier.tensor.Tensor;
import dev.espalier.train.AdamW;
import dev.espalier.train.ParameterGroup;
import java.util.LinkedHashMap;
import java.util.Map;

/**
 * FRUGAL's step of one matrix: down and up between its gradient and the share of it that has state, and how each part moves.
 *
 * @param matrices what it is one of
 * @param name of its parameter
 */
record FrugalStep(FrugalMatrices matrices, String name) implements PerParameter.Rule {

    private Config config() {
        return matrices.config();
    }

    /** How many columns, rows, entries or vectors have state; of block, whether the matrix may have any. */
    private long kept(long[] shape) {
        double rho = matrices.stateful().contains(name) ? config().rho() : 0;
        long all = switch (config().subspace()) {
            case BLOCK -> matrices.whole() > 0 && rho > 0 ? 1 : 0;
            case COLUMNS -> shape[1];
            case ROWS -> shape[0];
            case RANDK -> shape[0] * shape[1];
            case SVD, RANDOM, RANDPERM -> right(shape) ? shape[1] : shape[0];
        };
        return switch (config().subspace()) {
            case BLOCK -> all;
            case COLUMNS, ROWS, RANDK -> (long) Math.floor(rho * (double) all + 1e-9); // 0.29 · 100 is 29
            case SVD, RANDOM, RANDPERM -> Math.min((long) Math.rint(rho * (double) all), Math.min(shape[0], shape[1]));
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
        return config().subspace() != Subspace.BLOCK || matrices.isWhole(name, (step - 1) / config().gap());
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
        try (Generator generator = matrices.seed().named(name).at(period).generator()) {
            switch (config().subspace()) {
                case BLOCK -> {}
                case COLUMNS -> memory.set("indices", drawn(generator, shape[1], k));
                case ROWS -> memory.set("indices", drawn(generator, shape[0], k));
                case RANDK -> memory.set("indices", drawn(generator, shape[0] * shape[1], k));
                case SVD -> memory.set("projection", GaLore.basis(gradient, right, k));
                case RANDOM -> {
                    Tensor q =
                            generator.randn(right ? shape[1] : shape[0], k).qr().get(0); // [n, r]
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
                adam.beta1() == 0 ? z : memory.at("exp_avg").mul_(adam.beta1()).add_(z);
        };
    }
}
