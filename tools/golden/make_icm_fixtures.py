"""ICM-LoRA's autoencoder by the authors' own class, run as it stands, in float64.

    python make_icm_fixtures.py ../../methods/src/test/resources/golden/merge ICM

ICM is a checkout of github.com/YihuaJerry/ICM-LoRA (0b0057c). Its 2.3 million weights are a formula, so that the file holds
results only: the i-th parameter by name has sin(0.1 + 0.7 i + 0.013 j), scaled by its fan-in; see `fill`.
"""

import importlib.util
import json
import sys
from pathlib import Path

import common  # first: it fixes torch's threads  # noqa: F401

import torch
import torch.nn.functional as F

TARGET = Path(sys.argv[1])


def numbers(tensor: torch.Tensor) -> list[float]:
    return [round(value, 11) for value in tensor.detach().flatten().tolist()]


@torch.no_grad()
def fill(model: torch.nn.Module) -> None:
    for i, (name, p) in enumerate(sorted(model.named_parameters())):
        wave = torch.sin(0.1 + 0.7 * i + 0.013 * torch.arange(p.numel(), dtype=torch.float64)).view(p.shape)
        if p.dim() > 1:
            p.copy_(wave / (p.numel() / p.shape[0]) ** 0.5)
        else:
            p.copy_(wave * 0.1 + (1 if name.endswith("1.weight") else 0))


if __name__ == "__main__":
    spec = importlib.util.spec_from_file_location("cvae", Path(sys.argv[2]) / "model/CVAE_design.py")
    authors = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(authors)
    model = authors.CVAE(4, condition_dim=3, input_length=4000).double()
    fill(model)
    counts = {}
    for length, d, h in [(1929928, 768, 256), (4096, 16, 256)]:
        counts[f"{length}"] = sum(p.numel() for p in authors.CVAE(h, condition_dim=d, input_length=length).parameters())
    rows = torch.arange(2, dtype=torch.float64).view(2, 1)
    x = torch.sin(0.05 * torch.arange(4000, dtype=torch.float64) + rows) * (1 + rows)
    c = torch.tensor([[0.3, -1.0, 0.5], [1.2, 0.1, -0.7]], dtype=torch.float64)
    made = dict(counts=counts)
    for mode in ["train", "eval"]:
        model.train(mode == "train")
        padded = model.pad_sequence(x[:, None])
        mu, log_var = model.encode(x, c)
        recons = model.decode(mu, c)
        kld = torch.mean(-0.5 * torch.sum(1 + log_var - mu**2 - log_var.exp(), dim=1), dim=0)
        own = F.mse_loss(recons, padded[:, 0])
        made[mode] = dict(mu=numbers(mu), log_var=numbers(log_var), recons=numbers(recons[:, :40]), kld=numbers(kld),
                          own=numbers(own), broadcast=numbers(F.mse_loss(recons, padded)))
        if mode == "train":
            (own + 0.005 * kld).backward()
            made["gradients"] = {
                name: numbers(dict(model.named_parameters())[name].grad.flatten()[:20])
                for name in ["encoder.0.0.weight", "fc_var.weight", "to_decode.bias", "decoder.3.0.weight",
                             "final_layer.3.weight"]
            }
            made["running_var"] = numbers(model.encoder[11][1].running_var)
    (TARGET / "icm.json").write_text(json.dumps(made) + "\n")
