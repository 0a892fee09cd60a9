package dev.espalier.adapter;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.espalier.io.Fields;
import dev.espalier.io.Safetensors;
import dev.espalier.io.TensorSource;
import dev.espalier.nn.Parameter;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Generator;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

@Card(
        value = "vera",
        checks = {2, 3}) // by the contract
class VeraTest extends AdapterContract {

    private static final Vera.Type TYPE = new Vera.Type();

    @Override
    protected AdapterSpec<?> spec() {
        return spec(Vera.Config.of(3));
    }

    private static AdapterSpec<?> spec(Vera.Config config) {
        return AdapterSpec.of(TYPE, config, Targets.of("fc", "proj"));
    }

    @Override
    protected long parameters(long out, long in) {
        return 3 + out;
    }

    @Test
    @Card(value = "vera", checks = 1)
    void countIsThatOfTheCard() {
        assertThat(CardCounts.of(TYPE, Vera.Config.of(4))).isEqualTo(72);
    }

    /** fc [10, 8] and proj [8, 10] cut their parts out of A [3, 10] and B [10, 3]. */
    @Test
    void layersCutSharedFactors() {
        Tiny net = new Tiny(DType.FLOAT64);
        AdaptedModel model = new AdaptedModel(net, net.heads());
        Attached adapter = model.attach("default", spec(), new Seed(1));
        move(adapter, 0.3);
        Map<String, Parameter> shared = adapter.made().shared();
        assertThat(shared.get("vera_A").shape()).containsExactly(3, 10);
        assertThat(shared.get("vera_B").shape()).containsExactly(10, 3);
        assertThat(shared.values()).noneMatch(Parameter::isTrainable);
        Map<String, Tensor> tensors = adapter.tensors();
        for (Site site : adapter.sites()) {
            long in = site.layer().inFeatures();
            long out = site.layer().outFeatures();
            Tensor x = Tensor.of(new double[] {1, -2, 3, 0.5, 2, 2, -1, 0, 4, 1}, 1, 10)
                    .narrow(1, 0, in);
            Tensor d = tensors.get(AdapterType.Made.key(site.path(), "vera_lambda_d"));
            Tensor b = tensors.get(AdapterType.Made.key(site.path(), "vera_lambda_b"));
            Tensor down =
                    x.matmul(shared.get("vera_A").tensor().narrow(1, 0, in).t());
            Tensor up = down.mul(d)
                    .matmul(shared.get("vera_B").tensor().narrow(0, 0, out).t());
            Tensor expected = site.layer().compute(x).add(up.mul(b));
            Tensor found = adapter.at(site.path()).forward(x, new Base.Ground(site.layer()));
            assertThat(gap(found, expected)).isLessThan(1e-13);
        }
    }

    @Test
    void gradientsEqualFiniteDifferences() {
        Gradients.check(layer -> {
            Vera.Config config = new Vera.Config(3, 0, true, 0, 0.1, false);
            return TYPE.create(config, List.of(new Site("x", layer)), new Seed(0))
                    .adapters()
                    .get("x");
        });
    }

    /** The file of PEFT has the projections that PEFT drew from its key 0, which are ours to the bit. */
    @Test
    @Card(value = "vera", checks = 7)
    void projectionsAreThoseThatPeftDraws() {
        for (String name : List.of("llama-vera", "gpt2-vera", "bert-vera")) {
            try (TensorSource file = Safetensors.open(PeftFixtures.adapter(name).resolve("adapter_model.safetensors"));
                    Generator generator = Generator.of(0)) {
                Tensor a = file.read("base_model.vera_A");
                Tensor b = file.read("base_model.vera_B");
                double boundA = Math.sqrt(6.0 / a.size(1));
                double boundB = Math.sqrt(6.0 / 3);
                assertThat(generator.uniform(-boundA, boundA, a.shape()).equal(a))
                        .isTrue();
                assertThat(generator.uniform(-boundB, boundB, b.shape()).equal(b))
                        .isTrue();
            }
        }
    }

    /** Without projections in the file they are drawn again: the same outputs, and a file of 2 (3 + 10) + 2 (3 + 8) numbers. */
    @Test
    @Card(value = "vera", checks = 7)
    void aSeedIsEnoughToLoadIt(@TempDir Path folder) {
        Tiny net = new Tiny(DType.FLOAT32);
        AdaptedModel model = new AdaptedModel(net, net.heads());
        move(model.attach("default", spec(Vera.Config.of(3).withSaveProjection(false)), new Seed(1)), 0.3);
        Tensor adapted = run(net);
        PeftFolder.save(model, "default", folder, null, PeftFolder.Form.PLAIN, Map.of());
        model.remove("default");
        try (TensorSource file = Safetensors.open(folder.resolve("adapter_model.safetensors"))) {
            assertThat(file.tensors().values().stream()
                            .mapToLong(info ->
                                    Tensor.zeros(DType.UINT8, info.dims()).numel())
                            .sum())
                    .isEqualTo(2 * (3 + 10) + 2 * (3 + 8));
        }
        PeftFolder.load(model, folder, null, true);
        assertThat(run(net).equal(adapted)).isTrue();
        model.remove("default"); // which frees what is shared once
    }

    @Test
    void itIsExactlyALora(@TempDir Path folder) {
        Tiny net = new Tiny(DType.FLOAT32);
        AdaptedModel model = new AdaptedModel(net, net.heads());
        move(model.attach("default", spec(), new Seed(1)), 0.3);
        Tensor adapted = run(net);
        assertThat(PeftFolder.exportLora(model, "default", folder, null, 0, Map.of()))
                .allSatisfy(layer -> {
                    assertThat(layer.rank()).isEqualTo(3);
                    assertThat(layer.relativeError()).isZero();
                });
        model.remove("default");
        PeftFolder.load(model, folder, null, false);
        assertThat(gap(run(net), adapted)).isLessThan(1e-5);
    }

    @Test
    void dropoutActsWhileTrainingOnly() {
        Tiny net = new Tiny(DType.FLOAT32);
        AdaptedModel model = new AdaptedModel(net, net.heads());
        move(model.attach("default", spec(new Vera.Config(3, 0, true, 0.5, 0.1, true)), new Seed(1)), 0.3);
        Tensor evaluated = run(net);
        net.train(true);
        assertThat(gap(run(net), evaluated)).isGreaterThan(1e-3);
        net.train(false);
        assertThat(run(net).equal(evaluated)).isTrue();
    }

    @Test
    void initWeightsFalseStartsElsewhere() {
        Tiny net = new Tiny(DType.FLOAT32);
        Tensor before = run(net);
        new AdaptedModel(net, net.heads())
                .attach("default", spec(new Vera.Config(3, 0, true, 0, 0.1, false)), new Seed(1));
        try (Grad off = Grad.off()) {
            assertThat(gap(run(net), before)).isGreaterThan(1e-2);
        }
    }

    @Test
    void badSettingsAreRefusedWithAReason() {
        assertThatThrownBy(() -> Vera.Config.of(0)).hasMessage("r must be at least 1, found 0; try 256");
        assertThatThrownBy(() -> TYPE.read(Fields.of("", Map.of("d_initial", 0))))
                .hasMessage("d_initial must be finite and not 0, where nothing would ever train, found 0.0; try 0.1");
        assertThatThrownBy(() -> TYPE.read(Fields.of("", Map.of("vera_dropout", 1))))
                .hasMessage("vera_dropout must lie in [0, 1), found 1.0; try 0");
        Tiny net = new Tiny(DType.FLOAT32);
        assertThatThrownBy(() -> new AdaptedModel(net, net.heads())
                        .attach(
                                "default",
                                AdapterSpec.of(TYPE, Vera.Config.of(3), Targets.of("embed_tokens")),
                                new Seed(1)))
                .hasMessageContaining("embed_tokens is an embedding");
    }
}
