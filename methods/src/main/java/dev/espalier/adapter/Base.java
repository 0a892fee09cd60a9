package dev.espalier.adapter;

import dev.espalier.nn.Layer;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Tensor;
import java.util.function.UnaryOperator;
import org.jspecify.annotations.Nullable;

/** What an adapter stands on: a frozen layer, or that layer with the adapters below. */
public sealed interface Base {

    /** The output for x, a fresh tensor, which the caller may add to in place. */
    Tensor forward(Tensor x);

    /**
     * The weight and bias that {@link #forward} amounts to, at least float32.
     *
     * @throws dev.espalier.EspalierException if an adapter below cannot be merged
     */
    Affine affine();

    /** The layer itself. */
    Layer layer();

    /**
     * What a function of rows makes of x: a product that adds in place wants matrices.
     *
     * @param x [.., in]
     * @param change from [n, in] to [n, out]
     * @return [.., out]
     */
    static Tensor onRows(Tensor x, UnaryOperator<Tensor> change) {
        if (x.dim() == 2) {
            return change.apply(x);
        }
        Tensor y = change.apply(x.reshape(-1, x.size(-1)));
        long[] shape = x.shape();
        shape[shape.length - 1] = y.size(1);
        return y.view(shape);
    }

    /** The layer alone. */
    record Ground(Layer layer) implements Base {
        @Override
        public Tensor forward(Tensor x) {
            return layer.compute(x);
        }

        @Override
        public Affine affine() {
            return Affine.of(layer);
        }
    }

    /** An adapter on what lies below it. */
    record Link(Adapter adapter, Base below) implements Base {
        @Override
        public Tensor forward(Tensor x) {
            return adapter.forward(x, below);
        }

        @Override
        public Affine affine() {
            return Mergeable.of(adapter, layer()).merge(below.affine());
        }

        @Override
        public Layer layer() {
            return below.layer();
        }
    }

    /**
     * An affine map y = x Wᵀ + b.
     *
     * @param weight W [out, in]
     * @param bias b [out], or null for none
     */
    record Affine(Tensor weight, @Nullable Tensor bias) {

        /** What a layer computes, in float32 at least. */
        static Affine of(Layer layer) {
            Tensor weight = layer.weight();
            DType wide = weight.dtype() == DType.FLOAT64 ? DType.FLOAT64 : DType.FLOAT32;
            var bias = layer.biasParameter();
            return new Affine(
                    weight.to(wide), bias == null ? null : bias.tensor().to(wide));
        }
    }
}
