package dev.espalier.adapter;

/** An adapter that is exactly a plain LoRA; others can only be approximated by one. */
public interface LoraExpressible {

    /** The change of the weight as factors, which share memory with the adapter's own. */
    LoraFactors toLora();
}
