"""The base networks under the adapter fixtures: smaller than the model fixtures, with biases wherever possible."""

import copy
from pathlib import Path

import transformers as hf

from common import fill

VOCAB = 47
LABELS = 3

_LLAMA = dict(
    vocab_size=VOCAB, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=32, attention_bias=True, mlp_bias=True, bos_token_id=1,
    eos_token_id=2, pad_token_id=0,
)  # fmt: skip
_GPT2 = dict(
    vocab_size=VOCAB, n_embd=16, n_layer=2, n_head=4, n_inner=24, n_positions=32, bos_token_id=1, eos_token_id=2,
    pad_token_id=0, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
)  # fmt: skip
_BERT = dict(
    vocab_size=VOCAB, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
    max_position_embeddings=32, num_labels=LABELS, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
)  # fmt: skip

BASES = {
    "llama": (hf.LlamaForCausalLM, hf.LlamaConfig(**_LLAMA, tie_word_embeddings=False)),
    "llama-tied": (hf.LlamaForCausalLM, hf.LlamaConfig(**_LLAMA, tie_word_embeddings=True)),
    "gpt2": (hf.GPT2LMHeadModel, hf.GPT2Config(**_GPT2)),
    "bert": (hf.BertForSequenceClassification, hf.BertConfig(**_BERT)),
}


def base(name: str):
    model_class, config = BASES[name]
    config = copy.deepcopy(config)  # PEFT switches tie_word_embeddings off in it when it unties
    config._attn_implementation = "eager"
    model = fill(model_class(config), f"base/{name}")
    # What PEFT writes as base_model_name_or_path.
    model.name_or_path = f"tiny-{name}"
    return model


def save_bases(folder: Path) -> None:
    for name in BASES:
        base(name).save_pretrained(folder / name)
