"""Steps of optimisers by their authors' code: python make_optimizer_method_fixtures.py TARGET GALORE LORAPRO FRUGAL

TARGET is methods/src/test/resources/golden/optim. GALORE is a clone of github.com/jiaweizzhao/GaLore (read at 2cc66f8),
LORAPRO one of github.com/mrflogs/LoRA-Pro (read at fe26027),
FRUGAL one of github.com/fzmushko/FRUGAL (read at c7ebe4c).
Each file holds start values, the gradient of each step, and the values after it.
"""

import importlib
import math
import re
import sys
import textwrap
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


class Count(int):
    """Steps done; never zero, so that the general branch is taken, which the release reaches by counting ahead."""

    def __eq__(self, other):
        return False

    __hash__ = int.__hash__


def lora_pro(target, clone):
    """The release's adjustment, without the bfloat16 of one product."""
    file = clone / "DeepSpeed-0.15.1/deepspeed/runtime/zero/stage_1_and_2.py"
    source = file.read_text().replace(".to(torch.bfloat16)", "")
    names = {"torch": torch, "math": math}
    adjust = re.search(r"    def lorapro_full_adjustment.*?(?=\n    def )", source, re.S).group(0)
    exec(textwrap.dedent(adjust), names)
    exec(re.search(r"def solve_sylvester.*?return .*?else X", source, re.S).group(0), names)
    generator = torch.Generator().manual_seed(12)
    a = torch.randn(3, 5, generator=generator, dtype=torch.float64)
    b = torch.randn(6, 3, generator=generator, dtype=torch.float64)
    tensors = {"start.A": a.clone(), "start.B": b.clone()}
    state = types.SimpleNamespace(exp_avg={}, exp_avg_sq={})
    for step in range(1, STEPS + 1):
        g = torch.randn(6, 5, generator=generator, dtype=torch.float64)
        gradients = [2 * b.t() @ g, 2 * g @ a.t()]  # s = 2, which the release has built in
        tensors[f"gradient.{step}.A"], tensors[f"gradient.{step}.B"] = (x.clone() for x in gradients)
        state.averaged_gradients = {0: gradients}
        state.params_in_partition = [[a, b]]
        state.global_step = Count(step - 1)
        names["lorapro_full_adjustment"](state, 0)
        a = a - 0.05 * gradients[0].data
        b = b - 0.05 * gradients[1].data
        tensors[f"after.{step}.A"], tensors[f"after.{step}.B"] = a.clone(), b.clone()
    save_file(tensors, target / "lora-pro.safetensors")


def frugal(target, clone):
    """Singular vectors, whole matrices, and both without their signs."""
    torch.linalg.svd = signed_svd
    sys.modules["torch.optim.optimizer"]._dispatch_sqrt = math.sqrt  # gone from later releases of torch
    package = types.ModuleType("frugal")
    package.__path__ = [str(clone / "frugal")]
    sys.modules["frugal"] = package
    adamw = importlib.import_module("frugal.adamw")
    usual = {"lr": 0.05, "weight_decay": 0.1, "update_gap": 2, "density": 0.5, "no_deprecation_warning": True}
    usual |= {"proj_params_lr_scale": 0.5, "inactive_lr_scale": 0.2}
    kept = {**usual, "reset_statistics": False, "inactive_update_rule": "sgd"}
    cases = {
        "frugal-svd": (adamw.GaloreAdamW, usual),
        "frugal-svd-kept": (adamw.GaloreAdamW, kept),
        "frugal-descending": (adamw.BlockAdamW, {**usual, "block_order": "descending"}),
        "frugal-mirror": (adamw.BlockAdamW, {**usual, "block_order": "mirror", "inactive_update_rule": "no"}),
    }
    for name, (optimizer, options) in cases.items():
        generator = torch.Generator().manual_seed(13)
        tensors = {}
        parameters = {}
        for key, shape in {"a": (6, 4), "b": (4, 7), "c": (5, 5), "d": (3, 4)}.items():
            parameters[key] = torch.nn.Parameter(torch.randn(shape, generator=generator))
            tensors[f"start.{key}"] = parameters[key].detach().clone()
        made = optimizer([{"params": list(parameters.values()), "is_proj_params": True}], **options)
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
    lora_pro(target, Path(sys.argv[3]))
    frugal(target, Path(sys.argv[4]))


if __name__ == "__main__":
    main()
