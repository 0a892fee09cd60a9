package dev.espalier.adapter;

import dev.espalier.nn.Parameter;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Tensor;

/**
 * An adapter's own version of one of the network's parameters, put in the network's place while the adapter is active, so
 * that the network's is never changed.
 */
final class Copy {

    final Parameter place;
    private Tensor absent; // the copy while it is out, the network's own tensor while it is in
    private boolean in;

    /** A copy that starts from what the place holds. */
    Copy(Parameter place, boolean trained) {
        this.place = place;
        this.absent = place.tensor().detach().clone().keep();
        absent.requiresGrad_(trained);
    }

    /** Puts the copy in, or the network's own back. */
    void swap(boolean wanted) {
        if (wanted != in) {
            absent = place.exchange(absent);
            in = wanted;
        }
    }

    /** The adapter's version. */
    Tensor tensor() {
        return in ? place.tensor() : absent;
    }

    /** The network's version. */
    Tensor original() {
        return in ? absent : place.tensor();
    }

    /** The largest change of an element. */
    double change() {
        try (Grad off = Grad.off();
                Scope scope = Scope.open()) {
            return tensor().to(DType.FLOAT64)
                    .sub(original().to(DType.FLOAT64))
                    .abs()
                    .max()
                    .item();
        }
    }

    void close() {
        swap(false);
        absent.close();
    }
}
