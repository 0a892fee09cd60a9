package dev.espalier.io;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.espalier.EspalierException;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Tensor;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.stream.IntStream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

class OnnxTest {

    private static final Path SMALL = Golden.path("onnx/small.onnx");

    @ParameterizedTest
    @CsvSource({
        "embeddings.weight,FLOAT32,8", "raw.i64,INT64,2", "raw.f64,FLOAT64,2", "raw.f16,FLOAT16,2", "raw.bool,BOOL,2",
        "typed.f32,FLOAT32,4", "typed.i64,INT64,300", "typed.i32,INT32,2", "typed.i16,INT16,2", "typed.f16,FLOAT16,3",
        "typed.f64,FLOAT64,2", "typed.u32,INT64,2", "loose,FLOAT32,3"
    })
    void readsInitialisersOfEveryKind(String name, DType dtype, int count) {
        try (Scope scope = Scope.open();
                Onnx onnx = Onnx.open(SMALL)) {
            Tensor tensor = onnx.read(name);
            assertThat(tensor.dtype()).isEqualTo(dtype);
            assertThat(tensor.doubles())
                    .isEqualTo(IntStream.range(0, count).asDoubleStream().toArray());
        }
    }

    @Test
    void nodesTellNamesInputsAndIntegerAttributes() {
        try (Onnx onnx = Onnx.open("small", Golden.bytes("onnx/small.onnx"))) {
            assertThat(onnx.nodes())
                    .contains(
                            new Onnx.Node(
                                    "/layer.0/dense/MatMul",
                                    "MatMul",
                                    List.of("x", "onnx::MatMul_7"),
                                    List.of("y"),
                                    Map.of()),
                            new Onnx.Node(
                                    "/classifier/Gemm",
                                    "Gemm",
                                    List.of("z", "onnx::Gemm_9"),
                                    List.of("out"),
                                    Map.of("transB", 1L)))
                    .hasSize(4);
            assertThat(onnx.metadata()).containsEntry("producer_name", "espalier-golden");
        }
    }

    @Test
    void parametersHavePyTorchsNamesAndShapes() {
        try (Scope scope = Scope.open();
                TensorSource parameters = Onnx.open(SMALL).parameters()) {
            assertThat(parameters.tensors())
                    .containsKeys(
                            "embeddings.weight", "layer.0.dense.bias", "layer.0.dense.weight", "classifier.weight")
                    .doesNotContainKeys("onnx::MatMul_7", "onnx::Gemm_9");
            // MatMul's [in 2, out 3] counting up becomes [out 3, in 2]; Gemm with transB has [out, in] already.
            Tensor weight = parameters.read("layer.0.dense.weight");
            assertThat(weight.shape()).containsExactly(3, 2);
            assertThat(parameters.info("layer.0.dense.weight").shape()).containsExactly(3L, 2L);
            assertThat(weight.floats()).containsExactly(0, 3, 1, 4, 2, 5);
            assertThat(parameters.read("classifier.weight").shape()).containsExactly(5, 3);
        }
    }

    @Test
    void weightsInAnotherFileAreRefused() {
        assertThatThrownBy(() -> Onnx.open(Golden.path("onnx/external.onnx")))
                .isExactlyInstanceOf(EspalierException.class)
                .hasMessageEndingWith(
                        "keeps weights in another file beside it, which is not read; save the model as one file");
    }

    @Test
    void whatIsNoModelIsRefused() {
        refused(new byte[0], "model is not an ONNX model: it holds no graph; check the path");
        refused(
                new byte[] {0x3a, 5, 0},
                "model is cut off or damaged: a field claims 5 bytes, 1 are left; fetch it again");
        refused(new byte[] {0x0b}, "model is damaged: a field has another wire type than its kind");
        refused(new byte[] {0x02, 0}, "model is damaged: 0 is no field number of a protocol-buffer message");
        refused(
                new byte[] {8, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, 1},
                "model is damaged: an integer takes more than ten bytes");
        refused(new byte[] {8, -1}, "model is cut off: it ends inside a field; fetch it again");
    }

    @Test
    void initialisersAreHeldAgainstTheirShape() {
        // graph { initializer { dims: 2^40, data_type: 1, raw_data: 4 bytes } }, lengths written by hand
        byte[] raw = {0x3a, 17, 0x2a, 15, 8, -128, -128, -128, -128, -128, 32, 16, 1, 0x4a, 4, 0, 0, 0, 0};
        refused(raw, "model: initialiser  of shape [1099511627776] and type F32 needs 4398046511104 bytes, found 4");
        // the same with int64_data of one value
        byte[] typed = {0x3a, 13, 0x2a, 11, 8, -128, -128, -128, -128, -128, 32, 16, 7, 0x38, 1};
        refused(typed, "model: initialiser  needs 8796093022208 bytes, 1 are there");
    }

    private static void refused(byte[] model, String sentence) {
        assertThatThrownBy(() -> Onnx.open("model", model))
                .isExactlyInstanceOf(EspalierException.class)
                .hasMessage(sentence);
    }
}
