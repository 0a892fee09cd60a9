"""Adapters that stand alone on a layer: (IA)3, LoHa, LoKr, OFT, BOFT and MiSS, as PEFT writes them.

    python make_peft_layer_fixtures.py ../../methods/src/test/resources/golden/peft
"""

import sys
from pathlib import Path

import torch
from peft import BOFTConfig, IA3Config, LoHaConfig, LoKrConfig, MissConfig, OFTConfig
from peft.tuners.boft import layer as boft

from peft_cases import make, move, task

ROOT = Path(sys.argv[1])

# (IA)3: attention and feed-forward, lists and expressions, a transposed base
for base_name, settings in {
    "llama": dict(target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"]),
    "bert": dict(target_modules=r".*(key|value|\d\.output\.dense)", feedforward_modules=r".*\d\.output\.dense"),
    "gpt2": dict(target_modules=["c_attn", "mlp.c_proj"], feedforward_modules=["mlp.c_proj"], fan_in_fan_out=True),
}.items():
    make(ROOT, base_name, "ia3", IA3Config(task_type=task(base_name), **settings))

# LoHa and LoKr: every way of factoring w1 and w2, patterns, and both starts
LINEARS = {"llama": ["q_proj", "k_proj", "down_proj"], "bert": ["query", "key", "dense"]}
for base_name, variant, settings in [
    ("llama", "loha", dict(r=4, alpha=6)),
    ("bert", "loha-patterns", dict(r=4, alpha=6, rank_pattern={"query": 2}, alpha_pattern={"0.output.dense": 12.5})),
]:
    config = LoHaConfig(task_type=task(base_name), target_modules=LINEARS[base_name], **settings)
    make(ROOT, base_name, variant, config, move=lambda model, name: move(model, name, 0.4))
for base_name, variant, settings in [
    ("llama", "lokr", dict(r=4, alpha=6)),
    ("llama", "lokr-both", dict(r=1, alpha=3, decompose_both=True, init_weights="lycoris", decompose_factor=8)),
    ("bert", "lokr-patterns", dict(r=2, alpha=6, rank_pattern={"key": 1}, alpha_pattern={"query": 3})),
]:
    config = LoKrConfig(task_type=task(base_name), target_modules=LINEARS[base_name], **settings)
    make(ROOT, base_name, variant, config, move=lambda model, name: move(model, name, 0.4))

# MiSS (r = 5 divides neither 16 nor 24), its smaller form and Bat
for base_name, variant, settings in [
    ("llama", "miss", dict(r=5)),
    ("llama", "miss-mini", dict(r=4, mini_r=2, init_weights="mini")),
    ("llama", "miss-bat", dict(r=4, init_weights="bat")),
    ("bert", "miss", dict(r=4)),
    ("bert", "miss-bat", dict(r=4, init_weights="bat")),
]:
    make(ROOT, base_name, variant, MissConfig(task_type=task(base_name), target_modules=LINEARS[base_name], **settings))

# OFT (not on GPT-2, whose layers PEFT refuses here): both rotations, blocks by size (10 divides neither width, so PEFT takes 8 and 12) and by number, shared and bound
for base_name, variant, settings in [
    ("llama", "oft", dict(oft_block_size=4)),
    ("llama", "oft-exact", dict(oft_block_size=0, r=2, use_cayley_neumann=False)),
    ("llama", "oft-nearest", dict(oft_block_size=10, num_cayley_neumann_terms=3)),
    ("llama", "oft-shared-coft", dict(oft_block_size=8, block_share=True, coft=True, eps=0.5)),
    ("bert", "oft-exact", dict(oft_block_size=4, use_cayley_neumann=False)),
]:
    make(ROOT, base_name, variant, OFTConfig(task_type=task(base_name), target_modules=LINEARS[base_name], **settings))


class BlockDiag:
    """Stands in for PEFT's CUDA extension, without which it has one factor whatever was asked for."""

    @staticmethod
    def apply(blocks):
        return torch.stack([torch.block_diag(*torch.unbind(factor)) for factor in blocks])


boft.get_fbd_cuda, boft.FastBlockDiag = lambda: True, BlockDiag
for base_name, variant, settings in [
    ("llama", "boft", dict(boft_block_size=4)),
    ("llama", "boft-butterfly", dict(boft_block_size=2, boft_n_butterfly_factor=3)),
    ("bert", "boft-butterfly", dict(boft_block_size=0, boft_block_num=4, boft_n_butterfly_factor=2)),
]:
    make(ROOT, base_name, variant, BOFTConfig(task_type=task(base_name), target_modules=LINEARS[base_name], **settings))
