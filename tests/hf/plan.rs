//! `lowbit plan` by the errors of outputs, on a small random encoder.

use crate::binary::Folder;
use crate::fixture;
use lowbit::calibrate::Statistics;
use lowbit::quantize::sensitivity::Layer;
use lowbit::scheme::Method;
use lowbit::{DType, Engine, Tensor};
use serde_json::Value;

const LAYER: &str = "encoder.layer.0.attention.self.query.weight";
const TABLE: &str = "embeddings.word_embeddings.weight";

fn layer<'a>(told: &'a Value, name: &str) -> &'a Value {
    told["layers"].as_array().unwrap().iter().find(|l| l["name"] == name).unwrap_or_else(|| panic!("{name}"))
}

#[test]
fn with_statistics_errors_are_those_of_outputs() {
    let folder = Folder::new();
    let bert = fixture::bert();
    bert.write(&folder.path("encoder"));
    folder.write("t.txt", "the low\nlowbit the\nthe lowbit lowbits\nlow low the\nthe\n");
    let args = ["calibrate", "encoder", "--text", "t.txt", "-o", "s.safetensors", "--device", "cpu"];
    assert_eq!(folder.run(&args).code, Some(0));
    let plan = [
        "plan",
        "encoder",
        "--schemes",
        "int2-g32,int4-g32,int8-row",
        "--budget",
        "4",
        "--device",
        "cpu",
        "--json",
    ];
    let plain = folder.run(&plan).json();
    let told = folder.run(&[&plan[..], &["--calibration", "s.safetensors", "-o", "p.toml"]].concat()).json();
    assert_eq!(
        (&layer(&told, LAYER)["calibrated"], &layer(&plain, LAYER)["calibrated"]),
        (&true.into(), &false.into())
    );
    // Tables of words have no input to be calibrated, and the errors they had.
    assert_eq!(layer(&told, TABLE)["calibrated"], false);
    assert_eq!(layer(&told, TABLE)["schemes"], layer(&plain, TABLE)["schemes"]);
    assert_ne!(layer(&told, LAYER)["schemes"], layer(&plain, LAYER)["schemes"]);
    let statistics = Statistics::open(&folder.path("s.safetensors")).unwrap();
    let (shape, values) = bert.tensors[LAYER].clone();
    let weights = Tensor::from_f32(shape, values).unwrap();
    assert_eq!(weights.dtype(), DType::F32);
    let engine = Engine::cpu();
    let moments = statistics.of(LAYER).unwrap().moments.as_slice();
    for scheme in layer(&told, LAYER)["schemes"].as_array().unwrap() {
        let error = pollster::block_on(async {
            let layer = Layer::new(&engine, LAYER, &weights, Some(moments)).await?;
            layer.error(&scheme["scheme"].as_str().unwrap().parse()?, Method::Own).await
        });
        let told = scheme["error"].as_f64().unwrap();
        assert!((error.unwrap() / told - 1.0).abs() < 1e-9 && told > 0.0, "{scheme}");
    }
    let ran = folder.run(&[
        "quantize",
        "encoder",
        "-o",
        "q.safetensors",
        "--scheme-file",
        "p.toml",
        "--device",
        "cpu",
    ]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let ran = folder.run(&["eval", "q.safetensors", "encoder", "--runs", "0", "--device", "cpu"]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);

    // Statistics of another model, and names that GGUF has.
    fixture::llama().write(&folder.path("llama"));
    let other = ["plan", "llama", "--budget", "4", "--calibration", "s.safetensors", "--device", "cpu"];
    folder.run(&other).fails(1, &["s.safetensors", "no layer that is planned of llama"]);
    fixture::bert_of(128).write(&folder.path("wide"));
    let wide = ["plan", "wide", "--budget", "4", "--calibration", "s.safetensors", "--device", "cpu"];
    folder.run(&wide).fails(1, &["encoder.layer.0.attention", "expected [128, 128], got 4096 numbers"]);
    let gguf = [
        "plan",
        "encoder",
        "--to",
        "gguf",
        "--schemes",
        "q4_0,q8_0",
        "--budget",
        "6",
        "--calibration",
        "s.safetensors",
        "--device",
        "cpu",
        "--json",
    ];
    let told = folder.run(&gguf).json();
    assert_eq!(layer(&told, "blk.0.attn_q.weight")["calibrated"], true);
}
