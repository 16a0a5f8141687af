"""onnxruntime's sentence encoder as a peer: all-MiniLM-L6-v2 in f32 and with int8 weights, on the CPU.

    target/peers/venv/bin/python benches/peers/onnxruntime-encoder.py MODEL_FOLDER [--json] [--runs 31]      (scripts/peers.sh makes that environment)
    target/peers/venv/bin/python benches/peers/onnxruntime-encoder.py MODEL_FOLDER --serve

    config.json, model.safetensors -> ONNX graph of fused nodes -> f32 ------------------\
                                                  quantize_dynamic -> int8 by columns ---- ids, mask [B, T] -> unit vectors [B, hidden]

The nodes are those that onnxruntime's own optimizer fuses a BERT into (EmbedLayerNormalization, Attention, SkipLayerNormalization, BiasGelu), written
directly, so that no torch is needed and none of its patterns can be missed. Embeddings are compared with tests/data/minilm.safetensors before anything is
timed.

With --serve it answers as src/serve.rs does, for shapes named later: `ready WHAT RAN`, then for each line `time f32|int8 B T` runs for some ms that do not
count, and one that does -> {"kind", "batch", "tokens", "seconds"}. Ids are random; none is masked. Threads: PEERS_THREADS, else 2. They stop to spin when a run
ends, so that whoever is timed next has the cores.
"""

import argparse
import json
import logging
import os
import pathlib
import sys
import tempfile
import time

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

GOLDEN = pathlib.Path(__file__).resolve().parent.parent.parent / "tests/data/minilm.safetensors"
SHAPES = [(32, 64), (1, 64), (1, 16)]
KINDS = ["f32", "int8"]
# The least cosine with a golden embedding. What int8 costs is reported; texts that mean the same differ by more than 0.1.
BARS = {"f32": 0.99999, "int8": 0.9}
CLS, SEP = 101, 102


def tensors(path):
    """The f32 and i32 tensors of a safetensors file."""
    data = path.read_bytes()
    begin = 8 + int.from_bytes(data[:8], "little")
    dtypes = {"F32": np.float32, "I32": np.int32}
    result = {}
    for name, info in json.loads(data[8:begin]).items():
        if info.get("dtype") in dtypes:
            first, last = (begin + at for at in info["data_offsets"])
            result[name] = np.frombuffer(data[first:last], dtypes[info["dtype"]]).reshape(info["shape"])
    return result


def encoder(folder):
    """The graph: ids, mask i32 [B, T] -> embeddings f32 [B, hidden]."""
    config = json.loads((folder / "config.json").read_text())
    if (config["model_type"], config["hidden_act"]) != ("bert", "gelu"):
        sys.exit(f"{folder}: no BERT with GELU")
    weights = tensors(folder / "model.safetensors")
    epsilon = config["layer_norm_eps"]
    nodes, constants = [], []

    def constant(name, values):
        constants.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def node(kind, inputs, output, domain="", also=(), **attributes):
        nodes.append(helper.make_node(kind, inputs, [output, *also], output, domain=domain, **attributes))
        return output

    def fused(kind, inputs, output, **attributes):
        return node(kind, inputs, output, "com.microsoft", **attributes)

    def tensor(name):
        return constant(name, weights[name])

    def norm(name):
        return [tensor(f"{name}.LayerNorm.weight"), tensor(f"{name}.LayerNorm.bias")]

    def linear(x, name):
        """x * w^T; the bias is the next node's."""
        return node("MatMul", [x, constant(f"{name}.weight", weights[f"{name}.weight"].T)], f"{name}.product")

    def closing(x, name, residual):
        """norm(dense(x) + residual)"""
        operands = [linear(x, f"{name}.dense"), residual, *norm(name), tensor(f"{name}.dense.bias")]
        return fused("SkipLayerNormalization", operands, f"{name}.normed", epsilon=epsilon)

    table = [f"embeddings.{name}_embeddings.weight" for name in ("word", "position", "token_type")]
    # Every token is of type 0.
    positions = constant("positions", weights[table[1]] + weights[table[2]][0])
    first = ["ids", "", tensor(table[0]), positions, "", *norm("embeddings")]
    h = fused("EmbedLayerNormalization", first, "embedded", also=["lengths"], epsilon=epsilon)
    for layer in range(config["num_hidden_layers"]):
        at = f"encoder.layer.{layer}"
        parts = [f"{at}.attention.self.{name}" for name in ("query", "key", "value")]
        w = constant(f"{at}.qkv", np.concatenate([weights[f"{part}.weight"].T for part in parts], axis=1))
        b = constant(f"{at}.qkv.bias", np.concatenate([weights[f"{part}.bias"] for part in parts]))
        heads = config["num_attention_heads"]
        attention = fused("Attention", [h, w, b, "mask"], f"{at}.attention", num_heads=heads)
        h = closing(attention, f"{at}.attention.output", h)
        up = linear(h, f"{at}.intermediate.dense")
        up = fused("BiasGelu", [up, tensor(f"{at}.intermediate.dense.bias")], f"{at}.gelu")
        h = closing(up, f"{at}.output", h)
    # The unit vector of the mean is that of the sum.
    axis = constant("axis", np.array([1], np.int64))
    mask = node("Unsqueeze", [node("Cast", ["mask"], "ones", to=TensorProto.FLOAT), axis], "row")
    total = node("Squeeze", [node("MatMul", [mask, h], "sums"), axis], "sum")
    node("LpNormalization", [total], "embeddings", axis=-1, p=2)

    inputs = [helper.make_tensor_value_info(name, TensorProto.INT32, ["B", "T"]) for name in ("ids", "mask")]
    output = helper.make_tensor_value_info("embeddings", TensorProto.FLOAT, ["B", config["hidden_size"]])
    graph = helper.make_graph(nodes, "encoder", inputs, [output], constants)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def quantized(model):
    """Weights of the layers as int8 with a scale per output, activations quantized in each run."""
    logging.disable(logging.WARNING)  # shapes of fused nodes are not inferred: it asks for a step before that cannot know them either
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "int8.onnx")
        quantize_dynamic(
            model,
            path,
            op_types_to_quantize=["MatMul", "Attention"],
            per_channel=True,
            reduce_range=False,
            weight_type=QuantType.QInt8,
            extra_options={"MatMulConstBOnly": True, "DefaultTensorType": TensorProto.FLOAT},
        )
        return path.read_bytes()


def session(model, threads):
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def cosines(encode):
    """Of the golden embeddings and what `encode` makes of the same ids, in padded batches."""
    golden = tensors(GOLDEN)
    rows = np.split(golden["ids"], np.cumsum(golden["lengths"])[:-1])
    found = np.zeros(golden["embeddings"].shape)
    for batch in np.split(np.argsort(golden["lengths"], kind="stable"), 8):
        ids = np.zeros((len(batch), golden["lengths"][batch].max()), np.int32)
        mask = np.zeros_like(ids)
        for i, text in enumerate(batch):
            ids[i, : len(rows[text])] = rows[text]
            mask[i, : len(rows[text])] = 1
        (found[batch],) = encode.run(None, {"ids": ids, "mask": mask})
    expected = golden["embeddings"].astype(np.float64)
    return (found * expected).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(expected, axis=1)


def operands(batch, tokens):
    ids = np.random.Generator(np.random.PCG64(1)).integers(1000, 30000, (batch, tokens), np.int32)
    ids[:, 0], ids[:, -1] = CLS, SEP
    return {"ids": ids, "mask": np.ones_like(ids)}


def seconds(encode, feed):
    """Of one run; some ms of others come before it."""
    start = time.perf_counter()
    while True:
        encode.run(None, feed)
        if time.perf_counter() - start > 0.004:
            break
    start = time.perf_counter()
    encode.run(None, feed)
    return time.perf_counter() - start


def serve(sessions):
    feeds = {}
    for line in sys.stdin:
        match line.split():
            case ["time", kind, batch, tokens] if kind in sessions:
                shape = int(batch), int(tokens)
                feed = feeds.setdefault(shape, operands(*shape))
                took = seconds(sessions[kind], feed)
                print(json.dumps({"kind": kind, "batch": shape[0], "tokens": shape[1], "seconds": took}), flush=True)
            case _:
                sys.exit(f"time f32|int8 B T, not {line.strip()}")


def rows(sessions, runs):
    """Of each shape the times of both kinds, in turns."""
    for batch, tokens in SHAPES:
        feed = operands(batch, tokens)
        times = {kind: [] for kind in KINDS}
        for _ in range(runs):
            for kind in KINDS:
                times[kind].append(seconds(sessions[kind], feed))
        for kind in KINDS:
            low, median, high = np.percentile(times[kind], [25, 50, 75])
            shape = {"kind": kind, "batch": batch, "tokens": tokens}
            yield {**shape, "ms": median * 1e3, "ms_low": low * 1e3, "ms_high": high * 1e3, "tokens_per_s": batch * tokens / median}


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("model", type=pathlib.Path, help="folder of config.json and model.safetensors")
    arguments.add_argument("--serve", action="store_true", help="times what lines on stdin ask for")
    arguments.add_argument("--json", action="store_true")
    arguments.add_argument("--runs", type=int, default=31)
    arguments = arguments.parse_args()
    threads = int(os.environ.get("PEERS_THREADS", 2))
    plain = encoder(arguments.model)
    models = {"f32": plain.SerializeToString(), "int8": quantized(plain)}
    sessions = {kind: session(models[kind], threads) for kind in KINDS}
    least = {kind: cosines(sessions[kind]).min() for kind in KINDS}
    for kind, bar in BARS.items():
        if not least[kind] >= bar:
            sys.exit(f"{kind} embeddings are not the golden ones: a cosine of {least[kind]}")
    what = f"onnxruntime {ort.__version__}, CPUExecutionProvider, {threads} threads"
    if arguments.serve:
        print(f"ready {what}, cosines from {least['f32']:.7f} (f32), {least['int8']:.4f} (int8)", flush=True)
        serve(sessions)
    elif arguments.json:
        print(json.dumps({"what": what, "least_cosine": least, "rows": list(rows(sessions, arguments.runs))}, indent=1))
    else:
        print(f"{what}\nleast cosine to transformers' embeddings: {least['f32']:.7f} (f32), {least['int8']:.4f} (int8)\n")
        print("batch x tokens  kind       ms   quartiles      tokens/s")
        for row in rows(sessions, arguments.runs):
            shape, spread = f"{row['batch']} x {row['tokens']}", f"{row['ms_low']:.2f}-{row['ms_high']:.2f}"
            print(f"{shape:14}  {row['kind']:4}  {row['ms']:8.2f}  {spread:13} {row['tokens_per_s']:8.0f}", flush=True)


main()
