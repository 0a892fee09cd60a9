package dev.espalier.adapter;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.espalier.io.Fields;
import dev.espalier.nn.Linear;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

@Card(
        value = "ia3",
        checks = {2, 3}) // by the contract
class Ia3Test extends AdapterContract {

    @Override
    protected AdapterSpec<?> spec() {
        return AdapterSpec.of(new Ia3.Type(), Ia3.Config.of("proj"), Targets.of("fc", "proj"));
    }

    /** fc [10, 8] scales its 10 outputs, proj [8, 10] its 10 inputs. */
    @Override
    protected long parameters(long out, long in) {
        return Math.max(out, in);
    }

    @Test
    void outputsOrInputsAreScaledAndTheBiasWithTheOutputs() {
        Linear layer = Gradients.layer(); // 4 to 5
        Tensor x = Tensor.of(new double[] {1, -2, 3, 0.5}, 1, 4);
        Tensor y = layer.compute(x);
        Ia3 attention = new Ia3(Ia3.Config.DEFAULT, new Site("x", layer), new Seed(0));
        Tensor factors = Tensor.of(new double[] {2, -1, 0, 0.5, 3}, 5, 1);
        attention.parameters().get("ia3_l").tensor().detach().copy_(factors);
        assertThat(gap(attention.forward(x, new Base.Ground(layer)), y.mul(factors.view(-1))))
                .isZero();

        Ia3 inner = new Ia3(Ia3.Config.of("x"), new Site("x", layer), new Seed(0));
        factors = Tensor.of(new double[] {2, -1, 0, 0.5}, 1, 4);
        inner.parameters().get("ia3_l").tensor().detach().copy_(factors);
        assertThat(gap(inner.forward(x, new Base.Ground(layer)), layer.compute(x.mul(factors))))
                .isZero();
    }

    @Test
    void gradientsEqualFiniteDifferences() {
        for (Ia3.Config config :
                List.of(new Ia3.Config(List.of(), false, false), new Ia3.Config(List.of("x"), false, false))) {
            Gradients.check(layer -> new Ia3(config, new Site("x", layer), new Seed(0)));
        }
    }

    /** In bfloat16 1.003 is 1: the product is taken in float32. */
    @Test
    void smallStepsAreNotLostInHalfPrecision() {
        Linear layer = new Linear(1, 1, false, DType.BFLOAT16);
        layer.weightParameter().tensor().fill_(1);
        Ia3 ia3 = new Ia3(Ia3.Config.of("x"), new Site("x", layer), new Seed(0));
        ia3.parameters().get("ia3_l").tensor().detach().fill_(1.003);
        Tensor x = Tensor.full(1.99, DType.FLOAT32, 1, 1).to(DType.BFLOAT16); // 1.9921875; times 1.003 it is 1.998
        assertThat(ia3.forward(x, new Base.Ground(layer)).item()).isEqualTo(2);
    }

    /** Table of the method card: q_proj 32 to 32 and down_proj 64 to 32, the latter feed-forward. */
    @Test
    @Card(value = "ia3", checks = 1)
    void countIsThatOfTheCard() {
        assertThat(CardCounts.of(new Ia3.Type(), Ia3.Config.of("down_proj"))).isEqualTo(96);
    }

    @Test
    void listsAndExpressionsAreReadAsPeftDoes() {
        Ia3.Config list = read(Map.of("feedforward_modules", List.of("proj")));
        assertThat(list.scalesInput("h.0.c_proj")).isTrue(); // the end of the path, dot or no dot
        assertThat(list.scalesInput("h.0.proj.x")).isFalse();
        Ia3.Config expression = read(Map.of("feedforward_modules", ".*\\.proj"));
        assertThat(expression.regex()).isTrue();
        assertThat(expression.scalesInput("h.proj")).isTrue();
        assertThat(expression.scalesInput("h.c_proj")).isFalse();
        assertThat(read(Map.of()).scalesInput("proj")).isFalse();
    }

    private static Ia3.Config read(Map<String, ?> map) {
        return new Ia3.Type().read(Fields.of("", map));
    }

    /** PEFT wants the feed-forward modules among the targets: where those are written as paths, these are too. */
    @Test
    void expandedTargetsExpandTheFeedforwardModules(@TempDir Path folder) {
        Tiny net = new Tiny(DType.FLOAT32);
        AdaptedModel model = new AdaptedModel(net, net.heads());
        Targets narrowed = new Targets(List.of("fc", "proj"), false, List.of(), List.of(1), List.of("layers"));
        model.attach("default", AdapterSpec.of(new Ia3.Type(), Ia3.Config.of("proj"), narrowed), new Seed(1));
        PeftFolder.save(model, "default", folder, PeftFolder.Info.of("tiny", null), PeftFolder.Form.PLAIN, Map.of());
        assertThat(PeftFolder.config(folder))
                .containsEntry("target_modules", List.of("layers.1.fc", "layers.1.proj"))
                .containsEntry("feedforward_modules", List.of("layers.1.proj"))
                .doesNotContainKey("layers_to_transform");
    }

    @Test
    void whatDoesNotFitIsRefusedWithAReason() {
        assertThatThrownBy(() -> attach(Ia3.Config.of("gate"), "fc"))
                .hasMessage(
                        "feedforward_modules: gate matches none of the 2 adapted modules; the first is layers.0.fc");
        assertThatThrownBy(() -> attach(Ia3.Config.DEFAULT, "embed_tokens"))
                .hasMessage("embed_tokens is an embedding, whose input is ids and no vector that ia3 could change;"
                        + " name linear layers, or use lora");
        assertThatThrownBy(() -> new Ia3.Config(List.of("(", "b"), true, true))
                .hasMessageContaining("join them with |");
        assertThatThrownBy(() -> read(Map.of("feedforward_modules", "(")))
                .hasMessageContaining("is not a regular expression");
        assertThatThrownBy(() -> AdapterSpec.of(new Ia3.Type(), Ia3.Config.DEFAULT, Targets.ALL)
                        .withBias(AdapterSpec.Bias.ALL))
                .hasMessage(
                        "bias is all, and the files of ia3 have no place for trained biases; leave it at none, or use lora");
    }

    private static void attach(Ia3.Config config, String... targets) {
        Tiny net = new Tiny(DType.FLOAT32);
        new AdaptedModel(net, net.heads())
                .attach("default", AdapterSpec.of(new Ia3.Type(), config, Targets.of(targets)), new Seed(1));
    }
}
