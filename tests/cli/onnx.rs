//! ONNX through the command line: written and read like any model, and the same bits in other formats before and behind.

use super::harness::*;
use lowbit::file::Model;
use serde_json::json;

fn run(folder: &Folder, line: &str) -> Ran {
    folder.run(&line.split_whitespace().collect::<Vec<_>>())
}

#[track_caller]
fn works(folder: &Folder, line: &str) {
    let ran = run(folder, line);
    assert_eq!(ran.code, Some(0), "{line}: {}", ran.stderr);
}

/// Two layers, a norm and numbers that are none of them.
fn plain(folder: &Folder) {
    let tensors = [
        ("layers.0.q_proj.weight", "F16", &[32, 256][..], f16s(&numbers(32 * 256, 1))),
        ("layers.1.q_proj.weight", "F16", &[64, 128], f16s(&numbers(64 * 128, 2))),
        ("layers.0.norm.weight", "F16", &[256], f16s(&numbers(256, 3))),
        ("ids", "I64", &[2], vec![7; 16]),
    ];
    folder.write("m.safetensors", file(&tensors, json!({"format": "pt"})));
}

fn quantized(folder: &Folder, out: &str, scheme: &str, more: &str) {
    plain(folder);
    let line =
        format!("quantize m.safetensors -o {out} --scheme {scheme} --include q_proj --device cpu {more}");
    works(folder, &line);
}

fn bytes(folder: &Folder, name: &str) -> Vec<u8> {
    std::fs::read(folder.path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// Each checkpoint through ONNX and back: the same files.
#[test]
fn checkpoints_come_back_through_onnx() {
    for (scheme, target, held) in [
        ("int4-g32", "gptq", "int4-g32"),
        ("int4-g128-asym", "gptq_v2", "int4-g128-asym"),
        ("int8-g128", "gptq", "int8-g128"),
        ("int2-g64-asym", "gptq_v2", "int2-g64-asym"),
        ("int4-g64-asym", "awq", "int4-g64-asym"),
        ("int4-g32-asym", "ct", "int4-g32-asym"),
    ] {
        let folder = Folder::new();
        quantized(&folder, "p.safetensors", scheme, "");
        works(&folder, &format!("convert p.safetensors -o a --to {target}"));
        works(&folder, "convert a -o m.onnx");
        let list = run(&folder, "inspect m.onnx --json").json();
        assert_eq!(list["format"], "onnx");
        assert_eq!(entry(&list["tensors"], "layers.0.q_proj.weight")["scheme"], held, "{target}");
        works(&folder, &format!("convert m.onnx -o b --to {target}"));
        assert_eq!(bytes(&folder, "a/model.safetensors"), bytes(&folder, "b/model.safetensors"), "{target}");
        let line = "compare p.safetensors m.onnx --device cpu --json";
        assert_eq!(run(&folder, line).json()["total"]["exact"], true, "{target}");
        // Nothing but what was asked for.
        assert_eq!(folder.names(), ["a", "b", "m.onnx", "m.onnx.data", "m.safetensors", "p.safetensors"]);
    }
}

/// GGUF's own types have their like, and metadata keeps its kinds.
#[test]
fn gguf_comes_back_through_onnx() {
    for (scheme, held) in [("q4_0", "int4-g32"), ("q8_0", "int8-g32")] {
        let folder = Folder::new();
        quantized(&folder, "a.gguf", scheme, "");
        let summary = run(&folder, "convert a.gguf -o m --to onnx --json").json();
        assert_eq!(
            (&summary["to"], &summary["packed"], &summary["tensors"]),
            (&json!("onnx"), &json!(2), &json!(4))
        );
        assert_eq!(summary["recast"][0]["to"], held);
        assert_eq!(folder.names(), ["a.gguf", "m", "m.data", "m.safetensors"]);
        works(&folder, "convert m -o b.gguf");
        assert_eq!(bytes(&folder, "a.gguf"), bytes(&folder, "b.gguf"), "{scheme}");
        // From ONNX into ONNX names stay, and all else.
        works(&folder, "convert m -o again.onnx");
        assert_eq!(bytes(&folder, "m.data"), bytes(&folder, "again.onnx.data"));
    }
}

#[test]
fn quantize_and_dequantize() {
    let folder = Folder::new();
    quantized(&folder, "whole.onnx", "int4-g32-asym", "");
    quantized(&folder, "cut.onnx", "int4-g32-asym", "--shard-size 9KB --resume");
    let shards: Vec<String> = (1..=2).map(|n| format!("cut-0000{n}-of-00002.onnx.data")).collect();
    let mut names: Vec<&str> = shards.iter().map(String::as_str).collect();
    names.extend(["cut.onnx", "m.safetensors", "whole.onnx", "whole.onnx.data"]);
    assert_eq!(folder.names(), names);
    let models = ["whole.onnx", "cut.onnx"].map(|name| Model::open(folder.path(name)).unwrap());
    for entry in models[0].entries() {
        let other = models[1].entry(&entry.name).unwrap();
        assert_eq!((&entry.content, &entry.shape), (&other.content, &other.shape));
        match entry.float() {
            None if entry.name == "ids" => assert_eq!(models[0].raw(entry), models[1].raw(other)),
            None => assert_eq!(models[0].packed(entry).unwrap(), models[1].packed(other).unwrap()),
            Some(_) => assert_eq!(models[0].raw(entry), models[1].raw(other)),
        }
    }
    let line = "compare m.safetensors cut.onnx --device cpu --json";
    assert!(run(&folder, line).json()["total"]["sqnr_db"].as_f64().unwrap() > 15.0);
    works(&folder, "dequantize whole.onnx -o d.safetensors --device cpu");
    works(&folder, "dequantize whole.onnx -o d.onnx --device cpu");
    let [a, b] = ["d.safetensors", "d.onnx"].map(|name| Model::open(folder.path(name)).unwrap());
    assert_eq!((a.entries().len(), b.entries().len()), (4, 4));
    for entry in a.entries() {
        assert_eq!(a.raw(entry), b.raw(b.entry(&entry.name).unwrap()), "{}", entry.name);
    }
}

#[test]
fn what_cannot_be_written_is_refused() {
    let folder = Folder::new();
    quantized(&folder, "p.safetensors", "nf4-g64", "");
    let refused = run(&folder, "convert p.safetensors -o m.onnx");
    refused.fails(1, &["'layers.0.q_proj.weight'", "nf4-g64", "lowbit dequantize p.safetensors"]);
    assert_eq!(folder.names(), ["m.safetensors", "p.safetensors"]);
    // The commands that it names do it.
    let commands = refused.stderr.split('`').nth(1).unwrap();
    for line in commands.split(" && ") {
        works(&folder, &format!("{} --device cpu", line.strip_prefix("lowbit ").unwrap()));
    }
    let before = (bytes(&folder, "m.onnx"), bytes(&folder, "m.onnx.data"));
    works(&folder, "inspect m.onnx");
    // Either file is in the way, and an input is no output.
    run(&folder, "convert m.onnx -o m.onnx --force").fails(2, &["is the input"]);
    run(&folder, "convert m.onnx -o m.onnx.data --to gguf --force").fails(2, &["is the input"]);
    folder.write("n.onnx.data", "mine");
    run(&folder, "convert m.onnx -o n.onnx").fails(1, &["n.onnx.data", "exists"]);
    run(&folder, "quantize m.safetensors -o n.onnx --scheme int4-g32 --device cpu")
        .fails(1, &["n.onnx.data", "exists"]);
    assert_eq!((bytes(&folder, "m.onnx"), bytes(&folder, "m.onnx.data")), before);
    assert_eq!(bytes(&folder, "n.onnx.data"), b"mine");
    assert!(!folder.path("n.onnx").exists());
    #[cfg(unix)]
    for command in ["convert m.onnx", "quantize m.safetensors --scheme int4-g32 --device cpu"] {
        run(&folder, &format!("{command} -o /dev/null --to onnx"))
            .fails(2, &["/dev/null", "no regular file"]);
    }
    std::fs::remove_file(folder.path("m.onnx.data")).unwrap();
    run(&folder, "inspect m.onnx").fails(1, &["m.onnx: external_data of initializer 0", "m.onnx.data"]);
}
