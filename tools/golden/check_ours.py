"""Loads adapters that Espalier wrote in PEFT and compares PEFT's logits with Espalier's.

    java ... OursForPeft OUT | python check_ours.py [--tolerance 1e-4]
    python check_ours.py BASE_FOLDER ADAPTER_FOLDER

Without folders it reads a base and an adapter folder a line, as OursForPeft prints them. Beside each adapter lies
`ours.safetensors`: input_ids, attention_mask and logits, and perhaps token_type_ids and position_ids. Padded positions of
language models are not compared. Exit status 1 when the logits of any differ by more than the tolerance, when a file lacks
a tensor that PEFT wants or has one that PEFT does not know, or when PEFT warns of either.
"""

import argparse
import sys
import warnings
from pathlib import Path

import torch
import transformers
from peft import PeftConfig, PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file

import common  # noqa: F401: offline, one thread


def right(base: Path, adapter: Path, tolerance: float) -> bool:
    config = transformers.AutoConfig.from_pretrained(base)
    model_class = getattr(transformers, config.architectures[0])
    model = model_class.from_pretrained(base, dtype=torch.float32, attn_implementation="eager")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        PeftConfig.from_pretrained(adapter)  # unknown fields warn here
        model = PeftModel.from_pretrained(model, adapter).eval()
    # The names in the file must be exactly those that PEFT would write for this adapter.
    in_file = set(load_file(adapter / "adapter_model.safetensors"))
    peft_writes = set(get_peft_model_state_dict(model))
    missing, unexpected = sorted(peft_writes - in_file), sorted(in_file - peft_writes)
    problems = [str(w.message) for w in caught if "issing" in str(w.message) or "nexpected" in str(w.message)]

    ours = load_file(adapter / "ours.safetensors")
    inputs = {k: ours[k].long() for k in ("input_ids", "attention_mask", "token_type_ids", "position_ids") if k in ours}
    with torch.no_grad():
        expected = model(**inputs).logits
    if expected.dim() == 3:
        expected = expected[:, -inputs["input_ids"].shape[1] :]  # without those of virtual tokens
    gap = (expected - ours["logits"]).abs()
    if gap.dim() == 3 and "attention_mask" in inputs:
        gap = gap * inputs["attention_mask"][..., None]
    worst = gap.max().item()
    fine = not missing and not unexpected and not problems and worst <= tolerance
    print(
        f"{'ok  ' if fine else 'BAD '} {adapter.name}: max abs difference of logits {worst:.3g}"
        f" (largest logit {expected.abs().max().item():.3g}); missing: {missing or 'none'};"
        f" unexpected: {unexpected or 'none'}; PEFT's warnings: {problems or 'none'}"
    )
    return fine


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="*")
    parser.add_argument("--tolerance", type=float, default=1e-4)
    args = parser.parse_args()
    if args.folders and len(args.folders) != 2:
        parser.error("name a base folder and an adapter folder, or neither")
    pairs = [args.folders] if args.folders else [[Path(f) for f in line.split()] for line in sys.stdin]
    results = [right(base, adapter, args.tolerance) for base, adapter in pairs]
    return 0 if results and all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
