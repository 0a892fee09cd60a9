"""Files written by the reference implementation of safetensors: every type in one, and a model in two shards.

    python make_safetensors_fixtures.py ../../core/src/test/resources/golden/safetensors

Every tensor counts 0, 1, 2, ... (booleans: odd), so that tests need no file of expected values.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

TYPES = {
    "f64": torch.float64,
    "f32": torch.float32,
    "f16": torch.float16,
    "bf16": torch.bfloat16,
    "i64": torch.int64,
    "i32": torch.int32,
    "i16": torch.int16,
    "i8": torch.int8,
    "u8": torch.uint8,
    "u16": torch.uint16,
    "u32": torch.uint32,
}


def main(folder: Path) -> None:
    sharded = folder / "sharded"
    sharded.mkdir(parents=True, exist_ok=True)
    tensors = {name: torch.arange(6).reshape(2, 3).to(dtype) for name, dtype in TYPES.items()}
    tensors["bool"] = torch.arange(3) % 2 == 1
    tensors["scalar"] = torch.tensor(0.0)
    tensors["empty"] = torch.zeros(0, 4)
    save_file(tensors, folder / "types.safetensors", {"format": "pt", "note": "Grüße"})
    save_file({"f8": torch.zeros(4).to(torch.float8_e4m3fn)}, folder / "f8.safetensors")

    shards = {
        "model-00001-of-00002.safetensors": {"a.weight": torch.arange(4.0), "a.bias": torch.arange(2.0)},
        "model-00002-of-00002.safetensors": {"b.weight": torch.arange(6.0).reshape(3, 2)},
    }
    for name, content in shards.items():
        save_file(content, sharded / name, {"format": "pt"})
    index = {
        "metadata": {"total_size": 48},
        "weight_map": {tensor: shard for shard, content in shards.items() for tensor in content},
    }
    (sharded / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


main(Path(sys.argv[1]))
