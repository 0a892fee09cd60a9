"""The golden model llama-tied as a GGUF file, its rows of q and k reordered as llama.cpp's converter does.

    python make_gguf_model_fixture.py ../../models/src/test/resources/golden/gguf ../../models/src/test/resources/golden/models

Its outputs must be those of llama-tied. It holds no tokenizer.
"""

import json
import sys
from pathlib import Path

import numpy as np
from gguf import GGUFWriter
from safetensors.numpy import load_file

target, models = Path(sys.argv[1]), Path(sys.argv[2])
target.mkdir(parents=True, exist_ok=True)
config = json.loads((models / "llama-tied" / "config.json").read_text())
weights = load_file(models / "llama-tied" / "model.safetensors")


def interleave(rows: np.ndarray, heads: int) -> np.ndarray:
    """Pairs (i, i + E/2) of each head become neighbours (2i, 2i + 1)."""
    return rows.reshape(heads, 2, rows.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(rows.shape)


NAMES = {
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip
HEADS = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}

writer = GGUFWriter(target / "llama-tied.gguf", "llama")
writer.add_block_count(config["num_hidden_layers"])
writer.add_context_length(config["max_position_embeddings"])
writer.add_embedding_length(config["hidden_size"])
writer.add_feed_forward_length(config["intermediate_size"])
writer.add_head_count(config["num_attention_heads"])
writer.add_head_count_kv(config["num_key_value_heads"])
writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
writer.add_rope_dimension_count(config["head_dim"])
for name, value in weights.items():
    if name.startswith("model.layers."):
        _, _, layer, rest = name.split(".", 3)
        stem, kind = rest.rsplit(".", 1)
        short = NAMES[stem]
        writer.add_tensor(f"blk.{layer}.{short}.{kind}", interleave(value, HEADS[short]) if short in HEADS else value)
    else:
        writer.add_tensor({"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}[name], value)
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()

# A file of an architecture that is not supported, to be refused.
other = GGUFWriter(target / "other.gguf", "mamba")
other.add_tensor("token_embd.weight", np.zeros((2, 2), dtype=np.float32))
other.write_header_to_file()
other.write_kv_data_to_file()
other.write_tensors_to_file()
other.close()
