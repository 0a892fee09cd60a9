package dev.espalier.adapter;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import dev.espalier.io.Fields;
import dev.espalier.model.GenerationConfig;
import dev.espalier.model.Input;
import dev.espalier.model.Model;
import dev.espalier.model.Pretrained;
import dev.espalier.model.TextGenerator;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Generator;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

/** Prompt tuning and prefix tuning; what PEFT computes with them is in PeftGoldenTest. */
class PromptTest {

    private static AdapterSpec<?> prompt(int n) {
        return AdapterSpec.of(new PromptTuning(), PromptTuning.Config.of(n), Targets.NONE);
    }

    private static AdapterSpec<?> prefix(int n) {
        return AdapterSpec.of(new PrefixTuning(), PrefixTuning.Config.of(n), Targets.NONE);
    }

    private static AdapterSpec<?> projected(int n, int hidden) {
        return AdapterSpec.of(
                new PrefixTuning(),
                new PrefixTuning.Config(n, true, hidden, false, false, PromptSizes.NONE),
                Targets.NONE);
    }

    static Stream<AdapterSpec<?>> specs() {
        return Stream.of(prompt(3), prefix(3), projected(3, 4));
    }

    private static Tensor run(Model model, Input in) {
        try (Grad off = Grad.off()) {
            return model.forward(in);
        }
    }

    private static double gap(Tensor a, Tensor b) {
        return a.sub(b).abs().max().item();
    }

    /** On a Llama of width 16 with 2 layers and 2 key heads of width 4: n D, n 2 L K E, and with the projection e, W1, b1, W2, b2. */
    @Test
    @Card(value = "prompt-tuning", checks = 1)
    @Card(value = "prefix-tuning", checks = 1)
    void trainsAsManyNumbersAsTheFormulaSays() {
        try (Pretrained base = PeftFixtures.base("llama");
                AdaptedModel model = PeftFixtures.adapted(base)) {
            assertThat(model.plan(prompt(5)).trainableParameters()).isEqualTo(5 * 16);
            assertThat(model.plan(prefix(5)).trainableParameters()).isEqualTo(5 * 2 * 2 * 8);
            assertThat(model.plan(projected(5, 16)).trainableParameters())
                    .isEqualTo(5 * 8 + (16 * 8 + 16) + (32 * 16 + 32));
            model.attach("default", prompt(5), new Seed(1));
            assertThat(model.trainableParameters().keySet()).containsExactly("prompt_embeddings");
        }
    }

    /** The same rows alone, padded on the right and padded on the left. */
    @ParameterizedTest
    @MethodSource("specs")
    void paddingOnEitherSideCountsForNothing(AdapterSpec<?> spec) {
        for (String name : List.of("llama", "gpt2")) {
            try (Scope scope = Scope.open();
                    Pretrained base = PeftFixtures.base(name);
                    AdaptedModel model = PeftFixtures.adapted(base)) {
                model.attach("default", spec, new Seed(1));
                Tensor alone = run(base.model(), Input.of(5, 9, 4)); // [1, 3, V]
                Tensor right = run(
                        base.model(),
                        Input.of(
                                Tensor.of(new long[] {5, 9, 4, 0, 0, 7, 6, 5, 8, 4}, 2, 5),
                                Tensor.of(new long[] {1, 1, 1, 0, 0, 1, 1, 1, 1, 1}, 2, 5)));
                Tensor left = run(
                        base.model(),
                        Input.of(
                                Tensor.of(new long[] {0, 0, 5, 9, 4, 7, 6, 5, 8, 4}, 2, 5),
                                Tensor.of(new long[] {0, 0, 1, 1, 1, 1, 1, 1, 1, 1}, 2, 5)));
                assertThat(right.shape()).startsWith(2, 5);
                assertThat(gap(right.narrow(0, 0, 1).narrow(1, 0, 3), alone)).isLessThan(1e-5);
                assertThat(gap(left.narrow(0, 0, 1).narrow(1, 2, 3), alone)).isLessThan(1e-5);
                assertThat(gap(left.narrow(0, 1, 1), right.narrow(0, 1, 1))).isLessThan(1e-5);
            }
        }
    }

    /** Padding of encoders, and a head that reads the first place. */
    @ParameterizedTest
    @MethodSource("specs")
    void classifiersTakeThem(AdapterSpec<?> spec) {
        try (Scope scope = Scope.open();
                Pretrained base = PeftFixtures.base("bert");
                AdaptedModel model = PeftFixtures.adapted(base)) {
            Tensor before = run(base.model(), Input.of(5, 9, 4));
            model.attach("default", spec.withModulesToSave(List.of("classifier")), new Seed(1));
            Tensor alone = run(base.model(), Input.of(5, 9, 4));
            assertThat(gap(alone, before)).isGreaterThan(1e-3);
            Tensor padded = run(
                    base.model(),
                    Input.of(Tensor.of(new long[] {5, 9, 4, 0, 0}, 1, 5), Tensor.of(new long[] {1, 1, 1, 0, 0}, 1, 5)));
            assertThat(gap(padded, alone)).isLessThan(1e-5);
            assertThat(model.trainableParameters()).containsKeys("base_model.classifier.weight");
            model.disable();
            assertThat(run(base.model(), Input.of(5, 9, 4)).equal(before)).isTrue();
        }
    }

    /** With the cache, alone and in a batch of unequal lengths, the tokens are those of whole forward passes. */
    @ParameterizedTest
    @MethodSource("specs")
    void generationWithACacheEqualsWholePasses(AdapterSpec<?> spec) {
        for (String name : List.of("llama", "gpt2")) {
            try (Scope scope = Scope.open();
                    Pretrained base = PeftFixtures.base(name);
                    AdaptedModel model = PeftFixtures.adapted(base)) {
                model.attach("default", spec, new Seed(1));
                List<int[]> prompts = List.of(new int[] {5, 9, 4}, new int[] {7, 6, 5, 8, 4});
                List<List<Integer>> expected = new ArrayList<>();
                for (int[] prompt : prompts) {
                    List<Integer> ids = new ArrayList<>();
                    for (int step = 0; step < 6; step++) {
                        int[] all = java.util.stream.IntStream.concat(
                                        java.util.Arrays.stream(prompt),
                                        ids.stream().mapToInt(i -> i))
                                .toArray();
                        Tensor logits = run(base.model(), Input.of(all));
                        ids.add((int) logits.select(1, all.length - 1).argmax(1).longs()[0]);
                    }
                    expected.add(ids);
                }
                TextGenerator generator = new TextGenerator(base.causalLm());
                GenerationConfig greedy = new GenerationConfig(6, false, 1, 0, 1, 1, List.of());
                assertThat(generator
                                .generate(prompts.get(0), greedy, new Seed(0))
                                .ids())
                        .isEqualTo(expected.get(0));
                assertThat(generator.generate(prompts, greedy, new Seed(0)).stream()
                                .map(TextGenerator.Generated::ids))
                        .isEqualTo(expected);
            }
        }
    }

    @ParameterizedTest
    @MethodSource("specs")
    void gradientsStayTheSameWhenLayersAreComputedAgain(AdapterSpec<?> spec) {
        try (Scope scope = Scope.open();
                Pretrained base = PeftFixtures.base("llama");
                AdaptedModel model = PeftFixtures.adapted(base)) {
            model.attach("default", spec, new Seed(1));
            Map<String, Tensor> plain = new LinkedHashMap<>();
            base.model().forward(Input.of(5, 9, 4, 7)).square().mean().backward();
            model.trainableParameters().forEach((key, p) -> {
                plain.put(key, p.tensor().grad().clone());
                p.tensor().clearGrad();
            });
            base.model().backbone().gradientCheckpointing(true);
            base.model().forward(Input.of(5, 9, 4, 7)).square().mean().backward();
            model.trainableParameters()
                    .forEach((key, p) -> assertThat(gap(p.tensor().grad(), plain.get(key)))
                            .as(key)
                            .isLessThan(1e-6));
        }
    }

    @ParameterizedTest
    @MethodSource("specs")
    void gradientsAreThoseOfDifferencesAndTheNetworkHasNone(AdapterSpec<?> spec) {
        try (Scope scope = Scope.open();
                Pretrained base = PeftFixtures.base("llama");
                AdaptedModel model = PeftFixtures.adapted(base)) {
            model.attach("default", spec, new Seed(1));
            Input in = Input.of(5, 9, 4, 7);
            base.model().forward(in).square().mean().backward();
            base.model()
                    .namedParameters()
                    .forEach((path, p) -> assertThat(p.tensor().grad()).as(path).isNull());
            try (Generator random = Generator.of(3)) {
                model.trainableParameters().forEach((key, p) -> {
                    Tensor direction = random.randn(p.shape());
                    double expected = p.tensor().grad().mul(direction).sum().item();
                    double h = 1e-3;
                    double[] sides = new double[2];
                    try (Grad off = Grad.off()) {
                        for (int side = 0; side < 2; side++) {
                            double by = side == 0 ? h : -h;
                            p.tensor().add_(direction, by);
                            sides[side] =
                                    base.model().forward(in).square().mean().item();
                            p.tensor().add_(direction, -by);
                        }
                    }
                    double numeric = (sides[0] - sides[1]) / (2 * h);
                    assertThat(numeric).as(key).isCloseTo(expected, within(0.02 * Math.abs(expected) + 2e-3));
                });
            }
        }
    }

    @ParameterizedTest
    @MethodSource("specs")
    void savedAndLoadedItComputesTheSame(AdapterSpec<?> spec, @TempDir Path folder) {
        try (Scope scope = Scope.open();
                Pretrained base = PeftFixtures.base("llama");
                AdaptedModel model = PeftFixtures.adapted(base)) {
            Tensor before = run(base.model(), Input.of(5, 9, 4));
            model.attach("default", spec, new Seed(1));
            Tensor adapted = run(base.model(), Input.of(5, 9, 4));
            assertThat(gap(adapted, before)).isGreaterThan(1e-3);
            PeftFolder.save(
                    model, "default", folder, PeftFolder.Info.of("tiny", "CAUSAL_LM"), PeftFolder.Form.PLAIN, Map.of());
            assertThat(PeftFolder.config(folder))
                    .containsEntry("num_layers", 2L)
                    .doesNotContainKey("target_modules");
            model.remove("default");
            assertThat(run(base.model(), Input.of(5, 9, 4)).equal(before)).isTrue();
            PeftFolder.load(model, folder, null, true);
            assertThat(run(base.model(), Input.of(5, 9, 4)).equal(adapted)).isTrue();
            assertThat(model.trainableParameters().keySet()).containsExactly("prompt_embeddings");
        }
    }

    /** Beside adapters of layers, one of them on top of the other. */
    @Test
    void standsBesideALora() {
        try (Scope scope = Scope.open();
                Pretrained base = PeftFixtures.base("llama");
                AdaptedModel model = PeftFixtures.adapted(base)) {
            model.attach(
                    "lora",
                    AdapterSpec.of(
                            new Lora.Type(), Lora.Config.of(2, 4).withInit(Lora.Config.RANDOM), Targets.of("q_proj")),
                    new Seed(1));
            Tensor lora = run(base.model(), Input.of(5, 9, 4));
            model.attach("prompt", prompt(2), new Seed(1));
            Tensor prompt = run(base.model(), Input.of(5, 9, 4));
            model.activate("lora", "prompt");
            Tensor both = run(base.model(), Input.of(5, 9, 4));
            assertThat(gap(both, lora)).isGreaterThan(1e-3);
            assertThat(gap(both, prompt)).isGreaterThan(1e-3);
            assertThat(model.unadapted(() -> run(base.model(), Input.of(5, 9, 4)))
                            .shape())
                    .isEqualTo(both.shape());
            model.attach("other", prefix(2), new Seed(1));
            assertThatThrownBy(() -> model.activate("prompt", "other"))
                    .hasMessage(
                            "adapters [prompt, other] each stand before all that the network reads; activate one of them");
        }
    }

    @Test
    void startsAtRowsOfTheTokenTable() {
        try (Scope scope = Scope.open();
                Pretrained base = PeftFixtures.base("llama");
                AdaptedModel model = PeftFixtures.adapted(base)) {
            AdapterSpec<?> spec = AdapterSpec.read(Fields.of(
                    "recipe",
                    Map.of("type", "prompt-tuning", "num_virtual_tokens", 4, "prompt_tuning_init", "sample_vocab")));
            Attached adapter = model.attach("default", spec, new Seed(1));
            Tensor rows = adapter.parameters().get("prompt_embeddings").tensor().detach();
            Tensor table = base.causalLm().backbone().tokens().weightParameter().tensor();
            for (int i = 0; i < 4; i++) {
                assertThat(table.eq(rows.select(0, i))
                                .to(DType.FLOAT32)
                                .amax(1, false)
                                .max()
                                .item())
                        .isEqualTo(1);
                double nearest = -table.sub(rows.select(0, i))
                        .abs()
                        .amax(1, false)
                        .neg()
                        .max()
                        .item();
                assertThat(nearest).isZero();
            }
        }
    }

    @Test
    void whatMakesNoSenseIsRefusedWithAReason(@TempDir Path folder) {
        try (Scope scope = Scope.open();
                Pretrained base = PeftFixtures.base("llama");
                AdaptedModel model = PeftFixtures.adapted(base)) {
            model.attach("default", prompt(2), new Seed(1));
            assertThatThrownBy(model::merge)
                    .hasMessage(
                            "default stands before what the network reads and changes no weight, so it cannot be merged; leave it as it is");
            assertThatThrownBy(() -> PeftFolder.exportLora(model, "default", folder, null, 8, Map.of()))
                    .hasMessage(
                            "default stands before what the network reads and on none of its layers, so no LoRA does the same; keep it as it is");
            Input packed = Input.of(5, 9, 4).withSegmentIds(Tensor.of(new long[] {0, 0, 1}, 1, 3));
            assertThatThrownBy(() -> base.model().forward(packed))
                    .hasMessage(
                            "a prompt stands before a row, and a packed row holds several texts; leave packing off");
            AdapterSpec<?> wrong =
                    AdapterSpec.read(Fields.of("recipe", Map.of("type", "prompt-tuning", "token_dim", 17)));
            assertThatThrownBy(() -> model.attach("b", wrong, new Seed(1)))
                    .hasMessage(
                            "token_dim is 17, and this network's is 16; leave it out, or use the network that the prompt was made for");
            AdapterSpec<?> text = AdapterSpec.read(
                    Fields.of("recipe", Map.of("type", "prompt-tuning", "prompt_tuning_init", "text")));
            assertThatThrownBy(() -> model.attach("b", text, new Seed(1)))
                    .hasMessageStartingWith("prompt_tuning_init is text, which needs the tokenizer that made it");
            assertThatThrownBy(() -> PromptTuning.Config.of(0))
                    .hasMessage("num_virtual_tokens must be at least 1, found 0; try 20");
            Tiny net = new Tiny(DType.FLOAT32);
            assertThatThrownBy(() -> new AdaptedModel(net, net.heads()).attach("a", prompt(2), new Seed(1)))
                    .hasMessage("prompt-tuning stands before the tokens of a transformer, and this network reads none");
        }
    }
}
