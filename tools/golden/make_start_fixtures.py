"""Starting values by the authors' own code: LoRA-GA (Outsider565/LoRA-GA 89af7de) and LoRA-SB (RaghavSinghal10/lora-sb 37b33d4).

    python make_start_fixtures.py ../../methods/src/test/resources/golden/starts.json LORA_GA_CHECKOUT LORA_SB_CHECKOUT

The functions are taken out of the authors' files as they stand and run on small matrices.
"""

import ast
import random
import sys
import types
from pathlib import Path

from common import generator, save_json  # first: it fixes torch's threads

import torch

OUT, IN, RANK, ALPHA, GAMMA = 10, 8, 2, 3.0, 16


def function(file: Path, name: str, namespace: dict):
    """One function or method of a file, compiled by itself."""
    tree = ast.parse(file.read_text())
    node = next(n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == name)
    exec(compile(ast.Module([node], []), str(file), "exec"), namespace)
    return namespace[name]


def lora_ga(checkout: Path) -> list[dict]:
    init = function(checkout / "peft/src/peft/tuners/lora/layer.py", "lora_ga_init", {"torch": torch})
    g = generator("lora-ga")
    weight = torch.randn(OUT, IN, generator=g)
    gradient = torch.randn(OUT, IN, generator=g)
    scale = ALPHA / RANK**0.5
    cases = []
    for direction, kind in [("ArB2r", k) for k in ("stable", "unit", "gd", "weightS")] + [
        ("A2rBr", "stable"),
        ("ArBr", "stable"),
        ("random", "stable"),
    ]:
        random.seed(1)
        torch.manual_seed(1)
        base = torch.nn.Linear(IN, OUT, bias=False)
        base.weight.data = weight.clone()
        a, b = torch.nn.Linear(IN, RANK, bias=False), torch.nn.Linear(RANK, OUT, bias=False)
        config = types.SimpleNamespace(direction=direction, scale=kind, stable_gamma=GAMMA, dtype="fp32")
        layer = types.SimpleNamespace(
            kwargs={"grad": gradient, "peft_config": config},
            get_base_layer=lambda: base,
            r={"default": RANK},
            scaling={"default": scale},
            lora_A={"default": a},
            lora_B={"default": b},
        )
        init(layer, "default")
        cases.append(
            dict(
                direction=direction,
                scale=kind,
                a=a.weight.flatten().tolist(),
                b=b.weight.flatten().tolist(),
                weight=base.weight.flatten().tolist(),
            )
        )
    return dict(
        shape=[OUT, IN],
        r=RANK,
        s=scale,
        gamma=GAMMA,
        gradient=gradient.flatten().tolist(),
        weight=weight.flatten().tolist(),
        cases=cases,
    )


def lora_sb(checkout: Path) -> dict:
    """The update and its frames, then one forward through them with an R that is not symmetric."""
    utils = checkout / "utils"
    svd = function(utils / "svd_utils.py", "get_svd_grad", {"torch": torch})
    forward = function(
        utils / "latent_utils.py",
        "forward_latent",
        {
            "torch": torch,
            "F": torch.nn.functional,
            "transpose": function(utils / "latent_utils.py", "transpose", {}),
        },
    )
    replacement = function(
        utils / "initialization_utils.py", "get_replacement_module_grad", {"torch": torch, "get_svd_grad": svd}
    )
    g = generator("lora-sb")
    weight = torch.randn(OUT, IN, generator=g)
    total = torch.randn(OUT, IN, generator=g)
    lr = 1e-2
    update = -1 * lr * torch.sign(total)  # the line of estimate_and_process_grads_torch
    # As find_and_initialize_grad calls it; bfloat16 inside.
    encoder, decoder, sr = replacement(update.T, "svd", {"svd": {"rank": RANK}})
    latent = torch.nn.Linear(RANK, RANK, bias=False)
    latent.weight.data = torch.randn(RANK, RANK, generator=g)
    a, b = torch.nn.Linear(IN, RANK, bias=False), torch.nn.Linear(RANK, OUT, bias=False)
    a.weight.data, b.weight.data = encoder.T.contiguous(), decoder.T.contiguous()
    x = torch.randn(3, IN, generator=g)
    layer = types.SimpleNamespace(
        active_adapter=["default"],
        lora_A={"default": a},
        lora_B={"default": b},
        lora_dropout={"default": torch.nn.Identity()},
        default_lora_latent_mapping=latent,
        scaling={"default": 1.5},
        r={"default": RANK},
        weight=weight,
        bias=None,
        fan_in_fan_out=False,
        disable_adapters=False,
        merged=False,
    )
    return dict(
        shape=[OUT, IN],
        r=RANK,
        eta0=lr,
        sum=total.flatten().tolist(),
        weight=weight.flatten().tolist(),
        a=a.weight.flatten().tolist(),
        b=b.weight.flatten().tolist(),
        s=sr.diag().tolist(),
        latent=latent.weight.flatten().tolist(),
        scale=1.5,
        x=x.flatten().tolist(),
        y=forward(layer, x).flatten().tolist(),
    )


if __name__ == "__main__":
    with torch.no_grad():
        save_json(
            Path(sys.argv[1]), {"lora-ga": lora_ga(Path(sys.argv[2])), "lora-sb": lora_sb(Path(sys.argv[3]))}
        )
