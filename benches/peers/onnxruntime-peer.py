"""onnxruntime's quantized products as a peer, on the CPU or through its WebGPU provider; arguments and protocol are those of src/serve.rs.

    SCHEME.onnx: codes, scales          -> one MatMulNBits node, x and scales f32      -> y
    int8-row/model.safetensors: int8    -> DynamicQuantizeLinear, MatMulInteger, scale -> y        (which it fuses)

A run is InferenceSession.run. x and y are on the host: the package binds no memory of WebGPU's, so that copying them is part of its times there.
"""

import json
import os
import pathlib
import sys
import time

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper


def nbits(path, k, n, int8):
    """lowbit's node with f32 scales, which are the same numbers, and the kind of activations that is asked for."""
    model = onnx.load(path)
    (node,) = model.graph.node
    values = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    b, scales = (values[name] for name in node.input[1:3])
    assert len([name for name in node.input if name]) == 3, "a zero-point"
    kept = {a.name: a.i for a in node.attribute if a.name in ("bits", "block_size")}
    weights = [numpy_helper.from_array(b, "b"), numpy_helper.from_array(scales.astype(np.float32), "scales")]
    level = 4 if int8 else 0
    node = helper.make_node("MatMulNBits", ["x", "b", "scales"], ["y"], domain="com.microsoft", K=k, N=n, accuracy_level=level, **kept)
    return [node], weights


def int8(path):
    """Codes [N, K] and scales [N, 1] of a compressed-tensors layer, as W8A8."""
    data = path.read_bytes()
    begin = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:begin])

    def tensor(ending, dtype):
        (info,) = (info for name, info in header.items() if name.endswith(ending))
        first, last = (begin + at for at in info["data_offsets"])
        return np.frombuffer(data[first:last], dtype).reshape(info["shape"])

    codes, scales = tensor(".weight", np.int8), tensor(".weight_scale", np.float32)
    weights = [
        numpy_helper.from_array(np.ascontiguousarray(codes.T), "codes"),
        numpy_helper.from_array(np.zeros((), np.int8), "zero"),
        numpy_helper.from_array(scales.reshape(-1), "scales"),
    ]
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["xq", "xs", "xz"]),
        helper.make_node("MatMulInteger", ["xq", "codes", "xz", "zero"], ["sums"]),
        helper.make_node("Cast", ["sums"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["xs", "scales"], ["both"]),
        helper.make_node("Mul", ["float", "both"], ["y"]),
    ]
    return nodes, weights


def main():
    device, m, k, n, scheme, activation, folder, y_path = sys.argv[1:]
    m, k, n, folder = int(m), int(k), int(n), pathlib.Path(folder)
    if scheme == "int8-row":
        nodes, weights = int8(folder / scheme / "model.safetensors")
    else:
        nodes, weights = nbits(folder / f"{scheme}.onnx", k, n, activation == "int8")
    operand = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in (("x", [m, k]), ("y", [m, n]))]
    graph = helper.make_graph(nodes, "product", operand[:1], operand[1:], weights)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)

    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = int(os.environ.get("PEERS_THREADS", 0))
    provider = "CPUExecutionProvider" if device == "cpu" else "WebGpuExecutionProvider"
    if provider not in ort.get_available_providers():
        sys.exit(f"this onnxruntime has no {provider}")
    session = ort.InferenceSession(model.SerializeToString(), options, providers=[provider])
    if session.get_providers()[0] != provider:
        sys.exit(f"{provider} was not taken, but {session.get_providers()}")
    x = np.fromfile(folder / f"x{m}.f32", np.float32).reshape(m, k)
    feed = {"x": x}
    session.run(["y"], feed)[0].tofile(y_path)
    print(f"ready onnxruntime {ort.__version__}, {provider}, x and y on the host", flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        while True:
            session.run(["y"], feed)
            if time.perf_counter() - start > 0.004:
                break
        start = time.perf_counter()
        session.run(["y"], feed)
        print((time.perf_counter() - start) * 1e3, flush=True)


main()
