package dev.espalier.adapter;

/** An adapter that is exactly a plain LoRA; others can only be approximated by one. */
public interface LoraExpressible {

    /** The change of the weight as factors, which share memory with the adapter's own. */
    LoraFactors toLora();

    /**
     * The same for a bound on the rank: another answer only from an adapter that was trained to be cut. One that cannot keep the
     * bound does not.
     */
    default LoraFactors toLora(int maxRank) {
        return toLora();
    }
}
