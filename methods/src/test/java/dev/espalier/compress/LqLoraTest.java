package dev.espalier.compress;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import dev.espalier.adapter.AdaptedModel;
import dev.espalier.adapter.Calibration;
import dev.espalier.adapter.Card;
import dev.espalier.adapter.Lora;
import dev.espalier.adapter.LoraFactors;
import dev.espalier.adapter.Targets;
import dev.espalier.io.Fields;
import dev.espalier.io.Safetensors;
import dev.espalier.io.TensorSource;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Generator;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import java.net.URISyntaxException;
import java.nio.file.Path;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

class LqLoraTest {

    private static final Seed SEED = new Seed(4);

    /** Numbers of the authors' code: tools/golden/make_compress_fixtures.py. */
    @ParameterizedTest
    @CsvSource({"4,8,fp32,64,8", "3,4,bf16,32,16", "2,2,fp16,16,16"})
    void equalsTheAuthorsCode(int bits, int scaleBits, String type, int block, int group) throws URISyntaxException {
        Path file = Path.of(Objects.requireNonNull(getClass().getResource("/golden/compress/lq-lora.safetensors"))
                .toURI());
        DType scaleType = type.equals("fp32") ? DType.FLOAT32 : type.equals("bf16") ? DType.BFLOAT16 : DType.FLOAT16;
        NormalFloat format = new NormalFloat(bits, scaleBits, scaleType, block, group);
        String name = "%d-%d-%s-%d-%d".formatted(bits, scaleBits, type, block, group);
        try (TensorSource golden = Safetensors.open(file);
                Scope scope = Scope.open()) {
            Tensor w = golden.read("w");
            assertThat(CompressionReport.error(
                            golden.read(name + ".plain"),
                            format.quantize(w, "w").values()))
                    .isLessThan(1e-6);
            Map<String, Tensor> weights = new HashMap<>();
            weights.put("lq", null);
            weights.put("fisher", golden.read("f"));
            weights.forEach((kind, f) -> {
                Decomposition.Loop loop = loop(4, 3, Decomposition.Keep.LAST);
                Decomposition d = Decomposition.of(w, format, loop, f, "w", SEED);
                assertThat(CompressionReport.error(golden.read(name + "." + kind + ".q"), d.values()))
                        .as(kind)
                        .isLessThan(1e-4);
                assertThat(CompressionReport.error(golden.read(name + "." + kind + ".l1l2"), d.l1().matmul(d.l2())))
                        .as(kind)
                        .isLessThan(1e-4);
            });
        }
    }

    @ParameterizedTest
    @ValueSource(ints = {2, 3, 4})
    @Card(value = "lq-lora", checks = 4)
    void lowRankTakesWhatCodesMiss(int bits) {
        NormalFloat format = new NormalFloat(bits, 8, DType.FLOAT32, 64, 256);
        try (Scope scope = Scope.open();
                Generator g = Generator.of(1)) {
            Tensor noise = g.randn(128, 256);
            Tensor structured = g.randn(128, 8).matmul(g.randn(8, 256)).add(noise);
            for (boolean plain : new boolean[] {true, false}) {
                Tensor w = plain ? noise : structured;
                Decomposition d = Decomposition.of(w, format, loop(16, 8, Decomposition.Keep.BEST), null, "w", SEED);
                double rest =
                        w.sub(d.values()).sub(d.l1().matmul(d.l2())).norm().item();
                assertThat(d.error()).isCloseTo(rest, within(1e-5 * rest));
                double alone = w.sub(format.quantize(w, "w").values()).norm().item();
                assertThat(alone / d.error()).isGreaterThanOrEqualTo(plain ? 1.3 : 3.8);
            }
        }
    }

    @Test
    @Card(value = "lq-lora", checks = 5)
    void oneIterationIsSvdThenCodesAndRankZeroIsCodesAlone() {
        try (Scope scope = Scope.open()) {
            Tensor w = random(32, 48);
            NormalFloat format = NormalFloat.NF4;
            Decomposition once = Decomposition.of(w, format, loop(4, 1, Decomposition.Keep.BEST), null, "w", SEED);
            LoraFactors svd = LoraFactors.approximate(w, 4).factors();
            assertThat(CompressionReport.error(svd.product(), once.l1().matmul(once.l2())))
                    .isLessThan(1e-5);
            Tensor q = format.quantize(w.sub(once.l1().matmul(once.l2())), "w").values();
            assertThat(once.values().equal(q)).isTrue();
            Decomposition none = Decomposition.of(w, format, loop(0, 100, Decomposition.Keep.BEST), null, "w", SEED);
            assertThat(none.values().equal(format.quantize(w, "w").values())).isTrue();
            assertThat(none.l1().numel()).isZero();
        }
    }

    @Test
    @Card(value = "lq-lora", checks = 6)
    void fisherWeighsRowsAndColumns() {
        try (Scope scope = Scope.open();
                Generator g = Generator.of(8)) {
            Tensor w = random(24, 40);
            NormalFloat format = new NormalFloat(3, 8, DType.FLOAT32, 16, 4);
            Decomposition.Loop loop = loop(4, 6, Decomposition.Keep.BEST);
            Decomposition plain = Decomposition.of(w, format, loop, null, "w", SEED);
            Tensor same = Tensor.full(4, DType.FLOAT32, 24, 40);
            Decomposition constant = Decomposition.of(w, format, loop, same, "w", SEED);
            assertThat(CompressionReport.error(
                            plain.l1().matmul(plain.l2()), constant.l1().matmul(constant.l2())))
                    .isLessThan(1e-5);
            assertThat(constant.quantized().codes().equal(plain.quantized().codes()))
                    .isTrue();
            assertThat(constant.error()).isCloseTo(2 * plain.error(), within(1e-5 * plain.error()));

            // F = a bᵀ: the weighted problem is an ordinary one for √F ∘ W, whose optimum leaves the tail of its
            // spectrum
            Tensor f = g.uniform(0.1, 3, 24, 1).matmul(g.uniform(0.1, 3, 1, 40));
            for (Decomposition.Root root : Decomposition.Root.values()) {
                Decomposition.Loop once =
                        new Decomposition.Loop(4, 1, Decomposition.Svd.EXACT, Decomposition.Keep.BEST, root);
                Decomposition d = Decomposition.of(w, format, once, f, "w", SEED);
                Tensor s = w.mul(f.sqrt()).svd().get(1);
                double tail = s.narrow(0, 4, s.numel() - 4).norm().item();
                double weighted = Decomposition.norm(w.sub(d.l1().matmul(d.l2())), f);
                assertThat(weighted).isCloseTo(tail, within(1e-5 * tail));
                Tensor unweighted = LoraFactors.approximate(w, 4).factors().product();
                assertThat(weighted).isLessThan(Decomposition.norm(w.sub(unweighted), f));
            }
        }
    }

    /** A row and a column without any information are not divided by zero. */
    @Test
    void whatFisherForgetsStaysFinite() {
        try (Scope scope = Scope.open()) {
            Tensor f = Tensor.ones(DType.FLOAT32, 8, 12);
            f.select(0, 3).zero_();
            f.select(1, 5).zero_();
            for (Tensor some : List.of(f, f.zerosLike())) {
                Decomposition d = Decomposition.of(
                        random(8, 12), NormalFloat.NF4, loop(2, 5, Decomposition.Keep.BEST), some, "w", SEED);
                assertThat(d.l1().isFinite().all()
                                && d.l2().isFinite().all()
                                && d.values().isFinite().all())
                        .isTrue();
            }
        }
    }

    @Test
    void probesAtRandomComeNear() {
        try (Scope scope = Scope.open()) {
            Tensor w = random(48, 64);
            Decomposition exact =
                    Decomposition.of(w, NormalFloat.NF4, loop(4, 5, Decomposition.Keep.BEST), null, "w", SEED);
            Decomposition.Loop random = new Decomposition.Loop(
                    4, 5, Decomposition.Svd.RANDOMISED, Decomposition.Keep.BEST, Decomposition.Root.OF_MEAN);
            assertThat(Decomposition.of(w, NormalFloat.NF4, random, null, "w", SEED)
                            .error())
                    .isLessThan(1.05 * exact.error());
            Decomposition again = Decomposition.of(w, NormalFloat.NF4, random, null, "w", SEED);
            assertThat(again.l1()
                            .equal(Decomposition.of(w, NormalFloat.NF4, random, null, "w", SEED)
                                    .l1()))
                    .isTrue();
        }
    }

    @Test
    @Card(
            value = "lq-lora",
            checks = {4, 7})
    void networkHoldsCodesAndAdapterWhatTheyMiss() {
        try (TinyLm lm = TinyLm.trained();
                AdaptedModel model = lm.adapted();
                Scope scope = Scope.open()) {
            Tensor before = lm.hidden.get(1).weight().clone();
            CompressionReport report = new LqLora()
                    .compress(config("r", 4, "budget", 2.75, "block_sizes", List.of(16, 32)), subject(model));
            assertThat(report.bits()).isLessThanOrEqualTo(2.75);
            assertThat(report.rows()).allSatisfy(row -> assertThat(row.after()).isLessThan(row.before()));
            assertThat(report.codedBy()).isEqualTo("lq-lora");
            CompressionReport.Row row = report.rows().get(1);
            Lora lora = (Lora) model.adapter("default").at("layers.1.fc");
            assertThat(lora.scale()).isEqualTo(4); // 16 / 4
            double rest = before.sub(lm.hidden.get(1).weight())
                    .sub(lora.toLora().product())
                    .norm()
                    .item();
            double e = row.after() * before.norm().item();
            assertThat(rest).isCloseTo(e, within(1e-5 * e));
        }
    }

    /** The same bits for both: codes alone under an adapter that starts at zero, as QLoRA, and LQ-LoRA. */
    @Test
    @Card(value = "lq-lora", checks = 8)
    void startsAndStaysBelowQlora() {
        double[] start = new double[2];
        double[] end = new double[2];
        for (int kind = 0; kind < 2; kind++) {
            try (TinyLm lm = TinyLm.trained();
                    AdaptedModel model = lm.adapted();
                    Scope scope = Scope.open()) {
                LqLora.Config config = config(
                        "r",
                        4 * kind,
                        "budget",
                        0,
                        "bits",
                        2,
                        "scale_bits",
                        8,
                        "scale_types",
                        "fp32",
                        "block_sizes",
                        32,
                        "group_sizes",
                        16);
                new LqLora().compress(config, subject(model));
                if (kind == 0) {
                    model.attach(
                            "default",
                            dev.espalier.adapter.AdapterSpec.of(new Lora.Type(), Lora.Config.of(4, 16), Targets.ALL),
                            SEED);
                }
                List<Tensor> codes =
                        lm.hidden.stream().map(layer -> layer.weight().clone()).toList();
                start[kind] = lm.heldOut();
                List<Double> losses = lm.train(model.trainableParameters().values(), 15, 3e-3, 7);
                end[kind] = losses.get(losses.size() - 1);
                for (int i = 0; i < 2; i++) {
                    assertThat(lm.hidden.get(i).weight().equal(codes.get(i))).isTrue();
                }
            }
        }
        assertThat(start[1]).isLessThan(start[0]);
        assertThat(end[1]).isLessThan(end[0]);
        assertThat(end[1]).isLessThan(start[1]);
    }

    /** F from the network's own gradients: squares one example at a time, not the square of their sum. */
    @Test
    void fisherIsTheSumOfSquares() {
        try (TinyLm lm = TinyLm.trained();
                AdaptedModel model = lm.adapted();
                Scope scope = Scope.open()) {
            Calibration data = lm.calibration(3);
            List<dev.espalier.adapter.Site> sites = model.sites(Targets.ALL, List.of());
            Map<String, Tensor> f = Fisher.of(sites, data, 2);
            Tensor expected = Tensor.zeros(DType.FLOAT32, 64, 64);
            for (int i = 0; i < 2; i++) {
                lm.hidden.get(1).weightParameter().trainable(true);
                data.loss(i).backward();
                expected = expected.add(lm.hidden.get(1).weight().grad().square());
                lm.hidden.get(1).weightParameter().trainable(false);
            }
            assertThat(f.get("layers.1.fc").allclose(expected, 1e-5, 1e-12)).isTrue();
            assertThat(lm.hidden.get(1).weight().requiresGrad()).isFalse();
            CompressionReport report =
                    new LqLora().compress(config("r", 4, "fisher", 3, "block_sizes", 32), subject(model, data));
            assertThat(report.rows()).allSatisfy(row -> assertThat(row.after()).isLessThan(row.before()));
        }
    }

    @Test
    @Card(value = "lq-lora", checks = 7)
    void badSettingsAreRefused() {
        try (TinyLm lm = TinyLm.trained();
                AdaptedModel model = lm.adapted()) {
            assertThatThrownBy(() -> new LqLora().compress(config("budget", 2), subject(model)))
                    .hasMessageStartingWith("budget is 2.0 bits a weight and the smallest formats on offer take 2.")
                    .hasMessageContaining("set it to 2.0");
            assertThatThrownBy(() -> new LqLora().compress(config("r", 65, "block_sizes", 64), subject(model)))
                    .hasMessageStartingWith("r is 65, above the width 32 of layers.0.fc [64, 32]");
            assertThatThrownBy(() -> new LqLora().compress(config("r", 2, "fisher", 3), subject(model)))
                    .hasMessageContaining("there are none");
        }
        assertThatThrownBy(() -> config("budget", -1))
                .hasMessage("budget must be bits a weight, or 0 for no bound, found -1.0; try 2.75");
        assertThatThrownBy(() -> config("fisher", -1)).hasMessageStartingWith("fisher must be a number of examples");
        assertThatThrownBy(() -> config("r", -1)).hasMessageStartingWith("r must be at least 0");
        assertThatThrownBy(() -> config("iterations", 0)).hasMessage("iterations must be at least 1, found 0; try 100");
        assertThatThrownBy(() -> config("scale_types", "fp64").formats())
                .hasMessage("scale_types must be among fp32, fp16 and bf16, found fp64; try fp32");
        assertThatThrownBy(() -> config("bits", List.of()).formats())
                .hasMessageStartingWith("there is no format on offer");
    }

    private static LqLora.Config config(Object... settings) {
        Map<String, Object> map =
                new HashMap<>(Map.of("scale_bits", 4, "scale_types", "bf16", "group_sizes", 16, "iterations", 10));
        for (int i = 0; i < settings.length; i += 2) {
            map.put((String) settings[i], settings[i + 1]);
        }
        Fields f = Fields.of("", map);
        LqLora.Config config = new LqLora().read(f);
        f.done();
        return config;
    }

    private static Decomposition.Loop loop(int r, int iterations, Decomposition.Keep keep) {
        return new Decomposition.Loop(r, iterations, Decomposition.Svd.EXACT, keep, Decomposition.Root.OF_MEAN);
    }

    private static Compressor.Subject subject(AdaptedModel model) {
        return subject(model, Calibration.NONE);
    }

    private static Compressor.Subject subject(AdaptedModel model, Calibration data) {
        return new Compressor.Subject(model, List.of(), data, SEED);
    }

    private static Tensor random(long... shape) {
        try (Generator g = Generator.of(3)) {
            return g.randn(shape);
        }
    }
}
