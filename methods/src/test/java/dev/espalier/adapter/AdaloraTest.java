package dev.espalier.adapter;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.espalier.io.Fields;
import dev.espalier.io.Json;
import dev.espalier.io.Safetensors;
import dev.espalier.io.TensorSource;
import dev.espalier.nn.Linear;
import dev.espalier.nn.Parameter;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Generator;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import dev.espalier.train.Callback;
import dev.espalier.train.Optimizer;
import dev.espalier.train.ParameterGroup;
import dev.espalier.train.Sgd;
import dev.espalier.train.StepContext;
import dev.espalier.train.TrainConfig;
import dev.espalier.train.Trainer;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.atomic.AtomicReference;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class AdaloraTest extends AdapterContract {

    private static final Adalora.Type TYPE = new Adalora.Type();

    private static Adalora.Config config(int init, int target, long tinit, long tfinal, long total) {
        return new Adalora.Config(init, target, 6, 0, tinit, tfinal, 1, 0.85, 0.85, 0.5, total, Map.of());
    }

    @Override
    protected AdapterSpec<?> spec() {
        return AdapterSpec.of(TYPE, config(3, 2, 0, 0, 0), Targets.of("fc", "proj"));
    }

    @Override
    @Card(value = "adalora", checks = 1)
    protected long parameters(long out, long in) {
        return 3 * (in + out + 1);
    }

    /** PEFT's RankAllocator over fourteen steps: tools/golden/make_peft_rank_fixtures.py. */
    @Test
    @Card(value = "adalora", checks = 8)
    void everyAllocationIsPefts() {
        Path folder = PeftFixtures.root("adalora");
        Adalora.Config config = config(4, 2, 2, 3, 14);
        Map<String, Linear> layers = new LinkedHashMap<>();
        layers.put("l0", new Linear(8, 10, true, DType.FLOAT32));
        layers.put("l1", new Linear(10, 8, true, DType.FLOAT32));
        layers.put("l2", new Linear(8, 8, true, DType.FLOAT32));
        List<Site> sites = layers.entrySet().stream()
                .map(e -> new Site(e.getKey(), e.getValue()))
                .toList();
        AdapterType.Made made = TYPE.create(config, sites, new Seed(0));
        Map<String, Parameter> parameters = new LinkedHashMap<>();
        made.adapters()
                .forEach((path, each) -> each.parameters().forEach((leaf, p) -> parameters.put(path + "." + leaf, p)));
        Callback allocator = new Attached("x", AdapterSpec.of(TYPE, config, Targets.of("l0")), sites, made)
                .parts(new Seed(0))
                .callbacks()
                .get(0);
        try (Optimizer optimizer = Sgd.Config.DEFAULT.create(List.of(new ParameterGroup("all", parameters, 1, 0)));
                TensorSource file = Safetensors.open(folder.resolve("allocator.safetensors"));
                Scope scope = Scope.open()) {
            parameters.forEach((name, p) -> p.tensor().detach().copy_(file.read("start." + name)));
            List<Double> budgets = Fields.of("budgets", Json.read(folder.resolve("budgets.json")))
                    .numbers("budgets", List.of());
            for (int t = 0; t < 14; t++) {
                if (t <= 11) {
                    assertThat((double) config.plan().budget(t, 14, 12, 6)).isEqualTo(budgets.get(t));
                }
                int step = t;
                parameters.forEach((name, p) -> p.tensor()
                        .mul(file.read(step + ".gradient." + name))
                        .sum()
                        .backward());
                optimizer.step(0.1);
                allocator.afterUpdate(new StepContext(null, t + 1, 0, null, 0.1));
                optimizer.zeroGrad();
                parameters.forEach((name, p) -> {
                    if (name.endsWith("lora_E")) {
                        Tensor expected = file.read(step + "." + name);
                        assertThat(p.tensor().detach().ne(0).equal(expected.ne(0)))
                                .as("%d %s", step, name)
                                .isTrue();
                        assertThat(gap(p.tensor(), expected)).isLessThan(1e-6);
                    }
                });
            }
        }
    }

    private static final TrainConfig TRAIN = TrainConfig.builder()
            .steps(30)
            .batchSize(8)
            .learningRate(0.02)
            .logEvery(30)
            .build();

    private record Trained(AdaptedModel model, Attached adapter, Tiny net) {}

    private static Trained trained(Path out, long stopAt, boolean resume) {
        Tiny net = new Tiny(DType.FLOAT32);
        AdaptedModel model = new AdaptedModel(net, net.heads());
        Attached adapter = model.attach(
                "default", AdapterSpec.of(TYPE, config(4, 2, 3, 5, 0), Targets.of("fc", "proj")), new Seed(1));
        AtomicReference<Trainer> made = new AtomicReference<>();
        made.set(TinyTask.trainer(net, adapter, model, TRAIN)
                .out(out)
                .resume(resume)
                .callback(new Callback() {
                    @Override
                    public void afterStep(StepContext step) {
                        if (step.step() == stopAt) {
                            made.get().requestStop();
                        }
                    }
                })
                .build());
        try (Trainer trainer = made.get()) {
            trainer.train();
        }
        return new Trained(model, adapter, net);
    }

    @Test
    @Card(
            value = "adalora",
            checks = {3, 8})
    void aTrainingEndsWithinTheBudgetAndSavesWhatIsLeft(@TempDir Path folder) {
        Trained done = trained(folder.resolve("run"), -1, false);
        Map<String, double[]> e = new LinkedHashMap<>();
        done.adapter.parameters().forEach((key, p) -> {
            if (key.endsWith("lora_E")) {
                e.put(key, p.tensor().doubles());
            }
        });
        long left = e.values().stream()
                .flatMapToDouble(java.util.Arrays::stream)
                .filter(v -> v != 0)
                .count();
        assertThat(left).isEqualTo(2 * 4); // target_r · layers, the others exactly 0
        Tensor output = run(done.net);
        PeftFolder.save(
                done.model,
                "default",
                folder.resolve("own"),
                PeftFolder.Info.of("tiny", null),
                PeftFolder.Form.PLAIN,
                Map.of());
        PeftFolder.exportLora(
                done.model, "default", folder.resolve("lora"), PeftFolder.Info.of("tiny", null), 0, Map.of());
        Map<String, Object> json = Json.read(folder.resolve("own/adapter_config.json"));
        assertThat(json).containsEntry("total_step", 30L);
        Map<?, ?> pattern = (Map<?, ?>) json.get("rank_pattern");
        assertThat(pattern).hasSize(4);
        e.forEach((key, values) -> {
            List<Boolean> expected =
                    java.util.Arrays.stream(values).mapToObj(v -> v != 0).toList();
            assertThat(pattern.get(key.substring(Attached.PREFIX.length()))).isEqualTo(expected);
        });
        done.model.remove("default");
        for (String form : List.of("own", "lora")) {
            PeftFolder.load(done.model, folder.resolve(form), null, true);
            assertThat(gap(run(done.net), output)).isLessThan(1e-5);
            done.model.merge();
            assertThat(gap(run(done.net), output)).isLessThan(1e-5);
            done.model.unmerge();
            done.model.remove("default");
        }
    }

    @Test
    void resumedInEveryPhaseItEndsOnTheSameBits(@TempDir Path folder) {
        Map<String, Parameter> expected =
                trained(folder.resolve("whole"), -1, false).adapter.parameters();
        for (long stop : new long[] {2, 12, 27}) {
            Path out = folder.resolve("stopped" + stop);
            trained(out, stop, false);
            Map<String, Parameter> resumed = trained(out, -1, true).adapter.parameters();
            expected.forEach((key, p) -> assertThat(resumed.get(key).tensor().equal(p.tensor()))
                    .as("%d %s", stop, key)
                    .isTrue());
        }
    }

    @Test
    void aLayerWithoutRankIsWrittenAndRead(@TempDir Path folder) {
        Tiny net = new Tiny(DType.FLOAT32);
        AdaptedModel model = new AdaptedModel(net, net.heads());
        Attached adapter = model.attach("default", spec(), new Seed(1));
        move(adapter, 0.3);
        adapter.parameters()
                .get(Attached.PREFIX + "layers.0.fc.lora_E")
                .tensor()
                .detach()
                .zero_();
        Tensor output = run(net);
        PeftFolder.save(model, "default", folder, PeftFolder.Info.of("tiny", null), PeftFolder.Form.PLAIN, Map.of());
        model.remove("default");
        Attached again = PeftFolder.load(model, folder, null, true);
        assertThat(run(net).equal(output)).isTrue();
        assertThat(again.at("layers.0.fc").parameters().get("lora_A").shape()).containsExactly(0, 8);
        assertThat(model.trainableParameters()).hasSize(9);
        assertThat(PeftFolder.exportLora(model, "default", folder.resolve("lora"), null, 0, Map.of()))
                .hasSize(3);
    }

    @Test
    void penaltyAndGradientsFollowTheFormula() {
        Gradients.check(layer -> {
            Adalora adalora = (Adalora) TYPE.create(config(2, 1, 0, 0, 0), List.of(new Site("x", layer)), new Seed(0))
                    .adapters()
                    .get("x");
            try (Generator g = Generator.of(3);
                    Grad off = Grad.off()) {
                adalora.parameters().values().forEach(p -> p.tensor().copy_(g.randn(p.shape())));
            }
            return adalora;
        });
        // M Mᵀ - I of [[1, 2], [0, 3]] is [[4, 6], [6, 8]]: √152; of 2 I it is 3 I: √18.
        Tensor one = Tensor.of(new double[] {1, 2, 0, 3}, 2, 2);
        Tensor two = Tensor.of(new double[] {2, 0, 0, 2}, 2, 2);
        assertThat(dev.espalier.rank.Orthogonality.penalty(List.of(one, two)).item())
                .isCloseTo((Math.sqrt(152) + Math.sqrt(18)) / 2, org.assertj.core.api.Assertions.within(1e-12));
    }

    /** Table of the method card: init_r 4 on 32 to 32 and 64 to 32 trains 648. */
    @Test
    @Card(value = "adalora", checks = 1)
    void countIsThatOfTheCard() {
        long count = List.of(32, 64).stream()
                .flatMap(in -> TYPE
                        .create(
                                config(4, 2, 0, 0, 0),
                                List.of(new Site("x", new Linear(in, 32, false, DType.FLOAT32))),
                                new Seed(0))
                        .adapters()
                        .get("x")
                        .parameters()
                        .values()
                        .stream())
                .mapToLong(p -> p.tensor().numel())
                .sum();
        assertThat(count).isEqualTo(648);
    }

    @Test
    void badSettingsAreRefusedWithAReason() {
        assertThatThrownBy(() -> config(0, 2, 0, 0, 0)).hasMessage("init_r must be at least 1, found 0; try 12");
        assertThatThrownBy(() -> new Adalora.Config(4, 2, 6, 0, 0, 0, 1, 1, 0.85, 0.5, 0, Map.of()))
                .hasMessage("beta1 must lie in (0, 1), found 1.0; try 0.85");
        assertThatThrownBy(() -> attach(config(2, 3, 0, 0, 0), "fc"))
                .hasMessage("target_r is 3, above init_r 2, from which ranks are only taken away; try init_r 5");
        assertThatThrownBy(() -> attach(config(2, 1, 0, 0, 0), "embed_tokens"))
                .hasMessage(
                        "embed_tokens is an embedding, whose input is ids and no vector that adalora could change; name linear layers, or use lora");
        Tiny net = new Tiny(DType.FLOAT32);
        AdaptedModel model = new AdaptedModel(net, net.heads());
        Attached adapter =
                model.attach("default", AdapterSpec.of(TYPE, config(4, 2, 20, 10, 0), Targets.of("fc")), new Seed(1));
        try (Trainer trainer = TinyTask.trainer(net, adapter, model, TRAIN).build()) {
            assertThatThrownBy(trainer::train)
                    .hasMessage(
                            "tinit 20 and tfinal 10 leave none of the 30 steps for the budget to fall in; their sum must be below 30");
        }
    }

    private static void attach(Adalora.Config config, String target) {
        Tiny net = new Tiny(DType.FLOAT32);
        new AdaptedModel(net, net.heads())
                .attach("default", AdapterSpec.of(TYPE, config, Targets.of(target)), new Seed(1));
    }
}
