package dev.espalier.model;

/** Full precision, whatever this machine could do with less. */
final class Fp32 {

    static final LoadOptions OPTIONS = LoadOptions.defaults().withPrecision(Precision.FP32);

    private Fp32() {}
}
