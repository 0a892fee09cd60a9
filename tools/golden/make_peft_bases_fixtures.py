"""Adapters on random or shared bases as PEFT writes them: VeRA, VB-LoRA, RandLoRA, FourierFT.

    python make_peft_bases_fixtures.py ../../methods/src/test/resources/golden/peft
"""

import sys
from pathlib import Path

import torch
from peft import FourierFTConfig, RandLoraConfig, VBLoRAConfig, VeraConfig

from common import generator
from peft_cases import make, task

ROOT = Path(sys.argv[1])
# Layers of several widths; GPT-2's are Conv1D.
TARGETS = {
    "llama": ["q_proj", "v_proj", "down_proj"],
    "bert": ["query", "intermediate.dense"],
    "gpt2": ["c_attn", "mlp.c_proj"],
}


@torch.no_grad()
def near(model, name: str) -> None:
    """Small steps: RandLoRA multiplies by alpha / r and its bases have unit variance."""
    g = generator(f"move/{name}")
    for path, p in model.named_parameters():
        if p.requires_grad:
            p.add_(torch.randn(p.shape, generator=g) * (0.15 if "randlora" not in path else 0.04))


@torch.no_grad()
def far(model, name: str) -> None:
    """Large steps: the bank starts within 0.02, and the choices have to differ from layer to layer."""
    g = generator(f"move/{name}")
    for path, p in model.named_parameters():
        if p.requires_grad:
            p.add_(torch.randn(p.shape, generator=g) * (0.5 if "vblora" in path else 0.15))


def case(base_name: str, variant: str, config_class, move, **settings) -> None:
    settings = dict(target_modules=TARGETS[base_name]) | settings
    config = config_class(task_type=task(base_name), fan_in_fan_out=base_name == "gpt2", **settings)
    make(ROOT, base_name, variant, config, move=move)


for base_name in TARGETS:
    case(base_name, "vera", VeraConfig, far, r=3, d_initial=0.5)
    case(base_name, "vblora", VBLoRAConfig, far, r=2, num_vectors=6, vector_length=8)
    case(base_name, "randlora", RandLoraConfig, near, r=5, randlora_alpha=10, target_modules=TARGETS[base_name][-1 if base_name != "llama" else 0 :])
    case(base_name, "fourierft", FourierFTConfig, far, n_frequency=40, scaling=30.0)
case("llama", "vera-key", VeraConfig, far, r=3, projection_prng_key=7, save_projection=False)
top = dict(r=2, vector_length=8, save_only_topk_weights=True)
case("llama", "vblora-topk", VBLoRAConfig, far, num_vectors=300, topk=3, **top)
case("llama", "vblora-top1", VBLoRAConfig, far, num_vectors=6, topk=1, **top)
key = dict(r=4, randlora_alpha=8, save_projection=False)
case("llama", "randlora-key", RandLoraConfig, near, projection_prng_key=7, **key)
case("llama", "randlora-sparse", RandLoraConfig, near, sparse=True, **key)
case("llama", "randlora-very-sparse", RandLoraConfig, near, very_sparse=True, **key)
case(
    "llama",
    "fourierft-patterns",
    FourierFTConfig,
    far,
    n_frequency=30,
    n_frequency_pattern={"down_proj": 50, r"layers\.0\.self_attn\.(q|v)_proj": 20},
    random_loc_seed=5,
    scaling=25.0,
    init_weights=True,
)
