"""LoRAM by its authors' code: python make_loram_fixtures.py TARGET LORAM SPARSEGPT

TARGET is methods/src/test/resources/golden/compress. LORAM is a clone of github.com/junzhang-zj/LoRAM (read at ce64e68), whose
recovery script runs here with the heads of a small model in place of LLaMA's; SPARSEGPT one of github.com/IST-DASLab/sparsegpt,
whose pruning loop runs as it is. Writes loram.safetensors: a pruned adapter of one block and what was recovered of it, with the
lists of kept units; a weight, inputs of its layer, and the masks of what stays.
"""

import math
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

HEADS, KEYS, WIDTH, HIDDEN, INNER, RANK = 4, 2, 4, 16, 24, 2
BLOCK = "model.layers.0"


def recovery(loram, generator):
    """One block with key head 1 and some channels left out, recovered by the authors' script."""
    source = (loram / "loram/3_recovered_low_rank_matrix_generation.py").read_text()
    for name, value in {"head_dim": WIDTH, "num_heads": HEADS, "num_key_value_heads": KEYS}.items():
        source = re.sub(rf"{name} = \d+", f"{name} = {value}", source, count=1)
    pruned_inner = torch.tensor([1, 2, 5, 6, 7, 11, 13, 14, 17, 19, 20, 23])
    pruned_keys = torch.arange(0, WIDTH)  # key head 0
    inner, queries, keys = INNER - len(pruned_inner), HEADS * WIDTH // 2, WIDTH
    shapes = {
        "mlp.gate_proj": (inner, HIDDEN),
        "mlp.up_proj": (inner, HIDDEN),
        "mlp.down_proj": (HIDDEN, inner),
        "self_attn.q_proj": (queries, HIDDEN),
        "self_attn.k_proj": (keys, HIDDEN),
        "self_attn.v_proj": (keys, HIDDEN),
        "self_attn.o_proj": (HIDDEN, queries),
    }
    adapter = {}
    for name, (out, width) in shapes.items():
        key = f"base_model.model.{BLOCK}.{name}"
        adapter[f"{key}.lora_A.weight"] = torch.randn(RANK, width, generator=generator)
        adapter[f"{key}.lora_B.weight"] = torch.randn(out, RANK, generator=generator)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        script = folder / "recover.py"
        script.write_text(source)
        checkpoint = folder / "adapter/checkpoint-10"
        checkpoint.mkdir(parents=True)
        save_file(adapter, checkpoint / "adapter_model.safetensors")
        (checkpoint / "adapter_config.json").write_text("{}")
        torch.save({"pruned_idx": pruned_inner}, folder / f"{BLOCK}.mlp.gate_proj.pt")
        torch.save({"pruned_idx": pruned_keys}, folder / f"{BLOCK}.self_attn.k_proj.pt")
        arguments = ["--peft_model_path", folder / "adapter", "--ckpt_interval", 10, 11, 10]
        arguments += ["--pruned_layer_interval", 0, 1, "--pruned_path_mlp", folder, "--pruned_path_attn", folder]
        arguments += ["--recovered_lora_mlp", "--recovered_lora_attn"]
        subprocess.run([sys.executable, script, *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)
        recovered = load_file(checkpoint / "recover_lora_mlp_attn_zeroA/adapter_model.safetensors")
    tensors = {f"pruned.{key}": value for key, value in adapter.items()}
    tensors |= {f"recovered.{key}": value for key, value in recovered.items()}
    tensors["kept.mlp"] = torch.tensor([i for i in range(INNER) if i not in pruned_inner])
    tensors["kept.self_attn"] = torch.tensor([1])
    return tensors


def masks(sparsegpt, generator):
    """What SparseGPT leaves of a weight whose columns are more than one of its blocks."""
    source = (sparsegpt / "sparsegpt.py").read_text()
    body = source[source.index("class SparseGPT") :].replace("torch.cuda.synchronize()", "pass")
    body = body.replace("isinstance(self.layer, transformers.Conv1D)", "False")
    names = {"torch": torch, "nn": torch.nn, "math": math, "time": time, "DEBUG": False}
    exec(body, names)
    weight = torch.randn(6, 144, generator=generator)
    inputs = torch.randn(40, 144, generator=generator) * torch.linspace(0.2, 3, 144)
    tensors = {"weight": weight, "inputs": inputs}
    for name, (ratio, n, m) in {"unstructured": (0.55, 0, 0), "semi": (0, 4, 8)}.items():
        layer = torch.nn.Linear(144, 6, bias=False)
        layer.weight.data = weight.clone()
        pruner = names["SparseGPT"](layer)
        pruner.add_batch(inputs.unsqueeze(0), None)
        pruner.fasterprune(ratio, n, m)
        tensors[f"stays.{name}"] = (layer.weight.data != 0).to(torch.uint8)
    return tensors


def main():
    target, loram, sparsegpt = map(Path, sys.argv[1:])
    generator = torch.Generator().manual_seed(8)
    tensors = recovery(loram, generator) | masks(sparsegpt, generator)
    save_file(tensors, target / "loram.safetensors", metadata={"format": "pt"})


if __name__ == "__main__":
    main()
