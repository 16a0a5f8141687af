//! `lowbit quantize --config` on a small encoder: what files say of activations, that models run by it, what is refused.

use crate::binary::{Folder, Ran};
use crate::fixture::bert;
use lowbit::file::{Activations, Model};
use lowbit::product::Activation;
use serde_json::{Value, json};

/// Linear layers of the encoder `m`, by their part of a name.
const LINEAR: [&str; 6] = [
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "intermediate.dense",
    "output.dense",
];

/// A folder with the encoder `m`, a text, and statistics of it.
fn folder() -> Folder {
    let folder = Folder::new();
    bert().write(&folder.path("m"));
    folder.write("t.txt", "the low\nlowbit the\nthe lowbit lowbits\nlow low the\nbits\nlows the lowbit\n");
    let ran = run(&folder, "calibrate m --text t.txt -o stats.safetensors");
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    folder
}

fn run(folder: &Folder, line: &str) -> Ran {
    let words: Vec<&str> = line.split(' ').chain(["--device", "cpu"]).collect();
    folder.run(&words)
}

fn activations(folder: &Folder, file: &str) -> Vec<(String, Activation)> {
    let path = folder.path(file);
    let model = Model::open(&path).unwrap();
    let all = Activations::of(model.metadata(), &path).unwrap();
    all.iter().map(|(name, a)| (name.to_string(), a)).collect()
}

fn eval(folder: &Folder, model: &str, more: &str) -> (f64, Value) {
    let found = run(folder, &format!("eval {model} m --text t.txt --runs 0 --json{more}")).json();
    let model = &found["models"][0];
    (model["cosine"]["mean"].as_f64().unwrap(), model["activations"].clone())
}

#[test]
fn static_scales_are_kept_in_the_file_and_the_model_runs_by_them() {
    let folder = folder();
    let ran =
        run(&folder, "quantize m -o s.safetensors --config w8a8-static --calibration stats.safetensors");
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    // The pooler never ran.
    assert!(
        ran.stdout.contains("activations: int8-static for 12 layers, int8 for 1 layer"),
        "{}",
        ran.stdout
    );
    assert!(
        ran.stderr.contains("1 layer, which") && ran.stderr.contains("'pooler.dense.weight'"),
        "{}",
        ran.stderr
    );
    let kept = activations(&folder, "s.safetensors");
    assert_eq!(kept.len(), 2 * LINEAR.len() + 1, "{kept:?}");
    for layer in 0..2 {
        for part in LINEAR {
            let full = format!("encoder.layer.{layer}.{part}.weight");
            let of = kept.iter().find(|(name, _)| *name == full).map(|(_, activation)| *activation);
            let Some(Activation::Int8Static(scale)) = of else { panic!("{full}: {of:?}") };
            // What GELU gives is hardly below 0.
            let low = if part == "output.dense" { -128..-60 } else { -60..60 };
            assert!(scale.scale() > 0.0 && low.contains(&scale.zero()), "{full}: {scale:?}");
        }
    }
    // Layers with one input have one scale.
    let scale = |part: &str| kept.iter().find(|(name, _)| name.contains(part)).unwrap().1;
    assert_eq!(scale("layer.0.attention.self.query"), scale("layer.0.attention.self.value"));
    assert_ne!(scale("layer.0.attention.self.query"), scale("layer.0.intermediate"));
    let (fixed, told) = eval(&folder, "s.safetensors", "");
    assert_eq!(told, json!({"int8-static": 12}));
    let (plain, told) = eval(&folder, "s.safetensors", " --activation f32");
    assert_eq!(told, json!({"f32": 12}));
    assert!(fixed < plain && fixed > 0.99 && plain > 0.999, "{fixed} {plain}");
    // The same weights and per token, by the file and by the option.
    let ran = run(&folder, "quantize m -o d.safetensors --config w8a8-dynamic");
    assert!(ran.stdout.contains("activations: int8 for 13 layers"), "{}{}", ran.stdout, ran.stderr);
    let (dynamic, told) = eval(&folder, "d.safetensors", "");
    assert_eq!(told, json!({"int8": 12}));
    assert_eq!(dynamic, eval(&folder, "s.safetensors", " --activation int8").0);
    assert!(dynamic < plain && dynamic != fixed);
}

#[test]
fn overrides_exclusions_and_rules_reach_the_layers() {
    let folder = folder();
    let text = "preset = \"w8a8-static\"\ndefault = { activations = \"int8-static-asym:minmax\" }\nexclude = ['layer\\.0\\.', 'pooler']\n\
                [tensors]\n'query' = { activations = \"int8-g32\" }\n'intermediate' = { weights = \"int4-g32:gptq\", activations = \"int8-static:percentile:99\" }\n";
    folder.write("c.toml", text);
    let found =
        run(&folder, "quantize m -o c.safetensors --config c.toml --calibration stats.safetensors --json")
            .json();
    assert_eq!(found["activations"].as_object().unwrap().len(), LINEAR.len());
    let kept = activations(&folder, "c.safetensors");
    assert!(kept.iter().all(|(name, _)| name.contains("layer.1.")));
    let of = |part: &str| kept.iter().find(|(name, _)| name.contains(part)).unwrap().1;
    assert_eq!(of("query").to_string(), "int8-g32");
    // The inputs of a first product are on both sides of 0, those of the last one above -0.2.
    let Activation::Int8Static(last) = of("layer.1.output.dense") else { panic!("{kept:?}") };
    assert!(last.zero() < -60, "{last:?}");
    let Activation::Int8Static(percentile) = of("intermediate") else { panic!("{kept:?}") };
    assert_eq!(percentile.zero(), 0);
    let schemes: Vec<String> = found["quantized"]
        .as_array()
        .unwrap()
        .iter()
        .map(|q| format!("{} {}", q["name"], q["scheme"]))
        .collect();
    assert!(schemes.iter().any(|s| s.contains("intermediate") && s.contains("int4-g32")), "{schemes:?}");
    assert!(schemes.iter().all(|s| !s.contains("layer.0.")), "{schemes:?}");
    let (cosine, told) = eval(&folder, "c.safetensors", "");
    assert_eq!(told, json!({"f32": 6, "int8-g32": 1, "int8-static": 5}));
    assert!(cosine > 0.98, "{cosine}");
}

#[test]
fn gguf_has_the_activations_under_its_own_names() {
    let folder = folder();
    folder.write(
        "q.toml",
        "default = { weights = \"q8_0\", activations = \"int8-static\" }\nexclude = ['pooler']\n",
    );
    for output in ["q.safetensors", "q.gguf"] {
        let ran =
            run(&folder, &format!("quantize m -o {output} --config q.toml --calibration stats.safetensors"));
        // A GGUF file of the folder has other names, which the statistics do not.
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    }
    assert_eq!(run(&folder, "convert q.safetensors -o c.gguf --to gguf").code, Some(0));
    let mut names: Vec<Vec<(String, String)>> = Vec::new();
    for file in ["q.safetensors", "q.gguf", "c.gguf"] {
        let kept = activations(&folder, file);
        assert_eq!(kept.len(), 12, "{file}: {kept:?}");
        names.push(kept.iter().map(|(name, a)| (name.clone(), a.to_string())).collect());
    }
    assert!(names[1].iter().all(|(name, _)| name.starts_with("blk.")), "{:?}", names[1]);
    let mut scales: Vec<Vec<&String>> =
        names.iter().map(|all| all.iter().map(|(_, a)| a).collect()).collect();
    scales.iter_mut().for_each(|all| all.sort());
    assert_eq!(scales[0], scales[1]);
    assert_eq!(scales[0], scales[2]);
    assert_eq!(eval(&folder, "q.safetensors", ""), eval(&folder, "c.gguf", ""));
}

#[test]
fn activations_alone_may_change() {
    let folder = folder();
    let ran = run(&folder, "quantize m -o q.safetensors --config w8a8-dynamic");
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    folder.write("a.toml", "exclude = ['pooler']\ndefault = { activations = \"int8-g32\" }\n");
    for (model, rest) in [("m", "m"), ("q.safetensors", "q.safetensors")] {
        let ran = run(&folder, &format!("quantize {model} -o a.safetensors --config a.toml --force"));
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        assert!(ran.stdout.contains("int8-g32 for 12 layers"), "{}", ran.stdout);
        let (before, after) = (folder.path(rest), folder.path("a.safetensors"));
        let (before, after) = (Model::open(before).unwrap(), Model::open(after).unwrap());
        assert!(before.entries().iter().all(|e| before.raw(e) == after.raw(after.entry(&e.name).unwrap())));
        assert_eq!(eval(&folder, "a.safetensors", "").1, json!({"int8-g32": 12}));
    }
    let again = run(&folder, "quantize a.safetensors -o b.safetensors --config a.toml");
    again.fails(1, &["no tensor to quantize"]);
}

#[test]
fn what_is_wrong_is_refused_by_name_and_line() {
    let folder = folder();
    let quantize = |more: &str| run(&folder, &format!("quantize m -o x.safetensors {more}"));
    quantize("--config w8a8-static").fails(2, &["by int8-static-asym:mse wants --calibration"]);
    quantize("--config w8a4").fails(2, &["no preset 'w8a4'", "w8a8-static"]);
    quantize("--config none.toml").fails(1, &["none.toml"]);
    quantize("--config w8a8-dynamic --calibration stats.safetensors").fails(2, &["--calibration without"]);
    for (text, words) in [
        ("presets = \"w8a8-static\"\n", &["c.toml: line 1", "did you mean 'preset'"][..]),
        (
            "preset = \"w8a8-static\"\n[tensors]\n'q' = { activation = 'f32' }\n",
            &["line 3", "did you mean 'activations'"],
        ),
        (
            "preset = \"w8a8-dynamic\"\n[tensors]\n'query' = 'q8_0'\n'layer.0.*query' = 'q4_0'\n",
            &["line 4", "line 3", "decides nothing"],
        ),
        (
            "preset = \"w8a8-dynamic\"\nexclude = ['layer.0']\n[tensors]\n'layer.0.*query' = 'q4_0'\n",
            &["line 4", "line 2", "decides nothing"],
        ),
        ("default = { activations = 'int8-static:entrpy' }\n", &["line 1", "entropy"]),
        // Biases are copied anyway: they are none that the pattern decides about.
        (
            "preset = \"w8a8-dynamic\"\nexclude = ['query.weight']\n[tensors]\n'query' = 'q4_0'\n",
            &["line 4", "line 2", "decides nothing"],
        ),
        ("[tensors]\nencoder.layer = 'q8_0'\n", &["line 2", "quotes"]),
    ] {
        folder.write("c.toml", text);
        quantize("--config c.toml").fails(1, words);
    }
    folder.write("c.toml", "preset = \"w8a8-dynamic\"\n[tensors]\n'mlp' = 'q8_0'\n");
    let ran = quantize("--config c.toml");
    assert!(ran.code == Some(0) && ran.stderr.contains("c.toml: 'mlp' matches no tensor"), "{}", ran.stderr);
    // Statistics that know other layers, and none that have histograms.
    folder.write("f.txt", "the low\n");
    folder.write(
        "o.toml",
        "exclude = ['layer']\n[tensors]\n'pooler' = { weights = 'q8_0', activations = 'int8-static' }\n",
    );
    run(&folder, "quantize m -o y.safetensors --config o.toml --calibration stats.safetensors")
        .fails(1, &["nothing of the inputs", "pooler"]);
    let model = folder.path("m/model.safetensors");
    run(
        &folder,
        &format!("quantize m -o y.safetensors --config w8a8-static --calibration {}", model.display()),
    )
    .fails(1, &["lowbit calibrate"]);
    assert!(!folder.path("y.safetensors").exists());
}

#[test]
fn statistics_of_another_width_are_refused() {
    let folder = folder();
    let mut other = bert();
    other.matrix("encoder.layer.0.attention.self.key.weight", &[64, 32]);
    other.write(&folder.path("other"));
    run(&folder, "quantize other -o x.safetensors --config w8a8-static --calibration stats.safetensors")
        .fails(1, &["encoder.layer.0.attention.self.key.weight", "K = 64", "32 columns"]);
    assert!(!folder.path("x.safetensors").exists());
}

/// AWQ divides what goes into the output of an attention: static scales are those of the quotients.
#[test]
fn static_scales_follow_awq() {
    let folder = folder();
    let mut model = bert();
    // A few large values, which the output's columns take back.
    let value = "encoder.layer.0.attention.self.value";
    for row in 0..4 {
        model.tensors.get_mut(&format!("{value}.weight")).unwrap().1[row * 64..][..64]
            .iter_mut()
            .for_each(|v| *v *= 30.0);
        model.tensors.get_mut(&format!("{value}.bias")).unwrap().1[row] *= 30.0;
        let output = model.tensors.get_mut("encoder.layer.0.attention.output.dense.weight").unwrap();
        output.1.iter_mut().skip(row).step_by(64).for_each(|v| *v /= 30.0);
    }
    model.write(&folder.path("m"));
    assert_eq!(run(&folder, "calibrate m --text t.txt -o large.safetensors").code, Some(0));
    let scale = |method: &str| {
        let text = format!(
            "exclude = ['pooler', 'embed']\ndefault = {{ weights = \"int4-g32:{method}\", activations = \"int8-static:minmax\" }}\n"
        );
        folder.write("c.toml", text);
        let ran = run(
            &folder,
            "quantize m -o c.safetensors --config c.toml --calibration large.safetensors --force",
        );
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        let kept = activations(&folder, "c.safetensors");
        let found = kept.iter().find(|(name, _)| name.contains("layer.0.attention.output")).unwrap().1;
        let Activation::Int8Static(scale) = found else { panic!("{found:?}") };
        (
            scale.scale(),
            eval(&folder, "c.safetensors", "").0,
            eval(&folder, "c.safetensors", " --activation f32").0,
        )
    };
    let (plain, ..) = scale("mse");
    let (awq, fixed, exact) = scale("awq:mse");
    assert!(awq < plain / 2.0, "{awq} {plain}");
    assert!(1.0 - fixed < 1.5 * (1.0 - exact) + 1e-3, "{fixed} {exact}");
}

#[test]
fn what_a_file_carries_is_kept_unless_something_else_is_said() {
    let folder = folder();
    let quantize = |from: &str, to: &str, text: &str| {
        folder.write("c.toml", text);
        let ran = run(&folder, &format!("quantize {from} -o {to} --config c.toml"));
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        activations(&folder, to)
    };
    // Weights stay plain, so that the file can be quantized once more.
    let kept = quantize(
        "m",
        "a.safetensors",
        "default = { weights = 'copy', activations = 'int8' }\nexclude = ['pooler']\n[tensors]\n'key' = { weights = 'int8-row' }\n",
    );
    assert_eq!(kept.len(), 12);
    assert_eq!(quantize("a.safetensors", "b.safetensors", "default = 'int8-row'\n"), kept);
    let fewer = quantize("a.safetensors", "c.safetensors", "default = 'int8-row'\nexclude = ['query']\n");
    assert!(fewer.len() == 10 && fewer.iter().all(|(name, _)| !name.contains("query")), "{fewer:?}");
    let none = quantize(
        "a.safetensors",
        "d.safetensors",
        "default = { weights = 'int8-row', activations = 'f32' }\n",
    );
    assert!(none.is_empty(), "{none:?}");
    let told = run(&folder, "convert b.safetensors -o ct --to ct-int");
    assert!(told.code == Some(0) && told.stderr.contains("no place for the activations"), "{}", told.stderr);
    assert_eq!(run(&folder, "dequantize b.safetensors -o plain.safetensors").code, Some(0));
    assert!(activations(&folder, "plain.safetensors").is_empty());
}
