//! `lowbit bench`: every option once on the CPU engine, what it writes, two results beside each other, bad command lines.

use crate::harness::*;
use serde_json::{Value, json};

const SMALL: [&str; 9] =
    ["bench", "--device", "cpu", "--quick", "--scheme", "q4_0", "--scheme", "int4-g32", "--shape"];

fn read(folder: &Folder, name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(folder.path(name)).unwrap()).unwrap()
}

/// Tags close in the order in which they open, attributes are quoted, nothing is left unescaped.
fn check_xml(text: &str) {
    let mut open = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('<') {
        let (before, tail) = rest.split_at(at);
        assert!(!before.contains('>'), "{before}");
        for entity in before.split('&').skip(1) {
            let name = entity.split(';').next().unwrap_or_default();
            assert!(
                ["amp", "lt", "gt", "quot", "apos"].contains(&name) || name.starts_with('#'),
                "&{entity}"
            );
        }
        let (tag, tail) = tail[1..].split_once('>').expect("a tag that ends");
        assert!(tag.matches('"').count() % 2 == 0 && !tag.contains('<'), "<{tag}>");
        match tag.strip_prefix('/') {
            Some(name) => assert_eq!(open.pop(), Some(name.trim()), "<{tag}>"),
            None if tag.ends_with('/') || tag.starts_with(['?', '!']) => {}
            None => open.push(tag.split_whitespace().next().unwrap_or_default()),
        }
        rest = tail;
    }
    assert!(open.is_empty() && rest.trim().is_empty(), "{open:?} {rest}");
}

/// What every result has to carry.
fn check_file(file: &Value, cases: usize) {
    assert_eq!((&file["format"], &file["version"]), (&json!("lowbit bench"), &json!(1)));
    assert_eq!(file["lowbit"], env!("CARGO_PKG_VERSION"));
    assert!(file["commit"].as_str().is_none_or(|commit| commit.len() >= 12), "{}", file["commit"]);
    for key in ["name", "backend", "driver", "tier"] {
        assert!(file["device"][key].is_string(), "{key}");
    }
    let ceilings = file["ceilings"].as_array().unwrap();
    assert_eq!(ceilings.len(), 12);
    for c in ceilings {
        let rate = c["rate"].as_f64();
        assert!(rate.is_some_and(|rate| rate > 0.0) != c["absent"].is_string(), "{c}");
        assert!(rate.is_none() || c["quartiles"][0].as_f64() <= rate && c["clock"].is_string(), "{c}");
    }
    let all = file["cases"].as_array().unwrap();
    assert_eq!((all.len(), &file["left_out"], &file["failures"]), (cases, &json!([]), &json!([])), "{all:?}");
    for c in all {
        for key in ["operation", "scheme", "kernel", "tile", "ceiling", "clock", "regime"] {
            assert!(c[key].as_str().is_some_and(|text| !text.is_empty()), "{key}: {c}");
        }
        for key in ["n", "k", "bytes", "samples", "verified", "copies"] {
            assert!(c[key].as_u64().is_some_and(|n| n > 0), "{key}: {c}");
        }
        let [low, median, high] = [&c["quartiles_s"][0], &c["median_s"], &c["quartiles_s"][1]];
        let [low, median, high] = [low, median, high].map(|v| v.as_f64().unwrap());
        assert!(0.0 < low && low <= median && median <= high, "{c}");
        assert!(c["percent"].as_f64().unwrap() > 0.0 && c["worst_error"].as_f64().unwrap() <= 1.0, "{c}");
        let flops = 2 * c["m"].as_u64().unwrap_or(0) * c["n"].as_u64().unwrap() * c["k"].as_u64().unwrap();
        assert_eq!(c["flops"], flops);
    }
}

#[test]
fn results_are_a_table_json_and_svg_and_two_of_them_compare() {
    let folder = Folder::new();
    let args =
        [&SMALL[..], &["1x64x96", "--shape", "17x70x64", "--json", "a.json", "--svg", "a.svg"]].concat();
    let ran = folder.run(&args);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    for words in [
        "CPU (cpu;",
        "f32 FMA",
        "absent: not measured",
        "matvec",
        "1x64x96",
        "17x70x64",
        "host",
        "compared with the reference",
    ] {
        assert!(ran.stdout.contains(words), "{words}: {}", ran.stdout);
    }
    // Two schemes; each shape is one product, one quantize, one dequantize; all small enough for caches.
    let file = read(&folder, "a.json");
    check_file(&file, 12);
    let cases = file["cases"].as_array().unwrap();
    let count = |operation: &str| cases.iter().filter(|c| c["operation"] == operation).count();
    assert_eq!(["matvec", "matmul", "quantize", "dequantize"].map(count), [2, 2, 4, 4]);
    assert!(cases.iter().all(|c| c["regime"] == "cache" && c["clock"] == "host"));
    let svg = std::fs::read_to_string(folder.path("a.svg")).unwrap();
    check_xml(&svg);
    for name in ["read, DRAM", "f32 FMA", "matvec q4_0 1x64x96 cache", "dequantize int4-g32 70x64 cache"] {
        assert!(svg.contains(name), "{name}");
    }

    // Files that are there stay, and nothing is measured in vain.
    folder.run(&args).fails(1, &["a.json exists", "--force"]);

    let mut changed = file.clone();
    let case = &mut changed["cases"][0];
    for value in ["/median_s", "/quartiles_s/0", "/quartiles_s/1"] {
        let time = case.pointer_mut(value).unwrap();
        *time = json!(time.as_f64().unwrap() * 1000.0);
    }
    folder.write("b.json", changed.to_string());
    let text = folder.run(&["bench", "--diff", "a.json", "b.json"]);
    assert!(text.code == Some(0) && text.stdout.contains("SLOWER"), "{}{}", text.stdout, text.stderr);
    assert!(text.stdout.contains("12 cases: 0 faster, 1 slower, 11 within the spread"), "{}", text.stdout);
    let list = folder.run(&["bench", "--diff", "b.json", "a.json", "--json", "-"]).json();
    assert_eq!(
        (&list["cases"][0]["verdict"], &list["cases"][1]["verdict"]),
        (&json!("faster"), &json!("same"))
    );
    assert!((list["cases"][0]["speed"].as_f64().unwrap() / 1000.0 - 1.0).abs() < 1e-9);

    changed["device"]["name"] = json!("another");
    folder.write("b.json", changed.to_string());
    folder.run(&["bench", "--diff", "a.json", "b.json"]).fails(2, &["CPU", "another", "--force"]);
    let ran = folder.run(&["bench", "--diff", "a.json", "b.json", "--force", "--json", "d.json"]);
    assert_eq!((ran.code, read(&folder, "d.json")["cases"].as_array().unwrap().len()), (Some(0), 12));
    folder.run(&["bench", "--diff", "a.json", "none.json"]).fails(1, &["none.json"]);
    folder.run(&["bench", "--diff", "a.svg", "b.json"]).fails(1, &["a.svg", "no result of lowbit bench"]);
}

#[test]
fn layers_of_a_model_are_measured_in_memory_and_in_a_cache() {
    let folder = Folder::new();
    let args = [
        "bench",
        "matvec",
        "--device",
        "cpu",
        "--quick",
        "--scheme",
        "q4_0",
        "--model",
        "qwen3-0.6b",
        "--m",
        "1,2",
        "--activation",
        "f16",
        "--json",
        "-",
    ];
    let file = folder.run(&args).json();
    // q; k and v; o; gate and up; down; the head is too large for a cache.
    check_file(&file, 2 * (5 * 2 + 1));
    let cases = file["cases"].as_array().unwrap();
    let head = cases.iter().find(|c| c["label"] == "qwen3-0.6b lm_head").unwrap();
    assert_eq!((&head["n"], &head["k"], &head["regime"]), (&json!(151_936), &json!(1024), &json!("dram")));
    assert!(cases.iter().all(|c| c["activation"] == "f16" && c["operation"] == "matvec"));
    assert!(
        cases.iter().any(|c| c["label"] == "qwen3-0.6b gate,up" && c["m"] == 2 && c["regime"] == "cache")
    );
}

#[test]
fn wrong_arguments_of_bench_are_one_line() {
    let folder = Folder::new();
    folder.write("a.json", "{}");
    for (args, words) in [
        (&["matvac"][..], &["'matvac'", "matvec", "all"][..]),
        (&["--scheme", "q4_9"], &["'q4_9'"]),
        (&["--shape", "4096x4096"], &["'4096x4096'", "MxNxK"]),
        (&["--shape", "1x0x64"], &["1x0x64"]),
        (&["--shape", "1x99999999x99999999"], &["elements"]),
        (&["--shape", "1x64x33", "--scheme", "q4_0"], &["'1x64x33'", "multiple of 32"]),
        (&["--model", "llama-7"], &["'llama-7'", "llama-7b"]),
        (&["--m", "1,0"], &["--m '0'"]),
        (&["--m", "x"], &["--m 'x'"]),
        (&["--m", "2", "--shape", "1x64x64"], &["--m"]),
        (&["matvec", "--m", "17"], &["no case is left"]),
        (&["kv", "--scheme", "q4_0"], &["kv has caches of its own"]),
        (&["matvec", "--method", "mse"], &["--method", "quantize"]),
        (&["quantize", "--method", "gptq"], &["'gptq'", "percentile"]),
        (&["quantize", "--method", "mse", "--scheme", "q4_k"], &["method mse for q4_k", "two levels"]),
        (&["quantize", "--method", "default,hqq"], &["--method hqq", "takes", "--scheme"]),
        (&["--activation", "int7"], &["'int7'", "int8-g32"]),
        (&["--json", "x", "--svg", "x"], &["one file"]),
        (&["--diff", "a.json", "a.json", "--quick"], &["--diff"]),
        (&["--m", "1000000000", "--model", "llama-7b"], &["elements"]),
    ] {
        folder.run(&[&["bench", "--device", "cpu"], args].concat()).fails(2, words);
    }
    folder.run(&["bench", "--diff", "a.json", "a.json"]).fails(1, &["a.json", "no result of lowbit bench"]);
    folder.run(&["bench", "--svg", "no/such/folder.svg"]).fails(1, &["no/such"]);
    assert_eq!(folder.names(), ["a.json"]);
}

#[test]
fn methods_of_quantize_are_cases_of_their_own() {
    let folder = Folder::new();
    let args = [
        "bench",
        "quantize",
        "--device",
        "cpu",
        "--quick",
        "--shape",
        "1x64x96",
        "--scheme",
        "int4-g32-asym",
        "--method",
        "default,mse,percentile:99",
        "--method",
        "hqq",
        "--json",
        "a.json",
        "--svg",
        "a.svg",
    ];
    let ran = folder.run(&args);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let file = read(&folder, "a.json");
    check_file(&file, 4);
    let methods: Vec<_> = file["cases"].as_array().unwrap().iter().map(|c| c["method"].clone()).collect();
    assert_eq!(methods, ["default", "mse", "percentile:99", "hqq"]);
    let svg = std::fs::read_to_string(folder.path("a.svg")).unwrap();
    for name in ["int4-g32-asym by mse", "int4-g32-asym by percentile:99", "int4-g32-asym by hqq"] {
        assert!(ran.stdout.contains(name), "{name}: {}", ran.stdout);
        assert!(svg.contains(&format!("quantize {name} 64x96 cache")), "{name}");
    }
    // A method that runs in one file only is not compared with another one's times; files from before methods were measured are.
    let mut old = file.clone();
    old["cases"].as_array_mut().unwrap().truncate(1);
    old["cases"][0].as_object_mut().unwrap().remove("method");
    folder.write("old.json", old.to_string());
    let list = folder.run(&["bench", "--diff", "old.json", "a.json", "--json", "-"]).json();
    assert_eq!(list["cases"].as_array().unwrap().len(), 1);
    assert_eq!(list["cases"][0]["what"], "quantize int4-g32-asym 64x96 cache");
    assert_eq!(list["only_b"].as_array().unwrap().len(), 3, "{}", list["only_b"]);
    folder.run(&["bench", "--diff", "a.json", "a.json", "--method", "mse"]).fails(2, &["--diff"]);
}

#[test]
fn caches_of_keys_and_values_are_verified_and_timed() {
    let folder = Folder::new();
    let ran =
        folder.run(&["bench", "kv", "--device", "cpu", "--quick", "--json", "a.json", "--svg", "a.svg"]);
    assert_eq!(ran.code, Some(0), "{}{}", ran.stdout, ran.stderr);
    let file = read(&folder, "a.json");
    assert_eq!((&file["left_out"], &file["failures"]), (&json!([]), &json!([])));
    let cases = file["cases"].as_array().unwrap();
    let count = |operation: &str| cases.iter().filter(|c| c["operation"] == operation).count();
    // Three sides; as many heads of q and four times as many, in memory and in a cache.
    assert_eq!((cases.len(), count("kv_append"), count("kv_attention")), (15, 3, 12));
    for c in cases {
        assert!(c["median_s"].as_f64().unwrap() > 0.0 && c["percent"].as_f64().unwrap() > 0.0, "{c}");
        assert!(c["verified"].as_u64().unwrap() > 0 && c["worst_error"].as_f64().unwrap() <= 1.0, "{c}");
    }
    let bytes = |side: &str| {
        let of = |c: &&Value| c["scheme"] == side && c["operation"] == "kv_attention" && c["m"] == 8;
        cases.iter().find(of).unwrap()["bytes"].as_f64().unwrap()
    };
    assert!((bytes("int8") / bytes("f16") - 9.0 / 16.0).abs() < 0.01);
    assert!((bytes("int4") / bytes("f16") - 4.625 / 16.0).abs() < 0.01);
    for line in ["kv_attention int8 32x1024x1024 dram: ", "kv_append int4 1024x1024 cache: "] {
        let at = ran.stdout.find(line).unwrap_or_else(|| panic!("{line}: {}", ran.stdout));
        assert!(ran.stdout[at..].lines().next().unwrap().ends_with("of the time of f16"), "{}", ran.stdout);
    }
    // Files with caches compare as others do.
    let list = folder.run(&["bench", "--diff", "a.json", "a.json", "--json", "-"]).json();
    assert_eq!(list["cases"].as_array().unwrap().len(), 15);
}

/// A GPU's kernels and timestamps, on the software adapter that CI has.
#[test]
fn an_adapter_is_timed_by_its_own_clock() {
    let folder = Folder::new();
    let args = [
        "bench",
        "--device",
        "vulkan:llvmpipe",
        "--quick",
        "--scheme",
        "q4_0",
        "--shape",
        "1x64x64",
        "--method",
        "default,mse",
        "--json",
        "-",
    ];
    let ran = folder.run(&args);
    if ran.stderr.contains("no adapter") {
        assert!(!crate::common::under_ci(), "CI needs lavapipe: {}", ran.stderr);
        return eprintln!("NOT COVERED: no lavapipe here, lowbit bench ran on the CPU only");
    }
    let file = ran.json();
    check_file(&file, 4);
    for of in ["ceilings", "cases"] {
        let all = file[of].as_array().unwrap();
        assert!(all.iter().all(|c| c["absent"].is_string() || c["clock"] == "gpu"), "{all:?}");
    }
    let has = |limit: &str| {
        file["ceilings"].as_array().unwrap().iter().any(|c| c["limit"] == limit && c["rate"].is_f64())
    };
    assert!(has("f32") && has("f16") && has("int_dot"), "{}", file["ceilings"]);
    let kernels: Vec<_> =
        file["cases"].as_array().unwrap().iter().map(|c| c["kernel"].as_str().unwrap()).collect();
    assert_eq!(
        kernels,
        ["direct", "quantize_scales, quantize_codes", "quantize_range, quantize_codes", "dequantize"]
    );
}
