//! The command line as a user meets it: the binary is run on small files made here, and on a real model if there is one.
//!
//! ```text
//! bytes of safetensors (made here) -> lowbit ... -> exit code, stdout, stderr, files
//! ```
//!
//! Every run is checked for the traces of a panic. `LOWBIT_TEST_MODEL` names the real model (`scripts/test.sh` sets it); without it
//! that test says so, and fails under `CI`.

mod bad_files;
mod bench;
#[path = "../common/binary.rs"]
mod binary;
#[path = "../files/build.rs"]
mod build;
mod calibrated;
mod checkpoints;
#[path = "../common/mod.rs"]
mod common;
mod convert;
mod demo;
mod gguf;
mod harness;
mod mixes;
mod models;
mod onnx;
mod outputs;
mod plan;
mod real_model;
mod report;
mod resume;
mod train_digits;
mod tune;

use harness::*;
use serde_json::{Value, json};

#[test]
fn help_shows_an_example_for_every_command() {
    let folder = Folder::new();
    let help = folder.run(&["--help"]);
    assert_eq!(help.code, Some(0));
    let commands: Vec<&str> = help
        .stdout
        .lines()
        .skip_while(|l| *l != "Commands:")
        .skip(1)
        .take_while(|l| !l.is_empty())
        .filter(|l| l.starts_with("  ") && !l.starts_with("   "))
        .filter_map(|l| l.split_whitespace().next())
        .collect();
    for command in [
        "demo",
        "devices",
        "quantize",
        "dequantize",
        "inspect",
        "compare",
        "convert",
        "embed",
        "search",
        "eval",
        "calibrate",
        "plan",
        "report",
        "shaders",
        "selftest",
        "bench",
        "schemes",
    ] {
        assert!(commands.contains(&command), "{commands:?}");
    }
    for command in commands.into_iter().filter(|c| *c != "help") {
        let help = folder.run(&[command, "--help"]);
        assert_eq!(help.code, Some(0), "{command}");
        assert!(help.stdout.contains("Example"), "{command}: {}", help.stdout);
        assert!(help.stdout.contains(&format!("lowbit {command}")), "{command}");
    }
    assert_eq!(folder.run(&["--version"]).stdout.trim(), format!("lowbit {}", env!("CARGO_PKG_VERSION")));
}

#[test]
fn wrong_usage_exits_with_2() {
    let folder = with_model();
    assert_eq!(folder.run(&["nonsense"]).code, Some(2));
    assert_eq!(folder.run(&["quantize", "m.safetensors"]).code, Some(2));
    assert_eq!(quantize(&folder, &["--scheme", "q4_0", "--nonfinite", "maybe"]).code, Some(2));
    quantize(&folder, &["--scheme", "q4_9"]).fails(2, &["'q4_9'", "did you mean 'q4_"]);
    quantize(&folder, &["--scheme", "int4-g32-asm"]).fails(2, &["did you mean 'int4-g32-asym'"]);
    quantize(&folder, &["--scheme", "int9-g32"]).fails(2, &["int9-g32", "bits"]);
    quantize(&folder, &["--scheme", "q4_0", "--include", "("]).fails(2, &["--include"]);
    folder.run(&["devices", "--model-size", "big"]).fails(2, &["--model-size 'big'"]);
    folder.run(&["shaders", "--dump", "d", "--kernel", "nothing"]).fails(2, &["'nothing'", "matvec"]);
    folder.run(&["shaders", "--dump", "d", "--tier", "f8"]).fails(2, &["'f8'", "f16+subgroups32"]);
    folder.run(&["selftest", "--kernel", "nothing"]).fails(2, &["'nothing'"]);
    assert_eq!(folder.names(), ["m.safetensors"]);
}

#[test]
fn a_device_that_is_not_there_is_an_error() {
    let folder = with_model();
    let args =
        ["quantize", "m.safetensors", "-o", "q.safetensors", "--scheme", "q4_0", "--device", "no such thing"];
    folder.run(&args).fails(1, &["no adapter", "'no such thing'", "found:"]);
    folder.run(&["selftest", "--device", " "]).fails(2, &["cannot be empty"]);
    assert_eq!(folder.names(), ["m.safetensors"]);
}

#[test]
fn names_cannot_steer_the_terminal() {
    let folder = Folder::new();
    folder.write("esc.safetensors", file(&[("\u{1b}]0;title\u{7}", "F32", &[1], f32s(&[1.0]))], Value::Null));
    let ran = folder.run(&["inspect", "esc.safetensors"]);
    assert!(ran.code == Some(0) && ran.stdout.contains("\\u{1b}]0;title\\u{7}"), "{}", ran.stdout);
    let args = ["quantize", "esc.safetensors", "-o", "q", "--scheme", "q4_0", "--device", "cpu"];
    folder.run(&args).fails(1, &["\\u{1b}]0;title"]);
    assert!(!folder.run(&args).stderr.contains('\u{1b}'));
}

#[test]
fn devices_and_schemes_are_listed() {
    let folder = Folder::new();
    let all = folder.run(&["devices", "--json", "--model-size", "1B", "--scheme", "q8_0"]).json();
    assert!(all["cpu"]["threads"].as_u64().unwrap() >= 1);
    assert_eq!(all["model"]["needs"][0]["bytes"], json!(8_500_000_000u64 / 8));
    for adapter in all["adapters"].as_array().unwrap() {
        assert_eq!(adapter["tiers"][0], "f32");
        assert!(adapter["limits"]["max_buffer_size"].as_u64().unwrap() > 0);
        assert!(adapter["driver"].is_string() && adapter["capabilities"]["f16"].is_boolean());
    }
    assert!(folder.run(&["devices"]).stdout.contains("A model of 7B weights needs"));
    let schemes = folder.run(&["schemes", "--json"]).json();
    assert!(
        schemes.as_array().unwrap().iter().any(|s| s["scheme"] == "q4_k" && s["bits_per_weight"] == 4.625)
    );
    assert!(folder.run(&["schemes"]).stdout.contains("int4-g32"));
}

#[test]
fn shaders_are_dumped() {
    let folder = Folder::new();
    let args = ["shaders", "--dump", "w", "--scheme", "q4_k", "--scheme", "f16", "--json"];
    let files = folder.run(&args).json();
    let files = files.as_array().unwrap();
    assert!(files.iter().any(|f| f["kernel"] == "matvec" && f["scheme"] == "q4_k"));
    assert!(files.iter().any(|f| f["kernel"] == "convert" && f["scheme"] == "f16"));
    for f in files {
        let text = std::fs::read_to_string(folder.path(f["file"].as_str().unwrap())).unwrap();
        let text = text.trim_start_matches(|c| c != '\n');
        let parsed = naga::front::wgsl::parse_str(text);
        assert!(parsed.is_ok(), "{f}: {}", parsed.unwrap_err().emit_to_string(text));
    }
    // Of one tier all that its devices run, what it shares with lower ones under its own name.
    let args = ["shaders", "--dump", "t", "--scheme", "q4_k", "--tier", "f16", "--json"];
    let of_tier = folder.run(&args).json();
    let names: Vec<&str> = of_tier.as_array().unwrap().iter().map(|f| f["file"].as_str().unwrap()).collect();
    assert!(names.contains(&"t/matvec/q4_k.f16.0.wgsl"), "{names:?}");
    assert!(names.iter().all(|name| name.contains(".f16.")), "{names:?}");
}

#[test]
fn selftest_checks_a_device() {
    let folder = Folder::new();
    let report = folder
        .run(&["selftest", "--device", "cpu", "--scheme", "q4_0", "--scheme", "int4-g32", "--json"])
        .json();
    assert!(report["checks"].as_u64().unwrap() > 10, "{report}");
    assert_eq!(report["failures"], json!([]));
    let text = folder.run(&["selftest", "--device", "cpu", "--scheme", "q4_0"]);
    assert!(text.code == Some(0) && text.stdout.contains("all passed"), "{}{}", text.stdout, text.stderr);
}
