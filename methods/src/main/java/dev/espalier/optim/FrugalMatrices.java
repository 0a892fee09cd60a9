package dev.espalier.optim;

import static dev.espalier.Check.check;

import dev.espalier.optim.Frugal.Config;
import dev.espalier.optim.Frugal.Order;
import dev.espalier.optim.Frugal.Subspace;
import dev.espalier.optim.PerParameter.Kept;
import dev.espalier.tensor.Generator;
import dev.espalier.tensor.Seed;
import dev.espalier.train.Optimizer;
import dev.espalier.train.ParameterGroup;
import java.util.List;
import org.jspecify.annotations.Nullable;

/**
 * FRUGAL's settings with the matrices they are for, of which some are whole in a period if the subspace is a block.
 *
 * @param matrices names of the parameters, in the network's order
 * @param stateful those of them that may have state
 * @param whole how many of these have it at a time, with block
 */
record FrugalMatrices(Config config, List<String> matrices, List<String> stateful, int whole, Seed seed)
        implements Optimizer.Config {

    /** Settings for matrices by name, in the network's order. */
    static FrugalMatrices of(Config config, List<String> matrices, Seed seed) {
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
        return new FrugalMatrices(config, List.copyOf(matrices), stateful, whole, seed.named("frugal"));
    }

    private static boolean isCalled(String parameter, String last) {
        return parameter.endsWith("." + last + ".weight");
    }

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
                .mapToLong(e -> new FrugalStep(this, e.getKey())
                        .layout(PerParameter.wide(e.getValue()), e.getValue().shape()).values().stream()
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
        return matrices.contains(name) ? new FrugalStep(this, name) : null;
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
