"""A GGUF file with every type of value and tensor, and what the gguf package dequantises its tensors to.

    python make_gguf_fixtures.py ../../core/src/test/resources/golden/gguf

Types that the package can quantise hold quantised noise; the K types hold random bytes under finite scales.
"""

import sys
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf import GGUFValueType as Value
from gguf import GGUFWriter
from gguf.constants import GGML_QUANT_SIZES
from gguf.quants import dequantize, quantize
from safetensors.numpy import save_file

# Where the half-precision scales of a block lie: random bytes there would be infinities and NaNs.
HALVES = {Type.Q2_K: [80, 82], Type.Q3_K: [108], Type.Q4_K: [0, 2], Type.Q5_K: [0, 2], Type.Q6_K: [208]}
QUANTISED = [Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1, Type.Q8_0, Type.F16, Type.BF16]


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(7)
    writer = GGUFWriter(folder / "all_types.gguf", "test")
    writer.add_key_value("a.u8", 200, Value.UINT8)
    writer.add_key_value("a.i8", -5, Value.INT8)
    writer.add_key_value("a.u16", 60000, Value.UINT16)
    writer.add_key_value("a.i16", -3000, Value.INT16)
    writer.add_key_value("a.u32", 4000000000, Value.UINT32)
    writer.add_key_value("a.i32", -2000000000, Value.INT32)
    writer.add_key_value("a.f32", 0.1, Value.FLOAT32)
    writer.add_key_value("a.bool", True, Value.BOOL)
    writer.add_key_value("a.string", "Grüße ☂", Value.STRING)
    writer.add_key_value("a.u64", 2**64 - 1, Value.UINT64)
    writer.add_key_value("a.i64", -(2**62), Value.INT64)
    writer.add_key_value("a.f64", 0.1, Value.FLOAT64)
    writer.add_array("a.strings", ["one", "", "drei"])
    writer.add_array("a.ints", [1, -2, 3])
    writer.add_array("a.floats", [0.5, -1.25])
    writer.add_array("a.bools", [True, False])

    expected = {}
    for kind in QUANTISED:
        values = rng.standard_normal((3, 64), dtype=np.float32)
        data = quantize(values, kind)
        writer.add_tensor(kind.name, data, raw_dtype=kind)
        expected[kind.name] = dequantize(data, kind)
    for kind, halves in HALVES.items():
        blocks = rng.integers(0, 256, (2 * 2, GGML_QUANT_SIZES[kind][1]), dtype=np.uint8)
        for at in halves:
            scale = (rng.standard_normal(len(blocks)) / 8).astype(np.float16)
            blocks[:, at : at + 2] = scale.view(np.uint8).reshape(-1, 2)
        data = blocks.reshape(2, -1)
        writer.add_tensor(kind.name, data, raw_dtype=kind)
        expected[kind.name] = dequantize(data, kind)
    plain = rng.standard_normal((2, 3, 5), dtype=np.float32)
    writer.add_tensor("F32", plain)
    expected["F32"] = plain
    for name, dtype in {"I8": np.int8, "I16": np.int16, "I32": np.int32}.items():
        data = np.array([-7, 0, 100], dtype)
        writer.add_tensor(name, data)
        expected[name] = data.astype(np.float32)

    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    save_file(expected, folder / "all_types.safetensors")


main(Path(sys.argv[1]))
