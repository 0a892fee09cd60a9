"""Times one training step of HF PEFT on the shape of SmolLM2-135M with random weights.

    python peft_step.py [--method lora] [--steps 10] [--supervised 1.0] [--threads 2] [--dtype ...] [--checkpointing]

An adapter on all seven linears of each layer, AdamW, gradient clipping, on CPU. A step is forward, backward, clip, update.
Prints one JSON line: the median and each step's seconds, tokens per second, the process's peak resident memory.
"""

import argparse
import json
import resource
import statistics
import time

import torch
import transformers
from peft import LoraConfig, MissConfig, OFTConfig, RandLoraConfig, VeraConfig, get_peft_model

LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


METHODS = {
    "lora": lambda **on: LoraConfig(r=8, lora_alpha=16, lora_dropout=0.0, **on),
    "dora": lambda **on: LoraConfig(r=8, lora_alpha=16, lora_dropout=0.0, use_dora=True, **on),
    "vera": lambda **on: VeraConfig(r=256, **on),
    "randlora": lambda **on: RandLoraConfig(r=32, **on),
    "oft": lambda **on: OFTConfig(oft_block_size=32, **on),
    "bone": lambda **on: MissConfig(r=64, **on),
}


def model(method: str, dtype: torch.dtype, checkpointing: bool):
    config = transformers.LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, max_position_embeddings=8192, rms_norm_eps=1e-5, tie_word_embeddings=True,
        rope_parameters=dict(rope_type="default", rope_theta=100000.0), use_cache=False,
    )  # fmt: skip
    base = transformers.LlamaForCausalLM(config).to(dtype)
    if checkpointing:
        base.gradient_checkpointing_enable(gradient_checkpointing_kwargs=dict(use_reentrant=False))
    config = METHODS[method](target_modules=LINEARS, task_type="CAUSAL_LM")
    return get_peft_model(base, config).train()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", choices=METHODS, default="lora")
    parser.add_argument("--supervised", type=float, default=1.0, help="share of each row, at its end, that has a loss")
    parser.add_argument("--steps", type=int, default=10, help="timed steps (default 10)")
    parser.add_argument("--warmup", type=int, default=1, help="steps before timing (default 1)")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="of the frozen base")
    parser.add_argument("--checkpointing", action="store_true", help="recompute activations in the backward pass")
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    peft = model(args.method, getattr(torch, args.dtype), args.checkpointing)
    trainable = [p for p in peft.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=1e-4)
    # PEFT keeps the adapter in float32; over a bfloat16 base the forward pass then runs under autocast, as its users do.
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=args.dtype == "bfloat16")

    seconds, loss = [], None
    for step in range(args.warmup + args.steps):
        ids = torch.randint(0, 49152, (args.batch, args.length))
        labels = ids.clone()
        labels[:, : args.length - round(args.supervised * args.length)] = -100
        start = time.perf_counter()
        with autocast:
            loss = peft(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trainable, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step >= args.warmup:
            seconds.append(time.perf_counter() - start)

    median = statistics.median(seconds)
    print(json.dumps({
        "peer": "peft", "method": args.method, "torch": torch.__version__, "threads": args.threads, "dtype": args.dtype,
        "checkpointing": args.checkpointing, "batch": args.batch, "length": args.length,
        "trainable": sum(p.numel() for p in trainable), "loss": round(loss.item(), 4),
        "median_step_s": round(median, 4), "step_s": [round(s, 4) for s in seconds],
        "tokens_per_s": round(args.batch * args.length / median, 1),
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }))  # fmt: skip


main()
