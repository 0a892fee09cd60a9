"""Times one LoRA training step of HF PEFT on the shape of SmolLM2-135M with random weights.

    python peft_lora_step.py [--steps 10] [--threads 2] [--dtype float32|bfloat16] [--checkpointing]

Rank 8 on all seven linears of each layer, AdamW, gradient clipping, on CPU. A step is forward, backward, clip, update.
Prints one JSON line: the median and each step's seconds, tokens per second, the process's peak resident memory.
"""

import argparse
import json
import resource
import statistics
import time

import torch
import transformers
from peft import LoraConfig, get_peft_model

LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def model(dtype: torch.dtype, checkpointing: bool):
    config = transformers.LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, max_position_embeddings=8192, rms_norm_eps=1e-5, tie_word_embeddings=True,
        rope_parameters=dict(rope_type="default", rope_theta=100000.0), use_cache=False,
    )  # fmt: skip
    base = transformers.LlamaForCausalLM(config).to(dtype)
    if checkpointing:
        base.gradient_checkpointing_enable(gradient_checkpointing_kwargs=dict(use_reentrant=False))
    lora = LoraConfig(r=8, lora_alpha=16, lora_dropout=0.0, target_modules=LINEARS, task_type="CAUSAL_LM")
    return get_peft_model(base, lora).train()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10, help="timed steps (default 10)")
    parser.add_argument("--warmup", type=int, default=2, help="steps before timing (default 2)")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="of the frozen base")
    parser.add_argument("--checkpointing", action="store_true", help="recompute activations in the backward pass")
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    peft = model(getattr(torch, args.dtype), args.checkpointing)
    trainable = [p for p in peft.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=1e-4)
    # PEFT keeps the adapter in float32; over a bfloat16 base the forward pass then runs under autocast, as its users do.
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=args.dtype == "bfloat16")

    seconds, loss = [], None
    for step in range(args.warmup + args.steps):
        ids = torch.randint(0, 49152, (args.batch, args.length))
        start = time.perf_counter()
        with autocast:
            loss = peft(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trainable, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step >= args.warmup:
            seconds.append(time.perf_counter() - start)

    median = statistics.median(seconds)
    print(json.dumps({
        "peer": "peft", "torch": torch.__version__, "threads": args.threads, "dtype": args.dtype,
        "checkpointing": args.checkpointing, "batch": args.batch, "length": args.length,
        "trainable": sum(p.numel() for p in trainable), "loss": round(loss.item(), 4),
        "median_step_s": round(median, 4), "step_s": [round(s, 4) for s in seconds],
        "tokens_per_s": round(args.batch * args.length / median, 1),
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }))  # fmt: skip


main()
