"""Times greedy generation with transformers, with random weights of SmolLM2-135M's shape, one sequence, on CPU.

    python generate.py '{"prompt": 32, "tokens": 128, "steps": 5, "threads": 2}'

Prints one JSON line: tokens per second, the process's peak resident memory.
"""

import json
import resource
import sys
import time

import torch
import transformers
from peft_step import smollm2

work = json.loads(sys.argv[1])
torch.set_num_threads(work["threads"])
torch.manual_seed(0)
model = smollm2().eval()
prompt = torch.randint(0, model.config.vocab_size, (1, work["prompt"]))
options = dict(
    attention_mask=torch.ones_like(prompt), do_sample=False, use_cache=True, eos_token_id=None, pad_token_id=0,
    max_new_tokens=work["tokens"],
)  # fmt: skip
model.generate(prompt, **options)
start = time.perf_counter()
for _ in range(work["steps"]):
    new = model.generate(prompt, **options).shape[1] - work["prompt"]
    assert new == work["tokens"], new
print(json.dumps({
    "torch": torch.__version__, "transformers": transformers.__version__,
    "tokens_per_s": work["tokens"] * work["steps"] / (time.perf_counter() - start),
    "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
}))  # fmt: skip
