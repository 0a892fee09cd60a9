package dev.espalier.init;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import dev.espalier.adapter.AdaptedModel;
import dev.espalier.adapter.AdapterContract;
import dev.espalier.adapter.AdapterSpec;
import dev.espalier.adapter.Attached;
import dev.espalier.adapter.Calibration;
import dev.espalier.adapter.Card;
import dev.espalier.adapter.Dora;
import dev.espalier.adapter.Lora;
import dev.espalier.adapter.LowRank;
import dev.espalier.adapter.PeftFolder;
import dev.espalier.adapter.Site;
import dev.espalier.adapter.Targets;
import dev.espalier.adapter.Tiny;
import dev.espalier.adapter.TinyTask;
import dev.espalier.init.LoraGa.Direction;
import dev.espalier.init.LoraGa.Scale;
import dev.espalier.io.Fields;
import dev.espalier.nn.Conv1D;
import dev.espalier.nn.Parameter;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Generator;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Svd;
import dev.espalier.tensor.Tensor;
import dev.espalier.train.AdamW;
import dev.espalier.train.Callback;
import dev.espalier.train.Optimizer;
import dev.espalier.train.ParameterGroup;
import dev.espalier.train.StepContext;
import dev.espalier.train.TrainConfig;
import dev.espalier.train.Trainer;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;

class LoraGaTest extends AdapterContract {

    private static final int R = 3; // 2r = 6 of a width of 8

    @Override
    protected AdapterSpec<?> spec() {
        return spec(R, new LoraGa());
    }

    private static AdapterSpec<?> spec(int r, LoraGa initializer) {
        return AdapterSpec.of(new Lora.Type(), Lora.Config.of(r, 6).withRslora(true), Targets.of("fc", "proj"))
                .withInitializer(initializer);
    }

    @Override
    protected Calibration calibration(Tiny net) {
        return StartFixtures.calibration(net);
    }

    @Override
    protected long parameters(long out, long in) {
        return R * (in + out);
    }

    /** G [out, in] of a layer, by one backward pass of our own through the unadapted network. */
    private static Map<String, Tensor> gradients(Tiny net) {
        net.namedParameters().values().forEach(p -> p.trainable(true));
        StartFixtures.loss(net, 0).backward();
        Map<String, Tensor> gradients = new LinkedHashMap<>();
        net.namedModules().forEach((path, module) -> {
            if (module instanceof dev.espalier.nn.Layer layer && (path.endsWith("fc") || path.endsWith("proj"))) {
                Tensor g = layer.weightParameter().tensor().grad().detach().clone();
                gradients.put(path, layer instanceof Conv1D ? g.t() : g);
            }
        });
        net.namedParameters().values().forEach(p -> p.trainable(false));
        return gradients;
    }

    @Test
    @Card(value = "lora-ga", checks = 1)
    void startsWhereTheNetworkIsAlthoughBIsNotZero() {
        Tiny net = new Tiny(DType.FLOAT32);
        Tensor before = run(net);
        AdaptedModel model = new AdaptedModel(net, net.heads());
        Attached adapter = model.attach("default", spec(), new Seed(1), calibration(net));
        assertThat(gap(run(net), before) / before.abs().max().item()).isLessThan(1e-5);
        assertThat(adapter.lowRank("layers.0.fc").b().tensor().abs().max().item())
                .isGreaterThan(0.05);
        // W_init + s B0 A0 = W, layer by layer
        model.merge().forEach(change -> assertThat(change.maxChange()).isLessThan(1e-6));
    }

    /** On a gradient with a gap behind 2r singular values, so that random probes find the same vectors. */
    @ParameterizedTest
    @EnumSource(Svd.class)
    @Card(value = "lora-ga", checks = 2)
    void factorsAreDisjointSingularVectorsOfOneLength(Svd svd) {
        try (Generator random = Generator.of(3)) {
            Tensor sizes =
                    Tensor.of(new double[] {9, 8, 7, 6, 5, 4, 1e-4, 1e-4}, 8).to(DType.FLOAT32);
            Tensor u = random.randn(48, 8).qr().get(0);
            Tensor v = random.randn(40, 8).qr().get(0);
            Tensor g = u.mul(sizes).matmul(v.t()); // [48, 40]
            LoraGa.Config config = new LoraGa.Config(1, Direction.ARB2R, Scale.STABLE, 16, svd);
            LoraGa.Start start = LoraGa.start(config, g, g, R, 1, new Seed(1));
            Tensor identity = Tensor.eye(R, DType.FLOAT32).mul(Math.sqrt(48) / 16);
            assertThat(gap(start.a().matmul(start.a().t()), identity)).isLessThan(1e-5);
            assertThat(gap(start.b().t().matmul(start.b()), identity)).isLessThan(1e-5);
            assertThat(start.b().t().matmul(u.narrow(1, 0, R)).abs().max().item())
                    .isLessThan(1e-5);
            assertThat(start.a().matmul(v.narrow(1, R, R)).abs().max().item()).isLessThan(1e-5);
        }
    }

    /** dW = -lr s² c² G_2r + lr² s³ G A0ᵀ B0ᵀ G, after one step of plain gradient descent on the data that gave G. */
    @ParameterizedTest
    @EnumSource(
            value = DType.class,
            names = {"FLOAT32", "FLOAT64"})
    @Card(value = "lora-ga", checks = 3)
    void firstStepIsThatOfTheBestApproximation(DType dtype) {
        double lr = 0.01;
        Tiny net = new Tiny(dtype);
        Map<String, Tensor> gradients = gradients(net);
        Map<String, Tensor> before = values(net);
        AdaptedModel model = new AdaptedModel(net, net.heads());
        LoraGa.Config usual = LoraGa.Config.DEFAULT;
        LoraGa one = new LoraGa(new LoraGa.Config(1, usual.direction(), usual.scale(), usual.gamma(), usual.svd()));
        Attached adapter = model.attach("default", spec(R, one), new Seed(1), calibration(net));
        Map<String, LowRank> starts = new LinkedHashMap<>();
        Map<String, Tensor> expected = new LinkedHashMap<>();
        try (Grad off = Grad.off()) {
            for (Site site : adapter.sites()) {
                Tensor g = gradients.get(site.path()).to(DType.FLOAT64);
                LowRank lora = adapter.lowRank(site.path());
                starts.put(site.path(), lora);
                List<Tensor> svd = g.svd();
                Tensor best = svd.get(0)
                        .narrow(1, 0, 2 * R)
                        .mul(svd.get(1).narrow(0, 0, 2 * R))
                        .matmul(svd.get(2).narrow(0, 0, 2 * R));
                double s = lora.scale();
                double c2 = Math.sqrt(site.layer().outFeatures()) / 16;
                Tensor ba = lora.b().tensor().matmul(lora.a().tensor()).to(DType.FLOAT64);
                expected.put(
                        site.path(),
                        best.mul(-lr * s * s * c2).add(g.matmul(ba.t()).matmul(g), lr * lr * s * s * s));
            }
        }
        StartFixtures.loss(net, 0).backward();
        try (Grad off = Grad.off()) {
            model.trainableParameters()
                    .values()
                    .forEach(p -> p.tensor().add_(p.tensor().grad(), -lr));
        }
        model.merge();
        for (Site site : adapter.sites()) {
            Tensor was = before.get(site.path() + ".weight");
            Tensor change = site.layer()
                    .weight()
                    .sub(site.layer() instanceof Conv1D ? was.t() : was)
                    .to(DType.FLOAT64);
            assertThat(gap(change, expected.get(site.path()))).isLessThan(dtype == DType.FLOAT64 ? 1e-12 : 1e-6);
        }
        assertThat(starts).hasSize(4);
    }

    /** The direction of the first-order step, G Aᵀ A + B Bᵀ G. */
    private static Tensor direction(Tensor g, Tensor a, Tensor b) {
        return g.matmul(a.t()).matmul(a).add(b.matmul(b.t().matmul(g)));
    }

    /** min over z of ‖z M - G‖². */
    private static double distance(Tensor m, Tensor g) {
        double inner = m.mul(g).sum().item();
        return g.square().sum().item() - inner * inner / m.square().sum().item();
    }

    private static Tensor noise(Generator random, long... shape) {
        return random.randn(shape).to(DType.FLOAT64);
    }

    private static LoraGa.Start start(Tensor g, long r, Direction direction) {
        LoraGa.Config config = new LoraGa.Config(1, direction, Scale.UNIT, 16, Svd.EXACT);
        return LoraGa.start(config, g, g, r, 1, new Seed(1));
    }

    @Test
    @Card(value = "lora-ga", checks = 4)
    void noOtherFactorsAreNearerToTheGradient() {
        try (Generator random = Generator.of(3)) {
            Tensor g = noise(random, 10, 8);
            double[] values = g.svd().get(1).doubles();
            double tail = Arrays.stream(values).skip(2 * R).map(v -> v * v).sum();
            LoraGa.Start own = start(g, R, Direction.ARB2R);
            Tensor m = direction(g, own.a(), own.b());
            assertThat(m.sub(g).square().sum().item()).isCloseTo(tail, within(1e-10));
            Tensor kaiming = random.kaimingUniform(R, 8).to(DType.FLOAT64);
            assertThat(distance(direction(g, kaiming, Tensor.zeros(DType.FLOAT64, 10, R)), g))
                    .isGreaterThan(tail);
            List<Tensor> ofWeight = noise(random, 10, 8).svd(); // PiSSA: the weight's own vectors
            assertThat(distance(
                            direction(
                                    g,
                                    ofWeight.get(2).narrow(0, 0, R),
                                    ofWeight.get(0).narrow(1, 0, R)),
                            g))
                    .isGreaterThan(tail);
            for (int i = 0; i < 1000; i++) {
                try (Scope scope = Scope.open()) {
                    Tensor a = noise(random, 8, R).qr().get(0).t();
                    Tensor b = noise(random, 10, R).qr().get(0);
                    assertThat(distance(direction(g, a, b), g)).isGreaterThan(tail);
                }
            }
        }
    }

    @Test
    @Card(value = "lora-ga", checks = 5)
    void allDisjointSplitsGiveTheSameFirstOrderStep() {
        try (Generator random = Generator.of(3)) {
            Tensor g = noise(random, 10, 8);
            LoraGa.Start usual = start(g, R, Direction.ARB2R);
            Tensor m = direction(g, usual.a(), usual.b());
            for (Direction other : Direction.values()) {
                LoraGa.Start start = start(g, R, other);
                assertThat(gap(direction(g, start.a(), start.b()), m))
                        .as(other.name())
                        .isLessThan(1e-6);
                if (other != Direction.ARB2R) {
                    assertThat(gap(start.a(), usual.a())).as(other.name()).isGreaterThan(0.1);
                }
            }
            Tensor shared = g.svd().get(0).narrow(1, 0, R); // the same numbers for both
            assertThat(gap(direction(g, usual.a(), shared), m)).isGreaterThan(0.1);
        }
    }

    @Test
    @Card(value = "lora-ga", checks = 6)
    void halfTheWidthIsAsGoodAsFullFineTuning() {
        try (Generator random = Generator.of(3)) {
            Tensor g = noise(random, 10, 8);
            LoraGa.Start start = start(g, 4, Direction.ARB2R);
            assertThat(cosine(direction(g, start.a(), start.b()), g)).isGreaterThan(0.99999);
        }
    }

    private static double cosine(Tensor a, Tensor b) {
        return a.mul(b).sum().item() / (a.norm().item() * b.norm().item());
    }

    @Test
    @Card(value = "lora-ga", checks = 7)
    void plainLoraOfTwiceTheRankComputesWhatWasTrained(@TempDir Path folder) {
        Tiny net = new Tiny(DType.FLOAT32);
        AdaptedModel model = new AdaptedModel(net, net.heads());
        move(model.attach("default", spec(), new Seed(1), calibration(net)), 0.2);
        Tensor trained = run(net);
        var report = PeftFolder.exportLora(model, "default", folder, null, 0, Map.of());
        assertThat(report).allSatisfy(e -> {
            assertThat(e.rank()).isEqualTo(2 * R);
            assertThat(e.relativeError()).isZero();
        });
        model.remove("default");
        PeftFolder.load(model, folder, "plain", false);
        assertThat(gap(run(net), trained) / trained.abs().max().item()).isLessThan(1e-5);
        // The saved adapter itself is that plain LoRA: alpha grows by √2 under rsLoRA.
        model.remove("plain");
        move(model.attach("default", spec(), new Seed(1), calibration(net)), 0.2);
        PeftFolder.save(model, "default", folder.resolve("saved"), null, PeftFolder.Form.PLAIN, Map.of());
        Map<String, Object> config = PeftFolder.config(folder.resolve("saved"));
        assertThat(config).containsEntry("r", 6L).containsEntry("use_rslora", true);
        assertThat(((Number) config.get("lora_alpha")).doubleValue()).isCloseTo(6 * Math.sqrt(2), within(1e-12));
        assertThatThrownBy(() -> PeftFolder.save(
                        model, "default", folder.resolve("b"), null, PeftFolder.Form.AS_TRAINED, Map.of()))
                .hasMessageContaining("save it in plain form");
    }

    @Test
    @Card(value = "lora-ga", checks = 8)
    void learnsFasterThanLoraAtTheSameRate() {
        double[] ours = new double[5];
        double[] plain = new double[5];
        for (int i = 0; i < 5; i++) {
            ours[i] = lossAfter40Steps(spec(2, new LoraGa()), i);
            plain[i] = lossAfter40Steps(
                    AdapterSpec.of(new Lora.Type(), Lora.Config.of(2, 6).withRslora(true), Targets.of("fc", "proj")),
                    i);
        }
        Arrays.sort(ours);
        Arrays.sort(plain);
        assertThat(ours[2]).isLessThan(plain[2]);
        try (Generator random = Generator.of(3)) { // cosine of the first step with the gradient
            Tensor g = noise(random, 48, 40);
            double[] values = g.svd().get(1).doubles();
            double head = Arrays.stream(values).limit(8).map(v -> v * v).sum();
            double all = Arrays.stream(values).map(v -> v * v).sum();
            LoraGa.Start start = start(g, 4, Direction.ARB2R);
            assertThat(cosine(direction(g, start.a(), start.b()), g)).isCloseTo(Math.sqrt(head / all), within(1e-9));
            double sum = 0;
            for (int i = 0; i < 20; i++) {
                Tensor a = random.kaimingUniform(4, 40).to(DType.FLOAT64);
                sum += cosine(direction(g, a, Tensor.zeros(DType.FLOAT64, 48, 4)), g);
            }
            assertThat(sum / 20).isCloseTo(Math.sqrt(4.0 / 44), within(0.03));
        }
    }

    private double lossAfter40Steps(AdapterSpec<?> spec, int seed) {
        try (Scope scope = Scope.open()) {
            Tiny net = new Tiny(DType.FLOAT32);
            AdaptedModel model = new AdaptedModel(net, net.heads());
            model.attach("default", spec, new Seed(seed), calibration(net));
            Optimizer optimizer =
                    AdamW.Config.DEFAULT.create(List.of(new ParameterGroup("all", model.trainableParameters(), 1, 0)));
            for (int step = 0; step < 40; step++) {
                StartFixtures.loss(net, step % 4).backward();
                optimizer.step(2e-3);
                optimizer.zeroGrad();
            }
            double loss = 0;
            for (int b = 0; b < 4; b++) {
                loss += StartFixtures.loss(net, b).item();
            }
            optimizer.close();
            return loss;
        }
    }

    @Test
    void equalsTheAuthorsCode() {
        Map<String, Object> golden = StartFixtures.golden("lora-ga");
        Tensor g = StartFixtures.matrix(golden, "gradient", 10, 8);
        Tensor w = StartFixtures.matrix(golden, "weight", 10, 8);
        double s = ((Number) golden.get("s")).doubleValue();
        for (Object item : (List<?>) golden.get("cases")) {
            @SuppressWarnings("unchecked")
            Map<String, Object> theirs = (Map<String, Object>) item;
            Fields f = Fields.of(
                    "authors",
                    Map.of("direction", theirs.get("direction"), "scale", theirs.get("scale"), "stable_gamma", 16));
            LoraGa.Config config = ((LoraGa) new LoraGa().configured(f)).config();
            LoraGa.Start ours = LoraGa.start(config, g, w, 2, s, new Seed(1));
            Tensor a = StartFixtures.matrix(theirs, "a", 2, 8);
            Tensor b = StartFixtures.matrix(theirs, "b", 10, 2);
            // Signs of singular vectors are free, so what is compared is free of them.
            assertThat(gap(direction(g, ours.a(), ours.b()), direction(g, a, b)))
                    .isLessThan(1e-4);
            if (config.direction() != Direction.RANDOM) {
                assertThat(gap(ours.a().abs(), a.abs())).isLessThan(1e-4);
                assertThat(gap(ours.b().abs(), b.abs())).isLessThan(1e-4);
            }
            // Their network is W - s B A.
            assertThat(gap(StartFixtures.matrix(theirs, "weight", 10, 8), w.add(b.matmul(a), -s)))
                    .isLessThan(1e-5);
        }
    }

    /** With DoRA the start is as neutral, the file reads the same, and all of it trains. */
    @Test
    void startsDora(@TempDir Path folder) {
        Tiny net = new Tiny(DType.FLOAT32);
        Tensor before = run(net);
        AdaptedModel model = new AdaptedModel(net, net.heads());
        AdapterSpec<?> spec = AdapterSpec.read(Fields.of(
                "recipe",
                Map.of(
                        "type",
                        "dora",
                        "r",
                        3,
                        "lora_alpha",
                        6,
                        "target_modules",
                        List.of("fc", "proj"),
                        "initializer",
                        Map.of("type", "lora-ga", "batches", 2))));
        assertThat(spec.type()).isInstanceOf(Dora.Type.class);
        Attached adapter = model.attach("default", spec, new Seed(1), calibration(net));
        assertThat(adapter.lowRank("layers.0.fc").b().tensor().abs().max().item())
                .isGreaterThan(0.05);
        assertThat(gap(run(net), before)).isLessThan(1e-5);
        StartFixtures.loss(net, 0).backward();
        model.trainableParameters()
                .forEach((key, p) ->
                        assertThat(p.tensor().grad().norm().item()).as(key).isPositive());
        move(adapter, 0.2);
        Tensor trained = run(net);
        PeftFolder.save(model, "default", folder, null, PeftFolder.Form.PLAIN, Map.of());
        model.remove("default");
        PeftFolder.load(model, folder, null, true);
        assertThat(run(net).equal(trained)).isTrue();
        model.merge();
        assertThat(gap(run(net), trained)).isLessThan(1e-4);
    }

    /** A resumed run attaches again and finds the same offset, bit for bit; the network is left as it was. */
    @Test
    void attachingAgainGivesTheSameBits() {
        Tensor[] outputs = new Tensor[2];
        for (int i = 0; i < 2; i++) {
            Tiny net = new Tiny(DType.FLOAT32);
            Map<String, Tensor> before = values(net);
            AdaptedModel model = new AdaptedModel(net, net.heads());
            Attached adapter = model.attach("default", spec(), new Seed(1), calibration(net));
            net.namedParameters().forEach((path, p) -> {
                assertThat(p.tensor().equal(before.get(path))).as(path).isTrue();
                assertThat(p.isTrainable()).as(path).isFalse();
                assertThat(p.tensor().grad()).as(path).isNull();
            });
            // A and B as a checkpoint would bring them: what is left of the start is the offset.
            try (Grad off = Grad.off();
                    Generator random = Generator.of(9)) {
                for (Parameter p : adapter.parameters().values()) {
                    p.tensor().copy_(random.randn(p.shape()));
                }
            }
            outputs[i] = run(net);
        }
        assertThat(outputs[0].equal(outputs[1])).isTrue();
    }

    /** Stopped after three steps and gone on with on a fresh network: the bits of a run that was not stopped. */
    @Test
    void aResumedRunGoesOnToTheSameBits(@TempDir Path folder) {
        Map<String, float[]> whole = train(folder.resolve("whole"), false, 0);
        train(folder.resolve("parts"), false, 3);
        Map<String, float[]> parts = train(folder.resolve("parts"), true, 0);
        whole.forEach((key, value) -> assertThat(parts.get(key)).as(key).isEqualTo(value));
    }

    /** What the adapter became, and what the network then computes. */
    private Map<String, float[]> train(Path out, boolean resume, long stopAfter) {
        try (Scope scope = Scope.open()) {
            Tiny net = new Tiny(DType.FLOAT32);
            AdaptedModel model = new AdaptedModel(net, net.heads());
            Attached adapter = model.attach("default", spec(), new Seed(1), calibration(net));
            TrainConfig usual = TrainConfig.DEFAULT;
            TrainConfig config = new TrainConfig(
                    0, 6, 8, 1, 1e-2, usual.optimizer(), usual.schedule(), false, 1, 0, 0, 0, 1, 3, usual.logEvery());
            Trainer[] running = new Trainer[1];
            try (Trainer trainer = TinyTask.trainer(net, adapter, model, config)
                    .progress(p -> {})
                    .out(out)
                    .resume(resume)
                    .callback(new Callback() {
                        @Override
                        public void afterStep(StepContext step) {
                            if (step.step() == stopAfter) {
                                running[0].requestStop();
                            }
                        }
                    })
                    .build()) {
                running[0] = trainer;
                trainer.train();
            }
            Map<String, float[]> values = new LinkedHashMap<>();
            adapter.parameters().forEach((key, p) -> values.put(key, p.tensor().floats()));
            values.put("outputs", run(net).reshape(-1).floats());
            return values;
        }
    }

    @Test
    void layersWithoutGradientStartAsUsual() {
        Tiny net = new Tiny(DType.FLOAT32);
        net.layers.get(0).proj.weightParameter().tensor().zero_(); // nothing of fc's output gets through
        AdapterSpec<?> spec = spec();
        Attached adapter = new AdaptedModel(net, net.heads()).attach("default", spec, new Seed(1), calibration(net));
        assertThat(adapter.lowRank("layers.0.fc").b().tensor().abs().max().item())
                .isZero();
        assertThat(adapter.lowRank("layers.0.fc").a().tensor().abs().max().item())
                .isPositive();
        assertThat(adapter.lowRank("layers.1.fc").b().tensor().abs().max().item())
                .isPositive();
    }

    @Test
    void shorthandOfARecipeIsLoraWithTheRootOfTheRank() {
        AdapterSpec<?> spec = AdapterSpec.read(Fields.of("recipe", Map.of("type", "lora-ga", "batches", 8)));
        assertThat(spec.type()).isInstanceOf(Lora.Type.class);
        assertThat(spec.config()).isEqualTo(Lora.Config.of(8, 16).withRslora(true));
        assertThat(((LoraGa) spec.initializer()).config().batches()).isEqualTo(8);
        AdapterSpec<?> plain =
                AdapterSpec.read(Fields.of("recipe", Map.of("type", "lora-ga", "use_rslora", false, "lora_alpha", 4)));
        assertThat(plain.config()).isEqualTo(Lora.Config.of(8, 4));
    }

    @Test
    void badInputIsRefusedWithAReason() {
        Tiny net = new Tiny(DType.FLOAT32);
        AdaptedModel model = new AdaptedModel(net, net.heads());
        assertThatThrownBy(() -> model.attach("a", spec(5, new LoraGa()), new Seed(1), calibration(net)))
                .hasMessage(
                        "LoRA-GA needs a rank of at most 4 on layers.0.fc, half its smaller width, found 5; set r or rank_pattern for it");
        assertThatThrownBy(() -> model.attach("a", spec(), new Seed(1)))
                .hasMessage(
                        "LoRA-GA starts from gradients or activations on calibration batches, and there are none; train by a recipe with data, or give a Calibration");
        assertThatThrownBy(() -> new LoraGa.Config(0, Direction.ARB2R, Scale.STABLE, 16, Svd.EXACT))
                .hasMessage("batches must be at least 1, found 0; try 64");
        assertThatThrownBy(() -> new LoraGa.Config(1, Direction.ARB2R, Scale.STABLE, 0, Svd.EXACT))
                .hasMessage("stable_gamma must be positive and finite, found 0.0; try 16");
    }
}
