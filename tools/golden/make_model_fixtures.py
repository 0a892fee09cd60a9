"""Tiny random models in Hugging Face's layout with transformers' outputs for them.

    python make_model_fixtures.py ../../models/src/test/resources/golden/models

README.md says what each folder holds.
"""

import json
import shutil
import sys
from pathlib import Path

import torch
import transformers as hf
from safetensors.torch import load_file

from common import fill, padded, positions_from_mask, save_json, save_tensors

VOCAB = 67
LENGTHS = [12, 7, 9]
LONG = [28, 19]
NEW_TOKENS = 20

DECODER = dict(
    vocab_size=VOCAB, hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=64, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    tie_word_embeddings=False, attn_implementation="eager",
)  # fmt: skip
GPT2 = dict(
    vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=4, n_inner=40, n_positions=40, bos_token_id=1, eos_token_id=2,
    pad_token_id=0, attn_implementation="eager",
)  # fmt: skip
ENCODER = dict(
    vocab_size=VOCAB, hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
    max_position_embeddings=34, attn_implementation="eager",
)  # fmt: skip
ROBERTA = dict(ENCODER, type_vocab_size=1, pad_token_id=1, bos_token_id=0, eos_token_id=2)
LABELS = ["refund", "delivery", "other"]
THREE_LABELS = dict(id2label=dict(enumerate(LABELS)), label2id={label: i for i, label in enumerate(LABELS)})

# Every scaling changes some frequencies, leaves some, and (where the method has a ramp) blends at least one.
ROPE = {
    "linear": dict(rope_type="linear", rope_theta=1000.0, factor=4.0),
    "llama3": dict(rope_type="llama3", rope_theta=100.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=3.0,
                   original_max_position_embeddings=24),
    "yarn": dict(rope_type="yarn", rope_theta=10000.0, factor=4.0, original_max_position_embeddings=2048),
    "yarn-options": dict(rope_type="yarn", rope_theta=100.0, factor=4.0, original_max_position_embeddings=16,
                         beta_fast=2.0, beta_slow=0.25, attention_factor=0.9, truncate=False),
    "yarn-mscale": dict(rope_type="yarn", rope_theta=10000.0, factor=4.0, original_max_position_embeddings=2048,
                        mscale=0.7, mscale_all_dim=1.3),
}  # fmt: skip

ROOT = Path(sys.argv[1])
cases = {}


@torch.no_grad()
def expect(name: str, model, lengths=LENGTHS) -> dict[str, torch.Tensor]:
    """Outputs for right and left padding. Outputs at padded positions mean nothing and are stored as 0."""
    kind = type(model).__name__
    out = {}
    for side in ("right", "left"):
        batch = padded(name, VOCAB, model.config.pad_token_id, lengths, side)
        mask = batch["attention_mask"]
        if kind.startswith("Bert"):
            batch["position_ids"] = torch.arange(mask.shape[1]).expand_as(mask)
            batch["token_type_ids"] = (torch.arange(mask.shape[1]) % 5 > 2).long() * mask
        elif kind.startswith("Roberta"):
            # RoBERTa's rule: pad_token_id + 1 + index among the real tokens; pads have pad_token_id.
            batch["position_ids"] = mask.cumsum(-1) * mask + model.config.pad_token_id
        else:
            batch["position_ids"] = positions_from_mask(mask)
        result = model(**batch)
        if hasattr(result, "logits"):
            logits = result.logits
            batch["logits"] = logits * mask[..., None] if logits.dim() == 3 else logits
        else:
            hidden = result.last_hidden_state * mask[..., None]
            mean = hidden.sum(1) / mask.sum(1, keepdim=True)
            batch |= {"last_hidden_state": hidden, "embedding": torch.nn.functional.normalize(mean, dim=-1)}
        if kind.startswith(("Bert", "Roberta")):  # these positions are the model's own default
            defaults = {k: v for k, v in batch.items() if k in ("input_ids", "attention_mask", "token_type_ids")}
            assert torch.equal(model(**defaults)[0], model(**defaults, position_ids=batch["position_ids"])[0])
        out |= {f"{k}.{side}": v for k, v in batch.items()}
    if kind.endswith("ForCausalLM") or kind == "GPT2LMHeadModel":
        out |= greedy(name, model)
    return out


def greedy(name: str, model) -> dict[str, torch.Tensor]:
    """20 greedy tokens after the first left-padded batch that meets no end token and no near tie between tokens."""
    for attempt in range(200):
        batch = padded(f"{name}/generate/{attempt}", VOCAB, 0, [8, 5], "left")
        result = model.generate(
            **batch, max_new_tokens=NEW_TOKENS, do_sample=False, return_dict_in_generate=True, output_logits=True
        )
        top = torch.stack(result.logits).topk(2).values
        distinct = min(row.unique().numel() for row in result.sequences[:, 8:])
        if not (result.sequences[:, 8:] == 2).any() and (top[..., 0] - top[..., 1]).min() > 1e-2 and distinct > 3:
            return {"input_ids.generate": batch["input_ids"], "attention_mask.generate": batch["attention_mask"],
                    "sequences.generate": result.sequences}  # fmt: skip
    raise AssertionError(f"{name}: no prompt meets the conditions")


def write(name: str, model, lengths=LENGTHS, weights=None, **save):
    folder = ROOT / name
    model.save_pretrained(folder, **save)
    if weights:
        (folder / "model.safetensors").unlink()
    save_tensors(folder / "expected.safetensors", expect(name, model, lengths))
    cases[name] = dict(architecture=type(model).__name__, weights=weights or name, expected=name)
    whole = with_weights(folder, weights) if weights else folder
    reloaded = type(model).from_pretrained(whole, attn_implementation="eager")
    assert all(torch.equal(a, b) for a, b in zip(reloaded.state_dict().values(), model.state_dict().values()))
    return model


def with_weights(folder: Path, weights: str) -> Path:
    joined = ROOT / ".joined"
    shutil.rmtree(joined, ignore_errors=True)
    shutil.copytree(folder, joined)
    shutil.copy(ROOT / weights / "model.safetensors", joined)
    return joined


def write_v4(name: str, model_class, weights: str | None = None) -> None:
    """The same model under a config as transformers 4 wrote it: rope_theta and rope_scaling apart, torch_dtype."""
    config = json.loads((ROOT / name / "config.json").read_text())
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    rope_type = rope.pop("rope_type")
    key = "type" if rope_type == "linear" else "rope_type"  # early files call it "type"
    config["rope_scaling"] = None if rope_type == "default" else {key: rope_type} | rope
    config["torch_dtype"] = config.pop("dtype")
    # Keys that files of that time lack; absent they must take these values.
    for key, value in dict(head_dim=8, attention_bias=False, mlp_bias=False, pad_token_id=0).items():
        if config.get(key) == value:
            del config[key]
    config.pop("layer_types", None)
    if config.get("use_sliding_window") is False:
        config["sliding_window"] = 5  # must be ignored: published Qwen2 files hold a window that is switched off
    config["transformers_version"] = "4.46.0"
    folder = ROOT / f"{name}-v4"
    save_json(folder / "config.json", dict(sorted(config.items())))
    cases[folder.name] = dict(architecture=model_class.__name__, weights=cases[name]["weights"], expected=name)
    model = model_class.from_pretrained(with_weights(folder, cases[name]["weights"]), attn_implementation="eager")
    expected = load_file(ROOT / name / "expected.safetensors")
    with torch.no_grad():
        batch = {k: expected[f"{k}.right"] for k in ("input_ids", "attention_mask", "position_ids")}
        got = model(**batch).logits * batch["attention_mask"][..., None]
    assert torch.equal(got, expected["logits.right"]), folder.name


def llama_family() -> None:
    llama = write("llama", fill(hf.LlamaForCausalLM(hf.LlamaConfig(**DECODER)), "llama"))
    write_v4("llama", hf.LlamaForCausalLM)
    for scaling, parameters in ROPE.items():
        reach = int(parameters["factor"] * parameters.get("original_max_position_embeddings", 16))
        settings = DECODER | dict(rope_parameters=parameters, max_position_embeddings=reach)
        model = hf.LlamaForCausalLM(hf.LlamaConfig(**settings)).eval()
        model.load_state_dict(llama.state_dict())
        write(f"llama-{scaling}", model, LONG, weights="llama")
        if scaling in ("linear", "llama3", "yarn"):
            write_v4(f"llama-{scaling}", hf.LlamaForCausalLM)

    folder = ROOT / "llama-sharded"
    llama.save_pretrained(folder, max_shard_size="40KB")
    cases[folder.name] = dict(architecture="LlamaForCausalLM", weights=folder.name, expected="llama")
    assert len(list(folder.glob("model-*.safetensors"))) > 1

    tied = DECODER | dict(tie_word_embeddings=True)
    write("llama-tied", fill(hf.LlamaForCausalLM(hf.LlamaConfig(**tied)), "llama-tied"))
    biased = DECODER | dict(attention_bias=True, mlp_bias=True, head_dim=16, rms_norm_eps=1e-5)
    write("llama-biases", fill(hf.LlamaForCausalLM(hf.LlamaConfig(**biased)), "llama-biases"))
    write(
        "llama-classification",
        fill(hf.LlamaForSequenceClassification(hf.LlamaConfig(**DECODER, **THREE_LABELS)), "llama-classification"),
    )
    write("mistral", fill(hf.MistralForCausalLM(hf.MistralConfig(**DECODER, sliding_window=5)), "mistral"))
    write_v4("mistral", hf.MistralForCausalLM)
    write("qwen2", fill(hf.Qwen2ForCausalLM(hf.Qwen2Config(**tied, use_sliding_window=False)), "qwen2"))
    write_v4("qwen2", hf.Qwen2ForCausalLM)
    write("qwen3", fill(hf.Qwen3ForCausalLM(hf.Qwen3Config(**DECODER, head_dim=16, use_sliding_window=False)), "qwen3"))
    write_v4("qwen3", hf.Qwen3ForCausalLM)


def gpt2_family() -> None:
    model = write("gpt2", fill(hf.GPT2LMHeadModel(hf.GPT2Config(**GPT2)), "gpt2"))
    # The published gpt2 file holds the backbone without "transformer." and the causal masks as buffers.
    folder = ROOT / "gpt2-published-names"
    folder.mkdir(exist_ok=True)
    shutil.copy(ROOT / "gpt2" / "config.json", folder)
    tensors = dict(model.transformer.state_dict())
    for layer in range(GPT2["n_layer"]):
        tensors[f"h.{layer}.attn.bias"] = torch.ones(40, 40).tril().view(1, 1, 40, 40)
        tensors[f"h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    save_tensors(folder / "model.safetensors", tensors)
    again = hf.GPT2LMHeadModel.from_pretrained(folder, attn_implementation="eager")
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), model.state_dict().values()))
    cases[folder.name] = dict(architecture="GPT2LMHeadModel", weights=folder.name, expected="gpt2")

    classifier = hf.GPT2ForSequenceClassification(hf.GPT2Config(**GPT2, **THREE_LABELS))
    write("gpt2-classification", fill(classifier, "gpt2-classification"))


def encoders() -> None:
    classifier = hf.BertForSequenceClassification(hf.BertConfig(**ENCODER, **THREE_LABELS))
    write("bert-classification", fill(classifier, "bert-classification"))
    write("bert-embedding", fill(hf.BertModel(hf.BertConfig(**ENCODER)), "bert-embedding"))
    # Published MiniLM files carry this buffer; a loader must neither miss it nor stumble over it.
    weights = ROOT / "bert-embedding" / "model.safetensors"
    save_tensors(weights, load_file(weights) | {"embeddings.position_ids": torch.arange(34)[None]})
    classifier = hf.RobertaForSequenceClassification(hf.RobertaConfig(**ROBERTA, **THREE_LABELS))
    write("roberta-classification", fill(classifier, "roberta-classification"))
    write("roberta-embedding", fill(hf.RobertaModel(hf.RobertaConfig(**ROBERTA)), "roberta-embedding"))


shutil.rmtree(ROOT, ignore_errors=True)
ROOT.mkdir(parents=True)
llama_family()
gpt2_family()
encoders()
shutil.rmtree(ROOT / ".joined")
save_json(ROOT / "cases.json", cases)
