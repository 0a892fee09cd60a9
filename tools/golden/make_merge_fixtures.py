"""What PEFT's add_weighted_adapter makes of three adapters, for every combination type.

    python make_merge_fixtures.py ../../methods/src/test/resources/golden/merge

PEFT draws the masks of DARE from PyTorch's global generator: those that it drew are written too. The signs of singular vectors are
LAPACK's; they are fixed here so that the largest entry of each column of U is positive, because svd_clamp depends on them.
"""

import sys
import warnings
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model

from bases import base
from common import generator, save_json, save_tensors

warnings.filterwarnings("ignore")

Q0, V0, Q1, EMBED = "layers.0.self_attn.q_proj", "layers.0.self_attn.v_proj", "layers.1.self_attn.q_proj", "embed_tokens"
ADAPTERS = {
    "a": dict(r=3, lora_alpha=6, target_modules=[Q0, V0, Q1, EMBED]),
    "b": dict(r=3, lora_alpha=2, target_modules=[Q0, V0, EMBED]),
    "c": dict(r=2, lora_alpha=3, target_modules=[Q0, Q1]),
    "d": dict(r=3, lora_alpha=3, use_rslora=True, target_modules=[Q0, V0, EMBED]),
}
EQUAL = dict(adapters=["a", "b", "d"], weights=[0.7, -0.4, 1.2])
ANY = dict(adapters=["a", "b", "c"], weights=[0.7, -0.4, 1.2])
CASES = {
    "linear": dict(EQUAL, combination_type="linear"),
    "one": dict(adapters=["b"], weights=[-0.5], combination_type="ties", density=0.3),
    "cat": dict(ANY, combination_type="cat"),
    "svd": dict(ANY, combination_type="svd"),
    "svd-rank": dict(ANY, combination_type="svd", svd_rank=6),
    "svd-clamp": dict(ANY, combination_type="svd", svd_clamp=0.9),
    "magnitude-prune": dict(EQUAL, combination_type="magnitude_prune", density=0.4),
    "magnitude-prune-svd": dict(ANY, combination_type="magnitude_prune_svd", density=0.4),
    "ties": dict(EQUAL, combination_type="ties", density=0.5),
    "ties-frequency": dict(EQUAL, combination_type="ties", density=0.5, majority_sign_method="frequency"),
    "ties-svd": dict(ANY, combination_type="ties_svd", density=0.3),
    "ties-svd-frequency": dict(ANY, combination_type="ties_svd", density=0.3, majority_sign_method="frequency"),
    "dare": dict(EQUAL, combination_type="dare_linear", density=0.6),
    "dare-ties": dict(EQUAL, combination_type="dare_ties", density=0.6),
    "dare-svd": dict(ANY, combination_type="dare_linear_svd", density=0.6),
    "dare-ties-svd": dict(ANY, combination_type="dare_ties_svd", density=0.6, majority_sign_method="frequency"),
}

ROOT = Path(sys.argv[1])
svd, bernoulli = torch.linalg.svd, torch.bernoulli
masks: list[torch.Tensor] = []


def signed_svd(matrix, **options):
    u, s, vh = svd(matrix, **options)
    n = s.numel()
    largest = u[:, :n].abs().argmax(0)
    sign = u[largest, torch.arange(n)].sign()
    return u[:, :n] * sign, s, vh[:n] * sign[:, None]


def noted_bernoulli(*args, **options):
    masks.append(bernoulli(*args, **options))
    return masks[-1]


torch.linalg.svd, torch.bernoulli = signed_svd, noted_bernoulli


def layers(model, adapter: str):
    """Path, A and B of every layer that has the adapter."""
    for path, module in model.base_model.model.named_modules():
        for a, b in ("lora_A", "lora_B"), ("lora_embedding_A", "lora_embedding_B"):
            if adapter in getattr(module, a, {}):
                found = getattr(module, a)[adapter], getattr(module, b)[adapter]
                yield path, module.scaling[adapter], *(getattr(f, "weight", f) for f in found)


model = None
for name, settings in ADAPTERS.items():
    config = LoraConfig(task_type="CAUSAL_LM", **settings)
    if model is None:
        model = get_peft_model(base("llama"), config, adapter_name=name)
    else:
        model.add_adapter(name, config)

given, scales, expected, cases = {}, {}, {}, {}
with torch.no_grad():
    for name in ADAPTERS:
        g = generator(f"merge/{name}")
        for path, scale, a, b in layers(model, name):
            a.copy_(torch.randn(a.shape, generator=g))
            b.copy_(torch.randn(b.shape, generator=g))
            given[f"{name}/{path}.A"], given[f"{name}/{path}.B"] = a, b
            scales[name] = scale
    for name, case in CASES.items():
        masks.clear()
        torch.manual_seed(generator(name).initial_seed())
        model.base_model.add_weighted_adapter(adapter_name=name, **case)
        drawn = iter(masks)
        for path, _, a, b in layers(model, name):
            expected[f"{name}/{path}.A"], expected[f"{name}/{path}.B"] = a, b
            owners = [n for n in case["adapters"] if f"{n}/{path}.A" in given]
            if case["combination_type"].startswith("dare"):
                parts = ["delta"] if case["combination_type"].endswith("svd") else ["lora_A", "lora_B"]
                for part in parts:
                    for i, _ in enumerate(owners):
                        mask = next(drawn)
                        # An embedding's change is [rows, width] in PEFT and [width, rows] here.
                        turned = part == "delta" and path.endswith("embed_tokens")
                        expected[f"{name}/{path}.{part}.mask.{i}"] = mask.T if turned else mask
        assert next(drawn, None) is None, name
        cases[name] = case

save_tensors(ROOT / "given.safetensors", given)
save_tensors(ROOT / "expected.safetensors", {k: v.to(torch.uint8) if ".mask." in k else v for k, v in expected.items()})
save_json(ROOT / "cases.json", dict(scales=scales, cases=cases))
