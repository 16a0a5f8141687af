//! `lowbit convert`: a model into another file format or a checkpoint of another quantizer, without loss; a HuggingFace folder into GGUF.
//!
//! ```text
//! blocks or planes -> PackedTensor -> the source's bytes again? -> planes or blocks -> the same PackedTensor again? -> written
//!                      -> recast, where the output holds the same numbers in another scheme only        -> parts of a layer, read again -> written
//! HuggingFace folder -> file::hf (names, order of rows, metadata, --dtype) -> written
//! ```
//!
//! Codes and scales move, nothing is quantized anew; both questions are asked of every packed tensor before it is written. What another
//! format has no room for is refused, with the commands that requantize. The formats are the rows of [`FORMATS`], the
//! checkpoints those of [`TARGETS`].

use super::model_output::ModelOutput;
use super::output::Output;
use super::print;
use super::quantize::{missing, plan_copy};
use super::{Float, is_mapped, open_for};
use crate::file::checkpoint::{self, Data, TARGETS, Target};
use crate::file::hf::Weights;
use crate::file::write::{FORMATS, Format};
use crate::file::{Content, Entry, Item, Model, Plan, Writer, recast};
use crate::scheme::PRESETS;
use crate::{DType, Error, PackedTensor, Result, Scheme};
use serde_json::{Map, json};
use std::collections::BTreeSet;
use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

/// Move a model to another file format, bit for bit: packed safetensors, GGUF, ONNX, checkpoints of GPTQ, AWQ, ...; a HuggingFace folder to GGUF
///
/// Codes and scales are moved and nothing is quantized anew; every tensor is decoded again from what is written and compared. Metadata is
/// kept, with its kinds and in its order. Several files become one.
///
/// A folder whose config.json says that it is quantized (GPTQ, AWQ, bitsandbytes, compressed-tensors, MLX, HQQ) is read with its layers as packed
/// tensors, under their own names. `--to gptq`, `gptq_v2`, `awq`, `ct` (compressed-tensors: `ct`, `ct-int`, `ct-float`) and `mlx` write such a folder:
/// model.safetensors and config.json, whose other keys are kept; a tokenizer is not copied. Where the output holds the same numbers in another
/// scheme only (symmetric int4-g32 as q4_0, zero-points as biases, groups as shorter ones), the scheme changes and not a number does.
///
/// Of an ONNX model the MatMulNBits nodes are read as packed tensors, and the other constants of the main graph as dense ones. `--to onnx` writes OUT.onnx and, beside it, the
/// tensors in OUT.onnx.data. lowbit knows weights and no graphs: every packed weight gets a MatMulNBits node of its own with an input NAME.input [M, K] and
/// an output NAME.output [M, N], to be called or to be copied into a graph; a graph that was there is not kept.
///
/// A folder with config.json, tokenizer.json and safetensors files (LlamaForCausalLM, MistralForCausalLM, Qwen3ForCausalLM, BertModel,
/// BertForMaskedLM) that goes into GGUF becomes what llama.cpp runs: its tensor names and row order, metadata and tokenizer. Norms, biases
/// and tables of positions are f32, weights what --dtype says. To move tensors with the names they have, name the safetensors file itself.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  lowbit convert model-q4_k.gguf -o model.safetensors\n  \
lowbit convert model-q4_0.safetensors -o model.gguf\n  lowbit convert model-00001-of-00003.gguf -o whole.gguf\n  \
lowbit convert llama-folder/ -o llama-f16.gguf --dtype f16\n  lowbit convert gptq-folder/ -o awq-folder --to awq\n  \
lowbit convert model-q4_0.gguf -o mlx-folder --to mlx\n  lowbit convert gptq-folder/ -o model.onnx")]
pub struct Args {
    /// A safetensors, GGUF or ONNX file, an index of shards, or a folder with one of them or with a quantized checkpoint
    #[arg(value_name = "IN")]
    input: PathBuf,
    /// The file to write; of a checkpoint the folder
    #[arg(short, long, value_name = "OUT")]
    output: PathBuf,
    /// The output's format: `lowbit` (safetensors), `gguf`, `onnx`, or a checkpoint: `gptq`, `gptq_v2`, `awq`, `ct`, `ct-int`, `ct-float`, `mlx`;
    /// default: by its extension
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

/// What `--to` names: a row of one of the two tables.
#[derive(Clone, Copy)]
enum To {
    File(&'static Format),
    Folder(&'static Target),
}

impl To {
    fn names() -> impl Iterator<Item = &'static str> {
        let short = TARGETS.iter().map(|t| t.aliases.first().copied().unwrap_or(t.name));
        FORMATS.iter().map(|f| f.name).chain(short)
    }

    fn of(args: &Args) -> Result<Self> {
        let Some(name) = args.to.as_deref() else {
            return Format::of_path(&args.output).map(Self::File).ok_or_else(|| {
                let known: Vec<String> = Self::names().map(|name| format!("--to {name}")).collect();
                Error::Usage(format!(
                    "the name {} does not say which format it is; add {}",
                    args.output.display(),
                    known.join(" or ")
                ))
            });
        };
        let file = Format::named(name).map(Self::File);
        file.or_else(|_| Target::named(name).map(Self::Folder)).map_err(|_| {
            let known: Vec<&str> = Self::names().collect();
            Error::Usage(format!("no file format '{name}'; there are {}", known.join(", ")))
        })
    }

    fn name(self) -> &'static str {
        match self {
            Self::File(format) => format.name,
            Self::Folder(target) => target.name,
        }
    }

    /// Whether it holds an item as it is.
    fn check(self, item: &Item) -> Result<()> {
        match (self, item) {
            (Self::File(format), _) => format.check(item),
            (Self::Folder(_), Item::Dense { .. }) => Ok(()),
            (Self::Folder(target), Item::Packed { name, scheme, shape, .. }) => {
                target.holds(scheme, shape).map_err(|e| e.in_tensor(name))
            }
        }
    }
}

/// Runs the subcommand.
pub fn run(args: &Args) -> Result<()> {
    let started = Instant::now();
    let to = To::of(args)?;
    let mapped = matches!(to, To::File(format) if is_mapped(&args.input, format));
    if args.dtype.is_some() && !mapped {
        return Err(Error::Usage("--dtype is for HuggingFace folders that go into GGUF".into()));
    }
    let weights = args.dtype.map_or(Weights::Auto, |dtype| Weights::As(dtype.dtype()));
    let model = match to {
        To::File(format) => open_for(&args.input, format, weights)?,
        To::Folder(_) => Model::open(&args.input)?,
    };
    let mut plan = Plan::new(model.metadata().clone());
    let mut recast = Vec::new();
    for entry in model.entries() {
        let mut one = Plan::default();
        plan_copy(&mut one, entry)?;
        let Some(item) = one.items().first() else { continue };
        match (to.check(item), &entry.content) {
            (Err(e), Content::Packed { scheme, source }) => {
                let form =
                    other_form(&model, entry, scheme, to)?.ok_or_else(|| with_command(e, entry, to, args))?;
                plan.packed(&entry.name, form, entry.shape.clone(), *source)?;
                recast.push((entry.name.as_str(), *scheme, form));
            }
            (Err(e), _) => return Err(e),
            (Ok(()), _) => plan_copy(&mut plan, entry)?,
        }
    }
    let bytes = match to {
        To::File(format) => write_file(args, &model, format, plan)?,
        To::Folder(target) => write_folder(args, &model, target, &plan)?,
    };
    // Of a folder, what lies in its files.
    let before = match mapped {
        true => model.entries().iter().map(|e| model.raw(e).len() as u64).sum(),
        false => model.bytes(),
    };
    let from = if mapped { "huggingface" } else { model.format_name() };
    let (tensors, seconds) = (model.entries().len(), started.elapsed().as_secs_f64());
    let packed = model.entries().iter().filter(|e| matches!(e.content, Content::Packed { .. })).count();
    if args.json {
        let recast: Vec<_> = recast
            .iter()
            .map(|(name, from, to)| json!({"name": name, "from": from.to_string(), "to": to.to_string()}))
            .collect();
        return print::json(&json!({
            "input": args.input, "output": args.output, "from": from, "to": to.name(),
            "tensors": tensors, "packed": packed, "recast": recast, "bytes_before": before, "bytes_after": bytes,
            "seconds": seconds,
        }));
    }
    let schemes: BTreeSet<String> = recast.iter().map(|(_, from, to)| format!("{from} as {to}")).collect();
    let schemes: Vec<String> = schemes.into_iter().collect();
    let recast = if schemes.is_empty() { String::new() } else { format!(", {}", schemes.join(", ")) };
    print::stdout(&format!(
        "{}: {} ({packed} packed, each checked{recast}) from {from} to {}; {} -> {} in {seconds:.1} s\n",
        args.output.display(),
        print::count(tensors, "tensor"),
        to.name(),
        print::bytes(before),
        print::bytes(bytes),
    ))
}

/// The first scheme that the output holds and that has the same numbers as this tensor.
fn other_form(model: &Model, entry: &Entry, scheme: &Scheme, to: To) -> Result<Option<Scheme>> {
    let holds = |form: &Scheme| {
        let mut plan = Plan::default();
        let planned = plan.packed(&entry.name, *form, entry.shape.clone(), DType::F32);
        planned.is_ok() && plan.items().iter().all(|item| to.check(item).is_ok())
    };
    let held: Vec<Scheme> = recast::forms(scheme).into_iter().filter(holds).collect();
    if held.is_empty() {
        return Ok(None);
    }
    let packed = model.packed(entry).map_err(|e| in_tensor(e, &entry.name))?;
    Ok(held.into_iter().find(|form| recast::recast(&packed, *form).is_ok()))
}

/// The tensor of an entry in the scheme that is planned.
fn moved(model: &Model, entry: &Entry, scheme: Scheme) -> Result<PackedTensor> {
    let packed = model.packed_exactly(entry).map_err(|e| in_tensor(e, &entry.name))?;
    if *packed.scheme() == scheme {
        return Ok(packed);
    }
    recast::recast(&packed, scheme).map_err(|e| in_tensor(e, &entry.name))
}

/// Writes a file, and returns its length.
fn write_file(args: &Args, model: &Model, format: &'static Format, plan: Plan) -> Result<u64> {
    let inputs: Vec<_> = model.paths().collect();
    let output = ModelOutput::create(&args.output, args.force, &inputs, format, &plan)?;
    let bar = print::progress(model.entries().len() as u64, "convert");
    let mut writer = Writer::new(output, &args.output, format, plan)?;
    while let Some(item) = writer.next_item().cloned() {
        print::at(&bar, item.name());
        let entry = model.entry(item.name()).ok_or_else(|| missing(&item))?;
        match item {
            Item::Packed { scheme, .. } => {
                let packed = moved(model, entry, scheme)?;
                writer.packed_exactly(&packed).map_err(|e| in_tensor(e, &entry.name))?;
            }
            Item::Dense { .. } => writer.dense(&model.data(entry)?)?,
        }
        model.release(entry);
        bar.inc(1);
    }
    let bytes = writer.written();
    writer.finish()?.commit()?;
    bar.finish_and_clear();
    Ok(bytes)
}

/// Counts what passes.
struct Counted {
    output: Output,
    bytes: u64,
}

impl Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let n = self.output.write(bytes)?;
        self.bytes += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.output.flush()
    }
}

/// Writes a checkpoint's two files, and returns the length of that of tensors.
fn write_folder(args: &Args, model: &Model, target: &'static Target, plan: &Plan) -> Result<u64> {
    let folder = &args.output;
    let io = |source| Error::Io { path: folder.clone(), source };
    if folder.exists() && !folder.is_dir() {
        return Err(Error::Usage(format!("{} is a file; checkpoints are folders", folder.display())));
    }
    let new = !folder.exists();
    std::fs::create_dir_all(folder).map_err(io)?;
    let written = write_into(args, model, target, plan);
    if written.is_err() && new {
        // Only what was made here, and only if nothing else has come into it.
        let _ = std::fs::remove_dir(folder);
    }
    written
}

fn write_into(args: &Args, model: &Model, target: &'static Target, plan: &Plan) -> Result<u64> {
    let [weights, settings] = ["model.safetensors", "config.json"].map(|name| args.output.join(name));
    let output = Output::create(&weights, args.force, model.paths())?;
    let mut config = Output::create(&settings, args.force, model.paths())?;
    let items: Vec<checkpoint::Item> = plan.items().iter().map(checkpoint::Item::from).collect();
    let bar = print::progress(items.len() as u64, "convert");
    let root = model.checkpoint().map_or_else(Map::new, |c| c.config().clone());
    let mut fetch = |item: &checkpoint::Item| -> Result<Data<'_>> {
        print::at(&bar, &item.name);
        let lost = || Error::shape("tensor of the plan", "one of the model's", format!("'{}'", item.name));
        let entry = model.entry(&item.name).ok_or_else(lost)?;
        match item.content {
            Content::Packed { scheme, .. } => moved(model, entry, scheme).map(Data::Packed),
            Content::Dense(_) | Content::Listed { .. } => model.data(entry).map(Data::Dense),
        }
    };
    let counted = Counted { output, bytes: 0 };
    let (counted, root) = target.write(counted, &weights, &root, &items, &mut fetch)?;
    let text = serde_json::to_string_pretty(&root).unwrap_or_else(|_| root.to_string());
    config.write_all(text.as_bytes()).map_err(|source| Error::Io { path: settings, source })?;
    let Counted { output, bytes } = counted;
    output.commit()?;
    config.commit()?;
    bar.finish_and_clear();
    Ok(bytes)
}

/// Checks name the tensor themselves.
fn in_tensor(error: Error, name: &str) -> Error {
    match error {
        Error::Check { .. } | Error::Io { .. } | Error::Tensor { .. } => error,
        other => other.in_tensor(name),
    }
}

/// The error of an entry that the output cannot hold, with what to do instead.
fn with_command(error: Error, entry: &Entry, to: To, args: &Args) -> Error {
    let Content::Packed { scheme, .. } = entry.content else { return error };
    let (input, output) = (args.input.display(), args.output.display());
    let plain =
        format!("lowbit dequantize {input} -o plain.safetensors && lowbit quantize plain.safetensors");
    let commands = match to {
        // What the format holds in as many bits, else the one that comes closest to not losing anything.
        To::File(format) => {
            let holds = |scheme: &Scheme| {
                let mut plan = Plan::default();
                let planned = plan.packed(&entry.name, *scheme, entry.shape.clone(), DType::F32);
                planned.is_ok() && plan.items().iter().all(|item| format.check(item).is_ok())
            };
            let families =
                ["int2-g32", "int4-g32", "int8-g32"].into_iter().filter_map(|name| name.parse().ok());
            let low = PRESETS.iter().map(|p| p.scheme).filter(|s| !s.is_float()).chain(families);
            let like = low.filter(holds).min_by_key(|s: &Scheme| match s.bits.abs_diff(scheme.bits) {
                0 => (0, 0),
                _ => (1, 8u8.abs_diff(s.bits)),
            });
            format!("{plain} -o {output} --scheme {}", like.map_or("q8_0".into(), |s| s.to_string()))
        }
        To::Folder(target) => {
            let family =
                |name: &&str| name.parse::<Scheme>().is_ok_and(|s| target.holds(&s, &entry.shape).is_ok());
            let like = format!("int{}-g32", scheme.bits);
            let known = [like.as_str(), "int4-g128", "int4-g32", "int8-row", "e4m3-row"];
            let Some(name) = known.iter().find(|name| family(name)) else { return error };
            format!(
                "{plain} -o packed.safetensors --scheme {name} && lowbit convert packed.safetensors -o {output} --to {}",
                target.name
            )
        }
    };
    Error::Check { what: format!("{error}; convert requantizes nothing. With loss: `{commands}`") }
}
