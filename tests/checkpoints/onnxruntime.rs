//! onnx and onnxruntime beside lowbit: the checker takes what is written, onnx's own helpers read the same bytes from it, onnxruntime computes with its nodes what
//! the weights say, and what onnxruntime's quantizer makes is read to the numbers that onnxruntime's kernels decode.
//!
//! `LOWBIT_TEST_PYTHON` names a Python that has the packages `onnx` and `onnxruntime` (`scripts/test.sh` makes one and sets it); without it the tests say so,
//! and fail under `CI`.

use crate::build::{Random, f32s, random};
use crate::common::under_ci;
use crate::onnx::written;
use lowbit::file::{Content, Dtype, Model, Plan};
use lowbit::reference::dequantize;
use lowbit::{DType, PackedTensor, Scheme};
use serde_json::Value;
use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

/// Checks the model and prints its nodes and the tensors as onnx reads them; runs all nodes on the inputs that lie beside it.
const RUN: &str = r#"
import json, os, sys
import numpy as np, onnx, onnxruntime as ort
from onnx import numpy_helper

path = sys.argv[1]
folder = os.path.dirname(path)
onnx.checker.check_model(path, full_check=True)
model = onnx.load(path)
tensors = {t.name: [list(t.dims), numpy_helper.to_array(t).tobytes().hex()] for t in model.graph.initializer}
nodes = [[n.name, n.domain, n.op_type, {a.name: a.i for a in n.attribute}] for n in model.graph.node]
options = ort.SessionOptions()
options.intra_op_num_threads = 1
session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
types = {"tensor(float)": "<f4", "tensor(float16)": "<f2"}
feeds = {}
for i in session.get_inputs():
    x = np.fromfile(os.path.join(folder, i.name), "<f4").reshape(-1, i.shape[1])
    feeds[i.name] = x.astype(types[i.type])
outputs = [o.name for o in session.get_outputs()]
for name, y in zip(outputs, session.run(outputs, feeds)):
    y.astype("<f4").tofile(os.path.join(folder, name))
print(json.dumps({"tensors": tensors, "nodes": nodes, "props": {p.key: p.value for p in model.metadata_props}}))
"#;

/// Quantizes matrices with onnxruntime's quantizer, and has its kernels decode them: the product with the identity.
const QUANTIZE: &str = r#"
import json, os, sys, types
# Imported there for shapes of symbols, which nothing here has.
sys.modules["sympy"] = types.ModuleType("sympy")
import numpy as np, onnx, onnxruntime as ort
from onnx import TensorProto as T, helper, numpy_helper
from onnxruntime.quantization import matmul_nbits_quantizer as q

folder = sys.argv[1]
rng = np.random.default_rng(20)
done = []
for bits in (4, 8):
    for symmetric in (False, True):
        for block, k in ((32, 96), (32, 75), (128, 200)):
            name = f"{bits}-{int(symmetric)}-{block}-{k}"
            w = rng.standard_normal((k, 24), dtype=np.float32)
            graph = helper.make_graph(
                [helper.make_node("MatMul", ["x", "l.weight"], ["y"], name="product")], "g",
                [helper.make_tensor_value_info("x", T.FLOAT, ["M", k])],
                [helper.make_tensor_value_info("y", T.FLOAT, ["M", 24])],
                [numpy_helper.from_array(w, "l.weight")])
            model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
            config = q.DefaultWeightOnlyQuantConfig(block_size=block, is_symmetric=symmetric, bits=bits)
            quantizer = q.MatMulNBitsQuantizer(model, algo_config=config)
            quantizer.process()
            path = os.path.join(folder, name + ".onnx")
            onnx.save(quantizer.model.model, path)
            session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
            (y,) = session.run(None, {"x": np.eye(k, dtype=np.float32)})
            np.ascontiguousarray(y.T).astype("<f4").tofile(os.path.join(folder, name + ".decoded"))
            done.append([name, bits, symmetric, block, k])
print(json.dumps(done))
"#;

fn wanted() -> Option<OsString> {
    let python = std::env::var_os("LOWBIT_TEST_PYTHON");
    if python.is_none() {
        assert!(!under_ci(), "LOWBIT_TEST_PYTHON is not set");
        println!(
            "left out: LOWBIT_TEST_PYTHON is not set (scripts/test.sh installs onnxruntime and sets it)"
        );
    }
    python
}

/// What a script prints.
fn python(python: &OsString, folder: &Path, script: &str, argument: &Path) -> Value {
    let path = folder.join("script.py");
    std::fs::write(&path, script).unwrap();
    let ran = Command::new(python).arg(&path).arg(argument).output().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    serde_json::from_slice(&ran.stdout).unwrap()
}

fn read_f32s(path: &Path) -> Vec<f32> {
    let bytes = std::fs::read(path).unwrap();
    bytes.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect()
}

/// A tensor with scales that products of which stay far from the ends of f16.
fn tame(scheme: &str, shape: &[usize; 2], seed: u64) -> PackedTensor {
    let mut w = random(scheme, shape, seed);
    let f16 = !scheme.ends_with("f32");
    let mut random = Random::new(seed);
    let scales = w.plane_mut(lowbit::scheme::PlaneKind::Scales);
    for scale in scales.chunks_mut(if f16 { 2 } else { 4 }) {
        let value = (random.below(2001) as f32 - 1000.0) / 65536.0;
        match f16 {
            true => scale.copy_from_slice(&half::f16::from_f32(value).to_le_bytes()),
            false => scale.copy_from_slice(&value.to_le_bytes()),
        }
    }
    w
}

#[test]
fn onnxruntime_computes_with_what_is_written() {
    let Some(path_of_python) = wanted() else { return };
    // Forms that its CPU kernels have: 2 bits and bf16 are not among them.
    let forms = [
        ("int4-g32", [24, 96]),
        ("int4-g32-asym-f32", [5, 75]),
        ("int4-g16-f32", [7, 200]),
        ("int4-g128-asym", [3, 130]),
        ("int8-g32-f32", [9, 64]),
        ("int8-g64-asym-f32", [4, 100]),
    ];
    let folder = tempfile::tempdir().unwrap();
    let mut plan = Plan::new(std::collections::BTreeMap::from([("k".to_string(), "é".to_string())]).into());
    let mut packed = Vec::new();
    for (i, (scheme, shape)) in forms.iter().enumerate() {
        packed.push(tame(scheme, shape, 30 + i as u64));
        plan.packed(format!("l{i}"), *packed[i].scheme(), *shape, DType::F32).unwrap();
    }
    let norm: Vec<f32> = (0..6).map(|i| i as f32 / 3.0).collect();
    plan.dense("norm", Dtype::F32, [2, 3]).unwrap();
    let path = written(&folder, plan, &packed, &[f32s(&norm)]);
    let m = 3;
    let mut random = Random::new(99);
    // Values that f16 has, so that both types of A see the same.
    let mut inputs = Vec::new();
    for (i, w) in packed.iter().enumerate() {
        let (_, k) = w.matrix();
        let x: Vec<f32> = (0..m * k).map(|_| (random.below(257) as f32 - 128.0) / 64.0).collect();
        std::fs::write(folder.path().join(format!("l{i}.input")), f32s(&x)).unwrap();
        inputs.push(x);
    }
    let seen = python(&path_of_python, folder.path(), RUN, &path);
    assert_eq!(seen["props"], serde_json::json!({"k": "é"}));
    let hex = |bytes: &[u8]| -> String { bytes.iter().map(|b| format!("{b:02x}")).collect() };
    assert_eq!(seen["tensors"]["norm"], serde_json::json!([[2, 3], hex(&f32s(&norm))]));
    let mut compared = 0;
    for (i, (w, x)) in packed.iter().zip(&inputs).enumerate() {
        let (n, k) = w.matrix();
        let scheme = w.scheme();
        let block = scheme.group_len(k);
        let attributes = serde_json::json!({
            "K": k, "N": n, "bits": scheme.bits, "accuracy_level": 0,
            "block_size": if let lowbit::scheme::Group::Cols(g) = scheme.group { g as usize } else { block },
        });
        assert_eq!(
            seen["nodes"][i],
            serde_json::json!([format!("l{i}"), "com.microsoft", "MatMulNBits", attributes])
        );
        let scales = hex(w.plane(lowbit::scheme::PlaneKind::Scales));
        assert_eq!(seen["tensors"][format!("l{i}_scales")][1], scales, "l{i}");
        let y = read_f32s(&folder.path().join(format!("l{i}.output")));
        assert_eq!(y.len(), m * n);
        let weights: Vec<f64> = dequantize(w).into_iter().map(f64::from).collect();
        let f16 = !scheme.to_string().ends_with("f32");
        let mut telling = 0;
        for (at, &got) in y.iter().enumerate() {
            let (row, column) = (at / n, at % n);
            let terms = || (0..k).map(|c| f64::from(x[row * k + c]) * weights[column * k + c]);
            let (exact, size): (f64, f64) = (terms().sum(), terms().map(f64::abs).sum());
            // K products and sums in any order, each rounded to f32; decoded weights, scale * code - scale * zero, up to 3 roundings of numbers as large
            // as scale * 2^bits. With f16 the weights may be rounded to it, and the sum is.
            let codes = scale_terms(w, &x[row * k..][..k], column) * f64::from(1u32 << scheme.bits);
            let halves = if f16 { 2f64.powi(-11) * (size + exact.abs()) } else { 0.0 };
            let bound = 2f64.powi(-24) * ((k + 1) as f64 * size + 3.0 * codes) + halves;
            assert!(
                (f64::from(got) - exact).abs() <= bound,
                "{scheme} {row} {column}: {got} {exact} {bound}"
            );
            telling += usize::from(exact.abs() > 4.0 * bound);
            compared += 1;
        }
        // A bound that zeros pass shows nothing.
        assert!(telling * 4 > m * n * 3, "{scheme}: {telling} of {}", m * n);
    }
    println!("onnxruntime: {compared} sums of {} nodes within their bounds", packed.len());
}

/// 1 at a place, else 0.
fn unit(k: usize, at: usize) -> Vec<f32> {
    (0..k).map(|c| if c == at { 1.0 } else { 0.0 }).collect()
}

/// The sum of |x| * |scale|.
fn scale_terms(w: &PackedTensor, x: &[f32], row: usize) -> f64 {
    let (_, k) = w.matrix();
    let (groups, len) = (w.scheme().groups_per_row(k), w.scheme().group_len(k));
    let plane = w.plane(lowbit::scheme::PlaneKind::Scales);
    let size = plane.len() / (groups * w.matrix().0);
    let scale = |g: usize| -> f64 {
        let bytes = &plane[(row * groups + g) * size..][..size];
        match *bytes {
            [a, b] => half::f16::from_le_bytes([a, b]).to_f64(),
            [a, b, c, d] => f32::from_le_bytes([a, b, c, d]).into(),
            _ => panic!("{bytes:?}"),
        }
    };
    x.iter().enumerate().map(|(c, x)| f64::from(x.abs()) * scale(c / len).abs()).sum()
}

#[test]
fn what_onnxruntime_quantizes_is_read() {
    let Some(path_of_python) = wanted() else { return };
    let folder = tempfile::tempdir().unwrap();
    let done = python(&path_of_python, folder.path(), QUANTIZE, folder.path());
    let done = done.as_array().unwrap();
    let mut compared = 0;
    for case in done {
        let name = case[0].as_str().unwrap();
        let model = Model::open(folder.path().join(format!("{name}.onnx"))).unwrap();
        let names: Vec<&str> = model.entries().iter().map(|e| e.name.as_str()).collect();
        assert_eq!(names, ["l.weight"], "{name}");
        let entry = &model.entries()[0];
        let asym = if case[2] == true { "" } else { "-asym" };
        let scheme: Scheme = format!("int{}-g{}{asym}-f32", case[1], case[3]).parse().unwrap();
        assert_eq!(entry.content, Content::Packed { scheme, source: DType::F32 }, "{name}");
        let w = model.packed_exactly(entry).unwrap();
        let (k, ours) = (w.matrix().1, dequantize(&w));
        let theirs = read_f32s(&folder.path().join(format!("{name}.decoded")));
        assert_eq!(
            (entry.shape.as_slice(), theirs.len()),
            (&[24, case[4].as_u64().unwrap() as usize][..], ours.len())
        );
        for (i, (a, b)) in ours.iter().zip(&theirs).enumerate() {
            // The kernels subtract zero-points before or after scaling: up to 3 roundings of numbers as large as scale * 2^bits. A code more is scale.
            let scale = scale_terms(&w, &unit(k, i % k), i / k);
            let bound = 3.0 * 2f64.powi(-24) * scale * f64::from(1u32 << scheme.bits);
            assert!((f64::from(*a) - f64::from(*b)).abs() <= bound, "{name}, {i}: {a} {b}");
            compared += 1;
        }
    }
    println!("onnxruntime: {} models of its own quantizer read, {compared} weights", done.len());
}
