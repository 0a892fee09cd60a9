package dev.espalier.adapter;

import static dev.espalier.Check.check;

import dev.espalier.nn.Embedding;
import dev.espalier.nn.Layer;
import dev.espalier.nn.Parameter;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Tensor;

/**
 * A layer that an adapter is for.
 *
 * @param path its place in the network: {@code model.layers.0.self_attn.q_proj}
 */
public record Site(String path, Layer layer) {

    /**
     * The layer, which must take vectors [.., in].
     *
     * @param method which adapter wants it, for the message
     * @throws dev.espalier.EspalierException if it is an embedding
     */
    public Layer linear(String method) {
        check(
                !(layer instanceof Embedding),
                "%s is an embedding, whose input is ids and no vector that %s could change; name linear layers, or use lora",
                path,
                method);
        return layer;
    }

    /**
     * A parameter that trains on the layer's device: float32, or float64 if the layer is.
     *
     * @param start its first value, which may be taken over
     */
    public Parameter trained(Tensor start) {
        Parameter p = frozen(start);
        p.trainable(true);
        return p;
    }

    /** A parameter that does not train, likewise. */
    public Parameter frozen(Tensor value) {
        DType wide = layer.dtype() == DType.FLOAT64 ? DType.FLOAT64 : DType.FLOAT32;
        return new Parameter(value.to(wide).to(layer.weightParameter().tensor().device()));
    }
}
