"""SMoRA's layer by the authors' own code, run as it stands, in float64.

    python make_smora_fixtures.py ../../methods/src/test/resources/golden/adapters SMORA

SMORA is a checkout of github.com/StyxXuan/smora (7e7ada1). Its indexed products need TVM and a GPU; its dense path gives the same.
"""

import importlib.util
import json
import sys
import types
from pathlib import Path

from common import generator  # first: it fixes torch's threads

import torch
from torch import nn

TARGET = Path(sys.argv[1])


def layer_of(checkout: Path):
    """Their layer's module, beside stand-ins for what it imports and does not use: topk.py is missing from the release."""
    folder = checkout / "packages/peft/src/peft/tuners/srmole"
    package = types.ModuleType("srmole")
    package.__path__ = [str(folder)]
    sys.modules["srmole"] = package
    sys.modules["srmole.idx_matmul_A"] = types.SimpleNamespace(IndexedMatMul_A=None)
    sys.modules["srmole.idx_matmul_B"] = types.SimpleNamespace(IndexedMatMul_B=None)
    sys.modules["srmole.topk"] = types.SimpleNamespace(TopK_custom=None)
    spec = importlib.util.spec_from_file_location("srmole.layer", folder / "layer.py")
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def numbers(tensor: torch.Tensor) -> list[float]:
    return [round(value, 12) for value in tensor.detach().flatten().tolist()]


def case(authors, name: str, r: int, k: int, p: int, u: float, steps: int) -> dict:
    g = generator(f"smora {name}")
    width, out = 4, 5
    base = nn.Linear(width, out).double()
    base.weight.data = torch.randn(out, width, generator=g).double()
    base.bias.data = torch.randn(out, generator=g).double()
    layer = authors.SRMoLELinear(
        base, "default", r=r, activate_r=k, rank_partition=p, lora_alpha=3, bias_update_rate=u, dense_compute=True
    ).double()
    a, b, router = (m["default"].weight for m in (layer.lora_A, layer.lora_B, layer.lora_router))
    for tensor in (a, b, router):
        tensor.data = torch.randn(tensor.shape, generator=g).double()
    biases = layer.lora_biases["default"]
    biases.requires_grad_(False)  # by accident it is trainable in the release
    x = torch.randn(2, 3, width, generator=g).double().requires_grad_(True)
    wanted = torch.randn(2, 3, out, generator=g).double()
    made = dict(name=name, r=r, k=k, p=p, u=u, alpha=3, rate=0.1)
    for key, tensor in dict(W=base.weight, bias=base.bias, A=a, B=b, R=router, x=x, wanted=wanted).items():
        made[key] = numbers(tensor)
    made["steps"] = []
    optimizer = torch.optim.SGD([a, b, router], 0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        x.grad = None
        y = layer(x)
        (y - wanted).square().mean().backward()
        optimizer.step()
        made["steps"].append(dict(y=numbers(y), dx=numbers(x.grad), A=numbers(a), B=numbers(b), R=numbers(router),
                                  c=numbers(layer.lora_biases["default"])))
    return made


if __name__ == "__main__":
    authors = layer_of(Path(sys.argv[2]))
    cases = [case(authors, "ranks", 6, 2, 1, 0.01, 4), case(authors, "blocks", 6, 4, 2, 0, 3)]
    TARGET.mkdir(parents=True, exist_ok=True)
    (TARGET / "smora.json").write_text(json.dumps(dict(cases=cases)) + "\n")
