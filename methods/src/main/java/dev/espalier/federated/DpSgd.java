package dev.espalier.federated;

import dev.espalier.data.Encoding;
import dev.espalier.nn.Parameter;
import dev.espalier.tensor.Generator;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;

/**
 * The private part of a client's step: who is in the batch, and what the gradient becomes.
 *
 * <p>Abadi et al., <i>Deep Learning with Differential Privacy</i>, arXiv:1607.00133, algorithm 1, at the level of a record:
 *
 * <pre>{@code
 * each of n records is in the batch with chance q = 1 / ⌈n/b⌉, independently
 * g = ( Σ_i g_i min(1, C / (‖g_i‖ + 1e-6)) + N(0, σ² C² I) ) / m,    m = ⌊n / ⌈n/b⌉⌋, the expected size
 * }</pre>
 *
 * <p>The norm is over everything that trains, together. A step whose batch is empty is noise alone, and counts. Noise and choice
 * come from PyTorch's and Java's generators, seeded so that a run can be repeated: enough to study a method, while a deployment
 * needs a cryptographic generator.
 *
 * @param records n, at least 1
 * @param batch b, at least 1
 */
record DpSgd(int records, int batch) {

    /** Batches of one pass: ⌈n/b⌉. */
    int batches() {
        return (records + batch - 1) / batch;
    }

    /** q. */
    double chance() {
        return 1.0 / batches();
    }

    /** m. */
    int expected() {
        return records / batches();
    }

    /** Draws a batch, which may be empty. */
    List<Encoding> draw(List<Encoding> data, Seed seed) {
        Random random = new Random(seed.named("poisson").value());
        List<Encoding> drawn = new ArrayList<>();
        for (Encoding encoding : data) {
            if (random.nextDouble() < chance()) {
                drawn.add(encoding);
            }
        }
        return drawn;
    }

    /** Zeros, to add clipped gradients to. */
    static Map<Parameter, Tensor> sums(Iterable<Parameter> trained) {
        Map<Parameter, Tensor> sums = new LinkedHashMap<>();
        trained.forEach(p -> sums.put(p, p.tensor().detach().zerosLike()));
        return sums;
    }

    /**
     * Makes the gradients of a step.
     *
     * @param sums of clipped gradients, which are altered
     * @param deviation σ C; 0 for no noise
     */
    void setGradients(Map<Parameter, Tensor> sums, double deviation, Seed seed) {
        try (Generator noise = seed.named("noise").generator()) {
            sums.forEach((p, sum) -> {
                try (Grad off = Grad.off()) {
                    if (deviation > 0) {
                        Tensor draw = noise.normal(0, deviation, p.shape());
                        sum.add_(draw.to(sum.dtype()).to(sum.device()));
                    }
                    sum.div_(Tensor.scalar(expected(), sum.dtype()).to(sum.device()));
                }
                p.tensor().backward(sum); // a leaf takes it over as its gradient
            });
        }
    }
}
