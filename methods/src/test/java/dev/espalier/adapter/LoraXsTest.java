package dev.espalier.adapter;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.espalier.nn.Linear;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Generator;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Svd;
import dev.espalier.tensor.Tensor;
import dev.espalier.train.AdamW;
import dev.espalier.train.Optimizer;
import dev.espalier.train.ParameterGroup;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** Checks of lora-sb.md that concern its architecture; those of the start are in LoraSbTest. */
class LoraXsTest extends AdapterContract {

    @Override
    protected AdapterSpec<?> spec() {
        return spec(
                new LoraXs.Config(3, 3, 0, 1e-8, Svd.EXACT, true)); // small enough for a float32's 2e-6 on wide sums
    }

    private static AdapterSpec<?> spec(LoraXs.Config config) {
        return AdapterSpec.of(new LoraXs.Type(), config, Targets.of("fc", "proj"));
    }

    @Override
    protected long parameters(long out, long in) {
        return 9;
    }

    /** R alone has a gradient, and it is that of the formula. */
    @Test
    void gradientEqualsFiniteDifferences() {
        Linear layer = Gradients.layer();
        LoraXs xs = new LoraXs(LoraXs.Config.of(2).withAlpha(3), new Site("x", layer), new Seed(0));
        Tensor x;
        try (Generator g = Generator.of(2)) {
            xs.start(g.randn(2, 4), g.randn(5, 2), g.randn(2, 2));
            x = g.randn(2, 3, 4).to(DType.FLOAT64);
        }
        xs.forward(x, new Base.Ground(layer)).square().sum().backward();
        Map<String, dev.espalier.nn.Parameter> named = xs.parameters();
        assertThat(named.get("lora_A.weight").tensor().grad()).isNull();
        assertThat(named.get("lora_B.weight").tensor().grad()).isNull();
        Tensor r = named.get("lora_R.weight").tensor();
        double[] gradient = r.grad().doubles();
        double[] at = r.doubles();
        for (int i = 0; i < at.length; i++) {
            double[] sides = new double[2];
            for (int side = 0; side < 2; side++) {
                double[] moved = at.clone();
                moved[i] += side == 0 ? 1e-5 : -1e-5;
                try (Grad off = Grad.off()) {
                    r.copy_(Tensor.of(moved, 2, 2));
                    sides[side] =
                            xs.forward(x, new Base.Ground(layer)).square().sum().item();
                    r.copy_(Tensor.of(at, 2, 2));
                }
            }
            double numeric = (sides[0] - sides[1]) / 2e-5;
            assertThat(gradient[i])
                    .isCloseTo(numeric, org.assertj.core.api.Assertions.within(1e-6 * Math.max(1, Math.abs(numeric))));
        }
    }

    /** The authors' counts: r² a layer, whatever its shape, of Mistral-7B and Llama-3.2-3B, seven layers in each block. */
    @Test
    @Card(value = "lora-sb", checks = 6)
    void trainsTheSquareOfTheRankWhateverTheLayer() {
        for (Linear layer :
                List.of(new Linear(64, 64, false, DType.FLOAT32), new Linear(1024, 4096, false, DType.FLOAT32))) {
            LoraXs xs = new LoraXs(LoraXs.Config.of(8), new Site("x", layer), new Seed(0));
            var trained = xs.parameters().entrySet().stream()
                    .filter(e -> e.getValue().isTrainable())
                    .toList();
            assertThat(trained).hasSize(1);
            assertThat(trained.get(0).getValue().tensor().numel()).isEqualTo(64);
            ParameterGroup group =
                    new ParameterGroup("all", Map.of("r", trained.get(0).getValue()), 1, 0);
            assertThat(AdamW.Config.DEFAULT.stateBytes(List.of(group))).isEqualTo(2 * 64 * 4);
            Optimizer optimizer = AdamW.Config.DEFAULT.create(List.of(group));
            trained.get(0).getValue().tensor().square().sum().backward();
            optimizer.step(1e-3);
            assertThat(optimizer.stateBytes()).isEqualTo(2 * 64 * 4);
            optimizer.close();
            xs.close();
        }
        assertThat(96L * 96 * 7 * 32).isEqualTo(2_064_384);
        assertThat(96L * 96 * 7 * 28).isEqualTo(1_806_336);
    }

    @Test
    @Card(value = "lora-sb", checks = 7)
    void startsNearZeroInFramesOfTheWeight() {
        Tiny net = new Tiny(DType.FLOAT64);
        Tensor before = run(net);
        AdaptedModel model = new AdaptedModel(net, net.heads());
        Attached adapter = model.attach("default", spec(LoraXs.Config.of(3)), new Seed(1));
        assertThat(gap(run(net), before)).isLessThan(1e-4);
        for (Site site : adapter.sites()) {
            Tensor w = site.layer().weight();
            Tensor values = w.svd().get(1);
            Map<String, dev.espalier.nn.Parameter> named =
                    adapter.at(site.path()).parameters();
            Tensor a = named.get("lora_A.weight").tensor();
            Tensor b = named.get("lora_B.weight").tensor();
            Tensor r = named.get("lora_R.weight").tensor().detach();
            assertThat(gap(b.t().matmul(b), Tensor.eye(3, DType.FLOAT64))).isLessThan(1e-9);
            Tensor squares =
                    Tensor.eye(3, DType.FLOAT64).mul(values.narrow(0, 0, 3).square());
            assertThat(gap(a.matmul(a.t()), squares)).isLessThan(1e-9);
            double largest = ((LoraXs) adapter.at(site.path()))
                    .toLora()
                    .product()
                    .svd()
                    .get(1)
                    .max()
                    .item();
            assertThat(largest).isBetween(1e-9, values.max().item() * r.norm().item());
            assertThat(r.norm().item()).isBetween(1e-6, 1e-4);
        }
        // Full rank, R = I, s = 1: all of W once more.
        model.remove("default");
        Attached whole = model.attach("whole", spec(LoraXs.Config.of(8)), new Seed(1));
        for (Site site : whole.sites()) {
            LoraXs xs = (LoraXs) whole.at(site.path());
            Map<String, dev.espalier.nn.Parameter> named = xs.parameters();
            try (Grad off = Grad.off()) {
                named.get("lora_R.weight").tensor().copy_(Tensor.eye(8, DType.FLOAT64));
            }
            assertThat(gap(xs.toLora().product().detach(), site.layer().weight()))
                    .isLessThan(1e-9);
        }
    }

    @Test
    void randomisedFramesAreNearlyTheExactOnes() {
        Tiny net = new Tiny(DType.FLOAT64);
        AdaptedModel model = new AdaptedModel(net, net.heads());
        Attached adapter =
                model.attach("default", spec(new LoraXs.Config(3, 3, 0, 1e-5, Svd.RANDOMISED, true)), new Seed(1));
        Tensor w = net.layers.get(0).fc.weight();
        Tensor a = adapter.at("layers.0.fc").parameters().get("lora_A.weight").tensor();
        assertThat(gap(a.norm(1, false), w.svd().get(1).narrow(0, 0, 3))).isLessThan(1e-6);
    }

    @Test
    @Card(value = "lora-sb", checks = 8)
    void exportedLoraEqualsMergedEqualsUnmerged(@TempDir Path folder) {
        Tiny net = new Tiny(DType.FLOAT64);
        AdaptedModel model = new AdaptedModel(net, net.heads());
        Attached adapter = model.attach("default", spec(), new Seed(1));
        move(adapter, 0.3); // R is not symmetric now
        Tensor unmerged = run(net);
        model.merge();
        assertThat(gap(run(net), unmerged)).isLessThan(1e-9);
        model.unmerge();
        var report = PeftFolder.exportLora(model, "default", folder, null, 0, Map.of());
        assertThat(report).allSatisfy(e -> assertThat(e.rank()).isEqualTo(3));
        // A flipped sign of one pair changes the product, unless R is diagonal.
        LoraXs xs = (LoraXs) adapter.at("layers.0.fc");
        Map<String, dev.espalier.nn.Parameter> named = xs.parameters();
        try (Grad off = Grad.off()) {
            Tensor a = named.get("lora_A.weight").tensor();
            Tensor b = named.get("lora_B.weight").tensor();
            Tensor r = named.get("lora_R.weight").tensor();
            Tensor signs = Tensor.of(new double[] {-1, 1, 1}, 3);
            Tensor product = xs.toLora().product();
            Tensor flippedA = a.mul(signs.unsqueeze(1));
            Tensor flippedB = b.mul(signs);
            assertThat(gap(flippedB.matmul(r).matmul(flippedA), product)).isGreaterThan(1e-2);
            Tensor diagonal = Tensor.eye(3, DType.FLOAT64).mul(r);
            assertThat(gap(
                            flippedB.matmul(diagonal).matmul(flippedA),
                            b.matmul(diagonal).matmul(a)))
                    .isLessThan(1e-12);
        }
        model.remove("default");
        PeftFolder.load(model, folder, "plain", false);
        assertThat(gap(run(net), unmerged)).isLessThan(1e-9);
    }

    @Test
    void badInputIsRefusedWithAReason() {
        Tiny net = new Tiny(DType.FLOAT32);
        AdaptedModel model = new AdaptedModel(net, net.heads());
        assertThatThrownBy(() -> model.attach("a", spec(LoraXs.Config.of(9)), new Seed(1)))
                .hasMessage(
                        "r is 9, above the width 8 of layers.0.fc [10, 8], which has no more singular vectors; try 8");
        assertThatThrownBy(() -> model.attach(
                        "a",
                        AdapterSpec.of(new LoraXs.Type(), LoraXs.Config.of(2), Targets.of("embed_tokens")),
                        new Seed(1)))
                .hasMessage("lora-xs cannot be put on the embedding embed_tokens; leave it out of the targets");
        assertThatThrownBy(() -> LoraXs.Config.of(0)).hasMessage("r must be at least 1, found 0; try 64");
        assertThatThrownBy(() -> new LoraXs.Config(2, 2, 0, -1, Svd.EXACT, true))
                .hasMessage("sigma must be at least 0 and finite, found -1.0; try 1e-5");
        assertThatThrownBy(() -> model.attach(
                        "a",
                        AdapterSpec.of(new Lora.Type(), Lora.Config.of(2, 2), Targets.of("fc"))
                                .withInitializer(new LoraXs.Type()),
                        new Seed(1)))
                .hasMessage("lora-xs starts lora-xs, and layers.0.fc carries lora; use it with lora-xs");
    }
}
