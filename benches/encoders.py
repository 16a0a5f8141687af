"""Encoders of GGUF types: `lowbit quantize` on the CPU beside gguf-py, on the same weights, in one run.

    cargo build --release
    target/test-data/gguf-venv/bin/python benches/encoders.py [--rows 8192] [--cols 4096] [--json]

lowbit is timed as a command, from a mapped file to /dev/null: start, reading, encoding and laying out blocks. gguf-py is timed in memory,
which favours it. Bytes are compared before anything is timed. Types that gguf-py cannot encode have no ratio. The figure is the median of
some runs.
"""

import argparse
import json
import pathlib
import statistics
import struct
import subprocess
import tempfile
import time

import gguf
import numpy as np

LOWBIT = pathlib.Path(__file__).resolve().parent.parent / "target/release/lowbit"
TYPES = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "TQ1_0", "TQ2_0", "MXFP4", "NVFP4", "IQ4_NL", "IQ4_XS"] + [
    f"Q{bits}_K" for bits in range(2, 7)
]


def safetensors(path, array):
    header = {"w": {"dtype": "F32", "shape": array.shape, "data_offsets": [0, array.nbytes]}}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # as the safetensors package does, so that the numbers are aligned
    path.write_bytes(struct.pack("<Q", len(text)) + text + array.tobytes())


def lowbit(source, target, kind):
    command = [LOWBIT, "quantize", source, "-o", target, "--to", "gguf", "--scheme", kind.lower(), "--device", "cpu"]
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--rows", type=int, default=8192)
    arguments.add_argument("--cols", type=int, default=4096)
    arguments.add_argument("--runs", type=int, default=5)
    arguments.add_argument("--json", action="store_true")
    arguments = arguments.parse_args()
    weights = np.random.Generator(np.random.PCG64(1)).standard_normal((arguments.rows, arguments.cols), np.float32)
    results = []
    with tempfile.TemporaryDirectory() as folder:
        source, target = pathlib.Path(folder, "w.safetensors"), pathlib.Path(folder, "w.gguf")
        safetensors(source, weights)
        for kind in TYPES:
            quant = gguf.GGMLQuantizationType[kind]
            lowbit(source, target, kind)
            ours = gguf.GGUFReader(target).tensors[0].data[:64].copy()
            target.unlink()
            peer = None
            try:
                few = gguf.quants.quantize(weights[:64], quant)
            except NotImplementedError:
                few = None
            if few is not None:
                assert np.array_equal(ours.view(np.uint8).reshape(64, -1), few.view(np.uint8)), kind
                times = []
                for _ in range(arguments.runs):
                    start = time.perf_counter()
                    gguf.quants.quantize(weights, quant)
                    times.append(time.perf_counter() - start)
                peer = statistics.median(times)
            seconds = statistics.median(lowbit(source, "/dev/null", kind) for _ in range(arguments.runs))
            rate = weights.nbytes / seconds / 1e6
            ratio = peer / seconds if peer else None
            results.append({"type": kind, "lowbit_mb_per_s": rate, "times_as_fast_as_gguf_py": ratio})
            if not arguments.json:
                beside = f"{ratio:6.1f} times as fast as gguf-py" if ratio else "gguf-py has no encoder"
                print(f"{kind:7} {rate:8.0f} MB/s of f32   {beside}", flush=True)
    if arguments.json:
        print(json.dumps(results, indent=1))


main()
