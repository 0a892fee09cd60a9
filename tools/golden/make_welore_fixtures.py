"""WeLore by its authors' code: python make_welore_fixtures.py TARGET CLONE

TARGET is methods/src/test/resources/golden/compress. CLONE is a clone of github.com/VITA-Group/WeLore (read at 3f3dac6). Writes
welore.safetensors: four weights, how many of their ranks go at some thresholds, and the pair that one of them becomes (bfloat16).
"""

import importlib.util
import logging
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import torch
from safetensors.torch import save_file

THRESHOLDS = [0.0, 0.05, 0.145, 0.3, 0.5, 0.9, 1.0]
LOW = 3


def weights(generator):
    """Two with a few directions of like size, one between, one without any."""
    shapes = [(24, 16), (16, 24), (20, 20), (20, 20)]
    strengths = [4, 2, 0.3, 0]
    for (out, width), strength in zip(shapes, strengths):
        signal = torch.randn(out, LOW, generator=generator) @ torch.randn(LOW, width, generator=generator)
        yield strength * signal + 0.2 * torch.randn(out, width, generator=generator)


def main():
    target, clone = Path(sys.argv[1]), Path(sys.argv[2])
    source = (clone / "utils.py").read_text()
    names = {"torch": torch}
    exec(re.search(r"def adaptive_rank_pruning.*?(?=\ndef |\Z)", source, re.S).group(0), names)
    spec = importlib.util.spec_from_file_location("low_rank", clone / "lib/LowRankLayer.py")
    low_rank = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(low_rank)
    generator = torch.Generator().manual_seed(24)
    all_weights = list(weights(generator))
    values = {0: {str(i): torch.svd(w)[1] for i, w in enumerate(all_weights)}}
    pruned = []
    for k in THRESHOLDS:
        gone = names["adaptive_rank_pruning"](SimpleNamespace(rank_thresold=k), k, values, logging.getLogger())
        pruned.append([int(gone[0][str(i)]) for i in range(len(all_weights))])
    layer = low_rank.LowRankLayer(LOW, all_weights[0])
    tensors = {f"weight.{i}": w for i, w in enumerate(all_weights)}
    tensors["thresholds"] = torch.tensor(THRESHOLDS, dtype=torch.float64)
    tensors["pruned"] = torch.tensor(pruned)
    tensors["b"], tensors["a"] = layer.U.weight.data, layer.V.weight.data
    save_file(tensors, target / "welore.safetensors", metadata={"format": "pt"})


if __name__ == "__main__":
    main()
