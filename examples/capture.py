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

# Bins by the bits of a number (docs/CALIBRATION.md): a class per bfloat16 magnitude from 2^-32 to 2^32, that of zero in the middle.
LAST = 8193
FIRST = (127 - 32) << 7


class Inputs:
    """What is known of one input: sums, ranges, a histogram, a sample."""

    def __init__(self, k, rows):
        self.k, self.rows, self.tokens = k, rows, 0
        self.moments = torch.zeros(k, k)
        self.low, self.high = torch.full((k,), math.inf), torch.full((k,), -math.inf)
        self.sample = torch.zeros(0, k)
        self.counts = torch.zeros(2 * LAST + 1, dtype=torch.int64)
        self.batches = []

    def add(self, x):
        x = x.detach().reshape(-1, self.k).float().cpu()
        if not len(x):
            return
        if not torch.isfinite(x).all():
            raise ValueError("NaN or infinity in the input of a layer")
        self.moments += x.T @ x
        self.low, self.high = torch.minimum(self.low, x.amin(0)), torch.maximum(self.high, x.amax(0))
        self.batches.append([float(x.min()), float(x.max())])
        self.count(x)
        # A row is kept with the chance that every row has had: a reservoir.
        for row in x:
            self.tokens += 1
            if len(self.sample) < self.rows:
                self.sample = torch.cat([self.sample, row[None]])
            elif (at := int(torch.randint(self.tokens, (1,)))) < self.rows:
                self.sample[at] = row

    def count(self, x):
        """Adds to the bins; no range has to be known."""
        bits = x.contiguous().view(torch.int32)
        kind = (((bits & 0x7FFFFFFF) >> 16) - FIRST + 1).clamp(0, LAST).long()
        self.counts += torch.bincount((LAST + torch.where(bits < 0, -kind, kind)).flatten(), minlength=2 * LAST + 1)

    def histogram(self):
        """The first bin that is not empty, and the counts from there to the last one; -n stands for n empty bins."""
        full = self.counts.nonzero().flatten().tolist()
        counts = []
        for before, at in zip([None] + full, full):
            if before is not None and at > before + 1:
                counts.append(before + 1 - at)
            counts.append(int(self.counts[at]))
        return {"first": full[0] if full else 0, "counts": counts}


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
            inputs.append({"layers": [name], "k": of.k, "tokens": of.tokens, "histogram": of.histogram(), "runs": [of.batches]})
        header = {"version": 2, "sample_rows": self.rows, "inputs": inputs}
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
