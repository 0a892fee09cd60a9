package dev.espalier.nn;

import dev.espalier.Check;
import dev.espalier.tensor.Tensor;

/** Zeroes elements with probability p while training and scales the rest by 1/(1 - p). */
public final class Dropout extends Module {

    private final double p;

    /** @param p in [0, 1) */
    public Dropout(double p) {
        Check.check(p >= 0 && p < 1, "dropout must lie in [0, 1), found %s; try 0.1", p);
        this.p = p;
    }

    /** x, thinned out while training. */
    public Tensor forward(Tensor x) {
        return x.dropout(p, isTraining());
    }
}
