//! `lowbit quantize --transform` on a small encoder whose inputs have outliers: that models run by what files carry, what it gains, that weights come back, what is refused.

use super::*;
use crate::binary::{Folder, Ran};
use crate::fixture::bert;
use lowbit::EngineOptions;
use lowbit::calibrate::Statistics;
use lowbit::file::{Activations, Transforms};
use lowbit::gpu::adapter;
use lowbit::product::Activation;
use serde_json::Value;

/// What takes the output of each of the norms.
const TAKERS: [(&str, &[&str]); 3] = [
    ("embeddings", &["0.attention.self.query", "0.attention.self.key", "0.attention.self.value"]),
    ("encoder.layer.0.attention.output", &["0.intermediate.dense"]),
    ("encoder.layer.0.output", &["1.attention.self.query", "1.attention.self.key", "1.attention.self.value"]),
];

/// A folder with the encoder `m`, a text, and statistics of it. Four columns of what norms give are 20 times as large as the others, which the weights behind them take back.
fn folder() -> Folder {
    let folder = Folder::new();
    let mut model = bert();
    for (norm, takers) in TAKERS {
        let mut times = |name: String, by: f32| {
            let (_, values) = model.tensors.get_mut(&name).unwrap();
            values.iter_mut().skip(5).step_by(16).for_each(|v| *v *= by);
        };
        times(format!("{norm}.LayerNorm.weight"), 20.0);
        takers.iter().for_each(|name| times(format!("encoder.layer.{name}.weight"), 1.0 / 20.0));
    }
    model.write(&folder.path("m"));
    folder.write("t.txt", "the low\nlowbit the\nthe lowbit lowbits\nlow low the\nbits\nlows the lowbit\n");
    let ran = run(&folder, "calibrate m --text t.txt -o stats.safetensors");
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    folder
}

fn run(folder: &Folder, line: &str) -> Ran {
    let words: Vec<&str> = line.split_whitespace().chain(["--device", "cpu"]).collect();
    folder.run(&words)
}

fn quantized(folder: &Folder, output: &str, more: &str) -> Ran {
    let ran = run(folder, &format!("quantize m -o {output} --exclude pooler|embeddings --force {more}"));
    assert_eq!(ran.code, Some(0), "{more}: {}", ran.stderr);
    ran
}

/// 1 - the mean cosine with the embeddings of `m`.
fn lost(folder: &Folder, model: &str, more: &str) -> f64 {
    let found = run(folder, &format!("eval {model} m --text t.txt --runs 0 --json{more}")).json();
    1.0 - found["models"][0]["cosine"]["mean"].as_f64().unwrap()
}

#[test]
fn transformed_models_run_and_lose_less() {
    let folder = folder();
    let stats = "--calibration stats.safetensors";
    quantized(&folder, "plain.safetensors", "--scheme int8-row");
    let plain = [" --activation f32", " --activation int8"].map(|by| lost(&folder, "plain.safetensors", by));
    // What rounding x costs on top of rounding the weights.
    let outliers = plain[1] - plain[0];
    assert!(outliers > plain[0], "outliers cost: {plain:?}");
    for (transform, more) in
        [("hadamard", ""), ("hadamard:9", ""), ("smooth", stats), ("smooth:0.5", stats), ("awq", stats)]
    {
        let way = transform.split(':').next().unwrap();
        let ran =
            quantized(&folder, "t.safetensors", &format!("--scheme int8-row --transform {transform} {more}"));
        let line = ran.stdout.lines().find(|line| line.starts_with("inputs transformed: "));
        assert!(line.is_some_and(|line| line.contains(way)), "{}", ran.stdout);
        // In f32 the product stays, but for what int8 weights lose; transformed wrongly it would be another.
        let exact = lost(&folder, "t.safetensors", " --activation f32");
        assert!(exact < 2e-4, "{transform}: {exact} {plain:?}");
        let rounded = lost(&folder, "t.safetensors", " --activation int8");
        assert!(3.0 * (rounded - exact) < outliers, "{transform}: {exact} {rounded} {plain:?}");
        let model = Model::open(folder.path("t.safetensors")).unwrap();
        let all = Transforms::of(&model).unwrap();
        // AWQ may find that nothing is to be gained in a layer.
        let layers = all.iter().count();
        assert!(layers == 12 || (way == "awq" && layers >= 6), "{transform}: {layers}");
        // Layers with one input have one vector; all rotations of one size do.
        let mut tensors: Vec<&str> = all.iter().map(|(_, place)| place.by.as_str()).collect();
        tensors.sort();
        tensors.dedup();
        let vectors = if way == "hadamard" { 2 } else { 8 };
        assert!(tensors.len() == vectors || way == "awq", "{transform}: {tensors:?}");
        for (name, place) in all.iter() {
            let by = all.read(&model, model.entry(name).unwrap()).unwrap().unwrap();
            assert_eq!(by.block() > 1, way == "hadamard", "{name}");
            assert!(by.by().iter().any(|v| *v != 1.0), "{name}: {place:?}");
        }
    }
    // Methods that know X^T X see that of the transformed inputs.
    for transform in ["hadamard", "smooth"] {
        let [gptq, nearest] = ["gptq:mse", "mse"].map(|method| {
            let known = if method == "mse" && transform == "hadamard" { "" } else { stats };
            let more = format!("--scheme int4-g32 --method {method} --transform {transform} {known}");
            quantized(&folder, "g.safetensors", &more);
            lost(&folder, "g.safetensors", "")
        });
        assert!(gptq < 0.8 * nearest, "{transform}: gptq {gptq}, to nearest {nearest}");
    }
}

#[test]
fn every_engine_runs_them() {
    let folder = folder();
    let text = "exclude = ['pooler']\ndefault = { weights = \"q8_0\", activations = \"int8\", transform = \"hadamard\" }\n[tensors]\n'query' = { transform = \"smooth:0.5\" }\n\
                'value' = { transform = \"none\" }\n'output.dense' = { activations = \"int8-static\", transform = \"smooth\" }\n";
    folder.write("c.toml", text);
    let ran =
        run(&folder, "quantize m -o c.safetensors --config c.toml --calibration stats.safetensors --json");
    let found = ran.json();
    let told = |part: &str| -> Vec<&Value> {
        let all = found["quantized"].as_array().unwrap();
        all.iter().filter(|q| q["name"].as_str().unwrap().contains(part)).map(|q| &q["transform"]).collect()
    };
    assert!(
        told("query").iter().all(|t| **t == "smooth:0.5") && told("key").iter().all(|t| **t == "hadamard")
    );
    assert!(told("value").iter().all(|t| t.is_null()) && told("word_embeddings").iter().all(|t| t.is_null()));
    assert!(
        told("output.dense").iter().all(|t| t.as_str().unwrap().starts_with("smooth:")),
        "{:?}",
        told("output")
    );
    let texts: Vec<String> = ["the low", "lowbit the", "lows the lowbit"].map(str::to_string).to_vec();
    let of = |engine: &Engine, file: &str| embeddings(&open(engine, &folder.path(file)), &texts);
    let on_cpu = of(&Engine::cpu(), "c.safetensors");
    assert!(lost(&folder, "c.safetensors", "") < 0.01);
    for found in block_on(adapter::list()) {
        let engine = block_on(Engine::open_adapter(&found.adapter, &EngineOptions::default())).unwrap();
        for (a, b) in of(&engine, "c.safetensors").iter().zip(&on_cpu) {
            assert!(cosine(a, b) > 0.9999, "{}: {}", found.info.summary(), cosine(a, b));
        }
    }
    assert_eq!(run(&folder, "convert c.safetensors -o c.gguf --to gguf").code, Some(0));
    assert_eq!(on_cpu, of(&Engine::cpu(), "c.gguf"));
}

/// Scales are those of transformed inputs, whether the transform is found in the same run or was there before.
#[test]
fn static_scales_follow_transforms() {
    let folder = folder();
    let stats = Statistics::open(&folder.path("stats.safetensors")).unwrap();
    let scales = |file: &str| -> Vec<(String, Activation)> {
        let path = folder.path(file);
        let model = Model::open(&path).unwrap();
        let all = Activations::of(model.metadata(), &path).unwrap();
        let mut all: Vec<_> = all.iter().map(|(name, a)| (name.to_string(), a)).collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    };
    let run_ok = |line: &str| {
        let ran = run(&folder, line);
        assert_eq!(ran.code, Some(0), "{line}: {}", ran.stderr);
        ran
    };
    for (transform, known) in [("smooth:0.5", "--calibration stats.safetensors"), ("hadamard:2", "")] {
        folder.write("one.toml", format!("exclude = ['pooler', 'embed']\ndefault = {{ weights = \"int8-row\", activations = \"int8-static:minmax\", transform = \"{transform}\" }}\n"));
        folder.write(
            "two.toml",
            "exclude = ['pooler', 'embed']\ndefault = { activations = \"int8-static:minmax\" }\n",
        );
        run_ok("quantize m -o one.safetensors --config one.toml --calibration stats.safetensors --force");
        quantized(&folder, "half.safetensors", &format!("--scheme int8-row --transform {transform} {known}"));
        run_ok(
            "quantize half.safetensors -o two.safetensors --config two.toml --calibration stats.safetensors --force",
        );
        let one = scales("one.safetensors");
        assert_eq!(one.len(), 12);
        assert_eq!(one, scales("two.safetensors"), "{transform}");
        let model = Model::open(folder.path("one.safetensors")).unwrap();
        let all = Transforms::of(&model).unwrap();
        for (name, activation) in one.iter().filter(|_| transform.starts_with("smooth")) {
            let Activation::Int8Static(scale) = activation else { panic!("{name}: {activation}") };
            let by = all.read(&model, model.entry(name).unwrap()).unwrap().unwrap();
            let inputs = stats.of(name).unwrap();
            let ends = inputs.low.iter().zip(&inputs.high).zip(by.by());
            let most = ends.map(|((low, high), v)| low.abs().max(high.abs()) * v).fold(0.0, f32::max);
            assert!((scale.scale() * 127.0 / most - 1.0).abs() < 1e-4, "{name}: {scale:?} {most}");
        }
        let lost = lost(&folder, "one.safetensors", "");
        assert!(lost < 1e-3, "{transform}: {lost}");
    }
    // The same rotation for the layers that are left: one vector.
    let more = "--force --exclude pooler|embed";
    run_ok(&format!(
        "quantize m -o a.safetensors --scheme int8-row --include layer.0 --transform hadamard {more}"
    ));
    run_ok(&format!("quantize a.safetensors -o b.safetensors --scheme int8-row --transform hadamard {more}"));
    let model = Model::open(folder.path("b.safetensors")).unwrap();
    assert_eq!(Transforms::of(&model).unwrap().iter().count(), 12);
    quantized(&folder, "c.safetensors", "--scheme int8-row --transform hadamard");
    assert_eq!(lost(&folder, "b.safetensors", ""), lost(&folder, "c.safetensors", ""));
    // What the configuration wants of weights that stay as they are is told.
    folder.write(
        "t.toml",
        "exclude = ['pooler']\ndefault = { activations = \"int8\", transform = \"hadamard\" }\n",
    );
    let ran = run_ok("quantize m -o d.safetensors --config t.toml");
    assert!(
        ran.stderr.contains("without the transform") && ran.stderr.contains("and 11 more"),
        "{}",
        ran.stderr
    );
}

/// NaN and numbers that only the transform makes too large.
#[test]
fn values_that_cannot_be_held() {
    let folder = folder();
    let query = "encoder.layer.0.attention.self.query.weight";
    let mut model = bert();
    model.tensors.get_mut(query).unwrap().1[70] = f32::NAN;
    model.write(&folder.path("nan"));
    let stats = "--calibration stats.safetensors";
    let quantize = |more: &str| {
        run(
            &folder,
            &format!("quantize nan -o x.safetensors --scheme int4-g32 --include encoder --force {more}"),
        )
    };
    for transform in
        ["hadamard", &format!("smooth {stats}"), &format!("smooth:0.5 {stats}"), &format!("awq {stats}")]
    {
        let ran = quantize(&format!("--nonfinite zero --transform {transform}"));
        assert!(ran.code == Some(0) && ran.stderr.contains("1 NaN"), "{transform}: {}", ran.stderr);
    }
    quantize("--transform hadamard").fails(1, &[query, "index 70", "NaN"]);
    // A row of 6e4 fits f16 scales of 8 bits only as it is: rotated it is 8 times as large in one column.
    let mut model = bert();
    model.tensors.get_mut(query).unwrap().1[64..128].fill(2e5);
    model.write(&folder.path("nan"));
    quantize("--transform hadamard").fails(1, &[query]);
    let ran = quantize("--transform hadamard --nonfinite copy --json");
    let found = ran.json();
    assert!(found["copied"].as_array().unwrap().iter().any(|c| c["name"] == query), "{found}");
    let model = Model::open(folder.path("x.safetensors")).unwrap();
    let all = Transforms::of(&model).unwrap();
    assert!(all.get(query).is_none() && all.iter().count() == 11);
}

#[test]
fn weights_come_back() {
    let folder = folder();
    quantized(&folder, "t.safetensors", "--scheme int8-row --transform hadamard");
    quantized(&folder, "plain.safetensors", "--scheme int8-row");
    let worst = |file: &str| {
        let found = run(&folder, &format!("compare m {file} --json")).json();
        let lines = found["tensors"].as_array().unwrap();
        let db = lines.iter().filter_map(|line| line["sqnr_db"].as_f64());
        db.fold(f64::INFINITY, f64::min)
    };
    let (plain, turned) = (worst("plain.safetensors"), worst("t.safetensors"));
    // Weights of this encoder are uniform, which a row's scale suits best; sums of them are not.
    assert!(turned > plain - 6.0 && turned > 40.0, "{plain} {turned}");
    let report = run(&folder, "report m t.safetensors -o r.html --json");
    assert_eq!(report.json()["transforms"], serde_json::json!({"scaled": 0, "rotated": 12}));
    // Nothing clips that has a row's own scale.
    let layers = report.json()["layers"].as_array().unwrap().clone();
    assert!(layers.len() == 12 && layers.iter().all(|l| l["clipped"]["weights"] == 0.0), "{layers:?}");
    assert_eq!(report.json()["only_in_quantized"], serde_json::json!([]));
    assert!(std::fs::read_to_string(folder.path("r.html")).unwrap().contains("rotated for 12 layers"));
    for dtype in ["f32", "f16", "bf16"] {
        let ran = run(&folder, &format!("dequantize t.safetensors -o d.safetensors --dtype {dtype} --force"));
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        let model = Model::open(folder.path("d.safetensors")).unwrap();
        assert!(
            Transforms::of(&model).unwrap().is_empty()
                && model.entries().iter().all(|e| !e.name.starts_with("hadamard"))
        );
        assert!(worst("d.safetensors") > turned - 0.5, "{dtype}");
        assert!(lost(&folder, "d.safetensors", "") < 0.01, "{dtype}");
    }
}

#[test]
fn what_is_wrong_is_refused() {
    let folder = folder();
    let quantize = |more: &str| run(&folder, &format!("quantize m --scheme int8-row {more}"));
    quantize("-o x.safetensors --transform smooth").fails(2, &["the transform smooth wants --calibration"]);
    quantize("-o x.safetensors --transform awq").fails(2, &["the transform awq wants --calibration"]);
    for (transform, word) in [("smoth", "hadamard:SEED"), ("smooth:2", "alpha is from 0 to 1")] {
        let ran = quantize(&format!("-o x.safetensors --transform {transform}"));
        assert!(ran.code == Some(2) && ran.stderr.contains(word), "{}", ran.stderr);
    }
    quantize("-o x.safetensors --transform hadamard --include embeddings").fails(1, &["no linear layer"]);
    let ran = quantize("-o x.safetensors --transform hadamard --imatrix i.gguf");
    assert!(ran.code == Some(2) && ran.stderr.contains("--imatrix"), "{}", ran.stderr);
    quantize("-o x.onnx --transform hadamard").fails(1, &["ONNX"]);
    quantize("-o x.safetensors --transform hadamard --calibration stats.safetensors")
        .fails(2, &["without what uses it"]);
    // Sums of squares have no rows.
    let mut moments = lowbit::file::Plan::default();
    let name = "encoder.layer.0.attention.self.query.moments";
    moments.dense(name, lowbit::file::Dtype::F32, [64, 64]).unwrap();
    let path = folder.path("moments.safetensors");
    let file = std::fs::File::create(&path).unwrap();
    let format = lowbit::file::Format::named("lowbit").unwrap();
    let mut writer = lowbit::file::Writer::new(file, &path, format, moments).unwrap();
    let identity: Vec<f32> = (0..64 * 64).map(|i| f32::from(u8::from(i % 65 == 0))).collect();
    writer.dense(bytemuck::cast_slice(&identity)).unwrap();
    writer.finish().unwrap();
    quantize(
        "-o x.safetensors --transform smooth --calibration moments.safetensors --include layer.0.*query",
    )
    .fails(1, &["LAYER.inputs"]);
    quantize("-o x.safetensors --transform awq --calibration moments.safetensors --include layer.1")
        .fails(1, &["nothing of the inputs", "layer.1"]);
    assert!(!folder.path("x.safetensors").exists());
    // What is transformed already, and formats without a place for it.
    quantized(&folder, "t.safetensors", "--scheme int8-row --transform hadamard");
    run(&folder, "convert t.safetensors -o o.onnx").fails(1, &["transformed layers", "lowbit dequantize"]);
    run(&folder, "convert t.safetensors -o folder --to compressed-tensors").fails(1, &["transformed layers"]);
    // A file that lacks a vector.
    let mut bytes = std::fs::read(folder.path("t.safetensors")).unwrap();
    let at = bytes.windows(13).position(|w| w == b"\"hadamard.64\"").unwrap();
    bytes[at + 1] = b'H';
    std::fs::write(folder.path("bad.safetensors"), bytes).unwrap();
    run(&folder, "embed bad.safetensors the").fails(1, &["hadamard.64", "missing"]);
}
