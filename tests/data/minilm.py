"""Writes minilm.safetensors, and the ids in minilm.json: what transformers makes of the texts there with all-MiniLM-L6-v2.

    python3 -m venv V && V/bin/pip install torch==2.15.0 transformers==5.23.0 safetensors==0.8.0 numpy==2.4.6
    V/bin/python tests/data/minilm.py MODEL_FOLDER        config.json, model.safetensors, tokenizer.json, tokenizer_config.json

    texts -> ids, 512 at most -> BertModel, f32, each text alone -> mean over its tokens -> unit length -> embeddings

The texts are an input: they are kept as they stand in minilm.json.
"""

import json
import pathlib
import sys

import numpy as np
import torch
from safetensors.numpy import save_file
from transformers import AutoModel, AutoTokenizer

HERE = pathlib.Path(__file__).resolve().parent


def embeddings(model, batch):
    with torch.no_grad():
        hidden = model(**batch).last_hidden_state
    mask = batch["attention_mask"].unsqueeze(2).to(hidden.dtype)
    return hidden, torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1))


def main():
    (folder,) = sys.argv[1:]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    content = json.loads((HERE / "minilm.json").read_text(encoding="utf-8"))
    texts, nasty = content["texts"], [entry["text"] for entry in content["tokens"]]

    def cut(texts):
        return tokenizer(texts, padding=True, truncation=True, max_length=512, return_tensors="pt")

    ids, vectors = [], []
    for text in texts:
        batch = cut([text])
        hidden, vector = embeddings(model, batch)
        ids.append(batch["input_ids"][0].numpy().astype(np.int32))
        vectors.append(vector[0])
        if len(ids) == 1:
            first = hidden[0].numpy()
    vectors = torch.stack(vectors)
    # Padding must not show, nor what the order of sums in f32 does.
    padded = embeddings(model, cut(texts))[1]
    doubled = embeddings(model.double(), cut(texts))[1]
    for what, others in (("one padded batch", padded), ("f64", doubled)):
        apart = 1 - (vectors.double() * others.double()).sum(1) / others.double().norm(dim=1) / vectors.double().norm(dim=1)
        print(f"{what}: cosines from 1 - {apart.max():.1e}, numbers within {(vectors - others).abs().max():.1e}")
        assert apart.max() < 1e-9
    save_file(
        {
            "embeddings": vectors.numpy(),
            "hidden": first,
            "ids": np.concatenate(ids),
            "lengths": np.array([len(row) for row in ids], np.int32),
        },
        HERE / "minilm.safetensors",
    )
    lines = [json.dumps(text, ensure_ascii=False) for text in texts]
    rows = [json.dumps({"text": text, "ids": tokenizer(text)["input_ids"]}) for text in nasty]
    text = '{"texts": [\n' + ",\n".join(lines) + '\n],\n"tokens": [\n' + ",\n".join(rows) + "\n]}\n"
    (HERE / "minilm.json").write_text(text, encoding="utf-8")


main()
