//! `lowbit inspect`: the tensors of a file, plain or packed. Only headers are read.

use super::print::{self, Align, Table};
use crate::Result;
use crate::file::safetensors::{Content, Entry, Model};
use serde_json::json;
use std::path::PathBuf;

/// List the tensors of a model: name, shape, scheme or type, bits per weight, bytes
///
/// Bits per weight are those of the scheme: codes, scales and zeros. The bytes are those in the file, padding of rows included.
#[derive(clap::Args)]
#[command(
    after_help = "Example:\n  lowbit inspect model-q4_0.safetensors\n  lowbit inspect --json model/ | jq .total"
)]
pub struct Args {
    /// A safetensors file, plain or packed, an index of shards, or a folder with one of them
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Prints the table.
pub fn run(args: &Args) -> Result<()> {
    let model = Model::open(&args.file)?;
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
        return print::json(&json!({
            "tensors": tensors,
            "total": {"tensors": entries.len(), "packed": packed, "weights": weights, "bits_per_weight": bits,
                      "bytes": model.bytes()},
            "metadata": model.metadata(),
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
    print::stdout(&table.render())
}

/// Bits per weight over all tensors, by count of weights; none of an empty model.
fn average_bits(entries: &[Entry]) -> Option<f64> {
    let weights: f64 = entries.iter().map(|e| e.len() as f64).sum();
    let bits: f64 =
        entries.iter().filter(|e| !e.is_empty()).map(|e| e.bits_per_weight() * e.len() as f64).sum();
    (weights > 0.0).then(|| bits / weights)
}
