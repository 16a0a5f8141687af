//! What is written comes back, and is what other readers and writers of GGUF make.

use super::build::{self, Gguf};
use lowbit::file::metadata::{Array, Kind};
use lowbit::file::{Content, Dtype, Entry, Format, Item, Metadata, Model, Plan, Value, Writer, ggml};
use lowbit::reference::dequantize;
use lowbit::scheme::PRESETS;
use lowbit::{DType, PackedTensor, Scheme};
use safetensors::SafeTensors;
use std::path::Path;

/// 256 bytes from gguf-py 0.19: three key-values, two tensors of f32.
const GOLDEN: &str = "\
4747554603000000020000000000000003000000000000001400000000000000\
67656e6572616c2e617263686974656374757265080000000500000000000000\
6c6c616d610300000000000000612e7504000000070000000300000000000000\
622e730800000002000000000000006869020000000000000074300200000003\
0000000000000002000000000000000000000000000000000000000200000000\
0000007431010000000200000000000000000000002000000000000000000000\
000000000000803f0000004000004040000080400000a0400000000000000000\
000000000000803f000000000000000000000000000000000000000000000000";

fn golden() -> Vec<u8> {
    let digits = GOLDEN.as_bytes().chunks(2);
    digits.map(|d| u8::from_str_radix(std::str::from_utf8(d).unwrap(), 16).unwrap()).collect()
}

fn gguf() -> &'static Format {
    Format::named("gguf").unwrap()
}

fn open(bytes: Vec<u8>) -> Model {
    Model::from_bytes("x.gguf", bytes).unwrap_or_else(|e| panic!("{e}"))
}

/// A model as a file of `format`, everything moved.
pub fn rewritten(model: &Model, format: &'static Format) -> Vec<u8> {
    let mut plan = Plan::new(model.metadata().clone());
    for Entry { name, shape, content, .. } in model.entries() {
        match content {
            Content::Dense(dtype) => plan.dense(name, *dtype, shape.clone()).unwrap(),
            Content::Packed { scheme, source } => plan.packed(name, *scheme, shape.clone(), *source).unwrap(),
            Content::Listed { name } => panic!("{name}"),
        }
    }
    let mut writer = Writer::new(Vec::new(), "out", format, plan).unwrap();
    while let Some(item) = writer.next_item().cloned() {
        let entry = model.entry(item.name()).unwrap();
        match item {
            Item::Dense { .. } => writer.dense(model.raw(entry)).unwrap(),
            Item::Packed { .. } => writer.packed_exactly(&model.packed_exactly(entry).unwrap()).unwrap(),
        }
    }
    writer.finish().unwrap()
}

#[test]
fn the_golden_file_is_read_and_written() {
    assert_eq!(golden().len(), 256);
    let model = open(golden());
    let pairs: Vec<(&str, &Value)> = model.metadata().iter().collect();
    let texts = ["llama", "hi"].map(|s| Value::String(s.into()));
    assert_eq!(pairs, [("general.architecture", &texts[0]), ("a.u", &Value::U32(7)), ("b.s", &texts[1])]);
    assert_eq!(model.details(), [("version", 3), ("alignment", 32)]);
    let t0 = model.entry("t0").unwrap();
    // [3, 2] innermost first, so two rows of three.
    assert_eq!((t0.shape.as_slice(), &t0.content, t0.bytes), (&[2, 3][..], &Content::Dense(Dtype::F32), 24));
    assert_eq!(&*model.tensor(t0).unwrap().to_f32(), &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    assert_eq!(&*model.tensor(model.entry("t1").unwrap()).unwrap().to_f32(), &[0.0, 1.0]);

    // From a plan of its own, and from what was read.
    let mut metadata = Metadata::default();
    metadata.set("general.architecture", texts[0].clone());
    metadata.set("a.u", Value::U32(7));
    metadata.set("b.s", texts[1].clone());
    let mut plan = Plan::new(metadata);
    plan.dense("t0", Dtype::F32, [2, 3]).unwrap();
    plan.dense("t1", Dtype::F32, [2]).unwrap();
    let mut writer = Writer::new(Vec::new(), "out.gguf", gguf(), plan).unwrap();
    writer.dense(&build::f32s(&[0.0, 1.0, 2.0, 3.0, 4.0, 5.0])).unwrap();
    writer.dense(&build::f32s(&[0.0, 1.0])).unwrap();
    assert_eq!(writer.written(), 256);
    assert_eq!(writer.finish().unwrap(), golden());
    assert_eq!(rewritten(&model, gguf()), golden());
    let through = Model::from_bytes("t", rewritten(&model, Format::named("lowbit").unwrap())).unwrap();
    assert_eq!(rewritten(&through, gguf()), golden());
}

/// Type ids of GGUF's own table, for the schemes with golden blocks.
const TYPES: [(&str, u32); 16] = [
    ("Q4_0", 2),
    ("Q4_1", 3),
    ("Q5_0", 6),
    ("Q5_1", 7),
    ("Q8_0", 8),
    ("Q2_K", 10),
    ("Q3_K", 11),
    ("Q4_K", 12),
    ("Q5_K", 13),
    ("Q6_K", 14),
    ("IQ4_NL", 20),
    ("IQ4_XS", 23),
    ("TQ1_0", 34),
    ("TQ2_0", 35),
    ("MXFP4", 39),
    ("NVFP4", 40),
];

#[test]
fn every_type_with_golden_blocks_comes_back_through_both_formats() {
    let golden = std::fs::read("tests/data/golden.safetensors").unwrap();
    let golden = SafeTensors::deserialize(&golden).unwrap();
    let mut file = Gguf::new().text("general.architecture", "test").u32("general.quantization_version", 2);
    file = file.u32("general.file_type", 15);
    for matrix in ["normal", "outlier"] {
        for (name, id) in TYPES {
            let blocks = golden.tensor(&format!("{matrix}.{name}.packed")).unwrap();
            file = file.tensor(&format!("{matrix}.{name}"), &[256, 8], id, blocks.data());
        }
    }
    let file = file.bytes();
    let model = open(file.clone());
    assert_eq!(model.entries().len(), 2 * TYPES.len());
    for entry in model.entries() {
        let (_, name) = entry.name.split_once('.').unwrap();
        let scheme: Scheme = name.parse().unwrap();
        assert_eq!(entry.content, Content::Packed { scheme, source: DType::F32 });
        let packed = golden.tensor(&format!("{}.packed", entry.name)).unwrap();
        assert_eq!(entry.bits_per_weight(), packed.data().len() as f64 * 8.0 / 2048.0, "{name}");
        let decoded = dequantize(&model.packed(entry).unwrap());
        let deq = golden.tensor(&format!("{}.deq", entry.name)).unwrap();
        assert_eq!(build::f32s(&decoded), deq.data(), "{}", entry.name);
    }
    assert_eq!(rewritten(&model, gguf()), file);
    let through = Model::from_bytes("t", rewritten(&model, Format::named("lowbit").unwrap())).unwrap();
    // Names are sorted there; the tensors and their metadata are the same.
    assert_eq!(through.metadata(), model.metadata());
    for entry in through.entries() {
        let original = model.entry(&entry.name).unwrap();
        assert_eq!(through.packed(entry).unwrap(), model.packed(original).unwrap(), "{}", entry.name);
    }
    let back = open(rewritten(&through, gguf()));
    for entry in back.entries() {
        assert_eq!(back.raw(entry), model.raw(model.entry(&entry.name).unwrap()), "{}", entry.name);
    }
}

/// Also the types without golden blocks, experts, rows without a rank of their own, and plain floats in planes.
#[test]
fn every_scheme_that_gguf_has_comes_back() {
    let mut plan = Plan::default();
    let mut tensors = Vec::new();
    for (i, preset) in PRESETS.iter().enumerate() {
        let scheme = preset.scheme;
        let shape = [vec![2, 3, 512], vec![5, 256], vec![256]][i % 3].clone();
        let mut t = PackedTensor::zeroed(scheme, shape.clone()).unwrap();
        let (rows, k) = t.matrix();
        for r in 0..rows {
            for c in 0..k {
                // Codes that every width and the ternary types have.
                if scheme.bits <= 8 {
                    t.set_code(r, c, ((r * 7 + c * 5 + c / 9) % 3) as u8 % (1 << scheme.bits.min(2)));
                }
            }
        }
        if scheme.is_float() {
            let plane = t.plane_mut(lowbit::scheme::PlaneKind::CodesLow);
            plane.iter_mut().enumerate().for_each(|(i, b)| *b = (i * 37 % 251) as u8);
        }
        let item = Item::Packed { name: preset.name.into(), scheme, shape, source: DType::F32 };
        if scheme.ggml.is_none() && !scheme.is_float() {
            let message = gguf().check(&item).unwrap_err().to_string();
            assert!(message.contains(preset.name) && message.contains("GGUF"), "{message}");
            continue;
        }
        gguf().check(&item).unwrap();
        plan.packed(preset.name, scheme, t.shape(), DType::F32).unwrap();
        tensors.push(t);
    }
    assert_eq!(tensors.len(), 21);
    let mut writer = Writer::new(Vec::new(), "out", gguf(), plan).unwrap();
    tensors.iter().for_each(|t| writer.packed_exactly(t).unwrap());
    let model = open(writer.finish().unwrap());
    for (entry, t) in model.entries().iter().zip(&tensors) {
        assert_eq!((entry.scheme_name(), entry.shape.as_slice()), (t.scheme().to_string(), t.shape()));
        match entry.content {
            Content::Packed { .. } => {
                assert_eq!(model.packed(entry).unwrap(), *t);
                assert_eq!(model.raw(entry), ggml::pack(t).unwrap());
            }
            // Rows of 256 and 512 values have no padding in planes.
            _ => assert_eq!(model.raw(entry), t.plane(lowbit::scheme::PlaneKind::CodesLow)),
        }
    }
    // More weights are of q4_0 and the like than of others; the first of them by id counts.
    assert_eq!(model.metadata().get("general.quantization_version"), Some(&Value::U32(2)));
    assert!(model.metadata().get("general.file_type").is_some());
}

#[test]
fn rows_of_plain_floats_lose_their_padding() {
    let scheme: Scheme = "f16".parse().unwrap();
    let mut t = PackedTensor::zeroed(scheme, [2, 5]).unwrap();
    let stride = t.layout().planes()[0].row_stride;
    assert!(stride > 10);
    for (r, row) in t.plane_mut(lowbit::scheme::PlaneKind::CodesLow).chunks_mut(stride).enumerate() {
        row[..10].iter_mut().enumerate().for_each(|(i, b)| *b = (100 * r + i) as u8);
    }
    let mut plan = Plan::default();
    plan.packed("w", scheme, [2, 5], DType::F32).unwrap();
    let mut writer = Writer::new(Vec::new(), "out", gguf(), plan).unwrap();
    writer.packed_exactly(&t).unwrap();
    let model = open(writer.finish().unwrap());
    let expected: Vec<u8> = (0..10).chain(100..110).collect();
    assert_eq!(model.raw(model.entry("w").unwrap()), expected);
    assert_eq!(model.entry("w").unwrap().content, Content::Dense(Dtype::F16));
    assert!(model.metadata().is_empty());
}

#[test]
fn what_gguf_cannot_hold_is_refused_by_name() {
    let refused = |plan: Plan| match Writer::new(Vec::new(), "out.gguf", gguf(), plan) {
        Err(e) => e.to_string(),
        Ok(_) => panic!("accepted"),
    };
    let mut cases = Vec::new();
    let mut case = |words: &'static [&'static str], fill: &dyn Fn(&mut Plan)| {
        let mut plan = Plan::default();
        fill(&mut plan);
        cases.push((words, plan));
    };
    case(&["'w'", "int4-g32", "no block type"], &|p| {
        p.packed("w", "int4-g32".parse().unwrap(), [2, 32], DType::F32).unwrap()
    });
    case(&["'w'", "U8", "GGUF"], &|p| p.dense("w", Dtype::U8, [2]).unwrap());
    case(&["'w'", "5 dimensions", "4"], &|p| p.dense("w", Dtype::F32, [1, 1, 1, 1, 1]).unwrap());
    case(&["64 bytes", "63"], &|p| p.dense("n".repeat(64), Dtype::F32, [1]).unwrap());
    case(&["two tensors", "'w'"], &|p| {
        p.dense("w", Dtype::F32, [1]).unwrap();
        p.dense("w", Dtype::F16, [1]).unwrap();
    });
    for (words, plan) in cases {
        let message = refused(plan);
        assert!(words.iter().all(|w| message.contains(w)), "{words:?}: {message}");
    }
    for alignment in [Value::U32(0), Value::U32(24), Value::U32(1 << 30), Value::String("pt".into())] {
        let mut metadata = Metadata::default();
        metadata.set("general.alignment", alignment);
        assert!(refused(Plan::new(metadata)).contains("general.alignment"));
    }
}

/// One value of each kind: id, bytes, the value.
fn kinds() -> Vec<(u32, Vec<u8>, Value)> {
    let words = [Value::String("a".into()), Value::String(String::new())];
    vec![
        (0, vec![200], Value::U8(200)),
        (1, vec![200], Value::I8(-56)),
        (2, vec![1, 2], Value::U16(513)),
        (3, vec![0, 128], Value::I16(-32768)),
        (4, vec![1, 0, 0, 128], Value::U32(0x8000_0001)),
        (5, vec![255; 4], Value::I32(-1)),
        (6, 0.1f32.to_le_bytes().into(), Value::F32(0.1)),
        (7, vec![1], Value::Bool(true)),
        (8, build::string("é"), Value::String("é".into())),
        (
            9,
            build::array(8, 2, &[build::string("a"), build::string("")].concat()),
            Value::Array(Array::new(Kind::String, &words).unwrap()),
        ),
        (9, build::array(7, 2, &[0, 1]), {
            let values = [Value::Bool(false), Value::Bool(true)];
            Value::Array(Array::new(Kind::Bool, &values).unwrap())
        }),
        (9, build::array(12, 0, &[]), Value::Array(Array::new(Kind::F64, &[]).unwrap())),
        (10, vec![255; 8], Value::U64(u64::MAX)),
        (11, vec![255; 8], Value::I64(-1)),
        (12, 0.1f64.to_le_bytes().into(), Value::F64(0.1)),
    ]
}

#[test]
fn all_kinds_of_metadata_keep_their_bytes_and_order() {
    let mut file = Gguf::new();
    for (i, (kind, bytes, _)) in kinds().into_iter().enumerate() {
        file = file.pair(&format!("z{}.k", 99 - i), kind, bytes);
    }
    let file = file.tensor("t", &[4], 24, &[1, 2, 3, 4]).bytes();
    let model = open(file.clone());
    let values: Vec<Value> = model.metadata().iter().map(|(_, v)| v.clone()).collect();
    assert_eq!(values, kinds().into_iter().map(|(.., v)| v).collect::<Vec<_>>());
    assert_eq!(rewritten(&model, gguf()), file);
    // Through the JSON of a safetensors header, too.
    let packed = rewritten(&model, Format::named("lowbit").unwrap());
    assert_eq!(rewritten(&Model::from_bytes("p", packed).unwrap(), gguf()), file);
}

#[test]
fn version_2_alignment_and_gaps_are_read() {
    let mut file = Gguf::new().u32("general.alignment", 8);
    (file.version, file.alignment) = (2, 8);
    file = file.tensor("b", &[3], 26, &[1; 12]).tensor("a", &[], 28, &[2; 8]).tensor("e", &[0, 5], 0, &[]);
    // In another order than the infos', with a gap.
    file.tensors[0].3 = 16;
    file.tensors[1].3 = 0;
    file.data = [&[2; 8][..], &[9; 8], &[1; 12]].concat();
    let model = open(file.bytes());
    assert_eq!(model.details(), [("version", 2), ("alignment", 8)]);
    let names: Vec<&str> = model.entries().iter().map(|e| e.name.as_str()).collect();
    assert_eq!(names, ["b", "a", "e"]);
    let raw = |name: &str| model.raw(model.entry(name).unwrap());
    assert_eq!((raw("b"), raw("a"), raw("e")), (&[1; 12][..], &[2; 8][..], &[][..]));
    assert_eq!((model.entries()[1].shape.len(), model.entries()[2].shape.as_slice()), (0, &[5, 0][..]));
    // Written again: version 3, the same alignment, in order and without the gap, the last tensor padded.
    let again = rewritten(&model, gguf());
    let model = open(again.clone());
    assert_eq!(model.details(), [("version", 3), ("alignment", 8)]);
    assert_eq!(model.raw(&model.entries()[0]), [1; 12]);
    assert_eq!(again[again.len() - 24..], [&[1; 12][..], &[0; 4], &[2; 8]].concat());
}

#[test]
fn types_of_lattices_are_listed_and_refused() {
    for (id, name, bytes) in [
        (16, "iq2_xxs", 66),
        (17, "iq2_xs", 74),
        (18, "iq3_xxs", 98),
        (19, "iq1_s", 50),
        (21, "iq3_s", 110),
        (22, "iq2_s", 82),
        (29, "iq1_m", 56),
    ] {
        let model = open(Gguf::new().tensor("w", &[256, 2], id, &vec![1; 2 * bytes]).bytes());
        let entry = model.entry("w").unwrap();
        assert_eq!((entry.scheme_name().as_str(), entry.bytes), (name, 2 * bytes as u64));
        assert_eq!(entry.bits_per_weight(), bytes as f64 / 32.0);
        for message in
            [entry.readable().unwrap_err().to_string(), model.packed(entry).unwrap_err().to_string()]
        {
            let upper = name.to_uppercase();
            assert!(message.contains("'w'") && message.contains(&upper), "{message}");
        }
        assert!(model.tensor(entry).is_err());
    }
}

/// Three shards as gguf-split makes them, and the metadata of the first in full.
pub fn shards(folder: &Path) -> Vec<std::path::PathBuf> {
    (0..3u16)
        .map(|i| {
            let mut file = Gguf::new();
            if i == 0 {
                file = file.text("general.architecture", "llama");
            }
            file =
                file.pair("split.no", 2, i.to_le_bytes()).pair("split.tensors.count", 5, 4i32.to_le_bytes());
            file = file.pair("split.count", 2, 3u16.to_le_bytes());
            for t in 0..=(i == 1).into() {
                file = file.tensor(&format!("blk.{i}.{t}"), &[2], 0, &build::f32s(&[f32::from(i), t as f32]));
            }
            let path = folder.join(format!("m-{:05}-of-00003.gguf", i + 1));
            std::fs::write(&path, file.bytes()).unwrap();
            path
        })
        .collect()
}

#[test]
fn any_shard_opens_all_and_missing_ones_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let paths = shards(folder.path());
    let refused = |path: &Path| Model::open(path).err().expect("accepted").to_string();
    for path in paths.iter().map(|p| p.as_path()).chain([folder.path()]) {
        let model = Model::open(path).unwrap();
        let names: Vec<&str> = model.entries().iter().map(|e| e.name.as_str()).collect();
        assert_eq!(names, ["blk.0.0", "blk.1.0", "blk.1.1", "blk.2.0"], "{}", path.display());
        assert_eq!(&*model.tensor(&model.entries()[2]).unwrap().to_f32(), &[1.0, 1.0]);
        assert_eq!(model.paths().collect::<Vec<_>>(), paths);
        // What is said of shards does not go into files made of the whole.
        assert_eq!(model.metadata().iter().map(|(k, _)| k).collect::<Vec<_>>(), ["general.architecture"]);
    }
    let third = std::fs::read(&paths[2]).unwrap();
    // In the place of the second.
    let second = std::fs::read(&paths[1]).unwrap();
    std::fs::write(&paths[1], &third).unwrap();
    let message = refused(&paths[0]);
    assert!(["m-00002-of-00003.gguf", "2 of 3"].iter().all(|w| message.contains(w)), "{message}");
    std::fs::write(&paths[1], &second).unwrap();

    std::fs::remove_file(&paths[2]).unwrap();
    let message = refused(&paths[1]);
    assert!(message.contains("missing: m-00003-of-00003.gguf"), "{message}");
    std::fs::remove_file(&paths[0]).unwrap();
    let message = refused(&paths[1]);
    assert!(message.contains("m-00001-of-00003.gguf, m-00003-of-00003.gguf"), "{message}");
    // Under another name the others cannot be found.
    let other = folder.path().join("other.gguf");
    std::fs::rename(&paths[1], &other).unwrap();
    let message = refused(&other);
    assert!(message.contains("-00002-of-00003.gguf"), "{message}");
}

#[test]
fn shards_that_lie_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, file: Gguf| {
        let path = folder.path().join(name);
        std::fs::write(&path, file.bytes()).unwrap();
        path
    };
    let split = |no: u16, tensors: i32| {
        let file =
            Gguf::new().pair("split.no", 2, no.to_le_bytes()).pair("split.count", 2, 2u16.to_le_bytes());
        file.pair("split.tensors.count", 5, tensors.to_le_bytes())
    };
    let refused = |path: &Path| Model::open(path).err().expect("accepted").to_string();
    let first = write("n-00001-of-00002.gguf", split(0, 3).tensor("a", &[1], 24, &[1]));
    write("n-00002-of-00002.gguf", split(1, 3).tensor("b", &[1], 24, &[1]));
    let message = refused(&first);
    assert!(message.contains("split.tensors.count") && message.contains('3'), "{message}");
    write("n-00001-of-00002.gguf", split(0, 2).tensor("a", &[1], 24, &[1]));
    write("n-00002-of-00002.gguf", split(1, 2).tensor("a", &[1], 24, &[1]));
    assert!(refused(&first).contains("'a' occurs twice"));
    write("n-00002-of-00002.gguf", split(0, 2));
    assert!(refused(&first).contains("0 of 2"));
    write("n-00002-of-00002.gguf", Gguf::new());
    assert!(refused(&first).contains("got none"));
    let text = write("t.gguf", Gguf::new().text("split.count", "2"));
    assert!(refused(&text).contains("split.count"));
    let many = write("t.gguf", Gguf::new().u32("split.count", 1 << 31));
    assert!(refused(&many).contains("2147483648"));
    let lone = write("t.gguf", Gguf::new().pair("split.count", 2, 2u16.to_le_bytes()));
    assert!(refused(&lone).contains("split.no"));
    let one = write("t.gguf", Gguf::new().pair("split.count", 2, 1u16.to_le_bytes()));
    assert_eq!(Model::open(&one).unwrap().metadata().len(), 1);
    write("t.gguf", split(0, 1));
    let message = Model::from_bytes("bytes", split(0, 1).bytes()).err().unwrap().to_string();
    assert!(message.starts_with("bytes: "), "{message}");
}
