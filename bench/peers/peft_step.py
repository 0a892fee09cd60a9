"""Times training steps of HF PEFT with random weights: on the shape of SmolLM2-135M, or of MiniLM with 14 classes.

    python peft_step.py '{"model": "smollm2", "method": "lora", "steps": 5, "rows": 4, "length": 256, ...}'

The keys are those that bench/run gives both sides; DEFAULTS holds what may be left out. An adapter on all linears of each
layer, AdamW, gradient clipping, random tokens, on CPU. A step is forward, backward, clip, update.
Prints one JSON line: each step's seconds, tokens per second (padding not counted), the process's peak resident memory.
"""

import json
import os
import random
import resource
import sys
import time

import torch
import transformers
from peft import LoraConfig, MissConfig, OFTConfig, RandLoraConfig, VeraConfig, get_peft_model

DEFAULTS = dict(
    model="smollm2", method="lora", precision="float32", checkpointing=False, supervised=1.0, rows=4, length=256,
    lengths="", warmup=1, steps=5, threads=torch.get_num_threads(),
)  # fmt: skip
CLASSES = 14

METHODS = {
    "lora": lambda **on: LoraConfig(r=8, lora_alpha=16, lora_dropout=0.0, **on),
    "dora": lambda **on: LoraConfig(r=8, lora_alpha=16, lora_dropout=0.0, use_dora=True, **on),
    "vera": lambda **on: VeraConfig(r=256, **on),
    "randlora": lambda **on: RandLoraConfig(r=32, **on),
    "oft": lambda **on: OFTConfig(oft_block_size=32, **on),
    "bone": lambda **on: MissConfig(r=64, **on),
}


def smollm2() -> transformers.PreTrainedModel:
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, max_position_embeddings=8192, rms_norm_eps=1e-5, tie_word_embeddings=True,
        rope_parameters=dict(rope_type="default", rope_theta=100000.0), use_cache=False,
    ))  # fmt: skip


def minilm() -> transformers.PreTrainedModel:
    return transformers.BertForSequenceClassification(transformers.BertConfig(
        vocab_size=30522, hidden_size=384, intermediate_size=1536, num_hidden_layers=6, num_attention_heads=12,
        num_labels=CLASSES,
    ))  # fmt: skip


def model(work: dict):
    base = dict(smollm2=smollm2, minilm=minilm)[work["model"]]().to(getattr(torch, work["precision"]))
    if work["checkpointing"]:
        base.gradient_checkpointing_enable(gradient_checkpointing_kwargs=dict(use_reentrant=False))
    if work["model"] == "minilm":
        on = dict(
            target_modules=["query", "key", "value", "attention.output.dense", "intermediate.dense", "output.dense"],
            modules_to_save=["classifier", "pooler"], task_type="SEQ_CLS",
        )  # fmt: skip
    else:
        linears = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
        on = dict(target_modules=linears, task_type="CAUSAL_LM")
    return get_peft_model(base, METHODS[work["method"]](**on)).train()


def lengths_of_batches(work: dict) -> list[list[int]]:
    """Either steps of equal rows, or all of a file's sequences once, those of about the same length together."""
    if not work["lengths"]:
        return [[work["length"]] * work["rows"]] * work["steps"]
    with open(work["lengths"]) as file:
        lengths = sorted(json.load(file)["lengths"], reverse=True)
    batches = [lengths[i : i + work["rows"]] for i in range(0, len(lengths), work["rows"])]
    random.Random(0).shuffle(batches)
    return batches if work["warmup"] else batches[: work["steps"]]


def batch(lengths: list[int], work: dict, vocabulary: int) -> dict:
    ids = torch.randint(0, vocabulary, (len(lengths), max(lengths)))
    mask = torch.zeros_like(ids)
    labels = torch.full_like(ids, -100)
    for row, length in enumerate(lengths):
        mask[row, :length] = 1
        silent = length - round(work["supervised"] * length)
        labels[row, silent:length] = ids[row, silent:length]
    if work["model"] == "minilm":
        labels = torch.randint(0, CLASSES, (len(lengths),))
    return dict(input_ids=ids, attention_mask=mask, labels=labels)


def main() -> None:
    work = {**DEFAULTS, **json.loads(sys.argv[1] if len(sys.argv) > 1 else "{}")}
    torch.set_num_threads(work["threads"])
    torch.manual_seed(0)
    peft = model(work)
    vocabulary = peft.config.vocab_size
    trainable = [p for p in peft.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=1e-4)
    # PEFT keeps the adapter in float32; over a bfloat16 base the forward pass then runs under autocast, as its users do.
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=work["precision"] == "bfloat16")

    batches = lengths_of_batches(work)
    seconds, tokens, first_step = [], 0, None
    for step, lengths in enumerate(batches[:1] * work["warmup"] + batches):
        data = batch(lengths, work, vocabulary)
        start = time.perf_counter()
        with autocast:
            loss = peft(**data).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trainable, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step >= work["warmup"]:
            seconds.append(time.perf_counter() - start)
            tokens += sum(lengths)
        if first_step is None:
            first_step = time.time() - float(os.environ.get("BENCH_STARTED", "nan")) / 1000

    print(json.dumps({
        "torch": torch.__version__, "transformers": transformers.__version__,
        "trainable": sum(p.numel() for p in trainable), "loss": round(loss.item(), 4),
        "first_step_s": round(first_step, 4), "step_s": [round(s, 4) for s in seconds],
        "step_mean_s": sum(seconds) / len(seconds), "tokens_per_s": round(tokens / sum(seconds), 1),
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }))  # fmt: skip


if __name__ == "__main__":
    main()
