"""Codes and decompositions by the authors' code of LQ-LoRA (github.com/HanGuo97/lq-lora, c2424b3), for LqLoraTest.

    python make_compress_fixtures.py ../../methods/src/test/resources/golden/compress CHECKOUT

Its dependencies that need a GPU are stood in for: NVIDIA's unsigned quantiser by its published arithmetic, in Unsigned.
"""

import sys
import types
from pathlib import Path

import torch

from common import save_tensors


class Unsigned:
    """pytorch_quantization.tensor_quant.fake_tensor_quant: round(x s) / s, s = bound / amax, half to even; amax near 0: 0."""

    @staticmethod
    def fake_tensor_quant(x, amax, bits, unsigned=False):
        bound = torch.tensor(2.0 ** (bits - 1 + int(unsigned)) - 1.0)
        scale = bound / amax
        codes = torch.clamp((x * scale).round(), 0 if unsigned else -bound, bound)
        codes = torch.where(amax <= 1.0 / (1 << 24), torch.zeros_like(codes), codes)
        return torch.where(codes == 0, codes, codes / scale)


def authors(checkout):
    sys.path.insert(0, checkout)
    quant = types.ModuleType("pytorch_quantization")
    quant.tensor_quant = Unsigned
    sys.modules["pytorch_quantization"] = quant
    for name in ("bitsandbytes", "gurobipy", "models.misc_utils", "models.quantization_utils_2"):
        sys.modules[name] = types.ModuleType(name)
    package = types.ModuleType("models")
    package.__path__ = [checkout + "/models"]
    package.misc_utils = sys.modules["models.misc_utils"]
    package.misc_utils.swarn = lambda *args, **kwargs: None
    package.quantization_utils_2 = sys.modules["models.quantization_utils_2"]
    sys.modules["models"] = package
    from models import lq_utils, quantization_utils

    def plain(a, qconfig, fake=True):
        return quantization_utils.quantize(a, method="blockwise-nf", qconfig=qconfig)

    lq_utils.maybe_sparsify_or_quantize = plain
    return lq_utils, quantization_utils


def results(lq, quantization, w, f):
    tensors = {"w": w, "f": f}
    for name, config in {
        "4-8-fp32-64-8": quantization.QuantConfig(4, 8, "fp32", 64, 8),
        "3-4-bf16-32-16": quantization.QuantConfig(3, 4, "bf16", 32, 16),
        "2-2-fp16-16-16": quantization.QuantConfig(2, 2, "fp16", 16, 16),
    }.items():
        tensors[name + ".plain"] = quantization.quantize(w, method="blockwise-nf", qconfig=config)
        for kind, weights in {"lq": None, "fisher": f}.items():
            l1, l2, q, _ = lq.lowrank_quantized_sparse_decomposition(
                w, num_ranks=4, num_iterations=3, randomized=False, qconfig=config, W=weights, heuristic="two-sided"
            )
            tensors[f"{name}.{kind}.q"] = q
            tensors[f"{name}.{kind}.l1l2"] = l1 @ l2
    return tensors


def main(target, checkout):
    """The first draw in which no weight lies so near a level's edge that the last bits of an SVD decide its code."""
    lq, quantization = authors(checkout)
    for seed in range(1000):
        torch.manual_seed(seed)
        w = torch.randn(32, 4) @ torch.randn(4, 64) + torch.randn(32, 64)
        f = torch.rand(32, 64) ** 4
        tensors = results(lq, quantization, w, f)
        shaken = [results(lq, quantization, w * (1 + 5e-7 * torch.randn(32, 64)), f) for _ in range(6)]
        if all((s[k] - t).norm() < 1e-5 * t.norm() for s in shaken for k, t in tensors.items()):
            save_tensors(Path(target) / "lq-lora.safetensors", tensors)
            return
    raise SystemExit("no such draw; make the matrices smaller")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
