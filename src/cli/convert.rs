//! `lowbit convert`: a model into another file format or a checkpoint of another quantizer, without loss; a HuggingFace folder into GGUF.
//!
//! ```text
//! blocks or planes -> PackedTensor -> the source's bytes again? -> planes or blocks -> the same PackedTensor again? -> written
//!                      -> recast, where the output holds the same numbers in another scheme only: both decoded, the same?
//!                                                                                                       -> parts of a layer, read again -> written
//! HuggingFace folder -> file::hf (names, order of rows, metadata, --dtype) -> written
//! ```
//!
//! Blocks that go into the same format are moved as they are, unread. Else codes and scales move, nothing is quantized anew; both questions are asked of
//! every packed tensor before it is written. What another format has no room for is refused, with the commands that requantize. The formats are the rows
//! of [`FORMATS`], the checkpoints those of [`TARGETS`].

use super::print;
use super::quantize::{missing, plan_copy};
use super::same::same_numbers;
use super::stream::{Files, Options, Written};
use super::{Float, is_mapped, open_for};
use crate::file::checkpoint::{self, Data, TARGETS, Target};
use crate::file::hf::Weights;
use crate::file::write::{FORMATS, Format};
use crate::file::{Content, Entry, Item, Model, Plan, Transforms, Writer, recast};
use crate::scheme::{PRESETS, Zero};
use crate::{DType, Error, PackedTensor, Result, Scheme};
use serde_json::{Value, json};
use std::collections::{BTreeSet, HashSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Move a model to another file format, bit for bit: packed safetensors, GGUF, ONNX, checkpoints of GPTQ, AWQ, ...; a HuggingFace folder to GGUF
///
/// Codes and scales are moved and nothing is quantized anew. Blocks that go into the same format (GGUF to GGUF) are copied; every other packed tensor is
/// read again from what is written, and compared. Metadata is kept, with its kinds and in its order. Several files become one, or with --shard-size one becomes several.
///
/// A folder whose config.json says that it is quantized (GPTQ, AWQ, bitsandbytes, compressed-tensors, MLX, HQQ) is read with its layers as packed
/// tensors. `--to gptq`, `gptq_v2`, `awq`, `ct` (compressed-tensors: `ct`, `ct-int`, `ct-float`) and `mlx` write such a folder:
/// model.safetensors and config.json, whose other keys are kept; of a folder the tokenizer and other small files (tokenizer.json,
/// tokenizer_config.json, special_tokens_map.json, generation_config.json, vocab.json, merges.txt, added_tokens.json, *.model, chat_template*) are
/// copied. Where the output holds the same numbers in another
/// scheme only (symmetric int4-g32 as q4_0, zero-points as biases, groups as shorter ones), the scheme changes and not a number does.
///
/// Of an ONNX model the MatMulNBits nodes are read as packed tensors, and the other constants of the main graph as dense ones. `--to onnx` writes OUT.onnx and, beside it, the
/// tensors in OUT.onnx.data. lowbit knows weights and no graphs: every packed weight gets a MatMulNBits node of its own with an input NAME.input [M, K] and
/// an output NAME.output [M, N], to be called or to be copied into a graph; a graph that was there is not kept.
///
/// A folder with config.json, tokenizer.json and safetensors files (LlamaForCausalLM, MistralForCausalLM, Qwen3ForCausalLM, BertModel,
/// BertForMaskedLM) that goes into GGUF becomes what llama.cpp runs: its tensor names and row order, metadata and tokenizer. Norms, biases
/// and tables of positions are f32, weights what --dtype says; quantized layers keep their codes. To move tensors with the names they have, name the
/// safetensors file itself, or go through a packed one (`-o packed.safetensors`).
///
/// One tensor at a time is in memory. The output is written beside its name (OUT.partial, with OUT.journal; in a folder those of
/// model.safetensors) and gets it at the end. On Ctrl-C and on errors what is there is removed, unless --resume was given; a killed run leaves it, and
/// --resume goes on with it whether or not it was given before. The result is the same, byte for byte.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  lowbit convert model-q4_k.gguf -o model.safetensors\n  \
lowbit convert model-q4_0.safetensors -o model.gguf\n  lowbit convert model-00001-of-00003.gguf -o whole.gguf\n  \
lowbit convert llama-folder/ -o llama-f16.gguf --dtype f16\n  lowbit convert gptq-folder/ -o awq-folder --to awq\n  \
lowbit convert model-q4_0.gguf -o mlx-folder --to mlx --shard-size 4GB --resume\n  lowbit convert gptq-folder/ -o model.onnx")]
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
    #[command(flatten)]
    options: Options,
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

/// A run: what is asked for, and what is read.
struct Job<'a> {
    args: &'a Args,
    to: To,
    model: &'a Model,
}

/// What is told in the end.
struct Summary {
    files: Vec<String>,
    /// Small files of the input's folder.
    copied: Vec<String>,
    written: Written,
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
    let job = Job { args, to, model: &model };
    let packed = model.entries().iter().filter(|e| matches!(e.content, Content::Packed { .. })).count();
    if packed == 0 && matches!(to, To::Folder(_)) {
        let what =
            "no packed tensor in it, and a checkpoint is of packed ones; `lowbit quantize` makes them".into();
        return Err(Error::Nothing { path: args.input.clone(), what });
    }
    let (plan, recast) = job.plan()?;
    let summary = match to {
        To::File(format) => job.write_file(format, plan)?,
        To::Folder(target) => job.write_folder(target, &plan)?,
    };
    let before = model.stored_bytes();
    let from = if mapped { "huggingface" } else { model.format_name() };
    let (tensors, seconds) = (model.entries().len(), started.elapsed().as_secs_f64());
    let Summary { files, copied, written } = summary;
    let moved = model.entries().iter().filter(|e| job.blocks(e).is_some()).count();
    if args.json {
        let recast: Vec<_> = recast
            .iter()
            .map(|(name, from, to)| json!({"name": name, "from": from.to_string(), "to": to.to_string()}))
            .collect();
        return print::json(&json!({
            "input": args.input, "output": args.output, "files": files, "from": from, "to": to.name(),
            "tensors": tensors, "packed": packed, "moved": moved, "recast": recast, "copied": copied, "resumed": written.resumed,
            "bytes_before": before, "bytes_after": written.bytes, "seconds": seconds,
        }));
    }
    let schemes: BTreeSet<String> = recast.iter().map(|(_, from, to)| format!("{from} as {to}")).collect();
    let schemes: Vec<String> = schemes.into_iter().collect();
    let recast = if schemes.is_empty() { String::new() } else { format!(", {}", schemes.join(", ")) };
    let how = match (packed - moved, moved) {
        (0, 0) => String::new(),
        (_, 0) => ", each checked".into(),
        (0, _) => ", moved as they are".into(),
        (_, n) => format!(", {n} moved as they are, the others each checked"),
    };
    let shards = if files.len() == 1 { String::new() } else { format!(" in {} shards", files.len()) };
    let mut text = format!(
        "{}{shards}: {} ({packed} packed{how}{recast}) from {from} to {}; {} -> {} in {seconds:.1} s\n",
        args.output.display(),
        print::count(tensors, "tensor"),
        to.name(),
        print::bytes(before),
        print::bytes(written.bytes),
    );
    if !copied.is_empty() {
        text += &format!("copied from {}: {}\n", args.input.display(), copied.join(", "));
    }
    if written.resumed > 0 {
        text += &format!("{} done by an interrupted run before\n", print::count(written.resumed, "tensor"));
    }
    print::stdout(&text)
}

/// A tensor whose scheme changes, with both.
type Recast<'a> = (&'a str, Scheme, Scheme);

impl<'a> Job<'a> {
    /// What is written, and which tensors get another scheme.
    fn plan(&self) -> Result<(Plan, Vec<Recast<'a>>)> {
        let holds = matches!(self.to, To::File(format) if format.name != "onnx");
        if !holds && !Transforms::of(self.model)?.is_empty() {
            let why = "the format has no place for what inputs are transformed by; lowbit dequantize turns the weights back";
            return Err(Error::unsupported(format!("transformed layers in {}", self.to.name()), why));
        }
        let mut plan = Plan::new(self.model.metadata().clone());
        let mut recast = Vec::new();
        for entry in self.model.entries() {
            let mut one = Plan::default();
            plan_copy(&mut one, entry)?;
            let Some(item) = one.items().first() else { continue };
            match (self.to.check(item), &entry.content) {
                (Err(e), Content::Packed { scheme, source }) => {
                    let form = self.other_form(entry, scheme)?.ok_or_else(|| self.with_command(e, entry))?;
                    plan.packed(&entry.name, form, entry.shape.clone(), *source)?;
                    recast.push((entry.name.as_str(), *scheme, form));
                }
                (Err(e), _) => return Err(e),
                (Ok(()), _) => plan_copy(&mut plan, entry)?,
            }
        }
        Ok((plan, recast))
    }

    /// The first scheme that the output holds and that has the same numbers as this tensor.
    fn other_form(&self, entry: &Entry, scheme: &Scheme) -> Result<Option<Scheme>> {
        let holds = |form: &Scheme| {
            let mut plan = Plan::default();
            let planned = plan.packed(&entry.name, *form, entry.shape.clone(), DType::F32);
            planned.is_ok() && plan.items().iter().all(|item| self.to.check(item).is_ok())
        };
        let held: Vec<Scheme> = recast::forms(scheme).into_iter().filter(holds).collect();
        if held.is_empty() {
            return Ok(None);
        }
        let packed = self.model.packed(entry).map_err(|e| in_tensor(e, &entry.name))?;
        self.model.release(entry);
        Ok(held.into_iter().find(|form| recast::recast(&packed, *form).is_ok()))
    }

    /// The tensor of an entry in the scheme that is planned; not compared again where that was done before.
    fn moved(&self, entry: &Entry, scheme: Scheme, compared: bool) -> Result<PackedTensor> {
        let packed = if compared { self.model.packed(entry) } else { self.model.packed_exactly(entry) };
        let packed = packed.map_err(|e| match e {
            Error::Check { .. } => self.with_command(e, entry),
            other => in_tensor(other, &entry.name),
        })?;
        self.model.release(entry);
        if *packed.scheme() == scheme {
            return Ok(packed);
        }
        let other = recast::recast(&packed, scheme);
        let same = |other| if compared { Ok(other) } else { same_numbers(&packed, &other).map(|()| other) };
        other.and_then(same).map_err(|e| self.with_command(e.in_tensor(&entry.name), entry))
    }

    /// The data of an entry that goes into the output as it lies in the input.
    fn blocks(&self, entry: &Entry) -> Option<&'a [u8]> {
        match self.to {
            To::File(format) => self.model.blocks(entry, format),
            To::Folder(_) => None,
        }
    }

    /// The entry of this name, which an item is made of.
    fn entry(&self, name: &str, item: &Item) -> Result<&'a Entry> {
        self.model.entry(name).ok_or_else(|| missing(item))
    }

    /// What has to be the same for a run to go on.
    fn settings(&self) -> Vec<(&'static str, String)> {
        let dtype = self.args.dtype.map_or(String::new(), |dtype| dtype.dtype().to_string());
        vec![("--to", self.to.name().to_string()), ("--dtype", dtype)]
    }

    /// Writes a file or its shards.
    fn write_file(&self, format: &'static Format, plan: Plan) -> Result<Summary> {
        let path = &self.args.output;
        let files = Files::new(path, format, plan, self.args.options.shard_size)?;
        let mut partial = files.open(path, &self.args.options, self.model, self.settings())?;
        let bytes = |item: &Item| self.model.entry(item.name()).map_or(0, |e| e.bytes);
        let mut put = |item: &Item, writer: &mut Writer<File>| {
            let entry = self.entry(item.name(), item)?;
            match (item, self.blocks(entry)) {
                (Item::Packed { .. }, Some(blocks)) => writer.blocks(blocks)?,
                (Item::Packed { scheme, .. }, _) => {
                    let packed = self.moved(entry, *scheme, false)?;
                    let written = writer.packed_exactly(&packed);
                    written.map_err(|e| self.with_command(in_tensor(e, &entry.name), entry))?;
                }
                (Item::Dense { .. }, _) => writer.dense(&self.model.data(entry)?)?,
            }
            self.model.release(entry);
            Ok(0)
        };
        let written = files.write(path, "convert", &mut partial, &bytes, &mut put)?;
        partial.commit()?;
        Ok(Summary { files: files.names, copied: Vec::new(), written })
    }

    /// Writes a checkpoint: its tensors, `config.json`, and the small files of the folder that it was made of.
    fn write_folder(&self, target: &'static Target, plan: &Plan) -> Result<Summary> {
        let folder = &self.args.output;
        if folder.exists() && !folder.is_dir() {
            return Err(Error::Usage(format!("{} is a file; checkpoints are folders", folder.display())));
        }
        let path = &folder.join("model.safetensors");
        if crate::file::Activations::of(self.model.metadata(), path)?.iter().next().is_some() {
            let why = "the format has no place for the activations of layers that the model carries";
            print::note(&format!("lowbit: {}: {why}", target.name));
        }
        let items: Vec<checkpoint::Item> = plan.items().iter().map(checkpoint::Item::from).collect();
        let root = checkpoint::config_of(&self.args.input)?;
        let mut layers = target.lay_out(path, &root, &items)?;
        layers.keep(self.model.metadata());
        let mut files =
            Files::new(path, layers.format(), layers.plan().clone(), self.args.options.shard_size)?;
        let root = Value::from(layers.config().clone());
        let text = serde_json::to_string_pretty(&root).unwrap_or_else(|_| root.to_string());
        files.beside.push(("config.json".into(), text.into_bytes()));
        let small = self.small_files()?;
        let copied = small.iter().map(|(name, _)| name.clone()).collect();
        files.beside.extend(small);
        files.folder = true;
        alone(folder, &files)?;
        let mut partial = files.open(path, &self.args.options, self.model, self.settings())?;
        let bytes = |item: &Item| files.bytes(item);
        // A layer is asked for once for each type of its parts.
        let mut moved = HashSet::new();
        let mut put = |item: &Item, writer: &mut Writer<File>| {
            let source = layers.item(item.name()).ok_or_else(|| missing(item))?;
            let entry = self.entry(&source.name, item)?;
            // What cannot be read is no question of the target.
            let mut unread = false;
            let mut fetch = |item: &checkpoint::Item| -> Result<Data<'_>> {
                let data = match item.content {
                    Content::Packed { scheme, .. } => {
                        self.moved(entry, scheme, !moved.insert(&entry.name)).map(Data::Packed)
                    }
                    Content::Dense(_) | Content::Listed { .. } => self.model.data(entry).map(Data::Dense),
                };
                unread = data.is_err();
                data
            };
            let written = layers.put(writer, &mut fetch, &same_numbers);
            written.map_err(|e| if unread { e } else { self.with_command(e, entry) })?;
            self.model.release(entry);
            Ok(0)
        };
        let written = files.write(path, "convert", &mut partial, &bytes, &mut put)?;
        partial.commit()?;
        Ok(Summary { files: files.names, copied, written })
    }

    /// Names and contents of the folder's files that go with the tensors: the tokenizer, how text is generated.
    fn small_files(&self) -> Result<Vec<(String, Vec<u8>)>> {
        let folder = &self.args.input;
        if !folder.is_dir() {
            return Ok(Vec::new());
        }
        let io = |path: &Path| {
            let path = path.to_path_buf();
            move |source| Error::Io { path, source }
        };
        let mut found = Vec::new();
        for item in std::fs::read_dir(folder).map_err(io(folder))? {
            let path = item.map_err(io(folder))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if goes_along(&name) && path.is_file() {
                found.push((name, std::fs::read(&path).map_err(io(&path))?));
            }
        }
        found.sort();
        Ok(found)
    }
}

/// Whether a file of a checkpoint's folder is copied with it: never tensors, their index or settings.
fn goes_along(name: &str) -> bool {
    const NAMES: [&str; 7] = [
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "generation_config.json",
        "vocab.json",
        "merges.txt",
        "added_tokens.json",
    ];
    NAMES.contains(&name) || name.ends_with(".model") || name.starts_with("chat_template")
}

/// Checks that no other tensors lie in the folder of a checkpoint, which readers would take for a part of it or for the whole.
fn alone(folder: &Path, files: &Files) -> Result<()> {
    let Ok(list) = std::fs::read_dir(folder) else { return Ok(()) };
    let mut names: Vec<String> =
        list.flatten().map(|f| f.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    let own =
        |name: &String| files.names.contains(name) || files.beside.iter().any(|(beside, _)| beside == name);
    let tensors =
        |name: &&String| name.ends_with(".safetensors") || name.ends_with(".safetensors.index.json");
    match names.iter().filter(tensors).find(|name| !own(name)) {
        None => Ok(()),
        Some(other) => Err(Error::Usage(format!(
            "{} is in the way: with it {} would be another model; remove it, or name another folder",
            folder.join(other).display(),
            folder.display()
        ))),
    }
}

/// Checks name the tensor themselves.
fn in_tensor(error: Error, name: &str) -> Error {
    match error {
        Error::Check { .. } | Error::Io { .. } | Error::Tensor { .. } => error,
        other => other.in_tensor(name),
    }
}

impl Job<'_> {
    /// The error of an entry that the output cannot hold, with what to do instead.
    fn with_command(&self, error: Error, entry: &Entry) -> Error {
        let Content::Packed { scheme, .. } = entry.content else { return error };
        if matches!(error, Error::Io { .. }) {
            return error;
        }
        let (input, output) = (self.args.input.display(), self.args.output.display());
        // A folder is mapped when it becomes the file that is quantized.
        let plain = match self.to {
            To::File(format) if is_mapped(&self.args.input, format) => format!("plain.{}", format.extension),
            _ => "plain.safetensors".into(),
        };
        let plain = format!("lowbit dequantize {input} -o {plain} && lowbit quantize {plain}");
        let commands = match self.to {
            // The scheme itself, where only some values do not fit; what the format holds in as many bits, else the one that comes closest to not
            // losing anything.
            To::File(format) => {
                let holds = |scheme: &Scheme| {
                    let (name, shape, source) = (entry.name.clone(), entry.shape.clone(), DType::F32);
                    let packed = Item::Packed { name, scheme: *scheme, shape, source };
                    scheme.check_shape(&entry.shape).is_ok() && format.check(&packed).is_ok()
                };
                let families =
                    ["int2-g32", "int4-g32", "int8-g32"].into_iter().filter_map(|name| name.parse().ok());
                let low = PRESETS.iter().map(|p| p.scheme).filter(|s| !s.is_float()).chain(families);
                let like = low.filter(holds).min_by_key(|s: &Scheme| match s.bits.abs_diff(scheme.bits) {
                    0 => (0, 0),
                    _ => (1, 8u8.abs_diff(s.bits)),
                });
                let name = Some(scheme).filter(holds).or(like).map_or("q8_0".into(), |s| s.to_string());
                format!("{plain} -o {output} --scheme {name}")
            }
            To::Folder(target) => {
                let family = |name: &&str| {
                    name.parse::<Scheme>().is_ok_and(|s| target.holds(&s, &entry.shape).is_ok())
                };
                // A bias is always held where zero-points are, and may be where they would have to be rounded.
                let (own, bits, group) = (scheme.to_string(), scheme.bits, scheme.group);
                let bias = Some(format!("int{bits}-{group}-bias")).filter(|_| scheme.zero == Zero::Point);
                let like = [own, format!("int{bits}-{group}"), format!("int{bits}-g32")];
                let known = ["int4-g128", "int4-g32", "int8-row", "e4m3-row"];
                let mut all = bias.iter().chain(&like).map(String::as_str).chain(known);
                let Some(name) = all.find(family) else { return error };
                format!(
                    "{plain} -o packed.safetensors --scheme {name} && lowbit convert packed.safetensors -o {output} --to {}",
                    target.name
                )
            }
        };
        Error::Check { what: format!("{error}; convert requantizes nothing. With loss: `{commands}`") }
    }
}
