package dev.espalier.nn;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.espalier.tensor.DType;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Tensor;
import dev.espalier.tensor.TensorException;
import org.junit.jupiter.api.Test;

class ModuleTest {

    private static final class Net extends Module {
        final Embedding embed = child("embed", new Embedding(5, 3, DType.FLOAT32));
        final Linear head = child("head", new Linear(embed.weightParameter()));
        final Linear proj = child("proj", new Linear(3, 2, true, DType.FLOAT32));
    }

    @Test
    void pathsNameTheTree() {
        try (Net net = new Net()) {
            assertThat(net.namedParameters().keySet())
                    .containsExactly("embed.weight", "head.weight", "proj.weight", "proj.bias");
            assertThat(net.proj.path()).isEqualTo("proj");
        }
    }

    @Test
    void tiedParametersCountOnceAndMoveTogether() {
        try (Net net = new Net()) {
            assertThat(net.parameterCount()).isEqualTo(15 + 6 + 2);
            net.embed.weightParameter().set(Tensor.ones(DType.FLOAT32, 5, 3));
            assertThat(net.head.weight().floats()).containsOnly(1);
        }
    }

    @Test
    void shapeErrorsNameTheLayer() {
        try (Net net = new Net();
                Scope scope = Scope.open()) {
            assertThatThrownBy(() -> net.proj.forward(Tensor.zeros(DType.FLOAT32, 1, 4)))
                    .isInstanceOf(TensorException.class)
                    .hasMessageStartingWith("in proj: linear(");
        }
    }

    @Test
    void conv1dComputesWhatATransposedLinearDoes() {
        try (Conv1D conv = new Conv1D(2, 3, DType.FLOAT32);
                Scope scope = Scope.open()) {
            conv.setWeight(Tensor.of(new float[] {1, 2, 3, 4, 5, 6}, 3, 2));
            conv.biasParameter().set(Tensor.of(new float[] {10, 20, 30}));
            // [1, 1] times the rows (1, 2), (3, 4), (5, 6), plus the bias
            assertThat(conv.forward(Tensor.ones(DType.FLOAT32, 1, 2)).floats()).containsExactly(13, 27, 41);
            assertThat(conv.weightParameter().shape()).containsExactly(2, 3);
        }
    }

    @Test
    void aSubstituteStandsInAndLeaves() {
        try (Net net = new Net();
                Scope scope = Scope.open()) {
            net.proj.weightParameter().set(Tensor.ones(DType.FLOAT32, 2, 3));
            net.proj.biasParameter().set(Tensor.zeros(DType.FLOAT32, 2));
            Tensor x = Tensor.ones(DType.FLOAT32, 1, 3);
            net.proj.substitute((input, layer) -> layer.compute(input).mul(2));
            assertThat(net.proj.forward(x).floats()).containsExactly(6, 6);
            net.proj.substitute(null);
            assertThat(net.proj.forward(x).floats()).containsExactly(3, 3);
        }
    }
}
