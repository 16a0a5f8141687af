//! `lowbit inspect`: the tensors of a file, plain or packed, and its metadata. Only headers are read.

use super::print::{self, Align, Table};
use crate::Result;
use crate::file::imatrix::Imatrix;
use crate::file::{Content, Entry, Model};
use serde_json::{Map, Value, json};
use std::path::PathBuf;

/// List the tensors of a model: name, shape, scheme or type, bits per weight, bytes; also importance matrices
///
/// Bits per weight are those of the scheme: codes, scales and zeros. The bytes are those in the file, padding of rows included.
#[derive(clap::Args)]
#[command(
    after_help = "Example:\n  lowbit inspect model-q4_0.safetensors\n  lowbit inspect --json model/ | jq .total"
)]
pub struct Args {
    /// A safetensors, GGUF or ONNX file, plain or packed, an index of shards, or a folder with one of them or with a quantized checkpoint
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Prints the table.
pub fn run(args: &Args) -> Result<()> {
    // The older importance matrices have nothing but their name to be known by.
    if args.file.extension().is_some_and(|e| e == "dat") {
        return importance(&Imatrix::open(&args.file)?, args.json);
    }
    let model = Model::open(&args.file)?;
    if Imatrix::is_one(&model) {
        return importance(&Imatrix::from_model(&model)?, args.json);
    }
    let entries = model.entries();
    let weights: u64 = entries.iter().map(|e| e.len() as u64).sum();
    let bits = average_bits(entries);
    let packed = entries.iter().filter(|e| matches!(e.content, Content::Packed { .. })).count();
    if args.json {
        let tensors: Vec<_> = entries
            .iter()
            .map(|e| {
                json!({"name": e.name, "shape": e.shape, "scheme": e.scheme_name(),
                       "bits_per_weight": e.bits_per_weight(), "bytes": e.bytes})
            })
            .collect();
        let metadata = model.metadata();
        let values: Map<String, Value> = metadata.iter().map(|(k, v)| (k.into(), v.to_json())).collect();
        let kinds: Map<String, Value> =
            metadata.iter().map(|(k, v)| (k.into(), v.kind_name().into())).collect();
        let details: Map<String, Value> =
            model.details().iter().map(|(k, n)| (k.to_string(), (*n).into())).collect();
        return print::json(&json!({
            "format": model.format_name(), "details": details, "files": model.paths().collect::<Vec<_>>(),
            "tensors": tensors,
            "total": {"tensors": entries.len(), "packed": packed, "weights": weights, "bits_per_weight": bits,
                      "bytes": model.bytes()},
            "metadata": values, "metadata_kinds": kinds,
        }));
    }
    let mut table = Table::new(&[
        ("name", Align::Left),
        ("shape", Align::Right),
        ("scheme", Align::Left),
        ("bits/weight", Align::Right),
        ("bytes", Align::Right),
    ]);
    for e in entries {
        table.row(vec![
            e.name.clone(),
            print::shape(&e.shape),
            e.scheme_name(),
            format!("{:.3}", e.bits_per_weight()),
            e.bytes.to_string(),
        ]);
    }
    table.rule();
    let total = format!("{} ({packed} packed)", print::count(entries.len(), "tensor"));
    let bits = bits.map_or(String::new(), |b| format!("{b:.3}"));
    table.row(vec![total, weights.to_string(), String::new(), bits, model.bytes().to_string()]);
    print::stdout(&(table.render() + &about(&model)))
}

/// An importance matrix: what it was measured on, and the range of each weight's importance.
fn importance(found: &Imatrix, json: bool) -> Result<()> {
    let range = |values: &[f32]| {
        values.iter().fold((f32::INFINITY, 0f32), |(low, high), v| (low.min(*v), high.max(*v)))
    };
    if json {
        let weights: Vec<Value> = found
            .weights
            .iter()
            .map(|(name, w)| {
                let (min, max) = range(&w.values);
                json!({"name": name, "matrices": w.n_mat, "k": w.k, "min": min, "max": max})
            })
            .collect();
        return print::json(&json!({
            "format": "imatrix", "datasets": found.datasets, "chunk_count": found.chunk_count,
            "chunk_size": found.chunk_size, "weights": weights,
        }));
    }
    let mut table = Table::new(&[
        ("weight", Align::Left),
        ("matrices", Align::Right),
        ("K", Align::Right),
        ("least", Align::Right),
        ("most important", Align::Right),
    ]);
    for (name, w) in &found.weights {
        let (min, max) = range(&w.values);
        table.row(vec![
            name.clone(),
            w.n_mat.to_string(),
            w.k.to_string(),
            format!("{min:.3e}"),
            format!("{max:.3e}"),
        ]);
    }
    let known = |n: Option<u32>| n.map_or("an unknown number".into(), |n| n.to_string());
    let line = format!(
        "\nimportance matrix of {} from {} of chunks of {} tokens: {}\n",
        print::count(found.weights.len(), "weight"),
        known(found.chunk_count),
        known(found.chunk_size),
        found.datasets.join(", ")
    );
    print::stdout(&(table.render() + &line))
}

/// The format, its numbers and the metadata, arrays abbreviated.
fn about(model: &Model) -> String {
    let mut line = format!("\nformat {}", model.format_name());
    for (what, n) in model.details() {
        line += &format!(", {what} {n}");
    }
    line += &format!(", {}\n", print::count(model.paths().count(), "file"));
    if model.metadata().is_empty() {
        return line;
    }
    let mut table = Table::new(&[("key", Align::Left), ("kind", Align::Left), ("value", Align::Left)]);
    for (key, value) in model.metadata().iter() {
        table.row(vec![key.into(), value.kind_name(), value.to_string()]);
    }
    line + "\n" + &table.render()
}

/// Bits per weight over all tensors, by count of weights; none of an empty model.
pub fn average_bits(entries: &[Entry]) -> Option<f64> {
    let weights: f64 = entries.iter().map(|e| e.len() as f64).sum();
    let bits: f64 =
        entries.iter().filter(|e| !e.is_empty()).map(|e| e.bits_per_weight() * e.len() as f64).sum();
    (weights > 0.0).then(|| bits / weights)
}
