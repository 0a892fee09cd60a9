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
import dev.espalier.adapter.Lora;
import dev.espalier.adapter.PeftFolder;
import dev.espalier.adapter.Site;
import dev.espalier.adapter.Targets;
import dev.espalier.adapter.Tiny;
import dev.espalier.io.Fields;
import dev.espalier.nn.Parameter;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Generator;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class FilaTest extends AdapterContract {

    private static final int R = 3;

    private Tensor w; // [10, 8]
    private Tensor f; // [10, 8], row sums of 1 and more

    @BeforeEach
    void draw() {
        try (Generator random = Generator.of(12)) {
            w = random.randn(10, 8).to(DType.FLOAT64);
            f = random.uniform(0.125, 3, 10, 8).to(DType.FLOAT64);
        }
    }

    @Override
    protected AdapterSpec<?> spec() {
        return AdapterSpec.of(new Lora.Type(), Lora.Config.of(R, 2 * R), Targets.of("fc", "proj"))
                .withInitializer(new Fila());
    }

    /** Batches 0 and 1 to be forgotten, 2 and 3 to be retained. */
    @Override
    protected Calibration calibration(Tiny net) {
        return new Part(net, 0, new Part(net, 2, Calibration.NONE));
    }

    private record Part(Tiny net, long from, Calibration retained) implements Calibration {
        @Override
        public long batches() {
            return 2;
        }

        @Override
        public Tensor loss(long batch) {
            return StartFixtures.loss(net, from + batch % 2);
        }

        @Override
        public double units(long batch) {
            return 8 - 3 * (batch % 2);
        }
    }

    @Override
    protected long parameters(long out, long in) {
        return R * (in + out);
    }

    @Test
    @Card(value = "loku", checks = 1)
    void startsWhereTheNetworkIs() {
        for (DType dtype : List.of(DType.FLOAT32, DType.FLOAT64)) {
            double tolerance = dtype == DType.FLOAT64 ? 1e-12 : 1e-5;
            Tiny net = new Tiny(dtype);
            Tensor before = run(net);
            AdaptedModel model = new AdaptedModel(net, net.heads());
            Attached adapter = model.attach("default", spec(), new Seed(1), calibration(net));
            assertThat(adapter.lowRank("layers.0.fc").b().tensor().abs().max().item())
                    .isGreaterThan(1e-2);
            assertThat(gap(run(net), before) / before.abs().max().item()).isLessThan(tolerance);
            model.merge().forEach(change -> assertThat(change.maxChange()).isLessThan(tolerance)); // W* + s B A = W
        }
    }

    /** Σ_i d_i² ‖(W - s B A)_i‖² of a product. */
    private double weighted(Tensor product) {
        Tensor d2 = f.sum(1, true);
        return w.sub(product).square().mul(d2).sum().item();
    }

    private Tensor product(double inverseEps, Tensor fisher) {
        Fila.Start start = Fila.start(w, fisher, R, 2, inverseEps);
        return start.b().matmul(start.a()).mul(2);
    }

    @Test
    @Card(value = "loku", checks = 2)
    void noProductOfItsRankIsNearer() {
        Tensor s = w.mul(f.sum(1, true).sqrt()).svd().get(1);
        double tail = s.narrow(0, R, 8 - R).square().sum().item();
        assertThat(f.sum(1, false).min().item()).isGreaterThanOrEqualTo(1);
        assertThat(weighted(product(0, f))).isCloseTo(tail, within(1e-12 * tail));
        assertThat(weighted(product(1e-5, f))).isCloseTo(tail, within(1e-8 * tail));
        assertThat(tail).isLessThan(weighted(truncated()));
        Fila.Start start = Fila.start(w, f, R, 2, 0);
        try (Generator random = Generator.of(1)) {
            for (double by : new double[] {0.1, 0.01, 1e-3}) {
                Tensor a = start.a().add(random.randn(R, 8).to(DType.FLOAT64), by);
                Tensor b = start.b().add(random.randn(10, R).to(DType.FLOAT64), by);
                assertThat(weighted(b.matmul(a).mul(2))).isGreaterThan(tail);
            }
        }
        assertThat(gap(product(0, f.zerosLike().add(0.3)), truncated())).isLessThan(1e-12);
    }

    /** PiSSA's: the plain truncation. */
    private Tensor truncated() {
        List<Tensor> svd = w.svd();
        return svd.get(0)
                .narrow(1, 0, R)
                .mul(svd.get(1).narrow(0, 0, R))
                .matmul(svd.get(2).narrow(0, 0, R));
    }

    /** Rows are outputs. */
    @Test
    @Card(value = "loku", checks = 5)
    void rowsOfBFollowRowsOfW() {
        Tensor order = Tensor.of(new long[] {3, 0, 9, 1, 2, 8, 4, 7, 5, 6}, 10);
        Fila.Start start = Fila.start(w, f, R, 2, 1e-5);
        Fila.Start permuted = Fila.start(w.indexSelect(0, order), f.indexSelect(0, order), R, 2, 1e-5);
        assertThat(gap(permuted.a().abs(), start.a().abs())).isLessThan(1e-10);
        assertThat(gap(permuted.b().abs(), start.b().indexSelect(0, order).abs()))
                .isLessThan(1e-10);
        assertThat(gap(
                        permuted.b().matmul(permuted.a()),
                        start.b().matmul(start.a()).indexSelect(0, order)))
                .isLessThan(1e-10);
    }

    @Test
    @Card(value = "loku", checks = 6)
    void theScaleOfFDoesNotMatter() {
        assertThat(gap(product(0, f.mul(1e-7)), product(0, f))).isLessThan(1e-10);
    }

    /** The export in further ranks is what the adapter computes, after training too; nothing of the network moved. */
    @Test
    @Card(value = "loku", checks = 7)
    void theExportOfTwiceTheRankComputesTheSame(@TempDir Path folder) {
        Tiny net = new Tiny(DType.FLOAT64);
        Map<String, Tensor> before = values(net);
        AdaptedModel model = new AdaptedModel(net, net.heads());
        Attached adapter = model.attach("default", spec(), new Seed(1), calibration(net));
        move(adapter, 0.3);
        Tensor adapted = run(net);
        assertThat(PeftFolder.exportLora(model, "default", folder, PeftFolder.Info.of("tiny", null), 0, Map.of()))
                .allSatisfy(layer -> assertThat(layer.rank()).isEqualTo(2 * R));
        model.remove("default");
        before.forEach((path, value) -> assertThat(
                        net.namedParameters().get(path).tensor().equal(value))
                .isTrue());
        PeftFolder.load(model, folder, null, false);
        assertThat(gap(run(net), adapted)).isLessThan(1e-12);
    }

    /** Squares of batches' gradients weighted by their targets, over what is retained plus eps; proj is stored transposed. */
    @Test
    void measuresTheFisherInformationOfBothSets() {
        Tiny net = new Tiny(DType.FLOAT64);
        new AdaptedModel(net, net.heads()); // freezes
        List<Site> sites = List.of(new Site("fc", net.layers.get(0).fc), new Site("proj", net.layers.get(1).proj));
        Map<String, Tensor> squares = WeightGradients.squares("test", sites, calibration(net), 3);
        Map<String, Tensor> expected =
                Map.of("fc", Tensor.zeros(DType.FLOAT64, 10, 8), "proj", Tensor.zeros(DType.FLOAT64, 8, 10));
        for (long batch : new long[] {0, 1, 0}) {
            sites.forEach(site -> site.layer().weightParameter().trainable(true));
            StartFixtures.loss(net, batch).backward();
            Tensor fc = sites.get(0).layer().weightParameter().tensor().grad();
            Tensor proj = sites.get(1).layer().weightParameter().tensor().grad().t();
            expected.get("fc").add_(fc.square(), (8 - 3.0 * batch) / 21);
            expected.get("proj").add_(proj.square(), (8 - 3.0 * batch) / 21);
            sites.forEach(site -> site.layer().weightParameter().trainable(false));
        }
        expected.forEach((path, value) ->
                assertThat(gap(squares.get(path), value)).as(path).isLessThan(1e-14));
        assertThat(net.namedParameters().values()).noneMatch(Parameter::isTrainable);
    }

    @Test
    void badSettingsAreRefusedWithAReason() {
        assertThatThrownBy(() -> new Fila.Config(0, 0, 0))
                .hasMessage("eps must be above 0 and finite, found 0.0; try 1e-5");
        assertThatThrownBy(() -> new Fila.Config(1e-5, Double.NaN, 0))
                .hasMessage("relative_eps must be above 0 and finite, or 0 for none, found NaN; try 1e-3");
        assertThatThrownBy(() -> new Fila.Config(1e-5, 0, -1))
                .hasMessage("inverse_eps must be at least 0 and finite, found -1.0; try 1e-5");
        Tiny net = new Tiny(DType.FLOAT32);
        AdaptedModel model = new AdaptedModel(net, net.heads());
        assertThatThrownBy(() -> model.attach("default", spec(), new Seed(1)))
                .hasMessage(
                        "FILA weighs data to be forgotten against data to be retained, and there are none; unlearn by a recipe"
                                + " with task.forget and task.retain");
        AdapterSpec<?> read = AdapterSpec.read(Fields.of(
                "recipe", Map.of("type", "fila", "r", 2, "target_modules", List.of("fc"), "relative_eps", 1e-3)));
        model.attach("default", read, new Seed(1), calibration(net));
        assertThat(model.adapter("default")
                        .lowRank("layers.0.fc")
                        .b()
                        .tensor()
                        .ne(0)
                        .any())
                .isTrue();
    }
}
