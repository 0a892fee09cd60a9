"""What the fixture scripts share: seeded weights that leave nothing at its default, padded batches, small files."""

import json
import os
import sys
import zlib
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
if os.environ.get("PYTHONHASHSEED") != "0":
    # PEFT writes sets in hash order; start again with the order fixed so that the files are the same every time.
    os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | {"PYTHONHASHSEED": "0"})

import torch
from safetensors.torch import save_file

torch.set_num_threads(1)


def generator(name: str) -> torch.Generator:
    """A generator that depends on the name alone, so that adding a case changes no other case."""
    return torch.Generator().manual_seed(zlib.crc32(name.encode()))


@torch.no_grad()
def fill(model: torch.nn.Module, name: str) -> torch.nn.Module:
    """Replaces every parameter by seeded noise: biases are not 0 and norm weights not 1, so that a mistake shows."""
    g = generator(name)
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Embedding)}
    for path, p in model.named_parameters():
        noise = torch.randn(p.shape, generator=g)
        if id(p) in embeddings:
            # Small enough that tied output weights do not just repeat the last token.
            p.copy_(noise * 0.3)
        elif p.dim() > 1:
            p.copy_(noise * 1.5 / p.shape[-1] ** 0.5)
        elif path.endswith("bias"):
            p.copy_(noise * 0.3)
        else:
            p.copy_(1 + noise * 0.3)
    return model.eval()


def padded(name: str, vocab: int, pad: int, lengths: list[int], side: str) -> dict[str, torch.Tensor]:
    """Random ids (never a special id: all are >= 4) of the given lengths, padded on one side, with their mask."""
    g = generator(name)
    width = max(lengths)
    ids = torch.full((len(lengths), width), pad)
    mask = torch.zeros(len(lengths), width, dtype=torch.long)
    for row, length in enumerate(lengths):
        where = slice(width - length, width) if side == "left" else slice(0, length)
        ids[row, where] = torch.randint(4, vocab, (length,), generator=g)
        mask[row, where] = 1
    return {"input_ids": ids, "attention_mask": mask}


def positions_from_mask(mask: torch.Tensor) -> torch.Tensor:
    """Position ids as `generate` derives them: the first real token is at 0 on either side of the padding."""
    return (mask.cumsum(-1) - 1).clamp(min=0)


def save_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({k: v.detach().contiguous().clone() for k, v in tensors.items()}, path, metadata={"format": "pt"})


def save_json(path: Path, value) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n")
