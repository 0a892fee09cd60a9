"""Makes one case under `golden/peft`: an adapter as PEFT writes it, moved from its start, with the outputs PEFT gives.

A script a group of methods calls `make` for each of its cases. `PeftGoldenTest` finds a case by its `case.json` and holds
the method to it; nothing else has to be told.
"""

import shutil
import warnings
from pathlib import Path
from typing import Callable

import torch
from peft import PeftConfig, PeftModel, get_peft_model

from bases import VOCAB, base
from common import generator, padded, save_json, save_tensors

warnings.filterwarnings("ignore")


def task(base_name: str) -> str:
    """What a configuration says as `task_type` for one of the base networks."""
    return "SEQ_CLS" if base_name == "bert" else "CAUSAL_LM"


def inputs(name: str) -> dict[str, torch.Tensor]:
    return padded(f"peft/{name}", VOCAB, 0, [7, 5], "right")


@torch.no_grad()
def move(model, name: str, noise: float = 0.15) -> None:
    """Adds seeded noise to every trainable tensor, as training would have moved it."""
    g = generator(f"move/{name}")
    for p in model.parameters():
        if p.requires_grad:
            p.add_(torch.randn(p.shape, generator=g) * noise)


@torch.no_grad()
def logits(model, batch) -> torch.Tensor:
    """Logits [batch, labels], or [batch, length, vocab] without those of virtual tokens and 0 at padded positions."""
    out = model.eval()(**batch).logits
    if out.dim() == 2:
        return out
    return out[:, -batch["input_ids"].shape[1] :] * batch["attention_mask"][..., None]


def check(name: str, base_name: str, folder: Path, batch: dict, expected: torch.Tensor) -> None:
    """Loads what was written and compares."""
    again = PeftModel.from_pretrained(base(base_name), folder)
    gap = (logits(again, batch) - expected).abs().max().item()
    assert gap < 2e-5, f"{name}: {gap} after reloading"


def make(
    root: Path,
    base_name: str,
    variant: str,
    config: PeftConfig,
    *,
    adapter_name: str = "default",
    merges: bool = True,
    peft_merges: bool = True,
    move: Callable[[PeftModel, str], None] = move,
    also: Callable[[PeftModel, Path, dict, torch.Tensor], dict] | None = None,
) -> None:
    """Writes `root/<base_name>-<variant>/`.

    config: of any method. Say `task_type=task(base_name)`; for a classifier PEFT then trains and keeps its head too.
    merges: whether the method can be merged at all; if not, `case.json` says so.
    peft_merges: whether PEFT's merge is right; if not, `logits.merged` is left out.
    move: brings the trainable tensors away from their start, given the model and the case's name.
    also: writes more into the folder before anything is merged, and returns what `case.json` shall say of it.
    """
    name = f"{base_name}-{variant}"
    folder = root / name
    shutil.rmtree(folder, ignore_errors=True)
    batch = inputs(name)
    expected = batch | {"logits.base": logits(base(base_name), batch)}

    torch.manual_seed(generator(name).initial_seed())
    model = get_peft_model(base(base_name), config, adapter_name=adapter_name)
    move(model, name)
    expected["logits"] = logits(model, batch)
    assert (expected["logits"] - expected["logits.base"]).abs().max() > 0.1, name

    model.save_pretrained(folder / "adapter")
    stored = folder / "adapter" / ("" if adapter_name == "default" else adapter_name)
    check(name, base_name, stored, batch, expected["logits"])
    case = dict(base=base_name, adapter=str(stored.relative_to(folder)))
    if also:
        case |= also(model, folder, batch, expected["logits"])
    for card in folder.rglob("README.md"):
        card.unlink()

    if merges:
        merged = logits(model.merge_and_unload(), batch)
        gap = (merged - expected["logits"]).abs().max().item()
        assert (gap < 1e-4) == peft_merges, (name, gap)
        if peft_merges:
            expected["logits.merged"] = merged
    else:
        case["merges"] = False
    save_tensors(folder / "expected.safetensors", expected)
    save_json(folder / "case.json", case)
