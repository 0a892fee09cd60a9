package dev.espalier.adapter;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import dev.espalier.nn.Linear;
import dev.espalier.tensor.Generator;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import java.util.Map;
import org.junit.jupiter.api.Test;

@Card(
        value = "loha",
        checks = {2, 3}) // by the contract
class LohaTest extends AdapterContract {

    private static final Loha.Config RANDOM = new Loha.Config(Lycoris.of(2, 3), false);

    @Override
    protected AdapterSpec<?> spec() {
        return AdapterSpec.of(new Loha.Type(), Loha.Config.of(3, 6), Targets.of("fc", "proj"));
    }

    @Override
    protected long parameters(long out, long in) {
        return 2 * 3 * (in + out);
    }

    /** Each element by itself: s (Σ_k w1a_ok w1b_kc) (Σ_k w2a_ok w2b_kc). */
    @Test
    void mergeFollowsTheFormula() {
        Linear layer = Gradients.layer(); // 4 to 5
        Loha loha = new Loha(RANDOM, new Site("x", layer), new Seed(0));
        double[] w1a = values(loha, "hada_w1_a");
        double[] w1b = values(loha, "hada_w1_b");
        double[] w2a = values(loha, "hada_w2_a");
        double[] w2b = values(loha, "hada_w2_b");
        double[] change = loha.merge(new Base.Ground(layer).affine())
                .weight()
                .sub(layer.weight())
                .detach()
                .doubles();
        for (int o = 0; o < 5; o++) {
            for (int c = 0; c < 4; c++) {
                double one = w1a[2 * o] * w1b[c] + w1a[2 * o + 1] * w1b[4 + c];
                double two = w2a[2 * o] * w2b[c] + w2a[2 * o + 1] * w2b[4 + c];
                assertThat(change[4 * o + c]).isCloseTo(1.5 * one * two, within(1e-14));
            }
        }
    }

    private static double[] values(Loha loha, String name) {
        return loha.parameters().get(name).tensor().detach().doubles();
    }

    @Test
    void gradientsEqualFiniteDifferences() {
        Gradients.check(layer -> new Loha(RANDOM, new Site("x", layer), new Seed(0)));
    }

    /** Rows of the change drop out for all inputs alike, and the rest grows by 1 / (1 - p). */
    @Test
    void dropoutLeavesOutRowsOrTheWholeChange() {
        Linear layer = Gradients.layer();
        Base base = new Base.Ground(layer);
        Tensor x = Tensor.of(new double[] {1, -2, 3, 0.5, 2, 2, -1, 1}, 2, 4);
        Loha rows = new Loha(
                new Loha.Config(Lycoris.of(2, 3).withDropout(0.5, 0), false), new Site("x", layer), new Seed(0));
        Tensor whole = rows.forward(x, base).sub(layer.compute(x));
        layer.train(true);
        Generator.seedDropout(3);
        double[] ratio =
                rows.forward(x, base).sub(layer.compute(x)).div(whole).detach().doubles();
        for (int o = 0; o < 5; o++) {
            assertThat(ratio[o]).isCloseTo(ratio[5 + o], within(1e-9));
            assertThat(Math.min(Math.abs(ratio[o]), Math.abs(ratio[o] - 2))).isLessThan(1e-9);
        }
        assertThat(java.util.Arrays.stream(ratio).min().getAsDouble()).isLessThan(1);
        assertThat(java.util.Arrays.stream(ratio).max().getAsDouble()).isGreaterThan(1);

        Loha all = new Loha(
                new Loha.Config(Lycoris.of(2, 3).withDropout(0, 1 - 1e-12), false), new Site("x", layer), new Seed(0));
        assertThat(gap(all.forward(x, base), layer.compute(x))).isZero();
    }

    /** Table of the method card: r 4 on 32 to 32 and 64 to 32. */
    @Test
    @Card(value = "loha", checks = 1)
    void countIsThatOfTheCard() {
        assertThat(CardCounts.of(new Loha.Type(), Loha.Config.of(4, 8))).isEqualTo(1280);
    }

    @Test
    void patternsChooseRankAndAlpha() {
        Lycoris settings = new Lycoris(4, 8, 0, 0, Map.of("0.fc", 2), Map.of("(fc|up)", 16.0));
        assertThat(settings.rankAt("layers.0.fc")).isEqualTo(2);
        assertThat(settings.scaleAt("layers.0.fc")).isEqualTo(8);
        assertThat(settings.scaleAt("layers.0.proj")).isEqualTo(2);
    }

    @Test
    void badSettingsAreRefusedWithAReason() {
        assertThatThrownBy(() -> Loha.Config.of(0, 8)).hasMessage("r must be at least 1, found 0; try 8");
        assertThatThrownBy(() -> Loha.Config.of(8, 0))
                .hasMessage("alpha must be positive and finite, found 0.0; try twice the rank");
        assertThatThrownBy(() -> Lycoris.DEFAULT.withDropout(1, 0))
                .hasMessage("rank_dropout must lie in [0, 1), found 1.0; try 0");
        assertThatThrownBy(() -> Lycoris.DEFAULT.withDropout(0, Double.NaN))
                .hasMessage("module_dropout must lie in [0, 1), found NaN; try 0");
        assertThatThrownBy(() -> new Loha.Type()
                        .check(Loha.Config.of(6, 6), java.util.List.of(new Site("x", Gradients.layer()))))
                .hasMessageStartingWith("r is 6, above the width 4 of x [5, 4]")
                .hasMessageContaining("try 4");
    }
}
