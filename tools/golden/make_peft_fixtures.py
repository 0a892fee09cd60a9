"""Adapters as PEFT writes them, moved away from their start values, with the outputs PEFT gives for them.

    python make_peft_fixtures.py ../../methods/src/test/resources/golden/peft
"""

import shutil
import sys
import warnings
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model

from bases import VOCAB, base, save_bases
from common import generator, padded, save_json, save_tensors

warnings.filterwarnings("ignore")

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
cases = {}


@torch.no_grad()
def move(model, name: str) -> None:
    """Adds seeded noise to every trainable tensor, as training would have moved it."""
    g = generator(f"move/{name}")
    for p in model.parameters():
        if p.requires_grad:
            p.add_(torch.randn(p.shape, generator=g) * 0.15)


@torch.no_grad()
def logits(model, batch) -> torch.Tensor:
    out = model.eval()(**batch).logits
    return out * batch["attention_mask"][..., None] if out.dim() == 3 else out


def make(base_name: str, variant: str, settings: dict, adapter_name: str = "default") -> None:
    name = f"{base_name}-{variant}"
    folder = ROOT / name
    task = "SEQ_CLS" if base_name == "bert" else "CAUSAL_LM"
    config = LoraConfig(**(dict(r=4, lora_alpha=6, task_type=task, fan_in_fan_out=base_name == "gpt2") | settings))
    batch = padded(f"peft/{name}", VOCAB, 0, [7, 5], "right")
    expected = batch | {"logits.base": logits(base(base_name), batch)}

    torch.manual_seed(generator(name).initial_seed())
    model = get_peft_model(base(base_name), config, adapter_name=adapter_name)
    mutates_base = config.init_lora_weights in ("pissa", "olora")
    if mutates_base:
        start = logits(model, batch)
        assert (start - expected["logits.base"]).abs().max() < 1e-4, name
        config.init_lora_weights = True
        model.save_pretrained(ROOT / "initial")
        config.init_lora_weights = settings["init_lora_weights"]
    move(model, name)
    expected["logits"] = logits(model, batch)
    assert (expected["logits"] - expected["logits.base"]).abs().max() > 0.1, name

    model.save_pretrained(folder / "adapter")
    stored = folder / "adapter" / ("" if adapter_name == "default" else adapter_name)
    check(name, base_name, stored, batch, expected["logits"])
    # PEFT's conversion drops modules_to_save, so for a classifier its own result would not load.
    convertible = mutates_base and task == "CAUSAL_LM"
    if convertible:
        model.save_pretrained(folder / "converted", path_initial_model_for_weight_conversion=ROOT / "initial")
        check(name + "/converted", base_name, folder / "converted", batch, expected["logits"])
    for card in folder.rglob("README.md"):
        card.unlink()

    merged = logits(model.merge_and_unload(), batch)
    gap = (merged - expected["logits"]).abs().max().item()
    if gap < 1e-4:
        expected["logits.merged"] = merged
    else:
        # With tied weights PEFT's merge changes lm_head together with the embedding.
        assert name in ("llama-tied-lora-embedding", "gpt2-lora-embedding"), (name, gap)
    save_tensors(folder / "expected.safetensors", expected)
    cases[name] = dict(base=base_name, adapter=f"{name}/{stored.relative_to(folder)}")
    if convertible:
        cases[name]["converted"] = f"{name}/converted"


def check(name: str, base_name: str, folder: Path, batch: dict, expected: torch.Tensor) -> None:
    again = PeftModel.from_pretrained(base(base_name), folder)
    gap = (logits(again, batch) - expected).abs().max().item()
    assert gap < 2e-5, f"{name}: {gap} after reloading"


shutil.rmtree(ROOT, ignore_errors=True)
save_bases(ROOT / "bases")
for base_name, variants in {"llama": LLAMA, "llama-tied": TIED, "gpt2": GPT2, "bert": BERT}.items():
    for variant, settings in variants.items():
        make(base_name, variant, settings)
make("llama", "lora-named", dict(target_modules=ATTENTION), adapter_name="support")
shutil.rmtree(ROOT / "initial")
save_json(ROOT / "cases.json", cases)
