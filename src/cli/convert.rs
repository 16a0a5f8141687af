//! `lowbit convert`: a model into another file format, without loss and without arithmetic; a HuggingFace folder into GGUF.
//!
//! ```text
//! blocks or planes -> PackedTensor -> the source's bytes again? -> planes or blocks -> the same PackedTensor again? -> written
//! HuggingFace folder -> file::hf (names, order of rows, metadata, --dtype) -> written
//! ```
//!
//! Codes and scales move, nothing is quantized anew; both questions are asked of every packed tensor before it is written. What another
//! format has no room for is refused, with the commands that requantize. The formats are the rows of [`crate::file::write::FORMATS`].

use super::output::Output;
use super::print;
use super::quantize::{missing, plan_copy};
use super::{Float, is_mapped, open_for};
use crate::file::hf::Weights;
use crate::file::write::{FORMATS, Format};
use crate::file::{Content, Entry, Item, Model, Plan, Writer};
use crate::scheme::preset::{self, PRESETS};
use crate::{Error, Result};
use serde_json::json;
use std::path::PathBuf;
use std::time::Instant;

/// Move a model to another file format, bit for bit: packed safetensors to GGUF and back; a HuggingFace folder to GGUF
///
/// Codes and scales are moved and nothing is quantized anew; every tensor is decoded again from what is written and compared. Metadata is
/// kept, with its kinds and in its order. Several files become one.
///
/// A folder with config.json, tokenizer.json and safetensors files (LlamaForCausalLM, MistralForCausalLM, Qwen3ForCausalLM, BertModel,
/// BertForMaskedLM) that goes into GGUF becomes what llama.cpp runs: its tensor names and row order, metadata and tokenizer. Norms, biases
/// and tables of positions are f32, weights what --dtype says. To move tensors with the names they have, name the safetensors file itself.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  lowbit convert model-q4_k.gguf -o model.safetensors\n  \
lowbit convert model-q4_0.safetensors -o model.gguf\n  lowbit convert model-00001-of-00003.gguf -o whole.gguf\n  \
lowbit convert llama-folder/ -o llama-f16.gguf --dtype f16")]
pub struct Args {
    /// A safetensors or GGUF file, an index of shards, or a folder with one of them
    #[arg(value_name = "IN")]
    input: PathBuf,
    /// The file to write
    #[arg(short, long, value_name = "OUT")]
    output: PathBuf,
    /// The output's format: `lowbit` (safetensors) or `gguf`; default: by its extension
    #[arg(long, value_name = "FORMAT")]
    to: Option<String>,
    /// The weights' type in a GGUF file made of a HuggingFace folder; default: bf16 where they are bf16, else f16
    #[arg(long, value_enum)]
    dtype: Option<Float>,
    /// Overwrite an existing output
    #[arg(short, long)]
    force: bool,
    /// Print the summary as JSON
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand.
pub fn run(args: &Args) -> Result<()> {
    let started = Instant::now();
    let format = match args.to.as_deref() {
        Some(name) => Format::named(name)?,
        None => Format::of_path(&args.output).ok_or_else(|| {
            let known: Vec<String> = FORMATS.iter().map(|f| format!("--to {}", f.name)).collect();
            let name = args.output.display();
            Error::Usage(format!(
                "the name {name} does not say which format it is; add {}",
                known.join(" or ")
            ))
        })?,
    };
    let mapped = is_mapped(&args.input, format);
    if args.dtype.is_some() && !mapped {
        return Err(Error::Usage("--dtype is for HuggingFace folders that go into GGUF".into()));
    }
    let weights = args.dtype.map_or(Weights::Auto, |dtype| Weights::As(dtype.dtype()));
    let model = open_for(&args.input, format, weights)?;
    let output = Output::create(&args.output, args.force, model.paths())?;
    let mut plan = Plan::new(model.metadata().clone());
    for entry in model.entries() {
        plan_copy(&mut plan, entry)?;
    }
    for item in plan.items() {
        format.check(item).map_err(|e| with_command(e, item, args))?;
    }
    let bar = print::progress(model.entries().len() as u64, "convert");
    let mut writer = Writer::new(output, &args.output, format, plan)?;
    let mut packed = 0;
    while let Some(item) = writer.next_item().cloned() {
        print::at(&bar, item.name());
        let entry = model.entry(item.name()).ok_or_else(|| missing(&item))?;
        packed += usize::from(move_entry(&mut writer, &model, entry)?);
        model.release(entry);
        bar.inc(1);
    }
    let bytes = writer.written();
    writer.finish()?.commit()?;
    bar.finish_and_clear();
    // Of a folder, what lies in its files.
    let before = match mapped {
        true => model.entries().iter().map(|e| model.raw(e).len() as u64).sum(),
        false => model.bytes(),
    };
    let from = if mapped { "huggingface" } else { model.format().name };
    let (tensors, seconds) = (model.entries().len(), started.elapsed().as_secs_f64());
    if args.json {
        return print::json(&json!({
            "input": args.input, "output": args.output, "from": from, "to": format.name,
            "tensors": tensors, "packed": packed, "bytes_before": before, "bytes_after": bytes,
            "seconds": seconds,
        }));
    }
    print::stdout(&format!(
        "{}: {} ({packed} packed, each checked) from {} to {}; {} -> {} in {seconds:.1} s\n",
        args.output.display(),
        print::count(tensors, "tensor"),
        from,
        format.name,
        print::bytes(before),
        print::bytes(bytes),
    ))
}

/// Writes an entry, and says whether it was a packed one.
fn move_entry<W: std::io::Write>(writer: &mut Writer<W>, model: &Model, entry: &Entry) -> Result<bool> {
    match entry.content {
        Content::Packed { .. } => {
            let packed = model.packed_exactly(entry).map_err(|e| in_tensor(e, entry))?;
            writer.packed_exactly(&packed).map_err(|e| in_tensor(e, entry))?;
            Ok(true)
        }
        Content::Dense(_) | Content::Listed { .. } => writer.dense(&model.data(entry)?).map(|()| false),
    }
}

/// Checks name the tensor themselves.
fn in_tensor(error: Error, entry: &Entry) -> Error {
    match error {
        Error::Check { .. } | Error::Io { .. } | Error::Tensor { .. } => error,
        other => other.in_tensor(&entry.name),
    }
}

/// The error of an item that the output cannot hold, with what to do instead.
fn with_command(error: Error, item: &Item, args: &Args) -> Error {
    let Item::Packed { scheme, shape, .. } = item else { return error };
    // A block type of as many bits that divides K, else the one that comes closest to not losing anything.
    let k = shape.last().copied().unwrap_or(0);
    let fits = |s: &&preset::Preset| s.scheme.ggml.is_some_and(|g| k % g.block() == 0);
    let like = PRESETS.iter().filter(fits).find(|p| p.scheme.bits == scheme.bits);
    let name = like.map_or("q8_0", |p| p.name);
    let what = format!(
        "{error}; convert requantizes nothing. With loss: `lowbit dequantize {} -o plain.safetensors && lowbit quantize \
plain.safetensors -o {} --scheme {name}`",
        args.input.display(),
        args.output.display()
    );
    Error::Check { what }
}
