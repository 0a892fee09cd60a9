package dev.espalier.merge;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import dev.espalier.adapter.Card;
import dev.espalier.adapter.Catalog;
import dev.espalier.adapter.LoraFactors;
import dev.espalier.io.Fields;
import dev.espalier.io.Json;
import dev.espalier.io.Safetensors;
import dev.espalier.io.TensorSource;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Generator;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import java.net.URISyntaxException;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Set;
import java.util.TreeSet;
import java.util.stream.Stream;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

/**
 * PEFT's combination types: against what PEFT 0.21 made (tools/golden/make_merge_fixtures.py), and the checks of the card. Layers
 * here are [6, 5] but for the goldens.
 */
class MergersTest {

    private Scope scope;

    @BeforeEach
    void open() {
        scope = Scope.open();
    }

    @AfterEach
    void close() {
        scope.close();
    }

    // ---- against PEFT

    private static Path golden() {
        try {
            return Path.of(Objects.requireNonNull(MergersTest.class.getResource("/golden/merge"))
                    .toURI());
        } catch (URISyntaxException e) {
            throw new IllegalStateException(e);
        }
    }

    @SuppressWarnings("unchecked") // JSON objects have texts for keys
    private static Map<String, Object> map(Map<String, Object> of, String key) {
        return (Map<String, Object>) of.get(key);
    }

    static Stream<String> cases() {
        return map(Json.read(golden().resolve("cases.json")), "cases").keySet().stream();
    }

    /** A* and B* where factors are combined, their product where singular vectors may turn; float32 there, float64 here. */
    @ParameterizedTest
    @MethodSource("cases")
    void equalsPefts(String name) {
        Map<String, Object> json = Json.read(golden().resolve("cases.json"));
        Map<String, Object> of = map(map(json, "cases"), name);
        String type = (String) of.get("combination_type");
        List<?> names = (List<?>) of.get("adapters");
        List<?> weights = (List<?>) of.get("weights");
        try (TensorSource given = Safetensors.open(golden().resolve("given.safetensors"));
                TensorSource expected = Safetensors.open(golden().resolve("expected.safetensors"))) {
            List<Merger.Source> sources = new ArrayList<>();
            for (int i = 0; i < names.size(); i++) {
                String adapter = (String) names.get(i);
                double scale = ((Number) map(json, "scales").get(adapter)).doubleValue();
                Map<String, LoraFactors> layers = new LinkedHashMap<>();
                for (String path : paths(given, adapter)) {
                    String key = adapter + "/" + path;
                    layers.put(path, new LoraFactors(given.read(key + ".A"), given.read(key + ".B"), scale, null));
                }
                sources.add(new Merger.Source(adapter, ((Number) weights.get(i)).doubleValue(), layers));
            }
            Map<String, LoraFactors> merged = merge(name, type, of, sources, expected);
            Set<String> paths = paths(expected, name);
            assertThat(merged.keySet()).isEqualTo(paths);
            boolean product = type.endsWith("svd") || type.equals("cat");
            for (String path : paths) {
                LoraFactors ours = merged.get(path);
                Tensor a = expected.read(name + "/" + path + ".A");
                Tensor b = expected.read(name + "/" + path + ".B");
                assertThat(gap(ours.product(), b.matmul(a)))
                        .as(path)
                        .isLessThan(2e-5 * b.matmul(a).norm().item());
                if (!product || name.equals("svd-clamp")) {
                    assertThat(gap(ours.a(), a)).as(path).isLessThan(2e-5);
                    assertThat(gap(ours.b(), b)).as(path).isLessThan(5e-5);
                }
                assertThat(ours.scale()).isEqualTo(1);
            }
        }
    }

    private static Map<String, LoraFactors> merge(
            String name, String type, Map<String, Object> of, List<Merger.Source> sources, TensorSource expected) {
        Map<String, Object> settings = new LinkedHashMap<>(of);
        settings.keySet().removeAll(Set.of("adapters", "weights", "combination_type"));
        boolean svd = type.endsWith("_svd");
        if (svd) {
            settings.put("svd", true);
        }
        String plain = svd ? type.substring(0, type.length() - 4) : type;
        if (plain.startsWith("dare")) {
            settings.put("ties", plain.equals("dare_ties"));
            DareMerger.Config config = new DareMerger().read(Fields.of("", settings));
            return DareMerger.merge(config, sources, (at, i, shape) -> expected.read(name + "/" + at + ".mask." + i));
        }
        Merger<?> merger = Catalog.method(plain.replace('_', '-'), Merger.class, "type", "svd");
        Fields f = Fields.of("", settings);
        Merger.Chosen<?> chosen = Merger.Chosen.read(merger, f);
        f.done();
        return chosen.merge(sources, new Seed(0));
    }

    private static Set<String> paths(TensorSource source, String name) {
        Set<String> paths = new TreeSet<>();
        source.tensors().keySet().stream()
                .filter(key -> key.startsWith(name + "/") && key.endsWith(".A"))
                .forEach(key -> paths.add(key.substring(name.length() + 1, key.length() - 2)));
        return paths;
    }

    // ---- the card's checks

    private static final List<Merger.Chosen<?>> DETERMINISTIC =
            List.of(chosen("linear"), chosen("cat"), chosen("svd"), keep(0.4), keepSvd(0.4), ties(0.5), tiesSvd(0.5));

    private static Merger.Chosen<?> chosen(String name, Object... settings) {
        Map<String, Object> map = new LinkedHashMap<>();
        for (int i = 0; i < settings.length; i += 2) {
            map.put((String) settings[i], settings[i + 1]);
        }
        Merger<?> merger = Catalog.method(name, Merger.class, "type", "svd");
        return Merger.Chosen.read(merger, Fields.of(name, map));
    }

    private static Merger.Chosen<?> keep(double density) {
        return chosen("magnitude-prune", "density", density);
    }

    private static Merger.Chosen<?> keepSvd(double density) {
        return chosen("magnitude-prune", "density", density, "svd", true);
    }

    private static Merger.Chosen<?> ties(double density) {
        return chosen("ties", "density", density);
    }

    private static Merger.Chosen<?> tiesSvd(double density) {
        return chosen("ties", "density", density, "svd", true);
    }

    private static LoraFactors factors(long seed, int rank, double scale) {
        try (Generator g = Generator.of(seed)) {
            return new LoraFactors(
                    g.randn(rank, 5).to(DType.FLOAT64), g.randn(6, rank).to(DType.FLOAT64), scale, null);
        }
    }

    private static Merger.Source source(double weight, LoraFactors factors) {
        return new Merger.Source("w" + weight, weight, Map.of("layer", factors));
    }

    private static List<Merger.Source> three(int... ranks) {
        return List.of(
                source(0.7, factors(1, ranks[0], 2)),
                source(-0.4, factors(2, ranks[1], 0.5)),
                source(1.2, factors(3, ranks[2], 1)));
    }

    private static LoraFactors merged(Merger.Chosen<?> merger, List<Merger.Source> sources) {
        return merger.merge(sources, new Seed(3)).get("layer");
    }

    private static Tensor exact(List<Merger.Source> sources) {
        Tensor sum = Tensor.zeros(DType.FLOAT64, 6, 5);
        sources.forEach(s -> sum.add_(s.layers().get("layer").product(), s.weight()));
        return sum;
    }

    private static double gap(Tensor a, Tensor b) {
        return a.sub(b).abs().max().item();
    }

    @Test
    @Card(
            value = "cat",
            checks = {1})
    @Card(
            value = "svd",
            checks = {1})
    void sumsAreExactWhereTheRankAllows() {
        List<Merger.Source> sources = three(2, 3, 1);
        Tensor sum = exact(sources);
        assertThat(gap(merged(chosen("cat"), sources).product(), sum)).isLessThan(1e-12);
        assertThat(gap(merged(chosen("svd", "svd_rank", 6), sources).product(), sum))
                .isLessThan(1e-12);
        // Of smaller rank: the error is that of the dropped singular values, no less by Eckart and Young.
        LoraFactors best = merged(chosen("svd", "svd_rank", 2), sources);
        assertThat(best.rank()).isEqualTo(2);
        double dropped = sum.svd().get(1).narrow(0, 2, 3).norm().item();
        assertThat(best.product().sub(sum).norm().item()).isCloseTo(dropped, within(1e-10));
        assertThat(merged(chosen("svd"), sources).rank()).isEqualTo(3);
        // Above the layer's width: padded with zeros.
        LoraFactors padded = merged(chosen("svd", "svd_rank", 9), sources);
        assertThat(padded.rank()).isEqualTo(9);
        assertThat(gap(padded.product(), sum)).isLessThan(1e-12);
    }

    @Test
    @Card(
            value = "linear",
            checks = {2})
    @Card(
            value = "cat",
            checks = {2})
    @Card(
            value = "svd",
            checks = {2})
    @Card(
            value = "magnitude-prune",
            checks = {2})
    @Card(
            value = "ties",
            checks = {2})
    @Card(
            value = "dare",
            checks = {2})
    void oneAdapterIsScaledWhateverTheMethod() {
        List<Merger.Source> one = List.of(source(-0.6, factors(4, 3, 2)));
        List<Merger.Chosen<?>> all = new ArrayList<>(DETERMINISTIC);
        all.add(chosen("dare", "density", 0.1));
        all.add(chosen("dare", "density", 0.1, "ties", true, "svd", true));
        all.add(chosen("svd", "svd_rank", 1));
        for (Merger.Chosen<?> merger : all) {
            assertThat(gap(merged(merger, one).product(), exact(one)))
                    .as(merger.toString())
                    .isLessThan(1e-12);
        }
    }

    @Test
    @Card(
            value = "linear",
            checks = {3})
    void linearAddsFactors() {
        List<Merger.Source> sources = three(2, 2, 2);
        LoraFactors merged = merged(chosen("linear"), sources);
        // p = 1.4, -0.2, 1.2
        double[] b = {Math.sqrt(1.4), Math.sqrt(0.2), Math.sqrt(1.2)};
        Tensor a = Tensor.zeros(DType.FLOAT64, 2, 5);
        Tensor bSum = Tensor.zeros(DType.FLOAT64, 6, 2);
        for (int i = 0; i < 3; i++) {
            a.add_(sources.get(i).layers().get("layer").a(), i == 1 ? -b[i] : b[i]);
            bSum.add_(sources.get(i).layers().get("layer").b(), b[i]);
        }
        assertThat(gap(merged.a(), a)).isLessThan(1e-12);
        assertThat(gap(merged.b(), bSum)).isLessThan(1e-12);
        // The cross terms are as large as the sum.
        assertThat(merged.product().sub(exact(sources)).norm().item()
                        / exact(sources).norm().item())
                .isGreaterThan(0.3);

        // With one A for all and positive p: (Σ b_i B_i)(Σ b_i) A.
        Tensor common = factors(9, 2, 1).a();
        List<Merger.Source> shared = new ArrayList<>();
        double sum = 0;
        for (int i = 0; i < 3; i++) {
            LoraFactors f = factors(20 + i, 2, 2);
            shared.add(source(0.5 + i, new LoraFactors(common, f.b(), 2, null)));
            sum += Math.sqrt(2 * (0.5 + i));
        }
        LoraFactors result = merged(chosen("linear"), shared);
        assertThat(gap(result.product(), result.b().matmul(common).mul(sum))).isLessThan(1e-12);
    }

    @Test
    @Card(
            value = "linear",
            checks = {4})
    @Card(
            value = "magnitude-prune",
            checks = {4})
    @Card(
            value = "dare",
            checks = {4})
    @Card(
            value = "ties",
            checks = {4})
    void fullDensityIsLinearButForTheVote() {
        List<Merger.Source> sources = three(2, 2, 2);
        LoraFactors linear = merged(chosen("linear"), sources);
        for (Merger.Chosen<?> merger : List.of(keep(1), chosen("dare", "density", 1))) {
            LoraFactors other = merged(merger, sources);
            assertThat(other.a().equal(linear.a())).isTrue();
            assertThat(other.b().equal(linear.b())).isTrue();
        }
        assertThat(gap(merged(ties(1), sources).a(), linear.a())).isGreaterThan(0.1);

        Tensor x = factors(5, 2, 1).product();
        double[] ones = {1, 1, 1};
        Tensor kept = TaskVectors.keep(x, 0.3);
        assertThat(gap(TaskVectors.vote(List.of(kept, kept, kept), ones, TiesMerger.Majority.TOTAL), kept))
                .isLessThan(1e-15);
        Tensor opposed = TaskVectors.vote(List.of(kept, kept.neg()), new double[] {1, 1}, TiesMerger.Majority.TOTAL);
        assertThat(opposed.equal(kept.abs())).isTrue();
    }

    /** The largest stay, of equal ones the first; how many is rounded down, to none too. */
    @Test
    void keepsTheLargestAndOfEqualOnesTheFirst() {
        Tensor x = Tensor.of(new double[] {1, -2, 2, 2, -1, 0.5, -2}, 7);
        assertThat(TaskVectors.keep(x, 3.0 / 7).add(0).doubles()).containsExactly(0, -2, 2, 2, 0, 0, 0);
        assertThat(TaskVectors.keep(x, 0.72).add(0).doubles()).containsExactly(1, -2, 2, 2, 0, 0, -2);
        assertThat(TaskVectors.keep(x, 0.1).add(0).doubles()).containsOnly(0);
        assertThat(TaskVectors.keep(x, 0).add(0).doubles()).containsOnly(0);
    }

    @Test
    @Card(
            value = "linear",
            checks = {5})
    @Card(
            value = "magnitude-prune",
            checks = {5})
    @Card(
            value = "ties",
            checks = {5})
    @Card(
            value = "dare",
            checks = {5})
    void zerosStayZero() {
        List<Merger.Source> holes = new ArrayList<>();
        for (Merger.Source s : three(2, 2, 2)) {
            LoraFactors f = s.layers().get("layer");
            Tensor a = f.a().clone();
            a.select(1, 3).zero_();
            holes.add(source(s.weight(), new LoraFactors(a, f.b(), f.scale(), null)));
        }
        for (Merger.Chosen<?> merger : List.of(
                chosen("linear"),
                keep(0.4),
                ties(0.5),
                ties(0),
                chosen("dare", "density", 0.5),
                chosen("dare", "density", 0.5, "ties", true))) {
            LoraFactors result = merged(merger, holes);
            assertThat(result.a().select(1, 3).abs().max().item()).isZero();
            assertThat(result.a().isFinite().all() && result.b().isFinite().all())
                    .isTrue();
        }
    }

    /** Mean over 2000 masks within 5 standard errors of each entry; kept entries are X / d. */
    @Test
    @Card(
            value = "dare",
            checks = {6})
    void droppingIsRightOnAverage() {
        Tensor x = Tensor.of(new double[] {1, -2, 3, 0.5}, 4);
        double d = 0.3;
        int n = 2000;
        Tensor sum = x.zerosLike();
        try (Generator g = Generator.of(1)) {
            for (int i = 0; i < n; i++) {
                Tensor y = TaskVectors.drop(x, d, g.uniform(0, 1, 4).lt(d));
                for (int j = 0; j < 4; j++) {
                    assertThat(y.add(0).doubles()[j]).isIn(0.0, x.doubles()[j] / d); // -0 to 0
                }
                sum.add_(y);
            }
        }
        for (int j = 0; j < 4; j++) {
            double error = Math.abs(x.doubles()[j]) * Math.sqrt((1 - d) / d / n);
            assertThat(sum.doubles()[j] / n).isCloseTo(x.doubles()[j], within(5 * error));
        }
        List<Merger.Source> sources = three(2, 2, 2);
        Merger.Chosen<?> dare = chosen("dare", "density", 0.5);
        assertThat(merged(dare, sources).a().equal(merged(dare, sources).a())).isTrue();
        assertThat(dare.merge(sources, new Seed(4))
                        .get("layer")
                        .a()
                        .equal(merged(dare, sources).a()))
                .isFalse();
    }

    @Test
    @Card(
            value = "linear",
            checks = {7})
    @Card(
            value = "cat",
            checks = {7})
    @Card(
            value = "svd",
            checks = {7})
    @Card(
            value = "magnitude-prune",
            checks = {7})
    @Card(
            value = "ties",
            checks = {7})
    void orderDoesNotMatter() {
        List<Merger.Source> sources = three(2, 2, 2);
        List<Merger.Source> turned = List.of(sources.get(2), sources.get(0), sources.get(1));
        for (Merger.Chosen<?> merger : DETERMINISTIC) {
            assertThat(gap(
                            merged(merger, turned).product(),
                            merged(merger, sources).product()))
                    .as(merger.toString())
                    .isLessThan(1e-12);
        }
    }

    @Test
    @Card(
            value = "linear",
            checks = {8})
    @Card(
            value = "cat",
            checks = {8})
    @Card(
            value = "svd",
            checks = {8})
    @Card(
            value = "magnitude-prune",
            checks = {8})
    @Card(
            value = "ties",
            checks = {8})
    @Card(
            value = "dare",
            checks = {8})
    void weightsScaleTheResult() {
        List<Merger.Source> sources = three(2, 2, 2);
        List<Merger.Source> scaled = sources.stream()
                .map(s -> new Merger.Source(s.name(), 3 * s.weight(), s.layers()))
                .toList();
        List<Merger.Chosen<?>> all = new ArrayList<>(DETERMINISTIC);
        all.add(chosen("dare", "density", 0.5)); // of one seed, so of the same masks
        all.add(chosen("dare", "density", 0.5, "ties", true));
        for (Merger.Chosen<?> merger : all) {
            assertThat(gap(
                            merged(merger, scaled).product(),
                            merged(merger, sources).product().mul(3)))
                    .as(merger.toString())
                    .isLessThan(1e-11);
        }
    }

    @Test
    void absentIsNotZero() {
        LoraFactors f = factors(1, 2, 1);
        LoraFactors g = factors(2, 2, 1);
        List<Merger.Source> sources =
                List.of(new Merger.Source("a", 1, Map.of("x", f, "y", f)), new Merger.Source("b", 1, Map.of("x", g)));
        Map<String, LoraFactors> merged = ties(1).merge(sources, new Seed(0));
        assertThat(merged.keySet()).containsExactlyInAnyOrder("x", "y");
        assertThat(gap(merged.get("y").product(), f.product())).isLessThan(1e-12); // not halved
        assertThat(chosen("cat").merge(sources, new Seed(0)).get("y").rank()).isEqualTo(2);
    }

    @Test
    void badSettingsAreRefusedWithAReason() {
        assertThatThrownBy(() -> keep(-0.1)).hasMessage("density must lie in [0, 1], found -0.1; try 0.5");
        assertThatThrownBy(() -> ties(20)).hasMessage("density must lie in [0, 1], found 20.0; try 0.2");
        assertThatThrownBy(() -> ties(Double.NaN)).hasMessageContaining("found NaN");
        assertThatThrownBy(() -> chosen("dare", "density", 0))
                .hasMessage("density must lie in (0, 1], found 0.0; try 0.5");
        assertThatThrownBy(() -> chosen("ties")).hasMessage("ties: density is missing; it takes a number");
        assertThatThrownBy(() -> chosen("svd", "svd_rank", -1))
                .hasMessage("svd_rank must be at least 1, or 0 for the adapters' own, found -1");
        assertThatThrownBy(() -> chosen("svd", "svd_clamp", 1.5))
                .hasMessage("svd_clamp must lie in (0, 1], or be 0 for none, found 1.5; try 0.99");
        assertThatThrownBy(() -> chosen("ties", "density", 0.5, "svd_rank", 4))
                .hasMessage("svd_rank and svd_clamp are for svd, which is off; set svd to true or leave them out");
        assertThatThrownBy(() -> merged(chosen("svd", "svd_clamp", 0.01), three(2, 2, 2)))
                .hasMessageContaining("the 0.01 quantile of the entries on layer is -")
                .hasMessageEndingWith("clamping to it would leave nothing; try 0.99");
        assertThatThrownBy(() -> merged(chosen("linear"), three(2, 3, 2)))
                .hasMessage(
                        "on layer w0.7 has rank 2 and w-0.4 rank 3, but factors are combined entry by entry; use svd, cat or lora-lego, or set svd to true");
    }
}
