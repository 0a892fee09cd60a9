package dev.espalier.adapter;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import dev.espalier.nn.Linear;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import java.util.List;
import org.junit.jupiter.api.Test;

@Card(
        value = "lokr",
        checks = {2, 3}) // by the contract
class LokrTest extends AdapterContract {

    @Override
    protected AdapterSpec<?> spec() {
        return AdapterSpec.of(new Lokr.Type(), Lokr.Config.of(2, 6), Targets.of("fc", "proj"));
    }

    /** 8 is 2 by 4 and 10 is 2 by 5: w1 [2, 2]; w2 [5, 4] or [4, 5] of rank 2, for 2 < 5 / 2. */
    @Override
    protected long parameters(long out, long in) {
        return 2 * 2 + 2 * (4 + 5);
    }

    /** ΔW[i q + k, j n + l] = s w1[i, j] w2[k, l], and the cheap form computes x ΔWᵀ; all four ways of factoring. */
    @Test
    void theChangeIsTheKroneckerProduct() {
        Linear layer = new Linear(24, 30, true, DType.FLOAT64); // m n = 4 6, p q = 5 6
        layer.namedParameters().values().forEach(p -> p.tensor().fill_(0.5));
        Tensor x = Tensor.arange(2 * 3 * 24).to(DType.FLOAT64).sin().view(2, 3, 24);
        Base base = new Base.Ground(layer);
        for (boolean both : new boolean[] {false, true}) {
            for (int r : new int[] {2, 3}) {
                Lokr lokr = new Lokr(
                        Lokr.Config.of(r, 5).withDecomposeBoth(both).withInit("false"),
                        new Site("x", layer),
                        new Seed(0));
                assertThat(lokr.parameters()).containsKey(both && r == 2 ? "lokr_w1_a" : "lokr_w1");
                assertThat(lokr.parameters()).containsKey(r == 2 ? "lokr_w2_a" : "lokr_w2");
                double[] w1 = matrix(lokr, "lokr_w1"); // [5, 4]
                double[] w2 = matrix(lokr, "lokr_w2"); // [6, 6]
                double[] change = new double[30 * 24];
                for (int o = 0; o < 30; o++) {
                    for (int c = 0; c < 24; c++) {
                        change[24 * o + c] = 5.0 / r * w1[4 * (o / 6) + c / 6] * w2[6 * (o % 6) + c % 6];
                    }
                }
                Tensor w = layer.weight().add(Tensor.of(change, 30, 24));
                assertThat(gap(lokr.merge(base.affine()).weight(), w)).isLessThan(1e-14);
                assertThat(gap(lokr.forward(x, base), x.linear(w, base.affine().bias())))
                        .isLessThan(1e-12);
            }
        }
    }

    private static double[] matrix(Lokr lokr, String name) {
        var named = lokr.parameters();
        return (named.containsKey(name)
                        ? named.get(name).tensor()
                        : named.get(name + "_a")
                                .tensor()
                                .matmul(named.get(name + "_b").tensor()))
                .detach()
                .doubles();
    }

    @Test
    void widthsAreSplitAsInPeft() {
        assertThat(Lokr.split(32, -1)).containsExactly(4, 8);
        assertThat(Lokr.split(127, -1)).containsExactly(1, 127);
        assertThat(Lokr.split(256, -1)).containsExactly(16, 16);
        assertThat(Lokr.split(128, 4)).containsExactly(4, 32);
        assertThat(Lokr.split(32, 16)).containsExactly(16, 2); // it divides, so it is first even where it is larger
        assertThat(Lokr.split(32, 6)).containsExactly(4, 8);
        assertThat(Lokr.split(18, 7)).containsExactly(3, 6);
        assertThat(Lokr.split(1, -1)).containsExactly(1, 1);
    }

    @Test
    void gradientsEqualFiniteDifferences() {
        Gradients.check(layer -> new Lokr(Lokr.Config.of(1, 3).withInit("false"), new Site("x", layer), new Seed(0)));
    }

    @Test
    void eitherFactorStartsAtZero() {
        for (String init : List.of("true", "lycoris")) {
            Lokr lokr = new Lokr(Lokr.Config.of(1, 3).withInit(init), new Site("x", Gradients.layer()), new Seed(0));
            assertThat(lokr.parameters().get("lokr_w1").tensor().ne(0).any()).isEqualTo(init.equals("lycoris"));
            assertThat(lokr.parameters().get("lokr_w2_b").tensor().ne(0).any()).isEqualTo(init.equals("true"));
        }
    }

    /** Without rank_dropout_scale the rows that are kept stay as they are. */
    @Test
    void dropoutOfRowsMayKeepTheMean() {
        Linear layer = Gradients.layer();
        Base base = new Base.Ground(layer);
        Tensor x = Tensor.of(new double[] {1, -2, 3, 0.5}, 1, 4);
        for (boolean keep : new boolean[] {false, true}) {
            Lokr lokr = new Lokr(
                    new Lokr.Config(Lycoris.of(1, 3).withDropout(0.5, 0), false, -1, keep, "false"),
                    new Site("x", layer),
                    new Seed(0));
            layer.train(false);
            Tensor whole = lokr.forward(x, base).sub(layer.compute(x));
            layer.train(true);
            double[] ratio = lokr.forward(x, base)
                    .sub(layer.compute(x))
                    .div(whole)
                    .detach()
                    .doubles();
            for (double v : ratio) {
                assertThat(Math.min(Math.abs(v), Math.abs(v - (keep ? 2 : 1)))).isCloseTo(0, within(1e-9));
            }
        }
    }

    /** Table of the method card: on 32 to 32 and 64 to 32. */
    @Test
    @Card(value = "lokr", checks = 1)
    void countsAreThoseOfTheCard() {
        assertThat(CardCounts.of(new Lokr.Type(), Lokr.Config.of(2, 8))).isEqualTo(112);
        assertThat(CardCounts.of(new Lokr.Type(), Lokr.Config.of(1, 8).withDecomposeBoth(true)))
                .isEqualTo(52);
    }

    @Test
    void badSettingsAreRefusedWithAReason() {
        assertThatThrownBy(() -> Lokr.Config.of(0, 8)).hasMessage("r must be at least 1, found 0; try 8");
        assertThatThrownBy(() -> Lokr.Config.DEFAULT.withDecomposeFactor(0))
                .hasMessage("decompose_factor must be at least 1, or -1 for the most square split, found 0; try -1");
        assertThatThrownBy(() -> Lokr.Config.DEFAULT.withInit("pissa"))
                .hasMessage("init_weights must be true, false or lycoris, found pissa; try true");
        assertThatThrownBy(() -> new Lokr.Type().check(Lokr.Config.of(6, 6), List.of(new Site("x", Gradients.layer()))))
                .hasMessageStartingWith("r is 6, above the width 4 of x [5, 4]");
    }
}
