package dev.espalier.adapter;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import dev.espalier.data.Collator;
import dev.espalier.io.Fields;
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
import dev.espalier.train.AdamW;
import dev.espalier.train.Optimizer;
import dev.espalier.train.ParameterGroup;
import dev.espalier.train.TrainConfig;
import dev.espalier.train.Trainer;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

class RandLoraTest extends AdapterContract {

    private static final RandLora.Type TYPE = new RandLora.Type();

    @Override
    protected AdapterSpec<?> spec() {
        return spec(RandLora.Config.of(3, 3));
    }

    private static AdapterSpec<?> spec(RandLora.Config config) {
        return AdapterSpec.of(TYPE, config, Targets.of("fc", "proj"));
    }

    /** r = 3, m = 8, n = 3. */
    @Override
    protected long parameters(long out, long in) {
        return 3 * (3 + 8);
    }

    /** A layer of float64 with its adapter, λ and γ moved by noise. */
    private record Moved(Linear layer, AdapterType.Made made, RandLora adapter) {
        static Moved of(RandLora.Config config, long in, long out) {
            Linear layer = new Linear(in, out, false, DType.FLOAT64);
            AdapterType.Made made = TYPE.create(config, List.of(new Site("x", layer)), new Seed(0));
            try (Grad off = Grad.off();
                    Generator g = Generator.of(4)) {
                layer.weightParameter().tensor().copy_(g.randn(out, in));
                made.adapters()
                        .get("x")
                        .parameters()
                        .values()
                        .forEach(p -> p.tensor().copy_(g.randn(p.shape())));
            }
            return new Moved(layer, made, (RandLora) made.adapters().get("x"));
        }

        Tensor parameter(String name) {
            return adapter.parameters().get("randlora_" + name).tensor().detach();
        }

        /** ΔW by the card's sum, with B_j[:, k] = Bflat[:, k n + j]. */
        Tensor explicit(double scale) {
            Tensor lambda = parameter("lambda"); // [r, n]
            Tensor gamma = parameter("gamma"); // [n, m]
            long r = lambda.size(0);
            long n = gamma.size(0);
            long m = gamma.size(1);
            long most = Math.max(layer.inFeatures(), layer.outFeatures());
            Tensor a = made.shared().get("randlora_A").tensor().select(1, 0).narrow(1, 0, m); // [r, m]
            Tensor flat =
                    made.shared().get("randlora_B").tensor().narrow(0, 0, most).narrow(1, 0, n);
            flat = flat.reshape(most, n * r);
            Tensor sum = Tensor.zeros(DType.FLOAT64, most, m);
            for (long j = 0; j < n; j++) {
                List<Tensor> columns = new ArrayList<>();
                for (long k = 0; k < r; k++) {
                    columns.add(flat.select(1, k * n + j));
                }
                Tensor b = Tensor.stack(columns, 1); // [M, r]
                sum.add_(b.mul(lambda.select(1, j)).matmul(a).mul(gamma.select(0, j)));
            }
            return (layer.inFeatures() > layer.outFeatures() ? sum.t() : sum).mul(scale);
        }
    }

    @Test
    @Card(value = "randlora", checks = 1)
    void theFirstStepMovesLambdaAlone() {
        Tiny net = new Tiny(DType.FLOAT32);
        Tensor before = run(net);
        AdaptedModel model = new AdaptedModel(net, net.heads());
        Attached adapter = model.attach("default", spec(), new Seed(1));
        assertThat(run(net).equal(before)).isTrue();
        Map<String, Tensor> start = new LinkedHashMap<>();
        model.trainableParameters()
                .forEach((key, p) -> start.put(key, p.tensor().detach().clone()));
        Optimizer adamW =
                AdamW.Config.DEFAULT.create(List.of(new ParameterGroup("all", model.trainableParameters(), 1, 0)));
        net.forward(Tiny.ids()).square().sum().backward();
        model.trainableParameters().forEach((key, p) -> {
            Tensor gradient = p.tensor().grad();
            assertThat(gradient.ne(0).any()).as(key).isEqualTo(key.endsWith("lambda"));
        });
        adamW.step(0.01);
        model.trainableParameters().forEach((key, p) -> {
            double moved = p.tensor().detach().sub(start.get(key)).abs().min().item();
            assertThat(moved).as(key).isCloseTo(key.endsWith("lambda") ? 0.01 : 0, within(1e-5));
        });
        assertThat(adapter.made().shared().values()).noneMatch(Parameter::isTrainable);
    }

    @ParameterizedTest
    @CsvSource({"6, 9, 2", "9, 6, 4", "7, 7, 3", "7, 7, 7", "5, 8, 20"})
    @Card(
            value = "randlora",
            checks = {2, 3})
    void itHasFullRankAndIsTheSum(int in, int out, int r) {
        Moved moved = Moved.of(RandLora.Config.of(r, 2 * r), in, out);
        int m = Math.min(in, out);
        Tensor change = moved.adapter.toLora().product().detach();
        Tensor explicit = moved.explicit(2);
        assertThat(gap(change, explicit) / explicit.abs().max().item()).isLessThan(1e-12);
        assertThat(rank(change)).isEqualTo(m);
        assertThat(moved.parameter("gamma").size(0)).isEqualTo(r >= m ? 1 : (m + r - 1) / r);
        try (Generator g = Generator.of(8)) {
            Tensor x = g.randn(4, in).to(DType.FLOAT64);
            Tensor weight = moved.layer.weight();
            Tensor expected = x.matmul(weight.add(explicit).t());
            Tensor found =
                    moved.adapter.forward(x, new Base.Ground(moved.layer)).detach();
            assertThat(gap(found, expected) / expected.abs().max().item()).isLessThan(1e-12);
            Tensor merged = moved.adapter.merge(new Base.Affine(weight, null)).weight();
            assertThat(gap(merged.detach(), weight.add(explicit)))
                    .isLessThan(1e-12 * explicit.abs().max().item());
            try (Grad off = Grad.off()) { // equal γ_j collapse the sum
                Tensor gamma = moved.parameter("gamma");
                gamma.copy_(gamma.narrow(0, 0, 1).expand(gamma.shape()));
            }
            assertThat(rank(moved.adapter.toLora().product().detach())).isLessThanOrEqualTo(Math.min(r, m));
        }
    }

    private static long rank(Tensor matrix) {
        Tensor values = matrix.svd().get(1);
        return (long)
                values.gt(values.max().item() * 1e-12).to(DType.FLOAT64).sum().item();
    }

    /** The gradient by hand against autograd of the naive product, in both orientations. */
    @ParameterizedTest
    @CsvSource({"6, 9", "9, 6"})
    @Card(value = "randlora", checks = 4)
    void theGradientByHandIsAutograds(int in, int out) {
        Moved moved = Moved.of(RandLora.Config.of(4, 8), in, out);
        try (Generator g = Generator.of(8)) {
            Tensor x = g.randn(5, in).to(DType.FLOAT64);
            Tensor y = g.randn(5, out).to(DType.FLOAT64);
            moved.adapter.forward(x, new Base.Ground(moved.layer)).mul(y).sum().backward();
            Tensor lambda = moved.parameter("lambda").clone().requiresGrad_(true);
            Tensor gamma = moved.parameter("gamma").clone().requiresGrad_(true);
            Tensor a = moved.made.shared().get("randlora_A").tensor();
            Tensor p = lambda.unsqueeze(2).mul(gamma).mul(a).flatten(0, 1); // [r n, m]
            Tensor flat = moved.made.shared().get("randlora_B").tensor().flatten(1, 2); // [M, n r]
            Tensor change = in > out ? p.t().matmul(flat.t()) : flat.matmul(p);
            x.matmul(change.t()).mul(2).mul(y).sum().backward();
            Map<String, Parameter> ours = moved.adapter.parameters();
            assertThat(gap(ours.get("randlora_lambda").tensor().grad(), lambda.grad()))
                    .isLessThan(1e-10);
            assertThat(gap(ours.get("randlora_gamma").tensor().grad(), gamma.grad()))
                    .isLessThan(1e-10);
        }
    }

    @Test
    void gradientsEqualFiniteDifferences() {
        RandLora.Config config = RandLora.Config.of(3, 3).withRandomStart();
        Gradients.check(layer -> TYPE.create(config, List.of(new Site("x", layer)), new Seed(0))
                .adapters()
                .get("x"));
    }

    /** Llama-3.2-3B, q and v, r 32: 28 layers of n (r + m) = 96 (32 + 3072) and 32 (32 + 1024), linear in the layers. */
    @Test
    @Card(value = "randlora", checks = 5)
    void countsAreThoseOfTheCard() {
        List<Site> sites = List.of(
                new Site("q", new Linear(3072, 3072, false, DType.BFLOAT16)),
                new Site("v", new Linear(3072, 1024, false, DType.BFLOAT16)));
        AdapterType.Made made = TYPE.create(RandLora.Config.DEFAULT.withSparse(true, false), sites, new Seed(0));
        long count = made.parameters().values().stream()
                .filter(Parameter::isTrainable)
                .mapToLong(p -> p.tensor().numel())
                .sum();
        assertThat(28 * count).isEqualTo(9_289_728);
        made.adapters().values().forEach(Adapter::close);
        made.shared().values().forEach(p -> p.tensor().close());
    }

    /** The shared A and B stand once, and their seed is enough to load a file without them. */
    @Test
    @Card(value = "randlora", checks = 6)
    void basesAreSharedAndComeBackFromTheirSeed(@TempDir Path folder) {
        for (boolean[] kind : new boolean[][] {{false, false}, {true, false}, {false, true}}) {
            Tiny net = new Tiny(DType.FLOAT32);
            AdaptedModel model = new AdaptedModel(net, net.heads());
            RandLora.Config config =
                    RandLora.Config.of(3, 3).withSaveProjection(false).withSparse(kind[0], kind[1]);
            Attached adapter = model.attach("default", spec(config), new Seed(1));
            assertThat(adapter.made().shared()).containsOnlyKeys("randlora_A", "randlora_B");
            move(adapter, 0.3);
            Tensor adapted = run(net);
            PeftFolder.save(model, "default", folder, null, PeftFolder.Form.PLAIN, Map.of());
            model.remove("default");
            try (TensorSource file = Safetensors.open(folder.resolve("adapter_model.safetensors"))) {
                assertThat(file.tensors().keySet()).noneMatch(key -> key.endsWith("_A") || key.endsWith("_B"));
            }
            PeftFolder.load(model, folder, null, true);
            assertThat(run(net).equal(adapted)).isTrue();
        }
    }

    /** PEFT's bases from PEFT's key, to the bit: bfloat16 draws divided by their standard deviation. */
    @Test
    @Card(value = "randlora", checks = 6)
    void basesAreThoseThatPeftDraws() {
        try (TensorSource file =
                Safetensors.open(PeftFixtures.adapter("llama-randlora").resolve("adapter_model.safetensors"))) {
            Tensor a = file.read("base_model.randlora_A");
            Tensor b = file.read("base_model.randlora_B");
            List<Tensor> bases = RandomBases.of(RandLora.Config.of(5, 10), a.size(2), b.size(0));
            assertThat(bases.get(0).equal(a)).isTrue();
            assertThat(bases.get(1).equal(b)).isTrue();
        }
    }

    @Test
    void aFileWithBasesOfItsOwnInALayerIsRefused(@TempDir Path folder) {
        Tiny net = new Tiny(DType.FLOAT32);
        AdaptedModel model = new AdaptedModel(net, net.heads());
        move(model.attach("default", spec(), new Seed(1)), 0.3);
        PeftFolder.save(model, "default", folder, null, PeftFolder.Form.PLAIN, Map.of());
        model.remove("default");
        Path weights = folder.resolve("adapter_model.safetensors");
        Map<String, Tensor> tensors = new LinkedHashMap<>();
        try (TensorSource file = Safetensors.open(weights)) {
            file.tensors().keySet().forEach(key -> tensors.put(key, file.read(key)));
        }
        tensors.get("base_model.model.layers.1.fc.randlora_A").add_(1);
        Safetensors.write(weights, tensors);
        assertThatThrownBy(() -> PeftFolder.load(model, folder, null, true))
                .hasMessageContaining("base_model.model.layers.1.fc.randlora_A is not base_model.randlora_A");
    }

    /**
     * Share of a 32 × 32 target that 160 parameters explain: an orthogonal one (a LoRA of rank 2 has 128 parameters and explains
     * exactly 2/32), by 600 steps of Adam.
     */
    @Test
    @Card(value = "randlora", checks = 7)
    void itExplainsMoreOfAnOrthogonalMatrixThanALoraOfAsManyParameters() {
        Tensor target;
        try (Generator g = Generator.of(3)) {
            target = g.randn(32, 32).qr().get(0).mul(1); // ‖T‖² = 32
        }
        AdapterType.Made made = TYPE.create(
                RandLora.Config.of(8, 8),
                List.of(new Site("x", new Linear(32, 32, false, DType.FLOAT32))),
                new Seed(0));
        RandLora adapter = (RandLora) made.adapters().get("x");
        Optimizer adam = AdamW.Config.DEFAULT.create(List.of(new ParameterGroup("all", adapter.parameters(), 1, 0)));
        double left = 32;
        for (int step = 0; step < 600; step++) {
            try (Scope inner = Scope.open()) {
                adam.zeroGrad();
                Tensor loss = adapter.toLora().product().sub(target).square().sum();
                loss.backward();
                left = loss.item();
                adam.step(step < 400 ? 0.02 : 0.004);
            }
        }
        assertThat(adapter.parameters().values().stream()
                        .mapToLong(p -> p.tensor().numel())
                        .sum())
                .isEqualTo(160);
        assertThat(1 - left / 32).isBetween(0.17, 0.3);
        Tensor values = target.svd().get(1);
        assertThat(values.narrow(0, 0, 2).square().sum().item() / 32).isCloseTo(2 / 32.0, within(1e-5));
    }

    /** Unit standard deviation, one magnitude, and a share of zeros of 2/3, or 0.875 for m = 64 and very sparse. */
    @Test
    @Card(value = "randlora", checks = 8)
    void sparseBasesAreTernaryWithUnitVariance() {
        for (boolean very : new boolean[] {false, true}) {
            List<Tensor> bases = RandomBases.of(RandLora.Config.of(8, 8).withSparse(!very, very), 64, 200);
            Tensor b = bases.get(1); // 200 · 8 · 8 entries
            assertThat(b.std().item()).isCloseTo(1, within(1e-5));
            double magnitude = b.abs().max().item();
            assertThat(b.abs().eq(magnitude).logicalAnd(b.ne(0)).equal(b.ne(0))).isTrue();
            double zeros = b.eq(0).to(DType.FLOAT64).mean().item();
            assertThat(zeros).isCloseTo(very ? 0.875 : 2.0 / 3, within(0.02));
            assertThat(bases.get(0).std().item()).isCloseTo(1, within(1e-5));
        }
    }

    /** With half the rank about twice the parameters, and a target of full rank is met better. */
    @Test
    @Card(value = "randlora", checks = 9)
    void aSmallerRankMeansMoreParametersAndALowerLoss() {
        double[] losses = new double[2];
        long[] counts = new long[2];
        for (int i = 0; i < 2; i++) {
            Tiny net = new Tiny(DType.FLOAT32);
            AdaptedModel model = new AdaptedModel(net, net.heads());
            Attached adapter =
                    model.attach("default", spec(RandLora.Config.of(i == 0 ? 4 : 2, i == 0 ? 4 : 2)), new Seed(1));
            counts[i] = model.trainableParameters().values().stream()
                    .mapToLong(p -> p.tensor().numel())
                    .sum();
            try (Trainer trainer =
                    TinyTask.trainer(net, adapter, model, config()).build()) {
                trainer.train();
            }
            losses[i] = loss(net);
        }
        assertThat(counts[1]).isEqualTo(4 * 4 * (2 + 8)).isGreaterThan(counts[0] * 3 / 2); // 4 · 2 · (4 + 8) = 96
        assertThat(losses[1]).isLessThan(losses[0]);
    }

    private static TrainConfig config() {
        return TrainConfig.builder()
                .epochs(20)
                .batchSize(8)
                .learningRate(0.02)
                .seed(3)
                .build();
    }

    private static double loss(Tiny net) {
        try (Grad off = Grad.off()) {
            return new TinyTask(net)
                    .loss(TinyTask.data(24, 24).batch(Collator.Cursor.START))
                    .item();
        }
    }

    /** s = alpha / (r √n): files have PEFT's form, and λ takes the rest. */
    @Test
    void theOtherScaleFormIsWrittenAsPefts(@TempDir Path folder) {
        Tiny net = new Tiny(DType.FLOAT32);
        AdaptedModel model = new AdaptedModel(net, net.heads());
        RandLora.Config config = RandLora.Config.of(2, 4).withScaleForm(RandLora.ScaleForm.ALPHA_OVER_R_SQRT_N);
        move(model.attach("default", spec(config), new Seed(1)), 0.3);
        assertThat(model.adapter("default").exactFactors("layers.0.fc").scale()).isEqualTo(2 / Math.sqrt(4));
        Tensor adapted = run(net);
        PeftFolder.save(model, "default", folder, null, PeftFolder.Form.PLAIN, Map.of());
        model.remove("default");
        assertThat(PeftFolder.config(folder)).doesNotContainKey("scale_form");
        Attached again = PeftFolder.load(model, folder, null, true);
        assertThat(again.exactFactors("layers.0.fc").scale()).isEqualTo(2);
        assertThat(gap(run(net), adapted)).isLessThan(1e-4);
    }

    @Test
    void itIsExactlyALoraOfRankNR(@TempDir Path folder) {
        Tiny net = new Tiny(DType.FLOAT32);
        AdaptedModel model = new AdaptedModel(net, net.heads());
        move(model.attach("default", spec(), new Seed(1)), 0.1);
        Tensor adapted = run(net);
        assertThat(PeftFolder.exportLora(model, "default", folder, null, 0, Map.of()))
                .allSatisfy(layer -> assertThat(layer.rank()).isEqualTo(9)); // n r = 3 · 3
        model.remove("default");
        PeftFolder.load(model, folder, null, false);
        assertThat(gap(run(net), adapted) / adapted.abs().max().item()).isLessThan(1e-5);
    }

    @Test
    void badSettingsAreRefusedWithAReason() {
        assertThatThrownBy(() -> RandLora.Config.of(0, 8)).hasMessage("r must be at least 1, found 0; try 32");
        assertThatThrownBy(() -> RandLora.Config.of(8, -1))
                .hasMessage("randlora_alpha must be positive and finite, found -1.0; try 20 times the rank");
        assertThatThrownBy(() -> TYPE.read(Fields.of("", Map.of("scale_form", "other"))))
                .hasMessageContaining("scale_form");
    }
}
