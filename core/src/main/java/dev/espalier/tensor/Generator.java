package dev.espalier.tensor;

import org.bytedeco.pytorch.GeneratorOptional;
import org.bytedeco.pytorch.global.torch;

/**
 * A stream of random numbers of its own: PyTorch's CPU generator (Mersenne Twister 19937), so that a seed gives the
 * numbers that {@code torch.Generator().manual_seed(seed)} gives.
 */
public final class Generator implements AutoCloseable {

    static {
        Natives.prepare();
    }

    private final org.bytedeco.pytorch.Generator handle;
    private final GeneratorOptional optional;

    private Generator(org.bytedeco.pytorch.Generator handle) {
        this.handle = handle.retainReference();
        this.optional = new GeneratorOptional(handle).retainReference();
    }

    /** A generator that starts from a seed. */
    public static Generator of(long seed) {
        return new Generator(torch.make_generator_cpu(seed));
    }

    /**
     * Seeds the generator from which {@link Tensor#dropout} draws. Training calls it before every step with a number
     * made of seed and step, so that a resumed run needs no saved state.
     */
    public static void seedDropout(long seed) {
        torch.manual_seed(seed);
    }

    /** Values from N(0, 1), float32. */
    public Tensor randn(long... shape) {
        return normal(0, 1, shape);
    }

    /** Values from N(mean, std²), float32. */
    public Tensor normal(double mean, double std, long... shape) {
        Tensor t = Tensor.empty(DType.FLOAT32, shape);
        t.handle().normal_(mean, std, optional);
        return t;
    }

    /** Values uniform in [low, high), float32. */
    public Tensor uniform(double low, double high, long... shape) {
        Tensor t = Tensor.empty(DType.FLOAT32, shape);
        t.handle().uniform_(low, high, optional);
        return t;
    }

    /**
     * Kaiming's uniform with a = √5, PyTorch's default for a linear layer: uniform in ±1/√fan_in, where fan_in is the
     * product of all dimensions but the first.
     */
    public Tensor kaimingUniform(long... shape) {
        long fanIn = 1;
        for (int i = 1; i < shape.length; i++) {
            fanIn *= shape[i];
        }
        double bound = 1 / Math.sqrt((double) fanIn);
        return uniform(-bound, bound, shape);
    }

    /** Row-wise draws without replacement from probabilities [.., n]; int64 [.., count]. */
    public Tensor multinomial(Tensor probabilities, long count) {
        return Tensor.call(
                "multinomial", () -> probabilities.handle().multinomial(count, false, optional), probabilities);
    }

    @Override
    public void close() {
        optional.deallocate();
        handle.deallocate();
    }
}
