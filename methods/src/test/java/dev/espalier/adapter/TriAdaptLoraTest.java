package dev.espalier.adapter;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import dev.espalier.adapter.TriAdaptLora.GrowthModel;
import dev.espalier.adapter.TriAdaptLora.Init;
import dev.espalier.adapter.TriAdaptLora.Normalise;
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
import dev.espalier.train.StepContext;
import dev.espalier.train.TrainConfig;
import dev.espalier.train.Trainer;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class TriAdaptLoraTest extends AdapterContract {

    private static TriAdaptLora.Config config(int initRank, int step, Init init, int reference) {
        return new TriAdaptLora.Config(
                reference,
                initRank,
                step,
                0,
                3,
                GrowthModel.LINEAR,
                0,
                0.1,
                8,
                0,
                init,
                Normalise.BLOCKS,
                false,
                Map.of());
    }

    private static AdapterSpec<?> spec(TriAdaptLora.Config config) {
        return AdapterSpec.of(new TriAdaptLora.Type(), config, Targets.of("fc", "proj"));
    }

    @Override
    protected AdapterSpec<?> spec() {
        return spec(config(3, 1, Init.C0, 8));
    }

    @Override
    @Card(value = "triadaptlora", checks = 3)
    protected long parameters(long out, long in) {
        return 3 * (in + out) + 2 * 9;
    }

    private static TriAdaptLora on(Linear layer, TriAdaptLora.Config config) {
        return new TriAdaptLora(config, new Site("x", layer), new Seed(0));
    }

    private static Tensor wide(Generator g, long... shape) {
        return g.randn(shape).to(DType.FLOAT64);
    }

    private static Tensor x() {
        try (Generator g = Generator.of(2)) {
            return wide(g, 2, 3, 4);
        }
    }

    private static void shake(TriAdaptLora adapter) {
        try (Grad off = Grad.off();
                Generator g = Generator.of(5)) {
            adapter.parameters().values().forEach(p -> p.tensor().add_(wide(g, p.shape()), 0.5));
        }
    }

    /** The change of a weight and the score, of blocks of 2 and of blocks of 1. */
    @Test
    void changeAndScoreAreThoseOfTheAuthorsCode() {
        try (TensorSource golden = Safetensors.open(Path.of("src/test/resources/golden/triadapt.safetensors"))) {
            for (Init init : List.of(Init.C0, Init.UNIT)) {
                String name = init.name().toLowerCase(java.util.Locale.ROOT);
                Linear layer = new Linear(4, 5, false, DType.FLOAT32);
                TriAdaptLora adapter = on(layer, config(1, init == Init.C0 ? 2 : 1, init, 8));
                adapter.grow();
                adapter.grow();
                try (Grad off = Grad.off()) {
                    adapter.parameters().forEach((leaf, p) -> p.tensor().copy_(golden.read(name + "." + leaf)));
                }
                Tensor expected = golden.read(name + ".change");
                assertThat(gap(adapter.toLora().product(), expected)
                                / expected.abs().max().item())
                        .isLessThan(1e-6);
                assertThat(adapter.norm()).isCloseTo(golden.read(name + ".norm").item(), within(1e-6));
            }
        }
    }

    @Test
    @Card(value = "triadaptlora", checks = 1)
    void aFreshOneChangesNothingAndGrowthChangesTheScaleAlone() {
        Linear layer = Gradients.layer();
        Tensor plain = layer.compute(x());
        for (Init init : Init.values()) {
            assertThat(gap(on(layer, config(1, 2, init, 8)).forward(x(), new Base.Ground(layer)), plain))
                    .isZero();
        }
        TriAdaptLora adapter = on(layer, config(3, 2, Init.C0, 8));
        shake(adapter);
        Tensor before = adapter.forward(x(), new Base.Ground(layer)).sub(plain);
        adapter.grow();
        Tensor after = adapter.forward(x(), new Base.Ground(layer)).sub(plain);
        assertThat(gap(after, before.mul((3 + 1e-5) / (5 + 1e-5)))).isLessThan(1e-12);
        TriAdaptLora.Config usual = config(3, 2, Init.C0, 8);
        TriAdaptLora kept = on(
                layer,
                new TriAdaptLora.Config(
                        8, 3, 2, 0, 3, usual.growth(), 0, 0.1, 8, 0, Init.C0, usual.normalise(), true, Map.of()));
        shake(kept);
        before = kept.forward(x(), new Base.Ground(layer));
        kept.grow();
        assertThat(gap(kept.forward(x(), new Base.Ground(layer)), before)).isLessThan(1e-12);
    }

    @Test
    @Card(
            value = "triadaptlora",
            checks = {2, 3})
    void triangularPartsMakeUpTheWhole() {
        Linear layer = Gradients.layer();
        TriAdaptLora unit = on(layer, config(1, 1, Init.C0, 8));
        for (int i = 1; i < 6; i++) {
            unit.grow();
        }
        shake(unit);
        Map<String, Tensor> parts = new TriAdaptLora.Type()
                .saved(config(1, 1, Init.C0, 8), new AdapterType.Made(Map.of("x", unit), Map.of()))
                .tensors();
        double[] low = parts.get("base_model.model.x.lora_C_low").doubles();
        double[] up = parts.get("base_model.model.x.lora_C_up").doubles();
        long entries = 0;
        for (int i = 0; i < 6; i++) {
            for (int j = 0; j < 6; j++) {
                assertThat(low[6 * i + j] == 0).isEqualTo(j > i);
                assertThat(up[6 * i + j] == 0).isEqualTo(i > j);
                entries += (j <= i ? 1 : 0) + (i <= j ? 1 : 0);
            }
        }
        assertThat(entries).isEqualTo(42).isEqualTo(entries(unit));
        TriAdaptLora twos = on(layer, config(2, 2, Init.C0, 8));
        for (int i = 1; i < 5; i++) {
            twos.grow();
        }
        assertThat(twos.rank()).isEqualTo(10);
        assertThat(entries(twos)).isEqualTo(120);
        // any matrix: its lower part in L, the strictly upper one in U
        try (Generator g = Generator.of(3);
                Grad off = Grad.off()) {
            Tensor wanted = wide(g, 6, 6);
            for (int i = 0; i < 6; i++) {
                String number = i == 0 ? "" : "." + i;
                Tensor column = wanted.select(1, i).narrow(0, 0, i + 1).clone();
                column.narrow(0, i, 1).zero_();
                unit.parameters()
                        .get("lora_C_low" + number)
                        .tensor()
                        .copy_(wanted.select(0, i).narrow(0, 0, i + 1).unsqueeze(0));
                unit.parameters().get("lora_C_up" + number).tensor().copy_(column.unsqueeze(1));
            }
            assertThat(gap(unit.c(), wanted)).isZero();
        }
    }

    private static long entries(TriAdaptLora adapter) {
        return adapter.parameters().entrySet().stream()
                .filter(e -> e.getKey().contains("_C_"))
                .mapToLong(e -> e.getValue().tensor().numel())
                .sum();
    }

    @Test
    @Card(
            value = "triadaptlora",
            checks = {4, 5})
    void contractedMergedAndExportedAreTheFormula() {
        Linear layer = Gradients.layer();
        TriAdaptLora adapter = on(layer, config(1, 2, Init.C0, 8));
        adapter.grow();
        adapter.grow();
        shake(adapter);
        Tensor a = part(adapter, "lora_A", 0);
        Tensor b = part(adapter, "lora_B", 1);
        Tensor change = b.matmul(adapter.c()).matmul(a).mul(8 / (5 + 1e-5));
        Tensor expected = layer.compute(x()).add(x().matmul(change.t()));
        assertThat(gap(adapter.forward(x(), new Base.Ground(layer)), expected)).isLessThan(1e-12);
        assertThat(gap(adapter.toLora().product(), change)).isLessThan(1e-12);
        assertThat(adapter.toLora().rank()).isEqualTo(5);
        assertThat(adapter.toLora().scale()).isEqualTo(8 / (5 + 1e-5));
        Base.Affine merged = adapter.merge(Base.Affine.of(layer));
        assertThat(gap(merged.weight(), layer.weight().add(change))).isLessThan(1e-12);
        // C = 1: plain LoRA
        TriAdaptLora plain = on(layer, config(3, 2, Init.C0, 8));
        shake(plain);
        try (Grad off = Grad.off()) {
            plain.parameters().get("lora_C_low").tensor().copy_(Tensor.eye(3, DType.FLOAT64));
            plain.parameters().get("lora_C_up").tensor().zero_();
        }
        LoraFactors lora = new LoraFactors(
                plain.parameters().get("lora_A").tensor(),
                plain.parameters().get("lora_B").tensor(),
                8 / (3 + 1e-5),
                null);
        assertThat(gap(plain.forward(x(), new Base.Ground(layer)), lora.forward(x(), new Base.Ground(layer), 0)))
                .isLessThan(1e-12);
    }

    private static Tensor part(TriAdaptLora adapter, String leaf, int dim) {
        return Tensor.cat(
                adapter.parameters().entrySet().stream()
                        .filter(e -> e.getKey().startsWith(leaf))
                        .map(e -> e.getValue().tensor())
                        .toList(),
                dim);
    }

    @Test
    @Card(value = "triadaptlora", checks = 6)
    void atTheFirstStepOnlyWhatIsMeantToMoves() {
        Linear layer = Gradients.layer();
        for (Init init : Init.values()) {
            TriAdaptLora adapter = on(layer, config(1, 2, init, 8));
            adapter.forward(x(), new Base.Ground(layer)).square().sum().backward();
            adapter.parameters().forEach((leaf, p) -> {
                boolean moves = p.tensor().grad().abs().max().item() > 0;
                assertThat(moves)
                        .as("%s %s", init, leaf)
                        .isEqualTo(init == Init.C0 ? leaf.contains("_C_") : leaf.startsWith("lora_B"));
            });
            // never two neighbours at zero
            boolean zeroB = !part(adapter, "lora_B", 1).ne(0).any();
            boolean zeroC = !adapter.c().ne(0).any();
            assertThat(zeroB && zeroC).isFalse();
        }
    }

    @Test
    @Card(value = "triadaptlora", checks = 4)
    void gradientsEqualFiniteDifferences() {
        Gradients.check(layer -> {
            TriAdaptLora adapter = on(layer, config(1, 2, Init.C0, 8));
            adapter.grow();
            shake(adapter);
            return adapter;
        });
    }

    @Test
    @Card(value = "triadaptlora", checks = 7)
    void asManyGrowAsTheScheduleSays() {
        double[] times = {0.01, 0.1, 0.25, 0.75, 0.9};
        int[] linear = {1, 10, 25, 72, 72};
        int[] exponential = {1, 1, 3, 31, 63};
        for (int i = 0; i < 5; i++) {
            assertThat(TriangularGrowth.growing(GrowthModel.LINEAR, 100, 72, times[i]))
                    .isEqualTo(linear[i]);
            assertThat(TriangularGrowth.growing(GrowthModel.EXPONENTIAL, 100, 72, times[i]))
                    .isEqualTo(exponential[i]);
        }
        assertThat(TriangularGrowth.growing(GrowthModel.LINEAR, 7, 12, 0.5)).isEqualTo(3);
        assertThat(TriangularGrowth.growing(GrowthModel.LINEAR, 7, 12, 0.9)).isEqualTo(6);
        assertThat(TriangularGrowth.growing(GrowthModel.EXPONENTIAL, 7, 12, 0.5))
                .isEqualTo(2);
        assertThat(TriangularGrowth.growing(GrowthModel.EXPONENTIAL, 7, 12, 0.9))
                .isEqualTo(5);
        assertThat(TriangularGrowth.growing(GrowthModel.LINEAR, 7, 12, 0)).isEqualTo(1);
    }

    /** A training of a Tiny with ranks, step by step, of four layers. */
    private static List<Map<String, Integer>> grown(TriAdaptLora.Config config, long seed, Path out, int stopAt) {
        List<Map<String, Integer>> ranks = new ArrayList<>();
        Tiny net = new Tiny(DType.FLOAT32);
        AdaptedModel model = new AdaptedModel(net, net.heads());
        Attached adapter = model.attach("default", spec(config), new Seed(seed));
        TrainConfig train = TrainConfig.builder()
                .steps(18)
                .batchSize(4)
                .learningRate(0.01)
                .seed(seed)
                .build();
        Trainer[] running = new Trainer[1];
        Trainer.Builder builder = TinyTask.trainer(net, adapter, model, train).callback(new Callback() {
            @Override
            public void afterStep(StepContext step) {
                Map<String, Integer> now = new LinkedHashMap<>();
                adapter.made().adapters().forEach((path, each) -> now.put(path, ((TriAdaptLora) each).rank()));
                ranks.add(now);
                if (step.step() == stopAt) {
                    running[0].requestStop();
                }
            }
        });
        if (out != null) {
            builder.out(out).resume(stopAt == 0);
        }
        try (Trainer trainer = builder.build()) {
            running[0] = trainer;
            trainer.train();
        }
        VALUES.clear();
        adapter.parameters().forEach((key, p) -> VALUES.put(key, p.tensor().floats()));
        return ranks;
    }

    private static final Map<String, float[]> VALUES = new LinkedHashMap<>(); // where the latest training ended

    private static int total(Map<String, Integer> ranks) {
        return ranks.values().stream().mapToInt(Integer::intValue).sum();
    }

    @Test
    @Card(
            value = "triadaptlora",
            checks = {8, 9})
    void ranksGrowToTheTargetAndNoFurtherThanABlockEach() {
        for (long seed = 1; seed <= 2; seed++) {
            for (Init init : Init.values()) {
                List<Map<String, Integer>> ranks = grown(config(1, 2, init, 3), seed, null, -1);
                int before = 4;
                for (int t = 1; t <= 18; t++) {
                    int now = total(ranks.get(t - 1));
                    assertThat(now).isGreaterThanOrEqualTo(before);
                    assertThat(now > before).as("grows at %d", t).isEqualTo(before < 12 && t % 3 == 0);
                    before = now;
                }
                assertThat(before).isBetween(12, 12 + 4 * 2 - 1);
            }
        }
    }

    /** Norms of C over n: a layer that grew has a larger n, so that its next score is lower. */
    @Test
    @Card(value = "triadaptlora", checks = 8)
    void aLayerThatGrewIsHeldBack() {
        Linear layer = Gradients.layer();
        TriAdaptLora adapter = on(layer, config(2, 2, Init.C0, 8));
        shake(adapter);
        double before = adapter.norm();
        adapter.grow();
        assertThat(adapter.norm()).isCloseTo(before / 2, within(1e-12)); // two blocks, the new one at zero
        TriAdaptLora.Config usual = config(2, 2, Init.C0, 8);
        TriAdaptLora byRank = on(
                layer,
                new TriAdaptLora.Config(
                        8, 2, 2, 0, 3, usual.growth(), 0, 0, 8, 0, Init.C0, Normalise.RANK, false, Map.of()));
        shake(byRank);
        assertThat(byRank.norm()).isCloseTo(byRank.c().norm().item() / 2, within(1e-12));
        byRank.grow();
        assertThat(byRank.norm()).isCloseTo(byRank.c().norm().item() / 4, within(1e-12));
    }

    /** The layer whose C must move most gets most: two layers, one of them without anything to learn. */
    @Test
    @Card(value = "triadaptlora", checks = 9)
    void theDemandingLayerEndsWithTheLargestRank() {
        Linear layer = Gradients.layer();
        TriAdaptLora.Config config = config(1, 1, Init.C0, 4);
        Map<String, TriAdaptLora> layers = new LinkedHashMap<>();
        layers.put("busy", on(layer, config));
        layers.put("idle", new TriAdaptLora(config, new Site("y", layer), new Seed(1)));
        TriangularGrowth growth = new TriangularGrowth(config, layers);
        assertThat(growth.state().get("norms").doubles()).containsExactly(0, 0);
        Tiny net = new Tiny(DType.FLOAT32);
        AdaptedModel model = new AdaptedModel(net, net.heads());
        Attached adapter = model.attach(
                "default",
                AdapterSpec.of(new TriAdaptLora.Type(), config(1, 1, Init.C0, 3), Targets.of("fc")),
                new Seed(1));
        TriAdaptLora idle = (TriAdaptLora) adapter.at("layers.1.fc");
        TrainConfig train =
                TrainConfig.builder().steps(18).batchSize(4).learningRate(0.02).build();
        try (Trainer trainer = TinyTask.trainer(net, adapter, model, train)
                .callback(new Callback() {
                    @Override
                    public void afterUpdate(StepContext step) { // nothing to learn there
                        idle.parameters().forEach((leaf, p) -> {
                            if (leaf.contains("_C_")) {
                                p.tensor().detach().zero_();
                            }
                        });
                    }
                })
                .build()) {
            trainer.train();
        }
        assertThat(((TriAdaptLora) adapter.at("layers.0.fc")).rank()).isGreaterThan(idle.rank());
    }

    @Test
    void aResumedRunGrowsToTheSameBits(@TempDir Path folder) {
        TriAdaptLora.Config config = config(1, 2, Init.C0, 3);
        grown(config, 1, null, -1);
        Map<String, float[]> whole = new LinkedHashMap<>(VALUES);
        grown(config, 1, folder.resolve("run"), 7);
        grown(config, 1, folder.resolve("run"), 0);
        assertThat(VALUES.keySet()).isEqualTo(whole.keySet());
        whole.forEach((key, value) -> assertThat(VALUES.get(key)).as(key).isEqualTo(value));
    }

    @Test
    void aGrownOneIsSavedAndLoaded(@TempDir Path folder) {
        try (Scope scope = Scope.open()) {
            Tiny net = new Tiny(DType.FLOAT32);
            AdaptedModel model = new AdaptedModel(net, net.heads());
            Attached adapter = model.attach("default", spec(config(1, 2, Init.C0, 8)), new Seed(1));
            ((TriAdaptLora) adapter.at("layers.0.fc")).grow();
            move(adapter, 0.3);
            for (Parameter p : ((TriAdaptLora) adapter.at("layers.0.fc")).grow().values()) {
                p.trainable(true);
            }
            Tensor grown = run(net);
            PeftFolder.save(
                    model, "default", folder, PeftFolder.Info.of("tiny", null), PeftFolder.Form.PLAIN, Map.of());
            model.remove("default");
            Attached again = PeftFolder.load(model, folder, null, true);
            assertThat(gap(run(net), grown)).isLessThan(1e-5);
            assertThat(((TriAdaptLora) again.at("layers.0.fc")).rank()).isEqualTo(5);
            assertThat(((TriAdaptLora) again.at("layers.1.fc")).rank()).isEqualTo(1);
        }
    }

    @Test
    void badInputIsRefusedWithAReason() {
        assertThatThrownBy(() -> config(0, 1, Init.C0, 8)).hasMessage("init_rank must be at least 1, found 0; try 1");
        assertThatThrownBy(() -> config(2, 1, Init.UNIT, 8))
                .hasMessage(
                        "init unit starts its first component alone at zero, so init_rank must be 1, found 2; set it to 1");
        assertThatThrownBy(() -> config(1, -1, Init.C0, 8))
                .hasMessage("incre_rank_num must be at least 1, or 0 for half of reference_rank, found -1");
        assertThatThrownBy(() -> config(1, 1, Init.C0, 0))
                .hasMessage("reference_rank must be at least 1, found 0; try 8");
        assertThat(config(1, 0, Init.C0, 5).block()).isEqualTo(2);
        assertThat(config(1, 0, Init.C0, 1).block()).isEqualTo(1);
    }
}
