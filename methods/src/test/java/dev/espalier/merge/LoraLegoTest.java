package dev.espalier.merge;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import dev.espalier.adapter.Card;
import dev.espalier.adapter.LoraFactors;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Generator;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

/** By hand: sums, duplicates and planted clusters whose result is known. */
class LoraLegoTest {

    private static final LoraLego.Config USUAL = LoraLego.Config.DEFAULT;
    private static final LoraLego.Config PLAIN = USUAL.withReweighting(false, false);

    private Scope scope;

    @BeforeEach
    void open() {
        scope = Scope.open();
    }

    @AfterEach
    void close() {
        scope.close();
    }

    private static LoraFactors factors(long seed, int rank, int out, int in, double scale) {
        try (Generator g = Generator.of(seed)) {
            return new LoraFactors(
                    g.randn(rank, in).to(DType.FLOAT64), g.randn(out, rank).to(DType.FLOAT64), scale, null);
        }
    }

    private static Merger.Source source(double weight, LoraFactors factors) {
        return new Merger.Source("a", weight, Map.of("layer", factors));
    }

    private static LoraFactors merge(LoraLego.Config config, List<LoraFactors> factors) {
        return new LoraLego()
                .merge(config, factors.stream().map(f -> source(1, f)).toList(), new Seed(0))
                .get("layer");
    }

    private static Tensor sum(List<LoraFactors> factors) {
        Tensor sum = factors.get(0).product();
        for (int i = 1; i < factors.size(); i++) {
            sum = sum.add(factors.get(i).product());
        }
        return sum;
    }

    private static double gap(Tensor a, Tensor b) {
        return a.sub(b).norm().item() / b.norm().item();
    }

    private static LoraFactors shuffled(LoraFactors f, long... order) {
        Tensor index = Tensor.of(order, order.length);
        return new LoraFactors(f.a().indexSelect(0, index), f.b().indexSelect(1, index), f.scale(), null);
    }

    @Test
    @Card(
            value = "lora-lego",
            checks = {1})
    void everyUnitByItselfIsTheSum() {
        List<LoraFactors> two = List.of(factors(1, 2, 6, 5, 2), factors(2, 3, 6, 5, 0.5));
        assertThat(gap(merge(PLAIN.withK(5), two).product(), sum(two))).isLessThan(1e-12);
        assertThat(gap(merge(USUAL.withK(5), two).product(), sum(two).mul(Math.sqrt(2.5 / 5))))
                .isLessThan(1e-12);
        List<LoraFactors> equal = List.of(factors(1, 3, 6, 5, 2), factors(2, 3, 6, 5, 2), factors(3, 3, 6, 5, 2));
        assertThat(gap(merge(USUAL.withK(9), equal).product(), sum(equal).div(Math.sqrt(3))))
                .isLessThan(1e-12);
    }

    @Test
    @Card(
            value = "lora-lego",
            checks = {2, 4})
    void duplicatesAndASingleOneComeBack() {
        LoraFactors f = factors(1, 4, 6, 5, 2);
        assertThat(gap(merge(USUAL, List.of(f, f, f)).product(), f.product())).isLessThan(1e-6);
        LoraFactors alone = merge(USUAL, List.of(f));
        assertThat(alone.rank()).isEqualTo(4);
        assertThat(gap(alone.product(), f.product())).isLessThan(1e-12);
        assertThat(merge(USUAL.withK(2), List.of(f)).rank()).isEqualTo(2); // pruned
    }

    @Test
    @Card(
            value = "lora-lego",
            checks = {3})
    void orderOfRanksAndAdaptersDoesNotMatter() {
        LoraFactors f = factors(1, 3, 6, 5, 2);
        LoraFactors g = factors(2, 3, 6, 5, 2);
        Tensor product = merge(USUAL.withK(2), List.of(f, g)).product();
        LoraFactors turned = shuffled(f, 2, 0, 1);
        assertThat(gap(merge(USUAL.withK(2), List.of(turned, g)).product(), product))
                .isLessThan(1e-10);
        assertThat(gap(merge(USUAL.withK(2), List.of(g, turned)).product(), product))
                .isLessThan(1e-10);
    }

    /** Four copies of eight prototypes with noise of 0.01, ranks permuted. */
    @Test
    @Card(
            value = "lora-lego",
            checks = {5})
    void plantedPrototypesAreFound() {
        LoraFactors prototypes = factors(1, 8, 32, 32, 1);
        List<LoraFactors> copies = new ArrayList<>();
        Tensor meanA = Tensor.zeros(DType.FLOAT64, 8, 32);
        Tensor meanB = Tensor.zeros(DType.FLOAT64, 32, 8);
        try (Generator g = Generator.of(5)) {
            long[][] orders = {
                {0, 1, 2, 3, 4, 5, 6, 7}, {3, 1, 0, 2, 7, 6, 5, 4}, {7, 6, 5, 4, 3, 2, 1, 0}, {4, 5, 6, 7, 0, 1, 2, 3}
            };
            for (long[] order : orders) {
                LoraFactors turned = shuffled(prototypes, order);
                Tensor a = turned.a().add(g.normal(0, 0.01, 8, 32).to(DType.FLOAT64));
                Tensor b = turned.b().add(g.normal(0, 0.01, 32, 8).to(DType.FLOAT64));
                copies.add(new LoraFactors(a, b, 1, null));
                meanA.add_(a, 0.25);
                meanB.add_(b, 0.25);
            }
        }
        assertThat(gap(merge(USUAL, copies).product(), prototypes.product())).isLessThan(0.03);
        assertThat(gap(meanB.matmul(meanA), prototypes.product())).isGreaterThan(0.5);
    }

    /** One cluster of two units, and one of a unit far away: the factor by hand. */
    @Test
    @Card(
            value = "lora-lego",
            checks = {6})
    void meansAreAsLongAsTheirMembers() {
        // Units (a | b): (1 0 | 1), (0 2 | 1), (100 100 | 100).
        LoraFactors f = new LoraFactors(
                Tensor.of(new double[] {1, 0, 0, 2, 100, 100}, 3, 2),
                Tensor.of(new double[] {1, 1, 100}, 1, 3),
                1,
                null);
        for (LoraLego.Norm norm : LoraLego.Norm.values()) {
            LoraLego.Config config = new LoraLego.Config(2, norm, true, false, 0, 10, 300, false, false);
            LoraFactors merged = merge(config, List.of(f));
            double[] a = merged.a().doubles();
            double[] b = merged.b().doubles();
            int near = a[0] < 50 ? 0 : 1;
            // The mean is (0.5 1 | 1): norms inf 1 and l2 1.5; its members' are 1, 2 and √2, √5.
            double factor = norm == LoraLego.Norm.INF ? 1.5 : (Math.sqrt(2) + Math.sqrt(5)) / 2 / 1.5;
            assertThat(factor).isGreaterThan(1);
            assertThat(a[2 * near]).isCloseTo(0.5 * factor, within(1e-12));
            assertThat(a[2 * near + 1]).isCloseTo(factor, within(1e-12));
            assertThat(b[near]).isCloseTo(factor, within(1e-12));
            assertThat(b[1 - near]).isCloseTo(100, within(1e-6)); // a unit by itself stays
        }
    }

    /** The clustering itself: KMeansTest in core tries all partitions; here the pool's objective is not worse than them. */
    @Test
    @Card(
            value = "lora-lego",
            checks = {7})
    void clustersOfSixUnitsAreTheBest() {
        LoraFactors f = factors(3, 3, 4, 3, 1);
        LoraFactors g = factors(4, 3, 4, 3, 1);
        LoraFactors merged = merge(PLAIN.withK(2), List.of(f, g));
        Tensor units = Tensor.cat(
                List.of(
                        Tensor.cat(List.of(f.a(), g.a()), 0),
                        Tensor.cat(List.of(f.b(), g.b()), 1).t()),
                1);
        Tensor found = Tensor.cat(List.of(merged.a(), merged.b().t()), 1); // the two means
        double least = Double.POSITIVE_INFINITY;
        for (int code = 1; code < 63; code++) {
            least = Math.min(least, scatter(units, code) + scatter(units, 63 - code));
        }
        double ours = 0;
        for (int i = 0; i < 6; i++) {
            Tensor to = found.sub(units.narrow(0, i, 1)).square().sum(1, false); // [2]
            ours += to.min().item();
        }
        assertThat(ours).isCloseTo(least, within(1e-9 * least));
    }

    private static double scatter(Tensor units, int code) {
        List<Tensor> rows = new ArrayList<>();
        for (int i = 0; i < 6; i++) {
            if ((code >> i & 1) == 1) {
                rows.add(units.select(0, i));
            }
        }
        Tensor all = Tensor.stack(rows, 0);
        return all.sub(all.mean(0, true)).square().sum().item();
    }

    /** At k = R the output of N independent sources has the variance of one. */
    @Test
    @Card(
            value = "lora-lego",
            checks = {8})
    void outputVarianceIsThatOfOneSource() {
        List<LoraFactors> sources = new ArrayList<>();
        for (int i = 0; i < 4; i++) {
            sources.add(factors(30 + i, 8, 64, 64, 1));
        }
        double merged = merge(USUAL.withReweighting(true, true).withK(32), sources)
                .product()
                .norm()
                .item();
        double mean = sources.stream()
                .mapToDouble(f -> Math.pow(f.product().norm().item(), 2))
                .average()
                .orElseThrow();
        assertThat(merged * merged / mean).isCloseTo(1, within(0.1)); // E‖x Dᵀ‖² = ‖D‖² for white x
    }

    @Test
    void weightsCountInMeans() {
        LoraFactors f = new LoraFactors(Tensor.of(new double[] {1}, 1, 1), Tensor.of(new double[] {1}, 1, 1), 1, null);
        LoraFactors g = new LoraFactors(Tensor.of(new double[] {4}, 1, 1), Tensor.of(new double[] {4}, 1, 1), 1, null);
        LoraFactors merged = new LoraLego()
                .merge(PLAIN.withK(1), List.of(source(2, f), source(1, g)), new Seed(0))
                .get("layer");
        assertThat(merged.a().item()).isCloseTo(2, within(1e-12)); // (2 · 1 + 4) / 3
    }

    /** (c a, b / c) and (-a, -b) are the same update: with both options they merge as one. */
    @Test
    void gaugeCanBeFixed() {
        LoraFactors f = factors(1, 3, 6, 5, 1);
        LoraFactors other = new LoraFactors(f.a().mul(-4), f.b().mul(-0.25), 1, null);
        LoraLego.Config fixed = new LoraLego.Config(3, LoraLego.Norm.INF, true, true, 0, 10, 300, true, true);
        assertThat(gap(merge(fixed, List.of(f, other)).product(), f.product())).isLessThan(1e-10);
        assertThat(gap(merge(USUAL, List.of(f, other)).product(), f.product())).isGreaterThan(0.1);
    }

    @Test
    void badInputIsRefusedWithAReason() {
        LoraFactors f = factors(1, 3, 6, 5, 2);
        assertThatThrownBy(() -> merge(USUAL.withK(7), List.of(f, f)))
                .hasMessage("k is 7, but the adapters have 6 ranks on layer to cluster; try 6");
        assertThatThrownBy(() -> USUAL.withK(-1))
                .hasMessage("k must be at least 1, or 0 for the mean rank of the adapters, found -1; try 8");
        assertThatThrownBy(() -> new LoraLego().merge(USUAL, List.of(source(-1, f)), new Seed(0)))
                .hasMessageContaining("the weight of a must be positive, found -1.0; try 1");
        assertThatThrownBy(() -> new LoraLego.Config(0, LoraLego.Norm.INF, true, true, -1, 10, 300, false, false))
                .hasMessageStartingWith("source_rank must be positive");
        assertThatThrownBy(() -> new LoraLego.Config(0, LoraLego.Norm.INF, true, true, 0, 0, 300, false, false))
                .hasMessage("restarts must be at least 1, found 0; try 10");
    }
}
