"""LoRA and its variants as PEFT writes them, moved away from their start values, with the outputs PEFT gives for them.

    python make_peft_fixtures.py ../../methods/src/test/resources/golden/peft
"""

import shutil
import sys
from pathlib import Path

from peft import LoraConfig

from bases import base, save_bases
from peft_cases import check, inputs, logits, make, move, task

ATTENTION = ["q_proj", "v_proj"]
LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
CONV1DS = ["c_attn", "c_proj", "c_fc"]
PATTERNS = dict(
    target_modules=LINEARS,
    rank_pattern={"q_proj": 2, "layers.1.mlp.up_proj": 5, r"model\.layers\.0\.self_attn\.(k|v)_proj": 3},
    alpha_pattern={"down_proj": 3, "q_proj": 16},
)

# Defaults for all: r 4, lora_alpha 6, so the scale is 1.5 (3 with rank stabilisation).
LLAMA = {
    "lora": dict(target_modules=ATTENTION),
    "lora-all-linear": dict(target_modules="all-linear"),
    "lora-no-task": dict(target_modules=ATTENTION, task_type=None),
    "lora-gaussian": dict(target_modules=ATTENTION, init_lora_weights="gaussian"),
    "lora-patterns": PATTERNS,
    "lora-regex": dict(target_modules=r".*\.layers\.1\..*_proj"),
    "lora-layers": dict(target_modules=LINEARS, layers_to_transform=[1], exclude_modules=["down_proj"]),
    "lora-bias-all": dict(target_modules=ATTENTION, bias="all"),
    "lora-bias-lora-only": dict(target_modules=ATTENTION, bias="lora_only"),
    "lora-lora-bias": dict(target_modules=ATTENTION, lora_bias=True),
    "lora-embedding": dict(target_modules=["embed_tokens", "lm_head", "q_proj"]),
    "lora-modules-to-save": dict(target_modules=ATTENTION, modules_to_save=["lm_head", "embed_tokens"]),
    "rslora": dict(target_modules=LINEARS, use_rslora=True),
    "rslora-patterns": dict(PATTERNS, use_rslora=True),
    "dora": dict(target_modules=LINEARS, use_dora=True),
    "dora-rslora-bias-all": dict(target_modules=ATTENTION, use_dora=True, use_rslora=True, bias="all"),
    "pissa": dict(target_modules=LINEARS, init_lora_weights="pissa"),
    "pissa-patterns": dict(PATTERNS, init_lora_weights="pissa"),
    "pissa-rslora": dict(target_modules=ATTENTION, init_lora_weights="pissa", use_rslora=True),
    "olora": dict(target_modules=LINEARS, init_lora_weights="olora"),
}
TIED = {
    "lora-all-linear": dict(target_modules="all-linear"),
    # lm_head keeps the unadapted weights: the adapter belongs to the embedding alone.
    "lora-embedding": dict(target_modules=["embed_tokens", "q_proj"]),
    "lora-modules-to-save": dict(target_modules=ATTENTION, modules_to_save=["lm_head"]),
    "lora-modules-to-save-tied": dict(
        target_modules=ATTENTION, modules_to_save=["embed_tokens"], ensure_weight_tying=True
    ),
}
GPT2 = {
    "lora": dict(target_modules=CONV1DS),
    "lora-bias-all": dict(target_modules=["c_attn"], bias="all"),
    "lora-embedding": dict(target_modules=["c_attn", "wte"]),
    "lora-patterns": dict(
        target_modules=CONV1DS, rank_pattern={"c_attn": 2, "mlp.c_proj": 3}, alpha_pattern={"c_fc": 2}
    ),
    "rslora": dict(target_modules=["c_attn"], use_rslora=True),
    "dora": dict(target_modules=CONV1DS, use_dora=True),
    "pissa": dict(target_modules=CONV1DS, init_lora_weights="pissa"),
    # No olora: PEFT forgets that these weights are transposed.
}
BERT = {
    "lora": dict(target_modules=["query", "value"]),
    "lora-all-linear": dict(target_modules="all-linear"),
    "lora-bias-all": dict(target_modules=["query", "value"], bias="all"),
    "lora-patterns": dict(
        target_modules=["query", "key", "dense"],
        rank_pattern={"attention.output.dense": 2, "layer.1.output.dense": 6},
    ),
    "rslora": dict(target_modules=["query", "value"], use_rslora=True),
    "dora": dict(target_modules=["query", "value", "dense"], use_dora=True),
    "pissa": dict(target_modules=["query", "value"], init_lora_weights="pissa"),
    "olora": dict(target_modules=["query", "value"], init_lora_weights="olora"),
}

ROOT = Path(sys.argv[1])
INITIAL = ROOT / "initial"


def make_lora(base_name: str, variant: str, settings: dict, adapter_name: str = "default") -> None:
    name = f"{base_name}-{variant}"
    config = LoraConfig(
        **(dict(r=4, lora_alpha=6, task_type=task(base_name), fan_in_fan_out=base_name == "gpt2") | settings)
    )
    start = config.init_lora_weights
    mutates_base = start in ("pissa", "olora")
    # PEFT's conversion drops modules_to_save, so for a classifier its own result would not load.
    convertible = mutates_base and config.task_type == "CAUSAL_LM"

    def move_on(model, name: str) -> None:
        batch = inputs(name)
        assert (logits(model, batch) - logits(base(base_name), batch)).abs().max() < 1e-4, name
        config.init_lora_weights = True
        model.save_pretrained(INITIAL)
        config.init_lora_weights = start
        move(model, name)

    def convert(model, folder: Path, batch: dict, expected) -> dict:
        model.save_pretrained(folder / "converted", path_initial_model_for_weight_conversion=INITIAL)
        check(name + "/converted", base_name, folder / "converted", batch, expected)
        return {"converted": "converted"}

    make(
        ROOT,
        base_name,
        variant,
        config,
        adapter_name=adapter_name,
        # With tied weights PEFT's merge changes lm_head together with the embedding.
        peft_merges=name not in ("llama-tied-lora-embedding", "gpt2-lora-embedding"),
        move=move_on if mutates_base else move,
        also=convert if convertible else None,
    )


save_bases(ROOT / "bases")
for base_name, variants in {"llama": LLAMA, "llama-tied": TIED, "gpt2": GPT2, "bert": BERT}.items():
    for variant, settings in variants.items():
        make_lora(base_name, variant, settings)
make_lora("llama", "lora-named", dict(target_modules=ATTENTION), adapter_name="support")
shutil.rmtree(INITIAL)
