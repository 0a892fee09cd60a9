"""torch.optim, transformers' schedules and torch's cross entropy in numbers.

    python make_optim_fixtures.py ../../training/src/test/resources/golden/optim.json
"""

import sys
from pathlib import Path

import torch
import transformers

from common import generator, save_json

STEPS = 6
OPTIMIZERS = {
    "adamw": ("AdamW", dict(lr=0.01, betas=[0.9, 0.999], eps=1e-8, weight_decay=0.01)),
    "adamw-large-eps-no-decay": ("AdamW", dict(lr=0.05, betas=[0.8, 0.95], eps=0.1, weight_decay=0.0)),
    "sgd": ("SGD", dict(lr=0.1, momentum=0.0, nesterov=False, weight_decay=0.0)),
    "sgd-momentum": ("SGD", dict(lr=0.1, momentum=0.9, nesterov=False, weight_decay=0.0)),
    "sgd-momentum-decay": ("SGD", dict(lr=0.1, momentum=0.9, nesterov=False, weight_decay=0.02)),
    "sgd-nesterov": ("SGD", dict(lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.02)),
}
# (steps in all, warm-up steps)
SCHEDULES = [(12, 0), (12, 3), (10, 10)]


def optimizer_case(kind: str, settings: dict) -> dict:
    g = generator("optim")
    start = torch.randn(5, generator=g, dtype=torch.float64)
    # One element never has a gradient, one has tiny ones, one flips its sign.
    gradients = torch.randn(STEPS, 5, generator=g, dtype=torch.float64) * torch.tensor([1.0, 0.0, 1e-7, 3.0, 1.0])
    gradients[:, 4] = torch.tensor([1.0, -1.0]).repeat(STEPS // 2)
    start, gradients = start.float().double(), gradients.float().double()  # exact in both types
    case = dict(optimizer=kind, settings=settings, start=start.tolist(), gradients=gradients.tolist())
    for dtype in (torch.float64, torch.float32):
        p = torch.nn.Parameter(start.clone().to(dtype))
        optimizer = getattr(torch.optim, kind)([p], **settings, foreach=False)
        path = []
        for gradient in gradients:
            p.grad = gradient.to(dtype)
            optimizer.step()
            path.append(p.tolist())
        case[str(dtype).removeprefix("torch.")] = path
    return case


def clip_case(largest: float) -> dict:
    g = generator("clip")
    parameters = [torch.nn.Parameter(torch.zeros(3, 2)), torch.nn.Parameter(torch.zeros(4))]
    for p in parameters:
        p.grad = torch.randn(p.shape, generator=g)
    before = [p.grad.flatten().tolist() for p in parameters]
    norm = torch.nn.utils.clip_grad_norm_(parameters, largest).item()
    return dict(max_norm=largest, gradients=before, norm=norm, clipped=[p.grad.flatten().tolist() for p in parameters])


def schedule_case(kind: str, total: int, warmup: int) -> dict:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    if kind == "constant":
        schedule = transformers.get_constant_schedule_with_warmup(optimizer, warmup)
    else:
        schedule = getattr(transformers, f"get_{kind}_schedule_with_warmup")(optimizer, warmup, total)
    rates = []
    for _ in range(total):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return dict(schedule=kind, steps=total, warmup_steps=warmup, factors=rates)


def cross_entropy_cases() -> dict:
    g = generator("cross entropy")
    logits = torch.randn(6, 4, generator=g, dtype=torch.float64).float().double() * 2
    labels = torch.tensor([0, 3, -100, 1, 1, 2])
    weights = torch.tensor([0.5, 2.0, 1.0, 3.5], dtype=torch.float64)
    cases = []
    for smoothing in (0.0, 0.1):
        for weight in (None, weights):
            for reduction in ("mean", "sum"):
                x = logits.clone().requires_grad_()
                loss = torch.nn.functional.cross_entropy(
                    x, labels, weight=weight, label_smoothing=smoothing, reduction=reduction, ignore_index=-100
                )
                loss.backward()
                cases.append(
                    dict(label_smoothing=smoothing, class_weights=None if weight is None else weights.tolist(),
                         reduction=reduction, loss=loss.item(), gradient=x.grad.tolist())
                )  # fmt: skip
    return dict(logits=logits.tolist(), labels=labels.tolist(), cases=cases)


save_json(
    Path(sys.argv[1]),
    dict(
        optimizers={name: optimizer_case(*case) for name, case in OPTIMIZERS.items()},
        clip=[clip_case(1.0), clip_case(100.0)],
        schedules=[schedule_case(k, *s) for k in ("linear", "cosine", "constant") for s in SCHEDULES],
        cross_entropy=cross_entropy_cases(),
    ),
)
