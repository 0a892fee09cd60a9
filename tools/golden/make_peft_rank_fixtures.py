"""AdaLoRA as PEFT writes it, and PEFT's allocator over a schedule.

    python make_peft_rank_fixtures.py ../../methods/src/test/resources/golden/peft ../../methods/src/test/resources/golden
"""

import sys
from pathlib import Path

import torch
from peft import AdaLoraConfig, get_peft_model

from common import generator, save_json, save_tensors
from peft_cases import make, move, task

LINEARS = ["q_proj", "v_proj", "o_proj", "up_proj", "down_proj"]


@torch.no_grad()
def prune(model, name: str) -> None:
    """Moves everything, then lets the allocator cut four ranks a layer to two on average by scores from random gradients."""
    move(model, name)
    tuner = model.base_model
    g = generator(f"gradients/{name}")
    for p in model.parameters():
        if p.requires_grad:
            p.grad = torch.randn(p.shape, generator=g)
    config = tuner.peft_config["default"]
    tuner.rankallocator.update_ipt(tuner.model)
    tuner.update_and_allocate(config.total_step - config.tfinal)
    model.zero_grad()


def cases(root: Path) -> None:
    common = dict(init_r=4, target_r=2, lora_alpha=6, total_step=10, tinit=2, tfinal=3)
    llama = dict(task_type=task("llama"), target_modules=LINEARS)
    make(root, "llama", "adalora", AdaLoraConfig(**common, **llama))
    make(root, "llama", "adalora-pruned", AdaLoraConfig(**common, **llama), move=prune)
    make(
        root,
        "bert",
        "adalora-pruned",
        AdaLoraConfig(**common, task_type=task("bert"), target_modules=["query", "value"]),
        move=prune,
    )


class Three(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.l0 = torch.nn.Linear(8, 10)
        self.l1 = torch.nn.Linear(10, 8)
        self.l2 = torch.nn.Linear(8, 8)

    def forward(self, x):
        return self.l2(self.l1(self.l0(x)))


def allocator(root: Path) -> None:
    """Fourteen steps of plain descent along given gradients; the values after PEFT's allocator has acted on each."""
    g = generator("adalora/allocator")
    config = AdaLoraConfig(init_r=4, target_r=2, tinit=2, tfinal=3, total_step=14, target_modules=["l0", "l1", "l2"])
    model = get_peft_model(Three(), config)
    tuner = model.base_model
    tensors = {}
    named = {
        n.replace("base_model.model.", "").replace(".default", ""): p
        for n, p in model.named_parameters()
        if p.requires_grad
    }
    with torch.no_grad():
        for n, p in named.items():
            p.copy_(torch.randn(p.shape, generator=g) * 0.3)
            tensors[f"start.{n}"] = p.detach().clone()
        budgets = []
        for t in range(14):
            for n, p in named.items():
                p.grad = torch.randn(p.shape, generator=g)
                tensors[f"{t}.gradient.{n}"] = p.grad.clone()
                p.sub_(0.1 * p.grad)
            budgets.append(tuner.rankallocator.budget_schedule(t)[0])
            tuner.update_and_allocate(t)
            for n, p in named.items():
                if n.endswith("lora_E"):
                    tensors[f"{t}.{n}"] = p.detach().clone()
    save_tensors(root / "adalora" / "allocator.safetensors", tensors)
    save_json(root / "adalora" / "budgets.json", dict(budgets=budgets))


cases(Path(sys.argv[1]))
allocator(Path(sys.argv[2]))
