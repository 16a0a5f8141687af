//! `lowbit quantize` with `--calibration`: files of inputs of every kind, what is told of them, and what is refused.

use super::*;

const K: usize = 256;

/// Two layers of the same shape and an embedding.
fn with_layers() -> Folder {
    let folder = Folder::new();
    let weight = |seed| f32s(&numbers(64 * K, seed));
    let tensors: &[Raw] = &[
        ("a.self_attn.v_proj.weight", "F32", &[K, K], f32s(&numbers(K * K, 1))),
        ("a.self_attn.v_proj.bias", "F16", &[K], f16s(&numbers(K, 2))),
        ("a.self_attn.o_proj.weight", "F32", &[64, K], weight(3)),
        ("other.weight", "F32", &[64, K], weight(4)),
    ];
    folder.write("m.safetensors", file(tensors, Value::Null));
    folder
}

/// Inputs whose columns go with their neighbours, a few of them large.
fn inputs(rows: usize) -> Vec<f32> {
    let mut x = numbers(rows * K, 9);
    (1..x.len()).for_each(|i| x[i] += 0.9 * x[i - 1]);
    x.iter_mut().enumerate().filter(|(i, _)| i % K % 50 == 3).for_each(|(_, v)| *v *= 30.0);
    x
}

/// X^T X.
fn moments(x: &[f32]) -> Vec<f32> {
    let mut h = vec![0.0; K * K];
    for row in x.chunks(K) {
        for (h, a) in h.chunks_mut(K).zip(row) {
            h.iter_mut().zip(row).for_each(|(h, b)| *h += a * b);
        }
    }
    h
}

fn inputs_file(folder: &Folder, name: &str, x: &[f32]) {
    let tensors: &[Raw] = &[
        ("a.self_attn.o_proj.inputs", "F32", &[x.len() / K, K], f32s(x)),
        ("a.self_attn.v_proj.weight.inputs", "F16", &[x.len() / K, K], f16s(x)),
    ];
    folder.write(name, file(tensors, Value::Null));
}

fn weight(folder: &Folder, file: &str, name: &str) -> Vec<f32> {
    let out = format!("{file}.plain.safetensors");
    assert_eq!(folder.run(&["dequantize", file, "-o", &out, "--force"]).code, Some(0));
    let bytes = std::fs::read(folder.path(&out)).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let view = tensors.tensor(name).unwrap();
    match view.dtype() {
        safetensors::Dtype::F32 => {
            view.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
        }
        _ => view.data().as_chunks::<2>().0.iter().map(|b| half::f16::from_le_bytes(*b).to_f32()).collect(),
    }
}

/// The squared errors of the outputs x w^T.
fn output_error(x: &[f32], w: &[f32], q: &[f32]) -> f64 {
    let errors: Vec<f32> = w.iter().zip(q).map(|(w, q)| w - q).collect();
    let dot = |x: &[f32], e: &[f32]| x.iter().zip(e).map(|(x, e)| f64::from(x * e)).sum::<f64>();
    x.chunks(K).map(|x| errors.chunks(K).map(|e| dot(x, e).powi(2)).sum::<f64>()).sum()
}

#[test]
fn every_kind_of_file_serves() {
    let folder = with_layers();
    let x = inputs(400);
    inputs_file(&folder, "inputs.safetensors", &x);
    let h = f32s(&moments(&x));
    let of_layer: &[Raw] = &[("a.self_attn.o_proj.weight.moments", "F32", &[K, K], h)];
    folder.write("moments.safetensors", file(of_layer, Value::Null));
    let name = "a.self_attn.o_proj.weight";
    let w = numbers(64 * K, 3);
    let nearest = quantize(&folder, &["--scheme", "int4-g128"]);
    assert_eq!(nearest.code, Some(0), "{}", nearest.stderr);
    let plain = output_error(&x, &w, &weight(&folder, "q.safetensors", name));
    for (file, known) in [("inputs.safetensors", 2), ("moments.safetensors", 1)] {
        for order in ["natural", "activity", "groups"] {
            let args = [
                "--scheme",
                "int4-g128",
                "--method",
                "gptq",
                "--order",
                order,
                "--force",
                "--calibration",
                file,
            ];
            let ran = quantize(&folder, &args);
            assert_eq!(ran.code, Some(0), "{}", ran.stderr);
            let told = format!("inputs of {file}: known of {known} tensor");
            assert!(ran.stdout.contains(&told) && ran.stdout.contains("by gptq"), "{}", ran.stdout);
            let got = output_error(&x, &w, &weight(&folder, "q.safetensors", name));
            assert!(got < 0.5 * plain, "{file}, {order}: {got}, rounded to nearest {plain}");
        }
    }
    // What is not known is as it was.
    let other = weight(&folder, "q.safetensors", "other.weight");
    assert_eq!(quantize(&folder, &["--scheme", "int4-g128", "--force"]).code, Some(0));
    assert_eq!(weight(&folder, "q.safetensors", "other.weight"), other);
    let args = ["--scheme", "int4-g128", "--method", "gptq:mse", "--force", "--json", "--calibration"];
    let json = quantize(&folder, &[&args[..], &["moments.safetensors"]].concat()).json();
    assert_eq!(entry(&json["quantized"], name)["method"], "gptq:mse");
    assert_eq!(entry(&json["quantized"], name)["calibrated"], true);
    assert_eq!(entry(&json["quantized"], "other.weight")["calibrated"], false);
    // A rule of a scheme file.
    folder.write("mix.toml", "default = \"int4-g128\"\n[tensors]\n'o_proj' = \"int4-g64:gptq\"\n");
    let args = ["--scheme-file", "mix.toml", "--force", "--json", "--calibration", "moments.safetensors"];
    let json = quantize(&folder, &args).json();
    assert_eq!(entry(&json["quantized"], name)["method"], "gptq");
    assert_eq!(entry(&json["quantized"], "other.weight").get("method"), None);
}

/// AWQ divides rows and bias of the layer before by what it multiplies columns with: with scales in a chain the product stays.
#[test]
fn awq_scales_what_the_layer_before_takes_back() {
    let folder = with_layers();
    let x = inputs(400);
    inputs_file(&folder, "inputs.safetensors", &x);
    let (value, bias, output) =
        ("a.self_attn.v_proj.weight", "a.self_attn.v_proj.bias", "a.self_attn.o_proj.weight");
    let args = ["--scheme", "int8-row", "--method", "awq", "--json", "--calibration", "inputs.safetensors"];
    let json = quantize(&folder, &args).json();
    let alpha = entry(&json["quantized"], output)["alpha"].as_f64().unwrap();
    assert!(alpha > 0.0 && entry(&json["quantized"], value).get("alpha").is_none(), "{json}");
    let [v, b, o] = [value, bias, output].map(|name| weight(&folder, "q.safetensors", name));
    let (v0, b0, o0) = (numbers(K * K, 1), numbers(K, 2), numbers(64 * K, 3));
    // What columns were multiplied by, seen in each column of the second layer, each row of the first, and the bias.
    let norm = |it: &mut dyn Iterator<Item = f32>| it.map(|v| f64::from(v).powi(2)).sum::<f64>().sqrt();
    let mut scales = Vec::new();
    for c in 0..K {
        let column = |w: &[f32]| norm(&mut w.iter().skip(c).step_by(K).copied());
        let row = |w: &[f32]| norm(&mut w[c * K..][..K].iter().copied());
        let (by, back) = (column(&o) / column(&o0), row(&v) / row(&v0));
        assert!((by * back - 1.0).abs() < 0.02, "column {c}: {by}, {back}");
        assert!((f64::from(b[c] / b0[c]) * by - 1.0).abs() < 0.02 || b0[c].abs() < 0.01, "bias {c}");
        scales.push(by);
    }
    let most = scales.iter().fold(0f64, |m, v| m.max(*v));
    assert!(scales.iter().any(|s| *s < 0.8 * most), "{scales:?}");
    // Nothing is scaled where the layer before stays as it is.
    let args = ["--include", "o_proj", "--force"];
    let args = [
        &["--scheme", "int4-g128", "--method", "awq", "--json"],
        &args[..],
        &["--calibration", "inputs.safetensors"],
    ];
    let json = quantize(&folder, &args.concat()).json();
    assert!(entry(&json["quantized"], output).get("alpha").is_none(), "{json}");
    assert_eq!(
        weight(&folder, "q.safetensors", bias),
        numbers(K, 2).iter().map(|v| half::f16::from_f32(*v).to_f32()).collect::<Vec<_>>()
    );
    let nearest = ["--scheme", "int4-g128", "--force", "--include", "o_proj"];
    let w = weight(&folder, "q.safetensors", output);
    assert_eq!(quantize(&folder, &nearest).code, Some(0));
    let plain = weight(&folder, "q.safetensors", output);
    assert!(output_error(&x, &o0, &w) < output_error(&x, &o0, &plain), "clipping lowers the error");
}

#[test]
fn an_interrupted_run_goes_on_with_the_same_bytes() {
    let folder = with_layers();
    inputs_file(&folder, "inputs.safetensors", &inputs(300));
    let args = ["--scheme", "int4-g128", "--method", "gptq", "--calibration", "inputs.safetensors"];
    assert_eq!(quantize(&folder, &args).code, Some(0));
    let once = std::fs::read(folder.path("q.safetensors")).unwrap();
    assert_eq!(quantize(&folder, &[&args[..], &["--force", "--resume"]].concat()).code, Some(0));
    assert_eq!(std::fs::read(folder.path("q.safetensors")).unwrap(), once);
}

#[test]
fn what_is_wrong_is_told_with_the_layer() {
    let folder = with_layers();
    let gptq = |file: &str| {
        let args = ["--scheme", "int4-g128", "--method", "gptq", "--calibration", file];
        quantize(&folder, &args)
    };
    quantize(&folder, &["--scheme", "int4-g128", "--method", "gptq"]).fails(2, &["--calibration", "gptq"]);
    let x = inputs(30);
    inputs_file(&folder, "x.safetensors", &x);
    let args = ["--scheme", "int4-g128", "--method", "mse", "--calibration", "x.safetensors"];
    quantize(&folder, &args).fails(2, &["gptq, awq"]);
    let name = "a.self_attn.o_proj.weight";
    let mut crooked = moments(&x);
    crooked[1] += 1e5;
    let mut nan = x.clone();
    nan[5] = f32::NAN;
    for (file_name, tensor, shape, values, words) in [
        ("wide", "inputs", vec![10, 64], numbers(640, 1), vec![name, "K = 64", "256"]),
        ("nan", "inputs", vec![30, K], nan, vec![name, "NaN"]),
        ("none", "inputs", vec![0, K], vec![], vec![name, "empty"]),
        ("crooked", "moments", vec![K, K], crooked, vec![name, "not symmetric"]),
        ("half", "moments", vec![30, K], x.clone(), vec!["a.self_attn.o_proj.weight.moments", "[256, 256]"]),
        ("flat", "inputs", vec![30 * K], x.clone(), vec!["a.self_attn.o_proj.weight.inputs", "[T, K]"]),
        ("unknown", "else", vec![30, K], x.clone(), vec!["unknown", name]),
    ] {
        let tensor = format!("{name}.{tensor}");
        folder.write(file_name, file(&[(&tensor, "F32", &shape, f32s(&values))], Value::Null));
        gptq(file_name).fails(1, &words);
        assert!(!folder.names().contains(&"q.safetensors".to_string()), "{file_name}");
    }
    folder.write("nothing", file(&[], Value::Null));
    gptq("nothing").fails(1, &["nothing", "empty"]);
    gptq("missing.safetensors").fails(1, &["missing.safetensors"]);
    // clap's errors have more than one line.
    for (option, value, word) in [("--order", "sideways", "natural"), ("--damping", "0", "damping")] {
        let args =
            ["--scheme", "int4-g128", "--method", "gptq", "--calibration", "x.safetensors", option, value];
        let ran = quantize(&folder, &args);
        assert!(ran.code == Some(2) && ran.stderr.contains(word), "{option}: {}", ran.stderr);
    }
}
