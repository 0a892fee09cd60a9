package dev.espalier.optim;

import static dev.espalier.Check.check;

import dev.espalier.adapter.Method;
import dev.espalier.adapter.OptimizerMethod;
import dev.espalier.adapter.Setting;
import dev.espalier.io.Fields;
import dev.espalier.tensor.Dct;
import dev.espalier.tensor.Tensor;
import dev.espalier.train.AdamW;
import dev.espalier.train.Optimizer;
import dev.espalier.train.ParameterGroup;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/**
 * DCT-AdamW: whole weights train, with Adam's state in those vectors of the discrete cosine transform that fit the gradient best.
 *
 * <p>Modoranu et al., <i>SVD-Free Low-Rank Adaptive Gradient Optimization for Large Language Models</i>, arXiv:2505.17967,
 * algorithm 1.
 *
 * <pre>{@code
 * A = G + E,   S = A Dᵀ,   idx = the r columns of S with the largest norm,   a = S[:, idx],   E ← A - a D[idx]
 * M, V ← their columns carried to the new places of idx, zeros where a vector is new
 * W ← (1 - lr λ) W,   W ← W - lr Adam(M, V, a) D[idx]
 * G, E, W [out, in], out ≥ in = n    D [n, n]    a, M, V [out, r];   out < in: S = D A [n, in], a = S[idx] [r, in]
 * }</pre>
 *
 * <p>One D serves all matrices of a width; a matrix keeps r integers. Matrices are the linear layers of the network's blocks (the
 * authors': whatever has no side of 32,000, a BERT's token table too), all else moves by AdamW. Departures from the authors' code,
 * beside the repairs of its rotation, sorting and quantiser: each matrix counts its own updates, so that one that comes late is
 * corrected as it should; D is built in float64; matrix product and Fourier transform choose from the same vectors. Trion, of the
 * same paper, is not here. Checked by hand.
 */
public final class DctAdamW implements OptimizerMethod<DctAdamW.Config> {

    /** How a gradient is transformed. */
    public enum Path {
        /** By D, held once for each width. */
        MATMUL,
        /** By a Fourier transform; no D is held. */
        FFT
    }

    /** What is done with what the chosen vectors leave of the gradient. */
    public enum Feedback {
        /** It is dropped. */
        NONE,
        /** It is added to the next gradient, kept as it is. */
        EXACT,
        /** Likewise, kept in 8 bits. */
        EIGHT_BIT
    }

    /**
     * Settings, by the authors' names in brackets.
     *
     * @param rank r, vectors kept, 1 to the smaller side of each matrix
     * @param gap [update_proj_gap] T, updates between two choices, at least 1
     * @param rotate whether state follows its vectors to a new choice
     * @param feedback [error_feedback] what becomes of the rest of a gradient
     * @param norm [ell_norm] p of the norm that ranks vectors, 1 or 2
     * @param path how a gradient is transformed
     * @param adam β1, β2, ε and weight decay, of all parameters
     */
    public record Config(int rank, int gap, boolean rotate, Feedback feedback, int norm, Path path, AdamW.Config adam) {

        /** As the authors, but for the rank, which they leave to the user, and the rotation, which they leave off. */
        public static final Config DEFAULT =
                new Config(128, 1, true, Feedback.NONE, 1, Path.MATMUL, AdamW.Config.DEFAULT);

        /** Checks the ranges. */
        public Config {
            check(rank >= 1, "rank must be at least 1, found %d; try 128", rank);
            check(gap >= 1, "update_proj_gap must be at least 1, found %d; try 1", gap);
            check(norm == 1 || norm == 2, "ell_norm must be 1 or 2, found %d; try 1", norm);
        }
    }

    @Override
    public About about() {
        return new About(
                "dct-adamw",
                "optimizer",
                "whole weights train, with Adam's state in the cosine vectors that fit the gradient best",
                "Modoranu et al., SVD-Free Low-Rank Adaptive Gradient Optimization for Large Language Models, arXiv:2505.17967",
                """
                S = G Dᵀ, idx = the r columns of S [out, n] with the largest norm, W ← W - lr Adam(S[:, idx]) D[idx]
                state a matrix: 2 r · long numbers and r integers, besides one D [n, n] for each width n""",
                "full, with any loss term and with layer samplers; not with adapters, whose factors are small already",
                "nothing: it leaves no trace in the weights that are saved",
                true);
    }

    @Override
    public Map<String, String> meanings() {
        return Map.ofEntries(
                Map.entry("rank", "r, vectors kept, 1 to the smaller side of each matrix"),
                Map.entry("update_proj_gap", "T, updates between two choices, at least 1"),
                Map.entry("rotate", "whether state follows its vectors to a new choice"),
                Map.entry(
                        "error_feedback",
                        "the rest of a gradient: none (dropped), exact or eight_bit (added to the next)"),
                Map.entry("ell_norm", "p of the norm that ranks vectors, 1 or 2 (2 leaves the smallest rest)"),
                Map.entry("path", "matmul (by D), or fft (no D is held; for widths beyond 2,000)"),
                Map.entry("beta1", "decay of the mean gradient, in [0, 1)"),
                Map.entry("beta2", "decay of the mean squared gradient, in [0, 1)"),
                Map.entry("eps", "added to the denominator, above 0"),
                Map.entry("weightDecay", "λ, at least 0"));
    }

    @Override
    public Config read(Fields f) {
        Config usual = Config.DEFAULT;
        AdamW.Config adam = usual.adam();
        return new Config(
                f.integer("rank", usual.rank()),
                f.integer("update_proj_gap", usual.gap()),
                f.bool("rotate", usual.rotate()),
                f.choice("error_feedback", usual.feedback()),
                f.integer("ell_norm", usual.norm()),
                f.choice("path", usual.path()),
                AdamWMethod.read(f, adam));
    }

    @Override
    public @Nullable String objection(Method other) {
        return Matrices.objection("DCT-AdamW", other);
    }

    @Override
    public Optimizer.Config create(Config config, Setting setting) {
        return new Bound(config, Matrices.ofBlocks(setting, name(), config.rank()));
    }

    /** Settings with the matrices that they are for, shapes by name. */
    record Bound(Config config, Map<String, long[]> matrices) implements Optimizer.Config {

        @Override
        public Optimizer create(List<ParameterGroup> groups) {
            Bases bases = new Bases();
            return new PerParameter(groups, name -> rule(name, bases), config.adam(), bases);
        }

        @Override
        public long stateBytes(List<ParameterGroup> groups) {
            Map<Long, Integer> widths = new LinkedHashMap<>();
            groups.forEach(group -> group.parameters().forEach((name, p) -> {
                if (matrices.containsKey(name) && config.path() == Path.MATMUL) {
                    widths.put(
                            Math.min(p.shape()[0], p.shape()[1]),
                            PerParameter.wide(p).bytes());
                }
            }));
            return PerParameter.stateBytes(groups, name -> rule(name, new Bases()), config.adam())
                    + widths.entrySet().stream()
                            .mapToLong(e -> e.getKey() * e.getKey() * e.getValue())
                            .sum();
        }

        @Override
        public boolean separable() {
            return false;
        }

        @Override
        public double weightDecay() {
            return config.adam().weightDecay();
        }

        private PerParameter.@Nullable Rule rule(String name, Bases bases) {
            return matrices.containsKey(name) ? new CosineStep(config, bases) : null;
        }

        @Override
        public String toString() {
            return "%s on %d matrices".formatted(config, matrices.size());
        }
    }

    /** One D for each width. */
    static final class Bases implements PerParameter.Shared {
        private final Map<Long, Tensor> byWidth = new LinkedHashMap<>();

        /** D [n, n] of the type and device of a tensor. */
        Tensor of(long n, Tensor like) {
            return byWidth.computeIfAbsent(
                    n,
                    width -> Dct.matrix(width, like.dtype()).to(like.device()).keep());
        }

        @Override
        public long bytes() {
            return byWidth.values().stream().mapToLong(Tensor::bytes).sum();
        }

        @Override
        public void close() {
            byWidth.values().forEach(Tensor::close);
            byWidth.clear();
        }
    }
}
