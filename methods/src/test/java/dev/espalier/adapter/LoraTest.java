package dev.espalier.adapter;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.espalier.nn.Linear;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Generator;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Test;

class LoraTest extends AdapterContract {

    @Override
    protected AdapterSpec<?> spec() {
        return AdapterSpec.of(new Lora.Type(), Lora.Config.of(3, 6), Targets.of("embed_tokens", "fc", "proj"));
    }

    @Override
    protected long parameters(long out, long in) {
        return 3 * (in + out);
    }

    @Test
    void forwardFollowsTheFormula() {
        Linear layer = new Linear(4, 5, true, DType.FLOAT64);
        try (Generator g = Generator.of(1)) {
            layer.weightParameter().tensor().copy_(g.randn(5, 4));
            layer.biasParameter().tensor().copy_(g.randn(5));
            Lora lora = new Lora(
                    new Lora.Config(2, 3, 0, false, true, "false", Map.of(), Map.of()),
                    new Site("x", layer),
                    new Seed(0));
            lora.parameters().get("lora_B.bias").tensor().detach().copy_(g.randn(5));
            Tensor x = g.randn(2, 3, 4).to(DType.FLOAT64);
            Tensor a = lora.a().tensor();
            Tensor b = lora.b().tensor();
            Tensor expected = layer.compute(x)
                    .add(
                            x.matmul(a.t())
                                    .matmul(b.t())
                                    .add(lora.parameters().get("lora_B.bias").tensor()),
                            1.5);
            assertThat(gap(lora.forward(x, new Base.Ground(layer)), expected)).isLessThan(1e-14);
        }
    }

    /** Central differences in float64: the gradient of Σ y² with respect to every element of A and B. */
    @Test
    void gradientsEqualFiniteDifferences() {
        Gradients.check(layer -> new Lora(Lora.Config.of(2, 3).withInit("false"), new Site("x", layer), new Seed(0)));
    }

    @Test
    void dropoutActsWhileTrainingOnly() {
        Tiny net = new Tiny(DType.FLOAT32);
        AdaptedModel model = new AdaptedModel(net, net.heads());
        move(
                model.attach(
                        "default",
                        AdapterSpec.of(new Lora.Type(), Lora.Config.of(3, 6).withDropout(0.5), Targets.of("fc")),
                        new Seed(1)),
                0.3);
        Tensor evaluated = run(net);
        net.train(true);
        assertThat(gap(run(net), evaluated)).isGreaterThan(1e-3);
        net.train(false);
        assertThat(run(net).equal(evaluated)).isTrue();
    }

    @Test
    void patternsChooseRankAndAlpha() {
        Lora.Config config = new Lora.Config(
                4, 8, 0, false, false, "true", Map.of("layers.0.fc", 2, "model\\.proj", 3), Map.of("(fc|up)", 16.0));
        assertThat(config.rankAt("layers.0.fc")).isEqualTo(2);
        assertThat(config.rankAt("a.layers.0.fc")).isEqualTo(2);
        assertThat(config.rankAt("layers.0.fc.x")).isEqualTo(4);
        assertThat(config.rankAt("model.proj")).isEqualTo(3);
        assertThat(config.scaleAt("layers.0.fc")).isEqualTo(8);
        assertThat(config.scaleAt("model.proj")).isEqualTo(8 / 3.0);
        assertThat(config.withRslora(true).scaleAt("layers.0.fc")).isEqualTo(16 / Math.sqrt(2));
    }

    @Test
    void badSettingsAreRefusedWithAReason() {
        assertThatThrownBy(() -> Lora.Config.of(0, 8)).hasMessage("r must be at least 1, found 0; try 8");
        assertThatThrownBy(() -> Lora.Config.of(8, Double.NaN))
                .hasMessage("lora_alpha must be positive and finite, found NaN; try twice the rank");
        assertThatThrownBy(() -> Lora.Config.of(8, 16).withDropout(1))
                .hasMessage("lora_dropout must lie in [0, 1), found 1.0; try 0");
        assertThatThrownBy(() -> attach(Lora.Config.of(9, 16), "fc"))
                .hasMessageStartingWith("r is 9, above the width 8 of layers.0.fc [10, 8]")
                .hasMessageContaining("try 8");
        assertThatThrownBy(
                        () -> attach(new Lora.Config(2, 4, 0, false, false, "true", Map.of("gate", 3), Map.of()), "fc"))
                .hasMessage("rank_pattern: gate matches none of the 2 adapted modules; the first is layers.0.fc");
        assertThatThrownBy(() -> attach(Lora.Config.of(2, 4).withInit("pisa"), "fc"))
                .hasMessageContaining("there is no method pisa");
    }

    private static void attach(Lora.Config config, String... targets) {
        Tiny net = new Tiny(DType.FLOAT32);
        new AdaptedModel(net, net.heads())
                .attach("default", AdapterSpec.of(new Lora.Type(), config, Targets.of(targets)), new Seed(1));
    }

    /** Table of the method card: r 4 on 32 to 32 and 64 to 32 trains 640, with lora_bias 704. */
    @Test
    void countsAreThoseOfTheCard() {
        assertThat(count(false)).isEqualTo(640);
        assertThat(count(true)).isEqualTo(704);
    }

    private static long count(boolean bias) {
        Lora.Config config = new Lora.Config(4, 8, 0, false, bias, "true", Map.of(), Map.of());
        return List.of(32, 64).stream()
                .mapToLong(in -> new Lora(config, new Site("x", new Linear(in, 32, false, DType.FLOAT32)), new Seed(0))
                        .parameters().values().stream()
                                .mapToLong(p -> p.tensor().numel())
                                .sum())
                .sum();
    }
}
