//! Sentence embeddings of a real model and of small ones made here.
//!
//! | module | promise |
//! |---|---|
//! | `golden` | what transformers makes of 64 texts, on every engine; what quantization costs; the same from a folder, a packed file and GGUF |
//! | `command` | what `lowbit embed` and `calibrate` write, and what they refuse |
//! | `configuration` | what files say of activations, and that models run by it |
//! | `transforms` | that models run by the transforms of inputs that files carry, and what those gain |
//! | `texts` | what `lowbit search` finds and `lowbit eval` says, of a small encoder |
//! | `small` | every sentence by itself, faults with their names |
//!
//! `LOWBIT_TEST_MODEL` names the real model's tensors beside its config and tokenizer (`scripts/test.sh` sets it); without it what needs the model
//! is left out, which is a failure under `CI`.

#[path = "../common/binary.rs"]
#[allow(dead_code)]
mod binary;
mod command;
#[path = "../common/mod.rs"]
mod common;
mod configuration;
#[path = "../hf/fixture.rs"]
#[allow(dead_code)]
mod fixture;
mod golden;
mod small;
mod texts;
mod transforms;

use lowbit::file::hf::Files;
use lowbit::file::{Content, Entry, Model, Plan, Writer};
use lowbit::model::{Embedder, Long, Settings};
use lowbit::{Engine, Scheme};
use pollster::block_on;
use std::path::Path;

/// Writes a folder's model with its matrices in a scheme, rows that it does not fit as they are.
fn quantize(folder: &Path, scheme: &str, to: &Path) {
    let (engine, scheme): (Engine, Scheme) = (Engine::cpu(), scheme.parse().unwrap());
    let mut model = Model::open(folder).unwrap();
    Files::in_folder(folder).carry(model.metadata_mut()).unwrap();
    let fits = |entry: &Entry| {
        entry.float().is_some() && entry.shape.len() == 2 && scheme.check_shape(&entry.shape).is_ok()
    };
    let mut plan = Plan::changing(model.metadata().clone());
    for entry in model.entries() {
        match (entry.float(), &entry.content) {
            (Some(dtype), _) if fits(entry) => {
                plan.packed(&entry.name, scheme, entry.shape.clone(), dtype).unwrap();
            }
            (_, Content::Dense(dtype)) => plan.dense(&entry.name, *dtype, entry.shape.clone()).unwrap(),
            _ => unreachable!("a folder of plain tensors"),
        }
    }
    let file = std::fs::File::create(to).unwrap();
    let mut writer = Writer::new(file, to, lowbit::file::Format::named("lowbit").unwrap(), plan).unwrap();
    while let Some(item) = writer.next_item().cloned() {
        let entry = model.entry(item.name()).unwrap();
        if fits(entry) {
            let packed = block_on(async {
                engine.quantize(&model.tensor(entry).unwrap(), &scheme).await?.into_packed().await
            });
            writer.packed(&packed.unwrap()).unwrap();
        } else {
            writer.dense(model.raw(entry)).unwrap();
        }
    }
    writer.finish().unwrap();
}

/// The embeddings of texts, one row each.
fn embeddings(embedder: &Embedder, texts: &[impl AsRef<str>]) -> Vec<Vec<f32>> {
    let passages = embedder.tokenize(texts, Long::Cut).unwrap();
    let all = block_on(embedder.embed(&passages, |_| {})).unwrap();
    all.to_f32().chunks(embedder.width()).map(<[f32]>::to_vec).collect()
}

fn open(engine: &Engine, path: &Path) -> Embedder {
    block_on(Embedder::open(engine, path, Settings::default())).unwrap()
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}
