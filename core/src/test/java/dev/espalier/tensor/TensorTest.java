package dev.espalier.tensor;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.espalier.EspalierException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;

class TensorTest {

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
    void valuesComeBackAsTheyWentIn() {
        assertThat(Tensor.of(new float[] {1.5f, -2}, 2, 1).floats()).containsExactly(1.5f, -2);
        assertThat(Tensor.of(new double[] {0.1}).doubles()).containsExactly(0.1);
        assertThat(Tensor.of(new long[] {Long.MAX_VALUE}).longs()).containsExactly(Long.MAX_VALUE);
        assertThat(Tensor.of(new boolean[] {true, false}).longs()).containsExactly(1, 0);
    }

    @ParameterizedTest
    @EnumSource(DType.class)
    void everyTypeSurvivesTheTripThroughBytes(DType dtype) {
        Tensor t = Tensor.of(new float[] {0, 1, 1, 0, 1, 0}, 2, 3).to(dtype);
        ByteBuffer bytes = ByteBuffer.allocate((int) t.bytes()).order(ByteOrder.LITTLE_ENDIAN);
        t.read(0, bytes);
        bytes.flip();
        Tensor back = Tensor.of(bytes, dtype, 2, 3);
        assertThat(back.dtype()).isEqualTo(dtype);
        assertThat(back.equal(t)).isTrue();
    }

    @Test
    void mappedTensorSharesTheBuffer() {
        ByteBuffer buffer = ByteBuffer.allocateDirect(8).order(ByteOrder.LITTLE_ENDIAN);
        Tensor t = Tensor.map(buffer, DType.FLOAT32, 2);
        buffer.putFloat(4, 7);
        assertThat(t.floats()).containsExactly(0, 7);
    }

    @Test
    void wrongCountIsRefused() {
        assertThatThrownBy(() -> Tensor.of(new float[] {1, 2, 3}, 2, 2))
                .isInstanceOf(EspalierException.class)
                .hasMessage("3 values were given for a tensor of shape [2, 2], which has 4");
    }

    @Test
    void whatLibtorchRefusesIsOneSentence() {
        Tensor a = Tensor.zeros(DType.FLOAT32, 2, 3);
        assertThatThrownBy(() -> a.matmul(a))
                .isInstanceOf(TensorException.class)
                .hasMessageStartingWith("matmul(FLOAT32[2, 3], FLOAT32[2, 3]): ")
                .hasMessageContaining("2x3 and 2x3")
                .hasMessageNotContaining("\n");
    }

    @Test
    void gradientOfAProductIsTheOtherFactor() {
        Tensor a = Tensor.of(new double[] {2, 3}).requiresGrad_(true);
        Tensor b = Tensor.of(new double[] {5, 7});
        a.mul(b).sum().backward();
        assertThat(a.grad().doubles()).containsExactly(5, 7);
        a.clearGrad();
        assertThat(a.grad()).isNull();
    }

    @Test
    void svdRebuildsTheMatrix() {
        Tensor a = new Seed(1).generator().randn(5, 3);
        List<Tensor> usv = a.svd();
        Tensor rebuilt = usv.get(0).mul(usv.get(1)).matmul(usv.get(2));
        assertThat(rebuilt.allclose(a, 0, 1e-5)).isTrue();
    }

    @Test
    void seededGeneratorGivesTorchsNumbers() {
        // torch.Generator().manual_seed(0); torch.empty(3).uniform_(0, 1, generator=g)
        float[] values = Generator.of(0).uniform(0, 1, 3).floats();
        assertThat(values).containsExactly(0.4962566f, 0.7682218f, 0.08847743f);
    }

    @Test
    void namedSeedsDifferAndRepeat() {
        Seed seed = new Seed(42);
        assertThat(seed.named("a")).isEqualTo(seed.named("a")).isNotEqualTo(seed.named("b"));
        assertThat(seed.at(1)).isNotEqualTo(seed.at(2));
        assertThat(new Seed(43).named("a")).isNotEqualTo(seed.named("a"));
    }

    @Test
    void threadsAreThoseAskedForBeforeNativesLoad() {
        Map<String, String> environment = Machine.threadEnvironment();
        assertThat(Machine.threads())
                .isEqualTo(Math.max(
                        Integer.parseInt(environment.get("OMP_NUM_THREADS")),
                        Integer.parseInt(environment.get("OPENBLAS_NUM_THREADS"))));
    }

    /** One row takes a way of its own where no gradient is recorded. */
    @Test
    void aRowAloneGivesWhatItGivesAmongOthers() {
        try (Scope scope = Scope.open();
                Generator generator = Generator.of(3)) {
            Tensor x = generator.randn(4, 3, 7).transpose(0, 1); // [3, 4, 7], not contiguous
            Tensor w = generator.randn(5, 7);
            Tensor b = generator.randn(5);
            Tensor all = x.linear(w, b);
            try (Grad off = Grad.off()) {
                Tensor row = x.narrow(0, 2, 1).narrow(1, 1, 1);
                assertThat(row.linear(w, b).shape()).containsExactly(1, 1, 5);
                assertThat(row.linear(w, b)
                                .sub(all.narrow(0, 2, 1).narrow(1, 1, 1))
                                .abs()
                                .max()
                                .item())
                        .isLessThan(1e-6);
                assertThat(row.linear(w, null)
                                .add(b)
                                .sub(row.linear(w, b))
                                .abs()
                                .max()
                                .item())
                        .isZero();
                assertThat(row.reshape(7).linear(w, b).shape()).containsExactly(5);
            }
        }
    }
}
