"""Loads an adapter that Espalier wrote in PEFT and compares PEFT's logits with Espalier's.

    python check_ours.py BASE_FOLDER ADAPTER_FOLDER OURS.safetensors [--tolerance 1e-4]

OURS.safetensors holds input_ids, attention_mask and logits, and may hold token_type_ids and position_ids. Padded
positions of language models are not compared. Exit status 1 when the logits differ by more than the tolerance, when the
file lacks a tensor that PEFT wants or has one that PEFT does not know, or when PEFT warns of either.
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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path)
    parser.add_argument("adapter", type=Path)
    parser.add_argument("ours", type=Path)
    parser.add_argument("--tolerance", type=float, default=1e-4)
    args = parser.parse_args()

    config = transformers.AutoConfig.from_pretrained(args.base)
    model_class = getattr(transformers, config.architectures[0])
    model = model_class.from_pretrained(args.base, dtype=torch.float32, attn_implementation="eager")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        PeftConfig.from_pretrained(args.adapter)  # unknown fields warn here
        model = PeftModel.from_pretrained(model, args.adapter).eval()
    # The names in the file must be exactly those that PEFT would write for this adapter.
    in_file = set(load_file(args.adapter / "adapter_model.safetensors"))
    peft_writes = set(get_peft_model_state_dict(model))
    missing, unexpected = sorted(peft_writes - in_file), sorted(in_file - peft_writes)
    problems = [str(w.message) for w in caught if "issing" in str(w.message) or "nexpected" in str(w.message)]
    print(f"missing: {missing or 'none'}; unexpected: {unexpected or 'none'}; PEFT's warnings: {problems or 'none'}")

    ours = load_file(args.ours)
    inputs = {k: ours[k].long() for k in ("input_ids", "attention_mask", "token_type_ids", "position_ids") if k in ours}
    with torch.no_grad():
        expected = model(**inputs).logits
    gap = (expected - ours["logits"]).abs()
    if gap.dim() == 3 and "attention_mask" in inputs:
        gap = gap * inputs["attention_mask"][..., None]
    worst = gap.max().item()
    print(f"max abs difference of logits: {worst:.3g} (largest logit {expected.abs().max().item():.3g})")
    return 1 if missing or unexpected or problems or not worst <= args.tolerance else 0


sys.exit(main())
