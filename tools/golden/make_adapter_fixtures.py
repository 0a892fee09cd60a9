"""Single layers by the authors' own code, run as it stands: numbers for adapters that PEFT does not have.

    python make_adapter_fixtures.py ../../methods/src/test/resources/golden/adapters LOLDU

LOLDU is a checkout of github.com/SKDDJ/LoLDU (4fe87a0).
"""

import contextlib
import importlib.util
import io
import json
import sys
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


if __name__ == "__main__":
    TARGET.mkdir(parents=True, exist_ok=True)
    (TARGET / "loldu.json").write_text(json.dumps(loldu(Path(sys.argv[2]))) + "\n")
