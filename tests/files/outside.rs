//! gguf-py beside lowbit: what it reads of files written here and of files that it wrote itself (names, shapes, types, bytes, metadata)
//! is what lowbit reads, and its decoders give the same bits.
//!
//! `LOWBIT_TEST_PYTHON` names a Python that has the package `gguf` (`scripts/test.sh` makes one and sets it); without it the test says so,
//! and fails under `CI`.

use super::common::under_ci;
use lowbit::file::metadata::{Array, Kind};
use lowbit::file::{Content, Dtype, Format, Metadata, Model, Plan, Value, Writer, ggml};
use lowbit::reference::dequantize;
use lowbit::{DType, PackedTensor, Scheme};
use safetensors::SafeTensors;
use serde_json::Value as Json;
use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

/// Prints, as JSON, what GGUFReader sees, and writes each tensor's decoded f32 beside the file.
const READ: &str = r#"
import json, sys
import gguf
from gguf.constants import GGUFValueType as V

path, out = sys.argv[1:]
reader = gguf.GGUFReader(path)
fields = []
for name, field in reader.fields.items():
    if name.startswith("GGUF."):
        continue
    kinds = [t.name.lower() for t in field.types]
    value = field.contents()
    fields.append([name, kinds, repr(value) if field.types[-1] in (V.FLOAT32, V.FLOAT64) else value])
tensors, decoded = [], open(out, "wb")
for t in reader.tensors:
    tensors.append([t.name, [int(n) for n in t.shape], t.tensor_type.name, t.data.tobytes().hex()])
    if t.tensor_type.name not in ("I8", "I16", "I32", "I64", "F64") and t.tensor_type.name[:3] not in ("IQ1", "IQ2", "IQ3"):
        values = gguf.quants.dequantize(t.data, t.tensor_type)
        decoded.write(values.astype("<f4").tobytes())
print(json.dumps({"fields": fields, "tensors": tensors, "alignment": int(reader.alignment),
                  "version": int(reader.fields["GGUF.version"].contents())}))
"#;

/// Types that gguf-py 0.19 decodes.
const TYPES: [&str; 16] = [
    "q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "iq4_nl", "iq4_xs",
    "tq1_0", "tq2_0", "mxfp4", "nvfp4",
];

fn metadata() -> Metadata {
    let mut m = Metadata::default();
    let words = ["<s>", "", "é"].map(|s| Value::String(s.into()));
    let numbers = [-1, 0, i32::MAX].map(Value::I32);
    for (key, value) in [
        ("general.architecture", Value::String("test".into())),
        ("general.alignment", Value::U32(64)),
        ("k.u8", Value::U8(200)),
        ("k.i8", Value::I8(-100)),
        ("k.u16", Value::U16(60000)),
        ("k.i16", Value::I16(-30000)),
        ("k.u32", Value::U32(u32::MAX)),
        ("k.i32", Value::I32(i32::MIN)),
        ("k.u64", Value::U64(u64::MAX)),
        ("k.i64", Value::I64(i64::MIN)),
        ("k.f32", Value::F32(0.15625)),
        ("k.f64", Value::F64(-0.1)),
        ("k.bool", Value::Bool(true)),
        ("k.words", Value::Array(Array::new(Kind::String, &words).unwrap())),
        ("k.numbers", Value::Array(Array::new(Kind::I32, &numbers).unwrap())),
        ("a.last", Value::String("z".into())),
    ] {
        m.set(key, value);
    }
    m
}

/// gguf-py's names of the kinds, an array's before its values'.
fn kinds(value: &Value) -> Vec<&'static str> {
    let name = |kind: Kind| match kind {
        Kind::U8 => "uint8",
        Kind::I8 => "int8",
        Kind::U16 => "uint16",
        Kind::I16 => "int16",
        Kind::U32 => "uint32",
        Kind::I32 => "int32",
        Kind::U64 => "uint64",
        Kind::I64 => "int64",
        Kind::F32 => "float32",
        Kind::F64 => "float64",
        other => other.name(),
    };
    match value {
        Value::Array(a) => vec!["array", name(a.kind())],
        other => vec![name(other.kind())],
    }
}

#[test]
fn gguf_py_reads_the_same() {
    let Some(python) = std::env::var_os("LOWBIT_TEST_PYTHON") else {
        assert!(!under_ci(), "LOWBIT_TEST_PYTHON is not set");
        println!("left out: LOWBIT_TEST_PYTHON is not set (scripts/test.sh installs gguf-py and sets it)");
        return;
    };
    let golden = std::fs::read("tests/data/golden.safetensors").unwrap();
    let golden = SafeTensors::deserialize(&golden).unwrap();
    let mut plan = Plan::new(metadata());
    let mut packed: Vec<PackedTensor> = Vec::new();
    for (i, name) in TYPES.into_iter().enumerate() {
        let scheme: Scheme = name.parse().unwrap();
        let blocks = golden.tensor(&format!("outlier.{}.packed", name.to_uppercase())).unwrap();
        // Matrices, experts, single rows.
        let shape = [vec![8, 256], vec![2, 4, 256], vec![2048]][i % 3].clone();
        packed.push(ggml::unpack(scheme, &shape, blocks.data()).unwrap());
        plan.packed(format!("blk.{i}.{name}"), scheme, shape, DType::F32).unwrap();
    }
    let plain = [
        ("f32", Dtype::F32, 4, 3),
        ("f16", Dtype::F16, 2, 5),
        ("bf16", Dtype::BF16, 2, 7),
        ("i8", Dtype::I8, 1, 3),
        ("i16", Dtype::I16, 2, 3),
        ("i32", Dtype::I32, 4, 3),
        ("i64", Dtype::I64, 8, 3),
        ("f64", Dtype::F64, 8, 3),
    ];
    for (name, dtype, _, n) in plain {
        plan.dense(name, dtype, [2, n]).unwrap();
    }
    let gguf = Format::named("gguf").unwrap();
    let mut writer = Writer::new(Vec::new(), "out.gguf", gguf, plan).unwrap();
    packed.iter().for_each(|t| writer.packed_exactly(t).unwrap());
    for (_, _, size, n) in plain {
        // Small exponents: no NaN whose bits a conversion may change.
        writer.dense(&(0..2 * size * n).map(|i| (i * 11 % 61) as u8).collect::<Vec<_>>()).unwrap();
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.gguf");
    std::fs::write(&path, writer.finish().unwrap()).unwrap();
    let model = Model::open(&path).unwrap();
    // Those that were given, in order, and what the writer adds.
    assert_eq!(model.metadata().len(), metadata().len() + 2);
    assert_eq!(model.entries().len(), TYPES.len() + plain.len());
    same(&python, &path);
    // The seeds of the fuzzer were written by gguf-py.
    for seed in ["golden", "kinds", "blocks", "shard"] {
        same(&python, &Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/gguf").join(seed));
    }
}

/// gguf-py and lowbit read the same of a file.
fn same(python: &OsStr, path: &Path) {
    let folder = tempfile::tempdir().unwrap();
    let (out, script) = (folder.path().join("decoded"), folder.path().join("read.py"));
    std::fs::write(&script, READ).unwrap();
    let ran = Command::new(python).arg(&script).args([path, &out]).output().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    let seen: Json = serde_json::from_slice(&ran.stdout).unwrap();
    let model = Model::open(path).unwrap();
    let details: Vec<u64> = ["version", "alignment"].iter().map(|k| seen[k].as_u64().unwrap()).collect();
    assert_eq!(details, model.details().iter().map(|(_, n)| *n).collect::<Vec<_>>());
    let fields = seen["fields"].as_array().unwrap();
    assert_eq!(fields.len(), model.metadata().len());
    for (field, (key, value)) in fields.iter().zip(model.metadata().iter()) {
        assert_eq!((field[0].as_str(), &field[1]), (Some(key), &Json::from(kinds(value))), "{key}");
        match (value, value.kind()) {
            // As Python prints them, which is what Rust prints, too; an f32 as the f64 it is.
            (Value::F32(v), _) => assert_eq!(field[2], format!("{:?}", f64::from(*v)), "{key}"),
            (Value::F64(v), _) => assert_eq!(field[2], format!("{v:?}"), "{key}"),
            (Value::Array(a), _) if a.kind() == Kind::F32 => {
                let texts: Vec<String> = a.values().map(|v| format!("{v}")).collect();
                assert_eq!(field[2], format!("[{}]", texts.join(", ")), "{key}");
            }
            (other, _) => assert_eq!(field[2], other.to_json(), "{key}"),
        }
    }
    let tensors = seen["tensors"].as_array().unwrap();
    assert_eq!(tensors.len(), model.entries().len());
    let mut expected = Vec::new();
    for (tensor, entry) in tensors.iter().zip(model.entries()) {
        assert_eq!(tensor[0], entry.name);
        let dims: Vec<usize> = entry.shape.iter().rev().copied().collect();
        assert_eq!(tensor[1], Json::from(dims), "{}", entry.name);
        assert_eq!(tensor[2], entry.scheme_name().to_uppercase(), "{}", entry.name);
        let hex: String = model.raw(entry).iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(tensor[3], hex, "{}", entry.name);
        match entry.content {
            Content::Packed { .. } => expected.extend(dequantize(&model.packed(entry).unwrap())),
            _ if entry.float().is_some() => expected.extend(&*model.tensor(entry).unwrap().to_f32()),
            _ => {}
        }
    }
    let decoded = std::fs::read(&out).unwrap();
    let (decoded, rest) = decoded.as_chunks::<4>();
    assert_eq!((decoded.len(), rest.len()), (expected.len(), 0));
    for (i, (theirs, ours)) in decoded.iter().zip(&expected).enumerate() {
        let theirs = f32::from_le_bytes(*theirs);
        // Of NaN (in the blocks of random bytes) only that it is one.
        let equal = theirs.to_bits() == ours.to_bits() || (theirs.is_nan() && ours.is_nan());
        assert!(equal, "{}, value {i}: {theirs} in gguf-py, {ours} here", path.display());
    }
    let (n, keys) = (tensors.len(), fields.len());
    println!("gguf-py: {n} tensors, {keys} keys, {} numbers decoded, all the same", expected.len());
}
