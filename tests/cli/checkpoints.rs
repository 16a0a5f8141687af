//! Quantized checkpoints through the command line: folders of GPTQ, AWQ, ... are opened like any model, and written by `convert`.
//!
//! ```text
//! packed safetensors -> convert --to TARGET -> folder -> inspect, compare, dequantize, quantize, convert to another
//! ```
//!
//! Folders of formats that are not written are made here, word by word. `tests/checkpoints` holds what the formats themselves promise.

use super::harness::*;
use lowbit::file::checkpoint::TARGETS;
use lowbit::file::{Content, Model};
use lowbit::scheme::PlaneKind;
use serde_json::{Value, json};

fn run(folder: &Folder, line: &str) -> Ran {
    folder.run(&line.split_whitespace().collect::<Vec<_>>())
}

fn open(folder: &Folder, name: &str) -> Model {
    Model::open(folder.path(name)).unwrap_or_else(|e| panic!("{e}"))
}

/// A layer, a norm and an embedding that is not quantized.
fn plain(folder: &Folder) {
    let tensors = [
        ("layers.0.q_proj.weight", "F16", &[32, 256][..], f16s(&numbers(32 * 256, 1))),
        ("layers.1.q_proj.weight", "F16", &[64, 128], f16s(&numbers(64 * 128, 2))),
        ("layers.0.norm.weight", "F16", &[256], f16s(&numbers(256, 3))),
        ("embed.weight", "F32", &[32, 32], f32s(&numbers(1024, 4))),
    ];
    folder.write("m.safetensors", file(&tensors, json!({"format": "pt"})));
}

/// `SCHEME.safetensors`, made of them.
fn packed(folder: &Folder, scheme: &str) {
    plain(folder);
    let line = format!(
        "quantize m.safetensors -o {scheme}.safetensors --scheme {scheme} --include q_proj --device cpu --force"
    );
    let ran = run(folder, &line);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
}

/// Every number of every tensor, zeros without sign.
fn decoded(folder: &Folder, name: &str) -> Vec<(String, Vec<u32>)> {
    let out = format!("{}-plain.safetensors", name.replace('/', "-"));
    let ran = run(folder, &format!("dequantize {name} -o {out} --dtype f32 --device cpu --force"));
    assert_eq!(ran.code, Some(0), "{name}: {}", ran.stderr);
    let model = open(folder, &out);
    let bits = |v: &f32| (v + 0.0).to_bits();
    let mut all: Vec<(String, Vec<u32>)> = model
        .entries()
        .iter()
        .map(|e| (e.name.clone(), model.tensor(e).unwrap().to_f32().iter().map(bits).collect()))
        .collect();
    all.sort();
    all
}

/// Scheme, target, and the scheme of the layers in the folder.
const WRITTEN: [(&str, &str, &str); 19] = [
    ("int4-g32", "gptq", "int4-g32"),
    ("int4-g128-asym", "gptq", "int4-g128-asym"),
    ("int8-g128", "gptq_v2", "int8-g128"),
    ("q4_0", "gptq", "int4-g32"),
    ("int4-g128-asym", "awq", "int4-g128-asym"),
    ("int4-g128", "awq", "int4-g128-asym"),
    ("q4_0", "awq", "int4-g32-asym"),
    ("int4-g128-asym", "ct", "int4-g128-asym"),
    ("q4_0", "ct", "int4-g32"),
    ("int8-row", "ct-int", "int8-row"),
    ("e4m3-row", "ct-float", "e4m3-row"),
    ("q4_0", "mlx", "int4-g32-bias"),
    ("q4_1", "mlx", "int4-g32-bias"),
    ("q8_0", "mlx", "int8-g32-bias"),
    ("mxfp4", "mlx", "fp4-g32-e8m0"),
    ("mxfp8", "mlx", "mxfp8"),
    ("nvfp4", "mlx", "nvfp4"),
    ("mxfp4", "ct", "fp4-g32-e8m0"),
    ("nvfp4-global", "ct", "nvfp4-global"),
];

#[test]
fn every_target_is_written_and_opened_like_a_model() {
    let folder = Folder::new();
    for (scheme, target, held) in WRITTEN {
        packed(&folder, scheme);
        let out = format!("{target}-{scheme}");
        let summary =
            run(&folder, &format!("convert {scheme}.safetensors -o {out} --to {target} --json")).json();
        assert_eq!((&summary["packed"], &summary["tensors"]), (&json!(2), &json!(4)), "{out}");
        let size = std::fs::metadata(folder.path(&out).join("model.safetensors")).unwrap().len();
        assert_eq!(summary["bytes_after"], size, "{out}");
        let list = run(&folder, &format!("inspect {out} --json")).json();
        assert_eq!(list["total"]["packed"], 2, "{out}");
        assert_eq!(
            list["format"],
            summary["to"]
                .as_str()
                .unwrap()
                .trim_end_matches("_v2")
                .trim_end_matches("-int")
                .trim_end_matches("-float")
        );
        assert_eq!(entry(&list["tensors"], "layers.0.q_proj.weight")["scheme"], held, "{out}");
        assert_eq!(entry(&list["tensors"], "layers.0.q_proj.weight")["shape"], json!([32, 256]), "{out}");
        assert_eq!(list["files"].as_array().unwrap().len(), 2, "{out}");
        assert_eq!(decoded(&folder, &out), decoded(&folder, &format!("{scheme}.safetensors")), "{out}");
        let line = format!("compare {scheme}.safetensors {out} --device cpu --json");
        assert_eq!(run(&folder, &line).json()["total"]["exact"], true, "{out}");
        // Nothing but the two files, and no temporary ones.
        let mut names: Vec<_> =
            std::fs::read_dir(folder.path(&out)).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["config.json", "model.safetensors"], "{out}");
    }
    let written: Vec<&str> = WRITTEN.iter().map(|w| w.1).collect();
    for target in TARGETS {
        assert!(target.names().any(|n| written.contains(&n)), "{} is not tested", target.name);
    }
}

#[test]
fn checkpoints_become_each_other() {
    let folder = Folder::new();
    packed(&folder, "int4-g32");
    packed(&folder, "q4_0");
    let truth = decoded(&folder, "q4_0.safetensors");
    // Each from the one before.
    let chain = ["gptq", "gptq_v2", "awq", "ct", "gptq", "mlx"];
    let mut from = "q4_0.safetensors".to_string();
    for (i, target) in chain.iter().enumerate() {
        let out = format!("{i}-{target}");
        let ran = run(&folder, &format!("convert {from} -o {out} --to {target}"));
        assert_eq!(ran.code, Some(0), "{out}: {}", ran.stderr);
        assert_eq!(decoded(&folder, &out), truth, "{out}");
        // And all of them to GGUF's own type, with the bytes of the first.
        let ran = run(&folder, &format!("convert {out} -o {out}.gguf"));
        assert_eq!(ran.code, Some(0), "{out}: {}", ran.stderr);
        let (a, b) = (open(&folder, "q4_0.safetensors"), open(&folder, &format!("{out}.gguf")));
        for name in ["layers.0.q_proj.weight", "layers.1.q_proj.weight"] {
            let (x, y) =
                (a.packed(a.entry(name).unwrap()).unwrap(), b.packed(b.entry(name).unwrap()).unwrap());
            assert!(x == y, "{out}: {}", y.scheme());
        }
        from = out;
    }
    // Versions 1 and 2 of GPTQ differ in the zero-points alone.
    let (one, two) = (folder.path("0-gptq/model.safetensors"), folder.path("1-gptq_v2/model.safetensors"));
    let (one, two) = (Model::open(one).unwrap(), Model::open(two).unwrap());
    for e in one.entries() {
        let same = one.raw(e) == two.raw(two.entry(&e.name).unwrap());
        assert_eq!(same, !e.name.ends_with(".qzeros"), "{}", e.name);
    }
    // Keys of the source's config.json stay, its settings do not.
    let path = folder.path("1-gptq_v2/config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    config["model_type"] = "llama".into();
    std::fs::write(&path, config.to_string()).unwrap();
    assert_eq!(run(&folder, "convert 1-gptq_v2 -o kept --to mlx").code, Some(0));
    let config: Value =
        serde_json::from_slice(&std::fs::read(folder.path("kept/config.json")).unwrap()).unwrap();
    assert_eq!((&config["model_type"], &config["quantization"]["bits"]), (&json!("llama"), &json!(4)));
    assert_eq!(config["quantization_config"].get("quant_method"), None);
}

/// MXFP4 has one order of codes in GGUF and another in checkpoints.
#[test]
fn microscaling_goes_through_checkpoints() {
    let folder = Folder::new();
    plain(&folder);
    for (scheme, chain) in [("mxfp4", &["mlx", "ct", "mlx"][..]), ("nvfp4", &["mlx"])] {
        let line = format!(
            "quantize m.safetensors -o 0.gguf --scheme {scheme} --include q_proj --device cpu --force"
        );
        assert_eq!(run(&folder, &line).code, Some(0), "{scheme}");
        let mut from = "0.gguf".to_string();
        for (i, target) in chain.iter().enumerate() {
            let out = format!("{scheme}-{i}");
            let ran = run(&folder, &format!("convert {from} -o {out} --to {target}"));
            assert_eq!(ran.code, Some(0), "{out}: {}", ran.stderr);
            assert_eq!(decoded(&folder, &out), decoded(&folder, "0.gguf"), "{out}");
            from = out;
        }
        assert_eq!(run(&folder, &format!("convert {from} -o back.gguf --force")).code, Some(0));
        let (a, b) = (open(&folder, "0.gguf"), open(&folder, "back.gguf"));
        for entry in a.entries() {
            assert_eq!(a.raw(entry), b.raw(b.entry(&entry.name).unwrap()), "{scheme} {}", entry.name);
        }
    }
}

#[test]
fn longer_groups_become_blocks_and_say_so() {
    let folder = Folder::new();
    packed(&folder, "int4-g128");
    assert_eq!(run(&folder, "convert int4-g128.safetensors -o g --to gptq").code, Some(0));
    let summary = run(&folder, "convert g -o g.gguf --json").json();
    let recast = entry(&summary["recast"], "layers.0.q_proj.weight").clone();
    assert_eq!((&recast["from"], &recast["to"]), (&json!("int4-g128"), &json!("q4_0")));
    assert_eq!(decoded(&folder, "g.gguf"), decoded(&folder, "int4-g128.safetensors"));
    let text = run(&folder, "convert g -o again.gguf").stdout;
    assert!(text.contains("each checked, int4-g128 as q4_0) from gptq to gguf"), "{text}");
}

fn write_folder(folder: &Folder, name: &str, config: Value, tensors: &[Raw<'_>]) {
    std::fs::create_dir_all(folder.path(name)).unwrap();
    folder.write(&format!("{name}/config.json"), config.to_string());
    folder.write(&format!("{name}/model.safetensors"), file(tensors, Value::Null));
}

#[test]
fn formats_that_are_only_read() {
    let folder = Folder::new();
    let settings = |settings: Value| json!({"model_type": "test", "quantization_config": settings});
    let int8 = [
        ("l.weight", "I8", &[2, 32][..], (0..64).map(|i| (i * 3 - 90) as u8).collect()),
        ("l.SCB", "F32", &[2], f32s(&[127.0, 63.5])),
        ("norm.weight", "F16", &[4], f16s(&[1.0; 4])),
    ];
    write_folder(
        &folder,
        "bnb",
        settings(json!({"quant_method": "bitsandbytes", "load_in_8bit": true})),
        &int8,
    );
    let number = |n: i32| n.to_le_bytes().to_vec();
    let shape = [4i64, 16].iter().flat_map(|d| d.to_le_bytes()).collect::<Vec<u8>>();
    let hqq = [
        ("l.W_q", "U8", &[4, 8][..], vec![0x21; 32]),
        ("l.scale", "F16", &[8, 1], f16s(&[0.5; 8])),
        ("l.zero", "F16", &[8, 1], f16s(&[1.5; 8])),
        ("l.nbits", "I32", &[], number(4)),
        ("l.group_size", "I32", &[], number(8)),
        ("l.axis", "I32", &[], number(1)),
        ("l.shape", "I64", &[2], shape),
        ("l.packing", "U8", &[7], b"4bit_u8".to_vec()),
    ];
    write_folder(&folder, "hqq", settings(json!({"quant_method": "hqq"})), &hqq);
    let mxfp4 = [
        ("l.weight", "U32", &[2, 8][..], (0..64).map(|i| (i * 37 % 256) as u8).collect()),
        ("l.scales", "U8", &[2, 2], vec![120, 127, 130, 0]),
    ];
    let mode = json!({"group_size": 32, "bits": 4, "mode": "mxfp4"});
    write_folder(&folder, "mx", json!({"quantization": mode}), &mxfp4);

    for (name, format, scheme) in
        [("bnb", "bitsandbytes", "int8-row"), ("hqq", "hqq", "int4-g8-fzero"), ("mx", "mlx", "fp4-g32-e8m0")]
    {
        let list = run(&folder, &format!("inspect {name} --json")).json();
        assert_eq!((&list["format"], &list["total"]["packed"]), (&json!(format), &json!(1)), "{name}");
        assert_eq!(entry(&list["tensors"], "l.weight")["scheme"], scheme, "{name}");
        let ran = run(&folder, &format!("convert {name} -o {name}.safetensors"));
        assert_eq!(ran.code, Some(0), "{name}: {}", ran.stderr);
        assert_eq!(decoded(&folder, name), decoded(&folder, &format!("{name}.safetensors")), "{name}");
    }
    // By the formats' own formulas: code * SCB / 127, and 0.5 * (code - 1.5) with the first half of the rows in the high nibbles.
    let values = |name: &str| decoded(&folder, name).iter().find(|t| t.0 == "l.weight").unwrap().1.clone();
    assert_eq!(f32::from_bits(values("bnb")[1]), -87.0);
    assert_eq!(f32::from_bits(values("bnb")[63]), 99.0 * 0.5);
    assert_eq!(f32::from_bits(values("hqq")[0]), 0.5 * 0.5);
    assert_eq!(f32::from_bits(values("hqq")[63]), -0.5 * 0.5);
    // The same bytes are GGUF's MXFP4.
    assert_eq!(run(&folder, "convert mx -o mx.gguf").code, Some(0));
    let model = open(&folder, "mx.gguf");
    assert_eq!(model.entries()[0].scheme_name(), "mxfp4");
    assert_eq!(model.packed(&model.entries()[0]).unwrap().plane(PlaneKind::Scales), [120, 127, 130, 0]);
    assert_eq!(decoded(&folder, "mx.gguf"), decoded(&folder, "mx"));
    // Quantizing copies what is packed.
    let line = "quantize bnb -o again.safetensors --scheme q4_0 --device cpu";
    run(&folder, line).fails(1, &["bnb"]);
}

#[test]
fn quantize_copies_packed_layers() {
    let folder = Folder::new();
    packed(&folder, "int4-g32");
    assert_eq!(run(&folder, "convert int4-g32.safetensors -o g --to gptq").code, Some(0));
    let line = "quantize g -o q.safetensors --scheme int4-row --include embed|q_proj --device cpu --json";
    let summary = run(&folder, line).json();
    assert_eq!(summary["quantized"][0]["name"], "embed.weight");
    assert_eq!(entry(&summary["copied"], "layers.0.q_proj.weight")["reason"], "already packed");
    let (a, b) = (open(&folder, "int4-g32.safetensors"), open(&folder, "q.safetensors"));
    let name = "layers.0.q_proj.weight";
    let (x, y) = (a.packed(a.entry(name).unwrap()).unwrap(), b.packed(b.entry(name).unwrap()).unwrap());
    assert_eq!(x, y);
    assert!(matches!(b.entry(name).unwrap().content, Content::Packed { .. }));
}

#[test]
fn what_is_lost_is_refused_with_a_command() {
    let folder = Folder::new();
    for scheme in ["nf4-g64", "int4-g128-asym", "q4_k"] {
        packed(&folder, scheme);
    }
    for (scheme, to, words) in [
        (
            "nf4-g64",
            "gptq",
            &["q_proj", "integers", "--scheme int4-g64", "convert packed.safetensors -o out --to gptq"][..],
        ),
        ("nf4-g64", "awq", &["q_proj", "--scheme int4-g64", "--to awq"]),
        ("nf4-g64", "gguf", &["q_proj", "lowbit quantize plain.safetensors -o out --scheme q4_0"]),
        ("q4_k", "ct", &["q_proj", "q4_k", "--scheme int4-g32"]),
        ("q4_k", "mlx", &["q_proj", "q4_k", "--scheme int4-g32"]),
        ("nf4-g64", "ct-float", &["q_proj", "--scheme e4m3-row"]),
        // Only values tell: f16 has not room for scale times zero-point.
        ("int4-g128-asym", "mlx", &["q_proj", "group", "rounded"]),
    ] {
        run(&folder, &format!("convert {scheme}.safetensors -o out --to {to}")).fails(1, words);
        assert!(!folder.path("out").exists(), "{scheme} {to}");
    }
    // The command does what it says.
    let ran = run(&folder, "convert nf4-g64.safetensors -o out --to gptq");
    let commands = ran.stderr.split('`').nth(1).unwrap().replace("lowbit ", "$LOWBIT ");
    let ran = folder.shell(&commands.replace(" && $LOWBIT convert", " --device cpu && $LOWBIT convert"));
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert_eq!(run(&folder, "inspect out --json").json()["format"], "gptq");
}

#[test]
fn outputs_and_settings_are_checked() {
    let folder = Folder::new();
    packed(&folder, "int4-g32");
    let convert = |more: &str| run(&folder, &format!("convert int4-g32.safetensors {more}"));
    assert_eq!(convert("-o g --to gptq").code, Some(0));
    convert("-o g --to gptq").fails(1, &["model.safetensors", "exists"]);
    assert_eq!(convert("-o g --to gptq --force").code, Some(0));
    run(&folder, "convert g -o g --to awq --force").fails(2, &["is the input"]);
    assert_eq!(run(&folder, "inspect g --json").json()["format"], "gptq");
    convert("-o m.safetensors --to awq").fails(2, &["is a file"]);
    convert("-o x --to gtpq").fails(
        2,
        &["no file format 'gtpq'", "lowbit, gguf, onnx, gptq, gptq_v2, awq, ct, ct-int, ct-float, mlx"],
    );
    let text = std::fs::read_to_string(folder.path("g/config.json")).unwrap();
    folder.write("g/config.json", text.replace("\"gptq\"", "\"quip\""));
    run(&folder, "inspect g").fails(1, &["config.json", "quip", "lowbit reads gptq, awq"]);
    // The file by its own name has the tensors as they are.
    let list = run(&folder, "inspect g/model.safetensors --json").json();
    assert_eq!(list["total"]["packed"], 0);
    assert_eq!(entry(&list["tensors"], "layers.0.q_proj.qweight")["scheme"], "i32");
    folder.write("g/config.json", text.replace("\"bits\": 4", "\"bits\": 8"));
    run(&folder, "convert g -o y.gguf").fails(1, &["layers.0.q_proj"]);
    assert!(!folder.path("y.gguf").exists());
    folder.write("g/config.json", "{");
    run(&folder, "inspect g").fails(1, &["config.json"]);
}

#[test]
fn columns_that_stay_need_no_order_and_what_is_proposed_fits() {
    let folder = Folder::new();
    // An encoder leaves columns where they are: act-order that is none.
    packed(&folder, "int4-g32-asym-perm");
    for to in ["gptq", "gptq_v2", "ct"] {
        let ran = run(&folder, &format!("convert int4-g32-asym-perm.safetensors -o {to} --to {to}"));
        assert_eq!(ran.code, Some(0), "{to}: {}", ran.stderr);
        assert_eq!(decoded(&folder, to), decoded(&folder, "int4-g32-asym-perm.safetensors"), "{to}");
    }
    // Zero-points whose biases would be rounded: not the same scheme again.
    packed(&folder, "int4-g128-asym");
    let ran = run(&folder, "convert int4-g128-asym.safetensors -o m --to mlx");
    ran.fails(1, &["group", "rounded", "--scheme int4-g128-bias"]);
    let commands = ran.stderr.split('`').nth(1).unwrap().replace("lowbit ", "$LOWBIT ");
    let ran = folder.shell(&commands.replace(" && $LOWBIT convert", " --device cpu && $LOWBIT convert"));
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert_eq!(run(&folder, "inspect m --json").json()["format"], "mlx");
    // A checkpoint of nothing packed is none.
    run(&folder, "convert m.safetensors -o none --to gptq").fails(1, &["m.safetensors", "no packed tensor"]);
    assert!(!folder.path("none").exists());
}

#[test]
fn metadata_goes_through_checkpoints_too() {
    let folder = Folder::new();
    packed(&folder, "int4-g32");
    let mut metadata = lowbit::file::Metadata::default();
    metadata.set("general.name", lowbit::file::Value::String("a model".into()));
    metadata.set("general.architecture", lowbit::file::Value::String("llama".into()));
    metadata.set("llama.block_count", lowbit::file::Value::U32(2));
    // The same tensors in GGUF, with metadata.
    assert_eq!(run(&folder, "convert int4-g32.safetensors -o 0.gguf").code, Some(0));
    let source = open(&folder, "0.gguf");
    let mut plan = lowbit::file::Plan::new(metadata.clone());
    source.entries().iter().for_each(|e| lowbit_copy(&mut plan, e));
    let format = lowbit::file::Format::named("gguf").unwrap();
    let mut writer = lowbit::file::Writer::new(Vec::new(), "m.gguf", format, plan).unwrap();
    for entry in source.entries() {
        match entry.content {
            Content::Packed { .. } => writer.packed(&source.packed(entry).unwrap()).unwrap(),
            _ => writer.dense(source.raw(entry)).unwrap(),
        }
    }
    folder.write("m.gguf", writer.finish().unwrap());
    for to in ["gptq", "mlx", "awq", "ct"] {
        for line in [format!("convert m.gguf -o {to} --to {to}"), format!("convert {to} -o {to}.gguf")] {
            let ran = run(&folder, &line);
            assert_eq!(ran.code, Some(0), "{line}: {}", ran.stderr);
        }
        let back = open(&folder, &format!("{to}.gguf"));
        for (key, value) in metadata.iter() {
            assert_eq!(back.metadata().get(key), Some(value), "{to}: {key}");
        }
    }
}

/// Plans an entry as it is.
fn lowbit_copy(plan: &mut lowbit::file::Plan, entry: &lowbit::file::Entry) {
    match entry.content {
        Content::Packed { scheme, source } => {
            plan.packed(&entry.name, scheme, entry.shape.clone(), source).unwrap();
        }
        Content::Dense(dtype) => plan.dense(&entry.name, dtype, entry.shape.clone()).unwrap(),
        Content::Listed { .. } => unreachable!(),
    }
}
