//! `lowbit tune` and `lowbit devices --explain`: on lavapipe what is timed, remembered, used and forgotten; bad command lines.

use crate::harness::*;
use serde_json::{Value, json};

const ADAPTER: &str = "vulkan:llvmpipe";
const TUNE: [&str; 7] = ["tune", "--device", ADAPTER, "--scheme", "q4_0", "--shape", "20x64x64"];

/// Runs with a cache folder of its own; None where there is no lavapipe.
fn run(folder: &Folder, args: &[&str]) -> Option<Ran> {
    let mut command = folder.command(args);
    let ran = Ran::of(command.env("XDG_CACHE_HOME", folder.path("cache")).output().unwrap());
    if ran.stderr.contains("no adapter") {
        assert!(!crate::common::under_ci(), "CI needs lavapipe: {}", ran.stderr);
        println!("NOT COVERED: no lavapipe here, lowbit tune ran on nothing");
        return None;
    }
    Some(ran)
}

fn explain(folder: &Folder, more: &[&str]) -> Value {
    let args = [&["devices", "--device", ADAPTER, "--json", "--explain"], more].concat();
    run(folder, &args).unwrap().json()[0].clone()
}

#[test]
fn the_winner_is_remembered_used_and_forgotten() {
    let folder = Folder::new();
    let Some(ran) = run(&folder, &[&TUNE[..], &["--quick", "--dry-run", "--json", "-"]].concat()) else {
        return;
    };
    let list = ran.json();
    assert_eq!((&list["remembered"], list["products"].as_array().unwrap().len()), (&json!(false), 1));
    // Mesa has its shaders there.
    assert!(!folder.path("cache/lowbit").exists(), "a dry run writes nothing");

    let ran = run(&folder, &[&TUNE[..], &["--quick", "--json", "t.json"]].concat()).unwrap();
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    for words in ["llvmpipe", "q4_0 20x64x64", "matmul:32x32", "winner", "left out: ", "remembered in"] {
        assert!(ran.stdout.contains(words), "{words}: {}", ran.stdout);
    }
    let list: Value = serde_json::from_slice(&std::fs::read(folder.path("t.json")).unwrap()).unwrap();
    let product = &list["products"][0];
    let variants = product["variants"].as_array().unwrap();
    let timed: Vec<&Value> = variants.iter().filter(|v| v["median_s"].is_f64()).collect();
    assert!(timed.len() >= 2 && timed.iter().all(|v| v["verified"].as_u64() > Some(0)), "{variants:?}");
    assert!(timed.iter().any(|v| v["variant"] == product["winner"]), "{product}");
    assert_eq!(timed[0]["variant"], product["default"], "the default is timed first");
    let gain = product["gain"].as_f64().unwrap();
    assert!(if product["winner"] == product["default"] { gain == 1.0 } else { gain > 1.0 }, "{product}");
    let coop = variants.iter().find(|v| v["variant"] == "coop").unwrap();
    assert!(coop["left_out"].as_str().unwrap().contains("cooperative matrices"), "{coop}");

    // What another process makes of it: the class, and nothing beside.
    let file = list["file"].as_str().unwrap();
    let text = std::fs::read_to_string(file).unwrap();
    assert!(
        file.contains("cache/lowbit/tune/vulkan-llvmpipe") && text.contains("\"lowbit tune\""),
        "{file} {text}"
    );
    for (size, origin) in
        [("20x64x64", "tuned"), ("60x100x96", "tuned"), ("65x64x64", "default"), ("20x128x64", "default")]
    {
        assert_eq!(explain(&folder, &[size, "q4_0"])["origin"], origin, "{size}");
    }
    assert_eq!(explain(&folder, &["20x64x64", "q4_0", "--accumulate", "f16"])["origin"], "default");
    assert_eq!(explain(&folder, &["20x64x64", "q4_1"])["origin"], "default");

    // A winner that no kernel is called, then no file at all: a warning, and the default.
    let said = explain(&folder, &["20x64x64", "q4_0"]);
    let winner = said["variant"].as_str().unwrap();
    std::fs::write(file, text.replace(&format!("\"variant\": \"{winner}\""), "\"variant\": \"matmul:9x9\""))
        .unwrap();
    let said = explain(&folder, &["20x64x64", "q4_0"]);
    assert_eq!((&said["origin"], &said["variant"]), (&json!("default"), &product["default"]));
    assert!(said["warnings"][0].as_str().unwrap().contains("'matmul:9x9'"), "{said}");
    std::fs::write(file, "{").unwrap();
    let ran = run(
        &folder,
        &[
            "bench", "matmul", "--device", ADAPTER, "--quick", "--scheme", "q4_0", "--shape", "20x64x64",
            "--json", "-",
        ],
    );
    let ran = ran.unwrap();
    assert!(ran.stderr.contains("it is ignored") && ran.stderr.lines().count() == 1, "{}", ran.stderr);
    assert_eq!(ran.json()["cases"][0]["kernel"], product["default"]);

    let ran = run(&folder, &["tune", "--forget", "--device", ADAPTER]).unwrap();
    assert!(ran.code == Some(0) && ran.stdout.contains("forgotten"), "{}{}", ran.stdout, ran.stderr);
    assert!(!std::path::Path::new(file).exists());
    let ran = run(&folder, &["tune", "--forget", "--device", ADAPTER]).unwrap();
    assert!(ran.code == Some(0) && ran.stdout.contains("nothing is remembered"), "{}", ran.stdout);
}

/// Where winners cannot be kept, what was measured is still told.
#[test]
fn results_are_not_lost_with_the_folder() {
    let folder = Folder::new();
    std::fs::create_dir(folder.path("cache")).unwrap();
    folder.write("cache/lowbit", "a file");
    let Some(ran) = run(&folder, &[&TUNE[..], &["--quick", "--json", "t.json"]].concat()) else { return };
    // Once as what was not read, once as what cannot be written.
    assert_eq!((ran.code, ran.stderr.matches("cache/lowbit/tune").count()), (Some(1), 2), "{}", ran.stderr);
    assert!(ran.stdout.contains("winner") && ran.stdout.contains("nothing was remembered"), "{}", ran.stdout);
    let list: Value = serde_json::from_slice(&std::fs::read(folder.path("t.json")).unwrap()).unwrap();
    assert_eq!((&list["remembered"], list["products"].as_array().unwrap().len()), (&json!(false), 1));
}

#[test]
fn explain_says_which_kernel_and_why_no_other() {
    let folder = Folder::new();
    let Some(ran) = run(&folder, &["devices", "--device", ADAPTER, "--explain", "20x96x64", "q4_k"]) else {
        return;
    };
    // K that blocks do not divide is the scheme's business.
    ran.fails(2, &["20x96x64", "multiple of 256"]);
    let ran = run(&folder, &["devices", "--device", ADAPTER, "--explain", "20x96x256", "q4_k"]).unwrap();
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    for words in [
        "y [20, 96] = x [20, 256] * w [96, 256]^T, w in q4_k",
        "kernel         direct",
        "default        software pays for loads and barriers",
        "workgroups     ",
        "not matvec             it takes up to 16",
        "not matmul:64x64       it would run too; the table of defaults has direct",
        "not coop               the device has no cooperative matrices",
        "not dot_matmul         it is for int8 activations",
    ] {
        assert!(ran.stdout.contains(words), "{words}: {}", ran.stdout);
    }
    let said = explain(&folder, &["1x96x256", "q4_k", "--activation", "f16", "--accumulate", "f16"]);
    let (direct, default) = (json!("direct"), json!("default"));
    assert_eq!((&said["variant"], &said["origin"], &said["accumulate"]), (&direct, &default, &json!("f32")));
    let others = said["others"].as_array().unwrap();
    assert!(others.iter().all(|other| other["why"].as_str().is_some_and(|why| !why.is_empty())), "{said}");
    let said = explain(&folder, &["1x96x256", "q4_k", "--activation", "int8"]);
    assert_eq!(said["variant"], "dot_matvec");
    let cpu = folder.run(&["devices", "--device", "cpu", "--explain", "1x96x256", "q4_k", "--json"]).json();
    assert_eq!((&cpu[0]["variant"], &cpu[0]["workgroups"]), (&json!("cpu"), &Value::Null));
}

#[test]
fn bench_pins_a_kernel_and_has_sums_in_f16() {
    let folder = Folder::new();
    let args = [
        "bench",
        "matmul",
        "--device",
        ADAPTER,
        "--quick",
        "--scheme",
        "q4_0",
        "--shape",
        "20x96x2048",
        "--json",
        "-",
    ];
    for (more, kernel, accumulate) in [
        (&["--kernel", "matmul:64x64"][..], "matmul:64x64", "f32"),
        (&["--accumulate", "f16"], "direct", "f16"),
        (&["--kernel", "matmul:32x32", "--accumulate", "f16"], "matmul:32x32", "f16"),
        (
            &["--kernel", "matmul:32x32", "--accumulate", "f16-chunked", "--activation", "f16"],
            "matmul:32x32",
            "f16-chunked",
        ),
        (&["--kernel", "dot_matmul:32x64", "--activation", "int8"], "dot_matmul:32x64", "f32"),
    ] {
        let Some(ran) = run(&folder, &[&args[..], more].concat()) else { return };
        let file = ran.json();
        let case = &file["cases"][0];
        assert_eq!((&case["kernel"], &case["accumulate"]), (&json!(kernel), &json!(accumulate)), "{file}");
        assert!(case["verified"].as_u64() > Some(0) && case["ceiling"].is_string(), "{case}");
    }
    // What a kernel does not take is left out, and then nothing is left.
    let ran = run(&folder, &[&args[..], &["--kernel", "matvec"]].concat()).unwrap();
    ran.fails(1, &["nothing could be measured", "it takes up to 16"]);
}

#[test]
fn wrong_arguments_of_tune_and_explain_are_one_line() {
    let folder = Folder::new();
    for (args, words) in [
        (&["tune", "--scheme", "q4_9"][..], &["'q4_9'"][..]),
        (&["tune", "--model", "llama-7"], &["'llama-7'", "llama-7b"]),
        (&["tune", "--shape", "4096x4096"], &["'4096x4096'", "MxNxK"]),
        (&["tune", "--accumulate", "int8"], &["'int8'", "f16-chunked"]),
        (&["tune", "--forget", "--scheme", "q4_0"], &["--forget"]),
        (&["bench", "--kernel", "matmol"], &["'matmol'", "matvec", "coop:small"]),
        (&["bench", "--accumulate", "f15"], &["'f15'", "f16-chunked"]),
        (&["bench", "--kernel", "matvec"], &["--kernel", "GPU"]),
        (&["devices", "--explain", "64x64", "q4_0"], &["--explain '64x64'", "MxNxK"]),
        (&["devices", "--explain", "1x64x64", "q4_9"], &["'q4_9'"]),
        (&["devices", "--accumulate", "f16"], &["--explain"]),
        (&["bench", "--accumulate", "f16", "--activation", "int8"], &["--accumulate f16", "int8"]),
    ] {
        folder.run(&[args, &["--device", "cpu"]].concat()).fails(2, words);
    }
    folder.run(&["tune", "--device", "cpu"]).fails(1, &["CPU engine", "--device"]);
    folder.write("t.json", "");
    folder.run(&["tune", "--device", "cpu", "--json", "t.json"]).fails(1, &["t.json exists"]);
    assert_eq!(folder.names(), ["t.json"]);
}
