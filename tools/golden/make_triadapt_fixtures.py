"""TriAdaptLoRA by its authors' code: python make_triadapt_fixtures.py TARGET CLONE

TARGET is methods/src/test/resources/golden. CLONE is a clone of github.com/YaoLiang2023/DiverValue-Bench (read at 7ccb196),
whose fork of PEFT holds three starts of the method. Writes triadapt.safetensors: the blocks of a layer [5, 4] that has grown twice,
the change of its weight, and ||C|| / n.
"""

import re
import sys
import textwrap
import types
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

CASES = {
    "c0": ("_bak_21_final_parameterlist_block_c0", 2),
    "unit": ("_bak_21_final_parameterlist_single", 1),
}


def authors(clone, suffix):
    """The change of a weight and the score of a layer, without the rest of the fork."""
    source = (clone / f"peft/src/peft/tuners/triadaptlora{suffix}.py").read_text()
    names = {"torch": torch, "nn": nn}
    exec(re.search(r"class loraW\(nn\.Module\):.*?(?=\nclass )", source, re.S).group(0), names)
    score = re.search(r"    def compute_score.*?(?=\nclass )", source, re.S).group(0)
    exec(textwrap.dedent(score), names)
    return names["loraW"](), names["compute_score"]


def main():
    target, clone = Path(sys.argv[1]), Path(sys.argv[2])
    tensors = {}
    for name, (suffix, k) in CASES.items():
        change, score = authors(clone, suffix)
        generator = torch.Generator().manual_seed(14)
        sizes = [1, k, k]
        a, b, low, up = [], [], [], []
        for i, size in enumerate(sizes):
            r = sum(sizes[: i + 1])
            a.append(torch.randn(size, 4, generator=generator))
            b.append(torch.randn(5, size, generator=generator))
            low.append(torch.randn(size, r, generator=generator))
            up.append(torch.randn(r, size, generator=generator))
            suffix = "" if i == 0 else f".{i}"
            tensors[f"{name}.lora_A{suffix}"] = a[-1]
            tensors[f"{name}.lora_B{suffix}"] = b[-1]
            tensors[f"{name}.lora_C_low{suffix}"] = low[-1]
            tensors[f"{name}.lora_C_up{suffix}"] = up[-1]
        tensors[f"{name}.change"] = change(a, low, up, b, 8)
        layer = types.SimpleNamespace(lora_C_row={"x": low}, lora_C_col={"x": up}, score={}, preNormValue={"x": 0.0})
        tensors[f"{name}.norm"] = score(layer, "x").reshape(1)
    save_file({key: value.contiguous() for key, value in tensors.items()}, target / "triadapt.safetensors")


if __name__ == "__main__":
    main()
