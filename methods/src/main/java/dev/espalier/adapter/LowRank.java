package dev.espalier.adapter;

import dev.espalier.nn.Parameter;

/** An adapter that trains two low-rank factors, whose starting values an {@link Initializer} may choose. */
public interface LowRank extends Adapter {

    /** A [rank, in]. */
    Parameter a();

    /** B [out, rank]. */
    Parameter b();

    /** The factor s in s B A. */
    double scale();
}
