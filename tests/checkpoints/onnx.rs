//! ONNX files: models put together by hand, what is written of packed tensors, and broken ones, field by field.

use crate::build::{Random, f16s, f32s, random};
use crate::protobuf::{Message, external, matmul, model, node, pair, raw, tensor};
use crate::vectors::assert_bits;
use lowbit::file::{Content, Dtype, Files, Format, Metadata, Model, Plan, Value, Writer};
use lowbit::scheme::PlaneKind;
use lowbit::{DType, Error, PackedTensor, Scheme, reference};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const FLOAT: i64 = 1;
const UINT8: i64 = 2;
const INT32: i64 = 6;
const FLOAT16: i64 = 10;

fn open(model: &Message) -> Model {
    Model::from_bytes("x.onnx", model.0.clone()).unwrap_or_else(|e| panic!("{e}"))
}

fn names(model: &Model) -> Vec<&str> {
    model.entries().iter().map(|e| e.name.as_str()).collect()
}

fn bytes(n: usize, seed: u64) -> Vec<u8> {
    let mut random = Random::new(seed);
    (0..n).map(|_| random.below(256) as u8).collect()
}

/// Code `i` of a row of packed ones, the first in the lowest bits.
fn code(row: &[u8], i: usize, bits: usize) -> u32 {
    u32::from(row[i * bits / 8] >> (i * bits % 8)) & ((1 << bits) - 1)
}

/// Every weight by the operator's own formula, for all forms of zero-points, a short last block and anything behind it.
#[test]
fn nodes_by_formula() {
    let (n, k, block) = (3usize, 41usize, 16usize);
    let blocks = k.div_ceil(block);
    for bits in [2usize, 4, 8] {
        for zeros in ["none", "packed", "float"] {
            let (row, zero_row) = (blocks * block * bits / 8, (blocks * bits).div_ceil(8));
            let b = bytes(n * row, bits as u64);
            let packed = bytes(n * zero_row, 7);
            let scales: Vec<f32> = (0..n * blocks).map(|i| 0.01 + i as f32 / 64.0).collect();
            let floats: Vec<f32> = (0..n * blocks).map(|i| i as f32 / 4.0 - 1.0).collect();
            let mut tensors = vec![
                raw("w_Q4", UINT8, &[n as i64, blocks as i64, (block * bits / 8) as i64], &b),
                raw("w_scales", FLOAT, &[(n * blocks) as i64], &f32s(&scales)),
            ];
            let mut inputs = vec!["x", "w_Q4", "w_scales"];
            match zeros {
                "packed" => tensors.push(raw("z", UINT8, &[packed.len() as i64], &packed)),
                "float" => tensors.push(raw("z", FLOAT, &[n as i64, blocks as i64], &f32s(&floats))),
                _ => {}
            }
            if zeros != "none" {
                inputs.push("z");
            }
            let node = matmul(&inputs, n as i64, k as i64, bits as i64, block as i64);
            let model = open(&model(&tensors, &[node]));
            assert_eq!(names(&model), ["w"], "{bits} {zeros}");
            let want: Vec<f32> = (0..n * k)
                .map(|i| {
                    let (r, c, g) = (i / k, i % k, i % k / block);
                    let zero = match zeros {
                        "packed" => code(&packed[r * zero_row..], g, bits) as f32,
                        "float" => floats[r * blocks + g],
                        _ => (1 << (bits - 1)) as f32,
                    };
                    scales[r * blocks + g] * (code(&b[r * row..], c, bits) as f32 - zero)
                })
                .collect();
            let entry = model.entry("w").unwrap();
            assert_eq!(entry.shape, [n, k]);
            let w = model.packed_exactly(entry).unwrap();
            assert_bits(&reference::dequantize(&w), &want, &format!("{bits} bits, zeros {zeros}"));
        }
    }
}

/// Columns in the order of their blocks, and those that are in their own.
#[test]
fn g_idx_is_an_order_of_columns() {
    let (n, k) = (2usize, 48usize);
    let b = bytes(n * 24, 3);
    let scales: Vec<f32> = (1..=6).map(|i| i as f32).collect();
    let tensors = |g: &[i32]| {
        let g: Vec<u8> = g.iter().flat_map(|g| g.to_le_bytes()).collect();
        vec![
            raw("w", UINT8, &[2, 3, 8], &b),
            raw("s", FLOAT, &[2, 3], &f32s(&scales)),
            raw("g", INT32, &[g.len() as i64 / 4], &g),
        ]
    };
    let nodes = [matmul(&["x", "w", "s", "", "g"], 2, 48, 4, 16)];
    let turned: Vec<i32> = (0..48).map(|c| c % 3).collect();
    let own: Vec<i32> = (0..48).map(|c| c / 16).collect();
    for (g, scheme) in [(&turned, "int4-g16-f32-perm"), (&own, "int4-g16-f32")] {
        let model = open(&model(&tensors(g), &nodes));
        let entry = model.entry("w").unwrap();
        let Content::Packed { scheme: found, source: DType::F32 } = entry.content else {
            panic!("{entry:?}")
        };
        assert_eq!(found, scheme.parse().unwrap());
        let want: Vec<f32> = (0..n * k)
            .map(|i| scales[i / k * 3 + g[i % k] as usize] * (code(&b[i / k * 24..], i % k, 4) as f32 - 8.0))
            .collect();
        assert_bits(&reference::dequantize(&model.packed(entry).unwrap()), &want, scheme);
    }
    for (g, word) in [(vec![0; 47], "47 numbers"), (vec![3; 48], "below 3"), (vec![1; 48], "block_size")] {
        let error = Model::from_bytes("x.onnx", model(&tensors(&g), &nodes).0).err().unwrap().to_string();
        assert!(error.contains(word) && error.contains("'w'"), "{error}");
    }
}

/// Elements as raw bytes and as numbers, in the file and in others, are the same tensor.
#[test]
fn every_way_of_storing_elements() {
    let halves = f16s(&[1.5, -2.0]);
    let half_bits: Vec<i64> = halves.chunks(2).map(|b| u16::from_le_bytes([b[0], b[1]]).into()).collect();
    let f64s: Vec<u8> = [0.1f64, -3.0].iter().flat_map(|v| v.to_le_bytes()).collect();
    let i64s: Vec<u8> = [-5i64, i64::MAX].iter().flat_map(|v| v.to_le_bytes()).collect();
    let u64s: Vec<u8> = [5u64, u64::MAX].iter().flat_map(|v| v.to_le_bytes()).collect();
    let constant =
        Message::default().text(1, "value").message(5, raw("", FLOAT, &[], &f32s(&[7.0]))).int(20, 4);
    let tensors = [
        tensor("f32", FLOAT, &[2]).bytes(4, &f32s(&[0.5, -1.0])),
        tensor("u8", UINT8, &[3]).ints(5, &[0, 255, 7]),
        tensor("i8", 3, &[3]).ints(5, &[-128, 127, -1]),
        tensor("u16", 4, &[1]).ints(5, &[65535]),
        tensor("i16", 5, &[1]).ints(5, &[-32768]),
        tensor("i32", INT32, &[1]).int(5, i32::MIN.into()),
        tensor("i64", 7, &[2]).ints(7, &[-5, i64::MAX]),
        tensor("bool", 9, &[2]).ints(5, &[0, 1]),
        tensor("f16", FLOAT16, &[2]).ints(5, &half_bits),
        tensor("f64", 11, &[2]).bytes(10, &f64s),
        tensor("u32", 12, &[1]).ints(11, &[u32::MAX.into()]),
        tensor("u64", 13, &[2]).ints(11, &[5, -1]),
        tensor("c64", 14, &[1]).bytes(4, &f32s(&[1.0, 2.0])),
        tensor("f8", 17, &[1]).ints(5, &[200]),
        raw("raw", FLOAT, &[1, 2], &f32s(&[3.0, 4.0])),
        raw("scalar", 7, &[], &[9; 8]),
        raw("none", FLOAT, &[0, 4], &[]),
        tensor("also none", FLOAT, &[0]),
        raw("int4", 22, &[3], &[0x21, 0x03]),
        tensor("words", 8, &[2]).text(6, "a").text(6, "b"),
    ];
    let node = Message::default().text(2, "constant").text(4, "Constant").message(5, constant);
    let model = open(&model(&tensors, &[node]));
    for (name, dtype, expected) in [
        ("f32", Dtype::F32, f32s(&[0.5, -1.0])),
        ("u8", Dtype::U8, vec![0, 255, 7]),
        ("i8", Dtype::I8, vec![128, 127, 255]),
        ("u16", Dtype::U16, vec![255, 255]),
        ("i16", Dtype::I16, vec![0, 128]),
        ("i32", Dtype::I32, vec![0, 0, 0, 128]),
        ("i64", Dtype::I64, i64s),
        ("bool", Dtype::BOOL, vec![0, 1]),
        ("f16", Dtype::F16, halves),
        ("f64", Dtype::F64, f64s),
        ("u32", Dtype::U32, vec![255; 4]),
        ("u64", Dtype::U64, u64s),
        ("c64", Dtype::C64, f32s(&[1.0, 2.0])),
        ("f8", Dtype::F8_E4M3, vec![200]),
        ("raw", Dtype::F32, f32s(&[3.0, 4.0])),
        ("scalar", Dtype::I64, vec![9; 8]),
        ("none", Dtype::F32, vec![]),
        ("also none", Dtype::F32, vec![]),
        ("constant", Dtype::F32, f32s(&[7.0])),
    ] {
        let entry = model.entry(name).unwrap_or_else(|| panic!("{name}"));
        assert_eq!((&entry.content, entry.bytes), (&Content::Dense(dtype), expected.len() as u64), "{name}");
        assert_eq!(model.raw(entry), expected, "{name}");
    }
    for (name, kind) in [("int4", "INT4"), ("words", "STRING")] {
        let entry = model.entry(name).unwrap();
        assert_eq!(entry.content, Content::Listed { name: kind });
        assert!(entry.readable().unwrap_err().to_string().contains(name));
    }
    assert_eq!(model.entries().len(), tensors.len() + 1);
    assert_eq!(model.details(), [("IR version", 10), ("opset", 21)]);
    let made: Vec<_> = model.metadata().iter().map(|(k, v)| (k, v.as_str().unwrap())).collect();
    assert_eq!(made, [("onnx.producer_name", "a test"), ("onnx.producer_version", "1.2")]);
    assert_eq!(model.paths().collect::<Vec<_>>(), [Path::new("x.onnx")]);
}

/// Names of B lose what quantizers put behind them, where nothing else has the name then; operands that others use stay.
#[test]
fn names_of_weights() {
    let weight = |b: &str, s: &str| {
        (
            [raw(b, UINT8, &[1, 1, 8], &[0x12; 8]), raw(s, FLOAT, &[1], &f32s(&[1.0]))],
            matmul(&["x", b, s], 1, 16, 4, 16),
        )
    };
    for (b, name) in [
        ("l.weight_Q4", "l.weight"),
        ("l.weight_Q8", "l.weight"),
        ("l.weight_Q2G128", "l.weight"),
        ("l.weight_quant", "l.weight"),
        ("l.weight_quantized", "l.weight"),
        ("l.qweight", "l.weight"),
        ("l.weight", "l.weight"),
        ("l_Q3", "l_Q3"),
        ("l_Q4G", "l_Q4G"),
        ("_Q4", "_Q4"),
    ] {
        let (tensors, node) = weight(b, "s");
        assert_eq!(names(&open(&model(&tensors, &[node]))), [name], "{b}");
    }
    let ((a, of_a), (b, of_b)) = (weight("w_Q4", "s"), weight("w_quant", "t"));
    let both = open(&model(&[a.clone(), b].concat(), &[of_a.clone(), of_b]));
    assert_eq!(names(&both), ["w_Q4", "w_quant"]);
    let plain = raw("w", FLOAT, &[1], &[0; 4]);
    let with = |nodes: &[Message]| open(&model(&[&a[..], std::slice::from_ref(&plain)].concat(), nodes));
    assert_eq!(names(&with(std::slice::from_ref(&of_a))), ["w_Q4", "w"]);
    // A second node of the same weight, and one that reads its scales.
    let add = node("Add", "", &["s", "z"], &[]);
    let model = with(&[of_a.clone(), of_a.clone(), add]);
    assert_eq!(names(&model), ["w_Q4", "s", "w"]);
    // Weights that are made elsewhere are none.
    let model = with(&[matmul(&["x", "w_Q4", "made"], 1, 16, 4, 16)]);
    assert_eq!(names(&model), ["w_Q4", "s", "w"]);
    assert_eq!(model.entry("w_Q4").unwrap().content, Content::Dense(Dtype::U8));
    // Of another domain it is another operator.
    let other = node("MatMulNBits", "", &["x", "w_Q4", "s"], &[]);
    assert_eq!(with(&[other]).entry("w_Q4").unwrap().content, Content::Dense(Dtype::U8));
}

/// What is written of a plan: the model and the file beside it.
pub fn written(folder: &TempDir, plan: Plan, packed: &[PackedTensor], dense: &[Vec<u8>]) -> PathBuf {
    let onnx = Format::named("onnx").unwrap();
    let Files { tensors, index } = onnx.files("x.onnx", std::slice::from_ref(&plan)).unwrap();
    assert_eq!(tensors, ["x.onnx.data"]);
    let (name, bytes) = index.unwrap();
    assert_eq!(name, "x.onnx");
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    let mut writer = Writer::new(Vec::new(), &path, onnx, plan).unwrap();
    packed.iter().for_each(|w| writer.packed_exactly(w).unwrap());
    dense.iter().for_each(|bytes| writer.dense(bytes).unwrap());
    std::fs::write(folder.path().join(&tensors[0]), writer.finish().unwrap()).unwrap();
    path
}

/// Schemes of all forms that nodes have.
pub const HELD: [&str; 9] = [
    "int4-g32",
    "int4-g32-asym",
    "int8-g32-asym-f32",
    "int2-g16-asym",
    "int2-g64-f32",
    "int4-g16-fzero",
    "int8-g64-fzero-f32",
    "int4-g128-asym-bf16",
    "int8-g16-bf16",
];

#[test]
fn packed_tensors_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let mut metadata = Metadata::default();
    metadata.set("z", Value::U32(7));
    metadata.set("a", Value::String("b".into()));
    let mut plan = Plan::new(metadata.clone());
    let mut packed = Vec::new();
    for (i, scheme) in HELD.into_iter().enumerate() {
        // Odd rows, rows that blocks do not divide, a name that looks like that of codes.
        let shape = [[5, 76], [1, 16], [7, 1000]][i % 3];
        packed.push(random(scheme, &shape, i as u64));
        plan.packed(format!("l.{i}_Q4"), *packed[i].scheme(), shape, DType::F16).unwrap();
    }
    let plain =
        [("norm", Dtype::F32, vec![3]), ("ids", Dtype::I64, vec![2, 2]), ("thin", Dtype::F16, vec![4, 0])];
    let dense: Vec<Vec<u8>> =
        plain.iter().map(|(_, d, s)| bytes(s.iter().product::<usize>() * d.bitsize() / 8, 5)).collect();
    for (name, dtype, shape) in &plain {
        plan.dense(*name, *dtype, shape.clone()).unwrap();
    }
    let path = written(&folder, plan, &packed, &dense);
    let model = Model::open(&path).unwrap();
    assert_eq!(model.metadata(), &metadata);
    assert_eq!(model.entries().len(), HELD.len() + plain.len());
    for (i, w) in packed.iter().enumerate() {
        let entry = model.entry(&format!("l.{i}_Q4")).unwrap();
        assert_eq!(&model.packed_exactly(entry).unwrap(), w, "{}", w.scheme());
        let bits = Format::named("onnx").unwrap().bits_per_weight(w.scheme(), w.shape()).unwrap();
        assert_eq!(entry.bits_per_weight(), bits);
        assert!(bits > f64::from(w.scheme().bits) && bits < f64::from(w.scheme().bits) + 5.0, "{bits}");
    }
    for ((name, dtype, shape), bytes) in plain.iter().zip(&dense) {
        let entry = model.entry(name).unwrap();
        assert_eq!(
            (&entry.content, &entry.shape, model.raw(entry)),
            (&Content::Dense(*dtype), shape, &bytes[..])
        );
    }
    assert_eq!(model.paths().collect::<Vec<_>>(), [path.as_path(), &folder.path().join("x.onnx.data")]);

    let texts = Metadata::from(std::collections::BTreeMap::from([("b".to_string(), "é".to_string())]));
    let mut plan = Plan::new(texts.clone());
    plan.dense("t", Dtype::U8, [1]).unwrap();
    let path = written(&folder, plan, &[], &[vec![1]]);
    assert_eq!(Model::open(path).unwrap().metadata(), &texts);
}

#[test]
fn what_nodes_do_not_hold_is_refused() {
    let onnx = Format::named("onnx").unwrap();
    for (scheme, shape, why) in [
        ("int3-g32", vec![4, 64], "2, 4 or 8 bits"),
        ("int4-row", vec![4, 64], "power of two"),
        ("int4-g24", vec![4, 64], "power of two"),
        ("int4-g32-bias", vec![4, 64], "power of two"),
        ("int4-g32-perm", vec![4, 64], "power of two"),
        ("nf4-g64", vec![4, 64], "2, 4 or 8"),
        ("q4_0", vec![4, 64], "as int4-g32"),
        ("int4-g32", vec![2, 4, 64], "matrices"),
    ] {
        let mut plan = Plan::default();
        plan.packed("l.w", scheme.parse::<Scheme>().unwrap(), shape, DType::F32).unwrap();
        let error = onnx.check(&plan.items()[0]).unwrap_err().to_string();
        assert!(
            error.contains("'l.w'")
                && error.contains(scheme) | error.contains("[2, 4, 64]")
                && error.contains(why),
            "{error}"
        );
        assert!(Writer::new(Vec::new(), "out", onnx, plan).is_err());
    }
    let mut plan = Plan::default();
    plan.dense("f6", Dtype::F6_E2M3, [4]).unwrap();
    assert!(onnx.check(&plan.items()[0]).unwrap_err().to_string().contains("F6_E2M3"));
    // A tensor that is called as an operand of another.
    let mut plan = Plan::default();
    plan.packed("w", "int4-g32".parse().unwrap(), [4, 64], DType::F32).unwrap();
    plan.dense("w_scales", Dtype::F32, [4]).unwrap();
    let error = Writer::new(Vec::new(), "out", onnx, plan).err().unwrap().to_string();
    assert!(error.contains("'w_scales'"), "{error}");
    let mut w = random("int4-g32-asym", &[4, 64], 1);
    w.plane_mut(PlaneKind::Zeros)[3] = 16;
    let mut plan = Plan::default();
    plan.packed("w", *w.scheme(), [4, 64], DType::F32).unwrap();
    let error =
        Writer::new(Vec::new(), "out", onnx, plan).unwrap().packed_exactly(&w).unwrap_err().to_string();
    assert!(error.contains("zero-point 16"), "{error}");
}

fn refused(bytes: &[u8]) -> String {
    match Model::from_bytes("x.onnx", bytes.to_vec()) {
        Err(e @ Error::Format { .. }) => e.to_string(),
        Err(e) => panic!("{e:?}"),
        Ok(m) => panic!("accepted {:?}", m.entries()),
    }
}

/// A weight, a dense tensor and metadata.
fn small() -> Message {
    let tensors = [
        raw("w_Q4", UINT8, &[2, 1, 8], &[0x21; 16]),
        raw("w_scales", FLOAT16, &[2, 1], &[0, 60, 0, 60]),
        raw("w_zero_points", UINT8, &[2], &[3, 4]),
        raw("norm", FLOAT, &[2], &[1; 8]),
    ];
    let nodes = [matmul(&["x", "w_Q4", "w_scales", "w_zero_points"], 2, 16, 4, 16)];
    model(&tensors, &nodes).message(14, pair("key", "value"))
}

/// Cut anywhere behind what makes it an ONNX file, it is an error that says where decoding stopped, or what is missing then.
#[test]
fn a_file_cut_at_any_byte_is_refused() {
    let file = small().0;
    assert_eq!(names(&open(&small())), ["w", "norm"]);
    let (mut decoding, mut whole_fields) = (0, 0);
    for cut in 8..file.len() {
        let at = |message: &str| -> usize {
            let (_, rest) = message.split_once(" at byte ").unwrap_or_else(|| panic!("{message}"));
            rest.split(':').next().unwrap().parse().unwrap()
        };
        match Model::from_bytes("x.onnx", file[..cut].to_vec()) {
            Err(e) => {
                let message = e.to_string();
                assert!(
                    message.starts_with("x.onnx: ModelProto at byte ") && at(&message) <= cut,
                    "{cut}: {message}"
                );
                decoding += 1;
            }
            // Between two fields of the whole there is nothing to see.
            Ok(_) => whole_fields += 1,
        }
    }
    assert!(whole_fields <= 3 && decoding > 200, "{whole_fields} {decoding}");
    // Less than that is no ONNX file, and no other either.
    (0..8).for_each(|cut| assert!(refused(&file[..cut]).starts_with("x.onnx: ")));
}

/// One fault at a time: file, field and byte in the error.
#[test]
fn wrong_fields_are_named() {
    let text = |m: &Message| String::from_utf8_lossy(&m.0).into_owned();
    let of_tensor = |t: Message| model(&[raw("norm", FLOAT, &[2], &[1; 8]), t], &[]);
    let weight = |edit: &dyn Fn(&mut Vec<Message>, &mut Message)| {
        let mut tensors = vec![
            raw("w_Q4", UINT8, &[2, 1, 8], &[0x21; 16]),
            raw("s", FLOAT, &[2], &[1; 8]),
            raw("z", UINT8, &[2], &[3, 4]),
        ];
        let mut node = matmul(&["x", "w_Q4", "s", "z"], 2, 16, 4, 16);
        edit(&mut tensors, &mut node);
        model(&tensors, &[node])
    };
    let attributes = |values: &[(&'static str, i64)]| {
        let values = values.to_vec();
        weight(&|_, n| *n = node("MatMulNBits", "com.microsoft", &["x", "w_Q4", "s", "z"], &values))
    };
    let huge = i64::MAX;
    let empty_graph = Message::default().int(1, 10).text(2, "a producer");
    // A length of 2^63 - 1 in front of a tensor's bytes.
    let mut long = tensor("t", FLOAT, &[2]);
    long.0.extend([9 << 3 | 2, 255, 255, 255, 255, 255, 255, 255, 255, 127]);
    let mut wire = tensor("t", FLOAT, &[2]);
    wire.0.extend([9 << 3 | 7]);
    let mut endless = tensor("t", FLOAT, &[2]);
    endless.0.extend([0xff; 12]);
    let table: Vec<(Message, &str, &[&str])> = vec![
        (empty_graph, "ModelProto", &["no graph"]),
        (of_tensor(long), "initializer 1", &["raw_data", "buffer underflow"]),
        (of_tensor(wire), "initializer 1", &["wire type"]),
        (of_tensor(endless), "initializer 1", &["varint"]),
        (of_tensor(tensor("t", FLOAT, &[2]).int(9, 3)), "initializer 1", &["raw_data", "wire type"]),
        (of_tensor(Message::default().bytes(8, &[0xff, 0xfe])), "initializer 1", &["name", "UTF-8"]),
        (of_tensor(raw("", FLOAT, &[1], &[0; 4])), "initializer 1 ''", &["no name"]),
        (of_tensor(raw("norm", FLOAT, &[1], &[0; 4])), "name of a tensor", &["'norm' occurs twice"]),
        (of_tensor(raw("t", 0, &[1], &[0; 4])), "data_type of initializer 1 't'", &["type 0"]),
        (of_tensor(raw("t", 99, &[1], &[0; 4])), "data_type of initializer 1 't'", &["type 99"]),
        (of_tensor(raw("t", FLOAT, &[-1], &[0; 4])), "dims of initializer 1 't'", &["[-1]", "negative"]),
        (of_tensor(raw("t", FLOAT, &[huge, huge], &[0; 4])), "dims of initializer 1 't'", &["overflow"]),
        (of_tensor(raw("t", FLOAT, &[1 << 60], &[0; 4])), "dims of initializer 1 't'", &["overflow"]),
        (
            of_tensor(raw("t", FLOAT, &[1 << 40], &[0; 4])),
            "raw_data of initializer 1 't'",
            &["4398046511104", "are 4"],
        ),
        (
            of_tensor(raw("t", FLOAT, &[2], &[0; 7])),
            "raw_data of initializer 1 't'",
            &["8 bytes", "there are 7"],
        ),
        (
            of_tensor(tensor("t", FLOAT, &[2])),
            "elements of initializer 1 't'",
            &["float_data has 0", "no raw_data"],
        ),
        (
            of_tensor(tensor("t", FLOAT, &[1]).ints(5, &[1])),
            "elements of initializer 1 't'",
            &["float_data has 0"],
        ),
        (
            of_tensor(tensor("t", UINT8, &[1]).ints(5, &[256])),
            "elements of initializer 1 't'",
            &["256", "UINT8"],
        ),
        (
            of_tensor(tensor("t", UINT8, &[1]).ints(5, &[-1])),
            "elements of initializer 1 't'",
            &["-1", "UINT8"],
        ),
        (of_tensor(tensor("t", 3, &[1]).ints(5, &[128])), "elements of initializer 1 't'", &["128", "INT8"]),
        (
            of_tensor(tensor("t", 9, &[1]).ints(5, &[2])),
            "elements of initializer 1 't'",
            &["2 in int32_data is no BOOL"],
        ),
        (
            of_tensor(tensor("t", 12, &[1]).ints(11, &[1 << 32])),
            "elements of initializer 1 't'",
            &["4294967296", "UINT32"],
        ),
        (of_tensor(external("t", FLOAT, &[1], &[])), "external_data of initializer 1 't'", &["no location"]),
        (
            of_tensor(external("t", FLOAT, &[1], &[("location", "/etc/passwd")])),
            "external_data of initializer 1 't'",
            &["'/etc/passwd'", "plain file name"],
        ),
        (
            of_tensor(external("t", FLOAT, &[1], &[("location", "../x")])),
            "external_data of initializer 1 't'",
            &["'../x'", "plain file name"],
        ),
        (
            of_tensor(external("t", FLOAT, &[1], &[("location", "..")])),
            "external_data of initializer 1 't'",
            &["plain file name"],
        ),
        (
            of_tensor(external("t", FLOAT, &[1], &[("location", "a/b")])),
            "external_data of initializer 1 't'",
            &["plain file name"],
        ),
        (
            of_tensor(external("t", FLOAT, &[1], &[("location", "no such file")])),
            "external_data of initializer 1 't'",
            &["no such file"],
        ),
        (
            of_tensor(external("t", FLOAT, &[1], &[("location", "x"), ("offset", "-1")])),
            "external_data of initializer 1 't'",
            &["offset '-1'"],
        ),
        (
            of_tensor(external("t", FLOAT, &[1], &[("location", "x"), ("length", "5")])),
            "external_data of initializer 1 't'",
            &["length 5", "say 4"],
        ),
        (
            model(&[], &[]).message(14, pair("k", "a")).message(14, pair("k", "b")),
            "metadata_props 1",
            &["'k' occurs twice"],
        ),
        (
            model(&[], &[]).message(14, Message::default().bytes(1, &[0xff])),
            "metadata_props 0",
            &["key", "UTF-8"],
        ),
        (
            model(&[], &[]).message(14, pair("lowbit.metadata", "[1]")),
            "metadata_props 0",
            &["lowbit.metadata", "entry 0"],
        ),
        (model(&[], &[Message::default().bytes(4, &[0xff])]), "node 0", &["op_type", "UTF-8"]),
        (
            weight(&|t, _| t[0] = raw("w_Q4", UINT8, &[2, 1, 7], &[0; 14])),
            "node 0, MatMulNBits",
            &["'w_Q4'", "B of", "16 bytes", "14"],
        ),
        (weight(&|t, _| t[0] = raw("w_Q4", 3, &[16], &[0; 16])), "node 0, MatMulNBits", &["'w_Q4'", "INT8"]),
        (
            weight(&|t, _| t[1] = raw("s", FLOAT, &[1], &[0; 4])),
            "node 0, MatMulNBits",
            &["scales", "8 bytes", "4"],
        ),
        (
            weight(&|t, _| t[1] = raw("s", 11, &[2], &[0; 16])),
            "node 0, MatMulNBits",
            &["scales", "'s'", "DOUBLE"],
        ),
        (
            weight(&|t, _| t[2] = raw("z", UINT8, &[4], &[0; 4])),
            "node 0, MatMulNBits",
            &["zero_points", "2 bytes", "4"],
        ),
        (
            weight(&|t, _| t[2] = raw("z", FLOAT16, &[2], &[0; 4])),
            "node 0, MatMulNBits",
            &["zero_points", "'z'", "FLOAT16"],
        ),
        (weight(&|_, n| *n = matmul(&["x"], 2, 16, 4, 16)), "node 0, MatMulNBits", &["no B"]),
        (weight(&|_, n| *n = matmul(&["x", "w_Q4"], 2, 16, 4, 16)), "node 0, MatMulNBits", &["no scales"]),
        (attributes(&[("N", 2), ("bits", 4), ("block_size", 16)]), "node 0, MatMulNBits", &["K is None"]),
        (attributes(&[("N", 0), ("K", 16), ("block_size", 16)]), "node 0, MatMulNBits", &["N is Some(0)"]),
        (attributes(&[("N", -2), ("K", 16), ("block_size", 16)]), "node 0, MatMulNBits", &["N is Some(-2)"]),
        (attributes(&[("N", 2), ("K", huge), ("block_size", 16)]), "node 0, MatMulNBits", &["N and K"]),
        (attributes(&[("N", huge), ("K", 16), ("block_size", 16)]), "node 0, MatMulNBits", &["N and K"]),
        (
            attributes(&[("N", 2), ("K", 16), ("bits", 3), ("block_size", 16)]),
            "node 0, MatMulNBits",
            &["3 bits"],
        ),
        (
            attributes(&[("N", 2), ("K", 16), ("bits", huge), ("block_size", 16)]),
            "node 0, MatMulNBits",
            &["bits"],
        ),
        (attributes(&[("N", 2), ("K", 16), ("block_size", 24)]), "node 0, MatMulNBits", &["block_size 24"]),
        (attributes(&[("N", 2), ("K", 16), ("block_size", 1 << 62)]), "node 0, MatMulNBits", &["N and K"]),
        (
            attributes(&[("N", 2), ("N", 2), ("K", 16), ("block_size", 16)]),
            "attribute of node 0",
            &["'N' occurs twice"],
        ),
    ];
    for (file, field, words) in table {
        let message = refused(&file.0);
        let start = format!("x.onnx: {field} at byte ");
        assert!(message.starts_with(&start), "{field}: {message} ({})", text(&file));
        let at: usize = message[start.len()..].split(':').next().unwrap().parse().unwrap();
        assert!(at <= file.0.len(), "{message}");
        words.iter().for_each(|w| assert!(message.contains(w), "'{w}' is missing in: {message}"));
    }
    // The byte is that of the message: the second tensor's, behind the first's name.
    let file = of_tensor(raw("t", 99, &[1], &[0; 4])).0;
    let message = raw("t", 99, &[1], &[0; 4]).0;
    let at = file.windows(message.len()).position(|w| w == message).unwrap();
    assert!(refused(&file).contains(&format!(" at byte {at}: unknown type 99")), "{}", refused(&file));
    let two = [
        raw("w_Q4", UINT8, &[1, 1, 8], &[0; 8]),
        raw("s", FLOAT, &[1], &[0; 4]),
        raw("t", FLOAT, &[1], &[0; 4]),
    ];
    let nodes = [matmul(&["x", "w_Q4", "s"], 1, 16, 4, 16), matmul(&["x", "w_Q4", "t"], 1, 16, 4, 16)];
    assert!(refused(&model(&two, &nodes).0).contains("x.onnx: node 1 at byte "));
    let graph = Message::default().message(15, Message::default());
    let sparse = Message::default().int(1, 10).text(2, "producer").message(7, graph);
    assert!(refused(&sparse.0).contains("sparse_initializer 0 at byte "));
    // Graphs within nodes and functions are counted.
    let inner = Message::default().text(1, "then_branch").message(6, Message::default()).int(20, 5);
    let branch = Message::default().text(4, "If").message(5, inner);
    let model = open(&model(&[], &[branch]).message(25, Message::default()));
    assert_eq!(model.details().last(), Some(&("subgraphs that are not read:", 2)));
}

/// External data: several files, parts of one, and places that are wrong.
#[test]
fn external_data() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.bin"), (0..32).collect::<Vec<u8>>()).unwrap();
    std::fs::write(folder.path().join("b.bin"), [9; 4]).unwrap();
    let write = |tensors: &[Message]| {
        let path = folder.path().join("m.onnx");
        std::fs::write(&path, model(tensors, &[]).0).unwrap();
        Model::open(path)
    };
    let at = |name: &str, file: &str, offset: &str, n: i64| {
        let place = [("location", file), ("offset", offset), ("length", &n.to_string())];
        external(name, UINT8, &[n], &place)
    };
    let model = write(&[
        at("x", "a.bin", "4", 8),
        at("y", "a.bin", "12", 20),
        at("tied", "a.bin", "4", 8),
        external("z", FLOAT, &[1], &[("location", "b.bin")]),
    ])
    .unwrap();
    let raw = |name: &str| model.raw(model.entry(name).unwrap()).to_vec();
    assert_eq!((raw("x"), raw("y")), ((4..12).collect(), (12..32).collect()));
    assert_eq!((raw("tied"), raw("z")), (raw("x"), vec![9; 4]));
    assert_eq!(model.paths().count(), 3);
    for (tensors, words) in [
        (vec![at("x", "a.bin", "25", 8)], &["external_data", "'x'", "offset 25", "32 bytes of 'a.bin'"][..]),
        (vec![at("x", "a.bin", "18446744073709551615", 8)], &["'x'", "beyond"]),
        (vec![at("x", "a.bin", "18446744073709551616", 8)], &["'x'", "no number of bytes"]),
        (vec![at("x", "a.bin", "4", 8), at("y", "a.bin", "11", 2)], &["'y'", "11..13 overlap", "'x', 4..12"]),
        (vec![at("x", "a.bin", "4", 8), at("y", "a.bin", "4", 9)], &["overlap"]),
    ] {
        let message = write(&tensors).err().unwrap().to_string();
        assert!(message.contains("m.onnx: ") && message.contains(" at byte "), "{message}");
        words.iter().for_each(|w| assert!(message.contains(w), "'{w}' is missing in: {message}"));
    }
}
