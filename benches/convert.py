"""How fast `lowbit convert` and `lowbit inspect` are beside `cp` and `sync` of the same bytes, on one machine, in one run.

    cargo build --release && python3 benches/convert.py [--matrices 16] [--rounds 5] [--lowbit target/release/lowbit] [--folder DIR]

Needs numpy. Makes a model of random [4096, 4096] matrices in DIR (a temporary folder by default), packs it as q8_0, q4_0 and q4_k, and moves
it between formats. A round runs `cp` to another name with `sync` of that file, then the conversion, whose output lowbit syncs too. Printed: input
bytes, megabytes of input per second, and the median, least and greatest of the rounds' ratios to `cp` (1 = as fast, 2 = half as fast).
"""

import argparse
import json
import os
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time

import numpy

SIZE = 4096
# Input, output, arguments.
MOVES = [
    ("dense.safetensors", "dense.gguf", []),
    ("q8_0.gguf", "again.gguf", []),
    ("q8_0.gguf", "out.safetensors", []),
    ("q8_0.safetensors", "out.gguf", []),
    ("q4_k.gguf", "out.safetensors", []),
    ("q4_k.safetensors", "out.gguf", []),
    ("q4_0.safetensors", "out.onnx", []),
    ("q4_0.safetensors", "gptq", ["--to", "gptq"]),
    ("q4_0.safetensors", "awq", ["--to", "awq"]),
    ("q4_0.safetensors", "mlx", ["--to", "mlx"]),
    ("gptq-in", "out.gguf", []),
]


def make_dense(path, matrices):
    """A safetensors file of normal f32 numbers."""
    one = SIZE * SIZE * 4
    header = {
        f"model.layers.{n}.mlp.up_proj.weight": {"dtype": "F32", "shape": [SIZE, SIZE], "data_offsets": [n * one, (n + 1) * one]}
        for n in range(matrices)
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    rng = numpy.random.default_rng(1)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _ in range(matrices):
            file.write(rng.standard_normal(SIZE * SIZE, dtype=numpy.float32).tobytes())


def size(path):
    if os.path.isfile(path):
        return os.path.getsize(path)
    return sum(os.path.getsize(os.path.join(path, name)) for name in os.listdir(path))


def remove(path):
    shutil.rmtree(path) if os.path.isdir(path) else os.path.exists(path) and os.remove(path)


def copied(path):
    """Seconds that `cp` and `sync` take."""
    files = [path] if os.path.isfile(path) else [os.path.join(path, name) for name in os.listdir(path)]
    to = path + ".copy"
    start = time.perf_counter()
    subprocess.run(["cp", "-r", path, to], check=True)
    targets = [to] if len(files) == 1 and os.path.isfile(path) else [os.path.join(to, os.path.basename(f)) for f in files]
    subprocess.run(["sync", *targets], check=True)
    seconds = time.perf_counter() - start
    remove(to)
    return seconds


def timed(command):
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--matrices", type=int, default=16, help="of 64 MiB each as f32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--lowbit", default="target/release/lowbit")
    parser.add_argument("--folder", help="where to work; needs some three times the model")
    args = parser.parse_args()
    lowbit = os.path.abspath(args.lowbit)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        os.chdir(folder)
        make_dense("dense.safetensors", args.matrices)
        for scheme in ("q8_0", "q4_0", "q4_k"):
            timed([lowbit, "quantize", "dense.safetensors", "-o", f"{scheme}.safetensors", "--scheme", scheme, "--device", "cpu"])
            timed([lowbit, "convert", f"{scheme}.safetensors", "-o", f"{scheme}.gguf"])
        timed([lowbit, "convert", "q4_0.safetensors", "-o", "gptq-in", "--to", "gptq"])
        print(f"{'':40} {'MB':>6} {'MB/s':>6} {'beside cp and sync':>24}")
        for source, target, options in MOVES:
            ratios, seconds = [], []
            for _ in range(args.rounds):
                copy = copied(source)
                seconds.append(timed([lowbit, "convert", source, "-o", target, *options]))
                ratios.append(seconds[-1] / copy)
                remove(target)
                remove(target + ".data")
            megabytes = size(source) / 1e6
            spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            print(f"{source + ' -> ' + target:40} {megabytes:6.0f} {megabytes / statistics.median(seconds):6.0f} {spread:>24}", flush=True)
        for source in ("dense.safetensors", "q4_k.gguf", "gptq-in"):
            seconds = statistics.median(timed([lowbit, "inspect", source]) for _ in range(args.rounds))
            print(f"{'inspect ' + source:40} {size(source) / 1e6:6.0f} {1e3 * seconds:6.1f} ms")
        os.chdir("/")


if __name__ == "__main__":
    sys.exit(main())
