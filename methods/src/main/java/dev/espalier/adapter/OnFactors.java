package dev.espalier.adapter;

import dev.espalier.nn.Parameter;
import java.util.Map;

/** A plain LoRA at heart: what it trains, saves and exports is one pair of factors, however it computes with them. */
interface OnFactors extends LowRank, LoraExpressible {

    /** The pair. */
    Factors factors();

    @Override
    default LoraFactors toLora() {
        return factors().factors();
    }

    @Override
    default Map<String, Parameter> parameters() {
        return factors().named();
    }

    @Override
    default Parameter a() {
        return factors().a;
    }

    @Override
    default Parameter b() {
        return factors().b;
    }

    @Override
    default double scale() {
        return factors().scale;
    }
}
