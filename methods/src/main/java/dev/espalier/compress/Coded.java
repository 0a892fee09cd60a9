package dev.espalier.compress;

import dev.espalier.io.TensorSource;
import dev.espalier.tensor.Tensor;

/** A method whose weights are codes, which {@code codes.safetensors} keeps beside the dense weights. */
public interface Coded {

    /**
     * Decodes a weight.
     *
     * @param codes what the method wrote
     * @param path the layer's
     * @return [out, in] float32, in the current scope: the very values that the dense weight was rounded from
     */
    Tensor decode(TensorSource codes, String path);
}
