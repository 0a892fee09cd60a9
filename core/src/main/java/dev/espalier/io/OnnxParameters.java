package dev.espalier.io;

import static dev.espalier.Check.check;

import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Tensor;
import java.util.ArrayList;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;

/** An ONNX model's initialisers under PyTorch's names; see {@link Onnx#parameters}. */
final class OnnxParameters implements TensorSource {

    /** Where a parameter lies in the file. */
    private record Home(String initializer, boolean transposed) {}

    private static final String ANONYMOUS = "onnx::"; // the exporter's prefix for values it made itself

    private final Onnx onnx;
    private final Map<String, Home> homes = new LinkedHashMap<>();
    private final Map<String, TensorInfo> tensors = new LinkedHashMap<>();

    private OnnxParameters(Onnx onnx) {
        this.onnx = onnx;
    }

    static OnnxParameters of(Onnx onnx) {
        OnnxParameters parameters = new OnnxParameters(onnx);
        for (String name : onnx.tensors().keySet()) {
            if (!name.startsWith(ANONYMOUS)) {
                parameters.add(name, new Home(name, false));
            }
        }
        for (Onnx.Node node : onnx.nodes()) {
            boolean matmul = node.operation().equals("MatMul");
            if ((matmul || node.operation().equals("Gemm")) && node.inputs().size() >= 2) {
                String weight = node.inputs().get(1);
                if (weight.startsWith(ANONYMOUS) && onnx.tensors().containsKey(weight)) {
                    boolean outIn = !matmul && node.integers().getOrDefault("transB", 0L) == 1;
                    parameters.add(path(node.name()) + "weight", new Home(weight, !outIn));
                }
            }
        }
        return parameters;
    }

    /** {@code /encoder/layer.0/output/dense/MatMul} to {@code encoder.layer.0.output.dense.} */
    private static String path(String node) {
        int end = node.lastIndexOf('/');
        return end <= 0 ? "" : node.substring(1, end).replace('/', '.') + ".";
    }

    private void add(String name, Home home) {
        TensorInfo stored = onnx.info(home.initializer);
        List<Long> shape = new ArrayList<>(stored.shape());
        if (home.transposed) {
            check(
                    shape.size() == 2,
                    "%s: weight %s should be a matrix, found shape %s",
                    where(),
                    home.initializer,
                    shape);
            Collections.reverse(shape);
        }
        check(homes.put(name, home) == null, "%s: two weights belong to parameter %s", where(), name);
        tensors.put(name, new TensorInfo(name, stored.dtype(), stored.storedType(), shape, stored.bytes()));
    }

    @Override
    public String where() {
        return onnx.where();
    }

    @Override
    public Map<String, TensorInfo> tensors() {
        return Collections.unmodifiableMap(tensors);
    }

    @Override
    public Map<String, String> metadata() {
        return onnx.metadata();
    }

    @Override
    public Tensor read(String name) {
        info(name); // names the nearest if there is none
        Home home = Objects.requireNonNull(homes.get(name));
        if (!home.transposed) {
            return onnx.read(home.initializer);
        }
        try (Scope scope = Scope.open()) {
            return scope.promote(onnx.read(home.initializer).t().contiguous());
        }
    }

    @Override
    public void close() {
        onnx.close();
    }
}
