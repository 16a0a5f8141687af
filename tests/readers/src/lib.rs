//! candle beside lowbit: it reads the GGUF files that lowbit makes of HuggingFace folders to the same numbers, and what its quantized
//! models compute with them is what its plain models compute with the folder.
//!
//! ```text
//! folder made here -> candle's llama, qwen3 in f32 ------------------------------------> logits
//!                  -> lowbit: mapped, F16 or quantized -> GGUF -> candle's quantized ones -> logits, within the bound
//! ```
//!
//! `cargo test --release` here, or `scripts/test.sh`. Nothing but tests is in this package.
#![cfg(test)]

#[path = "../../hf/fixture.rs"]
mod fixture;

use candle_core::quantized::gguf_file::{Content, Value};
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::{llama, quantized_llama, quantized_qwen3, qwen3};
use fixture::Fixture;
use lowbit::file::hf::{self, Weights};
use lowbit::file::{Content as Holds, Entry, Format, Item, Model, Plan, Writer};
use lowbit::reference::dequantize;
use lowbit::{Engine, Scheme};
use std::io::Cursor;
use std::path::Path;

/// Block types that candle has.
const SCHEMES: [&str; 10] = ["q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k"];

/// Products that a number goes through one after the other in two layers: embedding, output, and in each layer value, attention, its
/// output, gate or up, down, and the queries and keys that the attention is made of.
const STEPS: f64 = 2.0 + 2.0 * 6.0;

/// What roundings of the weights to f16 do to the logits, as a share of their length, at three standard deviations: each is off by up
/// to half a step of 2^-10 of itself, evenly, and their squares add over the steps.
fn bound_f16() -> f64 {
    3.0 * (STEPS / 3.0).sqrt() * 2f64.powi(-11)
}

/// The same for Q8_0: a step is 1/127 of the largest of a block, which is sqrt(3) times the mean for the even distribution that
/// weights have here, and some 2.5 times for the activations, which candle rounds too.
fn bound_q8_0() -> f64 {
    let rounding = |largest: f64| largest / 127.0 / 12f64.sqrt();
    3.0 * (STEPS * (rounding(3f64.sqrt()).powi(2) + rounding(2.5).powi(2))).sqrt()
}

/// A mapped model as a GGUF file; matrices in `scheme`, else as they are. `raw`: tensors that are written as they lie in the folder.
fn written(model: &Model, scheme: Option<&Scheme>, raw: &[&str]) -> Vec<u8> {
    let mut plan = Plan::changing(model.metadata().clone());
    let chosen =
        |e: &Entry| scheme.filter(|_| !e.fixed && e.shape.len() > 1 && !raw.contains(&e.name.as_str()));
    for e in model.entries() {
        let Holds::Dense(dtype) = e.content else { panic!("{}", e.name) };
        match chosen(e) {
            Some(scheme) => plan.packed(&e.name, *scheme, e.shape.clone(), e.float().unwrap()).unwrap(),
            None => plan.dense(&e.name, dtype, e.shape.clone()).unwrap(),
        }
    }
    let engine = Engine::cpu();
    let mut writer = Writer::new(Vec::new(), "out", Format::named("gguf").unwrap(), plan).unwrap();
    while let Some(item) = writer.next_item().cloned() {
        let entry = model.entry(item.name()).unwrap();
        match item {
            Item::Packed { scheme, .. } => {
                let tensor = model.tensor(entry).unwrap();
                let packed =
                    pollster::block_on(async { engine.quantize(&tensor, &scheme).await?.read().await });
                writer.packed(&packed.unwrap()).unwrap();
            }
            Item::Dense { .. } if raw.contains(&item.name()) => writer.dense(model.raw(entry)).unwrap(),
            Item::Dense { .. } => writer.dense(&model.data(entry).unwrap()).unwrap(),
        }
    }
    writer.finish().unwrap()
}

/// A folder of a fixture, for as long as the first lives.
fn folder(fixture: &Fixture) -> (tempfile::TempDir, std::path::PathBuf) {
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("tiny");
    fixture.write(&path);
    (temporary, path)
}

#[test]
fn candle_reads_every_tensor_to_the_same_numbers() {
    let mut with_bytes = fixture::llama();
    fixture::with_byte_fallback(&mut with_bytes);
    for fixture in [fixture::llama(), fixture::qwen3(), fixture::bert(), with_bytes] {
        let (_kept, path) = folder(&fixture);
        let plain = [lowbit::DType::F32, lowbit::DType::F16, lowbit::DType::Bf16];
        let mut files: Vec<(String, Vec<u8>)> = Vec::new();
        for dtype in plain {
            let model = hf::open(&path, Weights::As(dtype)).unwrap();
            files.push((dtype.to_string(), written(&model, None, &[])));
        }
        let model = hf::open(&path, Weights::AsTheyAre).unwrap();
        for name in SCHEMES {
            let scheme: Scheme = name.parse().unwrap();
            // The rows of bert are shorter than a block of 256.
            if model.entries().iter().all(|e| e.fixed || scheme.check_shape(&e.shape).is_ok()) {
                files.push((name.into(), written(&model, Some(&scheme), &[])));
            }
        }
        let n_files = files.len();
        assert_eq!(n_files, if model.entry("position_embd.weight").is_some() { 8 } else { 13 });
        let mut compared = 0;
        for (name, bytes) in files {
            let ours = Model::from_bytes("out.gguf", bytes.clone()).unwrap();
            let mut cursor = Cursor::new(bytes);
            let theirs = Content::read(&mut cursor).unwrap();
            assert_eq!(theirs.tensor_infos.len(), ours.entries().len());
            assert_eq!(theirs.metadata.len(), ours.metadata().len());
            for entry in ours.entries() {
                let tensor = theirs.tensor(&mut cursor, &entry.name, &Device::Cpu).unwrap();
                assert_eq!(tensor.shape().dims(), entry.shape, "{}", entry.name);
                let tensor = tensor.dequantize(&Device::Cpu).unwrap().flatten_all().unwrap();
                let found: Vec<u32> = tensor.to_vec1::<f32>().unwrap().iter().map(|v| v.to_bits()).collect();
                let expected = match entry.content {
                    Holds::Packed { .. } => dequantize::dequantize(&ours.packed(entry).unwrap()),
                    _ => ours.tensor(entry).unwrap().to_f32().into_owned(),
                };
                let expected: Vec<u32> = expected.iter().map(|v| v.to_bits()).collect();
                assert!(found == expected, "{name}: {}", entry.name);
                compared += found.len();
            }
        }
        println!("{compared} numbers in {n_files} files");
    }
}

/// Sequences of tokens.
fn prompts() -> Vec<Vec<u32>> {
    let token = |i: usize, j: usize| ((i * 131 + j * j * 17 + j * 29 + 7) % 264) as u32;
    (0..8).map(|i| (0..4 + 3 * i).map(|j| token(i, j)).collect()).collect()
}

fn input(tokens: &[u32]) -> Tensor {
    Tensor::new(tokens, &Device::Cpu).unwrap().unsqueeze(0).unwrap()
}

fn numbers(logits: &Tensor) -> Vec<f32> {
    logits.flatten_all().unwrap().to_vec1().unwrap()
}

/// What candle computes with the folder itself, in f32.
fn plain_logits(path: &Path, architecture: &str) -> Vec<Vec<f32>> {
    let config = std::fs::read(path.join("config.json")).unwrap();
    let tensors = candle_core::safetensors::load(path.join("model.safetensors"), &Device::Cpu).unwrap();
    let weights = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
    if architecture == "llama" {
        let config: llama::LlamaConfig = serde_json::from_slice(&config).unwrap();
        let config = config.into_config(false);
        let model = llama::Llama::load(weights, &config).unwrap();
        let logits = |tokens: &Vec<u32>| {
            let mut cache = llama::Cache::new(false, DType::F32, &config, &Device::Cpu).unwrap();
            numbers(&model.forward(&input(tokens), 0, &mut cache).unwrap())
        };
        return prompts().iter().map(logits).collect();
    }
    let config: qwen3::Config = serde_json::from_slice(&config).unwrap();
    let mut model = qwen3::ModelForCausalLM::new(&config, weights).unwrap();
    let logits = |tokens: &Vec<u32>| {
        model.clear_kv_cache();
        numbers(&model.forward(&input(tokens), 0).unwrap())
    };
    prompts().iter().map(logits).collect()
}

/// What candle computes with a GGUF file.
fn gguf_logits(bytes: Vec<u8>, architecture: &str) -> Vec<Vec<f32>> {
    let mut cursor = Cursor::new(bytes);
    let mut content = Content::read(&mut cursor).unwrap();
    assert_eq!(content.metadata["general.architecture"].to_string().unwrap(), architecture);
    if architecture == "llama" {
        let mut model = quantized_llama::ModelWeights::from_gguf(content, &mut cursor, &Device::Cpu).unwrap();
        return prompts().iter().map(|t| numbers(&model.forward(&input(t), 0).unwrap())).collect();
    }
    // candle rotates in f16 unless it is told the type of its activations.
    content.metadata.insert("general.dtype".into(), Value::U32(0));
    let mut model = quantized_qwen3::ModelWeights::from_gguf(content, &mut cursor, &Device::Cpu).unwrap();
    let logits = |tokens: &Vec<u32>| {
        model.clear_kv_cache();
        numbers(&model.forward(&input(tokens), 0).unwrap())
    };
    prompts().iter().map(logits).collect()
}

/// The largest difference of any prompt's logits, as a share of their length.
fn difference(found: &[Vec<f32>], expected: &[Vec<f32>]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let length = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let of = |(a, b): (&Vec<f32>, &Vec<f32>)| {
        assert_eq!(a.len(), b.len());
        let apart = length(&mut a.iter().zip(b).map(|(a, b)| f64::from(a - b)));
        let share = apart / length(&mut b.iter().map(|b| f64::from(*b)));
        if share.is_nan() { f64::INFINITY } else { share }
    };
    found.iter().zip(expected).map(of).fold(0.0, f64::max)
}

#[test]
fn logits_are_those_of_the_folder() {
    for (name, fixture) in [("llama", fixture::llama()), ("qwen3", fixture::qwen3())] {
        let (_kept, path) = folder(&fixture);
        let expected = plain_logits(&path, name);
        let stored = hf::open(&path, Weights::AsTheyAre).unwrap();
        let in_f16 = hf::open(&path, Weights::As(lowbit::DType::F16)).unwrap();
        let q8_0: Scheme = "q8_0".parse().unwrap();
        for (what, bytes, bound) in [
            // The same sums in the same type, in another order.
            ("F32", written(&stored, None, &[]), STEPS * 512.0 * f64::from(f32::EPSILON)),
            ("F16", written(&in_f16, None, &[]), bound_f16()),
            ("Q8_0", written(&stored, Some(&q8_0), &[]), bound_q8_0()),
        ] {
            let off = difference(&gguf_logits(bytes, name), &expected);
            println!("{name} {what}: {off:.6} of the logits' length, the bound is {bound:.6}");
            assert!(off <= bound, "{name} {what}: {off} is beyond {bound}");
        }
        // Rows in the folder's order where GGUF has another are seen even beside the roundings of Q8_0; qwen3 has no other.
        let keys = ["blk.0.attn_k.weight", "blk.1.attn_k.weight"];
        let moved = stored.entries().iter().filter(|e| stored.raw(e) != &*stored.data(e).unwrap()).count();
        assert_eq!(moved, if name == "llama" { 4 } else { 0 });
        if moved > 0 {
            let off = difference(&gguf_logits(written(&stored, None, &keys), name), &expected);
            println!("{name} with keys in the folder's order: {off:.6}");
            assert!(off > bound_q8_0(), "{off}");
        }
        let nothing: Vec<Vec<f32>> = expected.iter().map(|l| vec![0.0; l.len()]).collect();
        assert!(difference(&nothing, &expected) > bound_q8_0());
    }
}
