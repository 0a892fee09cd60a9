"""Steps of optimisers by their authors' code: python make_optimizer_method_fixtures.py TARGET GALORE

TARGET is methods/src/test/resources/golden/optim. GALORE is a clone of github.com/jiaweizzhao/GaLore (read at 2cc66f8).
Each file holds start values, the gradient of each step, and the values after it.
"""

import importlib
import sys
import types
from pathlib import Path

import torch
from safetensors.torch import save_file

STEPS = 5


def signed_svd(matrix, full_matrices=False, svd=torch.linalg.svd):
    """Singular vectors whose entry of largest magnitude is positive, as ours: any sign is a valid decomposition."""
    u, s, vh = svd(matrix, full_matrices=full_matrices)
    if matrix.shape[0] >= matrix.shape[1]:
        sign = vh.gather(1, vh.abs().argmax(1, keepdim=True)).sign()
    else:
        sign = u.gather(0, u.abs().argmax(0, keepdim=True)).sign().t()
    return u * sign.t(), s, vh * sign


def authors(clone):
    """The two modules wanted, without those that need bitsandbytes and tensorly."""
    package = types.ModuleType("galore_torch")
    package.__path__ = [str(clone / "galore_torch")]
    sys.modules["galore_torch"] = package
    unused = types.ModuleType("galore_torch.galore_projector_tensor")
    unused.GaLoreProjectorTensor = None
    sys.modules[unused.__name__] = unused
    return importlib.import_module("galore_torch.adafactor"), importlib.import_module("galore_torch.adamw")


def galore(target, name, optimizer, options):
    torch.linalg.svd = signed_svd
    generator = torch.Generator().manual_seed(11)
    shapes = {"tall": (6, 4), "wide": (4, 7)}
    tensors = {}
    parameters = {}
    for key, shape in shapes.items():
        parameters[key] = torch.nn.Parameter(torch.randn(shape, generator=generator))
        tensors[f"start.{key}"] = parameters[key].detach().clone()
    rank = {"rank": 2, "update_proj_gap": 2, "scale": 0.25, "proj_type": "std"}
    made = optimizer([{"params": list(parameters.values()), **rank}], **options)
    for step in range(1, STEPS + 1):
        for key, parameter in parameters.items():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
            tensors[f"gradient.{step}.{key}"] = parameter.grad.clone()
        made.step()
        for key, parameter in parameters.items():
            tensors[f"after.{step}.{key}"] = parameter.detach().clone()
    save_file(tensors, target / f"{name}.safetensors")


def main():
    target, clone = Path(sys.argv[1]), Path(sys.argv[2])
    target.mkdir(parents=True, exist_ok=True)
    adafactor, adamw = authors(clone)
    galore(target, "galore-adamw", adamw.AdamW, {"lr": 0.05, "weight_decay": 0.1, "no_deprecation_warning": True})
    factored = {"lr": 0.05, "weight_decay": 0.1, "relative_step": False, "scale_parameter": False}
    galore(target, "galore-adafactor", adafactor.Adafactor, factored)


if __name__ == "__main__":
    main()
