package dev.espalier.adapter;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.within;

import dev.espalier.nn.Linear;
import dev.espalier.nn.Parameter;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Generator;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Tensor;
import java.util.Map;
import java.util.function.BiFunction;
import java.util.function.Function;

/** Gradients against central differences, in float64 on a layer of 4 to 5. */
final class Gradients {

    private Gradients() {}

    static void check(Function<Linear, Adapter> maker) {
        check(
                maker,
                (adapter, x) ->
                        adapter.forward(x, new Base.Ground(layer())).square().sum());
    }

    /** The loss may be another form of the forward pass than the adapter's, where its gradient is not that of the forward. */
    static void check(Function<Linear, Adapter> maker, BiFunction<Adapter, Tensor, Tensor> loss) {
        Adapter adapter = maker.apply(layer());
        Tensor x;
        try (Generator g = Generator.of(2)) {
            x = g.randn(2, 3, 4).to(DType.FLOAT64);
        }
        adapter.forward(x, new Base.Ground(layer())).square().sum().backward();
        for (Map.Entry<String, Parameter> e : adapter.parameters().entrySet()) {
            if (!e.getValue().isTrainable()) {
                continue;
            }
            Tensor value = e.getValue().tensor();
            double[] gradient = value.grad().doubles();
            double[] at = value.doubles();
            for (int i = 0; i < at.length; i++) {
                double h = 1e-5;
                double numeric =
                        (at(adapter, x, loss, value, at, i, h) - at(adapter, x, loss, value, at, i, -h)) / (2 * h);
                assertThat(gradient[i])
                        .as("%s[%d]", e.getKey(), i)
                        .isCloseTo(numeric, within(1e-6 * Math.max(1, Math.abs(numeric))));
            }
        }
    }

    private static double at(
            Adapter adapter,
            Tensor x,
            BiFunction<Adapter, Tensor, Tensor> loss,
            Tensor value,
            double[] at,
            int i,
            double h) {
        double[] moved = at.clone();
        moved[i] += h;
        try (Grad off = Grad.off()) {
            value.copy_(Tensor.of(moved, value.shape()));
            double result = loss.apply(adapter, x).item();
            value.copy_(Tensor.of(at, value.shape()));
            return result;
        }
    }

    static Linear layer() {
        Linear layer = new Linear(4, 5, true, DType.FLOAT64);
        try (Generator g = Generator.of(1)) {
            layer.weightParameter().tensor().copy_(g.randn(5, 4));
            layer.biasParameter().tensor().copy_(g.randn(5));
        }
        return layer;
    }
}
