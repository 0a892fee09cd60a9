package dev.espalier.adapter;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import dev.espalier.io.Fields;
import dev.espalier.io.Json;
import dev.espalier.nn.Linear;
import dev.espalier.nn.Parameter;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Generator;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import dev.espalier.train.AdamW;
import dev.espalier.train.Optimizer;
import dev.espalier.train.ParameterGroup;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class HydraTest extends AdapterContract {

    private static final Hydra.Type TYPE = new Hydra.Type();
    private static final int OUT = 6;
    private static final int IN = 5;
    private static final List<String> NAMES = List.of(
            "lora_A.weight",
            "lora_A.bias",
            "lora_B.weight",
            "lora_B.bias",
            "hydra_A.weight",
            "hydra_A.bias",
            "hydra_B.weight",
            "hydra_B.bias");

    @Override
    protected AdapterSpec<?> spec() {
        return spec(Hydra.Config.of(2, 3).with(1.5, true));
    }

    private static AdapterSpec<?> spec(Hydra.Config config) {
        return AdapterSpec.of(TYPE, config, Targets.of("fc", "proj"));
    }

    @Override
    @Card(value = "hydra", checks = 7)
    protected long parameters(long out, long in) {
        return 2 * (in + out) + 2 * out * 3 + 2 + 3 + 2 * out;
    }

    private static Tensor random(long seed, long... shape) {
        try (Generator g = Generator.of(seed)) {
            return g.randn(shape).to(DType.FLOAT64);
        }
    }

    private static Linear linear(Tensor weight, Tensor bias) {
        Linear layer = new Linear((int) weight.size(1), (int) weight.size(0), bias != null, weight.dtype());
        layer.weightParameter().tensor().copy_(weight);
        if (bias != null) {
            layer.biasParameter().tensor().copy_(bias);
        }
        return layer;
    }

    private static Hydra on(Linear layer, Hydra.Config config) {
        return new Hydra(config, new Site("x", layer), new Seed(3));
    }

    /** All of it random. */
    private static Hydra moved(Linear layer, Hydra.Config config) {
        Hydra hydra = on(layer, config);
        long seed = 10;
        for (Parameter p : hydra.parameters().values()) {
            p.tensor().detach().copy_(random(seed++, p.shape()).to(p.tensor().dtype()));
        }
        return hydra;
    }

    private static Tensor value(Adapter adapter, String name) {
        return adapter.parameters().get(name).tensor();
    }

    private static Tensor forward(Adapter adapter, Tensor x, Linear layer) {
        return adapter.forward(x, new Base.Ground(layer));
    }

    private static Tensor applied(Base.Affine affine, Tensor x) {
        Tensor y = x.matmul(affine.weight().t());
        return (affine.bias() == null ? y : y.add(affine.bias())).detach();
    }

    @Test
    @Card(value = "hydra", checks = 1)
    void aFreshOneIsTheLayerAndOnlyWhatComesLastHasAGradient() {
        for (Hydra.Start start : Hydra.Start.values()) {
            for (DType type : List.of(DType.FLOAT32, DType.FLOAT64)) {
                Linear layer =
                        linear(random(1, OUT, IN).to(type), random(2, OUT).to(type));
                Hydra hydra = on(layer, new Hydra.Config(2, 3, 1.5, 0, true, start));
                Tensor x = random(4, 2, 7, IN).to(type);
                Tensor y = forward(hydra, x, layer);
                assertThat(y.equal(layer.compute(x))).isTrue();
                y.square().sum().backward();
                for (String name : NAMES) {
                    double largest = value(hydra, name).grad().abs().max().item();
                    if (name.contains("_A")) {
                        assertThat(largest).as(name).isZero();
                    } else {
                        assertThat(largest).as(name).isPositive();
                    }
                }
            }
        }
        Linear wide = linear(random(1, 60, 40), null);
        Hydra kaiming = on(wide, Hydra.Config.of(8, 8)); // bounds 1/√40 and 1/√60
        assertThat(value(kaiming, "lora_A.weight").detach().abs().max().item()).isBetween(0.15, 1 / Math.sqrt(40));
        assertThat(value(kaiming, "hydra_A.weight").detach().abs().max().item()).isBetween(0.12, 1 / Math.sqrt(60));
        Hydra xavier = on(wide, new Hydra.Config(8, 8, 1, 0, false, Hydra.Start.XAVIER));
        assertThat(value(xavier, "lora_A.weight").detach().abs().max().item())
                .isBetween(0.33, Math.sqrt(6 / 48.0)); // 0.354
        Hydra normal = on(wide, new Hydra.Config(8, 8, 1, 0, false, Hydra.Start.NORMAL));
        assertThat(value(normal, "lora_A.weight").detach().std().item()).isCloseTo(0.02, within(0.002));
    }

    /** The card's formulas, written out: the branch behind reads h with its bias, and not what the other branch adds. */
    @Test
    @Card(value = "hydra", checks = 2)
    void mergedIsTheFormulaOnBothShapes() {
        for (int in : new int[] {IN, OUT}) { // on a square layer a swapped product would fit
            for (DType type : List.of(DType.FLOAT32, DType.FLOAT64)) {
                double tolerance = type == DType.FLOAT32 ? 1e-5 : 1e-12;
                Tensor w = random(1, OUT, in).to(type);
                Tensor b = random(2, OUT).to(type);
                Linear layer = linear(w, b);
                Hydra hydra = moved(layer, Hydra.Config.of(2, 3).with(1.5, true));
                List<Tensor> v =
                        NAMES.stream().map(name -> value(hydra, name).detach()).toList();
                Tensor x = random(4, 7, in).to(type);
                Tensor h = x.matmul(w.t()).add(b);
                Tensor beside = x.matmul(v.get(0).t())
                        .add(v.get(1))
                        .matmul(v.get(2).t())
                        .add(v.get(3));
                Tensor behind = h.matmul(v.get(4).t())
                        .add(v.get(5))
                        .matmul(v.get(6).t())
                        .add(v.get(7));
                Tensor expected = h.add(beside, 1.5).add(behind, 1.5);
                double size = expected.abs().max().item();
                Tensor y = forward(hydra, x, layer).detach();
                assertThat(gap(y, expected) / size).isLessThan(tolerance);
                Base.Affine merged = hydra.merge(Base.Affine.of(layer));
                assertThat(gap(applied(merged, x), expected) / size).isLessThan(tolerance);
                Tensor weight = w.add(v.get(2).matmul(v.get(0)), 1.5)
                        .add(v.get(6).matmul(v.get(4)).matmul(w), 1.5);
                assertThat(gap(merged.weight().detach(), weight) / size).isLessThan(tolerance);
            }
        }
    }

    /** {@code tools/golden/make_adapter_fixtures.py}. */
    @Test
    @Card(value = "hydra", checks = 2)
    void itIsWhatTheAuthorsCodeComputesAndMerges() {
        Map<String, Object> fixture = Golden.json("adapters/hydra.json");
        for (Map<String, Object> one : Golden.list(fixture, "cases")) {
            int[] shape = Golden.ints(one, "shape");
            int out = shape[0];
            int in = shape[1];
            Linear layer = linear(Golden.tensor(one, "weight", out, in), Golden.tensor(one, "bias", out));
            Hydra hydra = on(layer, Hydra.Config.of(2, 3).with(Golden.number(fixture, "scale"), true));
            for (String name : NAMES) {
                Parameter p = hydra.parameters().get(name);
                String theirs = (name.startsWith("lora") ? "par." : "seq.")
                        + (name.contains("_A") ? "down_proj" : "up_proj")
                        + name.substring(name.indexOf('.'));
                p.tensor().detach().copy_(Golden.tensor(one, theirs, p.shape()));
            }
            Tensor x = Golden.tensor(one, "x", 4, in);
            Base.Affine merged = hydra.merge(Base.Affine.of(layer));
            assertThat(gap(forward(hydra, x, layer).detach(), Golden.tensor(one, "y", 4, out)))
                    .isLessThan(2e-5);
            assertThat(gap(merged.weight().detach(), Golden.tensor(one, "merged_weight", out, in)))
                    .isLessThan(2e-5);
            assertThat(gap(merged.bias().detach(), Golden.tensor(one, "merged_bias", out)))
                    .isLessThan(2e-5);
        }
    }

    /** Steps of AdamW towards a target, as any adapter's. */
    private static void train(Adapter adapter, Tensor x, Linear layer) {
        try (Optimizer optimizer =
                AdamW.Config.DEFAULT.create(List.of(new ParameterGroup("all", adapter.parameters(), 1, 0.1)))) {
            for (int i = 0; i < 20; i++) {
                try (Scope scope = Scope.open()) {
                    forward(adapter, x, layer)
                            .sub(random(8, x.size(0), OUT).to(x.dtype()))
                            .square()
                            .mean()
                            .backward();
                    optimizer.step(0.05);
                    optimizer.zeroGrad();
                }
            }
        }
    }

    @Test
    @Card(value = "hydra", checks = 3)
    void eachBranchAloneIsWhatItIsCalled() {
        Linear layer =
                linear(random(1, OUT, IN).to(DType.FLOAT32), random(2, OUT).to(DType.FLOAT32));
        Tensor x = random(4, 7, IN).to(DType.FLOAT32);
        Hydra beside = on(layer, Hydra.Config.of(3, 0).with(1.5, false));
        Lora lora =
                new Lora(Lora.Config.of(3, 4.5), new Site("x", layer), new Seed(3)); // the same seed, the same start
        train(beside, x, layer);
        train(lora, x, layer);
        assertThat(beside.parameters().keySet()).isEqualTo(lora.parameters().keySet());
        lora.parameters()
                .forEach((name, p) -> assertThat(value(beside, name).equal(p.tensor()))
                        .as(name)
                        .isTrue());
        assertThat(forward(beside, x, layer).equal(forward(lora, x, layer))).isTrue();

        Linear wide = linear(random(1, OUT, IN), random(2, OUT));
        Hydra behind = moved(wide, Hydra.Config.of(0, 3).with(1.5, false));
        Tensor h = wide.compute(random(4, 7, IN));
        Tensor up = value(behind, "hydra_B.weight").detach();
        Tensor expected =
                h.add(h.matmul(value(behind, "hydra_A.weight").detach().t()).matmul(up.t()), 1.5);
        assertThat(gap(forward(behind, random(4, 7, IN), wide).detach(), expected))
                .isLessThan(1e-12);

        Linear identity = linear(Tensor.eye(OUT, DType.FLOAT64), null);
        Hydra after = on(identity, Hydra.Config.of(0, 3).with(1.5, false));
        Lora same = new Lora(Lora.Config.of(3, 4.5), new Site("x", identity), new Seed(3));
        value(same, "lora_A.weight")
                .detach()
                .copy_(value(after, "hydra_A.weight").detach());
        train(after, random(4, 7, OUT), identity);
        train(same, random(4, 7, OUT), identity);
        assertThat(gap(
                        after.merge(Base.Affine.of(identity)).weight().detach(),
                        same.merge(Base.Affine.of(identity)).weight().detach()))
                .isLessThan(1e-10);
    }

    /** The bias's change goes into LoRA's own bias, which PEFT's files can hold. */
    @Test
    @Card(value = "hydra", checks = 4)
    void exportedItIsALoraOfBothRanks(@TempDir Path folder) {
        Linear layer = linear(random(1, 12, 10), random(2, 12));
        Hydra hydra = moved(layer, Hydra.Config.of(2, 3).with(1.5, false));
        LoraFactors lora = hydra.toLora();
        assertThat(lora.rank()).isEqualTo(5);
        assertThat(lora.bias()).isNotNull(); // s B_s A_s b
        double[] values = hydra.merge(Base.Affine.of(layer))
                .weight()
                .sub(layer.weight())
                .detach()
                .svdvals()
                .doubles();
        assertThat(values[4]).isGreaterThan(1e-3);
        assertThat(values[5]).isLessThan(1e-11);
        Tensor x = random(4, 7, 10);
        assertThat(gap(
                        lora.forward(x, new Base.Ground(layer), 0).detach(),
                        forward(hydra, x, layer).detach()))
                .isLessThan(1e-12);
        Linear plain = linear(random(1, 12, 10), null);
        assertThat(moved(plain, Hydra.Config.of(2, 3)).toLora().bias()).isNull();

        Tiny net = new Tiny(DType.FLOAT64);
        AdaptedModel model = new AdaptedModel(net, net.heads());
        move(model.attach("default", spec(), new Seed(1)), 0.3);
        Tensor adapted = run(net);
        PeftFolder.exportLora(model, "default", folder, null, 0, Map.of());
        assertThat(Json.read(folder.resolve("adapter_config.json"))).containsEntry("lora_bias", true);
        model.remove("default");
        PeftFolder.load(model, folder, null, false);
        assertThat(gap(run(net), adapted)).isLessThan(1e-9);
    }

    @Test
    @Card(value = "hydra", checks = 5)
    void theBranchBehindSeesNothingOutsideTheRowsOfTheWeight() {
        Tensor w = random(1, OUT, 3).matmul(random(5, 3, 8)); // rank 3
        Linear layer = linear(w, random(2, OUT));
        List<Tensor> svd = w.svd();
        Tensor rows = svd.get(2).narrow(0, 0, 3); // [3, 8]
        Tensor outside = random(6, 4, 8);
        outside = outside.sub(outside.matmul(rows.t()).matmul(rows)); // in W's null space
        Hydra behind = moved(layer, Hydra.Config.of(0, 3).with(1.5, true));
        Tensor change = behind.merge(Base.Affine.of(layer)).weight().sub(w).detach();
        assertThat(gap(change.matmul(rows.t()).matmul(rows), change)).isLessThan(1e-11);
        Tensor y = forward(behind, outside, layer).detach();
        assertThat(gap(y, y.narrow(0, 0, 1).expand(4, OUT))).isLessThan(1e-11);
        Tensor beside = forward(moved(layer, Hydra.Config.of(3, 0).with(1.5, true)), outside, layer)
                .detach();
        assertThat(gap(beside, beside.narrow(0, 0, 1).expand(4, OUT))).isGreaterThan(0.1);
    }

    @Test
    @Card(value = "hydra", checks = 6)
    void gradientsFlowThroughTheFrozenLayerToTheInput() {
        Linear layer = linear(random(1, OUT, IN), random(2, OUT));
        layer.weightParameter().trainable(false);
        layer.biasParameter().trainable(false);
        Hydra hydra = moved(layer, Hydra.Config.of(2, 3).with(1.5, false));
        Tensor x = random(4, 7, IN).requiresGrad_(true);
        Tensor dy = random(7, 7, OUT);
        forward(hydra, x, layer).mul(dy).sum().backward();
        Tensor h = layer.compute(x).detach();
        Tensor ofB = dy.t()
                .matmul(h.matmul(value(hydra, "hydra_A.weight").detach().t()))
                .mul(1.5);
        assertThat(gap(value(hydra, "hydra_B.weight").grad(), ofB)).isLessThan(1e-11);
        Tensor merged = hydra.merge(Base.Affine.of(layer)).weight().detach();
        assertThat(gap(x.grad(), dy.matmul(merged))).isLessThan(1e-11);
        assertThat(layer.weight().grad()).isNull();
        Gradients.check(each -> moved(each, Hydra.Config.of(2, 3).with(1.5, true)));
    }

    /** RoBERTa-base's twelve FFN output layers with r_p = 4 and r_s = 8: the 0.3M of the paper's table. */
    @Test
    @Card(value = "hydra", checks = 7)
    void theCountIsThePapers() {
        Linear layer = new Linear(3072, 768, true, DType.FLOAT32);
        assertThat(12 * count(on(layer, Hydra.Config.of(4, 8)))).isEqualTo(331_776);
        assertThat(count(on(layer, Hydra.Config.of(4, 8).with(1, true)))).isEqualTo(27_648 + 4 + 8 + 2 * 768);
    }

    private static long count(Hydra hydra) {
        return hydra.parameters().values().stream()
                .mapToLong(p -> p.tensor().numel())
                .sum();
    }

    /**
     * Weight space, W [8, 10] of rank 5: W + u aᵀ + p qᵀ W is found by both branches and by a LoRA of rank 2. The branch behind
     * alone keeps ‖u‖² ‖a⊥‖² at the least, whatever its rank, for its change lies in W's rows.
     */
    @Test
    @Card(value = "hydra", checks = 8)
    void bothBranchesFindWhatTheOneBehindCannot() {
        Tensor w = random(1, 8, 5).matmul(random(5, 5, 10)).mul(0.4);
        Tensor u = random(6, 8, 1);
        Tensor a = random(7, 1, 10);
        Tensor again = random(8, 8, 1).matmul(random(9, 1, 8)).matmul(w).mul(0.3);
        Tensor target = w.add(u.matmul(a)).add(again);
        Linear layer = linear(w, null);
        Hydra both = on(layer, Hydra.Config.of(1, 1));
        Lora lora = new Lora(Lora.Config.of(2, 2), new Site("x", layer), new Seed(3));
        assertThat(fit(both, both, layer, target)).isLessThan(1e-6);
        assertThat(fit(lora, lora, layer, target)).isLessThan(1e-6);

        Tensor rows = w.svd().get(2).narrow(0, 0, 5); // [5, 10]
        Tensor outside = a.sub(a.matmul(rows.t()).matmul(rows));
        double floor = u.square().sum().item() * outside.square().sum().item();
        Tensor step =
                target.sub(w); // the best M = B_s A_s of full rank is step W⁺: what is left is step outside W's rows
        Tensor rest = step.sub(step.matmul(rows.t()).matmul(rows));
        assertThat(rest.square().sum().item()).isCloseTo(floor, within(1e-9));
        assertThat(floor / step.square().sum().item()).isGreaterThan(0.1);
        for (int r = 1; r <= 8; r++) {
            Hydra behind = moved(layer, Hydra.Config.of(0, r));
            double loss = behind.merge(Base.Affine.of(layer))
                    .weight()
                    .sub(target)
                    .square()
                    .sum()
                    .item();
            assertThat(loss).isGreaterThanOrEqualTo(floor - 1e-9);
        }
    }

    /** The share of the first loss that is left. */
    private static double fit(Adapter adapter, Mergeable merged, Linear layer, Tensor target) {
        double first = 0;
        double loss = 0;
        try (Optimizer optimizer =
                AdamW.Config.DEFAULT.create(List.of(new ParameterGroup("all", adapter.parameters(), 1, 0)))) {
            for (int i = 0; i < 1500; i++) {
                try (Scope scope = Scope.open()) {
                    Tensor rest = merged.merge(Base.Affine.of(layer))
                            .weight()
                            .sub(target)
                            .square()
                            .sum();
                    loss = rest.item();
                    first = i == 0 ? loss : first;
                    rest.backward();
                    optimizer.step(i < 1200 ? 3e-2 : 3e-3);
                    optimizer.zeroGrad();
                }
            }
        }
        return loss / first;
    }

    /** Not on x, as LoRA's. */
    @Test
    void dropoutIsBetweenTheFactorsAndOnlyInTraining() {
        Linear layer = linear(random(1, OUT, IN), random(2, OUT));
        Hydra hydra = moved(layer, new Hydra.Config(2, 3, 1.5, 0.5, true, Hydra.Start.KAIMING));
        Tensor x = random(4, 7, IN);
        layer.train(false);
        Tensor still = forward(hydra, x, layer).detach();
        assertThat(gap(applied(hydra.merge(Base.Affine.of(layer)), x), still)).isLessThan(1e-12);
        layer.train(true);
        assertThat(gap(forward(hydra, x, layer).detach(), still)).isGreaterThan(0.1);
    }

    /** On top of a LoRA the branch behind reads that one's output, and merges over its weight. */
    @Test
    void onAnotherAdapterItMergesOverThatOnesWeight() {
        Tiny net = new Tiny(DType.FLOAT64);
        AdaptedModel model = new AdaptedModel(net, net.heads());
        AdapterSpec<?> lora = AdapterSpec.of(new Lora.Type(), Lora.Config.of(2, 4), Targets.of("fc", "proj"));
        move(model.attach("below", lora, new Seed(2)), 0.3);
        move(model.attach("above", spec(), new Seed(1)), 0.3);
        model.activate("below", "above");
        Tensor unmerged = run(net);
        model.merge();
        assertThat(gap(run(net), unmerged)).isLessThan(1e-9);
    }

    @Test
    void badInputIsRefusedWithAReason() {
        assertThatThrownBy(() -> Hydra.Config.of(0, 0))
                .hasMessage("r_p and r_s must be at least 0 and not both 0, found 0 and 0; try 2 and 2");
        assertThatThrownBy(() -> TYPE.read(Fields.of("recipe", Map.of("scale", -1))))
                .hasMessage("scale must be positive and finite, found -1.0; try 1");
        assertThatThrownBy(() -> TYPE.read(Fields.of("recipe", Map.of("dropout", 1))))
                .hasMessage("dropout must lie in [0, 1), found 1.0; try 0");
        Tiny net = new Tiny(DType.FLOAT32);
        AdaptedModel model = new AdaptedModel(net, net.heads());
        assertThatThrownBy(() -> model.attach("a", spec(Hydra.Config.of(9, 2)), new Seed(1)))
                .hasMessage(
                        "r_p is 9, above the width 8 of layers.0.fc [10, 8], where a higher rank adds nothing; try 8");
        assertThatThrownBy(() -> model.attach("a", spec(Hydra.Config.of(2, 11)), new Seed(1)))
                .hasMessageStartingWith("r_s is 11, above the width 10 of layers.0.fc [10, 8]");
    }
}
