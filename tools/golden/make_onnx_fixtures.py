"""A small ONNX graph with initialisers of every kind, and one whose weights lie in another file.

    python make_onnx_fixtures.py ../../core/src/test/resources/golden/onnx

Every initialiser counts 0, 1, 2, ... so that tests need no file of expected values.
"""

import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)

    def raw(name: str, shape: list[int], dtype: type = np.float32) -> TensorProto:
        return numpy_helper.from_array(np.arange(np.prod(shape)).reshape(shape).astype(dtype), name)

    def typed(name: str, kind: int, shape: list[int]) -> TensorProto:
        return helper.make_tensor(name, kind, shape, list(range(int(np.prod(shape)))))

    loose = TensorProto(name="loose", dims=[3], data_type=TensorProto.FLOAT, float_data=[0, 1, 2])
    initialisers = [
        raw("embeddings.weight", [4, 2]),
        raw("layer.0.dense.bias", [3]),
        raw("onnx::MatMul_7", [2, 3]),
        raw("onnx::Gemm_9", [5, 3]),
        raw("raw.i64", [2], np.int64),
        raw("raw.f64", [2], np.float64),
        raw("raw.f16", [2], np.float16),
        raw("raw.bool", [2], np.bool_),
        typed("typed.f32", TensorProto.FLOAT, [2, 2]),
        typed("typed.i64", TensorProto.INT64, [300]),
        typed("typed.i32", TensorProto.INT32, [2]),
        typed("typed.i16", TensorProto.INT16, [2]),
        typed("typed.f16", TensorProto.FLOAT16, [3]),
        typed("typed.f64", TensorProto.DOUBLE, [2]),
        typed("typed.u32", TensorProto.UINT32, [2]),
        loose,
    ]
    nodes = [
        helper.make_node("Gather", ["embeddings.weight", "ids"], ["x"], "/embeddings/Gather"),
        helper.make_node("MatMul", ["x", "onnx::MatMul_7"], ["y"], "/layer.0/dense/MatMul"),
        helper.make_node("Add", ["layer.0.dense.bias", "y"], ["z"], "/layer.0/dense/Add"),
        helper.make_node("Gemm", ["z", "onnx::Gemm_9"], ["out"], "/classifier/Gemm", transB=1, alpha=1.0),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, [4])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [4, 5])],
        initialisers,
    )
    model = helper.make_model(graph, producer_name="espalier-golden", producer_version="1")
    onnx.save(model, folder / "small.onnx")

    external = onnx.ModelProto.FromString(model.SerializeToString())
    onnx.save(external, folder / "external.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    (folder / "w.bin").unlink()


main(Path(sys.argv[1]))
