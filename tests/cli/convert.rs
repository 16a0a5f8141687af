//! `lowbit convert` over long runs: shards, interruptions, memory, values that show late, what goes along with a checkpoint.
//!
//! ```text
//! a packed model -> lowbit convert, killed here and there -> the same command with --resume -> the bytes of a run that nobody killed
//! ```
//!
//! That the bits are the same in each format is asked in `gguf` and `checkpoints`.

use super::harness::*;
#[cfg(target_os = "linux")]
use super::resume::peak;
#[cfg(unix)]
use super::resume::{bytes, killed, survives_kills};
use super::resume::{run, with_layers};
use lowbit::file::{Model, Plan, Writer, write};
use lowbit::scheme::PlaneKind;
use lowbit::{DType, PackedTensor, Scheme};
use serde_json::{Value, json};
use std::path::Path;

/// What a model holds, in the order of names.
fn contents(path: &Path) -> Vec<(String, String, Vec<u8>)> {
    let model = Model::open(path).unwrap_or_else(|e| panic!("{e}"));
    let data = |e: &lowbit::file::Entry| match model.packed(e) {
        Ok(packed) => packed.data().to_vec(),
        Err(_) => model.raw(e).to_vec(),
    };
    let mut all: Vec<_> =
        model.entries().iter().map(|e| (e.name.clone(), e.scheme_name(), data(e))).collect();
    all.sort();
    all
}

fn done(folder: &Folder, line: &str) -> Ran {
    let ran = run(folder, line);
    assert_eq!(ran.code, Some(0), "{line}: {}", ran.stderr);
    ran
}

/// The files of a folder's folder.
fn inside(folder: &Folder, name: &str) -> Vec<String> {
    let list = std::fs::read_dir(folder.path(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    let mut names: Vec<String> =
        list.map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn shards_are_written_in_every_form() {
    let folder = with_layers(6, 64);
    done(&folder, "quantize m.safetensors -o q.safetensors --scheme q4_0 --device cpu");
    for (to, index) in [("gguf", None), ("safetensors", Some("s.safetensors.index.json"))] {
        // A weight has 36864 bytes, a norm 4096.
        let line = format!("convert q.safetensors -o s.{to} --shard-size 85kB --json");
        let names: Vec<String> = (1..=3).map(|n| format!("s-0000{n}-of-00003.{to}")).collect();
        assert_eq!(run(&folder, &line).json()["files"], json!(names));
        let first = index.map_or(names[1].clone(), str::to_string);
        assert_eq!(contents(&folder.path(&first)), contents(&folder.path("q.safetensors")), "{to}");
        run(&folder, &line).fails(1, &[&names[0], "exists", "--force"]);
        done(&folder, &format!("convert {first} -o whole.{to}"));
        assert_eq!(contents(&folder.path(&format!("whole.{to}"))), contents(&folder.path("q.safetensors")));
    }
    for target in ["gptq", "awq", "ct", "mlx"] {
        done(&folder, &format!("convert q.safetensors -o one --to {target}"));
        let line = format!("convert q.safetensors -o {target} --to {target} --shard-size 85kB --json");
        let summary = run(&folder, &line).json();
        let count = summary["files"].as_array().unwrap().len();
        assert!(count > 2, "{summary}");
        let mut names: Vec<String> =
            (1..=count).map(|n| format!("model-{n:05}-of-{count:05}.safetensors")).collect();
        assert_eq!(summary["files"], json!(names));
        names.insert(0, "config.json".into());
        names.push("model.safetensors.index.json".into());
        assert_eq!(inside(&folder, target), names);
        assert_eq!(contents(&folder.path(target)), contents(&folder.path("one")), "{target}");
        let config = |name: &str| std::fs::read(folder.path(name).join("config.json")).unwrap();
        assert_eq!(config(target), config("one"));
        // A file beside the shards would be read instead of them, or they instead of it.
        run(&folder, &format!("convert q.safetensors -o {target} --to {target} --force"))
            .fails(2, &["model-00001-of-", "in the way"]);
        std::fs::remove_dir_all(folder.path("one")).unwrap();
    }
}

#[cfg(unix)]
#[test]
fn a_killed_run_goes_on_to_the_same_bytes() {
    let folder = with_layers(24, 1024);
    for (scheme, to) in [("q4_k", "gguf"), ("q4_0", "safetensors")] {
        done(&folder, &format!("quantize m.safetensors -o {scheme}.{to} --scheme {scheme} --device cpu"));
    }
    let mut state = 11u64;
    for (options, outputs) in [
        ("q4_k.gguf -o q.safetensors", &["q.safetensors"][..]),
        ("q4_0.safetensors -o q.gguf", &["q.gguf"]),
        ("q4_0.safetensors -o s.gguf --shard-size 9MB", &["s-00001-of-00002.gguf", "s-00002-of-00002.gguf"]),
        (
            "q4_k.gguf -o s.safetensors --shard-size 9MB",
            &["s-00001-of-00002.safetensors", "s-00002-of-00002.safetensors", "s.safetensors.index.json"],
        ),
        ("q4_0.safetensors -o f --to gptq", &["f/model.safetensors", "f/config.json"]),
        (
            "q4_0.safetensors -o f --to mlx --shard-size 9MB",
            &["f/model-00001-of-00002.safetensors", "f/model-00002-of-00002.safetensors", "f/config.json"],
        ),
    ] {
        survives_kills(&folder, &format!("convert {options}"), outputs, &mut state);
    }
}

#[cfg(unix)]
#[test]
fn other_inputs_do_not_go_on() {
    let folder = with_layers(16, 1024);
    done(&folder, "quantize m.safetensors -o q.safetensors --scheme q4_0 --device cpu");
    let line = "convert q.safetensors -o f --resume";
    assert!(killed(&folder, &format!("{line} --to gptq"), 2 << 20));
    let before = inside(&folder, "f");
    run(&folder, &format!("{line} --to awq")).fails(1, &["--to was 'gptq' and is 'awq'"]);
    run(&folder, &format!("{line} --to gptq --shard-size 1MB")).fails(1, &["--shard-size was not there"]);
    folder.write("q.safetensors", bytes(&folder, "q.safetensors"));
    run(&folder, &format!("{line} --to gptq")).fails(1, &["input q.safetensors was", "changed"]);
    assert_eq!(inside(&folder, "f"), before);
    done(&folder, "convert q.safetensors -o f --to gptq --force");
    assert_eq!(inside(&folder, "f"), ["config.json", "model.safetensors"]);
}

/// The last of several tensors has a value that the output has no room for: the first are written by then.
#[test]
fn what_is_found_late_leaves_nothing_and_names_a_command() {
    let folder = Folder::new();
    let made = |name: &str, scheme: &str, plane: PlaneKind, byte: u8| {
        let scheme: Scheme = scheme.parse().unwrap();
        let mut plan = Plan::default();
        let mut tensors = Vec::new();
        for i in 0..3 {
            plan.packed(format!("layers.{i}.weight"), scheme, [32, 256], DType::F16).unwrap();
            let mut w = PackedTensor::zeroed(scheme, [32, 256]).unwrap();
            w.plane_mut(PlaneKind::Zeros).fill(3);
            tensors.push(w);
        }
        tensors[2].plane_mut(plane)[5] = byte;
        let format = write::Format::named("lowbit").unwrap();
        let mut writer = Writer::new(Vec::new(), name, format, plan).unwrap();
        tensors.iter().for_each(|w| writer.packed(w).unwrap());
        folder.write(name, writer.finish().unwrap());
    };
    made("k.safetensors", "q4_k", PlaneKind::Scales, 64);
    made("i.safetensors", "int4-g32-asym", PlaneKind::Zeros, 16);
    let before = folder.names();
    for more in ["", " --shard-size 5kB"] {
        run(&folder, &format!("convert k.safetensors -o k.gguf{more}")).fails(
            1,
            &["'layers.2.weight'", "byte 64", "quantize plain.safetensors -o k.gguf --scheme q4_k`"],
        );
        run(&folder, &format!("convert i.safetensors -o g --to gptq{more}")).fails(
            1,
            &["'layers.2.weight'", "zero-point 16", "--scheme int4-g32-asym && ", "-o g --to gptq`"],
        );
        assert_eq!(folder.names(), before, "{more}");
    }
    // A folder that was there stays, with what was in it.
    std::fs::create_dir(folder.path("g")).unwrap();
    folder.write("g/notes.txt", "mine");
    run(&folder, "convert i.safetensors -o g --to gptq").fails(1, &["layers.2"]);
    assert_eq!(inside(&folder, "g"), ["notes.txt"]);
}

#[test]
fn small_files_go_along_with_a_checkpoint() {
    const SMALL: [&str; 9] = [
        "added_tokens.json",
        "chat_template.jinja",
        "generation_config.json",
        "merges.txt",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
        "vocab.json",
    ];
    let folder = with_layers(2, 32);
    done(&folder, "quantize m.safetensors -o q.safetensors --scheme int4-g32 --device cpu");
    done(&folder, "convert q.safetensors -o g --to gptq");
    SMALL.iter().for_each(|name| drop(folder.write(&format!("g/{name}"), format!("{{\"{name}\": 1}}"))));
    for other in ["README.md", "optimizer.bin", "model.gguf"] {
        folder.write(&format!("g/{other}"), "not this");
    }
    let summary = run(&folder, "convert g/ -o a --to awq --json").json();
    assert_eq!(summary["copied"], json!(SMALL));
    let mut names: Vec<&str> = SMALL.iter().copied().chain(["config.json", "model.safetensors"]).collect();
    names.sort_unstable();
    assert_eq!(inside(&folder, "a"), names);
    for name in SMALL {
        let read = |of: &str| std::fs::read(folder.path(of).join(name)).unwrap();
        assert_eq!(read("a"), read("g"), "{name}");
    }
    let config: Value =
        serde_json::from_slice(&std::fs::read(folder.path("a/config.json")).unwrap()).unwrap();
    assert_eq!(config["quantization_config"]["quant_method"], "awq");
    // Those of others stay, unless they may be overwritten.
    std::fs::create_dir(folder.path("b")).unwrap();
    folder.write("b/tokenizer.json", "mine");
    run(&folder, "convert g -o b --to mlx").fails(1, &["b/tokenizer.json", "exists"]);
    assert_eq!(inside(&folder, "b"), ["tokenizer.json"]);
    assert_eq!(std::fs::read(folder.path("b/tokenizer.json")).unwrap(), b"mine");
    let text = done(&folder, "convert g -o b --to mlx --force").stdout;
    assert!(text.contains("copied from g: added_tokens.json, chat_template.jinja"), "{text}");
    assert_ne!(std::fs::read(folder.path("b/tokenizer.json")).unwrap(), b"mine");
    // From a file there is nothing to copy.
    assert_eq!(run(&folder, "convert q.safetensors -o c --to gptq --json").json()["copied"], json!([]));
}

/// A model of `n` packed tensors of zeros that takes no room on disk, and the bytes of each.
#[cfg(target_os = "linux")]
fn sparse_packed(path: &Path, scheme: &str, n: usize, shape: [usize; 2]) -> u64 {
    let mut plan = Plan::default();
    for i in 0..n {
        plan.packed(format!("layers.{i}.weight"), scheme.parse().unwrap(), shape, DType::F16).unwrap();
    }
    let format = write::Format::named("lowbit").unwrap();
    let each = format.data_bytes(&plan.items()[0]).unwrap();
    let file = std::fs::File::create(path).unwrap();
    let writer = Writer::new(file, path, format, plan).unwrap();
    writer.out().set_len(writer.written() + n as u64 * each).unwrap();
    each
}

#[cfg(target_os = "linux")]
#[test]
fn memory_does_not_grow_with_the_model() {
    let folder = Folder::new();
    let count = 40;
    let tensor = sparse_packed(&folder.path("m.safetensors"), "q4_0", count, [4096, 8192]);
    let limit = 3 * tensor + 200_000_000;
    // More than the limit, or the test could not fail.
    assert!(count as u64 * tensor > 2 * limit);
    for options in ["-o q.gguf", "-o q.safetensors --shard-size 100MB", "-o g --to gptq", "-o a --to awq"] {
        let most = peak(&folder, &format!("convert m.safetensors {options}"));
        println!("{options}: {} MB of {} MB", most / 1_000_000, limit / 1_000_000);
        assert!(most > 10_000_000 && most < limit, "{options}: {most} of {limit}");
    }
}
