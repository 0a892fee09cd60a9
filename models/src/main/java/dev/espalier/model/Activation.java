package dev.espalier.model;

import dev.espalier.EspalierException;
import dev.espalier.tensor.Tensor;

/** The nonlinearity of an MLP, as a checkpoint's config names it. */
public enum Activation {
    /** x · sigmoid(x). */
    SILU,
    /** Exact, with erf. */
    GELU,
    /** The approximation with tanh. */
    GELU_TANH,
    /** max(0, x). */
    RELU;

    /**
     * The activation of a name in {@code config.json}.
     *
     * @throws EspalierException for a name that is not supported
     */
    public static Activation of(String where, String name) {
        return switch (name) {
            case "silu", "swish" -> SILU;
            case "gelu" -> GELU;
            case "gelu_new", "gelu_fast", "gelu_pytorch_tanh" -> GELU_TANH;
            case "relu" -> RELU;
            default ->
                throw new EspalierException(
                        "%s: the activation '%s' is not supported; supported are silu, swish, gelu, gelu_new, gelu_fast, gelu_pytorch_tanh and relu"
                                .formatted(where, name));
        };
    }

    /** The activation of x, element by element. */
    Tensor forward(Tensor x) {
        return switch (this) {
            case SILU -> x.silu();
            case GELU -> x.gelu(false);
            case GELU_TANH -> x.gelu(true);
            case RELU -> x.relu();
        };
    }
}
