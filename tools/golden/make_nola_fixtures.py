"""One layer of NOLA by the authors' code, with the random matrices that Espalier draws handed over.

    python make_nola_fixtures.py ../../methods/src/test/resources/golden/nola.json NOLA

NOLA is a checkout of github.com/UCDvision/NOLA. Their classes are run as they are; only the draws inside them are replaced.
"""

import ast
import math
import sys
from pathlib import Path

import torch
from torch import nn

from common import generator, save_json

torch.set_default_dtype(torch.float64)
CLONE = Path(sys.argv[2])
IN, OUT, R, K, SEED = 6, 4, 3, 5, 11
MASK, GAMMA = 2**64 - 1, 0x9E3779B97F4A7C15


def mix(z: int) -> int:
    z = (z + GAMMA) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def named(seed: int, name: str) -> int:
    h = 0xCBF29CE484222325
    for c in name:
        h = ((h ^ ord(c)) * 0x100000001B3) & MASK
    return mix((seed + mix(h)) & MASK)


def at(seed: int, n: int) -> int:
    return mix((seed + mix(n)) & MASK)


def basis(seed: int, k: int, rows: int, columns: int) -> torch.Tensor:
    """What RandomBasis of a seed specifies: [k, rows, columns]."""
    matrices = []
    for i in range(k):
        state = at(seed, i)
        entries = []
        for n in range((rows * columns + 1) // 2):
            word = mix((state + n * GAMMA) & MASK)
            entries += [(word >> 40) * 2.0**-23 - 1, ((word >> 16) & 0xFFFFFF) * 2.0**-23 - 1]
        matrices.append(torch.tensor(entries[: rows * columns]).view(rows, columns))
    return torch.stack(matrices)


def classes(path: str, *names: str) -> dict:
    """The classes of a file without what else it imports."""
    tree = ast.parse((CLONE / path).read_text())
    tree.body = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name in names]
    space = {"torch": torch, "nn": nn, "math": math, "init": nn.init}
    exec(compile(tree, path, "exec"), space)
    return space


def run(layer, alpha: nn.Parameter, beta: nn.Parameter) -> dict:
    g = generator("nola")
    x = torch.randn(2, IN, generator=g)
    upstream = torch.randn(2, OUT, generator=g)
    with torch.no_grad():
        alpha.copy_(torch.randn(K, generator=g))
        beta.copy_(torch.randn(K, generator=g))
    y = layer(x)
    (y * upstream).sum().backward()
    fields = dict(x=x, upstream=upstream, alpha=alpha, beta=beta, y=y, grad_alpha=alpha.grad, grad_beta=beta.grad)
    return {name: t.detach().flatten().tolist() for name, t in fields.items()}


A, B = basis(at(named(SEED, "A"), IN), K, R, IN), basis(at(named(SEED, "B"), OUT), K, OUT, R)

gpt = classes("gpt/src/model_nola.py", "GenerateParams", "NOLALinear", "LoRA")["LoRA"](
    IN, OUT, use_nola=True, num_basis=K, rank=R, alpha=6.0
)
nn.init.uniform_ = lambda w, a, b: w.copy_(A if w.shape == A.shape else B)
with torch.no_grad():
    gpt.lora_A.weight.copy_(basis(named(named(SEED, "x"), "A0"), 1, R, IN)[0] / math.sqrt(IN))
frozen_a0 = run(gpt, gpt.lora_A.coefficients, gpt.lora_B.coefficients)

vit = classes("vit/NOLA.py", "NOLA2")["NOLA2"](IN, OUT, ka=K, kb=K, rank=R)
with torch.no_grad():
    vit.A.copy_(A.transpose(1, 2) / math.sqrt(IN * R))
    vit.B.copy_(B.transpose(1, 2) / math.sqrt(R * OUT))
start = vit.nola_alpha.detach().tolist()
mean = run(vit, vit.nola_alpha, vit.nola_beta) | dict(start=start)

save_json(Path(sys.argv[1]), dict(frozen_a0=frozen_a0, mean=mean))
