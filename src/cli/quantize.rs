//! `lowbit quantize`: a model's weights into a scheme, tensor by tensor.
//!
//! ```text
//! Model (mapped) -> choose: quantize | copy, with the reason -> Plan -> header -> for each tensor: read, engine, write -> rename
//! ```
//!
//! One tensor at a time is in memory, so a model larger than memory passes. How scales and codes are chosen is the engine's.

use super::print::{self, Align, Table};
use super::{Filter, open_engine, open_for, output::Output, output_format};
use crate::engine::Engine;
use crate::file::hf::Weights;
use crate::file::{Content, Entry, Item, Model, Plan, Writer};
use crate::{DType, Error, Result, Scheme, Tensor};
use serde_json::json;
use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Instant;

/// Quantize the weights of a model (safetensors or GGUF, in and out)
///
/// Tensors of f32, f16 or bf16 with two or more dimensions are quantized over their last dimension; leading dimensions (experts)
/// are kept. The rest is copied untouched, and so are tensors that the scheme does not fit, which are named. A HuggingFace folder whose
/// output is GGUF is mapped as `lowbit convert` does it, weights straight from the folder's types into the scheme.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
lowbit quantize model.safetensors -o model-q4_0.safetensors --scheme q4_0\n  \
lowbit quantize model/ -o small.safetensors --scheme nf4-g64 --include 'layers\\.' --exclude 'norm|embed'\n  \
lowbit quantize model-f16.gguf -o model-q8_0.gguf --scheme q8_0\n  \
lowbit quantize llama-folder/ -o llama-q8_0.gguf --scheme q8_0\n  \
lowbit quantize model.safetensors -o m.safetensors --scheme int4-g32 --device cpu --json")]
pub struct Args {
    /// A safetensors or GGUF file, an index of shards (model.safetensors.index.json), or a folder with one of them
    #[arg(value_name = "IN")]
    input: PathBuf,
    /// The file to write
    #[arg(short, long, value_name = "OUT")]
    output: PathBuf,
    /// The weight format, as in q4_0, q4_k, int4-g32, int8-row, nf4-g64, mxfp4
    #[arg(short, long)]
    scheme: String,
    #[command(flatten)]
    filter: Filter,
    /// What to do with tensors that hold NaN, infinities or values beyond the scheme's range
    #[arg(long, value_enum, default_value_t = NonFinite::Error)]
    nonfinite: NonFinite,
    /// Fail if the scheme does not fit a selected tensor, instead of copying that tensor
    #[arg(long)]
    strict: bool,
    /// The output's format, `lowbit` (safetensors) or `gguf`, which has no other schemes than GGUF's own; default: by its extension
    #[arg(long, value_name = "FORMAT")]
    to: Option<String>,
    /// Overwrite an existing output
    #[arg(short, long)]
    force: bool,
    /// Print the summary as JSON
    #[arg(long)]
    json: bool,
}

/// The policy for values that no scale can hold.
#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
enum NonFinite {
    /// Stop, naming the tensor and the index of the first such value
    Error,
    /// Copy that tensor unquantized
    Copy,
    /// Replace NaN and infinities by 0; finite values beyond the range still stop
    Zero,
}

/// So many tensors that the scheme does not fit are named on stderr, the others counted.
const NAMED: usize = 10;

/// Why a tensor stays as it is.
enum Reason {
    NotSelected(NotSelected),
    /// Asked for, but the scheme cannot hold it.
    Unfit(Error),
}

/// A tensor that was not asked for, the reason that tells a user most last.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum NotSelected {
    Name,
    Type,
    Rank,
    Fixed,
    Packed,
    Listed,
}

impl std::fmt::Display for NotSelected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Name => "not selected by --include and --exclude",
            Self::Type => "not f32, f16 or bf16",
            Self::Rank => "fewer than two dimensions",
            Self::Fixed => "f32 in every GGUF model (positions, token types)",
            Self::Packed => "already packed",
            Self::Listed => "of a type that is not decoded",
        })
    }
}

/// Runs the subcommand.
pub fn run(args: &Args, device: Option<&str>) -> Result<()> {
    let started = Instant::now();
    let scheme: Scheme = args.scheme.parse()?;
    let filter = args.filter.compile()?;
    let format = output_format(args.to.as_deref(), &args.output)?;
    let model = open_for(&args.input, format, Weights::AsTheyAre)?;
    let output = Output::create(&args.output, args.force, model.paths())?;

    let mut plan = Plan::changing(model.metadata().clone());
    let mut chosen = Vec::new();
    let mut copied = Vec::new();
    let mut unfit = Vec::new();
    let mut passed_over = None;
    for entry in model.entries() {
        match choose(entry, &scheme, &filter) {
            Ok(source) => chosen.push((entry, source)),
            Err(Reason::NotSelected(why)) => {
                passed_over = passed_over.max(Some((why, entry.name.as_str())));
                copied.push((entry, why.to_string()));
            }
            Err(Reason::Unfit(error)) if args.strict => return Err(error.in_tensor(&entry.name)),
            Err(Reason::Unfit(error)) => {
                unfit.push(format!("'{}' {:?}: {error}", entry.name, entry.shape));
                copied.push((entry, error.to_string()));
            }
        }
    }
    let engine = pollster::block_on(open_engine(device))?;
    if args.nonfinite == NonFinite::Copy {
        // The header comes first in the file, so what cannot be quantized has to be known before.
        let (fit, others) = pollster::block_on(try_all(&engine, &model, &scheme, chosen))?;
        chosen = fit;
        for (entry, error) in others {
            unfit.push(error.to_string());
            copied.push((entry, error.to_string()));
        }
    }
    if chosen.is_empty() {
        // The most telling example: one that was asked for and does not fit.
        let example = unfit.first().cloned().or(passed_over.map(|(why, name)| format!("'{name}': {why}")));
        let why = example.map_or(String::new(), |example| format!("; for example {example}"));
        return Err(Error::Nothing { path: args.input.clone(), what: format!("no tensor to quantize{why}") });
    }
    unfit.iter().take(NAMED).for_each(|line| print::note(&format!("lowbit: left as it is: {line}")));
    if let Some(more) = unfit.len().checked_sub(NAMED).filter(|&n| n > 0) {
        print::note(&format!("lowbit: and {more} more, in which it does not fit either (--json names all)"));
    }
    // In the model's order, which is that of a GGUF file.
    let sources: HashMap<&str, DType> = chosen.iter().map(|(e, source)| (e.name.as_str(), *source)).collect();
    for entry in model.entries() {
        match sources.get(entry.name.as_str()) {
            Some(source) => plan.packed(&entry.name, scheme, entry.shape.clone(), *source)?,
            None => plan_copy(&mut plan, entry)?,
        }
    }

    let bar = print::progress(model.entries().len() as u64, "quantize");
    let mut writer = Writer::new(output, &args.output, format, plan)?;
    let mut quantized = Vec::new();
    let mut zeroed = 0;
    while let Some(item) = writer.next_item().cloned() {
        print::at(&bar, item.name());
        let entry = model.entry(item.name()).ok_or_else(|| missing(&item))?;
        match &item {
            Item::Packed { .. } if entry.float().is_some() => {
                let mut tensor = model.tensor(entry)?;
                if args.nonfinite == NonFinite::Zero {
                    let (finite, n) = zero_nonfinite(tensor)?;
                    tensor = finite;
                    zeroed += n;
                }
                let packed = pollster::block_on(async {
                    engine.quantize_named(&tensor, &entry.name, &scheme).await?.read().await
                });
                let packed = packed.map_err(|e| e.in_tensor(&entry.name))?;
                drop(tensor);
                let before = writer.written();
                writer.packed(&packed)?;
                quantized.push((entry, format.bits_per_weight(&packed), writer.written() - before));
            }
            _ => copy(&mut writer, &model, entry)?,
        }
        bar.inc(1);
    }
    let bytes_after = writer.written();
    writer.finish()?.commit()?;
    bar.finish_and_clear();
    if zeroed > 0 {
        print::note(&format!("lowbit: {} replaced by 0", print::count(zeroed, "NaN or infinite weight")));
    }
    report(args, &model, &engine, &scheme, &quantized, &copied, bytes_after, started.elapsed().as_secs_f64())
}

/// Whether and from which type a tensor is quantized.
fn choose(entry: &Entry, scheme: &Scheme, filter: &super::Compiled) -> Result<DType, Reason> {
    if !filter.selects(&entry.name) {
        return Err(Reason::NotSelected(NotSelected::Name));
    }
    let source = match entry.content {
        Content::Packed { .. } => return Err(Reason::NotSelected(NotSelected::Packed)),
        Content::Listed { .. } => return Err(Reason::NotSelected(NotSelected::Listed)),
        Content::Dense(_) => entry.float().ok_or(Reason::NotSelected(NotSelected::Type))?,
    };
    if entry.shape.len() < 2 {
        return Err(Reason::NotSelected(NotSelected::Rank));
    }
    if entry.fixed {
        return Err(Reason::NotSelected(NotSelected::Fixed));
    }
    scheme.check_shape(&entry.shape).map_err(Reason::Unfit)?;
    Ok(source)
}

type Chosen<'a> = Vec<(&'a Entry, DType)>;

/// Quantizes all, throwing the results away, and parts those that cannot be from those that can.
async fn try_all<'a>(
    engine: &Engine,
    model: &Model,
    scheme: &Scheme,
    chosen: Chosen<'a>,
) -> Result<(Chosen<'a>, Vec<(&'a Entry, Error)>)> {
    let mut fit = Vec::new();
    let mut unfit = Vec::new();
    for (entry, source) in chosen {
        let tensor = model.tensor(entry)?;
        let packed = match engine.quantize_named(&tensor, &entry.name, scheme).await {
            Ok(packed) => packed.read().await,
            Err(e) => Err(e),
        };
        match packed.map_err(|e| e.in_tensor(&entry.name)) {
            Ok(_) => fit.push((entry, source)),
            Err(e @ Error::NotRepresentable { .. }) => unfit.push((entry, e)),
            Err(e) => return Err(e),
        }
    }
    Ok((fit, unfit))
}

/// Adds an entry to a plan as it is.
pub fn plan_copy(plan: &mut Plan, entry: &Entry) -> Result<()> {
    match &entry.content {
        Content::Listed { .. } => entry.readable(),
        Content::Dense(dtype) => plan.dense(&entry.name, *dtype, entry.shape.clone()),
        Content::Packed { scheme, source } => plan.packed(&entry.name, *scheme, entry.shape.clone(), *source),
    }
}

/// Writes an entry as it is.
pub fn copy<W: std::io::Write>(writer: &mut Writer<W>, model: &Model, entry: &Entry) -> Result<()> {
    match entry.content {
        Content::Packed { .. } => writer.packed(&model.packed(entry)?),
        Content::Dense(_) | Content::Listed { .. } => writer.dense(&model.data(entry)?),
    }
}

/// A plan is made of a model's entries, so this does not happen.
pub fn missing(item: &Item) -> Error {
    Error::shape("tensor of the plan", "one of the model's", format!("'{}'", item.name()))
}

/// The tensor as f32 with NaN and infinities replaced by 0, and how many were.
fn zero_nonfinite(tensor: Tensor) -> Result<(Tensor, usize)> {
    let values = tensor.to_f32();
    let n = values.iter().filter(|v| !v.is_finite()).count();
    if n == 0 {
        drop(values);
        return Ok((tensor, 0));
    }
    let finite = values.iter().map(|&v| if v.is_finite() { v } else { 0.0 }).collect();
    Ok((Tensor::from_f32(tensor.shape().to_vec(), finite)?, n))
}

/// Prints the summary.
#[allow(clippy::too_many_arguments)]
fn report(
    args: &Args,
    model: &Model,
    engine: &Engine,
    scheme: &Scheme,
    quantized: &[(&Entry, f64, u64)],
    copied: &[(&Entry, String)],
    bytes_after: u64,
    seconds: f64,
) -> Result<()> {
    let weights: f64 = quantized.iter().map(|(e, ..)| e.len() as f64).sum();
    let bits = quantized.iter().map(|(e, bits, _)| bits * e.len() as f64).sum::<f64>() / weights;
    let before = model.bytes();
    let device = engine.info().name;
    if args.json {
        let quantized: Vec<_> = quantized
            .iter()
            .map(|(e, bits, bytes)| {
                json!({"name": e.name, "shape": e.shape, "bits_per_weight": bits, "bytes_before": e.bytes, "bytes": bytes})
            })
            .collect();
        let copied: Vec<_> =
            copied.iter().map(|(e, why)| json!({"name": e.name, "bytes": e.bytes, "reason": why})).collect();
        return print::json(&json!({
            "input": args.input, "output": args.output, "scheme": scheme.to_string(), "device": device,
            "quantized": quantized, "copied": copied, "bits_per_weight": bits,
            "bytes_before": before, "bytes_after": bytes_after, "seconds": seconds,
        }));
    }
    let mut table = Table::new(&[
        ("", Align::Left),
        ("tensors", Align::Right),
        ("before", Align::Right),
        ("after", Align::Right),
    ]);
    let sum = |bytes: &mut dyn Iterator<Item = u64>| print::bytes(bytes.sum());
    table.row(vec![
        format!("quantized to {scheme}, {bits:.3} bits per weight"),
        quantized.len().to_string(),
        sum(&mut quantized.iter().map(|(e, ..)| e.bytes)),
        sum(&mut quantized.iter().map(|(.., bytes)| *bytes)),
    ]);
    let kept = sum(&mut copied.iter().map(|(e, _)| e.bytes));
    table.row(vec!["copied".into(), copied.len().to_string(), kept.clone(), kept]);
    table.rule();
    table.row(vec![
        format!(
            "{} ({:.2}x smaller, {seconds:.1} s on {device})",
            args.output.display(),
            before as f64 / bytes_after as f64
        ),
        (quantized.len() + copied.len()).to_string(),
        print::bytes(before),
        print::bytes(bytes_after),
    ]);
    print::stdout(&table.render())
}
