"""Single layers by the authors' own code, run as it stands: numbers for adapters that PEFT does not have.

    python make_adapter_fixtures.py ../../methods/src/test/resources/golden/adapters LOLDU LAMDA HYDRA

LOLDU, LAMDA and HYDRA are checkouts of github.com/SKDDJ/LoLDU (4fe87a0), ArminAzizi98/LaMDA (8ad34b4) and extremebird/Hydra
(4138457).
"""

import contextlib
import importlib.util
import io
import json
import re
import sys
import textwrap
import types
from pathlib import Path

from common import generator  # first: it fixes torch's threads

import torch
from torch import nn

TARGET = Path(sys.argv[1])


def module(name: str, path: Path, **needs):
    """A file of the authors' as a module, beside stand-ins for what it imports and does not use."""
    for other, stand_in in needs.items():
        sys.modules[other] = stand_in
    spec = importlib.util.spec_from_file_location(name, path)
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def numbers(tensor: torch.Tensor) -> list[float]:
    return [round(value, 7) for value in tensor.detach().flatten().tolist()]


def loldu(checkout: Path) -> dict:
    """The weight at the start and after four steps of SGD and Adam, for a square, a tall and a wide weight."""
    authors = module(
        "loldu", checkout / "minloldu/loldu.py", lightning=types.SimpleNamespace(LightningModule=nn.Module)
    )
    cases = []
    for out, width, r in [(5, 5, 2), (7, 4, 3), (4, 6, 4)]:
        g = generator(f"loldu {out}")
        weight = torch.randn(out, width, generator=g)
        x = torch.randn(9, width, generator=g)
        wanted = torch.randn(9, out, generator=g)
        runs = []
        for start in ["lu", "uniform", "zeros", "ones"]:
            for rule in ["sgd", "adam"]:
                torch.manual_seed(3)
                layer = nn.Linear(width, out, bias=False)
                layer.weight.data = weight.clone()
                with contextlib.redirect_stdout(io.StringIO()):
                    config = {
                        nn.Linear: {
                            "weight": lambda it: authors.LoLDUParametrization.from_linear(
                                it, rank=r, lora_alpha=1.5, init_method=start
                            )
                        }
                    }
                    authors.apply_loldu(layer, loldu_config=config)
                    layer(x)
                z = layer.parametrizations.weight[0].vector_z
                optimizer = torch.optim.SGD([z], 0.05) if rule == "sgd" else torch.optim.Adam([z], 0.05)
                first = numbers(layer.weight)
                for _ in range(4):
                    optimizer.zero_grad()
                    (layer(x) - wanted).square().mean().backward()
                    optimizer.step()
                runs.append(dict(start=start, rule=rule, first=first, last=numbers(layer.weight)))
        cases.append(
            dict(shape=[out, width], r=r, weight=numbers(weight), x=numbers(x), wanted=numbers(wanted), runs=runs)
        )
    return dict(alpha=1.5, rate=0.05, cases=cases)


def lamda(checkout: Path) -> dict:
    """Ten steps of AdamW under the released schedule; its r x r matrix in float32, for bfloat16 does not mix with the rest here."""
    from peft import LoraConfig, get_peft_model

    authors = module("lamda", checkout / "lamda.py")
    source = re.search(
        r"    def gradual_freeze_B.*?(?=\n    def )", (checkout / "custom_trainer.py").read_text(), re.S
    ).group(0)
    names = {}
    exec(textwrap.dedent(source), names)
    out, width, steps, cases = 6, 5, 10, []
    for r in [4, 2]:
        g = generator(f"lamda {r}")
        torch.manual_seed(3)
        net = nn.Sequential()
        net.add_module("fc", nn.Linear(width, out))
        x = torch.randn(9, width, generator=g)
        wanted = torch.randn(9, out, generator=g)
        model = get_peft_model(net, LoraConfig(r=r, lora_alpha=3, target_modules=["fc"]))
        authors.get_lamda_model(model)
        fc = model.base_model.model.fc
        fc.sigma["default"].weight.data = fc.sigma["default"].weight.data.float()
        values = {
            "weight": fc.base_layer.weight,
            "bias": fc.base_layer.bias,
            "A": fc.lora_A["default"].weight,
            "S": fc.sigma["default"].weight,
        }
        case = dict(r=r, x=numbers(x), wanted=numbers(wanted), **{key: numbers(t) for key, t in values.items()})
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 0.05, weight_decay=0.1)
        for i in range(1, steps + 1):
            (model(x) - wanted).square().mean().backward()
            names["gradual_freeze_B"](None, model, i, steps, 1)
            optimizer.step()
            optimizer.zero_grad()
        B, S = fc.lora_B["default"].weight, fc.sigma["default"].weight
        cases.append(dict(case, last_B=numbers(B), last_S=numbers(S), y=numbers(model(x))))
    return dict(shape=[out, width], alpha=3, rate=0.05, weight_decay=0.1, steps=steps, cases=cases)


def hydra(checkout: Path) -> dict:
    """The output layer of an MLP with both branches, and the weight and bias they merge into."""
    authors = module("hydra", checkout / "vtab1k/hydra.py", timm=types.SimpleNamespace())
    cases = []
    for out, width in [(5, 7), (6, 6)]:
        g = generator(f"hydra {out}")
        torch.manual_seed(3)
        mlp = nn.Module()
        for name in ["fc1", "act", "drop1", "drop2"]:
            mlp.add_module(name, nn.Identity())
        mlp.fc2 = nn.Linear(width, out)
        mlp.hydra_mlp_par = authors.Hydra_layer(width, 2, out, scale=1.5)
        mlp.hydra_mlp_seq = authors.Hydra_layer(out, 3, out, scale=1.5)
        for p in mlp.parameters():
            p.data = torch.randn(p.shape, generator=g)
        x = torch.randn(4, width, generator=g)
        par, seq = mlp.hydra_mlp_par, mlp.hydra_mlp_seq
        merge = []
        for branch in [par, seq]:  # as in set_hydraWeight
            merge.append(branch.down_proj.weight.T @ branch.up_proj.weight.T)
            merge.append(branch.down_proj.bias @ branch.up_proj.weight.T + branch.up_proj.bias)
        weight, bias = authors.reparameterize(mlp.fc2.weight.T, mlp.fc2.bias, *merge, 1.5)
        case = dict(shape=[out, width], x=numbers(x), y=numbers(authors.forward_vit_hydra_ffn(mlp, x)))
        case |= dict(weight=numbers(mlp.fc2.weight), bias=numbers(mlp.fc2.bias))
        case |= {f"{name}.{key}": numbers(p) for name, b in [("par", par), ("seq", seq)] for key, p in b.named_parameters()}
        cases.append(case | dict(merged_weight=numbers(weight), merged_bias=numbers(bias)))
    return dict(scale=1.5, cases=cases)


if __name__ == "__main__":
    TARGET.mkdir(parents=True, exist_ok=True)
    for made, checkout in zip([loldu, lamda, hydra], sys.argv[2:]):
        (TARGET / f"{made.__name__}.json").write_text(json.dumps(made(Path(checkout))) + "\n")
