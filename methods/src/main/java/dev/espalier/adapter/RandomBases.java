package dev.espalier.adapter;

import dev.espalier.adapter.RandLora.Config;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Generator;
import dev.espalier.tensor.Tensor;
import java.util.ArrayList;
import java.util.List;

/** RandLoRA's random bases, the same for all layers: PEFT's draws, or sparse ones. */
final class RandomBases {

    private RandomBases() {}

    /** A [r, 1, m] and B [M, n, r] of unit standard deviation. */
    static List<Tensor> of(Config config, long m, long max) {
        long r = config.r();
        long n = -Math.floorDiv(-m, r);
        try (Generator generator = Generator.of(config.key())) {
            if (config.sparse() || config.verySparse()) {
                double share = 1 / (2 * (config.verySparse() ? Math.sqrt((double) m) : 3));
                return List.of(ternary(generator, share, r, 1, m), ternary(generator, share, max, n, r));
            }
            double bound = 1 / Math.sqrt((double) m);
            Tensor a = generator.uniform(-bound, bound, DType.BFLOAT16, r, 1, m);
            List<Tensor> b = new ArrayList<>();
            for (long j = 0; j < n; j++) {
                double other = 1 / Math.sqrt((double) r);
                b.add(generator.uniform(-other, other, DType.BFLOAT16, max, 1, r));
            }
            return List.of(unit(a), unit(Tensor.cat(b, 1)));
        }
    }

    /** From u uniform in [0, 1): -1 below share, 1 above 1 - share, else 0; then divided by the standard deviation. */
    static Tensor ternary(Generator generator, double share, long... shape) {
        Tensor u = generator.uniform(0, 1, shape);
        return unit(u.gt(1 - share).to(DType.FLOAT32).sub(u.lt(share).to(DType.FLOAT32)));
    }

    private static Tensor unit(Tensor t) {
        return t.div(t.std()).to(DType.FLOAT32);
    }
}
