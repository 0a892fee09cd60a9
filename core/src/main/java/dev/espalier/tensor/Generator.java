package dev.espalier.tensor;

import org.bytedeco.pytorch.GeneratorOptional;
import org.bytedeco.pytorch.TensorOptions;
import org.bytedeco.pytorch.global.torch;

/**
 * A stream of random numbers of its own: PyTorch's CPU generator, so that a seed gives the numbers that {@code
 * torch.Generator().manual_seed(seed)} gives.
 *
 * <p>To the bit: the stream is that of the Mersenne Twister MT19937 of Matsumoto and Nishimura (1998), initialised by their
 * {@code init_genrand} from the low 32 bits of the seed. Each draw w is its next tempered 32-bit word. Tensors are filled in
 * the order of their memory:
 *
 * <ul>
 *   <li>{@link #uniform}, float32: u = (w mod 2²⁴) · 2⁻²⁴, the value is u · (high - low) + low in float32, multiplied and added
 *       with one rounding (a fused multiply-add) on processors that can, which is every x86-64 since 2013 and every 64-bit
 *       ARM; bfloat16: u = (w mod 2⁸) · 2⁻⁸, bounds rounded to bfloat16 first, the result rounded to it.
 *   <li>{@link #normal} of 16 elements or more: u is drawn for all of them as above; then in each block of 16, for j from 0 to
 *       7, elements j and j + 8 become r cos θ and r sin θ times std plus mean, with r = √(-2 ln(1 - u_j)) and θ = 2π u_{j+8};
 *       if a block is left that is not full, the last 16 elements are drawn anew and treated so. The logarithm and the
 *       trigonometric functions are the processor's, so the last bits may differ between kinds of processors.
 *   <li>{@link #randperm}: starting from 0, 1, ..., n - 1, for i from 0 to n - 2, element i is exchanged with element i + (w mod
 *       (n - i)); below 2³²/20 elements, beyond which a 64-bit word takes the place of w.
 * </ul>
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
        return uniform(low, high, DType.FLOAT32, shape);
    }

    /** Values uniform in [low, high) of a floating type. */
    public Tensor uniform(double low, double high, DType dtype, long... shape) {
        Tensor t = Tensor.empty(dtype, shape);
        t.handle().uniform_(low, high, optional);
        return t;
    }

    /** The numbers 0 to n - 1 in random order, int64. */
    public Tensor randperm(long n) {
        return Tensor.call("randperm", () -> torch.randperm(n, optional, new TensorOptions(torch.ScalarType.Long)));
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
