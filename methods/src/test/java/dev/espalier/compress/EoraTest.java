package dev.espalier.compress;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import dev.espalier.adapter.AdaptedModel;
import dev.espalier.adapter.Calibration;
import dev.espalier.adapter.Card;
import dev.espalier.adapter.Lora;
import dev.espalier.adapter.LoraFactors;
import dev.espalier.adapter.PeftFolder;
import dev.espalier.adapter.Targets;
import dev.espalier.adapter.Tiny;
import dev.espalier.io.Fields;
import dev.espalier.io.Safetensors;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Generator;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

class EoraTest {

    private static final int OUT = 10;
    private static final int IN = 14;
    private static final int N = 200;

    @TempDir
    private Path folder;

    private Scope scope;
    private Tensor lost; // [OUT, IN]
    private Tensor x; // [N, IN], some directions far larger than others

    @BeforeEach
    void draw() {
        scope = Scope.open();
        try (Generator g = Generator.of(2)) {
            lost = g.randn(OUT, IN).to(DType.FLOAT64);
            x = g.randn(N, IN).matmul(g.randn(IN, IN)).to(DType.FLOAT64);
        }
    }

    @AfterEach
    void close() {
        scope.close();
    }

    /** S by the Cholesky factor, which the method does not use. */
    @ParameterizedTest
    @ValueSource(ints = {1, 3, 7})
    @Card(value = "eora", checks = 1)
    void noOtherProductDoesBetter(int r) {
        Tensor c = x.t().matmul(x).div(N);
        Tensor product = Eora.factors(lost, new Covariance(c), r).product();
        double error = error(x, lost.sub(product));
        Tensor s = lost.matmul(cholesky(c)).svd().get(1);
        double tail = s.narrow(0, r, s.numel() - r).square().sum().item();
        assertThat(error).isCloseTo(tail, within(1e-6 * tail));
        Covariance narrow = new Covariance(IN);
        narrow.add(x.to(DType.FLOAT32), 1);
        double rough = error(
                x, lost.sub(Eora.factors(lost.to(DType.FLOAT32), narrow, r).product()));
        assertThat(rough).isCloseTo(tail, within(1e-4 * tail));

        assertThat(error)
                .isLessThan(error(
                        x, lost.sub(LoraFactors.approximate(lost, r).factors().product())));
        try (Generator g = Generator.of(6)) {
            for (int restart = 0; restart < 3; restart++) { // alternating least squares, by Q of a QR for each half
                Tensor b = g.randn(OUT, r).to(DType.FLOAT64);
                for (int i = 0; i < 30; i++) {
                    Tensor q = b.qr().get(0); // best A for b's span: Qᵀ lost
                    Tensor a = q.t().matmul(lost); // [r, IN]
                    Tensor received = x.matmul(a.t()).qr().get(0); // [N, r]
                    b = x.matmul(lost.t()).t().matmul(received); // best outputs for A's span
                }
                Tensor q = b.qr().get(0);
                Tensor best = q.matmul(q.t().matmul(lost));
                assertThat(error(x, lost.sub(best))).isGreaterThanOrEqualTo(error * (1 - 1e-9));
            }
            LoraFactors f = Eora.factors(lost, new Covariance(c), r);
            for (double step : new double[] {1e-3, 1e-1}) {
                Tensor a = f.a().add(g.randn(r, IN).to(DType.FLOAT64), step);
                Tensor b = f.b().add(g.randn(OUT, r).to(DType.FLOAT64), step);
                assertThat(error(x, lost.sub(b.matmul(a)))).isGreaterThanOrEqualTo(error);
            }
        }
    }

    @Test
    @Card(value = "eora", checks = 2)
    void whiteInputsGiveThePlainSvd() {
        Tensor c = Tensor.eye(IN, DType.FLOAT64).mul(3);
        Tensor plain = LoraFactors.approximate(lost, 4).factors().product();
        assertThat(CompressionReport.error(
                        plain, Eora.factors(lost, new Covariance(c), 4).product()))
                .isLessThan(1e-5);
    }

    @Test
    @Card(value = "eora", checks = 3)
    void anyRootOfCWillDoAndItsScaleIsOfNoAccount() {
        Tensor c = x.t().matmul(x);
        LoraFactors ours = Eora.factors(lost, new Covariance(c), 4);
        Tensor l = cholesky(c);
        List<Tensor> svd = lost.matmul(l).svd();
        Tensor half = svd.get(1).narrow(0, 0, 4).sqrt();
        Tensor b = svd.get(0).narrow(1, 0, 4).mul(half);
        Tensor a = svd.get(2).narrow(0, 0, 4).mul(half.unsqueeze(1)).matmul(inverseOfLower(l));
        assertThat(CompressionReport.error(ours.product(), b.matmul(a))).isLessThan(1e-9);

        LoraFactors scaled = Eora.factors(lost, new Covariance(c.mul(7)), 4);
        assertThat(CompressionReport.error(ours.product(), scaled.product())).isLessThan(1e-9);
        double grown = scaled.b().norm().item() / ours.b().norm().item();
        assertThat(grown).isCloseTo(Math.pow(7, 0.25), within(1e-6));
        assertThat(scaled.a().norm().item() / ours.a().norm().item()).isCloseTo(1 / grown, within(1e-6));

        Tensor stretched = x.clone();
        stretched.select(1, 2).mul_(10);
        Tensor other = Eora.factors(lost, new Covariance(stretched.t().matmul(stretched)), 4)
                .product();
        assertThat(CompressionReport.error(ours.product(), other)).isGreaterThan(1e-2);
    }

    @Test
    @Card(value = "eora", checks = 4)
    void fullRankGivesAllBackAndRankZeroNothing() {
        Tensor c = x.t().matmul(x);
        assertThat(CompressionReport.error(
                        lost, Eora.factors(lost, new Covariance(c), OUT).product()))
                .isLessThan(1e-5);
        assertThat(Eora.factors(lost, new Covariance(c), 0).product().norm().item())
                .isZero();
        LoraFactors padded = Eora.factors(lost, new Covariance(c), IN); // more than min(out, in)
        assertThat(padded.rank()).isEqualTo(IN);
        assertThat(CompressionReport.error(lost, padded.product())).isLessThan(1e-5);
        Tensor few = x.narrow(0, 0, 5); // rank 5
        Tensor span = few.t().qr().get(0); // [IN, 5]
        Tensor projected = lost.matmul(span).matmul(span.t());
        Tensor product =
                Eora.factors(lost, new Covariance(few.t().matmul(few)), OUT).product();
        assertThat(CompressionReport.error(projected, product)).isLessThan(1e-5);
        assertThat(CompressionReport.error(lost, product)).isGreaterThan(0.1);
    }

    @Test
    @Card(value = "eora", checks = 5)
    void errorFallsWithRankAndNothingLostIsNothingAdded() {
        Covariance c = new Covariance(x.t().matmul(x));
        double former = Double.POSITIVE_INFINITY;
        for (int r = 0; r <= OUT; r++) {
            double error = error(x, lost.sub(Eora.factors(lost, c, r).product()));
            assertThat(error).isLessThanOrEqualTo(former + 1e-9);
            former = error;
        }
        LoraFactors nothing = Eora.factors(lost.zerosLike(), c, 3);
        assertThat(nothing.a().abs().max().item()).isZero();
        assertThat(nothing.b().abs().max().item()).isZero();
        LoraFactors silent = Eora.factors(lost, new Covariance(Tensor.zeros(DType.FLOAT32, IN, IN)), 3);
        assertThat(silent.product().abs().max().item()).isZero();
    }

    @Test
    @Card(value = "eora", checks = 6)
    void directionsThatDoNotOccurAreLeftOut() {
        try (Generator g = Generator.of(3)) {
            Tensor narrow = g.randn(N, 4).matmul(g.randn(4, IN)); // float32: C has rank 4 and rounding noise
            Covariance c = new Covariance(IN);
            c.add(narrow, 1);
            assertThat(c.root().dropped()).isEqualTo(IN - 4);
            LoraFactors f = Eora.factors(lost, c, 4);
            Tensor wide = narrow.to(DType.FLOAT64);
            assertThat(error(wide, lost.sub(f.product()))).isLessThan(1e-6 * error(wide, lost));
            assertThat(lost.sub(f.product()).norm().item()).isGreaterThan(1);
            double full = Eora.factors(lost, new Covariance(x.t().matmul(x)), 4)
                    .a()
                    .abs()
                    .max()
                    .item();
            assertThat(f.a().abs().max().item()).isLessThan(10 * full);
        }
    }

    @Test
    @Card(value = "eora", checks = 7)
    void itIsAPlainLoraOnTheCompressedBase() {
        try (TinyLm lm = TinyLm.trained();
                AdaptedModel model = lm.adapted()) {
            new Eora().compress(config(8, Map.of("type", "prune-2-4")), subject(model, lm.calibration(40)));
            Lora lora = (Lora) model.adapter("default").at("layers.1.fc");
            assertThat(lora.scale()).isEqualTo(1);
            Tensor w = lm.hidden.get(1).weight().clone();
            double unmerged = lm.heldOut();
            model.merge();
            assertThat(lm.hidden.get(1).weight().allclose(w.add(lora.toLora().product()), 1e-5, 1e-6))
                    .isTrue();
            assertThat(lm.heldOut()).isCloseTo(unmerged, within(1e-5));
            model.unmerge();
            PeftFolder.save(
                    model, "default", folder, PeftFolder.Info.of("base", null), PeftFolder.Form.PLAIN, Map.of());
            model.remove("default");
            PeftFolder.load(model, folder, "default", false);
            assertThat(lm.heldOut()).isCloseTo(unmerged, within(1e-6));
            assertThat(PeftFolder.config(folder)).containsEntry("peft_type", "LORA");
        }
    }

    /** Held-out loss: compressed > with SVD's LoRA > with EoRA's > original; and as a start for training. */
    @ParameterizedTest
    @ValueSource(strings = {"prune-2-4", "rtn"})
    @Card(value = "eora", checks = 8)
    void outputsMatterMoreThanWeights(String type) {
        Map<String, Object> of =
                type.equals("rtn") ? Map.of("type", "rtn", "bits", 2, "group_size", 32) : Map.of("type", "prune-2-4");
        double[] gaps = new double[2];
        int[] ranks = {4, 24};
        for (int k = 0; k < 2; k++) {
            try (TinyLm lm = TinyLm.trained();
                    AdaptedModel model = lm.adapted();
                    Scope inner = Scope.open()) {
                double original = lm.heldOut();
                List<Tensor> weights =
                        lm.hidden.stream().map(layer -> layer.weight().clone()).toList();
                new Eora().compress(config(ranks[k], of), subject(model, lm.calibration(64)));
                double eora = lm.heldOut();
                List<Double> trained =
                        k == 0 ? lm.train(model.trainableParameters().values(), 3, 5e-4, 7) : List.of();
                for (int i = 0; i < 2; i++) {
                    Tensor delta = weights.get(i).sub(lm.hidden.get(i).weight());
                    LoraFactors svd = LoraFactors.approximate(delta, ranks[k]).factors();
                    Lora lora = (Lora) model.adapter("default").at("layers." + i + ".fc");
                    try (Grad off = Grad.off()) {
                        lora.a().tensor().copy_(svd.a());
                        lora.b().tensor().copy_(svd.b());
                    }
                }
                double svd = lm.heldOut();
                List<Double> trainedSvd =
                        k == 0 ? lm.train(model.trainableParameters().values(), 3, 5e-4, 7) : List.of();
                model.disable();
                double compressed = lm.heldOut();
                assertThat(List.of(original, eora, svd, compressed)).isSorted();
                gaps[k] = svd - eora;
                for (int i = 0; i < trained.size(); i++) {
                    assertThat(trained.get(i)).isLessThan(trainedSvd.get(i));
                }
            }
        }
        assertThat(gaps[0]).isGreaterThan(gaps[1]);
    }

    /** Inside a block the original weights compute, below it the compressed and compensated ones. */
    @Test
    void blocksAreDoneInOrder() {
        try (Tiny tiny = new Tiny(DType.FLOAT32);
                AdaptedModel model = new AdaptedModel(tiny, tiny.heads())) {
            Tiny.Block second = tiny.layers.get(1);
            Tensor fc = second.fc.weight().clone();
            Tensor proj = second.proj.weight().contiguous().clone();
            Calibration data = data(tiny);
            new Eora().compress(config(2, Map.of("type", "rtn", "bits", 2, "group_size", 8)), subject(model, data));
            Tensor found = ((Lora) model.adapter("default").at("layers.1.proj"))
                    .toLora()
                    .product();
            Tensor delta = proj.sub(second.proj.weight());
            second.fc.weightParameter().set(fc);
            second.fc.substitute(null);
            List<Tensor> seen = new ArrayList<>();
            second.proj.substitute((input, layer) -> {
                seen.add(input.reshape(-1, 10));
                return layer.compute(input);
            });
            tiny.forward(Tiny.ids());
            Covariance c = new Covariance(10);
            c.add(seen.get(0), 1);
            Tensor expected = Eora.factors(delta, c, 2).product();
            assertThat(CompressionReport.error(expected, found.to(DType.FLOAT64)))
                    .isLessThan(1e-4);
        }
    }

    @Test
    void earlySequencesWeighLessIfAskedFor() {
        Covariance c = new Covariance(2);
        Tensor one = Tensor.of(new float[] {1, 0}, 1, 2);
        Tensor two = Tensor.of(new float[] {0, 1}, 1, 2);
        c.add(one, 0.5);
        c.add(two, 0.5);
        assertThat(c.norm(one)).isCloseTo(Math.sqrt(0.5), within(1e-7));
        assertThat(c.norm(two)).isCloseTo(1, within(1e-7));
    }

    @Test
    void aFolderCompressedBeforeIsTakenAsItIs() {
        try (TinyLm lm = TinyLm.trained();
                AdaptedModel model = lm.adapted()) {
            Map<String, Tensor> tensors = new LinkedHashMap<>();
            WeightCompressor.Compressed pruned =
                    new Prune24().compress(Targets.ALL, lm.hidden.get(0).weight(), "layers.0.fc");
            tensors.put("layers.0.fc.weight", pruned.values());
            tensors.put("layers.1.fc.weight", Tensor.zeros(DType.FLOAT32, 64, 32));
            Safetensors.write(folder.resolve("model.safetensors"), tensors);
            Map<String, Object> of = Map.of("from", folder.toString(), "targets", List.of("layers.0.fc"));
            new Eora().compress(config(4, of), subject(model, lm.calibration(20)));
            assertThat(lm.hidden.get(0).weight().equal(pruned.values())).isTrue();
        }
        try (TinyLm lm = TinyLm.trained();
                AdaptedModel model = lm.adapted()) {
            assertThatThrownBy(() -> new Eora()
                            .compress(config(4, Map.of("from", folder.toString())), subject(model, lm.calibration(20))))
                    .hasMessageContaining("has layers.1.fc.weight of shape [64, 32] and the model [64, 64]");
        }
    }

    @Test
    void badInputIsRefused() {
        assertThatThrownBy(() -> config(0, Map.of())).hasMessage("r must be at least 1, found 0; try 128");
        assertThatThrownBy(() -> config(4, Map.of("type", "lq-lora")))
                .hasMessage(
                        "compress.of.type is lq-lora, which is of the kind \"compressor\" and has no place there; try rtn");
        assertThatThrownBy(() -> config(4, Map.of("type", "rtn", "from", "x")))
                .hasMessage("compress.of has a type and from; set one of the two");
        try (TinyLm lm = TinyLm.trained();
                AdaptedModel model = lm.adapted()) {
            assertThatThrownBy(() -> new Eora().compress(config(4, Map.of()), subject(model, Calibration.NONE)))
                    .hasMessageContaining("there are none");
            assertThatThrownBy(() -> new Eora().compress(config(40, Map.of()), subject(model, lm.calibration(2))))
                    .hasMessageStartingWith("r is 40, above the width 32 of layers.0.fc");
        }
    }

    private static Eora.Config config(int r, Map<String, Object> of) {
        Fields f = Fields.of("", Map.of("r", r, "of", of));
        Eora.Config config = new Eora().read(f);
        f.done();
        return config;
    }

    private static Compressor.Subject subject(AdaptedModel model, Calibration data) {
        return new Compressor.Subject(model, List.of(), data, new Seed(0));
    }

    private static Calibration data(Tiny tiny) {
        return new Calibration() {
            @Override
            public long batches() {
                return 1;
            }

            @Override
            public Tensor loss(long batch) {
                return tiny.forward(Tiny.ids()).sum();
            }
        };
    }

    /** Mean square of what is left of the outputs. */
    private static double error(Tensor x, Tensor left) {
        return x.matmul(left.t()).square().sum().item() / N;
    }

    /** L with L Lᵀ = C. */
    private static Tensor cholesky(Tensor c) {
        double[] m = c.contiguous().doubles();
        double[] l = new double[m.length];
        for (int i = 0; i < IN; i++) {
            for (int j = 0; j <= i; j++) {
                double sum = m[i * IN + j];
                for (int k = 0; k < j; k++) {
                    sum -= l[i * IN + k] * l[j * IN + k];
                }
                l[i * IN + j] = i == j ? Math.sqrt(sum) : sum / l[j * IN + j];
            }
        }
        return Tensor.of(l, IN, IN);
    }

    private static Tensor inverseOfLower(Tensor lower) {
        double[] l = lower.doubles();
        double[] inverse = new double[l.length];
        for (int column = 0; column < IN; column++) {
            for (int i = column; i < IN; i++) {
                double sum = i == column ? 1 : 0;
                for (int k = column; k < i; k++) {
                    sum -= l[i * IN + k] * inverse[k * IN + column];
                }
                inverse[i * IN + column] = sum / l[i * IN + i];
            }
        }
        return Tensor.of(inverse, IN, IN);
    }
}
