package dev.espalier.compress;

import dev.espalier.nn.Layer;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Device;
import dev.espalier.tensor.Tensor;

/** A layer's weight as compressors see it: [out, in], float32, on the processor. */
final class Weights {

    private Weights() {}

    static Tensor of(Layer layer) {
        return layer.weight().to(DType.FLOAT32).to(Device.CPU).contiguous();
    }

    /** Puts other values in place, rounded to the layer's type. */
    static void set(Layer layer, Tensor values) {
        Tensor former = layer.weightParameter().tensor();
        layer.setWeight(values.to(former.dtype()).to(former.device()));
    }
}
