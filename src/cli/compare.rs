//! `lowbit compare`: two models, tensor by tensor, either side plain or packed.
//!
//! ```text
//! A, B -> tensors of one name -> both as f32 -> f64 sums -> SQNR, cosine, errors -> table | JSON
//! ```
//!
//! Errors are those of B with A as the truth. Sizes and bits per weight are B's. Tensors that are not floats are compared byte by
//! byte.

use super::open_engine;
use super::print::{self, Align, Table};
use super::transforms::restored;
use crate::engine::Engine;
use crate::file::{Content, Entry, Model};
use crate::report::metrics::Errors;
use crate::{DType, Error, Result, Scheme, Tensor};
use serde_json::{Value, json};
use std::path::PathBuf;

/// Compare two models: SQNR, cosine, errors, bits per weight and size, per tensor and in total
///
/// Either side may be plain or packed. SQNR is 10 log10(sum of squares of A / sum of squares of A - B), in dB; equal tensors have
/// no error and are `exact` (in JSON `"sqnr_db": null, "exact": true`; null is also what is not finite). The error of every measure is that of B; so are the bytes and the bits per weight.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  lowbit compare model.safetensors model-q4_0.safetensors\n  \
lowbit compare a.safetensors b.safetensors --json | jq .total.sqnr_db")]
pub struct Args {
    /// The model taken as the truth
    #[arg(value_name = "A")]
    a: PathBuf,
    /// The model judged
    #[arg(value_name = "B")]
    b: PathBuf,
    /// Print JSON: {"tensors": [{"name", "scheme", "sqnr_db", "cosine", "max_abs_error", "mean_abs_error",
    /// "exact", "bits_per_weight", "bytes", "size_ratio"}], "total": {the same}}
    #[arg(long)]
    json: bool,
}

/// One tensor of both models.
struct Line {
    name: String,
    scheme: String,
    errors: Errors,
    weights: f64,
    bits: f64,
    bytes: u64,
    bytes_a: u64,
}

/// Runs the subcommand.
pub fn run(args: &Args, device: Option<&str>) -> Result<()> {
    let (a, b) = (Model::open(&args.a)?, Model::open(&args.b)?);
    let engine = pollster::block_on(open_engine(device))?;
    let mut lines = Vec::new();
    let mut different = Vec::new();
    let mut only_b = Vec::new();
    let bar = print::progress(b.entries().len() as u64, "compare");
    for right in b.entries() {
        print::at(&bar, &right.name);
        bar.inc(1);
        let Some(left) = a.entry(&right.name) else {
            only_b.push(right.name.as_str());
            continue;
        };
        if left.shape != right.shape {
            let wrong = Error::shape("shape in B", print::shape(&left.shape), print::shape(&right.shape));
            return Err(wrong.in_tensor(&right.name));
        }
        left.readable()?;
        right.readable()?;
        if is_number(left) && is_number(right) {
            lines.push(compare(&engine, (&a, left), (&b, right))?);
            a.release(left);
            b.release(right);
        } else if left.content != right.content || a.raw(left) != b.raw(right) {
            different.push(right.name.as_str());
        }
    }
    bar.finish_and_clear();
    let only_a: Vec<&str> =
        a.entries().iter().filter(|e| b.entry(&e.name).is_none()).map(|e| e.name.as_str()).collect();
    if lines.is_empty() {
        let what = format!("no float tensor of a name that {} has too", args.a.display());
        return Err(Error::Nothing { path: args.b.clone(), what });
    }
    let total = total(&lines);
    if args.json {
        return print::json(&json!({
            "tensors": lines.iter().map(to_json).collect::<Result<Vec<_>>>()?,
            "total": to_json(&total)?,
            "different": different, "only_in_a": only_a, "only_in_b": only_b,
        }));
    }
    let mut table = Table::new(&[
        ("tensor", Align::Left),
        ("scheme", Align::Left),
        ("SQNR dB", Align::Right),
        ("cosine", Align::Right),
        ("max error", Align::Right),
        ("mean error", Align::Right),
        ("bits/weight", Align::Right),
        ("bytes", Align::Right),
        ("A/B size", Align::Right),
    ]);
    lines.iter().for_each(|line| table.row(cells(line)));
    table.rule();
    table.row(cells(&total));
    let mut text = table.render();
    for (what, names) in
        [("not floats, and not the same bytes", &different), ("only in A", &only_a), ("only in B", &only_b)]
    {
        if !names.is_empty() {
            text += &format!("{what}: {}\n", names.join(", "));
        }
    }
    print::stdout(&text)
}

/// Whether an entry can be had as numbers.
pub fn is_number(entry: &Entry) -> bool {
    entry.float().is_some() || matches!(entry.content, Content::Packed { .. })
}

/// Measures one tensor.
fn compare(engine: &Engine, a: (&Model, &Entry), b: (&Model, &Entry)) -> Result<Line> {
    let (x, y) = (decoded(engine, a)?, decoded(engine, b)?);
    let mut errors = Errors::default();
    errors.add(&x.to_f32(), &y.to_f32());
    let (left, right) = (a.1, b.1);
    Ok(Line {
        name: right.name.clone(),
        scheme: right.scheme_name(),
        errors,
        weights: right.len() as f64,
        bits: right.bits_per_weight(),
        bytes: right.bytes,
        bytes_a: left.bytes,
    })
}

/// An entry as numbers, a weight as it was before its inputs were transformed.
pub fn decoded(engine: &Engine, (model, entry): (&Model, &Entry)) -> Result<Tensor> {
    if matches!(entry.content, Content::Dense(_)) {
        return restored(model, entry, model.tensor(entry)?);
    }
    let packed = model.packed(entry)?;
    let tensor = pollster::block_on(async {
        engine.dequantize(&engine.take_packed(packed)?, DType::F32)?.read().await
    });
    restored(model, entry, tensor.map_err(|e| e.in_tensor(&entry.name))?)
}

/// All lines as one. The scheme is the one they share among the packed tensors, or `mixed`.
fn total(lines: &[Line]) -> Line {
    let mut errors = Errors::default();
    lines.iter().for_each(|line| errors.merge(&line.errors));
    let weights: f64 = lines.iter().map(|l| l.weights).sum();
    let mut packed = lines.iter().filter(|l| l.scheme.parse::<Scheme>().is_ok_and(|s| !s.is_float()));
    let scheme = match packed.next() {
        Some(first) if packed.all(|l| l.scheme == first.scheme) => first.scheme.clone(),
        Some(_) => "mixed".into(),
        None => lines.first().map_or(String::new(), |l| l.scheme.clone()),
    };
    Line {
        name: "total".into(),
        scheme,
        errors,
        weights,
        bits: lines.iter().filter(|l| l.weights > 0.0).map(|l| l.bits * l.weights).sum::<f64>() / weights,
        bytes: lines.iter().map(|l| l.bytes).sum(),
        bytes_a: lines.iter().map(|l| l.bytes_a).sum(),
    }
}

/// A/B of the bytes.
fn ratio(line: &Line) -> f64 {
    line.bytes_a as f64 / line.bytes as f64
}

fn cells(line: &Line) -> Vec<String> {
    let e = &line.errors;
    vec![
        line.name.clone(),
        line.scheme.clone(),
        e.sqnr_text(),
        format!("{:.6}", e.cosine()),
        format!("{:.3e}", e.max_abs()),
        format!("{:.3e}", e.mean_abs()),
        format!("{:.3}", line.bits),
        line.bytes.to_string(),
        format!("{:.2}", ratio(line)),
    ]
}

/// The measures as [`Errors`] writes them, between name and size.
fn to_json(line: &Line) -> Result<Value> {
    let mut fields = serde_json::Map::new();
    fields.insert("name".into(), line.name.as_str().into());
    fields.insert("scheme".into(), line.scheme.as_str().into());
    match serde_json::to_value(line.errors) {
        Ok(Value::Object(measures)) => fields.extend(measures),
        other => return Err(Error::Check { what: format!("measures as JSON: {other:?}") }),
    }
    fields.insert("bits_per_weight".into(), line.bits.into());
    fields.insert("bytes".into(), line.bytes.into());
    fields.insert("size_ratio".into(), ratio(line).into());
    Ok(fields.into())
}
