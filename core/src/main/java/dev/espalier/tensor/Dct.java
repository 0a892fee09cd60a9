package dev.espalier.tensor;

/**
 * The orthonormal discrete cosine transform of type II.
 *
 * <pre>{@code
 * D[i, j] = √(2 / n) cos(π i (2 j + 1) / (2 n)),  row 0 times √½;   D Dᵀ = I;   the transform of rows x [.., n] is x Dᵀ
 * }</pre>
 */
public final class Dct {

    private Dct() {}

    /** D [n, n], worked out in float64. */
    public static Tensor matrix(long n, DType dtype) {
        return rows(Tensor.arange(n), n, dtype);
    }

    /**
     * Some rows of D, worked out in float64.
     *
     * @param indices int64 [r], each from 0 to n - 1
     * @return [r, n]
     */
    public static Tensor rows(Tensor indices, long n, DType dtype) {
        long[] chosen = indices.longs();
        int r = chosen.length;
        double[] values = new double[Math.toIntExact(r * n)];
        for (int i = 0; i < r; i++) {
            double length = Math.sqrt((chosen[i] == 0 ? 1.0 : 2.0) / n);
            for (int j = 0; j < n; j++) {
                long turn = chosen[i] * (2L * j + 1) % (4 * n); // the cosine of a large argument would be inexact
                values[Math.toIntExact(i * n + j)] = length * Math.cos(Math.PI * turn / (2.0 * n));
            }
        }
        return Tensor.of(values, r, n).to(dtype).to(indices.device());
    }

    /**
     * x Dᵀ by one Fourier transform of length n, for any n, even or odd.
     *
     * <p>Makhoul, <i>A fast cosine transform in one and two dimensions</i>, IEEE Transactions on Acoustics, Speech, and Signal
     * Processing 28 (1980): the even entries, then the odd ones in reverse order, are transformed and turned by a quarter of a
     * step.
     *
     * @param x float32 or float64 [.., n]
     */
    public static Tensor transform(Tensor x) {
        int n = Math.toIntExact(x.size(-1));
        long[] order = new long[n];
        double[] cosines = new double[n];
        double[] sines = new double[n];
        for (int k = 0; k < n; k++) {
            order[k] = 2 * k < n ? 2 * k : 2 * (n - k) - 1;
            double length = Math.sqrt((k == 0 ? 1.0 : 2.0) / n);
            cosines[k] = length * Math.cos(Math.PI * k / (2.0 * n));
            sines[k] = length * Math.sin(Math.PI * k / (2.0 * n));
        }
        Tensor spectrum =
                x.indexSelect(x.dim() - 1, Tensor.of(order).to(x.device())).fft();
        Tensor real = spectrum.real().mul(Tensor.of(cosines).to(x.dtype()).to(x.device()));
        return real.add(spectrum.imag().mul(Tensor.of(sines).to(x.dtype()).to(x.device())));
    }
}
