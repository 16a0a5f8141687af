#!/usr/bin/env python3
"""GPTQ of `lowbit quantize` beside a plain version of it in PyTorch (NumPy where there is none), on one random weight, in one run.

    python3 benches/gptq.py [--lowbit target/release/lowbit] [--device cpu] [--size 4096] [--runs 3] [--threads N]

Both have int4-g128-asym, damping 0.01, columns as they lie, and X^T X of inputs whose neighbouring columns go together. lowbit's time is of whole runs, files and process included,
the other's of the function alone. What both lose, tr(E H E^T), is compared: within 1 %. Needs NumPy; times are medians.
"""
import argparse
import os
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np

from methods import read, write_all

GROUP, BLOCK, DAMPING = 128, 128, 0.01


def torch_gptq(torch, w, h):
    """As the paper has it: the upper Cholesky factor of the inverse, blocks of columns."""
    w, h = torch.from_numpy(w.copy()), torch.from_numpy(h.copy())
    k = w.shape[1]
    h.diagonal().add_(DAMPING * h.diagonal().mean())
    u = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(h)), upper=True)
    out = torch.empty_like(w)
    for start in range(0, k, BLOCK):
        end = min(start + BLOCK, k)
        block, errors = w[:, start:end].clone(), torch.empty(w.shape[0], end - start)
        for i in range(end - start):
            if (start + i) % GROUP == 0:
                of = block[:, i : i + GROUP]
                low, high = of.amin(1).clamp(max=0), of.amax(1).clamp(min=0)
                scale = ((high - low) / 15).clamp(min=1e-9).half().float()
                zero = torch.round(-low / scale).clamp(0, 15)
            column = block[:, i]
            q = (torch.round(column / scale + zero).clamp(0, 15) - zero) * scale
            out[:, start + i] = q
            error = (column - q) / u[start + i, start + i]
            block[:, i:] -= torch.outer(error, u[start + i, start + i : end])
            errors[:, i] = error
        w[:, end:] -= errors @ u[start:end, end:]
    return out.numpy()


def numpy_gptq(w, h):
    """The same."""
    w, h = w.copy(), h.copy()
    k = w.shape[1]
    h[np.diag_indices(k)] += DAMPING * np.diag(h).mean()
    u = np.linalg.cholesky(np.linalg.inv(h)).T.copy()
    out = np.empty_like(w)
    for start in range(0, k, BLOCK):
        end = min(start + BLOCK, k)
        block, errors = w[:, start:end].copy(), np.empty((w.shape[0], end - start), np.float32)
        for i in range(end - start):
            if (start + i) % GROUP == 0:
                of = block[:, i : i + GROUP]
                low, high = np.minimum(of.min(1), 0), np.maximum(of.max(1), 0)
                scale = np.maximum((high - low) / 15, 1e-9).astype(np.float16).astype(np.float32)
                zero = np.clip(np.rint(-low / scale), 0, 15)
            column = block[:, i]
            q = (np.clip(np.rint(column / scale + zero), 0, 15) - zero) * scale
            out[:, start + i] = q
            error = (column - q) / u[start + i, start + i]
            block[:, i:] -= np.outer(error, u[start + i, start + i : end])
            errors[:, i] = error
        w[:, end:] -= errors @ u[start:end, end:]
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lowbit", default="target/release/lowbit")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0, help="of PyTorch; as many as it likes")
    args = parser.parse_args()
    k = args.size
    random = np.random.default_rng(1)
    w = random.standard_normal((k, k), dtype=np.float32)
    x = random.standard_normal((2 * k, k), dtype=np.float32)
    # Columns take of those 1, 2 and 4 before them.
    for reach in (1, 2, 4):
        x = 0.8 * x + 0.6 * np.roll(x, reach, 1)
    h = (x.T @ x).astype(np.float32)
    h = (h + h.T) / 2
    try:
        import torch

        torch.set_grad_enabled(False)
        if args.threads:
            torch.set_num_threads(args.threads)
        other, twin = f"PyTorch {torch.__version__} ({torch.get_num_threads()} threads)", lambda: torch_gptq(torch, w, h)
    except ImportError:
        other, twin = f"NumPy {np.__version__}", lambda: numpy_gptq(w, h)

    def processor():
        times = os.times()
        return times.user + times.system + times.children_user + times.children_system

    def timed(call):
        start, before = time.perf_counter(), processor()
        call()
        return time.perf_counter() - start, processor() - before

    def lost(q):
        e = (w - q).astype(np.float32)
        return float(((e @ h) * e).sum(dtype=np.float64))

    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        write_all(folder / "w.safetensors", {"w": w})
        write_all(folder / "h.safetensors", {"w.moments": h})
        lowbit = str(Path(args.lowbit).resolve())
        run = lambda *words: subprocess.run([lowbit, *words], check=True, capture_output=True, cwd=folder)
        words = ["--method", "gptq", "--order", "natural", "--calibration", "h.safetensors", "--device", args.device]
        quantize = lambda: run("quantize", "w.safetensors", "-o", "q.safetensors", "--force", "--scheme", "int4-g128-asym", *words)
        # In turns, so that a busy machine is busy for both.
        times = [(timed(quantize), timed(twin)) for _ in range(args.runs)]
        run("dequantize", "q.safetensors", "-o", "d.safetensors", "--force")
        ours = lost(read(folder / "d.safetensors", w.shape))
    theirs = lost(twin())
    if not abs(ours / theirs - 1) <= 0.01:
        raise SystemExit(f"losses differ: lowbit {ours:.6g}, {other} {theirs:.6g}")
    (a, a_busy), (b, b_busy) = (sorted(of)[len(times) // 2] for of in zip(*times))
    print(
        f"gptq {k} x {k}: lowbit {a:.2f} s on {args.device} ({a_busy:.2f} s of processors), {other} {b:.2f} s ({b_busy:.2f} s), "
        f"{b / a:.2f} times as fast; loss {ours:.6g}, {theirs:.6g}"
    )


if __name__ == "__main__":
    main()
