"""Prompts that PEFT learns instead of layers: prompt tuning and prefix tuning.

    python make_peft_prompt_fixtures.py ../../methods/src/test/resources/golden/peft
"""

import sys
from pathlib import Path

from peft_cases import make, task  # first: it fixes torch's threads

from peft import PrefixTuningConfig, PromptTuningConfig

if __name__ == "__main__":
    root = Path(sys.argv[1])
    for name in ("llama", "gpt2", "bert"):
        make(
            root,
            name,
            "prompt-tuning",
            PromptTuningConfig(task_type=task(name), num_virtual_tokens=3),
            merges=False,
        )
    for name in ("llama", "gpt2"):
        make(
            root,
            name,
            "prefix-tuning",
            PrefixTuningConfig(task_type=task(name), num_virtual_tokens=3),
            merges=False,
        )
    make(
        root,
        "llama",
        "prefix-tuning-projected",
        PrefixTuningConfig(task_type=task("llama"), num_virtual_tokens=3, prefix_projection=True, encoder_hidden_size=4),
        merges=False,
    )
