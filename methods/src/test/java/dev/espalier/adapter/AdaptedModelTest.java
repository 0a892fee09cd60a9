package dev.espalier.adapter;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.tuple;

import dev.espalier.tensor.DType;
import dev.espalier.tensor.Machine;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Test;

class AdaptedModelTest {

    private final Tiny net = new Tiny(DType.FLOAT32);
    private final AdaptedModel model = new AdaptedModel(net, net.heads());

    private static AdapterSpec<?> lora(String... targets) {
        return AdapterSpec.of(new Lora.Type(), Lora.Config.of(2, 4), Targets.of(targets));
    }

    private List<String> sites(Targets targets) {
        return targets.select(net, net.heads(), List.of(), true).stream()
                .map(Site::path)
                .toList();
    }

    @Test
    void allLinearLeavesHeadsAndEmbeddingsAlone() {
        assertThat(sites(Targets.ALL)).containsExactly("layers.0.fc", "layers.0.proj", "layers.1.fc", "layers.1.proj");
    }

    @Test
    void namesGlobsAndExpressionsSelectLayers() {
        assertThat(sites(Targets.of("fc"))).containsExactly("layers.0.fc", "layers.1.fc");
        assertThat(sites(Targets.of("0.fc", "head"))).containsExactly("layers.0.fc", "head");
        assertThat(sites(Targets.of("layers.*.p*"))).containsExactly("layers.0.proj", "layers.1.proj");
        assertThat(sites(Targets.of("layers.1.**"))).containsExactly("layers.1.fc", "layers.1.proj");
        assertThat(sites(new Targets(List.of(".*\\.1\\.(fc|proj)"), true, List.of(), List.of(), List.of())))
                .containsExactly("layers.1.fc", "layers.1.proj");
        assertThat(sites(new Targets(List.of("all-linear"), false, List.of("proj"), List.of(), List.of())))
                .containsExactly("layers.0.fc", "layers.1.fc");
    }

    @Test
    void layerNumbersNarrowNames() {
        // As in PEFT the first number after two names counts, so a path that begins with its list needs the pattern.
        assertThat(sites(new Targets(List.of("fc", "proj"), false, List.of(), List.of(1), List.of("layers"))))
                .containsExactly("layers.1.fc", "layers.1.proj");
    }

    @Test
    void everyItemMustMatch() {
        assertThatThrownBy(() -> sites(Targets.of("fc", "porj")))
                .hasMessage("target_modules: porj matches no module of this network; did you mean proj?");
        assertThatThrownBy(() -> sites(Targets.of("query_key_value")))
                .hasMessageContaining("its layers are called embed_tokens, fc, proj, head");
        assertThatThrownBy(() -> sites(new Targets(List.of("fc"), true, List.of(), List.of(), List.of())))
                .hasMessageContaining("matches no module path as a whole; for a plain name write a list, [fc]");
        assertThatThrownBy(() -> sites(Targets.of("norm")))
                .hasMessageContaining(
                        "matches only modules without a weight of their own, such as layers.0.norm (LayerNorm)");
        assertThatThrownBy(() -> sites(new Targets(List.of("fc"), false, List.of("prj"), List.of(), List.of())))
                .hasMessageContaining("exclude_modules: prj matches no module");
        assertThatThrownBy(() -> model.attach("a", lora("fc").withModulesToSave(List.of("hed")), new Seed(0)))
                .hasMessage("modules_to_save: hed matches no module of this network; did you mean head?");
    }

    @Test
    void severalAdaptersAddUp() {
        Tensor plain = AdapterContract.run(net);
        AdapterContract.move(model.attach("a", lora("head"), new Seed(1)), 0.3);
        Tensor withA = AdapterContract.run(net);
        AdapterContract.move(model.attach("b", lora("head"), new Seed(2)), 0.1);
        Tensor withB = AdapterContract.run(net);
        assertThat(model.active()).containsExactly("b");
        model.activate("a", "b");
        Tensor both = AdapterContract.run(net);
        // The head is the last layer: the output is linear in its weight.
        assertThat(AdapterContract.gap(both, withA.add(withB).sub(plain))).isLessThan(2e-5);
        assertThat(model.trainableParameters())
                .containsKeys("a/base_model.model.head.lora_A.weight", "b/base_model.model.head.lora_B.weight");
        model.merge();
        assertThat(AdapterContract.gap(AdapterContract.run(net), both)).isLessThan(2e-5);
        assertThatThrownBy(() -> model.activate("a"))
                .hasMessageContaining("are merged; unmerge before you activate adapters");
        model.unmerge();
        assertThat(AdapterContract.run(net).equal(both)).isTrue();
    }

    @Test
    void onlyActiveAdaptersTrain() {
        model.attach("a", lora("fc"), new Seed(1));
        Attached b = model.attach("b", lora("fc"), new Seed(2));
        assertThat(model.adapter("a").parameters().values()).noneMatch(p -> p.isTrainable());
        assertThat(b.parameters().values()).allMatch(p -> p.isTrainable());
        model.activate("a");
        assertThat(model.trainableParameters()).hasSize(4);
        assertThat(b.parameters().values()).noneMatch(p -> p.isTrainable());
    }

    @Test
    void keptModulesTrainACopyAndTheNetworkKeepsItsOwn() {
        Map<String, Tensor> before = AdapterContract.values(net);
        Tensor plain = AdapterContract.run(net);
        Attached a = model.attach("a", lora("fc").withModulesToSave(List.of("head")), new Seed(1));
        assertThat(model.trainableParameters())
                .containsKeys("base_model.model.head.weight", "base_model.model.head.bias")
                .hasSize(6);
        AdapterContract.move(a, 0.3);
        Tensor moved = AdapterContract.run(net);
        assertThat(AdapterContract.gap(moved, plain)).isGreaterThan(0.01);
        model.disable();
        assertThat(AdapterContract.run(net).equal(plain)).isTrue();
        before.forEach((path, value) -> assertThat(
                        net.namedParameters().get(path).tensor().equal(value))
                .as(path)
                .isTrue());
        model.activate("a");
        assertThat(AdapterContract.run(net).equal(moved)).isTrue();
        model.attach("b", lora("fc").withModulesToSave(List.of("head")), new Seed(2));
        assertThat(AdapterContract.run(net).equal(plain)).isTrue();
        assertThatThrownBy(() -> model.activate("a", "b"))
                .hasMessageContaining("both bring their own version of one parameter");
        model.close();
        assertThat(AdapterContract.run(net).equal(plain)).isTrue();
    }

    @Test
    void biasesTrainByChoice() {
        model.attach("a", lora("fc").withBias(AdapterSpec.Bias.LORA_ONLY), new Seed(1));
        assertThat(model.trainableParameters().keySet())
                .filteredOn(k -> k.endsWith("bias"))
                .containsExactly(
                        "base_model.model.layers.0.fc.base_layer.bias", "base_model.model.layers.1.fc.base_layer.bias");
        AdapterSpec<?> all = lora("fc").withBias(AdapterSpec.Bias.ALL);
        assertThat(model.plan(all).trainableParameters()).isEqualTo(2 * 2 * 18 + 2 * (8 + 10 + 8) + 3);
        model.attach("b", all, new Seed(1));
        assertThat(model.trainableParameters().keySet())
                .filteredOn(k -> k.endsWith("bias"))
                .contains("base_model.model.layers.0.norm.bias", "base_model.model.head.bias")
                .hasSize(7);
    }

    @Test
    void namesAreChecked() {
        model.attach("support", lora("fc"), new Seed(1));
        assertThatThrownBy(() -> model.attach("support", lora("fc"), new Seed(1)))
                .hasMessageContaining("there is an adapter called support already");
        assertThatThrownBy(() -> model.attach("a/b", lora("fc"), new Seed(1)))
                .hasMessageContaining("cannot be an adapter's name");
        assertThatThrownBy(() -> model.activate("suport"))
                .hasMessage("there is no adapter called suport; did you mean support?");
        model.disable();
        assertThatThrownBy(model::merge).hasMessageContaining("no adapter is active");
        assertThatThrownBy(model::unmerge).hasMessageContaining("nothing is merged");
    }

    @Test
    void bfloat16LayersMergeInFloat32AndRoundOnce() {
        Tiny half = new Tiny(DType.FLOAT32);
        half.namedParameters().values().forEach(p -> p.set(p.tensor().to(DType.BFLOAT16)));
        AdaptedModel adapted = new AdaptedModel(half, half.heads());
        Attached a = adapted.attach("a", lora("head"), new Seed(1));
        assertThat(a.parameters().values()).allMatch(p -> p.tensor().dtype() == DType.FLOAT32);
        AdapterContract.move(a, 0.3);
        Tensor exact =
                half.head.weight().to(DType.FLOAT32).add(a.exactFactors("head").product());
        AdaptedModel.Change change = adapted.merge().get(0);
        assertThat(half.head.weight().equal(exact.to(DType.BFLOAT16))).isTrue();
        assertThat(change.maxRounding()).isPositive().isLessThan(change.maxChange() / 16);
    }

    /** RoBERTa's head is called classifier and is no module of its own: its layers are classifier.dense and classifier.out_proj. */
    @Test
    void keptModulesMayBeOnlyAPrefix() {
        Dotted dotted = new Dotted();
        AdaptedModel adapted = new AdaptedModel(dotted, List.of());
        AdapterSpec<?> spec = lora("query").withModulesToSave(List.of("classifier"));
        assertThat(adapted.plan(spec).layers())
                .extracting(Plan.Touched::path, Plan.Touched::parameters)
                .containsExactly(tuple("query", 16L), tuple("classifier", 4L * 4 + 2 * 4));
        adapted.attach("a", spec, new Seed(0));
        assertThat(adapted.trainableParameters())
                .containsKeys(
                        "base_model.model.classifier.dense.weight", "base_model.model.classifier.out_proj.weight");
    }

    private static final class Dotted extends dev.espalier.nn.Module {
        Dotted() {
            child("query", new dev.espalier.nn.Linear(4, 4, false, DType.FLOAT32));
            child("classifier.dense", new dev.espalier.nn.Linear(4, 4, false, DType.FLOAT32));
            child("classifier.out_proj", new dev.espalier.nn.Linear(4, 2, false, DType.FLOAT32));
        }
    }

    @Test
    void attachingAndRemovingLeavesNothingBehind() {
        cycle();
        long before = Machine.liveNativeObjects();
        for (int i = 0; i < 50; i++) {
            cycle();
        }
        assertThat(Machine.liveNativeObjects()).isLessThanOrEqualTo(before);
    }

    private void cycle() {
        try (Scope scope = Scope.open()) {
            model.attach(
                    "a",
                    AdapterSpec.of(new Lora.Type(), Lora.Config.of(2, 4).withInit("pissa"), Targets.of("fc", "proj"))
                            .withModulesToSave(List.of("head")),
                    new Seed(1));
            model.attach("b", AdapterSpec.of(new Dora.Type(), Lora.Config.of(2, 4), Targets.ALL), new Seed(1));
            model.activate("a", "b");
            net.forward(Tiny.ids()).sum().backward();
            model.merge();
            model.unmerge();
            model.remove("a");
            model.remove("b");
        }
    }

    @Test
    void aFailedAttachLeavesTheFormerAdapterActive() {
        AdapterContract.move(model.attach("a", lora("fc"), new Seed(1)), 0.3);
        Tensor adapted = AdapterContract.run(net);
        AdapterSpec<?> bad =
                AdapterSpec.of(new Lora.Type(), Lora.Config.of(2, 4).withInit("svd"), Targets.of("fc"));
        assertThatThrownBy(() -> model.attach("b", bad, new Seed(1))).hasMessageContaining("there is no method svd");
        assertThat(model.names()).containsExactly("a");
        assertThat(AdapterContract.run(net).equal(adapted)).isTrue();
    }

    @Test
    void bfloat16ActivationsMeetFloat32Factors() {
        Tiny half = new Tiny(DType.FLOAT32);
        half.namedParameters().values().forEach(p -> p.set(p.tensor().to(DType.BFLOAT16)));
        for (AdapterType<Lora.Config> type : List.of(new Lora.Type(), new Dora.Type())) {
            AdaptedModel adapted = new AdaptedModel(half, half.heads());
            Attached a = adapted.attach(
                    "a",
                    AdapterSpec.of(type, Lora.Config.of(2, 4), Targets.of("embed_tokens", "fc", "proj")),
                    new Seed(1));
            AdapterContract.move(a, 0.1);
            Tensor unmerged = half.forward(Tiny.ids());
            assertThat(unmerged.dtype()).isEqualTo(DType.BFLOAT16);
            unmerged.to(DType.FLOAT32).square().sum().backward();
            a.parameters()
                    .forEach((key, p) ->
                            assertThat(p.tensor().grad().dtype()).as(key).isEqualTo(DType.FLOAT32));
            adapted.merge();
            double scale = unmerged.abs().max().item();
            assertThat(AdapterContract.gap(AdapterContract.run(half), unmerged.detach()) / scale)
                    .as("eight bits of mantissa")
                    .isLessThan(0.03);
            adapted.close();
        }
    }
}
