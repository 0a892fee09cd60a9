package dev.espalier.adapter;

import static dev.espalier.adapter.AdapterContract.gap;
import static dev.espalier.adapter.AdapterContract.move;
import static dev.espalier.adapter.AdapterContract.run;
import static dev.espalier.adapter.AdapterContract.values;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.espalier.EspalierException;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** The promises of {@link AdapterContract} as far as they make sense where weights train that are the network's own. */
class FullTest {

    private Scope scope;

    @BeforeEach
    void open() {
        scope = Scope.open();
    }

    @AfterEach
    void close() {
        scope.close();
    }

    private static AdapterSpec<?> spec(String... parameters) {
        return AdapterSpec.of(
                new Full(),
                parameters.length == 0 ? Full.Config.DEFAULT : new Full.Config(List.of(parameters)),
                Targets.NONE);
    }

    @Test
    void allParametersTrainFromTheirOwnValuesAndTheNetworksStay() {
        Tiny net = new Tiny(DType.FLOAT32);
        Tensor before = run(net);
        Map<String, Tensor> values = values(net);
        AdaptedModel model = new AdaptedModel(net, net.heads());
        Attached adapter = model.attach("default", spec(), new Seed(1));
        assertThat(run(net).equal(before)).isTrue();
        assertThat(model.trainableParameters().keySet())
                .isEqualTo(net.namedParameters().keySet().stream()
                        .map(path -> "base_model.model." + path)
                        .collect(java.util.stream.Collectors.toSet()));
        net.forward(Tiny.ids()).square().sum().backward();
        model.trainableParameters()
                .forEach((key, p) -> assertThat(p.tensor().grad()).as(key).isNotNull());
        assertThat(adapter.changeNorm()).isZero();
        move(adapter, 0.3);
        assertThat(adapter.changeNorm()).isPositive();
        assertThat(gap(run(net), before)).isGreaterThan(1e-3);
        model.disable();
        assertThat(run(net).equal(before)).isTrue();
        model.activate("default");
        model.remove("default");
        values.forEach((path, value) -> assertThat(
                        net.namedParameters().get(path).tensor().equal(value))
                .as(path)
                .isTrue());
    }

    @Test
    void thePlanNamesModulesWithWhatTheyTrain() {
        Tiny net = new Tiny(DType.FLOAT32);
        AdaptedModel model = new AdaptedModel(net, net.heads());
        Plan plan = model.plan(spec());
        assertThat(plan.trainableParameters()).isEqualTo(net.parameterCount());
        assertThat(plan.layers())
                .contains(
                        new Plan.Touched("embed_tokens", "Embedding", 8, 11, 88),
                        new Plan.Touched("layers.0.norm", "LayerNorm", 0, 0, 16),
                        new Plan.Touched("layers.1.fc", "Linear", 10, 8, 90));
        assertThat(model.plan(spec("bias").withModulesToSave(List.of("head"))).layers())
                .contains(
                        new Plan.Touched("layers.0.fc", "Linear", 0, 0, 10), new Plan.Touched("head", "kept", 0, 0, 27))
                .noneMatch(touched -> touched.path().startsWith("embed"));
    }

    @Test
    void itemsMeanParametersAndModules() {
        Tiny net = new Tiny(DType.FLOAT32);
        AdaptedModel model = new AdaptedModel(net, net.heads());
        model.attach("default", spec("layers.1", "fc.bias"), new Seed(1));
        assertThat(model.trainableParameters().keySet().stream()
                        .map(key -> key.substring("base_model.model.".length())))
                .containsExactly(
                        "layers.0.fc.bias",
                        "layers.1.norm.weight",
                        "layers.1.norm.bias",
                        "layers.1.fc.weight",
                        "layers.1.fc.bias",
                        "layers.1.proj.weight",
                        "layers.1.proj.bias");
    }

    @Test
    void mergingLeavesTheTrainedWeightsInPlace() {
        Tiny net = new Tiny(DType.FLOAT32);
        AdaptedModel model = new AdaptedModel(net, net.heads());
        Tensor before = run(net);
        move(model.attach("default", spec("fc"), new Seed(1)), 0.3);
        Tensor trained = run(net);
        List<AdaptedModel.Change> changes = model.merge();
        assertThat(changes)
                .extracting(AdaptedModel.Change::path)
                .containsExactly("layers.0.fc.weight", "layers.0.fc.bias", "layers.1.fc.weight", "layers.1.fc.bias");
        assertThat(changes).allSatisfy(change -> assertThat(change.maxChange()).isPositive());
        assertThat(run(net).equal(trained)).isTrue();
        model.unmerge();
        assertThat(run(net).equal(trained)).isTrue();
        model.remove("default");
        assertThat(run(net).equal(before)).isTrue();
    }

    @Test
    void savedAndLoadedItComputesTheSame(@TempDir Path folder) {
        Tiny net = new Tiny(DType.FLOAT32);
        AdaptedModel model = new AdaptedModel(net, net.heads());
        move(model.attach("default", spec("layers", "head"), new Seed(1)), 0.3);
        Tensor trained = run(net);
        PeftFolder.save(
                model, "default", folder, PeftFolder.Info.of("tiny", null), PeftFolder.Form.PLAIN, Map.of("seed", 1));
        assertThat(PeftFolder.config(folder))
                .containsEntry("peft_type", "ESPALIER_FULL")
                .containsEntry("parameters", List.of("layers", "head"))
                .doesNotContainKey("target_modules");
        assertThatThrownBy(() -> PeftFolder.exportLora(model, "default", folder.resolve("lora"), null, 4, Map.of()))
                .hasMessage("full stands on no layer, so it is no LoRA and cannot become one; merge it instead");
        model.remove("default");
        Attached again = PeftFolder.load(model, folder, null, true);
        assertThat(run(net).equal(trained)).isTrue();
        assertThat(again.changeNorm()).isPositive();
        assertThat(model.trainableParameters()).hasSize(14);
    }

    @Test
    void itemsThatMatchNothingAreRefused() {
        Tiny net = new Tiny(DType.FLOAT32);
        AdaptedModel model = new AdaptedModel(net, net.heads());
        assertThatThrownBy(() -> model.attach("default", spec("fk"), new Seed(1)))
                .isInstanceOf(EspalierException.class)
                .hasMessageStartingWith("parameters: fk matches no parameter of this network; ");
        assertThatThrownBy(() -> new Full.Config(List.of()))
                .hasMessage("parameters is empty; name parameters or modules, or ** for all");
        assertThatThrownBy(() -> Targets.NONE.select(net, List.of(), List.of(), true))
                .hasMessageStartingWith("target_modules is empty; ");
    }
}
