package dev.espalier.compress;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import dev.espalier.adapter.AdaptedModel;
import dev.espalier.adapter.Attached;
import dev.espalier.adapter.Calibration;
import dev.espalier.adapter.Card;
import dev.espalier.adapter.LoraFactors;
import dev.espalier.adapter.LowRank;
import dev.espalier.adapter.PeftFolder;
import dev.espalier.adapter.Site;
import dev.espalier.adapter.Targets;
import dev.espalier.compress.Spectra.Spectrum;
import dev.espalier.io.Fields;
import dev.espalier.io.Safetensors;
import dev.espalier.io.TensorSource;
import dev.espalier.nn.Layer;
import dev.espalier.nn.Parameter;
import dev.espalier.tensor.Generator;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import dev.espalier.train.AdamW;
import dev.espalier.train.Optimizer;
import dev.espalier.train.ParameterGroup;
import java.net.URISyntaxException;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.stream.IntStream;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class WeloreTest {

    @TempDir
    private Path folder;

    private Scope scope;

    @BeforeEach
    void open() {
        scope = Scope.open();
    }

    @AfterEach
    void close() {
        scope.close();
    }

    @Test
    @Card(value = "welore", checks = 1)
    void theThresholdsEnds() {
        for (double minRatio : new double[] {0, 0.4999}) {
            try (TinyLm lm = TinyLm.trained();
                    AdaptedModel model = lm.adapted()) {
                List<Tensor> before =
                        lm.hidden.stream().map(layer -> layer.weight().clone()).toList();
                CompressionReport report = compress(model, "k", 0.0, "min_ratio", minRatio);
                assertThat(report.notes()).first().asString().contains("no weight loses enough");
                assertThat(model.names()).isEmpty();
                for (int i = 0; i < 2; i++) {
                    assertThat(lm.hidden.get(i).weight().equal(before.get(i))).isTrue();
                }
            }
        }
        Spectrum s = new Spectrum(new float[] {5, 3, 1.5f, 1});
        assertThat(s.rank(0)).isEqualTo(4);
        assertThat(s.rank(0.1)).isEqualTo(3); // 0.125 is the smallest that is not 0
        assertThat(s.rank(1)).isEqualTo(1);
        assertThat(new Spectrum(new float[] {2, 1, 1}).rank(0.01)).isEqualTo(1);
        assertThat(new Spectrum(new float[] {2, 2}).rank(0.5)).isEqualTo(2); // no range: nothing goes
        assertThatThrownBy(() -> config("k", 1.01))
                .hasMessage(
                        "k must lie in [0, 1], for above 1 no rank is left, found 1.01; leave it out to have it searched");
    }

    @Test
    @Card(value = "welore", checks = 2)
    void moreGoesAsItRisesAndTheSearchFindsTheFirstBest() {
        Spectra spectra = random(6);
        for (double bound : new double[] {-1, 0, 0.4999}) {
            double former = -1;
            for (int i = 0; i <= 200; i++) {
                double err = spectra.reduction(i / 200.0, bound);
                assertThat(err).isGreaterThanOrEqualTo(former);
                former = err;
            }
            for (double target : new double[] {0, 0.1, 0.3, 0.5, 0.72}) {
                double best = IntStream.rangeClosed(0, 200)
                        .mapToDouble(i -> Math.abs(spectra.reduction(i / 200.0, bound) - target))
                        .min()
                        .orElseThrow();
                double first = IntStream.rangeClosed(0, 200)
                        .filter(i -> Math.abs(spectra.reduction(i / 200.0, bound) - target) == best)
                        .findFirst()
                        .orElseThrow();
                assertThat(spectra.search(target, bound)).isEqualTo(first / 200);
            }
        }
        for (Spectrum s : spectra.all()) {
            for (int i = 1; i <= 200; i++) {
                assertThat(s.rank(i / 200.0)).isLessThanOrEqualTo(s.rank((i - 1) / 200.0));
            }
        }
    }

    @Test
    @Card(value = "welore", checks = 3)
    void scaleIsOfNoAccount() {
        try (Generator g = Generator.of(3)) {
            Tensor w = g.randn(12, 20);
            Spectrum s = spectrum(w);
            Spectrum eight = spectrum(w.mul(8));
            for (double k : new double[] {0.05, 0.2, 0.5, 0.8}) {
                assertThat(eight.rank(k)).isEqualTo(s.rank(k));
                assertThat(spectrum(w.mul(0.37)).rank(k)).isEqualTo(s.rank(k)); // no z within 1e-5 of these
            }
        }
    }

    @Test
    @Card(value = "welore", checks = 4)
    void aPairIsTheBestOfItsRankAndBalanced() {
        Path base = TinyLlama.trained(folder.resolve("base"));
        try (TinyLlama llama = TinyLlama.open(base);
                TinyLlama original = TinyLlama.open(base);
                AdaptedModel model = llama.adapted()) {
            CompressionReport report = compress(model, "err", 0.4);
            Attached adapter = model.adapter("default");
            assertThat(adapter.sites()).isNotEmpty();
            for (Site site : adapter.sites()) {
                LoraFactors pair = Objects.requireNonNull(adapter.exactFactors(site.path()));
                Tensor w = ((Layer) original.lm().module(site.path())).weight();
                Tensor s = w.svdvals();
                int r = Math.toIntExact(pair.rank());
                Tensor kept = s.narrow(0, 0, r);
                double dropped = s.narrow(0, r, s.numel() - r).norm().item();
                assertThat(w.sub(pair.product()).norm().item())
                        .isCloseTo(dropped, within(1e-5 * w.norm().item()));
                assertThat(pair.scale()).isEqualTo(1);
                Tensor diagonal = Tensor.eye(r, s.dtype()).mul(kept);
                double bound = 1e-5 * s.max().item();
                assertThat(pair.b()
                                .t()
                                .matmul(pair.b())
                                .sub(diagonal)
                                .abs()
                                .max()
                                .item())
                        .isLessThan(bound);
                assertThat(pair.a()
                                .matmul(pair.a().t())
                                .sub(diagonal)
                                .abs()
                                .max()
                                .item())
                        .isLessThan(bound);
                double error = report.rows().stream()
                        .filter(row -> row.path().equals(site.path()))
                        .findFirst()
                        .orElseThrow()
                        .after();
                assertThat(error).isCloseTo(dropped / w.norm().item(), within(1e-5));
            }
        }
    }

    /** Four directions of like size and noise below 1 %, beside Gaussian weights. */
    @Test
    @Card(value = "welore", checks = 5)
    void plantedDirectionsAreFound() {
        try (Generator g = Generator.of(9)) {
            for (int n = 0; n < 3; n++) {
                Tensor left = g.randn(40, 4).qr().get(0);
                Tensor right = g.randn(36, 4).qr().get(0);
                Tensor sizes = g.uniform(6, 10, 4);
                Spectrum planted = spectrum(left.mul(sizes).matmul(right.t()).add(g.randn(40, 36), 0.004));
                Spectrum gaussian = spectrum(g.randn(40, 40));
                for (double k : new double[] {0.1, 0.2, 0.3}) {
                    assertThat(planted.rank(k)).isEqualTo(4);
                    assertThat(planted.isLow(k, 0.4999)).isTrue();
                    assertThat(gaussian.isLow(k, 0.4999)).isFalse();
                }
            }
        }
    }

    @Test
    @Card(value = "welore", checks = 6)
    void onlyPairsAndNormsTrain() {
        Path base = TinyLlama.trained(folder.resolve("base"));
        try (TinyLlama llama = TinyLlama.open(base);
                AdaptedModel model = llama.adapted()) {
            compress(model, "err", 0.4);
            Attached adapter = model.adapter("default");
            long expected = 32L * 7; // two norms a block of three, and the last
            for (Site site : adapter.sites()) {
                long out = site.layer().outFeatures();
                long in = site.layer().inFeatures();
                long r = adapter.lowRank(site.path()).a().shape()[0];
                expected += r * (out + in);
                assertThat(r * (out + in)).isLessThanOrEqualTo(out * in);
                assertThat(site.layer().weight().abs().max().item()).isZero();
            }
            Map<String, Parameter> trained = model.trainableParameters();
            assertThat(trained.values().stream()
                            .mapToLong(p -> p.tensor().numel())
                            .sum())
                    .isEqualTo(expected);
            AdamW.Config adamW = new AdamW.Config(0.9, 0.999, 1e-8, 0);
            List<ParameterGroup> groups = List.of(new ParameterGroup("all", trained, 1, 0));
            assertThat(Optimizer.stateBytes(adamW, groups)).isEqualTo(2 * 4 * expected);
            Map<String, Tensor> frozen = new LinkedHashMap<>();
            llama.parameters().forEach((path, p) -> {
                if (!p.isTrainable()) {
                    frozen.put(path, p.tensor().clone());
                }
            });
            assertThat(frozen).containsKeys("lm_head.weight", "model.embed_tokens.weight");
            Map<String, Tensor> before = new LinkedHashMap<>();
            trained.forEach((key, p) -> before.put(key, p.tensor().detach().clone()));
            llama.train(trained.values(), 3, 1e-3, 0, 5);
            frozen.forEach((path, t) -> assertThat(t.equal(
                            Objects.requireNonNull(llama.parameters().get(path)).tensor()))
                    .as(path)
                    .isTrue());
            trained.forEach((key, p) -> assertThat(p.tensor().detach().equal(Objects.requireNonNull(before.get(key))))
                    .as(key)
                    .isFalse());
        }
    }

    /** The same share of all ranks: by the threshold, and the same part of each. */
    @Test
    @Card(value = "welore", checks = 7)
    void oneThresholdBeatsOneRank() {
        Path base = TinyLlama.trained(folder.resolve("base"));
        try (TinyLlama llama = TinyLlama.open(base);
                TinyLlama uniform = TinyLlama.open(base);
                AdaptedModel model = llama.adapted();
                AdaptedModel other = uniform.adapted()) {
            List<Site> sites = other.sites(Targets.ALL, List.of());
            double err = new Spectra(sites.stream()
                            .map(s -> spectrum(s.layer().weight()))
                            .toList())
                    .reduction(compressed(model, 0.4), 0);
            for (Site site : sites) {
                Tensor w = site.layer().weight();
                int q = (int) Math.min(w.size(0), w.size(1));
                int r = q - (int) Math.floor(err * q);
                site.layer().setWeight(LoraFactors.approximate(w, r).factors().product());
            }
            assertThat(llama.heldOut(0)).isLessThan(uniform.heldOut(0));
        }
    }

    /** Compresses every weight that loses anything, and tells the threshold. */
    private static double compressed(AdaptedModel model, double err) {
        CompressionReport report = compress(model, "err", err, "count", "all", "min_ratio", 0.0, "norms", false);
        String note = report.notes().get(0);
        return Double.parseDouble(note.substring(5, note.indexOf(':')));
    }

    @Test
    @Card(value = "welore", checks = 8)
    void tuningThePairsTakesBackMoreThanTuningTheRest() {
        Path base = TinyLlama.trained(folder.resolve("base"));
        try (TinyLlama llama = TinyLlama.open(base);
                TinyLlama other = TinyLlama.open(base);
                AdaptedModel model = llama.adapted();
                AdaptedModel second = other.adapted()) {
            double original = llama.heldOut(0);
            compress(model, "err", 0.5, "norms", false);
            compress(second, "err", 0.5, "norms", false);
            double broken = llama.heldOut(0);
            Attached adapter = model.adapter("default");
            double repaired = llama.train(model.trainableParameters().values(), 40, 2e-3, 0, 8);
            List<Parameter> rest = new ArrayList<>();
            for (Site site : second.sites(Targets.ALL, List.of())) {
                if (adapter.at(site.path()) == null) {
                    rest.add(site.layer().weightParameter());
                }
            }
            second.trainableParameters().values().forEach(p -> p.trainable(false));
            rest.forEach(p -> p.trainable(true));
            double otherwise = other.train(rest, 40, 2e-3, 0, 8);
            assertThat(broken - original).isGreaterThan(0.3);
            assertThat(broken - repaired).isGreaterThan(0.5 * (broken - original));
            assertThat(otherwise).isGreaterThan(repaired);
            long all = llama.parameters().values().stream()
                    .mapToLong(p -> p.tensor().numel())
                    .sum();
            assertThat(model.trainableParameters().values().stream()
                            .mapToLong(p -> p.tensor().numel())
                            .sum())
                    .isLessThan(all);
        }
    }

    /** Ranks at the authors' thresholds, and their pair, which is bfloat16. */
    @Test
    void ranksAndPairsAreTheAuthors() throws URISyntaxException {
        Path file = Path.of(Objects.requireNonNull(getClass().getResource("/golden/compress/welore.safetensors"))
                .toURI());
        try (TensorSource golden = Safetensors.open(file)) {
            double[] thresholds = golden.read("thresholds").doubles();
            long[] pruned = golden.read("pruned").longs();
            for (int t = 0; t < thresholds.length; t++) {
                for (int i = 0; i < 4; i++) {
                    Spectrum s = spectrum(golden.read("weight." + i));
                    assertThat(s.width() - s.rank(thresholds[t])).isEqualTo((int) pruned[4 * t + i]);
                }
            }
            Tensor theirs = golden.read("b")
                    .to(dev.espalier.tensor.DType.FLOAT32)
                    .matmul(golden.read("a").to(dev.espalier.tensor.DType.FLOAT32));
            Tensor ours = LoraFactors.approximate(golden.read("weight.0"), 3)
                    .factors()
                    .product();
            assertThat(CompressionReport.error(ours, theirs)).isLessThan(1e-2);
        }
    }

    /** Saved and read on the base of zeros, it computes the same; merged too. */
    @Test
    void basesAndPairsGoTogether() {
        try (TinyLm lm = TinyLm.trained();
                AdaptedModel model = lm.adapted()) {
            compress(model, "err", 0.4);
            double loss = lm.heldOut();
            PeftFolder.save(
                    model, "default", folder, PeftFolder.Info.of("base", null), PeftFolder.Form.PLAIN, Map.of());
            model.remove("default");
            PeftFolder.load(model, folder, "default", true);
            assertThat(lm.heldOut()).isCloseTo(loss, within(1e-6));
            assertThat(model.adapter("default").at("layers.1.fc")).isInstanceOf(LowRank.class);
            model.merge();
            assertThat(lm.heldOut()).isCloseTo(loss, within(1e-5));
        }
    }

    /** Where a pair would be larger than the weight, the base holds its product. */
    @Test
    void pairsThatWouldBeLargerStayDense() {
        try (TinyLm lm = TinyLm.trained();
                AdaptedModel model = lm.adapted()) {
            compress(model, "k", 0.02, "min_ratio", 0.0);
            Tensor w = lm.hidden.get(1).weight(); // [64, 64] with a rank between 32 and 63
            assertThat(w.abs().max().item()).isPositive();
            assertThat(w.svdvals().narrow(0, 63, 1).item()).isLessThan(1e-4);
        }
    }

    @Test
    void badSettingsAreRefused() {
        assertThatThrownBy(() -> config("err", 1.0)).hasMessage("err must lie in [0, 1), found 1.0; try 0.5");
        assertThatThrownBy(() -> config("err", Double.NaN)).hasMessageStartingWith("err must lie in [0, 1)");
        assertThatThrownBy(() -> config("k", -0.1)).hasMessageStartingWith("k must lie in [0, 1]");
        assertThatThrownBy(() -> config("min_ratio", 1.0))
                .hasMessage("min_ratio must lie in [0, 1), found 1.0; try 0.4999");
    }

    private static Spectra random(int n) {
        try (Generator g = Generator.of(5)) {
            List<Spectrum> all = new ArrayList<>();
            for (int i = 0; i < n; i++) {
                Tensor signal = g.randn(14, 1 + i).matmul(g.randn(1 + i, 10 + i));
                all.add(spectrum(signal.add(g.randn(14, 10 + i), 0.3)));
            }
            return new Spectra(all);
        }
    }

    private static Spectrum spectrum(Tensor w) {
        return new Spectrum(w.svdvals().floats());
    }

    private static CompressionReport compress(AdaptedModel model, Object... settings) {
        return new Welore()
                .compress(config(settings), new Compressor.Subject(model, List.of(), Calibration.NONE, new Seed(0)));
    }

    private static Welore.Config config(Object... settings) {
        Map<String, Object> all = new LinkedHashMap<>();
        for (int i = 0; i < settings.length; i += 2) {
            all.put((String) settings[i], settings[i + 1]);
        }
        return new Welore().read(Fields.of("test", all));
    }
}
