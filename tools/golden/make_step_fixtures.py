"""Eight optimiser steps by PEFT and torch.optim.AdamW: start, batches, losses, gradient norms, end.

    python make_step_fixtures.py ../../methods/src/test/resources/golden/steps
"""

import shutil
import sys
import warnings
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from peft.optimizers import create_loraplus_optimizer

from bases import LABELS, VOCAB, base
from common import generator, padded, save_json, save_tensors

warnings.filterwarnings("ignore")

STEPS = 8
ADAMW = dict(lr=5e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)
CLIP = 1.0
LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
LLAMA = dict(r=4, lora_alpha=8, lora_dropout=0.0, task_type="CAUSAL_LM", target_modules=LINEARS)
BERT = dict(r=4, lora_alpha=8, lora_dropout=0.0, task_type="SEQ_CLS", target_modules=["query", "value", "dense"])
GPT2 = dict(LLAMA, target_modules=["c_attn", "c_proj", "c_fc"], fan_in_fan_out=True)
LORA_PLUS = dict(loraplus_lr_ratio=8.0, loraplus_lr_embedding=1e-3, loraplus_weight_decay=0.01)

ROOT = Path(sys.argv[1])


def batches(name: str, base_name: str) -> dict[str, torch.Tensor]:
    steps = [padded(f"steps/{name}/{i}", VOCAB, 0, [8, 5, 7], "right") for i in range(STEPS)]
    ids = torch.stack([s["input_ids"] for s in steps])
    mask = torch.stack([s["attention_mask"] for s in steps])
    if base_name == "bert":
        labels = torch.randint(0, LABELS, (STEPS, 3), generator=generator(f"labels/{name}"))
    else:
        # The first three tokens are a prompt; labels sit at their own token, the model shifts them.
        labels = ids.masked_fill(mask == 0, -100)
        labels[:, :, :3] = -100
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def make(name: str, base_name: str, settings: dict, loraplus: dict | None = None) -> None:
    folder = ROOT / name
    torch.manual_seed(generator(name).initial_seed())
    model = get_peft_model(base(base_name), LoraConfig(**settings)).train()
    model.save_pretrained(folder / "initial")
    data = batches(name, base_name)
    trainable = [p for p in model.parameters() if p.requires_grad]
    if loraplus:
        adam = {k: v for k, v in ADAMW.items() if k != "weight_decay"}
        optimizer = create_loraplus_optimizer(model, torch.optim.AdamW, **adam, **loraplus)
    else:
        optimizer = torch.optim.AdamW(trainable, **ADAMW)

    losses, norms = [], []
    for i in range(STEPS):
        loss = model(**{k: v[i] for k, v in data.items()}).loss
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(trainable, CLIP).item())
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    model.save_pretrained(folder / "final")
    for card in folder.rglob("README.md"):
        card.unlink()

    save_tensors(folder / "batches.safetensors", data)
    paths = {id(p): n.replace(".default", "") for n, p in model.named_parameters()}
    groups = [
        dict(lr=g["lr"], weight_decay=g["weight_decay"], parameters=[paths[id(p)] for p in g["params"]])
        for g in optimizer.param_groups
    ]
    record = dict(base=base_name, steps=STEPS, optimizer=ADAMW, clip=CLIP, schedule="constant")
    if loraplus:
        record |= dict(loraplus=loraplus, groups=groups)
    save_json(folder / "steps.json", record | dict(losses=losses, grad_norms=norms))
    print(f"{name:24} {losses[0]:.4f} -> {losses[-1]:.4f}, gradient norms {min(norms):.2f} to {max(norms):.2f}")


shutil.rmtree(ROOT, ignore_errors=True)
make("llama-lora", "llama", LLAMA)
every_group = dict(target_modules=["q_proj", "v_proj", "embed_tokens"], bias="lora_only")
make("llama-loraplus", "llama", LLAMA | every_group, LORA_PLUS)
make("llama-rslora", "llama", LLAMA | dict(use_rslora=True))
make("llama-dora", "llama", LLAMA | dict(use_dora=True))
make("llama-pissa", "llama", LLAMA | dict(init_lora_weights="pissa"))
make("llama-olora", "llama", LLAMA | dict(init_lora_weights="olora"))
make("gpt2-lora", "gpt2", GPT2)
make("gpt2-dora", "gpt2", GPT2 | dict(use_dora=True))
make("bert-lora", "bert", BERT)
