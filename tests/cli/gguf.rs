//! GGUF through the command line: every subcommand that takes a model takes one, and writes one.
//!
//! ```text
//! bytes of GGUF and safetensors (made here) -> lowbit ... -> exit code, stdout, stderr, files
//! ```
//!
//! `tests/files` holds what the formats themselves promise.

use super::harness::*;
use crate::build::{self, Gguf};
use lowbit::file::{Content, Model};
use serde_json::{Value, json};

/// Runs a line of arguments, separated by spaces.
fn run(folder: &Folder, line: &str) -> Ran {
    folder.run(&line.split_whitespace().collect::<Vec<_>>())
}

fn read(folder: &Folder, name: &str) -> Vec<u8> {
    std::fs::read(folder.path(name)).unwrap()
}

fn open(folder: &Folder, name: &str) -> Model {
    Model::open(folder.path(name)).unwrap_or_else(|e| panic!("{e}"))
}

/// As a converter of a small model leaves it: f16 weights, an f32 norm, typed metadata not in the order of names.
fn plain() -> Gguf {
    let tokens = [build::string("<s>"), build::string("a"), build::string("é")].concat();
    Gguf::new()
        .text("general.architecture", "llama")
        .u32("general.file_type", 1)
        .u32("llama.block_count", 2)
        .pair("llama.rope.freq_base", 6, 10000f32.to_le_bytes())
        .pair("tokenizer.ggml.tokens", 9, build::array(8, 3, &tokens))
        .pair("a.last", 7, [1])
        .tensor("token_embd.weight", &[256, 4], 1, &f16s(&numbers(1024, 1)))
        .tensor("blk.0.attn_q.weight", &[256, 6], 1, &f16s(&numbers(1536, 2)))
        .tensor("blk.0.attn_norm.weight", &[256], 0, &build::f32s(&numbers(256, 3)))
        .tensor("blk.10.ffn.weight", &[512, 3], 30, &[0x80, 0x3f].repeat(1536))
        .tensor("blk.2.experts.weight", &[256, 2, 3], 0, &build::f32s(&numbers(1536, 4)))
}

fn with_plain() -> Folder {
    let folder = Folder::new();
    folder.write("m.gguf", plain().bytes());
    folder
}

fn keys(model: &Model) -> Vec<String> {
    model.metadata().iter().map(|(k, _)| k.to_string()).collect()
}

#[test]
fn inspect_lists_tensors_and_metadata() {
    let folder = with_plain();
    let list = run(&folder, "inspect m.gguf --json").json();
    let names: Vec<&str> =
        list["tensors"].as_array().unwrap().iter().map(|t| t["name"].as_str().unwrap()).collect();
    // The file's own order.
    assert_eq!(names[..2], ["token_embd.weight", "blk.0.attn_q.weight"]);
    assert_eq!(list["tensors"][4]["shape"], json!([3, 2, 256]));
    assert_eq!(list["tensors"][3]["scheme"], "bf16");
    assert_eq!(
        (&list["format"], &list["details"]),
        (&json!("gguf"), &json!({"version": 3, "alignment": 32}))
    );
    assert_eq!(list["metadata"]["tokenizer.ggml.tokens"], json!(["<s>", "a", "é"]));
    assert_eq!(list["metadata"]["llama.rope.freq_base"], json!(10000.0));
    assert_eq!(list["metadata_kinds"]["tokenizer.ggml.tokens"], "[string]");
    let kinds: Vec<&String> = list["metadata_kinds"].as_object().unwrap().keys().collect();
    assert_eq!((kinds[0].as_str(), kinds[5].as_str()), ("general.architecture", "a.last"));
    let text = run(&folder, "inspect m.gguf").stdout;
    for part in [
        "format gguf, version 3, alignment 32, 1 file",
        "[string]",
        "[\"<s>\", \"a\", \"é\"]",
        "5 tensors (0 packed)",
    ] {
        assert!(text.contains(part), "'{part}' is missing in:\n{text}");
    }
    let long: Vec<u8> = (0..50u32).flat_map(u32::to_le_bytes).collect();
    folder.write("l.gguf", Gguf::new().pair("a", 9, build::array(4, 50, &long)).bytes());
    let text = run(&folder, "inspect l.gguf").stdout;
    assert!(text.contains("[0, 1, 2, 3, ... 50 values]"), "{text}");
    assert_eq!(run(&folder, "inspect l.gguf --json").json()["metadata"]["a"].as_array().unwrap().len(), 50);
}

#[test]
fn quantize_writes_gguf_in_the_order_of_its_input() {
    let folder = with_plain();
    let summary = run(&folder, "quantize m.gguf -o q.gguf --scheme q4_k --device cpu --json").json();
    assert_eq!(summary["quantized"].as_array().unwrap().len(), 4);
    // In the file: 144 bytes for 256 weights.
    assert_eq!(summary["bits_per_weight"], 4.5);
    assert_eq!(summary["quantized"][1]["bytes"], 6 * 144);
    let size = std::fs::metadata(folder.path("q.gguf")).unwrap().len();
    assert_eq!(summary["bytes_after"], size);
    let (m, q) = (open(&folder, "m.gguf"), open(&folder, "q.gguf"));
    let names = |m: &Model| m.entries().iter().map(|e| e.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&q), names(&m));
    assert_eq!(q.entries()[0].scheme_name(), "q4_k");
    assert_eq!(q.raw(&q.entries()[2]), m.raw(&m.entries()[2]));
    // The metadata stays in place; the file type is true again, the version of the blocks is new.
    let mut expected = keys(&m);
    expected.push("general.quantization_version".into());
    assert_eq!(keys(&q), expected);
    let list = run(&folder, "inspect q.gguf --json").json();
    assert_eq!(list["metadata"]["general.file_type"], 14);
    assert_eq!(list["metadata"]["general.quantization_version"], 2);
    assert_eq!(list["metadata_kinds"]["general.quantization_version"], "u32");
    assert_eq!(list["total"]["packed"], 4);

    // The same numbers as through safetensors, and the same bytes again.
    assert_eq!(run(&folder, "quantize m.gguf -o q.safetensors --scheme q4_k --device cpu").code, Some(0));
    let s = open(&folder, "q.safetensors");
    for entry in s.entries() {
        let other = q.entry(&entry.name).unwrap();
        match entry.content {
            Content::Packed { .. } => assert_eq!(s.packed(entry).unwrap(), q.packed(other).unwrap()),
            _ => assert_eq!(s.raw(entry), q.raw(other)),
        }
    }
    let first = read(&folder, "q.gguf");
    assert_eq!(run(&folder, "quantize m.gguf -o q.gguf --force --scheme q4_k --device cpu").code, Some(0));
    assert_eq!(read(&folder, "q.gguf"), first);
}

#[test]
fn extension_and_to_choose_the_format() {
    let folder = with_plain();
    let quantize =
        |more: &str| run(&folder, &format!("quantize m.gguf --scheme q8_0 --device cpu --force {more}"));
    for (more, format) in [
        ("-o a.gguf", "gguf"),
        ("-o A.GGUF", "gguf"),
        ("-o b.safetensors", "lowbit"),
        ("-o c", "lowbit"),
        ("-o d --to gguf", "gguf"),
        ("-o e.gguf --to lowbit", "lowbit"),
        ("-o f.safetensors --to GGUF", "gguf"),
    ] {
        assert_eq!(quantize(more).code, Some(0), "{more}");
        let name = more.split_whitespace().nth(1).unwrap();
        // The content decides when it is read.
        assert_eq!(run(&folder, &format!("inspect {name} --json")).json()["format"], format, "{more}");
    }
    quantize("-o g.gguf --to pt").fails(2, &["'pt'", "lowbit, gguf, onnx"]);
    run(&folder, "convert a.gguf -o g").fails(2, &["does not say", "--to lowbit or --to gguf"]);
    assert!(!folder.path("g").exists() && !folder.path("g.gguf").exists());
}

#[test]
fn plain_floats_of_gguf_are_dense() {
    let folder = with_plain();
    let summary = run(&folder, "quantize m.gguf -o h.gguf --scheme bf16 --device cpu --json").json();
    assert_eq!(summary["bits_per_weight"], 16.0);
    let list = run(&folder, "inspect h.gguf --json").json();
    assert_eq!(list["total"]["packed"], 0);
    assert_eq!(list["tensors"][1]["scheme"], "bf16");
    assert_eq!(list["metadata"]["general.file_type"], 32);
}

#[test]
fn dequantize_and_compare_take_gguf() {
    let folder = with_plain();
    assert_eq!(run(&folder, "quantize m.gguf -o q.gguf --scheme q6_k --device cpu").code, Some(0));
    let back = run(&folder, "dequantize q.gguf -o f.gguf --dtype f16 --device cpu --json").json();
    assert_eq!((&back["dequantized"], &back["copied"]), (&json!(4), &json!(1)));
    assert_eq!(run(&folder, "dequantize q.gguf -o f.safetensors --device cpu").code, Some(0));
    let list = run(&folder, "inspect f.gguf --json").json();
    assert_eq!((&list["tensors"][0]["scheme"], &list["total"]["packed"]), (&json!("f16"), &json!(0)));
    assert_eq!(list["metadata"]["general.file_type"], 1);
    // f32 holds what Q6_K says exactly; what the weights were before is not in the file.
    let exact = run(&folder, "compare q.gguf f.safetensors --device cpu --json").json();
    assert_eq!((&exact["total"]["sqnr_db"], exact["tensors"].as_array().unwrap().len()), (&Value::Null, 5));
    assert_eq!(exact["tensors"][0]["scheme"], "f32");
    let cost = run(&folder, "compare m.gguf q.gguf --device cpu --json").json();
    assert_eq!((&cost["only_in_a"], &cost["only_in_b"]), (&json!([]), &json!([])));
    let sqnr = cost["total"]["sqnr_db"].as_f64().unwrap();
    // Q6_K: 34 dB in the README for weights that are harder; here half of a step of 1/32 of the maximum, at least 30 dB.
    assert!((30.0..50.0).contains(&sqnr), "{sqnr}");
    // The metadata is in the safetensors file, whole.
    let kept = open(&folder, "f.safetensors");
    assert_eq!(keys(&kept)[..2], ["general.architecture", "general.file_type"]);
}

#[test]
fn convert_moves_bits_both_ways() {
    let folder = with_plain();
    for scheme in ["q4_0", "q4_k", "tq1_0", "iq4_xs", "mxfp4", "nvfp4"] {
        let run = |line: &str| run(&folder, &line.replace("SCHEME", scheme));
        assert_eq!(run("quantize m.gguf -o SCHEME.gguf --scheme SCHEME --device cpu").code, Some(0));
        let there = run("convert SCHEME.gguf -o SCHEME.safetensors --json").json();
        assert_eq!(
            (&there["from"], &there["to"], &there["packed"]),
            (&json!("gguf"), &json!("lowbit"), &json!(4))
        );
        let back = run("convert SCHEME.safetensors -o back-SCHEME.gguf --json").json();
        assert_eq!(
            (&back["from"], &back["to"], &back["tensors"]),
            (&json!("lowbit"), &json!("gguf"), &json!(5))
        );
        let (a, b) =
            (open(&folder, &format!("{scheme}.gguf")), open(&folder, &format!("back-{scheme}.gguf")));
        assert_eq!(a.metadata(), b.metadata());
        for entry in a.entries() {
            let other = b.entry(&entry.name).unwrap();
            assert_eq!(
                (a.raw(entry), &entry.content),
                (b.raw(other), &other.content),
                "{scheme} {}",
                entry.name
            );
        }
    }
    // GGUF to GGUF is a rewrite, byte for byte where the file was as it is written here.
    let text = run(&folder, "convert q4_k.gguf -o again.gguf");
    assert!(
        text.stdout.contains("5 tensors (4 packed, moved as they are) from gguf to gguf"),
        "{}",
        text.stdout
    );
    assert_eq!(read(&folder, "again.gguf"), read(&folder, "q4_k.gguf"));
    run(&folder, "convert q4_k.gguf -o again.gguf").fails(1, &["again.gguf", "exists"]);
    run(&folder, "convert q4_k.gguf -o q4_k.gguf --force").fails(2, &["is the input"]);
}

#[test]
fn convert_refuses_what_would_be_lost() {
    let folder = with_plain();
    assert_eq!(
        run(&folder, "quantize m.gguf -o i.safetensors --scheme int4-g32-asym --device cpu").code,
        Some(0)
    );
    let ran = run(&folder, "convert i.safetensors -o x.gguf");
    ran.fails(
        1,
        &[
            "'blk.0.attn_q.weight'",
            "int4-g32-asym",
            "GGUF",
            "requantizes nothing",
            "lowbit quantize",
            "--scheme q4_",
        ],
    );
    // The commands it gives do it.
    let line = ran.stderr.lines().last().unwrap();
    let commands: Vec<&str> = line.split('`').nth(1).unwrap().split(" && ").collect();
    assert_eq!(commands.len(), 2);
    for command in commands {
        let args = command.strip_prefix("lowbit ").unwrap();
        assert_eq!(run(&folder, &format!("{args} --device cpu")).code, Some(0), "{command}");
    }
    assert_eq!(run(&folder, "inspect x.gguf --json").json()["total"]["packed"], 4);

    run(&folder, "quantize i.safetensors -o y.gguf --scheme q4_0 --device cpu")
        .fails(1, &["no tensor to quantize"]);
    run(&folder, "quantize m.gguf -o y.gguf --scheme nf4-g64 --device cpu")
        .fails(1, &["nf4-g64", "GGUF", "'token_embd.weight'"]);
    folder.write("u8.safetensors", file(&[("flags", "U8", &[2], vec![1, 2])], Value::Null));
    run(&folder, "convert u8.safetensors -o y.gguf").fails(1, &["'flags'", "U8", "GGUF"]);

    // A byte that TQ1_0's own encoder does not make decodes like another one, so that it could not come back.
    let mut block = [0; 54];
    block[0] = 1;
    folder.write("t.gguf", Gguf::new().tensor("w", &[256, 1], 34, &block).bytes());
    run(&folder, "convert t.gguf -o y.safetensors").fails(1, &["'w'", "tq1_0", "byte 0"]);
    assert!(!folder.path("y.gguf").exists() && !folder.path("y.safetensors").exists());
}

#[test]
fn shards_become_one_file() {
    let folder = Folder::new();
    for i in 0..2u16 {
        let gguf = Gguf::new().text("general.architecture", "x").pair("split.no", 2, i.to_le_bytes());
        let gguf = gguf.pair("split.count", 2, 2u16.to_le_bytes()).pair(
            "split.tensors.count",
            5,
            2i32.to_le_bytes(),
        );
        let gguf = gguf.tensor(&format!("w{i}"), &[32], 8, &[i as u8 + 1; 34]);
        folder.write(&format!("s-0000{}-of-00002.gguf", i + 1), gguf.bytes());
    }
    let list = run(&folder, "inspect s-00002-of-00002.gguf --json").json();
    assert_eq!((list["files"].as_array().unwrap().len(), &list["total"]["tensors"]), (2, &json!(2)));
    assert!(run(&folder, "inspect .").stdout.contains("2 files"));
    assert_eq!(run(&folder, "convert s-00002-of-00002.gguf -o one.gguf").code, Some(0));
    let one = open(&folder, "one.gguf");
    assert_eq!(keys(&one), ["general.architecture", "general.quantization_version", "general.file_type"]);
    assert_eq!(one.raw(&one.entries()[1]), [2; 34]);
    // No shard is overwritten by what is made of it.
    run(&folder, "convert s-00002-of-00002.gguf -o s-00001-of-00002.gguf --force")
        .fails(2, &["is the input"]);
    std::fs::remove_file(folder.path("s-00001-of-00002.gguf")).unwrap();
    run(&folder, "inspect s-00002-of-00002.gguf").fails(1, &["missing: s-00001-of-00002.gguf"]);
}

#[test]
fn lattice_types_are_listed_only() {
    let folder = Folder::new();
    let gguf = Gguf::new().tensor("a.weight", &[256, 2], 1, &f16s(&numbers(512, 1)));
    folder.write("i.gguf", gguf.tensor("b.weight", &[256, 2], 16, &[1; 132]).bytes());
    let list = run(&folder, "inspect i.gguf --json").json();
    assert_eq!(
        (&list["tensors"][1]["scheme"], &list["tensors"][1]["bytes"]),
        (&json!("iq2_xxs"), &json!(132))
    );
    for line in [
        "quantize i.gguf -o o.gguf --scheme q8_0 --device cpu",
        "convert i.gguf -o o.gguf",
        "dequantize i.gguf -o o.gguf --device cpu",
        "compare i.gguf i.gguf --device cpu",
    ] {
        run(&folder, line).fails(1, &["'b.weight'", "IQ2_XXS", "does not decode"]);
    }
    assert!(!folder.path("o.gguf").exists());
}

#[test]
fn broken_files_are_one_line() {
    let folder = with_plain();
    let whole = read(&folder, "m.gguf");
    folder.write("c.gguf", &whole[..40]);
    folder.write("v.gguf", [&b"GGUF\x09\0\0\0"[..], &whole[8..]].concat());
    for line in [
        "inspect FILE",
        "quantize FILE -o o.gguf --scheme q8_0 --device cpu",
        "dequantize FILE -o o.gguf --device cpu",
        "compare FILE m.gguf --device cpu",
        "convert FILE -o o.safetensors",
    ] {
        run(&folder, &line.replace("FILE", "c.gguf")).fails(1, &["c.gguf", "at byte 8", "tensor count"]);
        run(&folder, &line.replace("FILE", "v.gguf")).fails(1, &["v.gguf", "version at byte 4", "version 9"]);
    }
}

#[test]
fn importance_matrices_are_inspected() {
    let folder = Folder::new();
    let gguf = Gguf::new().text("general.type", "imatrix").u32("imatrix.chunk_count", 3);
    let gguf = gguf.pair("imatrix.datasets", 9, build::array(8, 1, &build::string("wiki.txt")));
    let gguf = gguf.tensor("w.in_sum2", &[4], 0, &build::f32s(&[1.0, 2.0, 3.0, 4.0]));
    folder.write("i.gguf", gguf.tensor("w.counts", &[1], 0, &build::f32s(&[2.0])).bytes());
    let list = run(&folder, "inspect i.gguf --json").json();
    assert_eq!((&list["format"], &list["chunk_count"]), (&json!("imatrix"), &json!(3)));
    assert_eq!(list["weights"], json!([{"name": "w", "matrices": 1, "k": 4, "min": 0.5, "max": 2.0}]));
    let text = run(&folder, "inspect i.gguf").stdout;
    assert!(text.contains("wiki.txt") && text.contains("1 weight"), "{text}");
    let older =
        [&1i32.to_le_bytes()[..], &[1, 0, 0, 0, b'w', 2, 0, 0, 0, 1, 0, 0, 0], &build::f32s(&[3.0])].concat();
    folder.write("i.dat", older);
    assert_eq!(run(&folder, "inspect i.dat --json").json()["weights"][0]["max"], 1.5);
    folder.write("i.dat", [1, 0]);
    run(&folder, "inspect i.dat").fails(1, &["i.dat", "entry count at byte 0"]);
}
