package dev.espalier.adapter;

import dev.espalier.nn.Parameter;
import dev.espalier.tensor.Tensor;
import java.util.Map;

/** A trained diagonal between frames at heart: so it computes, saves and exports, however its frames are found. */
interface OnFrames extends Adapter, LoraExpressible {

    /** The diagonal and its frames. */
    Frames frames();

    @Override
    default Tensor forward(Tensor x, Base base) {
        return frames().forward(x, base);
    }

    @Override
    default LoraFactors toLora() {
        return frames().factors();
    }

    @Override
    default Map<String, Parameter> parameters() {
        return frames().named();
    }
}
