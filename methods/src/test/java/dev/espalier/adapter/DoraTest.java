package dev.espalier.adapter;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.espalier.nn.Linear;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Generator;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import java.util.Map;
import org.junit.jupiter.api.Test;

class DoraTest extends AdapterContract {

    @Override
    protected AdapterSpec<?> spec() {
        return AdapterSpec.of(new Dora.Type(), Lora.Config.of(3, 6), Targets.of("embed_tokens", "fc", "proj"));
    }

    @Override
    protected long parameters(long out, long in) {
        return 3 * (in + out) + out;
    }

    /**
     * The gradient is that of the formula with the norm held at its value: for A and B it differs from that of the full
     * formula, so the differences are taken of the form with n frozen.
     */
    @Test
    void gradientsEqualFiniteDifferencesWithTheNormHeld() {
        Linear layer = Gradients.layer();
        Tensor w = layer.weight();
        Tensor bias = layer.biasParameter().tensor();
        Tensor[] held = new Tensor[1];
        Gradients.check(
                l -> {
                    Dora dora = new Dora(Lora.Config.of(2, 3).withInit("false"), new Site("x", l), new Seed(0));
                    try (Generator g = Generator.of(9)) {
                        Tensor m = dora.parameters()
                                .get("lora_magnitude_vector")
                                .tensor()
                                .detach();
                        m.add_(g.randn(5).to(DType.FLOAT64), 0.2);
                    }
                    held[0] = v(dora, w).norm(1, false).detach();
                    return dora;
                },
                (dora, x) -> {
                    Tensor m = dora.parameters().get("lora_magnitude_vector").tensor();
                    Tensor scaled = v((Dora) dora, w).mul(m.div(held[0]).unsqueeze(1));
                    return x.matmul(scaled.t()).add(bias).square().sum();
                });
    }

    /** W + s B A [5, 4]. */
    private static Tensor v(Dora dora, Tensor w) {
        return w.add(dora.b().tensor().matmul(dora.a().tensor()), dora.scale());
    }

    /** While dropout is on, every x of the change is the dropped one, and only those: at p near 1 nothing of the change is left. */
    @Test
    void dropoutThinsTheWholeChange() {
        Linear layer = Gradients.layer();
        Dora dora = new Dora(
                Lora.Config.of(2, 3).withInit("false").withDropout(1 - 1e-12), new Site("x", layer), new Seed(0));
        dora.parameters().get("lora_magnitude_vector").tensor().detach().mul_(3);
        Tensor x = Tensor.ones(DType.FLOAT64, 2, 4);
        layer.train(true);
        assertThat(gap(dora.forward(x, new Base.Ground(layer)), layer.compute(x)))
                .isZero();
        layer.train(false);
        assertThat(gap(dora.forward(x, new Base.Ground(layer)), layer.compute(x)))
                .isGreaterThan(0.1);
    }

    @Test
    void loraBiasIsRefused() {
        assertThatThrownBy(() -> new Dora(
                        new Lora.Config(2, 3, 0, false, true, "true", Map.of(), Map.of()),
                        new Site("x", Gradients.layer()),
                        new Seed(0)))
                .hasMessage("lora_bias cannot be combined with DoRA; switch one of them off");
    }
}
