//! all-MiniLM-L6-v2 beside transformers (`tests/data/README.md`).

use super::*;
use crate::common::under_ci;
use lowbit::gpu::{Disable, adapter};
use lowbit::product::{Activation, Int8Group};
use lowbit::{EngineOptions, engine::Tune};
use serde_json::Value;
use std::path::PathBuf;

/// The folder of the model.
fn folder() -> Option<PathBuf> {
    let model = std::env::var_os("LOWBIT_TEST_MODEL");
    if model.is_none() {
        assert!(!under_ci(), "LOWBIT_TEST_MODEL is not set");
        println!("left out: LOWBIT_TEST_MODEL is not set (scripts/test.sh fetches a model and sets it)");
    }
    Some(PathBuf::from(model?).parent().unwrap().to_path_buf())
}

struct Golden {
    texts: Vec<String>,
    embeddings: Vec<Vec<f32>>,
    ids: Vec<Vec<u32>>,
    /// Of the first text.
    hidden: Vec<f32>,
}

fn json() -> Value {
    serde_json::from_str(include_str!("../data/minilm.json")).unwrap()
}

fn golden() -> Golden {
    let model = Model::from_bytes("minilm", include_bytes!("../data/minilm.safetensors").to_vec()).unwrap();
    let f32s = |name: &str| model.tensor(model.entry(name).unwrap()).unwrap().to_f32().into_owned();
    let i32s = |name: &str| -> Vec<u32> {
        let raw = model.raw(model.entry(name).unwrap());
        raw.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b)).collect()
    };
    let (mut ids, mut rest) = (Vec::new(), &i32s("ids")[..]);
    for length in i32s("lengths") {
        let (own, behind) = rest.split_at(length as usize);
        ids.push(own.to_vec());
        rest = behind;
    }
    let texts = json()["texts"].as_array().unwrap().iter().map(|t| t.as_str().unwrap().to_string()).collect();
    let embeddings = f32s("embeddings").chunks(384).map(<[f32]>::to_vec).collect();
    Golden { texts, embeddings, ids, hidden: f32s("hidden") }
}

#[test]
fn ids_are_those_of_transformers() {
    let Some(folder) = folder() else { return };
    let scratch = tempfile::tempdir().unwrap();
    let gguf = scratch.path().join("m.gguf");
    to_gguf(&folder, &gguf);
    let golden = golden();
    let json = json();
    for path in [&folder, &gguf] {
        let embedder = open(&Engine::cpu(), path);
        for (text, want) in golden.texts.iter().zip(&golden.ids) {
            assert_eq!(embedder.tokenizer.tokenize(text).unwrap().ids, *want, "{path:?} {text:?}");
        }
        let mut tried = 0;
        for pair in json["tokens"].as_array().unwrap() {
            let want: Vec<u32> =
                pair["ids"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as u32).collect();
            let text = pair["text"].as_str().unwrap();
            let got = embedder.tokenizer.tokenize(text).unwrap();
            let (cut, most) = (want.len() > 512, want.len().min(512));
            assert_eq!(got.cut_from, cut.then_some(want.len()), "{path:?} {text:?}");
            assert_eq!(got.ids[..most - 1], want[..most - 1], "{path:?} {text:?}");
            assert_eq!(got.ids.last(), want.last(), "{path:?} {text:?}");
            tried += 1;
        }
        assert!(tried > 100, "{tried}");
    }
}

/// The folder as a GGUF file, weights as they are.
fn to_gguf(folder: &Path, to: &Path) {
    let model = lowbit::file::hf::open(folder, lowbit::file::hf::Weights::AsTheyAre).unwrap();
    let mut plan = Plan::new(model.metadata().clone());
    for entry in model.entries() {
        let Content::Dense(dtype) = entry.content else { unreachable!("a folder of plain tensors") };
        plan.dense(&entry.name, dtype, entry.shape.clone()).unwrap();
    }
    let file = std::fs::File::create(to).unwrap();
    let mut writer = Writer::new(file, to, lowbit::file::Format::named("gguf").unwrap(), plan).unwrap();
    while let Some(item) = writer.next_item().cloned() {
        writer.dense(&model.data(model.entry(item.name()).unwrap()).unwrap()).unwrap();
    }
    writer.finish().unwrap();
}

#[test]
fn f32_is_what_transformers_computes() {
    let Some(folder) = folder() else { return };
    let golden = golden();
    let mut engines = vec![("CPU engine".to_string(), Engine::cpu(), 0.99999)];
    for found in block_on(adapter::list()) {
        // OpenGL's twin of lavapipe has the same shaders; compiling them again says nothing of the model.
        if found.info.backend == wgpu::Backend::Gl {
            continue;
        }
        let options =
            EngineOptions { disable: Disable::default(), tune: Tune::Off, ..EngineOptions::default() };
        let engine = block_on(Engine::open_adapter(&found.adapter, &options)).unwrap();
        engines.push((found.info.summary(), engine, 0.9999));
    }
    assert!(engines.len() > 2 || !under_ci(), "no lavapipe or no SwiftShader");
    for (name, engine, least) in engines {
        let embedder = open(&engine, &folder);
        let got = embeddings(&embedder, &golden.texts);
        let worst = got.iter().zip(&golden.embeddings).map(|(a, b)| cosine(a, b)).fold(1.0, f64::min);
        println!("{name}: worst cosine {worst:.9}");
        assert!(worst >= least, "{name}: {worst}");
        let ids = &golden.ids[0];
        let hidden = block_on(embedder.encoder.hidden(ids, &[ids.len()]).unwrap().read()).unwrap();
        let off = hidden.to_f32().iter().zip(&golden.hidden).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        // Numbers up to 2 after some hundred roundings in f32, here and there.
        assert!(off < 1e-4, "{name}: hidden state off by {off}");
    }
}

/// Mean cosine with f32 over the sentences.
fn mean_cosine(path: &Path, settings: Settings, golden: &Golden) -> f64 {
    let embedder = block_on(Embedder::open(&Engine::cpu(), path, settings)).unwrap();
    let got = embeddings(&embedder, &golden.texts);
    got.iter().zip(&golden.embeddings).map(|(a, b)| cosine(a, b)).sum::<f64>() / got.len() as f64
}

#[test]
fn what_quantization_costs() {
    let Some(folder) = folder() else { return };
    let (golden, scratch) = (golden(), tempfile::tempdir().unwrap());
    let int8 = Settings { activation: Some(Activation::Int8(Int8Group::Row)) };
    // The goals for 8 bits. A bit less is 6 dB more noise, and so four times the distance from 1: 2e-4 of q8_0 makes 3e-3 at 6 bits and 5e-2 at 4,
    // of which twice as much passes. Below, numbers are told and have to be in order.
    let mut last = 1.0;
    for (scheme, settings, least) in [
        ("q8_0", Settings::default(), 0.9995),
        ("int8-row", int8, 0.995),
        ("int6-g32", Settings::default(), 0.99),
        ("int4-g32", Settings::default(), 0.9),
        ("int3-g64", Settings::default(), 0.5),
        ("int2-g32", Settings::default(), 0.0),
    ] {
        let path = scratch.path().join("m.safetensors");
        quantize(&folder, scheme, &path);
        let mean = mean_cosine(&path, settings, &golden);
        println!("{scheme} {:?}: {mean:.6}", settings.activation);
        assert!(mean >= least, "{scheme}: {mean}");
        if scheme.starts_with("int") && settings == Settings::default() {
            assert!(mean < last, "{scheme} loses no more than what has more bits: {mean}, {last}");
            last = mean;
        }
    }
}
