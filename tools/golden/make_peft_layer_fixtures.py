"""Adapters that stand alone on a layer: (IA)3, LoHa, LoKr, OFT, BOFT and MiSS, as PEFT writes them.

    python make_peft_layer_fixtures.py ../../methods/src/test/resources/golden/peft
"""

import sys
from pathlib import Path

from peft import IA3Config

from peft_cases import make, task

ROOT = Path(sys.argv[1])

# (IA)3: attention and feed-forward, lists and expressions, a transposed base
for base_name, settings in {
    "llama": dict(target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"]),
    "bert": dict(target_modules=r".*(key|value|\d\.output\.dense)", feedforward_modules=r".*\d\.output\.dense"),
    "gpt2": dict(target_modules=["c_attn", "mlp.c_proj"], feedforward_modules=["mlp.c_proj"], fan_in_fan_out=True),
}.items():
    make(ROOT, base_name, "ia3", IA3Config(task_type=task(base_name), **settings))
