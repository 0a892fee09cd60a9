package dev.espalier.adapter;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import dev.espalier.io.Fields;
import dev.espalier.nn.Linear;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Generator;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Nested;
import org.junit.jupiter.api.Test;

@Card(
        value = "oft",
        checks = {2, 3}) // by the contract
class OftTest extends AdapterContract {

    private static final Targets TARGETS = Targets.of("fc", "proj");

    @Override
    protected AdapterSpec<?> spec() {
        return AdapterSpec.of(new Oft.Type(), Oft.Config.ofBlockSize(2), TARGETS);
    }

    /** Blocks of 2 have one number each. */
    @Override
    protected long parameters(long out, long in) {
        return in / 2;
    }

    @Nested
    class ExactTest extends AdapterContract {
        @Override
        protected AdapterSpec<?> spec() {
            return AdapterSpec.of(new Oft.Type(), new Oft.Config(2, 0, 0, false, 6e-5, false, false, 5, true), TARGETS);
        }

        /** Two blocks of in / 2. */
        @Override
        protected long parameters(long out, long in) {
            return in / 2 * (in / 2 - 1);
        }
    }

    @Nested
    class SharedAndBoundTest extends AdapterContract {
        @Override
        protected AdapterSpec<?> spec() {
            return AdapterSpec.of(
                    new Oft.Type(),
                    Oft.Config.ofBlockSize(2).withBlockShare(true).withCoft(0.5),
                    TARGETS);
        }

        @Override
        protected long parameters(long out, long in) {
            return 1;
        }
    }

    private static Oft on(Linear layer, Oft.Config config) {
        return new Oft(config, new Site("x", layer), new Seed(0));
    }

    private static Tensor q(Oft oft) {
        return oft.parameters().get("oft_R.weight").tensor().detach();
    }

    private static Linear layer(long in) {
        return new Linear(in, 3, false, DType.FLOAT64);
    }

    /** Blocks of 2 by hand: Q = [[0, q], [-q, 0]], Q² = -q² I. */
    @Test
    void blocksOfTwoByHand() {
        double q = 0.25;
        Oft series = on(layer(2), Oft.Config.ofBlockSize(2));
        q(series).fill_(q);
        double even = 1 - 2 * q * q + q * q * q * q; // I + 2 Q² + Q⁴
        double odd = 2 * q - 2 * q * q * q; // 2 Q + 2 Q³
        assertThat(series.rotations().detach().doubles())
                .containsExactly(new double[] {even, odd, -odd, even}, within(1e-15));

        // (I - Q) (I + Q)⁻¹ is the rotation by 2 atan q the other way.
        Oft exact = on(layer(2), Oft.Config.ofBlockSize(2).withNeumann(0));
        q(exact).fill_(q);
        double angle = 2 * Math.atan(q);
        double c = Math.cos(angle);
        double s = Math.sin(angle);
        assertThat(exact.rotations().detach().doubles()).containsExactly(new double[] {c, -s, s, c}, within(1e-15));
    }

    @Test
    @Card(value = "oft", checks = 6)
    void exactIsOrthogonalAndTheSeriesNearsItsInverse() {
        Oft exact = on(layer(12), Oft.Config.ofBlockSize(6).withNeumann(0));
        Oft series = on(layer(12), Oft.Config.ofBlockSize(6));
        try (Generator g = Generator.of(2)) {
            q(exact).copy_(g.randn(2, 15));
        }
        Tensor r = exact.rotations();
        assertThat(gap(r.matmul(r.mT()), Tensor.eye(6, DType.FLOAT64))).isLessThan(1e-13);
        Tensor start = q(exact).clone();
        double former = 0;
        for (double scale : new double[] {0.02, 0.01}) {
            q(exact).copy_(start.mul(-scale));
            q(series).copy_(start.mul(scale));
            double error = gap(exact.rotations(), series.rotations());
            assertThat(error).isLessThan(0.1);
            if (former > 0) { // the first term that differs is Q⁴: 16 times smaller at half of Q
                assertThat(former / error).isBetween(14.0, 18.0);
            }
            former = error;
        }
    }

    /** PEFT's terms: I, I + 2 Q, then the last power once; four are no more than three. */
    @Test
    void theSeriesHasAsManyTermsAsAsked() {
        double q = 0.5;
        double[] even = {1, 1, 1 - 2 * q * q, 1 - 2 * q * q, 1 - 2 * q * q + q * q * q * q};
        double[] odd = {0, 2 * q, 2 * q - q * q * q, 2 * q - q * q * q, 2 * q - 2 * q * q * q};
        for (int terms = 1; terms <= 5; terms++) {
            Oft oft = on(layer(2), Oft.Config.ofBlockSize(2).withNeumann(terms));
            q(oft).fill_(q);
            assertThat(oft.rotations().detach().doubles())
                    .as("%d terms", terms)
                    .containsExactly(
                            new double[] {even[terms - 1], odd[terms - 1], -odd[terms - 1], even[terms - 1]},
                            within(1e-15));
        }
    }

    /** ‖Q_i‖ is brought to eps / √rows where it is above, in what is used and after a step in the parameter. */
    @Test
    void coftHoldsQNearZero() {
        Oft bound = on(layer(6), Oft.Config.ofBlockSize(3).withNeumann(0).withCoft(0.2));
        q(bound).copy_(Tensor.of(new double[] {3, 0, 4, 0.03, 0, 0.04}, 2, 3)); // norms √2 · 5 and √2 · 0.05
        Oft free = on(layer(6), Oft.Config.ofBlockSize(3).withNeumann(0));
        double f = 0.2 / Math.sqrt(2) / (Math.sqrt(2) * 5); // the second is within already
        q(free).copy_(Tensor.of(new double[] {3 * f, 0, 4 * f, 0.03, 0, 0.04}, 2, 3));
        assertThat(gap(bound.rotations(), free.rotations())).isLessThan(1e-15);
        bound.bind();
        assertThat(gap(q(bound), q(free))).isLessThan(1e-15);
    }

    @Test
    void gradientsEqualFiniteDifferences() {
        for (int terms : new int[] {0, 5}) {
            Gradients.check(layer -> {
                Oft oft = on(layer, Oft.Config.ofBlockSize(4).withNeumann(terms));
                q(oft).copy_(Tensor.of(new double[] {0.1, -0.2, 0.3, 0.2, -0.1, 0.4}, 1, 6));
                return oft;
            });
        }
    }

    @Test
    void droppedBlocksDoNotTurn() {
        Linear layer = layer(4);
        layer.weightParameter().tensor().fill_(0.5);
        Oft oft = on(layer, Oft.Config.ofBlockSize(2).withDropout(1 - 1e-12));
        q(oft).fill_(0.3);
        Tensor x = Tensor.of(new double[] {1, 2, 3, 4}, 1, 4);
        layer.train(true);
        assertThat(gap(oft.forward(x, new Base.Ground(layer)), layer.compute(x)))
                .isLessThan(1e-14);
        layer.train(false);
        assertThat(gap(oft.forward(x, new Base.Ground(layer)), layer.compute(x)))
                .isGreaterThan(0.1);
    }

    /** Table of the method card: on 32 to 32 and 64 to 32. */
    @Test
    @Card(value = "oft", checks = 1)
    void countsAreThoseOfTheCard() {
        assertThat(CardCounts.of(new Oft.Type(), Oft.Config.ofBlockSize(8))).isEqualTo(336);
        assertThat(CardCounts.of(new Oft.Type(), Oft.Config.ofBlockSize(8).withBlockShare(true)))
                .isEqualTo(56);
    }

    /** A file may hold a size that does not divide, for PEFT takes the nearest that does; a user is told. */
    @Test
    void sizesThatDoNotDivide() {
        assertThat(Oft.Config.ofBlockSize(32).blockOn(16)).isEqualTo(16);
        assertThat(Oft.Config.ofBlockSize(5).blockOn(24)).isEqualTo(4); // as near as 6
        assertThat(Oft.Config.ofBlockSize(7).blockOn(24)).isEqualTo(6);
        assertThat(new Oft.Config(5, 0, 0, false, 1, false, true, 5, true).blockOn(24))
                .isEqualTo(6);
        assertThatThrownBy(() -> new Oft.Type().check(Oft.Config.ofBlockSize(5), List.of(new Site("x", layer(24)))))
                .hasMessage("oft_block_size is 5, which does not divide the input width 24 of x; try 4");
    }

    @Test
    void badSettingsAreRefusedWithAReason() {
        assertThatThrownBy(() -> read(Map.of("r", 4)))
                .hasMessage("one of r and oft_block_size must be 0 and the other not, for their product is the width,"
                        + " found 4 and 32; try 0 and 32");
        assertThatThrownBy(() -> read(Map.of("module_dropout", 1)))
                .hasMessage("module_dropout must lie in [0, 1), found 1.0; try 0");
        assertThatThrownBy(() -> read(Map.of("eps", 0)))
                .hasMessage("eps must be positive and finite, found 0.0; try 6e-5");
        assertThatThrownBy(() -> read(Map.of("num_cayley_neumann_terms", 0)))
                .hasMessage("num_cayley_neumann_terms must be at least 1, found 0; try 5");
        assertThatThrownBy(() -> read(Map.of("peft_type", "OFT", "r", 4)))
                .hasMessageContaining("before PEFT 0.14 OFT was another");
        assertThatThrownBy(() -> read(Map.of("peft_type", "OFT", "oft_block_size", 4)))
                .hasMessageContaining("before PEFT 0.18 the series of use_cayley_neumann was another");
        assertThat(read(Map.of("peft_type", "OFT", "oft_block_size", 4, "use_cayley_neumann", false))
                        .neumann())
                .isFalse();
    }

    private static Oft.Config read(Map<String, ?> map) {
        return new Oft.Type().read(Fields.of("", map));
    }
}
