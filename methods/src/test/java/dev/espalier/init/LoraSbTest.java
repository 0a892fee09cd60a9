package dev.espalier.init;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import dev.espalier.adapter.AdaptedModel;
import dev.espalier.adapter.AdapterContract;
import dev.espalier.adapter.AdapterSpec;
import dev.espalier.adapter.Attached;
import dev.espalier.adapter.Base;
import dev.espalier.adapter.Calibration;
import dev.espalier.adapter.Card;
import dev.espalier.adapter.LoraXs;
import dev.espalier.adapter.Site;
import dev.espalier.adapter.Targets;
import dev.espalier.adapter.Tiny;
import dev.espalier.io.Fields;
import dev.espalier.nn.Conv1D;
import dev.espalier.nn.Linear;
import dev.espalier.nn.Parameter;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Generator;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Svd;
import dev.espalier.tensor.Tensor;
import dev.espalier.train.AdamW;
import dev.espalier.train.Optimizer;
import dev.espalier.train.ParameterGroup;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

class LoraSbTest extends AdapterContract {

    private static final double ETA = 1e-3;

    @Override
    protected AdapterSpec<?> spec() {
        return spec(3, 3, new LoraSb(new LoraSb.Config(4, ETA, Svd.EXACT)));
    }

    private static AdapterSpec<?> spec(int r, double alpha, LoraSb initializer) {
        return AdapterSpec.of(new LoraXs.Type(), LoraXs.Config.of(r).withAlpha(alpha), Targets.of("fc", "proj"))
                .withInitializer(initializer);
    }

    @Override
    protected Calibration calibration(Tiny net) {
        return StartFixtures.calibration(net);
    }

    @Override
    protected long parameters(long out, long in) {
        return 9;
    }

    /** It begins one step ahead, by intent. */
    @Override
    protected boolean startsAtZero() {
        return false;
    }

    /** -eta sign(Σ over the four batches) [out, in] of each layer, by backward passes of our own. */
    private static Map<String, Tensor> updates(Tiny net) {
        net.namedParameters().values().forEach(p -> p.trainable(true));
        for (int b = 0; b < 4; b++) {
            StartFixtures.loss(net, b).backward();
        }
        Map<String, Tensor> updates = new LinkedHashMap<>();
        net.namedModules().forEach((path, module) -> {
            if (module instanceof dev.espalier.nn.Layer layer && (path.endsWith("fc") || path.endsWith("proj"))) {
                Tensor g = layer.weightParameter().tensor().grad().detach().clone();
                Tensor sign = g.gt(0).to(g.dtype()).sub(g.lt(0).to(g.dtype()));
                updates.put(path, (layer instanceof Conv1D ? sign.t() : sign).mul(-ETA));
            }
        });
        net.namedParameters().values().forEach(p -> p.trainable(false));
        return updates;
    }

    private static Tensor tensor(Attached adapter, Site site, String name) {
        return adapter.at(site.path()).parameters().get(name).tensor().detach();
    }

    @ParameterizedTest
    @ValueSource(doubles = {1, 4})
    @Card(value = "lora-sb", checks = 1)
    void startsWithTheBestImageOfTheUpdateWhateverTheScale(double s) {
        Tiny net = new Tiny(DType.FLOAT64);
        Map<String, Tensor> updates = updates(net);
        AdaptedModel model = new AdaptedModel(net, net.heads());
        Attached adapter = model.attach(
                "default",
                spec(3, 3 * s, new LoraSb(new LoraSb.Config(4, ETA, Svd.EXACT))),
                new Seed(1),
                calibration(net));
        for (Site site : adapter.sites()) {
            Tensor g = updates.get(site.path());
            double[] values = g.svd().get(1).doubles();
            double tail = 0;
            for (int i = 3; i < values.length; i++) {
                tail += values[i] * values[i];
            }
            Tensor product = ((LoraXs) adapter.at(site.path())).toLora().product();
            assertThat(product.sub(g).norm().item()).isCloseTo(Math.sqrt(tail), within(1e-12));
            Tensor a = tensor(adapter, site, "lora_A.weight");
            Tensor b = tensor(adapter, site, "lora_B.weight");
            assertThat(gap(a.matmul(a.t()), Tensor.eye(3, DType.FLOAT64))).isLessThan(1e-5);
            assertThat(gap(b.t().matmul(b), Tensor.eye(3, DType.FLOAT64))).isLessThan(1e-5);
            double[] r = tensor(adapter, site, "lora_R.weight").doubles();
            for (int i = 0; i < 9; i++) {
                assertThat(r[i]).isCloseTo(i % 4 == 0 ? values[i / 4] / s : 0, within(1e-12));
            }
        }
    }

    @Test
    @Card(value = "lora-sb", checks = 2)
    void atFullRankItIsOneSignDescentStep() {
        assertThat(LoraSb.update(Tensor.of(new float[] {3, 0, -1e-20f}, 3), 0.5).floats())
                .containsExactly(-0.5f, -0f, 0.5f);
        Tiny net = new Tiny(DType.FLOAT32);
        Map<String, Tensor> updates = updates(net);
        AdaptedModel model = new AdaptedModel(net, net.heads());
        model.attach(
                "default", spec(8, 8, new LoraSb(new LoraSb.Config(4, ETA, Svd.EXACT))), new Seed(1), calibration(net));
        Tensor adapted = run(net);
        model.remove("default");
        updates.forEach((path, update) -> {
            assertThat(update.abs().max().item()).isCloseTo(ETA, within(1e-9));
            Parameter weight = net.namedParameters().get(path + ".weight");
            weight.tensor().add_(path.endsWith("proj") ? update.t() : update);
        });
        assertThat(gap(run(net), adapted)).isLessThan(1e-5);
    }

    /** A Linear of 6 to 7, an R [3, 3], x and the gradient g [7, 6] of the sum of squares for the whole weight. */
    private record Setup(Linear layer, LoraXs xs, Tensor x, Tensor g) {}

    private static Setup setup(double s, boolean orthonormal) {
        Linear layer = new Linear(6, 7, false, DType.FLOAT64);
        LoraXs xs = new LoraXs(LoraXs.Config.of(3).withAlpha(3 * s), new Site("x", layer), new Seed(0));
        try (Generator random = Generator.of(4)) {
            layer.weightParameter().tensor().copy_(random.randn(7, 6));
            Tensor x = random.randn(9, 6).to(DType.FLOAT64);
            List<Tensor> w = layer.weight().svd();
            Tensor a = w.get(2).narrow(0, 0, 3);
            Tensor b = w.get(0).narrow(1, 0, 3);
            Tensor r = random.randn(3, 3).to(DType.FLOAT64).mul(0.1 / s);
            xs.start(orthonormal ? a : a.mul(w.get(1).narrow(0, 0, 3).unsqueeze(1)), b, r);
            Tensor whole = layer.weight()
                    .add(xs.toLora().product().detach())
                    .detach()
                    .clone()
                    .requiresGrad_(true);
            x.matmul(whole.t()).square().sum().backward();
            return new Setup(layer, xs, x, whole.grad());
        }
    }

    private static Tensor gradientOfR(Setup at) {
        Tensor r = at.xs.parameters().get("lora_R.weight").tensor();
        r.clearGrad();
        at.xs.forward(at.x, new Base.Ground(at.layer)).square().sum().backward();
        return r.grad().clone();
    }

    @Test
    @Card(value = "lora-sb", checks = 3)
    void gradientOfTheMiddleIsTheBestProjectionInOrthonormalFrames() {
        for (boolean orthonormal : new boolean[] {true, false}) {
            Setup at = setup(orthonormal ? 1 : 2, orthonormal);
            double s = at.xs.scale();
            Tensor a = at.xs.parameters().get("lora_A.weight").tensor();
            Tensor b = at.xs.parameters().get("lora_B.weight").tensor();
            Tensor own = gradientOfR(at);
            assertThat(gap(own, b.t().matmul(at.g).matmul(a.t()).mul(s))).isLessThan(1e-9);
            // min over M of ‖s B M A - g‖: by pseudo-inverses of the frames, B⁺ g A⁺ / s.
            Tensor best = pseudoInverse(b).matmul(at.g).matmul(pseudoInverse(a)).div(s);
            Tensor gramB = inverse(b.t().matmul(b));
            Tensor gramA = inverse(a.matmul(a.t()));
            assertThat(gap(gramB.matmul(own).matmul(gramA).div(s * s), best)).isLessThan(1e-9);
            double distance = gap(best, own);
            if (orthonormal) {
                assertThat(distance).isLessThan(1e-9); // s = 1
            } else {
                assertThat(distance).isGreaterThan(1e-2);
            }
        }
    }

    private static Tensor pseudoInverse(Tensor m) {
        List<Tensor> svd = m.svd();
        return svd.get(2).t().div(svd.get(1)).matmul(svd.get(0).t());
    }

    private static Tensor inverse(Tensor m) {
        return pseudoInverse(m); // of full rank
    }

    @Test
    @Card(value = "lora-sb", checks = 4)
    void trajectoriesDoNotDependOnTheScaleWhenGradientsAreDividedByItsSquare() {
        assertThat(gap(trajectory(1, true), trajectory(4, true))).isLessThan(1e-9);
        assertThat(gap(trajectory(1, false), trajectory(4, false))).isGreaterThan(1e-3);
    }

    private static Tensor trajectory(double s, boolean divided) {
        Setup at = setup(s, true);
        for (int step = 0; step < 10; step++) {
            Tensor gradient = gradientOfR(at);
            try (Grad off = Grad.off()) {
                at.xs.parameters().get("lora_R.weight").tensor().add_(gradient, -1e-3 / (divided ? s * s : 1));
            }
        }
        return at.xs.toLora().product().detach();
    }

    @Test
    @Card(value = "lora-sb", checks = 5)
    void theFirstJumpGoesDownhill() {
        double eta = 1e-6;
        double base = mean(new Tiny(DType.FLOAT64));
        for (int r : new int[] {8, 3}) {
            Tiny net = new Tiny(DType.FLOAT64);
            Map<String, Tensor> gradients = new LinkedHashMap<>();
            net.namedParameters().values().forEach(p -> p.trainable(true));
            for (int b = 0; b < 4; b++) {
                StartFixtures.loss(net, b).mul(0.25).backward();
            }
            net.namedModules().forEach((path, module) -> {
                if (path.endsWith("fc") || path.endsWith("proj")) {
                    Tensor g = ((dev.espalier.nn.Layer) module)
                            .weightParameter()
                            .tensor()
                            .grad()
                            .detach()
                            .clone();
                    gradients.put(path, module instanceof Conv1D ? g.t() : g);
                }
            });
            net.namedParameters().values().forEach(p -> p.trainable(false));
            AdaptedModel model = new AdaptedModel(net, net.heads());
            Attached adapter = model.attach(
                    "default",
                    spec(r, r, new LoraSb(new LoraSb.Config(4, eta, Svd.EXACT))),
                    new Seed(1),
                    calibration(net));
            double expected = 0;
            for (Site site : adapter.sites()) {
                Tensor product =
                        ((LoraXs) adapter.at(site.path())).toLora().product().detach();
                Tensor g = gradients.get(site.path());
                expected += g.mul(product).sum().item();
            }
            if (r == 8) {
                double norm = gradients.values().stream()
                        .mapToDouble(g -> g.abs().sum().item())
                        .sum();
                assertThat(expected).isCloseTo(-eta * norm, within(1e-3 * eta * norm));
                assertThat(mean(net)).isLessThan(base);
            }
            assertThat(mean(net) - base).isCloseTo(expected, within(0.03 * Math.abs(expected)));
            // The opposite update goes up.
            for (Site site : adapter.sites()) {
                try (Grad off = Grad.off()) {
                    adapter.at(site.path())
                            .parameters()
                            .get("lora_R.weight")
                            .tensor()
                            .mul_(-1);
                }
            }
            assertThat(mean(net) - base).isCloseTo(-expected, within(0.03 * Math.abs(expected)));
        }
    }

    private static double mean(Tiny net) {
        try (Grad off = Grad.off()) {
            double sum = 0;
            for (int b = 0; b < 4; b++) {
                sum += StartFixtures.loss(net, b).item() / 4;
            }
            return sum;
        }
    }

    /** Median of five seeds: the authors' order of the starts, and four batches serve no worse than one. */
    @Test
    @Card(value = "lora-sb", checks = 9)
    void learnsFasterThanLoraXsWithOtherFrames() {
        double sb = medianLoss(Frames.UPDATE);
        assertThat(sb).isLessThan(medianLoss(Frames.RANDOM));
        assertThat(sb).isLessThanOrEqualTo(medianLoss(Frames.WEIGHT));
        assertThat(sb).isLessThanOrEqualTo(1.05 * medianLoss(Frames.UPDATE_OF_ONE_BATCH));
    }

    private enum Frames {
        UPDATE,
        UPDATE_OF_ONE_BATCH,
        WEIGHT,
        RANDOM
    }

    private double medianLoss(Frames frames) {
        double[] losses = new double[5];
        for (int seed = 0; seed < 5; seed++) {
            try (Scope scope = Scope.open();
                    Generator random = Generator.of(seed)) {
                Tiny net = new Tiny(DType.FLOAT32);
                // Another network for each seed.
                net.namedParameters().values().forEach(p -> p.tensor().add_(random.randn(p.shape()), 0.1));
                AdaptedModel model = new AdaptedModel(net, net.heads());
                boolean update = frames == Frames.UPDATE || frames == Frames.UPDATE_OF_ONE_BATCH;
                AdapterSpec<?> spec = update
                        ? spec(2, 2, new LoraSb(new LoraSb.Config(frames == Frames.UPDATE ? 4 : 1, 1e-2, Svd.EXACT)))
                        : AdapterSpec.of(new LoraXs.Type(), LoraXs.Config.of(2), Targets.of("fc", "proj"));
                Attached adapter = model.attach("default", spec, new Seed(seed), calibration(net));
                if (frames == Frames.RANDOM) {
                    for (Site site : adapter.sites()) {
                        LoraXs xs = (LoraXs) adapter.at(site.path());
                        xs.start(
                                random.randn(site.layer().inFeatures(), 2)
                                        .qr()
                                        .get(0)
                                        .t(),
                                random.randn(site.layer().outFeatures(), 2).qr().get(0),
                                Tensor.zeros(DType.FLOAT32, 2, 2));
                    }
                }
                Optimizer optimizer = AdamW.Config.DEFAULT.create(
                        List.of(new ParameterGroup("all", model.trainableParameters(), 1, 0)));
                for (int step = 0; step < 40; step++) {
                    StartFixtures.loss(net, step % 4).backward();
                    optimizer.step(1e-2);
                    optimizer.zeroGrad();
                }
                optimizer.close();
                losses[seed] = mean(net);
            }
        }
        java.util.Arrays.sort(losses);
        return losses[2];
    }

    /** Their frames are rounded to bfloat16, whose step is 2⁻⁸; their forward pass is exact. */
    @Test
    void equalsTheAuthorsCode() {
        Map<String, Object> golden = StartFixtures.golden("lora-sb");
        Tensor sum = StartFixtures.matrix(golden, "sum", 10, 8);
        Tensor update = LoraSb.update(sum, ((Number) golden.get("eta0")).doubleValue());
        List<Tensor> ours = LoraXs.leading(Svd.EXACT, update, 2, new Seed(0));
        Tensor a = StartFixtures.matrix(golden, "a", 2, 8);
        Tensor b = StartFixtures.matrix(golden, "b", 10, 2);
        assertThat(gap(ours.get(2).abs(), a.abs())).isLessThan(5e-3);
        assertThat(gap(ours.get(0).abs(), b.abs())).isLessThan(5e-3);
        assertThat(gap(ours.get(1), StartFixtures.matrix(golden, "s", 2))).isLessThan(5e-4);
        Linear layer = new Linear(8, 10, false, DType.FLOAT32);
        layer.weightParameter().tensor().copy_(StartFixtures.matrix(golden, "weight", 10, 8));
        LoraXs xs = new LoraXs(LoraXs.Config.of(2).withAlpha(3), new Site("x", layer), new Seed(0));
        xs.start(a, b, StartFixtures.matrix(golden, "latent", 2, 2));
        Tensor y = xs.forward(StartFixtures.matrix(golden, "x", 3, 8), new Base.Ground(layer));
        assertThat(gap(y, StartFixtures.matrix(golden, "y", 3, 10))).isLessThan(1e-5);
    }

    @Test
    void shorthandOfARecipeIsLoraXs() {
        AdapterSpec<?> spec = AdapterSpec.read(Fields.of("recipe", Map.of("type", "lora-sb", "eta0", 1e-5)));
        assertThat(spec.type()).isInstanceOf(LoraXs.Type.class);
        assertThat(spec.config()).isEqualTo(LoraXs.Config.of(96));
    }

    @Test
    void badInputIsRefusedWithAReason() {
        Tiny net = new Tiny(DType.FLOAT32);
        AdaptedModel model = new AdaptedModel(net, net.heads());
        assertThatThrownBy(() -> model.attach("a", spec(), new Seed(1)))
                .hasMessageStartingWith("LoRA-SB starts from gradients or activations on calibration batches");
        assertThatThrownBy(() -> new LoraSb.Config(0, 1, Svd.EXACT))
                .hasMessage("batches must be at least 1, found 0; try 7");
        assertThatThrownBy(() -> new LoraSb.Config(1, 0, Svd.EXACT))
                .hasMessage("eta0 must be positive and finite, found 0.0; try 3.2e-6");
        AdapterSpec<?> lora = AdapterSpec.of(
                        new dev.espalier.adapter.Lora.Type(),
                        dev.espalier.adapter.Lora.Config.of(2, 2),
                        Targets.of("fc"))
                .withInitializer(new LoraSb());
        assertThatThrownBy(() -> model.attach("a", lora, new Seed(1), calibration(net)))
                .hasMessage("lora-sb starts lora-xs, and layers.0.fc carries lora; use it with lora-xs");
    }
}
