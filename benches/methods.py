#!/usr/bin/env python3
"""Methods of `lowbit quantize` beside plain NumPy doing the same, on one random 4096 x 4096 weight, in one run.

    python3 benches/methods.py [--lowbit target/release/lowbit] [--device cpu] [--rows 4096] [--numpy-rows 256]

NumPy has fewer rows and its time is multiplied; lowbit's is the median of three whole runs, files and process included. What both find is compared: mean squared errors
within 1 %. Needs NumPy only.
"""
import argparse
import json
import struct
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np

K = 4096


def absmax(x):
    """int4-g128."""
    g = x.reshape(-1, 128)
    s = np.abs(g).max(1, keepdims=True) / 7
    return (np.clip(np.rint(g / s), -8, 7) * s).reshape(x.shape)


def mse(x):
    """int4-g128: 64 ranges, then 64 around the best."""
    g = x.reshape(-1, 128)
    s0 = np.abs(g).max(1, keepdims=True) / np.float32(7)
    steps = [(36 - c) / 32 for c in range(32)]
    while len(steps) < 64:
        steps.append(steps[-1] * 0.9)
    steps = np.array(steps, np.float32)

    def error(f):
        s = s0 * f
        d = g - np.clip(np.rint(g / s), -8, 7) * s
        return (d * d).sum(1, keepdims=True)

    errors = np.concatenate([error(f) for f in steps], 1)
    at = errors.argmin(1)
    least, f = errors.min(1, keepdims=True), steps[at][:, None]
    gap = (steps - np.append(steps[1:], 2 * steps[-1] - steps[-2]))[at][:, None].astype(np.float32)
    first = f
    for c in range(64):
        near = first + np.float32((c - 32) / 32) * gap
        e = error(near)
        f, least = np.where(e < least, near, f), np.minimum(e, least)
    s = s0 * f
    return (np.clip(np.rint(g / s), -8, 7) * s).reshape(x.shape)


def hqq(x):
    """int4-g64-fzero: HQQ's loop."""
    g = x.reshape(-1, 64)
    low, high = np.minimum(g.min(1, keepdims=True), 0), np.maximum(g.max(1, keepdims=True), 0)
    s = (high - low) / np.float32(15)
    z, best, least, beta = -low / s, -low / s, np.full_like(s, np.inf), 10.0
    for _ in range(20):
        q = np.clip(np.rint(g / s + z), 0, 15)
        e = g - (q - z) * s
        mean = np.abs(e).mean(1, keepdims=True)
        best, least = np.where(mean < least, z, best), np.minimum(mean, least)
        size = np.maximum(np.abs(e), np.float32(1e-20))
        shrunk = np.sign(e) * np.maximum(size - size ** np.float32(-0.3) / np.float32(beta), 0)
        z = (q - (g - shrunk) / s).mean(1, keepdims=True)
        beta *= 1.01
    q = np.clip(np.rint(g / s + best), 0, 15)
    return ((q - best) * s).reshape(x.shape)


def kmeans(x):
    """codebook4-tensor: Lloyd's algorithm from quantiles, 400 rounds on sorted values, which their sums make quick."""
    v = np.sort(x, axis=None)
    sums = np.append(0, np.cumsum(v, dtype=np.float64))
    centres = v[((np.arange(16) + 0.5) / 16 * v.size).astype(int)].astype(np.float64)
    for _ in range(400):
        cuts = np.concatenate([[0], np.searchsorted(v, (centres[1:] + centres[:-1]) / 2), [v.size]])
        centres = (sums[cuts[1:]] - sums[cuts[:-1]]) / np.maximum(cuts[1:] - cuts[:-1], 1)
    codes = np.searchsorted((centres[1:] + centres[:-1]) / 2, x.reshape(-1))
    return centres.astype(np.float32)[codes].reshape(x.shape)


CASES = [("int4-g128", "absmax", absmax), ("int4-g128", "mse", mse), ("int4-g64-fzero", "hqq", hqq), ("codebook4-tensor", "kmeans", kmeans)]


def write_all(path, arrays):
    """f32 arrays by name, as safetensors."""
    header, at = {}, 0
    for name, x in arrays.items():
        header[name] = {"dtype": "F32", "shape": list(x.shape), "data_offsets": [at, at + x.nbytes]}
        at += x.nbytes
    header = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"".join(x.tobytes() for x in arrays.values()))


def read(path, shape):
    data = path.read_bytes()
    n = struct.unpack("<Q", data[:8])[0]
    begin, end = json.loads(data[8 : 8 + n])["w"]["data_offsets"]
    return np.frombuffer(data[8 + n + begin : 8 + n + end], np.float32).reshape(shape)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lowbit", default="target/release/lowbit")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--numpy-rows", type=int, default=256)
    args = parser.parse_args()
    x = np.random.default_rng(1).standard_normal((args.rows, K), dtype=np.float32)
    part = x[: args.numpy_rows]
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        write_all(folder / "x.safetensors", {"w": x})
        run = lambda *words: subprocess.run([args.lowbit, *words], check=True, capture_output=True, cwd=folder)
        args.lowbit = str(Path(args.lowbit).resolve())
        for scheme, method, twin in CASES:
            seconds = []
            for _ in range(3):
                start = time.perf_counter()
                run("quantize", "x.safetensors", "-o", "q.safetensors", "--force", "--scheme", scheme, "--method", method, "--device", args.device)
                seconds.append(time.perf_counter() - start)
            run("dequantize", "q.safetensors", "-o", "w.safetensors", "--force")
            got = np.square(x - read(folder / "w.safetensors", x.shape)).mean()
            start = time.perf_counter()
            w = twin(part)
            numpy = (time.perf_counter() - start) * args.rows / args.numpy_rows
            want = np.square(part - w).mean()
            # The rows of NumPy are some of lowbit's; NaN is not within.
            if not abs(got / want - 1) <= 0.01:
                raise SystemExit(f"{scheme} {method}: mean squared error {got}, NumPy {want}")
            ours = sorted(seconds)[1]
            print(f"{scheme:>16} {method:>7}: lowbit {ours:.3f} s on {args.device}, NumPy {numpy:.2f} s, {numpy / ours:.1f} times as fast; squared error {got:.5g}, {want:.5g}", flush=True)


if __name__ == "__main__":
    main()
