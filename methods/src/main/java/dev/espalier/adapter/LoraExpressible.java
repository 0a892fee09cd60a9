package dev.espalier.adapter;

/** An adapter that is exactly a plain LoRA, and merges as one; others can only be approximated by one. */
public interface LoraExpressible extends Mergeable {

    /** The change of the weight as factors, which share memory with the adapter's own. */
    LoraFactors toLora();

    /**
     * The same for a bound on the rank: another answer only from an adapter that was trained to be cut. One that cannot keep the
     * bound does not.
     */
    default LoraFactors toLora(int maxRank) {
        return toLora();
    }

    /** W to W + s B A, and b to b + s c. */
    @Override
    default Base.Affine merge(Base.Affine base) {
        return toLora().merge(base);
    }
}
