package dev.espalier.compress;

import static dev.espalier.Check.check;

import dev.espalier.adapter.Targets;
import dev.espalier.io.Fields;
import dev.espalier.tensor.Tensor;
import java.util.Map;

/**
 * 2:4 pruning by magnitude: of every four neighbouring inputs of a row the two smaller weights become zero.
 *
 * <p>Mishra et al., <i>Accelerating Sparse Deep Neural Networks</i>, arXiv:2104.08378, section 3.
 *
 * <pre>{@code
 * w'_j = w_j if |w_j| is among the two largest of its four, else 0        w [out, in], in a multiple of 4
 * }</pre>
 *
 * <p>Of equal ones the first stay. Expected numbers are derived by hand.
 */
public final class Prune24 implements WeightCompressor<Targets> {

    @Override
    public About about() {
        return new About(
                "prune-2-4",
                "compressor",
                "2:4 pruning by magnitude",
                "Mishra et al., Accelerating Sparse Deep Neural Networks, arXiv:2104.08378",
                """
                w'_j = w_j if |w_j| is among the two largest of its four, else 0
                w [out, in], in a multiple of 4""",
                "eora, which compensates it; then any adapter; rtn after it, which keeps the zeros",
                "a model folder with the dense w'",
                false);
    }

    @Override
    public Map<String, String> meanings() {
        return TARGETS;
    }

    @Override
    public Targets read(Fields f) {
        return Targets.read(f);
    }

    @Override
    public Targets targets(Targets config) {
        return config;
    }

    /** The bits are those of a 2:4 kernel: two values of 32 and two places of 2 bits for every four weights. */
    @Override
    public Compressed compress(Targets config, Tensor w, String path) {
        long in = w.size(1);
        check(
                in % 4 == 0,
                "%s has %d inputs, which 2:4 pruning cannot take by fours; exclude it (exclude_modules)",
                path,
                in);
        Tensor fours = w.view(-1, 4);
        Tensor magnitude = fours.abs();
        Tensor mine = magnitude.unsqueeze(2); // [n, 4, 1]
        Tensor other = magnitude.unsqueeze(1); // [n, 1, 4]
        Tensor place = Tensor.arange(4);
        Tensor earlier = place.unsqueeze(0).lt(place.unsqueeze(1)); // [4, 4]: the other one stands before
        Tensor ahead = Tensor.where(other.eq(mine), earlier, other.gt(mine)).sum(2, false); // [n, 4]
        Tensor kept = Tensor.where(ahead.lt(2), fours, fours.zerosLike()).view(w.shape());
        return new Compressed(kept, 17, Map.of());
    }
}
