package dev.espalier.init;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.espalier.adapter.AdaptedModel;
import dev.espalier.adapter.AdapterContract;
import dev.espalier.adapter.AdapterSpec;
import dev.espalier.adapter.Attached;
import dev.espalier.adapter.Dora;
import dev.espalier.adapter.Lora;
import dev.espalier.adapter.LowRank;
import dev.espalier.adapter.PeftFolder;
import dev.espalier.adapter.Targets;
import dev.espalier.adapter.Tiny;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

class PissaTest extends AdapterContract {

    @Override
    protected AdapterSpec<?> spec() {
        return spec(Lora.Config.of(3, 6).withInit("pissa"));
    }

    private static AdapterSpec<?> spec(Lora.Config config) {
        return AdapterSpec.of(new Lora.Type(), config, Targets.of("fc", "proj"));
    }

    @Override
    protected long parameters(long out, long in) {
        return 3 * (in + out);
    }

    /** s B A is the best approximation of rank r: what is left has the remaining singular values (Eckart, Young 1936). */
    @ParameterizedTest
    @ValueSource(strings = {"pissa", "pissa_niter_8"})
    void startsWithThePrincipalPart(String name) {
        Tiny net = new Tiny(DType.FLOAT64);
        AdaptedModel model = new AdaptedModel(net, net.heads());
        Attached adapter = model.attach("default", spec(Lora.Config.of(3, 4.5).withInit(name)), new Seed(1));
        try (Grad off = Grad.off()) {
            Tensor w = net.layers.get(0).proj.weight();
            LowRank lora = adapter.lowRank("layers.0.proj");
            double[] values = w.svd().get(1).doubles();
            Tensor rest = w.sub(lora.b().tensor().matmul(lora.a().tensor()).mul(lora.scale()));
            double tail =
                    Math.sqrt(Arrays.stream(values).skip(3).map(v -> v * v).sum());
            assertThat(rest.norm().item()).isBetween(tail * 0.999999, tail * (name.equals("pissa") ? 1.000001 : 1.01));
            // The factors are balanced: both have Gram matrices diag(S / s).
            Tensor gramA = lora.a().tensor().matmul(lora.a().tensor().t());
            Tensor gramB = lora.b().tensor().t().matmul(lora.b().tensor());
            assertThat(gap(gramA, gramB)).isLessThan(1e-6);
        }
    }

    /** On the unchanged network, plain LoRA of twice the rank computes what was trained: s = 1, s = 2, rsLoRA, DoRA. */
    @ParameterizedTest
    @CsvSource({"3, false, false", "6, false, false", "6, true, false", "6, false, true"})
    void plainFormOfTwiceTheRankIsExact(double alpha, boolean rslora, boolean dora, @TempDir Path folder) {
        Tiny net = new Tiny(DType.FLOAT32);
        AdaptedModel model = new AdaptedModel(net, net.heads());
        Lora.Config config =
                new Lora.Config(3, alpha, 0, rslora, false, "pissa", Map.of("layers.0.fc", 2), Map.of("proj", 5.0));
        Targets targets = Targets.of("fc", "proj", "embed_tokens");
        move(
                model.attach(
                        "a",
                        dora
                                ? AdapterSpec.of(new Dora.Type(), config, targets)
                                : AdapterSpec.of(new Lora.Type(), config, targets),
                        new Seed(1)),
                0.2);
        Tensor trained = run(net);
        PeftFolder.save(model, "a", folder, null, PeftFolder.Form.PLAIN, Map.of());
        assertThat(PeftFolder.config(folder))
                .containsEntry("init_lora_weights", true)
                .containsEntry("r", 6L)
                .containsEntry("rank_pattern", Map.of("layers.0.fc", 4L));
        assertThat(folder.resolve("a/espalier.json").toFile().delete()).isTrue();
        model.remove("a");
        Attached plain = PeftFolder.load(model, folder, "plain", false);
        assertThat(plain.lowRank("layers.1.proj").a().shape()).containsExactly(6, 10);
        assertThat(gap(run(net), trained) / trained.abs().max().item()).isLessThan(1e-6);
    }

    @Test
    void theNetworkIsNeverTouched() {
        Tiny net = new Tiny(DType.FLOAT32);
        Map<String, Tensor> before = values(net);
        AdaptedModel model = new AdaptedModel(net, net.heads());
        model.attach("a", spec(), new Seed(1));
        model.attach("b", spec(), new Seed(2));
        before.forEach((path, value) -> assertThat(
                        net.namedParameters().get(path).tensor().equal(value))
                .as(path)
                .isTrue());
    }

    @Test
    void aRandomStartIsSavedInPlainFormOnly(@TempDir Path folder) {
        Tiny net = new Tiny(DType.FLOAT32);
        AdaptedModel model = new AdaptedModel(net, net.heads());
        model.attach("a", spec(Lora.Config.of(3, 6).withInit("pissa_niter_2")), new Seed(1));
        assertThatThrownBy(() -> PeftFolder.save(model, "a", folder, null, PeftFolder.Form.AS_TRAINED, Map.of()))
                .hasMessageContaining("cannot be repeated by a reader")
                .hasMessageContaining("save it in plain form");
    }

    @Test
    void aliasOfARecipe() {
        AdapterSpec<?> spec = AdapterSpec.read(dev.espalier.io.Fields.of(
                "recipe", Map.of("type", "pissa", "r", 3, "lora_alpha", 6, "targets", List.of("fc"))));
        assertThat(spec.config()).isEqualTo(Lora.Config.of(3, 6).withInit("pissa"));
    }
}
