package dev.espalier.adapter;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import dev.espalier.io.Fields;
import dev.espalier.nn.Linear;
import dev.espalier.nn.Parameter;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Generator;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import dev.espalier.tensor.Wavelet;
import dev.espalier.train.AdamW;
import dev.espalier.train.Optimizer;
import dev.espalier.train.ParameterGroup;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.function.Supplier;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class WaraTest extends AdapterContract {

    private static final Wara.Type TYPE = new Wara.Type();
    private static final int IN = 12;
    private static final int OUT = 10;

    /** PyWavelets' low-pass filters, as it prints them. */
    private static final Map<Wavelet, double[]> LOW = Map.of(
            Wavelet.HAAR, new double[] {0.7071067811865476, 0.7071067811865476},
            Wavelet.DB2,
                    new double[] {0.48296291314453414, 0.8365163037378079, 0.22414386804201339, -0.12940952255126037});

    /** L or H [n/2, n]: row i has the filter from column 2 i on, around the end. */
    private static Tensor analysis(Wavelet wavelet, int n, boolean high) {
        double[] h = LOW.get(wavelet);
        double[] rows = new double[n / 2 * n];
        for (int i = 0; i < n / 2; i++) {
            for (int k = 0; k < h.length; k++) {
                double tap = high ? (k % 2 == 0 ? 1 : -1) * h[h.length - 1 - k] : h[k];
                rows[i * n + (2 * i + k) % n] += tap;
            }
        }
        return Tensor.of(rows, n / 2, n);
    }

    @Override
    protected AdapterSpec<?> spec() {
        return spec(Wara.Config.of(2, 3));
    }

    private static AdapterSpec<?> spec(Wara.Config config) {
        return AdapterSpec.of(TYPE, config, Targets.of("fc", "proj"));
    }

    @Override
    @Card(value = "wara", checks = 4)
    protected long parameters(long out, long in) {
        return 2 * (in + out) / 2;
    }

    private static Tensor random(long seed, long... shape) {
        try (Generator g = Generator.of(seed)) {
            return g.randn(shape).to(DType.FLOAT64);
        }
    }

    private static Linear linear(int in, int out, DType dtype) {
        Linear layer = new Linear(in, out, true, dtype);
        layer.weightParameter().tensor().copy_(random(1, out, in).to(dtype));
        layer.biasParameter().tensor().copy_(random(2, out).to(dtype));
        return layer;
    }

    private static Wara on(Linear layer, Wara.Config config) {
        return new Wara(config, new Site("x", layer), new Seed(3));
    }

    /** All factors random. */
    private static Wara moved(Linear layer, Wara.Config config) {
        Wara wara = on(layer, config);
        long seed = 10;
        for (Parameter p : wara.parameters().values()) {
            p.tensor().detach().copy_(random(seed++, p.shape()).to(p.tensor().dtype()));
        }
        return wara;
    }

    private static Tensor value(Adapter adapter, String name) {
        return adapter.parameters().get(name).tensor().detach();
    }

    private static Tensor update(Wara wara) {
        return wara.toLora().product().detach();
    }

    /** M [out/2, in/2] of the shared pair. */
    private static Tensor map(Wara wara) {
        return value(wara, "wara_B.shared1").matmul(value(wara, "wara_A.shared1"));
    }

    /** M ⊗ I_2, written out. */
    private static Tensor kronI2(Tensor m) {
        Tensor zero = m.zerosLike();
        Tensor even = Tensor.stack(List.of(m, zero), 2).view(m.size(0), 2 * m.size(1)); // rows 2 i
        Tensor odd = Tensor.stack(List.of(zero, m), 2).view(m.size(0), 2 * m.size(1));
        return Tensor.stack(List.of(even, odd), 1).view(2 * m.size(0), 2 * m.size(1));
    }

    @Test
    @Card(value = "wara", checks = 1)
    void thereAndBackIsTheSameAndKeepsTheNorm() {
        for (Wavelet wavelet : Wavelet.values()) {
            for (int n : new int[] {2, 4, 6, 10, 12}) {
                Tensor low = analysis(wavelet, n, false);
                Tensor high = analysis(wavelet, n, true);
                Tensor x = random(n, 3, n);
                Tensor l = x.matmul(low.t());
                Tensor h = x.matmul(high.t());
                Tensor back = wavelet.synthesis(l, false).add(wavelet.synthesis(h, true));
                assertThat(gap(back, x)).isLessThan(1e-12);
                assertThat(l.square().sum().add(h.square().sum()).item())
                        .isCloseTo(x.square().sum().item(), within(1e-10));
            }
            Tensor image = random(5, 8, 6);
            Tensor there = Tensor.zeros(DType.FLOAT64, 8, 6);
            double energy = 0;
            for (boolean rows : new boolean[] {false, true}) {
                for (boolean columns : new boolean[] {false, true}) {
                    Tensor band = analysis(wavelet, 8, rows)
                            .matmul(image)
                            .matmul(analysis(wavelet, 6, columns).t()); // [4, 3]
                    energy += band.square().sum().item();
                    there.add_(wavelet.synthesis(
                                    wavelet.synthesis(band, columns).t().contiguous(), rows)
                            .t());
                }
            }
            assertThat(gap(there, image)).isLessThan(1e-12);
            assertThat(energy).isCloseTo(image.square().sum().item(), within(1e-10));
        }
    }

    @Test
    @Card(value = "wara", checks = 2)
    void aFreshOneIsTheLayerAndOnlyBHasAGradient() {
        Linear layer = linear(IN, OUT, DType.FLOAT32);
        Wara wara = on(layer, Wara.Config.of(2, 3));
        Tensor x = random(4, 3, 5, IN).to(DType.FLOAT32);
        Tensor y = wara.forward(x, new Base.Ground(layer));
        assertThat(y.equal(layer.compute(x))).isTrue();
        y.square().sum().backward();
        Parameter a = wara.parameters().get("wara_A.shared1");
        assertThat(a.tensor().grad().abs().max().item()).isZero();
        assertThat(wara.parameters()
                        .get("wara_B.shared1")
                        .tensor()
                        .grad()
                        .abs()
                        .max()
                        .item())
                .isPositive();
        double bound = 1 / Math.sqrt(IN / 2.0);
        assertThat(a.tensor().detach().abs().max().item()).isBetween(bound / 2, bound);
    }

    /** The paper's path: 2-D transform of tokens and features, one map for the four bands, and back. */
    private static Tensor literal(Wavelet wavelet, Tensor x, Tensor m) {
        int n = (int) x.size(0);
        Tensor u = Tensor.zeros(x.dtype(), n, OUT);
        for (boolean tokens : new boolean[] {false, true}) {
            for (boolean features : new boolean[] {false, true}) {
                Tensor t = analysis(wavelet, n, tokens).to(x.dtype());
                Tensor c = t.matmul(x)
                        .matmul(analysis(wavelet, IN, features).to(x.dtype()).t());
                u.add_(t.t().matmul(c.matmul(m.t()))
                        .matmul(analysis(wavelet, OUT, features).to(x.dtype())));
            }
        }
        return u;
    }

    @Test
    @Card(value = "wara", checks = 3)
    void theTokensTransformCancels() {
        for (DType type : List.of(DType.FLOAT32, DType.FLOAT64)) {
            double tolerance = type == DType.FLOAT32 ? 1e-5 : 1e-12;
            for (Wavelet wavelet : Wavelet.values()) {
                Linear layer = linear(IN, OUT, type);
                Wara wara = moved(layer, Wara.Config.of(3, 4.5).with(wavelet, 1, Wara.Sharing.SHARED));
                Tensor m = map(wara);
                Tensor twoTerms = Tensor.zeros(type, OUT, IN);
                for (boolean high : new boolean[] {false, true}) {
                    twoTerms.add_(analysis(wavelet, OUT, high)
                            .to(type)
                            .t()
                            .matmul(m)
                            .matmul(analysis(wavelet, IN, high).to(type)));
                }
                double size = twoTerms.abs().max().item();
                assertThat(gap(update(wara), twoTerms.mul(1.5)) / size).isLessThan(tolerance);
                if (wavelet == Wavelet.HAAR) {
                    assertThat(gap(twoTerms, kronI2(m)) / size).isLessThan(tolerance);
                }
                Tensor x = random(4, 8, IN).to(type);
                Tensor change = wara.forward(x, new Base.Ground(layer)).detach().sub(layer.compute(x));
                Tensor literal = literal(wavelet, x, m).mul(1.5);
                assertThat(gap(change, literal) / literal.abs().max().item()).isLessThan(10 * tolerance);

                Tensor alone = Tensor.zeros(type, 8, IN); // one token of eight
                alone.narrow(0, 3, 1).copy_(x.narrow(0, 3, 1));
                Tensor of = literal(wavelet, alone, m);
                of.narrow(0, 3, 1).zero_();
                assertThat(of.abs().max().item() / size).isLessThan(10 * tolerance);
                Tensor order = Tensor.of(new long[] {5, 2, 7, 0, 1, 6, 3, 4}, 8);
                assertThat(gap(literal(wavelet, x.indexSelect(0, order), m).mul(1.5), literal.indexSelect(0, order))
                                / size)
                        .isLessThan(10 * tolerance);
            }
        }
    }

    @Test
    @Card(value = "wara", checks = 4)
    void theRankIsTwiceTheFactorsAndTheirCountIsHalfOfLora() {
        for (Wavelet wavelet : Wavelet.values()) {
            Wara wara =
                    moved(linear(IN, OUT, DType.FLOAT64), Wara.Config.of(2, 2).with(wavelet, 1, Wara.Sharing.SHARED));
            double[] values = update(wara).svdvals().doubles();
            assertThat(values[3]).isGreaterThan(1e-2);
            assertThat(values[4]).isLessThan(1e-12);
            assertThat(wara.toLora().rank()).isEqualTo(4);
            assertThat(count(wara)).isEqualTo(2 * (IN + OUT) / 2);
        }
        Wara own = moved(
                linear(IN, OUT, DType.FLOAT64), Wara.Config.of(2, 2).with(Wavelet.HAAR, 1, Wara.Sharing.PER_BAND));
        assertThat(count(own)).isEqualTo(2 * (IN + OUT));
    }

    private static long count(Wara wara) {
        return wara.parameters().values().stream()
                .mapToLong(p -> p.tensor().numel())
                .sum();
    }

    @Test
    @Card(value = "wara", checks = 5)
    void theUpdatesOwnBandsAreTheMapAndNothing() {
        for (Wavelet wavelet : Wavelet.values()) {
            Wara wara =
                    moved(linear(IN, OUT, DType.FLOAT64), Wara.Config.of(2, 3).with(wavelet, 1, Wara.Sharing.SHARED));
            for (boolean rows : new boolean[] {false, true}) {
                for (boolean columns : new boolean[] {false, true}) {
                    Tensor band = analysis(wavelet, OUT, rows)
                            .matmul(update(wara))
                            .matmul(analysis(wavelet, IN, columns).t());
                    Tensor expected = map(wara).mul(rows == columns ? 1.5 : 0);
                    assertThat(gap(band, expected)).isLessThan(1e-12);
                }
            }
        }
    }

    @Test
    @Card(value = "wara", checks = 6)
    void bandsOfTheirOwnContainTheSharedOne() {
        Linear layer = linear(IN, OUT, DType.FLOAT64);
        Wara shared = moved(layer, Wara.Config.of(2, 3));
        Wara own = moved(layer, Wara.Config.of(2, 3).with(Wavelet.HAAR, 1, Wara.Sharing.PER_BAND));
        for (String factor : List.of("wara_A", "wara_B")) {
            for (String band : List.of(".low1", ".high1")) {
                value(own, factor + band).copy_(value(shared, factor + ".shared1"));
            }
        }
        assertThat(gap(update(own), update(shared))).isLessThan(1e-13);
        value(own, "wara_B.high1").zero_();
        Tensor half = random(6, IN / 2, 1);
        Tensor opposite = Tensor.cat(List.of(half, half.neg()), 1).view(IN, 1); // adjacent features sum to none
        assertThat(update(own).matmul(opposite).abs().max().item()).isLessThan(1e-13);
        assertThat(update(shared).matmul(opposite).abs().max().item()).isGreaterThan(1e-2);
    }

    /** Why the second version is not here: over a grid of patches a linear map for all bands is LoRA's. */
    @Test
    @Card(value = "wara", checks = 7)
    void onAGridALinearMapIsLora() {
        int height = 4;
        int width = 6;
        Tensor x = random(7, height, width * IN); // [h, w in]
        Tensor a = random(8, 2, IN);
        Tensor b = random(9, OUT, 2);
        for (boolean relu : new boolean[] {false, true}) {
            Tensor sum = Tensor.zeros(DType.FLOAT64, height * width, OUT);
            for (boolean rows : new boolean[] {false, true}) {
                for (boolean columns : new boolean[] {false, true}) {
                    Tensor t = kron(analysis(Wavelet.HAAR, height, rows), analysis(Wavelet.HAAR, width, columns));
                    Tensor down = t.matmul(x.view(height * width, IN)).matmul(a.t()); // of each coefficient's channels
                    sum.add_(t.t().matmul((relu ? down.relu() : down).matmul(b.t())));
                }
            }
            double difference =
                    gap(sum, x.view(height * width, IN).matmul(a.t()).matmul(b.t()));
            if (relu) {
                assertThat(difference).isGreaterThan(0.1);
            } else {
                assertThat(difference).isLessThan(1e-12);
            }
        }
    }

    /** p ⊗ q. */
    private static Tensor kron(Tensor p, Tensor q) {
        Tensor four = p.view(p.size(0), 1, p.size(1), 1).mul(q.view(1, q.size(0), 1, q.size(1)));
        return four.reshape(p.size(0) * q.size(0), p.size(1) * q.size(1));
    }

    /**
     * At an equal count each finds a target of its own kind and keeps more than half of the other's. What it keeps at the least is
     * known: of K ⊗ I_2 all but the largest singular value's square (Eckart and Young), of a matrix what is left of it next to the
     * nearest M ⊗ I_2, whose M is the mean of the two diagonals of its 2 x 2 blocks.
     */
    @Test
    @Card(value = "wara", checks = 8)
    void eachFindsWhatIsOfItsKind() {
        Linear layer = linear(16, 12, DType.FLOAT64);
        for (int seed = 1; seed <= 3; seed++) {
            Tensor pairs = kronI2(random(20 + seed, 6, 2).matmul(random(30 + seed, 2, 8)));
            Tensor one = random(40 + seed, 12, 1).matmul(random(50 + seed, 1, 16));
            if (seed == 1) { // the trained half, seconds a seed
                Wara wara = new Wara(Wara.Config.of(2, 2), new Site("x", layer), new Seed(seed));
                Lora lora = new Lora(Lora.Config.of(1, 1), new Site("x", layer), new Seed(seed));
                assertThat(fit(wara.parameters(), () -> wara.toLora().product(), pairs))
                        .isLessThan(1e-8);
                assertThat(fit(lora.parameters(), () -> lora.toLora().product(), one))
                        .isLessThan(1e-8);
            }
            double[] values = pairs.svdvals().square().doubles();
            assertThat(1 - values[0] / pairs.square().sum().item()).isGreaterThan(0.5);
            Tensor blocks = one.view(6, 2, 8, 2);
            Tensor nearest = blocks.select(1, 0)
                    .select(2, 0)
                    .add(blocks.select(1, 1).select(2, 1))
                    .mul(0.5);
            assertThat(one.sub(kronI2(nearest)).square().sum().item()
                            / one.square().sum().item())
                    .isGreaterThan(0.5);
        }
    }

    /** The share of a target that is left after 1200 steps of AdamW in weight space. */
    private static double fit(Map<String, Parameter> parameters, Supplier<Tensor> product, Tensor target) {
        double loss = 0;
        try (Optimizer optimizer = AdamW.Config.DEFAULT.create(List.of(new ParameterGroup("all", parameters, 1, 0)))) {
            for (int i = 0; i < 1200; i++) {
                try (Scope scope = Scope.open()) {
                    Tensor rest = product.get().sub(target).square().sum();
                    loss = rest.item();
                    rest.backward();
                    optimizer.step(1e-2);
                    optimizer.zeroGrad();
                }
            }
        }
        return loss / target.square().sum().item();
    }

    @Test
    void gradientsAreThoseOfDifferences() {
        for (Wara.Sharing sharing : Wara.Sharing.values()) {
            Gradients.check(layer -> moved(layer, Wara.Config.of(2, 3).with(Wavelet.DB2, 1, sharing)));
        }
    }

    /** Sides that are no powers of two, odd ones filled up; merged, saved and exported it computes the same. */
    @Test
    void anySideWillDo(@TempDir Path folder) {
        for (int[] sides : new int[][] {{7, 5}, {6, 9}, {12, 10}}) {
            for (Wavelet wavelet : Wavelet.values()) {
                for (int levels = 1; levels <= 2; levels++) {
                    Linear layer = linear(sides[0], sides[1], DType.FLOAT64);
                    Wara wara = moved(layer, Wara.Config.of(1, 2).with(wavelet, levels, Wara.Sharing.SHARED));
                    Base.Affine merged = wara.merge(Base.Affine.of(layer));
                    Tensor x = random(4, 3, sides[0]);
                    assertThat(gap(
                                    wara.forward(x, new Base.Ground(layer)),
                                    x.matmul(merged.weight().t()).add(merged.bias())))
                            .isLessThan(1e-12);
                }
            }
        }
        Wara odd = moved(linear(7, 5, DType.FLOAT64), Wara.Config.of(2, 2));
        Tensor whole = kronI2(map(odd)); // [6, 8]
        assertThat(gap(update(odd), whole.narrow(0, 0, 5).narrow(1, 0, 7))).isLessThan(1e-13);

        Tiny net = new Tiny(DType.FLOAT64); // 8 to 10 and back: 10 is filled up for two levels
        AdaptedModel model = new AdaptedModel(net, net.heads());
        AdapterSpec<?> spec = spec(Wara.Config.of(2, 3).with(Wavelet.DB2, 2, Wara.Sharing.PER_BAND));
        move(model.attach("default", spec, new Seed(1)), 0.3);
        Tensor adapted = run(net);
        PeftFolder.save(model, "default", folder, PeftFolder.Info.of("tiny", null), PeftFolder.Form.PLAIN, Map.of());
        PeftFolder.exportLora(model, "default", folder.resolve("lora"), null, 0, Map.of());
        model.remove("default");
        PeftFolder.load(model, folder, null, false);
        assertThat(gap(run(net), adapted)).isLessThan(1e-12);
        model.remove("default");
        PeftFolder.load(model, folder.resolve("lora"), null, false);
        assertThat(gap(run(net), adapted)).isLessThan(1e-9);
    }

    /** Two levels by hand: the high band of the first, both of the second, which is the low band's. */
    @Test
    void aSecondLevelSplitsTheLowBand() {
        Linear layer = linear(IN, 8, DType.FLOAT64);
        Wara wara = moved(layer, Wara.Config.of(2, 3).with(Wavelet.DB2, 2, Wara.Sharing.PER_BAND));
        Map<String, Boolean> second = new LinkedHashMap<>(Map.of("high2", true, "low2", false));
        Tensor sum = band(wara, analysis(Wavelet.DB2, 8, true), "high1", analysis(Wavelet.DB2, IN, true));
        second.forEach((name, high) -> sum.add_(band(
                wara,
                analysis(Wavelet.DB2, 4, high).matmul(analysis(Wavelet.DB2, 8, false)),
                name,
                analysis(Wavelet.DB2, IN / 2, high).matmul(analysis(Wavelet.DB2, IN, false)))));
        assertThat(gap(update(wara), sum.mul(1.5))).isLessThan(1e-12);
        assertThat(wara.parameters()).hasSize(6);
    }

    private static Tensor band(Wara wara, Tensor up, String name, Tensor down) {
        return up.t()
                .matmul(value(wara, "wara_B." + name))
                .matmul(value(wara, "wara_A." + name))
                .matmul(down);
    }

    @Test
    void badInputIsRefusedWithAReason() {
        assertThatThrownBy(() -> TYPE.read(Fields.of("recipe", Map.of("wavelet", "sym4"))))
                .hasMessageContaining("wavelet")
                .hasMessageContaining("one of haar, db2")
                .hasMessageContaining("sym4");
        assertThatThrownBy(() -> Wara.Config.of(2, 2).with(Wavelet.HAAR, 0, Wara.Sharing.SHARED))
                .hasMessage("levels must lie in 1 to 20, found 0; try 1");
        Tiny net = new Tiny(DType.FLOAT32);
        AdaptedModel model = new AdaptedModel(net, net.heads());
        assertThatThrownBy(() -> model.attach("a", spec(Wara.Config.of(5, 5)), new Seed(1)))
                .hasMessageStartingWith(
                        "r is 5, above the 4 wavelet coefficients that a band of layers.0.fc [10, 8] has")
                .hasMessageEndingWith("try 4");
        assertThatThrownBy(() -> model.attach(
                        "a", spec(Wara.Config.of(1, 1).with(Wavelet.HAAR, 4, Wara.Sharing.SHARED)), new Seed(1)))
                .hasMessage("levels is 4, and the width 8 of layers.0.fc [10, 8] cannot be halved so often; try 3");
        AdapterSpec<?> embedding = AdapterSpec.of(TYPE, Wara.Config.of(2, 2), Targets.of("embed_tokens"));
        assertThatThrownBy(() -> model.attach("a", embedding, new Seed(1)))
                .hasMessageContaining("embed_tokens is an embedding");
        assertThat(Catalog.describe(TYPE)).contains("Our reading: ", "sharing: per_band");
    }
}
