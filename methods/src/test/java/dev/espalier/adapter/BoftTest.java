package dev.espalier.adapter;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.espalier.nn.Linear;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Generator;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import org.junit.jupiter.api.Nested;
import org.junit.jupiter.api.Test;

@Card(
        value = "boft",
        checks = {2, 3}) // by the contract
class BoftTest extends AdapterContract {

    @Override
    protected AdapterSpec<?> spec() {
        return AdapterSpec.of(new Boft.Type(), Boft.Config.of(2, 1), Targets.of("fc", "proj"));
    }

    @Override
    protected long parameters(long out, long in) {
        return in * 2 + out;
    }

    /** Three factors on 8 = 4 blocks of 2. */
    @Nested
    class ButterflyTest extends AdapterContract {
        @Override
        protected AdapterSpec<?> spec() {
            return AdapterSpec.of(new Boft.Type(), Boft.Config.of(2, 3), Targets.of("fc"));
        }

        @Override
        protected long parameters(long out, long in) {
            return 3 * in * 2 + out;
        }
    }

    private static Boft random(Linear layer, int block, int factors) {
        return new Boft(new Boft.Config(block, 0, factors, 0, false), new Site("x", layer), new Seed(4));
    }

    /** The butterfly's second factor works on what is half a block apart: 0 1 | 2 3 becomes 0 2 | 1 3, and so on. */
    @Test
    void permutationsAreTheButterflys() {
        assertThat(Boft.columns(8, 4, 1)).containsExactly(0, 2, 1, 3, 4, 6, 5, 7);
        assertThat(Boft.columns(8, 8, 1)).containsExactly(0, 2, 4, 6, 1, 3, 5, 7);
        assertThat(Boft.columns(8, 8, 2)).containsExactly(0, 1, 4, 5, 2, 3, 6, 7);
    }

    /** With s = 1 and W = I the layer is the rotation: orthogonal, and full where the factors reach every block. */
    @Test
    @Card(value = "boft", checks = 6)
    void theProductIsOrthogonal() {
        Linear layer = new Linear(8, 8, false, DType.FLOAT64);
        layer.weightParameter().tensor().copy_(Tensor.eye(8, DType.FLOAT64));
        for (int factors = 1; factors <= 3; factors++) {
            Boft boft = random(layer, 2, factors);
            boft.parameters().get("boft_s").tensor().detach().fill_(1);
            Tensor eye = Tensor.eye(8, DType.FLOAT64);
            Tensor rotation = boft.forward(eye, new Base.Ground(layer)).detach();
            assertThat(gap(rotation.matmul(rotation.t()), eye)).isLessThan(1e-13);
            long zeros = rotation.numel() - rotation.nonzero().size(0);
            assertThat(zeros).isEqualTo(64 - 8L * (1L << factors));
        }
    }

    /** The rotation does not touch the bias, and neither does the factor. */
    @Test
    void theBiasIsNotScaled() {
        Linear layer = Gradients.layer();
        Boft boft = new Boft(Boft.Config.of(2, 1), new Site("x", layer), new Seed(0));
        boft.parameters().get("boft_s").tensor().detach().fill_(3);
        Tensor x = Tensor.of(new double[] {1, -2, 3, 0.5}, 1, 4);
        Tensor expected = x.linear(layer.weight().mul(3), layer.biasParameter().tensor());
        assertThat(gap(boft.forward(x, new Base.Ground(layer)), expected)).isLessThan(1e-13);
    }

    @Test
    void gradientsEqualFiniteDifferences() {
        Gradients.check(layer -> random(layer, 2, 2));
    }

    @Test
    void droppedBlocksDoNotTurn() {
        Linear layer = Gradients.layer();
        Boft boft = new Boft(new Boft.Config(2, 0, 1, 1 - 1e-12, false), new Site("x", layer), new Seed(0));
        boft.parameters().get("boft_s").tensor().detach().fill_(1);
        Tensor x;
        try (Generator g = Generator.of(2)) {
            x = g.randn(3, 4).to(DType.FLOAT64);
        }
        layer.train(true);
        assertThat(gap(boft.forward(x, new Base.Ground(layer)), layer.compute(x)))
                .isLessThan(1e-13);
        layer.train(false);
        assertThat(gap(boft.forward(x, new Base.Ground(layer)), layer.compute(x)))
                .isGreaterThan(1e-3);
    }

    /** Table of the method card: blocks of 8 on 32 to 32 and 64 to 32. */
    @Test
    @Card(value = "boft", checks = 1)
    void countIsThatOfTheCard() {
        assertThat(CardCounts.of(new Boft.Type(), Boft.Config.of(8, 1))).isEqualTo(832);
    }

    @Test
    void badSettingsAreRefusedWithAReason() {
        assertThatThrownBy(() -> new Boft.Config(4, 4, 1, 0, true))
                .hasMessage(
                        "one of boft_block_size and boft_block_num must be 0 and the other above, for their product is"
                                + " the width, found 4 and 4; try 4 and 0");
        assertThatThrownBy(() -> Boft.Config.of(4, 0))
                .hasMessage("boft_n_butterfly_factor must be at least 1, found 0; try 1");
        assertThatThrownBy(() -> new Boft.Config(4, 0, 1, 1, true))
                .hasMessage("boft_dropout must lie in [0, 1), found 1.0; try 0");
        Linear layer = new Linear(24, 3, false, DType.FLOAT64);
        assertThatThrownBy(() -> random(layer, 5, 1))
                .hasMessage("boft_block_size is 5, which does not divide the input width 24 of x; try 4");
        assertThatThrownBy(() -> random(layer, 4, 3))
                .hasMessage(
                        "boft_n_butterfly_factor is 3, which wants blocks of an even size and a multiple of 4 of them,"
                                + " and x has 6 of size 4; try 1");
    }
}
