//! Models in and out: quantize, dequantize, compare; shards, experts, policies.

use crate::harness::*;
use serde_json::{Value, json};

#[test]
fn quantize_packs_what_fits_and_copies_the_rest() {
    let folder = with_model();
    let ran = quantize(&folder, &["--scheme", "q4_k", "--json"]);
    let summary = ran.json();
    let names = |list: &Value| -> Vec<String> {
        list.as_array().unwrap().iter().map(|t| t["name"].as_str().unwrap().to_string()).collect()
    };
    assert_eq!(names(&summary["quantized"]), ["experts.w", "layers.2.w", "layers.10.w"]);
    assert_eq!(entry(&summary["quantized"], "experts.w")["shape"], json!([3, 2, 256]));
    assert_eq!(summary["bits_per_weight"], json!(4.625));
    for (name, reason) in [
        ("odd.w", "K = 33"),
        ("empty.w", "size 0"),
        ("thin.w", "size 0"),
        ("norm.b", "two dimensions"),
        ("scalar", "two dimensions"),
        ("ids", "not f32"),
    ] {
        let given = entry(&summary["copied"], name)["reason"].as_str().unwrap();
        assert!(given.contains(reason), "{name}: {given}");
    }
    // What does not fit is also told on stderr, by name, with scheme, K and block.
    assert!(ran.stderr.contains("'odd.w' [5, 33]: scheme q4_k needs K to be a multiple of 256, got K = 33"));
    let size = std::fs::metadata(folder.path("q.safetensors")).unwrap().len();
    assert_eq!(summary["bytes_after"], json!(size));
    assert_eq!(folder.names(), ["m.safetensors", "q.safetensors"]);

    // The file: an ordinary safetensors file with the user's metadata, the rest copied bit for bit.
    let bytes = std::fs::read(folder.path("q.safetensors")).unwrap();
    let plain = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(plain.tensor("ids").unwrap().data(), [7; 32]);
    assert_eq!(plain.tensor("odd.w").unwrap().data(), f32s(&numbers(5 * 33, 4)));
    assert!(plain.tensor("layers.2.w.codes").is_ok() && plain.tensor("layers.2.w").is_err());
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let metadata = header.metadata().as_ref().unwrap();
    assert_eq!((metadata["author"].as_str(), metadata["lowbit.version"].as_str()), ("a test", "1"));
    let described: Value = serde_json::from_str(&metadata["lowbit.tensors"]).unwrap();
    assert_eq!(described["experts.w"], json!({"scheme": "q4_k", "shape": [3, 2, 256], "dtype": "BF16"}));

    let list = folder.run(&["inspect", "q.safetensors", "--json"]).json();
    assert_eq!(entry(&list["tensors"], "layers.10.w")["scheme"], "q4_k");
    assert_eq!(entry(&list["tensors"], "layers.10.w")["bits_per_weight"], 4.625);
    assert_eq!(entry(&list["tensors"], "layers.10.w")["shape"], json!([4, 256]));
    assert_eq!((list["total"]["tensors"].as_u64(), list["total"]["packed"].as_u64()), (Some(9), Some(3)));
    assert_eq!(list["metadata"], json!({"format": "pt", "author": "a test"}));
    let table = folder.run(&["inspect", "q.safetensors"]).stdout;
    let at = |name: &str| table.find(name).unwrap_or_else(|| panic!("no {name}: {table}"));
    assert!(at("layers.2.w") < at("layers.10.w") && table.contains("9 tensors (3 packed)"));
}

#[test]
fn names_select_and_strict_refuses() {
    let folder = with_model();
    let more = ["--scheme", "int4-g32", "--include", "layers|odd", "--exclude", r"\.10\.", "--json"];
    let summary = quantize(&folder, &more).json();
    let quantized: Vec<&str> =
        summary["quantized"].as_array().unwrap().iter().map(|t| t["name"].as_str().unwrap()).collect();
    assert_eq!(quantized, ["layers.2.w", "odd.w"]);
    assert_eq!(entry(&summary["copied"], "layers.10.w")["reason"], "not selected by --include and --exclude");
    std::fs::remove_file(folder.path("q.safetensors")).unwrap();

    quantize(&folder, &["--scheme", "q4_0", "--strict"]).fails(1, &["'empty.w'", "size 0"]);
    let strict = ["--scheme", "q4_0", "--strict", "--include", "odd"];
    quantize(&folder, &strict).fails(1, &["'odd.w'", "q4_0", "multiple of 32", "K = 33"]);
    quantize(&folder, &["--scheme", "q4_0", "--include", "odd"])
        .fails(1, &["no tensor to quantize", "K = 33"]);
    quantize(&folder, &["--scheme", "q4_0", "--include", "thin"])
        .fails(1, &["no tensor to quantize", "size 0"]);
    quantize(&folder, &["--scheme", "q4_0", "--include", "zzz"])
        .fails(1, &["no tensor to quantize", "not selected by --include"]);
    assert_eq!(folder.names(), ["m.safetensors"]);
}

#[test]
fn the_same_input_gives_the_same_bytes() {
    let folder = with_model();
    assert_eq!(quantize(&folder, &["--scheme", "nf4-g64"]).code, Some(0));
    let first = std::fs::read(folder.path("q.safetensors")).unwrap();
    assert_eq!(quantize(&folder, &["--scheme", "nf4-g64", "--force"]).code, Some(0));
    assert_eq!(std::fs::read(folder.path("q.safetensors")).unwrap(), first);
}

#[test]
fn a_packed_file_is_extended_and_comes_back() {
    let folder = with_model();
    assert_eq!(quantize(&folder, &["--scheme", "q8_0", "--include", "layers"]).code, Some(0));
    let again = [
        "quantize",
        "q.safetensors",
        "-o",
        "r.safetensors",
        "--scheme",
        "int8-row",
        "--device",
        "cpu",
        "--json",
    ];
    let summary = folder.run(&again).json();
    assert_eq!(entry(&summary["copied"], "layers.2.w")["reason"], "already packed");
    let once_more =
        ["quantize", "r.safetensors", "-o", "s.safetensors", "--scheme", "q8_0", "--include", "layers"];
    folder.run(&once_more).fails(1, &["no tensor to quantize", "already packed"]);
    let list = folder.run(&["inspect", "r.safetensors", "--json"]).json();
    assert_eq!(entry(&list["tensors"], "layers.2.w")["scheme"], "q8_0");
    assert_eq!(entry(&list["tensors"], "odd.w")["scheme"], "int8-row");

    // Back to the types they had; what was only copied is the same bytes as at first.
    let back = ["dequantize", "r.safetensors", "-o", "d.safetensors", "--device", "cpu", "--json"];
    assert_eq!(folder.run(&back).json()["dequantized"], 4);
    let bytes = std::fs::read(folder.path("d.safetensors")).unwrap();
    let plain = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    for (name, dtype, shape) in [
        ("layers.2.w", "F32", &[6, 512][..]),
        ("layers.10.w", "F16", &[4, 256]),
        ("experts.w", "BF16", &[3, 2, 256]),
        ("ids", "I64", &[2, 2]),
    ] {
        let view = plain.tensor(name).unwrap();
        assert_eq!((view.dtype().to_string().as_str(), view.shape()), (dtype, shape), "{name}");
    }
    assert_eq!(plain.tensor("norm.b").unwrap().data(), f32s(&numbers(256, 5)));
    let compared =
        folder.run(&["compare", "m.safetensors", "d.safetensors", "--device", "cpu", "--json"]).json();
    let packed =
        folder.run(&["compare", "m.safetensors", "r.safetensors", "--device", "cpu", "--json"]).json();
    // f32 weights come back as the packed file has them; half precision rounds once more.
    let (plain, packed) =
        (entry(&compared["tensors"], "layers.2.w"), entry(&packed["tensors"], "layers.2.w"));
    assert_eq!(plain["sqnr_db"], packed["sqnr_db"]);
    assert_eq!((plain["scheme"].as_str(), packed["scheme"].as_str()), (Some("f32"), Some("q8_0")));

    for dtype in ["f32", "f16", "bf16"] {
        let args = [
            "dequantize",
            "r.safetensors",
            "-o",
            "t.safetensors",
            "--dtype",
            dtype,
            "--device",
            "cpu",
            "--force",
        ];
        assert_eq!(folder.run(&args).code, Some(0));
        let list = folder.run(&["inspect", "t.safetensors", "--json"]).json();
        assert_eq!(entry(&list["tensors"], "experts.w")["scheme"], dtype);
    }
    folder.run(&["dequantize", "m.safetensors", "-o", "x.safetensors"]).fails(1, &["no packed tensor"]);
}

#[test]
fn compare_measures() {
    let folder = Folder::new();
    folder.write(
        "a",
        file(&[("w", "F32", &[1, 4], f32s(&[3.0, -4.0, 0.0, 0.0])), ("i", "I8", &[1], vec![1])], Value::Null),
    );
    folder.write(
        "b",
        file(&[("w", "F32", &[1, 4], f32s(&[3.0, -4.5, 0.5, 0.0])), ("i", "I8", &[1], vec![2])], Value::Null),
    );
    let compare = |a: &str, b: &str| folder.run(&["compare", a, b, "--device", "cpu", "--json"]);
    let result = compare("a", "b").json();
    let w = &result["tensors"][0];
    let keys: Vec<&String> = w.as_object().unwrap().keys().collect();
    let wanted = [
        "name",
        "scheme",
        "sqnr_db",
        "cosine",
        "max_abs_error",
        "mean_abs_error",
        "exact",
        "bits_per_weight",
        "bytes",
        "size_ratio",
    ];
    assert_eq!(keys, wanted);
    assert!((w["sqnr_db"].as_f64().unwrap() - 10.0 * 50f64.log10()).abs() < 1e-12);
    assert_eq!((w["max_abs_error"].as_f64(), w["mean_abs_error"].as_f64()), (Some(0.5), Some(0.25)));
    assert!((w["cosine"].as_f64().unwrap() - 27.0 / (25.0f64 * 29.5).sqrt()).abs() < 1e-12);
    assert_eq!((w["bits_per_weight"].as_f64(), w["bytes"].as_u64()), (Some(32.0), Some(16)));
    assert_eq!(result["different"], json!(["i"]));
    assert_eq!(result["total"]["sqnr_db"], w["sqnr_db"]);

    // The same file has no error, and says so in words.
    let same = compare("a", "a").json();
    assert_eq!((&same["total"]["sqnr_db"], &same["total"]["exact"]), (&Value::Null, &json!(true)));
    assert!(folder.run(&["compare", "a", "a", "--device", "cpu"]).stdout.contains("exact"));

    folder.write("nan", file(&[("w", "F32", &[1, 4], f32s(&[3.0, f32::NAN, 0.0, 0.0]))], Value::Null));
    let nan = compare("a", "nan").json();
    assert_eq!((&nan["total"]["sqnr_db"], &nan["total"]["exact"]), (&Value::Null, &json!(false)));
    assert_eq!(compare("a", "nan").json()["only_in_a"], json!(["i"]));
    folder.write("shape", file(&[("w", "F32", &[4], f32s(&[3.0; 4]))], Value::Null));
    compare("a", "shape").fails(1, &["'w'", "expected 1x4", "got 4"]);
    folder.write("other", file(&[("v", "F32", &[4], f32s(&[3.0; 4]))], Value::Null));
    compare("a", "other").fails(1, &["no float tensor"]);
}

#[test]
fn shards_are_one_model() {
    let folder = Folder::new();
    std::fs::create_dir(folder.path("model")).unwrap();
    let part = |name: &'static str, seed| {
        file(&[(name, "F32", &[4, 64], f32s(&numbers(256, seed)))], json!({"format": "pt"}))
    };
    folder.write("model/model-00001-of-00002.safetensors", part("a.w", 1));
    folder.write("model/model-00002-of-00002.safetensors", part("b.w", 2));
    let index = |map: Value| json!({"metadata": {"total_size": 2048}, "weight_map": map}).to_string();
    let name = "model/model.safetensors.index.json";
    let good = json!({"a.w": "model-00001-of-00002.safetensors", "b.w": "model-00002-of-00002.safetensors"});
    folder.write(name, index(good));
    for input in ["model", name] {
        let args = [
            "quantize",
            input,
            "-o",
            "q.safetensors",
            "--scheme",
            "q8_0",
            "--device",
            "cpu",
            "--force",
            "--json",
        ];
        assert_eq!(folder.run(&args).json()["quantized"].as_array().unwrap().len(), 2);
    }
    let compared = folder.run(&["compare", "model", "q.safetensors", "--device", "cpu", "--json"]).json();
    assert!(compared["total"]["sqnr_db"].as_f64().unwrap() > 40.0);
    folder
        .run(&["quantize", "model", "-o", name, "--scheme", "q8_0", "--device", "cpu", "--force"])
        .fails(2, &["is the input"]);

    for (map, word) in [
        (
            json!({"a.w": "model-00001-of-00002.safetensors", "c.w": "model-00002-of-00002.safetensors"}),
            "'c.w'",
        ),
        (json!({"a.w": "missing.safetensors"}), "missing.safetensors"),
        (json!({"a.w": "../q.safetensors"}), "not a plain file name"),
        (json!({"a.w": "/etc/passwd"}), "not a plain file name"),
        (json!({"a.w": ".."}), "not a plain file name"),
        (json!({"a.w": ""}), "not a plain file name"),
        (json!({}), "empty"),
        (json!([1]), "index"),
    ] {
        folder.write(name, index(map));
        folder.run(&["inspect", "model"]).fails(1, &[word]);
    }
    std::fs::remove_file(folder.path(name)).unwrap();
    folder.run(&["inspect", "model"]).fails(1, &["several safetensors files"]);
    std::fs::create_dir(folder.path("void")).unwrap();
    folder.run(&["inspect", "void"]).fails(1, &["void", "no .safetensors file"]);
}

#[test]
fn non_finite_weights_follow_the_policy() {
    let folder = Folder::new();
    let with = |at: usize, value: f32| {
        let mut values = numbers(256, 9);
        values[at] = value;
        f32s(&values)
    };
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let tensors: [Raw<'_>; 2] =
            [("good.w", "F32", &[4, 64], with(0, 0.0)), ("bad.w", "F32", &[4, 64], with(77, value))];
        folder.write("m.safetensors", file(&tensors, Value::Null));
        for scheme in ["q4_0", "int4-g32", "int8-row", "nf4-g64", "f16"] {
            let name = value.to_string();
            quantize(&folder, &["--scheme", scheme]).fails(1, &["'bad.w'", "index 77", &name, scheme]);
            assert_eq!(folder.names(), ["m.safetensors"]);

            let copy = quantize(&folder, &["--scheme", scheme, "--nonfinite", "copy", "--json"]);
            assert!(entry(&copy.json()["copied"], "bad.w")["reason"].as_str().unwrap().contains("index 77"));
            assert_eq!(copy.json()["quantized"].as_array().unwrap().len(), 1);
            assert!(copy.stderr.contains("'bad.w'"));

            let zero = quantize(&folder, &["--scheme", scheme, "--nonfinite", "zero", "--json", "--force"]);
            assert_eq!(zero.json()["quantized"].as_array().unwrap().len(), 2);
            assert!(zero.stderr.contains("1 NaN or infinite weight replaced by 0"), "{}", zero.stderr);
            std::fs::remove_file(folder.path("q.safetensors")).unwrap();
        }
    }
    // Finite, but no f16 scale reaches it.
    folder.write("m.safetensors", file(&[("big.w", "F32", &[4, 64], with(3, 1e9))], Value::Null));
    for policy in ["error", "zero"] {
        quantize(&folder, &["--scheme", "q4_0", "--nonfinite", policy]).fails(1, &["'big.w'", "index 3"]);
    }
    assert_eq!(folder.names(), ["m.safetensors"]);
}

#[test]
fn dequantizing_makes_no_infinities() {
    let folder = Folder::new();
    let mut values = vec![0.0; 64];
    values[0] = 65504.0;
    folder.write("m.safetensors", file(&[("w", "F16", &[1, 64], f16s(&values))], Value::Null));
    folder
        .run(&["quantize", "m.safetensors", "-o", "q", "--scheme", "int4-g32", "--device", "cpu", "--json"])
        .json();
    let ran = folder.run(&["dequantize", "q", "-o", "back", "--device", "cpu"]);
    ran.fails(1, &["'w'", "index 0", "f16", "--dtype f32"]);
    assert_eq!(folder.names(), ["m.safetensors", "q"]);
    folder.run(&["dequantize", "q", "-o", "back", "--dtype", "f32", "--device", "cpu", "--json"]).json();
}
