#!/usr/bin/env python3
"""Captures what goes into the linear layers of a PyTorch model, in the file that `lowbit calibrate` writes (docs/CALIBRATION.md).

    python3 examples/capture.py MODEL-FOLDER text.txt stats.safetensors       # a model of transformers, a text a line
    lowbit quantize MODEL-FOLDER -o small.safetensors --scheme int4-g128 --method gptq --calibration stats.safetensors

Of use in scripts of your own, for any model:

    with Capture(model) as capture:
        for batch in batches:
            model(**batch)
    capture.save("stats.safetensors")

Needs torch and safetensors; the command transformers too.
"""
import json
import math
import sys

import torch
from safetensors.torch import save_file

BINS = 2048


class Inputs:
    """What is known of one input: sums, ranges, a histogram, a sample."""

    def __init__(self, k, rows):
        self.k, self.rows, self.tokens = k, rows, 0
        self.moments = torch.zeros(k, k)
        self.low, self.high = torch.full((k,), math.inf), torch.full((k,), -math.inf)
        self.sample = torch.zeros(0, k)
        self.counts, self.exponent = torch.zeros(BINS, dtype=torch.int64), -20

    def add(self, x):
        x = x.detach().reshape(-1, self.k).float().cpu()
        if not torch.isfinite(x).all():
            raise ValueError("NaN or infinity in the input of a layer")
        self.moments += x.T @ x
        self.low, self.high = torch.minimum(self.low, x.amin(0)), torch.maximum(self.high, x.amax(0))
        self.histogram(x)
        # A row is kept with the chance that every row has had: a reservoir.
        for row in x:
            self.tokens += 1
            if len(self.sample) < self.rows:
                self.sample = torch.cat([self.sample, row[None]])
            elif (at := int(torch.randint(self.tokens, (1,)))) < self.rows:
                self.sample[at] = row

    def histogram(self, x):
        """Bins of equal width from -2^exponent to 2^exponent; twice the range makes one bin of two."""
        largest = float(x.abs().max())
        while largest >= 2.0**self.exponent:
            half = self.counts.reshape(-1, 2).sum(1)
            self.counts = torch.cat([torch.zeros(BINS // 4, dtype=torch.int64), half, torch.zeros(BINS // 4, dtype=torch.int64)])
            self.exponent += 1
        at = ((x.double() / 2.0**self.exponent + 1) * (BINS / 2)).floor().clamp(0, BINS - 1)
        self.counts += torch.bincount(at.long().flatten(), minlength=BINS)


class Capture:
    """Hooks on all linear layers of a model, by the names of their weights."""

    def __init__(self, model, sample_rows=256):
        self.layers, self.rows = {}, sample_rows
        linear = [(name, m) for name, m in model.named_modules() if isinstance(m, torch.nn.Linear)]
        self.hooks = [m.register_forward_pre_hook(self.hook(f"{name}.weight", m.in_features)) for name, m in linear]

    def hook(self, name, k):
        def see(_, args):
            self.layers.setdefault(name, Inputs(k, self.rows)).add(args[0])

        return see

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for hook in self.hooks:
            hook.remove()

    def save(self, path):
        if not self.layers:
            raise ValueError("no linear layer has run")
        tensors, inputs = {}, []
        for name, of in self.layers.items():
            for part in ("moments", "low", "high", "sample"):
                tensors[f"{name}.{part}"] = getattr(of, part).contiguous()
            histogram = {"exponent": of.exponent, "counts": of.counts.tolist()}
            inputs.append({"layers": [name], "k": of.k, "tokens": of.tokens, "histogram": histogram})
        header = {"version": 1, "sample_rows": self.rows, "inputs": inputs}
        save_file(tensors, path, metadata={"lowbit.calibration": json.dumps(header)})


def main(folder, text, output):
    from transformers import AutoModel, AutoTokenizer

    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    lines = [line.strip() for line in open(text, encoding="utf-8") if line.strip()]
    with torch.no_grad(), Capture(model) as capture:
        for line in lines:
            model(**tokenizer(line, return_tensors="pt", truncation=True))
    capture.save(output)
    print(f"{output}: inputs of {len(capture.layers)} layers, {len(lines)} texts")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__.strip())
    main(*sys.argv[1:])
