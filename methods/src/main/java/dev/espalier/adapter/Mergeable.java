package dev.espalier.adapter;

import static dev.espalier.Check.check;

import dev.espalier.nn.Layer;

/** An adapter whose effect is another weight, so that it can be folded into the layer. */
public interface Mergeable {

    /**
     * The weight and bias with which a plain layer computes what the adapter does, dropout aside.
     *
     * @param base what the adapter stands on, float32 or wider; it is left as it is
     */
    Base.Affine merge(Base.Affine base);

    /** The adapter, or a sentence if it is none of these. */
    static Mergeable of(Adapter adapter, Layer layer) {
        check(
                adapter instanceof Mergeable,
                "%s on %s depends on its input and is no weight that could be merged; leave it unmerged",
                adapter.getClass().getSimpleName(),
                layer.path());
        return (Mergeable) adapter;
    }
}
