//! `lowbit plan`: what it says of a model is what `quantize` and `compare` find when they do it.
//!
//! ```text
//! layers of different kinds, made here -> lowbit plan -> scheme file -> lowbit quantize -> lowbit compare -> the planned sizes and errors
//! ```
//!
//! That plans are the best there are is tested beside `quantize::plan`.

use super::harness::*;
use serde_json::{Value, json};

/// Layers of several sizes, one with outliers, one that only some schemes fit, and things that stay as they are.
fn layers() -> Folder {
    let folder = Folder::new();
    let mut spiked = numbers(8 * 256, 2);
    spiked.iter_mut().step_by(97).for_each(|v| *v *= 12.0);
    let bytes = file(
        &[
            ("a.w", "F32", &[16, 256], f32s(&numbers(16 * 256, 1))),
            ("b.w", "F16", &[8, 256], f16s(&spiked)),
            ("c's.w", "F32", &[4, 2, 128], f32s(&numbers(8 * 128, 3))),
            ("odd.w", "F32", &[5, 33], f32s(&numbers(5 * 33, 4))),
            ("norm", "F32", &[256], f32s(&numbers(256, 5))),
            ("ids", "I64", &[2, 2], vec![7; 32]),
        ],
        Value::Null,
    );
    folder.write("m.safetensors", bytes);
    folder
}

fn plan(folder: &Folder, more: &[&str]) -> Ran {
    folder.run(&[&["plan", "m.safetensors", "--device", "cpu"], more].concat())
}

const SCHEMES: &str = "int2-g32:mse,int4-g128,int4-g32:mse,int8-row";

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

fn bytes_of(folder: &Folder, file: &str) -> u64 {
    folder.run(&["inspect", file, "--json"]).json()["total"]["bytes"].as_u64().unwrap()
}

#[test]
fn what_is_planned_is_what_quantize_makes() {
    let folder = layers();
    for (to, output, schemes, budget) in [
        ("lowbit", "q.safetensors", SCHEMES, "4.3"),
        ("lowbit", "q.safetensors", SCHEMES, "2.9"),
        ("gguf", "q.gguf", "q2_k,q4_k,q4_0,q6_k,q8_0", "5"),
        ("onnx", "q.onnx", "int2-g32:mse,int4-g32,int8-g32", "6"),
    ] {
        let args =
            ["--to", to, "--schemes", schemes, "--budget", budget, "-o", "p.toml", "--force", "--json"];
        let told = plan(&folder, &args).json();
        let args = [
            "quantize",
            "m.safetensors",
            "-o",
            output,
            "--scheme-file",
            "p.toml",
            "--device",
            "cpu",
            "--json",
            "--force",
        ];
        let made = folder.run(&args).json();
        let compared = folder.run(&["compare", "m.safetensors", output, "--device", "cpu", "--json"]).json();
        let (mut bytes, mut errors) = (0, 0.0);
        for layer in told["layers"].as_array().unwrap() {
            let name = layer["name"].as_str().unwrap();
            let quantized = entry(&made["quantized"], name);
            let scheme = match quantized.get("method") {
                Some(method) => {
                    format!("{}:{}", quantized["scheme"].as_str().unwrap(), method.as_str().unwrap())
                }
                None => quantized["scheme"].as_str().unwrap().into(),
            };
            assert_eq!((&json!(scheme), &quantized["bytes"]), (&layer["scheme"], &layer["bytes"]), "{name}");
            bytes += quantized["bytes"].as_u64().unwrap();
            let error = 10f64.powf(-number(&entry(&compared["tensors"], name)["sqnr_db"]) / 10.0);
            assert!(
                (error / number(&layer["error"]) - 1.0).abs() < 1e-6,
                "{name}: {error} {}",
                layer["error"]
            );
            errors += error;
        }
        let plan = &told["plan"];
        assert_eq!(plan["bytes"], json!(bytes), "{to}");
        assert!((number(&plan["error"]) / errors - 1.0).abs() < 1e-6, "{to}");
        assert!(number(&plan["bits_per_weight"]) <= budget.parse().unwrap() && plan["exact"] == true);
        assert_eq!(bytes_of(&folder, output), bytes + told["copied"]["bytes"].as_u64().unwrap(), "{to}");
        // No uniform scheme that fits the budget is better, and more bytes never cost more error.
        for uniform in told["uniform"].as_array().unwrap() {
            let fits = uniform["bytes"].as_u64().unwrap() <= told["budget"]["bytes"].as_u64().unwrap();
            assert!(!fits || number(&uniform["error"]) >= number(&plan["error"]), "{to}: {uniform}");
        }
        let curve = told["curve"].as_array().unwrap();
        assert!(curve.len() > 3, "{curve:?}");
        let points: Vec<(f64, f64)> =
            curve.iter().map(|p| (number(&p["bytes"]), number(&p["error"]))).collect();
        assert!(points.windows(2).all(|w| w[0].0 < w[1].0 && w[0].1 > w[1].1), "{points:?}");
    }
}

#[test]
fn a_budget_in_bytes_is_that_of_the_whole_file() {
    let folder = layers();
    let copied = 256 * 4 + 32;
    let args = ["--schemes", SCHEMES, "--bytes", "6000", "--json", "-o", "p.toml"];
    let told = plan(&folder, &args).json();
    assert_eq!((&told["copied"]["bytes"], &told["copied"]["tensors"]), (&json!(copied), &json!(2)));
    let bytes = told["plan"]["bytes"].as_u64().unwrap();
    assert!(bytes + copied <= 6000 && bytes + copied > 5500, "{bytes}");
    let args =
        ["quantize", "m.safetensors", "-o", "q.safetensors", "--scheme-file", "p.toml", "--device", "cpu"];
    assert_eq!(folder.run(&args).code, Some(0));
    assert_eq!(bytes_of(&folder, "q.safetensors"), bytes + copied);
}

#[test]
fn budgets_below_the_smallest_name_it() {
    let folder = layers();
    let ran = plan(&folder, &["--schemes", SCHEMES, "--budget", "2", "-o", "p.toml"]);
    ran.fails(2, &["--budget 2", "the smallest", "bits per weight"]);
    let word = ran.stderr.split("allow is ").nth(1).unwrap().split(' ').next().unwrap().to_string();
    let least = plan(&folder, &["--schemes", SCHEMES, "--budget", &word, "--json"]).json();
    let schemes: Vec<&str> =
        least["layers"].as_array().unwrap().iter().map(|l| l["scheme"].as_str().unwrap()).collect();
    // Rows of 33 are two groups of 32 or one with a scale of f32.
    assert_eq!(schemes, ["int2-g32:mse"; 4]);
    let ran = plan(&folder, &["--schemes", SCHEMES, "--bytes", "3000"]);
    ran.fails(2, &["--bytes 3000", "the smallest"]);
    let word = ran.stderr.split("allow is ").nth(1).unwrap().trim().to_string();
    let exactly = plan(&folder, &["--schemes", SCHEMES, "--bytes", &word, "--json"]).json();
    assert_eq!(exactly["plan"]["bytes"], least["plan"]["bytes"]);
    let below = (word.parse::<u64>().unwrap() - 1).to_string();
    plan(&folder, &["--schemes", SCHEMES, "--bytes", &below]).fails(2, &[&word]);
    assert_eq!(folder.names(), ["m.safetensors"]);
}

#[test]
fn pins_hold_and_contradictions_are_errors() {
    let folder = layers();
    let pinned = [
        "--budget",
        "6.5",
        "--schemes",
        SCHEMES,
        "--pin",
        "^a=int8-row",
        "--pin",
        r"^a\.=int8-row",
        "--json",
    ];
    let told = plan(&folder, &pinned).json();
    assert_eq!(entry(&told["layers"], "a.w")["scheme"], "int8-row");
    assert_eq!(entry(&told["layers"], "a.w")["schemes"].as_array().unwrap().len(), 1);
    let both = ["--budget", "5", "--pin", "a=int8-row", "--pin", r"\.w=int4-g32"];
    plan(&folder, &both).fails(2, &["'a=int8-row'", r"'\.w=int4-g32'", "contradict", "'a.w'"]);
    for (args, words) in [
        (&["--pin", "zz=int8-row"][..], "--pin 'zz=int8-row' matches no layer"),
        (&["--pin", "norm=int8-row"], "--pin 'norm=int8-row' matches no layer"),
        (&["--exclude", "zz"], "--exclude 'zz' matches no tensor"),
    ] {
        let ran = plan(&folder, &[&["--budget", "8.5", "--schemes", SCHEMES], args].concat());
        assert!(ran.code == Some(0) && ran.stderr.contains(words), "{}", ran.stderr);
    }
    for (args, words) in [
        (&["--pin", "a"][..], "RE=SCHEME"),
        (&["--pin", "(=int8-row"], "--pin '(=int8-row'"),
        (&["--pin", "odd=q4_0"], "multiple of 32"),
        (&["--schemes", "int4-g32,q4_k_m"], "'q4_k_m' is a mix"),
        (&["--schemes", "int4-g32:hqq"], "hqq"),
        (&["--schemes", "copy"], "'copy' is no scheme"),
        (&["--include", "norm"], "no layer to plan"),
        (&["--calibration", "m.safetensors"], "no statistics"),
    ] {
        let ran = plan(&folder, &[&["--budget", "8.5"], args].concat());
        assert!(ran.code != Some(0) && ran.stderr.contains(words), "{args:?}: {}", ran.stderr);
    }
    plan(&folder, &["--budget", "nan"]).fails(2, &["above 0"]);
    assert_eq!(plan(&folder, &[]).code, Some(2));
}

#[test]
fn layers_that_nothing_fits_are_named_and_outputs_kept() {
    let folder = layers();
    let args = ["--budget", "6", "--schemes", "q4_0,q8_0", "-o", "p.toml", "--svg", "p.svg"];
    let ran = plan(&folder, &args);
    assert!(ran.code == Some(0) && ran.stderr.contains("left as it is: tensor 'odd.w'"), "{}", ran.stderr);
    assert!(ran.stdout.contains("all q4_0") && ran.stdout.contains("this plan"), "{}", ran.stdout);
    let text = std::fs::read_to_string(folder.path("p.toml")).unwrap();
    assert!(text.contains("\"^c's\\\\.w$\" = \"q") && !text.contains("odd"), "{text}");
    let svg = std::fs::read_to_string(folder.path("p.svg")).unwrap();
    assert!(svg.contains("<polyline") && svg.contains("the plan") && svg.contains("q8_0"));
    let again = plan(&folder, &args);
    assert!(again.code == Some(1) && again.stderr.contains("p.toml exists"), "{}", again.stderr);
    plan(&folder, &["--budget", "6", "-o", "m.safetensors", "--force"]).fails(2, &["is the input"]);
    // Beyond what f16 scales hold, and those of int2-row and int8-row, which are f32, do.
    let mut large = vec![1.0f32; 64];
    large[3] = 3e6;
    folder.write("large.safetensors", file(&[("a.w", "F32", &[2, 32], f32s(&large))], Value::Null));
    let args = [
        "plan",
        "large.safetensors",
        "--budget",
        "20",
        "--schemes",
        "int4-g32,int8-row",
        "--json",
        "--device",
        "cpu",
    ];
    let told = folder.run(&args).json();
    assert_eq!(entry(&told["layers"], "a.w")["scheme"], "int8-row");
    assert_eq!(entry(&told["layers"], "a.w")["schemes"].as_array().unwrap().len(), 1);
    let nan = file(&[("a.w", "F32", &[2, 32], f32s(&[f32::NAN; 64]))], Value::Null);
    folder.write("nan.safetensors", nan);
    folder.run(&["plan", "nan.safetensors", "--budget", "5", "--device", "cpu"]).fails(1, &["'a.w'", "NaN"]);
}
