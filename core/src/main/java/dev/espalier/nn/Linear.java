package dev.espalier.nn;

import dev.espalier.Check;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Generator;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Tensor;
import java.util.Arrays;
import org.jspecify.annotations.Nullable;

/** y = x Wᵀ + b, with W [out, in] and b [out]. */
public final class Linear extends Layer {

    private Parameter weight; // [out, in]
    private @Nullable Parameter bias; // [out]

    /** A layer whose values a checkpoint or {@link #reset} brings. */
    public Linear(long in, long out, boolean bias, DType dtype) {
        this.weight = parameter("weight", dtype, out, in);
        this.bias = bias ? parameter("bias", dtype, out) : null;
    }

    /** A layer without bias whose weight [out, in] another module holds too. */
    public Linear(Parameter tied) {
        this.weight = parameter("weight", tied);
        this.bias = null;
    }

    /**
     * Makes the weight that of another place: ties this layer to a module that holds it too, or unties it.
     *
     * @param other [out, in]
     */
    public void bind(Parameter other) {
        Check.check(
                Arrays.equals(other.shape(), weight.shape()),
                "a layer with a weight of shape %s cannot take one of shape %s",
                Arrays.toString(weight.shape()),
                Arrays.toString(other.shape()));
        weight = parameter("weight", other);
    }

    /**
     * Keeps some of the outputs and inputs, in the order given, and frees the others: W becomes W[rows, columns], b becomes
     * b[rows].
     *
     * @param rows outputs, or null for all
     * @param columns inputs, or null for all
     */
    public void keep(@Nullable Tensor rows, @Nullable Tensor columns) {
        try (Grad off = Grad.off();
                Scope scope = Scope.open()) {
            Tensor kept = rows == null ? weight.tensor() : weight.tensor().indexSelect(0, rows);
            Tensor former = weight.tensor();
            weight = parameter("weight", columns == null ? kept.clone() : kept.indexSelect(1, columns));
            former.close();
            if (bias != null && rows != null) {
                Tensor all = bias.tensor();
                bias = parameter("bias", all.indexSelect(0, rows));
                all.close();
            }
        }
    }

    /** Draws the weight from N(0, std²) and zeroes the bias, as Hugging Face does for new heads. */
    public void reset(Generator generator, double std) {
        Tensor w = weight.tensor();
        w.detach().copy_(generator.normal(0, std, weight.shape()));
        if (bias != null) {
            bias.tensor().detach().zero_();
        }
    }

    @Override
    public Tensor compute(Tensor x) {
        return x.linear(weight.tensor(), bias == null ? null : bias.tensor());
    }

    @Override
    public Parameter weightParameter() {
        return weight;
    }

    @Override
    public @Nullable Parameter biasParameter() {
        return bias;
    }

    @Override
    public Tensor weight() {
        return weight.tensor();
    }

    @Override
    public Tensor stored(Tensor map) {
        return map;
    }

    @Override
    public long inFeatures() {
        return weight.shape()[1];
    }

    @Override
    public long outFeatures() {
        return weight.shape()[0];
    }
}
