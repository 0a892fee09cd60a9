package dev.espalier.adapter;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import dev.espalier.data.Collator;
import dev.espalier.io.Fields;
import dev.espalier.io.Json;
import dev.espalier.nn.Linear;
import dev.espalier.nn.Parameter;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Generator;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Machine;
import dev.espalier.tensor.RandomBasis;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import dev.espalier.train.TrainConfig;
import dev.espalier.train.Trainer;
import java.io.IOException;
import java.net.URISyntaxException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class NolaTest extends AdapterContract {

    private static final Nola.Type TYPE = new Nola.Type();

    @Override
    protected AdapterSpec<?> spec() {
        return spec(Nola.Config.of(5, 3, 6));
    }

    private static AdapterSpec<?> spec(Nola.Config config) {
        return AdapterSpec.of(TYPE, config, Targets.of("fc", "proj"));
    }

    @Override
    protected long parameters(long out, long in) {
        return 2 * 5;
    }

    private static Nola on(Linear layer, Nola.Config config) {
        return (Nola) TYPE.create(config, List.of(new Site("x", layer)), new Seed(0))
                .adapters()
                .get("x");
    }

    private static Linear zero(int in, int out) {
        Linear layer = new Linear(in, out, false, DType.FLOAT64);
        layer.weightParameter().tensor().zero_();
        return layer;
    }

    /** The authors' layers for language models and for images, on our bases: tools/golden/make_nola_fixtures.py. */
    @Test
    void itComputesWhatTheAuthorsCodeDoes() throws URISyntaxException {
        Map<String, Object> fixtures =
                Json.read(Path.of(Objects.requireNonNull(NolaTest.class.getResource("/golden/nola.json"))
                        .toURI()));
        for (Nola.Init init : Nola.Init.values()) {
            Map<?, ?> expected =
                    (Map<?, ?>) Objects.requireNonNull(fixtures.get(init.name().toLowerCase(java.util.Locale.ROOT)));
            boolean mean = init == Nola.Init.MEAN;
            Linear layer = zero(6, 4);
            Nola nola =
                    on(layer, Nola.Config.of(5, 3, mean ? 1 : 6).withInit(init).withSeed(11));
            Tensor alpha = nola.parameters().get("nola_alpha").tensor();
            Tensor beta = nola.parameters().get("nola_beta").tensor();
            if (mean) {
                assertThat(alpha.doubles()).containsExactly(numbers(expected, "start"), within(1e-8)); // float32 1/5
            }
            alpha.detach().copy_(Tensor.of(numbers(expected, "alpha"), 5));
            beta.detach().copy_(Tensor.of(numbers(expected, "beta"), 5));
            Tensor y = nola.forward(Tensor.of(numbers(expected, "x"), 2, 6), new Base.Ground(layer));
            y.mul(Tensor.of(numbers(expected, "upstream"), 2, 4)).sum().backward();
            assertThat(y.doubles()).containsExactly(numbers(expected, "y"), within(1e-12));
            assertThat(alpha.grad().doubles()).containsExactly(numbers(expected, "grad_alpha"), within(1e-12));
            assertThat(beta.grad().doubles()).containsExactly(numbers(expected, "grad_beta"), within(1e-12));
        }
    }

    private static double[] numbers(Map<?, ?> of, String key) {
        return ((List<?>) Objects.requireNonNull(of.get(key)))
                .stream().mapToDouble(n -> ((Number) n).doubleValue()).toArray();
    }

    /** Nothing changes at first; β moves at once, α when β has. */
    @Test
    @Card(value = "nola", checks = 1)
    void betaTrainsFirst() {
        Tiny net = new Tiny(DType.FLOAT32);
        Tensor before = run(net);
        AdaptedModel model = new AdaptedModel(net, net.heads());
        model.attach("default", spec(), new Seed(1));
        assertThat(run(net).equal(before)).isTrue();
        for (int step = 0; step < 2; step++) {
            net.forward(Tiny.ids()).square().sum().backward();
            boolean first = step == 0;
            model.trainableParameters().forEach((key, p) -> {
                assertThat(p.tensor().grad().ne(0).any()).as(key).isEqualTo(!first || key.endsWith("beta"));
                p.tensor().detach().add_(p.tensor().grad(), -1e-3);
                p.tensor().clearGrad();
            });
        }
    }

    /**
     * The gradient by hand against autograd of the sum over matrices that are held, for numbers of them and widths that fill the
     * blocks in which entries are made and that do not: there are no other chunks.
     */
    @Test
    @Card(
            value = "nola",
            checks = {2, 3})
    void theGradientByHandIsAutogradsOfTheExplicitSum() {
        for (int[] size : new int[][] {{6, 9, 2, 5}, {9, 6, 3, 1}, {3000, 4, 3, 7}}) {
            int in = size[0];
            int out = size[1];
            int r = size[2];
            int k = size[3];
            Linear layer = zero(in, out);
            Nola nola = on(layer, Nola.Config.of(k, r, 2 * r).withSeed(7));
            try (Generator g = Generator.of(4)) {
                for (Parameter p : nola.parameters().values()) {
                    p.tensor().detach().copy_(g.randn(k));
                }
                Tensor x = g.randn(3, in).to(DType.FLOAT64);
                Tensor y = g.randn(3, out).to(DType.FLOAT64);
                Tensor alpha = nola.parameters().get("nola_alpha").tensor();
                Tensor beta = nola.parameters().get("nola_beta").tensor();
                Tensor found = nola.forward(x, new Base.Ground(layer));
                found.mul(y).sum().backward();

                Seed seed = new Seed(7);
                Tensor explicitAlpha = alpha.detach().clone().requiresGrad_(true);
                Tensor explicitBeta = beta.detach().clone().requiresGrad_(true);
                Tensor a = sum(new RandomBasis(seed.named("A").at(in), k, r, in), explicitAlpha)
                        .add(
                                new RandomBasis(seed.named("x").named("A0"), 1, r, in)
                                        .matrix(0)
                                        .to(DType.FLOAT64),
                                1 / Math.sqrt(in));
                Tensor b = sum(new RandomBasis(seed.named("B").at(out), k, out, r), explicitBeta);
                Tensor expected = x.matmul(a.t()).matmul(b.t()).mul(2);
                expected.mul(y).sum().backward();
                assertThat(gap(found, expected) / expected.abs().max().item()).isLessThan(1e-12);
                assertThat(gap(alpha.grad(), explicitAlpha.grad())).isLessThan(1e-10);
                assertThat(gap(beta.grad(), explicitBeta.grad())).isLessThan(1e-10);
            }
        }
    }

    /** Σ_i c_i W_i / √k, all matrices held and recorded. */
    private static Tensor sum(RandomBasis basis, Tensor c) {
        List<Tensor> matrices = new ArrayList<>();
        for (int i = 0; i < basis.k(); i++) {
            matrices.add(basis.matrix(i).to(DType.FLOAT64));
        }
        return Tensor.stack(matrices, 0).mul(c.view(-1, 1, 1)).sum(0, false).div(Math.sqrt(basis.k()));
    }

    @Test
    @Card(value = "nola", checks = 2)
    void gradientsEqualFiniteDifferences() {
        for (Nola.Init init : Nola.Init.values()) {
            Gradients.check(layer -> {
                Nola nola = on(layer, Nola.Config.of(4, 2, 3).withInit(init));
                nola.parameters().get("nola_beta").tensor().detach().add_(1);
                return nola;
            });
        }
    }

    /** Dropout draws the same masks with NOLA as without: its random matrices come from nowhere but their seed. */
    @Test
    @Card(value = "nola", checks = 3)
    void theGlobalGeneratorIsLeftAlone() {
        Linear layer = Gradients.layer();
        List<Tensor> masks = new ArrayList<>();
        for (boolean with : new boolean[] {false, true}) {
            Generator.seedDropout(3);
            if (with) {
                Nola nola = on(layer, Nola.Config.of(4, 2, 3));
                nola.forward(Tensor.ones(DType.FLOAT64, 2, 4), new Base.Ground(layer))
                        .sum()
                        .backward();
            }
            masks.add(Tensor.ones(DType.FLOAT32, 50).dropout(0.5, true));
        }
        assertThat(masks.get(0).equal(masks.get(1))).isTrue();
    }

    /** α, β and a seed, whatever rank and widths are: that is also all that a file has, and it is enough. */
    @Test
    @Card(
            value = "nola",
            checks = {3, 4})
    void filesHoldCoefficientsAndASeed(@TempDir Path folder) throws IOException {
        long bytes = 0;
        for (int r : new int[] {1, 8}) {
            Tiny net = new Tiny(DType.FLOAT32);
            AdaptedModel model = new AdaptedModel(net, net.heads());
            move(model.attach("default", spec(Nola.Config.of(5, r, r)), new Seed(1)), 0.3);
            Tensor adapted = run(net);
            PeftFolder.save(model, "default", folder, null, PeftFolder.Form.PLAIN, Map.of());
            model.remove("default");
            assertThat(PeftFolder.config(folder))
                    .containsEntry("basis_seed", new Seed(1).named("nola").value())
                    .containsEntry("generator", "splitmix64");
            PeftFolder.load(model, folder, null, true);
            assertThat(run(net).equal(adapted)).isTrue();
            long size = Files.size(folder.resolve("adapter_model.safetensors"));
            assertThat(size).isEqualTo(bytes == 0 ? size : bytes);
            bytes = size;
        }
        for (int in : new int[] {3, 300}) {
            assertThat(on(zero(in, 2 * in), Nola.Config.of(6, 4, 4)).parameters().values().stream()
                            .mapToLong(p -> p.tensor().numel())
                            .sum())
                    .isEqualTo(12);
        }
    }

    /** LLaMA-2 70B, 7 linear layers in 80 blocks, k 512 each: 0.57 million. */
    @Test
    @Card(value = "nola", checks = 4)
    void countIsThatOfTheCard() {
        long layer = on(zero(4, 4), Nola.Config.of(512, 1, 1)).parameters().values().stream()
                .mapToLong(p -> p.tensor().numel())
                .sum();
        assertThat(7 * 80 * layer).isEqualTo(573_440);
    }

    /** With k of 1.25 r times the width the bases span everything: any LoRA is met by least squares. */
    @Test
    @Card(value = "nola", checks = 5)
    void enoughMatricesMeetAnyLora() {
        Linear layer = zero(6, 5);
        Nola nola = on(layer, Nola.Config.of(15, 2, 2).withSeed(3));
        Seed seed = new Seed(3);
        try (Generator g = Generator.of(4)) {
            Tensor a = g.randn(2, 6).to(DType.FLOAT64);
            Tensor b = g.randn(5, 2).to(DType.FLOAT64);
            Tensor start = new RandomBasis(seed.named("x").named("A0"), 1, 2, 6)
                    .matrix(0)
                    .to(DType.FLOAT64);
            solve(
                    nola.parameters().get("nola_alpha"),
                    new RandomBasis(seed.named("A").at(6), 15, 2, 6),
                    a.sub(start.div(Math.sqrt(6))));
            solve(
                    nola.parameters().get("nola_beta"),
                    new RandomBasis(seed.named("B").at(5), 15, 5, 2),
                    b);
            LoraFactors factors = nola.toLora();
            assertThat(gap(factors.a(), a)).isLessThan(1e-10);
            assertThat(gap(factors.b(), b)).isLessThan(1e-10);
        }
    }

    private static void solve(Parameter coefficients, RandomBasis basis, Tensor target) {
        List<Tensor> columns = new ArrayList<>();
        for (int i = 0; i < basis.k(); i++) {
            columns.add(basis.matrix(i).to(DType.FLOAT64).view(-1));
        }
        List<Tensor> svd = Tensor.stack(columns, 1).div(Math.sqrt(basis.k())).svd(); // [entries, k]
        Tensor c =
                svd.get(2).t().matmul(svd.get(0).t().matmul(target.reshape(-1)).div(svd.get(1)));
        coefficients.tensor().detach().copy_(c);
    }

    @Test
    @Card(value = "nola", checks = 6)
    void itIsExactlyALora(@TempDir Path folder) {
        Tiny net = new Tiny(DType.FLOAT32);
        AdaptedModel model = new AdaptedModel(net, net.heads());
        move(model.attach("default", spec(), new Seed(1)), 0.3);
        Tensor adapted = run(net);
        PeftFolder.exportLora(model, "default", folder, null, 0, Map.of());
        model.merge();
        assertThat(gap(run(net), adapted)).isLessThan(1e-5);
        model.unmerge();
        model.remove("default");
        PeftFolder.load(model, folder, null, false);
        assertThat(gap(run(net), adapted)).isLessThan(1e-5);

        Linear layer = zero(9, 7);
        Nola nola = on(layer, Nola.Config.of(6, 3, 3));
        try (Grad off = Grad.off();
                Generator g = Generator.of(4)) {
            nola.parameters().values().forEach(p -> p.tensor().copy_(g.randn(6)));
            Tensor x = g.randn(4, 9).to(DType.FLOAT64);
            Tensor change = nola.merge(Base.Affine.of(layer)).weight();
            assertThat(gap(nola.forward(x, new Base.Ground(layer)), x.matmul(change.t())))
                    .isLessThan(1e-12);
            double[] values = change.svd().get(1).doubles();
            assertThat(values[2]).isGreaterThan(1e-3 * values[0]);
            assertThat(values[3]).isLessThan(1e-6 * values[0]);
        }
    }

    /**
     * 3000 matrices of 8 × 1024 for each factor would be 197 MB; a step with them, before and after backward, holds next to nothing.
     * Bases small enough to be held are held once for all layers, and no pass adds to that.
     */
    @Test
    @Card(value = "nola", checks = 7)
    void memoryDoesNotGrowWithTheNumberOfMatrices() {
        Linear layer = new Linear(1024, 1024, false, DType.FLOAT32);
        layer.weightParameter().tensor().zero_();
        Tensor x = Tensor.ones(DType.FLOAT32, 2, 1024);
        on(layer, Nola.Config.of(2, 8, 8))
                .forward(x, new Base.Ground(layer))
                .sum()
                .backward(); // warm
        Nola nola = on(layer, Nola.Config.of(3000, 8, 8));
        long before = Machine.residentBytes();
        try (Scope scope = Scope.open()) {
            Tensor loss = nola.forward(x, new Base.Ground(layer)).sum();
            assertThat(Machine.residentBytes() - before).isLessThan(50L << 20);
            loss.backward();
            assertThat(Machine.residentBytes() - before).isLessThan(50L << 20);
        }
    }

    /** 64 parameters and less, where LoRA of rank 1 has 72: the loss falls by a tenth, and more matrices help on average. */
    @Test
    @Card(value = "nola", checks = 8)
    void itLearnsWithFewerParametersThanRankOne() {
        double frozen = 0;
        double[] mean = new double[2];
        for (int i = 0; i < 2; i++) {
            for (long seed = 0; seed < 3; seed++) {
                Tiny net = new Tiny(DType.FLOAT32);
                frozen = loss(net);
                AdaptedModel model = new AdaptedModel(net, net.heads());
                Nola.Config config = Nola.Config.of(i == 0 ? 1 : 8, 4, 8).withSeed(seed);
                Attached adapter = model.attach("default", spec(config), new Seed(1));
                TrainConfig train = TrainConfig.builder()
                        .epochs(25)
                        .batchSize(8)
                        .learningRate(0.05)
                        .seed(3)
                        .build();
                try (Trainer trainer =
                        TinyTask.trainer(net, adapter, model, train).build()) {
                    trainer.train();
                }
                mean[i] += loss(net) / 3;
            }
        }
        assertThat(mean[1]).isLessThan(0.9 * frozen);
        assertThat(mean[1]).isLessThan(mean[0]);
    }

    private static double loss(Tiny net) {
        try (Grad off = Grad.off()) {
            return new TinyTask(net)
                    .loss(TinyTask.data(24, 24).batch(Collator.Cursor.START))
                    .item();
        }
    }

    @Test
    void meanStartsWithASmallChange() {
        Tiny net = new Tiny(DType.FLOAT32);
        Tensor before = run(net);
        new AdaptedModel(net, net.heads())
                .attach("default", spec(Nola.Config.of(5, 3, 3).withInit(Nola.Init.MEAN)), new Seed(1));
        assertThat(gap(run(net), before)).isBetween(1e-7, 0.5);
    }

    @Test
    void badSettingsAreRefusedWithAReason() {
        assertThatThrownBy(() -> Nola.Config.of(0, 8, 8)).hasMessage("num_basis must be at least 1, found 0; try 1024");
        assertThatThrownBy(() -> Nola.Config.of(8, 8, 0))
                .hasMessage("alpha must be positive and finite, found 0.0; try r");
        assertThatThrownBy(() -> TYPE.read(Fields.of("config", Map.of("generator", "mt19937"))))
                .hasMessageContaining("only splitmix64 is");
    }
}
