//! `lowbit quantize`: a model's weights into a scheme or a mix of them, tensor by tensor.
//!
//! ```text
//! Model (mapped) -> assign: quantize to what | copy, with the reason -> Plan [-> shards] -> header -> for each tensor: read, engine, write -> rename
//!                                                                                 journal of what is done (partial) <- once in a while
//! ```
//!
//! One tensor at a time is in memory, so a model larger than memory passes. How scales and codes are chosen is the engine's, which tensor gets which
//! scheme is `assign`'s.

use super::activations;
use super::assign::{Assignment, Chooser, Chosen, Instead, Reason, Weights};
use super::calibrated::{Calibrated, Note};
use super::calibration::Calibration;
use super::partial::Partial;
use super::print::{self, Align, Table};
use super::stream::{self, Files, Options, Written};
use super::transforms::{Transforms, Wanted};
use super::{Filter, open_engine, open_for, output_format};
use crate::configuration::multiplies;
use crate::engine::Engine;
use crate::file::{self, hf};
use crate::file::{Content, Dtype, Entry, Format, Item, Model, Plan, Writer};
use crate::quantize::gptq::{Order, Settings};
use crate::quantize::{Recipe, TransformRecipe};
use crate::scheme::Method;
use crate::scheme::mix::Choice;
use crate::{DType, Error, PackedTensor, Result, Scheme, Tensor, cpu};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fs::File;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Instant;

/// Quantize the weights of a model (safetensors, GGUF or ONNX, in and out)
///
/// Tensors of f32, f16 or bf16 with two or more dimensions are quantized over their last dimension; leading dimensions (experts)
/// are kept. The rest is copied untouched, and so are tensors that the scheme does not fit, which are named. A HuggingFace folder whose
/// output is GGUF is mapped as `lowbit convert` does it, weights straight from the folder's types into the scheme.
///
/// A mix (q4_k_m, mxfp4_moe, ...) is one of llama.cpp's file types: it chooses a scheme for each tensor, leaves norms and routers as they are, and gives rows
/// that its blocks do not divide a scheme that fits them.
///
/// The output is written beside its name (OUT.partial, with OUT.journal) and gets it at the end. On Ctrl-C and on errors what is there is removed, unless --resume was
/// given; a killed run leaves it, and --resume goes on with it whether or not it was given before. The result is the same, byte for byte.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
lowbit quantize model.safetensors -o model-q4_0.safetensors --scheme q4_0\n  \
lowbit quantize model/ -o small.safetensors --scheme nf4-g64 --include 'layers\\.' --exclude 'norm|embed'\n  \
lowbit quantize llama-folder/ -o llama-q8_0.gguf --scheme q8_0\n  \
lowbit quantize model-f16.gguf -o model-q4_k_m.gguf --scheme q4_k_m --imatrix imatrix.gguf\n  \
lowbit quantize model.safetensors -o m.safetensors --scheme int4-g32 --device cpu --json\n  \
lowbit quantize model.safetensors -o m.safetensors --scheme int4-g128 --method mse\n  \
lowbit quantize model.safetensors -o m.safetensors --scheme int4-g64-fzero --method hqq\n  \
lowbit calibrate model/ --text sentences.txt -o stats.safetensors\n  \
lowbit quantize model/ -o m.safetensors --scheme int4-g128 --method gptq --calibration stats.safetensors\n  \
lowbit quantize model/ -o m.safetensors --scheme int4-g128-asym-perm --method gptq:mse --order activity --calibration stats.safetensors\n  \
lowbit quantize huge/ -o huge-q5_k_m.safetensors --scheme q5_k_m --shard-size 4GB --resume\n  \
lowbit quantize model.gguf -o mine.gguf --config mix.toml\n  \
lowbit quantize model/ -o smooth.safetensors --scheme int8-row --transform smooth --calibration stats.safetensors\n  \
lowbit quantize model/ -o rotated.safetensors --scheme int4-g128 --method gptq:mse --transform hadamard --calibration stats.safetensors\n  \
lowbit quantize model/ -o w8a8.safetensors --config w8a8-static --calibration stats.safetensors\n\n\
A file for --config; every line may be left out:\n  \
preset = \"w8a8-static\"        # what is not said below; see the presets\n  \
default = \"q4_k_m\"            # weights: a scheme, a mix or \"copy\"; or { weights = .., activations = .. }\n  \
exclude = ['pooler']          # regular expressions: left as they are\n  \
[tensors]                     # regular expressions; the first that matches decides\n  \
'attn_v|ffn_down' = \"q6_k\"\n  \
'^output\\.' = \"copy\"\n  \
'ffn_up' = \"int4-g32:mse\"     # with a method, as --method\n  \
'attn_output' = { activations = \"int8-static:entropy\", transform = \"smooth\" }   # as --transform; \"none\"\n\n\
Activations: f32, f16, int8 (a scale per token), int8-g32, int8-g128, int8-static and int8-static-asym (one scale, by --calibration; :RULE is minmax, moving-average, percentile,\n\
entropy or mse, which is the default). They are kept in the file; lowbit's embed, search and eval go by them.\n\n\
Presets: see `lowbit schemes`. Tables of embeddings are int8-row in all of them.")]
pub struct Args {
    /// A safetensors, GGUF or ONNX file, an index of shards (model.safetensors.index.json), or a folder with one of them
    #[arg(value_name = "IN")]
    input: PathBuf,
    /// The file to write
    #[arg(short, long, value_name = "OUT")]
    output: PathBuf,
    /// The weight format, as in q4_0, q4_k, int4-g32, int8-row, nf4-g64, mxfp4, or a mix, as in q4_k_m
    #[arg(short, long, required_unless_present = "config", conflicts_with = "config")]
    scheme: Option<String>,
    /// How scales and zeros are found: default (the scheme's own rule), absmax, minmax, mse (the least squared error), percentile or percentile:99.99,
    /// hqq (float zeros by half-quadratic optimization, integer ones and scales by the mean error), kmeans (the table of codebookN). `lowbit schemes` says which a scheme takes. With --calibration
    /// gptq (errors of a column are made up for in those that come later) and awq (columns scaled, ranges clipped), either with one of the others behind
    /// a colon for the scales, as in gptq:mse
    #[arg(long, value_name = "METHOD", default_value = "default", conflicts_with_all = ["config", "imatrix"])]
    method: String,
    /// What is known of the inputs of layers, for gptq, awq and static activations: a file of `lowbit calibrate`, safetensors with LAYER.moments [K, K] (X^T X) or LAYER.inputs [T, K], or an
    /// importance matrix. Tensors that it knows nothing of are rounded to nearest, which is told
    #[arg(long, value_name = "FILE", conflicts_with = "imatrix")]
    calibration: Option<PathBuf>,
    /// The order in which gptq takes columns: natural, activity (the largest inputs first; a -perm scheme stores them so), groups (the same by groups, nothing moves)
    #[arg(long, value_name = "ORDER", default_value_t = Order::default())]
    order: Order,
    /// Let gptq find the scale of a group when its turn comes, of weights that have taken errors by then, and not before; as a rule worse
    #[arg(long)]
    underway: bool,
    /// What gptq adds to the diagonal of X^T X, as a share of its mean; more, tenfold, where that is not enough
    #[arg(long, value_name = "SHARE", default_value_t = Settings::default().damping)]
    damping: f32,
    /// What the inputs of linear layers are transformed by before their products, and the weights with them, so that the products stay and lose less: smooth (SmoothQuant, the best alpha
    /// for each input), smooth:ALPHA, awq (AWQ's scales), both with --calibration; hadamard or hadamard:SEED (a randomized rotation). The vectors are kept in the file (safetensors
    /// or GGUF); lowbit's embed, search and eval go by them, other programs do not
    #[arg(long, value_name = "TRANSFORM", conflicts_with_all = ["config", "imatrix"])]
    transform: Option<TransformRecipe>,
    /// A preset, or a TOML file that says which tensors get which scheme and what goes into their products, see below
    #[arg(long, value_name = "PRESET|FILE", visible_alias = "scheme-file")]
    config: Option<PathBuf>,
    /// An importance matrix (llama.cpp's, GGUF or .dat): errors of important columns count more. Q4_0 to Q5_1, Q2_K to Q6_K and IQ4 weigh by it
    #[arg(long, value_name = "FILE")]
    imatrix: Option<PathBuf>,
    #[command(flatten)]
    filter: Filter,
    /// What to do with tensors that hold NaN, infinities or values beyond the scheme's range
    #[arg(long, value_enum, default_value_t = NonFinite::Error)]
    nonfinite: NonFinite,
    /// Fail if the scheme does not fit a selected tensor, instead of copying that tensor
    #[arg(long)]
    strict: bool,
    /// The output's format, `lowbit` (safetensors), or `gguf` and `onnx`, which have schemes of their own; default: by its extension
    #[arg(long, value_name = "FORMAT")]
    to: Option<String>,
    #[command(flatten)]
    options: Options,
    /// Print the summary as JSON
    #[arg(long)]
    json: bool,
}

/// The policy for values that no scale can hold.
#[derive(Clone, Copy, Debug, PartialEq, clap::ValueEnum)]
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

/// What of a model is quantized and what is not.
struct Sorted<'a> {
    chosen: Vec<Chosen<'a>>,
    copied: Vec<(&'a Entry, String)>,
    /// What the scheme does not fit, in words.
    unfit: Vec<String>,
    /// The most telling example of a tensor that was not asked for.
    passed_over: Option<String>,
}

/// Everything about a run that does not change while it goes.
struct Job<'a> {
    args: &'a Args,
    chooser: Chooser,
    format: &'static Format,
    model: &'a Model,
    weights: Option<Weights>,
    /// Where methods look at activations.
    calibrated: Option<Calibrated>,
    /// What the inputs of layers are transformed by.
    transforms: Rc<Transforms>,
    /// What the output says of the precision of inputs.
    activations: file::Activations,
    engine: Engine,
}

/// Runs the subcommand.
pub fn run(args: &Args, device: Option<&str>) -> Result<()> {
    let started = Instant::now();
    let chooser = match (&args.scheme, &args.config) {
        (Some(name), _) => Chooser::One(name.parse::<Choice>()?, args.method.parse()?),
        (None, Some(path)) => Chooser::Config(path.clone(), activations::configuration(path)?),
        (None, None) => return Err(Error::Usage("--scheme or --config is missing".into())),
    };
    let filter = args.filter.compile()?;
    let format = output_format(args.to.as_deref(), &args.output)?;
    let weights = args.imatrix.as_deref().map(Weights::open).transpose()?;
    let calibration = args.calibration.as_deref().map(Calibration::open).transpose()?.map(Rc::new);
    let model = open_for(&args.input, format, hf::Weights::AsTheyAre)?;
    let assignment = Assignment::new(&chooser, &filter, &model, weights.is_some());
    let mut sorted = sort(args, &model, &assignment)?;
    if let Some(weights) = &weights {
        sorted.chosen.iter().try_for_each(|c| weights.of(c.entry).map(|_| ()))?;
    }
    let wanted = assignment.activations(&model);
    let transform = |entry: &Entry| args.transform.or_else(|| assignment.transform(entry));
    let takes = |c: &&Chosen| c.entry.shape.len() == 2 && !c.scheme.is_float() && multiplies(&c.entry.name);
    let chosen = sorted.chosen.iter().filter(takes);
    let transformed: Vec<(String, TransformRecipe)> =
        chosen.filter_map(|c| Some((c.entry.name.clone(), transform(c.entry)?))).collect();
    if args.transform.is_none() {
        let left = model.entries().iter().filter(|entry| entry.shape.len() > 1 && transform(entry).is_some());
        let left = left.filter(|entry| !transformed.iter().any(|(name, _)| *name == entry.name));
        let left: Vec<String> = left.map(|entry| format!("'{}'", entry.name)).collect();
        if let Some(first) = left.first() {
            let more = if left.len() > 1 { format!(" and {} more", left.len() - 1) } else { String::new() };
            let why = "only weights [N, K] of linear layers that are quantized now are transformed";
            print::note(&format!(
                "lowbit: without the transform that the configuration wants: {first}{more}; {why}"
            ));
        }
    }
    if let (Some(by), []) = (args.transform, transformed.as_slice()) {
        let what = format!("no linear layer whose inputs are transformed by {by}");
        return Err(Error::Nothing { path: args.input.clone(), what });
    }
    if !transformed.is_empty() && weights.is_some() {
        let why = "--imatrix counts columns as they are, and a transform changes them";
        return Err(Error::Usage(why.into()));
    }
    if !transformed.is_empty() && format.name == "onnx" {
        let why = "its nodes have no place for the vectors; safetensors and GGUF have";
        return Err(Error::unsupported("transformed inputs in an ONNX file", why));
    }
    drop(assignment);
    if let Chooser::Config(path, configuration) = &chooser {
        // Biases and norms' vectors are copied whatever is said.
        let matrices = model.entries().iter().filter(|entry| entry.shape.len() > 1);
        let idle = configuration.check(matrices.map(|entry| entry.name.as_str()));
        for pattern in idle.map_err(|e| Error::Format { path: path.clone(), what: e.to_string() })? {
            print::note(&format!("lowbit: {}: '{pattern}' matches no tensor", path.display()));
        }
    }
    let by = sorted.chosen.iter().find(|c| c.recipe.calibrates()).map(|c| (c.entry, c.recipe.to_string()));
    let fixed = wanted.iter().find(|(_, a)| a.calibrates()).map(|(entry, a)| (*entry, a.to_string()));
    let smoothed = transformed.iter().find(|(_, by)| by.calibrates());
    let smoothed = smoothed.and_then(|(name, by)| Some((model.entry(name)?, format!("the transform {by}"))));
    match (by.or(fixed).or(smoothed), &calibration) {
        (Some((entry, by)), None) => {
            let why = format!("'{}' by {by} wants --calibration FILE", entry.name);
            return Err(Error::Usage(format!("{why} (lowbit calibrate writes one)")));
        }
        (None, Some(_)) => {
            let why = "--calibration without what uses it: gptq, awq, smooth, static activations (--config)";
            return Err(Error::Usage(why.into()));
        }
        _ => {}
    }
    let engine = pollster::block_on(open_engine(device))?;
    let mut job = Job {
        args,
        chooser,
        format,
        model: &model,
        weights,
        calibrated: None,
        transforms: Rc::default(),
        activations: Default::default(),
        engine,
    };
    if args.nonfinite == NonFinite::Copy {
        // The header comes first in the file, so what cannot be quantized has to be known before.
        job.try_all(&mut sorted)?;
    }
    let settings = Settings { order: args.order, underway: args.underway, damping: args.damping };
    let ways = sorted.chosen.iter().filter_map(|chosen| {
        let (_, by) = transformed.iter().find(|(name, _)| *name == chosen.entry.name)?;
        let of = wanted.iter().find(|(entry, _)| entry.name == chosen.entry.name);
        Some(Wanted { chosen, by: *by, activations: of.map(|(_, activations)| *activations) })
    });
    let ways: Vec<Wanted> = ways.collect();
    let read = |entry: &Entry| job.read(entry).map(|(tensor, _)| tensor);
    let found = Transforms::find(&model, &ways, calibration.as_deref(), &read)?;
    job.transforms = Rc::new(found.clone());
    if args.nonfinite == NonFinite::Copy && !ways.is_empty() {
        // A transform may make numbers too large for the scheme.
        let before: Vec<String> = sorted.chosen.iter().map(|c| c.entry.name.clone()).collect();
        job.try_all(&mut sorted)?;
        let mut left = found;
        let gone = |name: &&String| !sorted.chosen.iter().any(|c| c.entry.name == **name);
        before.iter().filter(gone).for_each(|name| left.forget(name));
        job.transforms = Rc::new(left);
    }
    let read = |entry: &Entry| job.read(entry).map(|(tensor, _)| tensor);
    let calibrated = calibration
        .map(|c| Calibrated::new(c, job.transforms.clone(), settings, &model, &sorted.chosen, &read));
    job.calibrated = calibrated.transpose()?;
    job.activations = activations::resolved(&model, &wanted, job.calibrated.as_ref())?;
    let Sorted { chosen, copied, unfit, passed_over } = sorted;
    // What goes into products may change alone.
    if chosen.is_empty() && job.activations == file::Activations::of(model.metadata(), &args.input)? {
        // The most telling example: one that was asked for and does not fit.
        let why = unfit.first().cloned().or(passed_over);
        let why = why.map_or(String::new(), |example| format!("; for example {example}"));
        return Err(Error::Nothing { path: args.input.clone(), what: format!("no tensor to quantize{why}") });
    }
    let files = Files::new(&args.output, format, job.plan(&chosen)?, args.options.shard_size)?;
    let mut partial = files.open(&args.output, &args.options, &model, job.settings()?)?;
    tell(&chosen, &unfit);
    let written = job.write(&files, &chosen, &mut partial)?;
    partial.commit()?;
    if written.zeroed > 0 {
        print::note(&format!(
            "lowbit: {} replaced by 0",
            print::count(written.zeroed, "NaN or infinite weight")
        ));
    }
    let summary = Summary {
        chosen,
        copied,
        names: files.names,
        bytes: written.bytes,
        resumed: written.resumed,
        seconds: started.elapsed().as_secs_f64(),
    };
    job.report(&summary)
}

/// Parts what is quantized from what is not.
fn sort<'a>(args: &Args, model: &'a Model, assignment: &Assignment) -> Result<Sorted<'a>> {
    let mut sorted = Sorted { chosen: Vec::new(), copied: Vec::new(), unfit: Vec::new(), passed_over: None };
    let mut telling = None;
    for (i, entry) in model.entries().iter().enumerate() {
        match assignment.choose(i, entry) {
            Ok(chosen) => {
                chosen.recipe.method.form(&chosen.scheme).map_err(|e| e.in_tensor(&entry.name))?;
                sorted.chosen.push(chosen);
            }
            Err(Reason::NotSelected(why)) => {
                telling = telling.max(Some((why, entry.name.as_str())));
                sorted.copied.push((entry, why.to_string()));
            }
            Err(Reason::Unfit(error)) if args.strict => return Err(error.in_tensor(&entry.name)),
            Err(Reason::Unfit(error)) => {
                sorted.unfit.push(format!("'{}' {:?}: {error}", entry.name, entry.shape));
                sorted.copied.push((entry, error.to_string()));
            }
        }
    }
    sorted.passed_over = telling.map(|(why, name)| format!("'{name}': {why}"));
    Ok(sorted)
}

/// Says on stderr what stays and what gets another scheme, a few of them by name.
fn tell(chosen: &[Chosen], unfit: &[String]) {
    unfit.iter().take(NAMED).for_each(|line| print::note(&format!("lowbit: left as it is: {line}")));
    if let Some(more) = unfit.len().checked_sub(NAMED).filter(|&n| n > 0) {
        print::note(&format!("lowbit: and {more} more, in which it does not fit either (--json names all)"));
    }
    let other: Vec<_> =
        chosen.iter().filter_map(|c| c.instead_of.map(|(scheme, why)| (c, scheme, why))).collect();
    for (c, scheme, why) in other.iter().take(NAMED) {
        let why = match why {
            Instead::Blocks => {
                format!("whose blocks do not divide K = {}", c.entry.shape.last().unwrap_or(&0))
            }
            Instead::FirstLayers => "which importance does not suit in the first layers".to_string(),
        };
        print::note(&format!("lowbit: '{}': {} instead of {scheme}, {why}", c.entry.name, c.scheme));
    }
    if let Some(more) = other.len().checked_sub(NAMED).filter(|&n| n > 0) {
        print::note(&format!("lowbit: and {more} more with another scheme (--json names all)"));
    }
}

impl Job<'_> {
    /// The file: all tensors in the model's order, which is that of a GGUF file.
    fn plan(&self, chosen: &[Chosen]) -> Result<Plan> {
        let mut plan = Plan::changing(self.model.metadata().clone());
        let schemes: HashMap<&str, (Scheme, DType)> =
            chosen.iter().map(|c| (c.entry.name.as_str(), (c.scheme, c.source))).collect();
        for entry in self.model.entries() {
            match schemes.get(entry.name.as_str()) {
                Some((scheme, source)) => plan.packed(&entry.name, *scheme, entry.shape.clone(), *source)?,
                None => plan_copy(&mut plan, entry)?,
            }
        }
        if let Some(mix) = self.chooser.mix() {
            plan.set_file_type(mix.file_type);
        }
        for (name, by) in self.transforms.tensors() {
            plan.dense(name, Dtype::F32, vec![by.len()])?;
        }
        self.activations.put(plan.metadata_mut());
        self.transforms.stated.put(plan.metadata_mut())?;
        if let Some(weights) = self.weights.as_ref().filter(|_| self.format.typed_metadata()) {
            weights.provenance().into_iter().for_each(|(key, value)| plan.metadata_mut().set(key, value));
        }
        Ok(plan)
    }

    /// What has to be the same for a run to go on, but for model and files.
    fn settings(&self) -> Result<Vec<(&'static str, String)>> {
        let args = self.args;
        let info = self.engine.info();
        let text = |option: &Option<String>| option.clone().unwrap_or_default();
        let mut all = vec![
            ("--scheme", text(&args.scheme)),
            ("--method", args.method.clone()),
            ("--include", text(&args.filter.include)),
            ("--exclude", text(&args.filter.exclude)),
            ("--nonfinite", format!("{:?}", args.nonfinite)),
            ("--transform", args.transform.map_or(String::new(), |by| by.to_string())),
            ("--to", self.format.name.to_string()),
            ("--device", format!("{} ({})", info.name, info.backend)),
        ];
        if let Chooser::Config(_, configuration) = &self.chooser {
            all.push(("--config", stream::hash(format_args!("{configuration:?}"))));
        }
        if let Some(weights) = &self.weights {
            all.push(("--imatrix", stream::stamp(&weights.path)?));
        }
        if let Some(calibrated) = &self.calibrated {
            all.push(("--calibration", stream::stamp(calibrated.path())?));
            all.push(("--order", args.order.to_string()));
            all.push(("--underway", args.underway.to_string()));
            all.push(("--damping", args.damping.to_string()));
        }
        Ok(all)
    }

    /// Writes all that is not done.
    fn write(&self, files: &Files, chosen: &[Chosen], partial: &mut Partial) -> Result<Written> {
        let ways: HashMap<&str, &Chosen> = chosen.iter().map(|c| (c.entry.name.as_str(), c)).collect();
        let bytes = |item: &Item| self.model.entry(item.name()).map_or(0, |e| e.bytes);
        let mut put = |item: &Item, writer: &mut Writer<File>| {
            if let Some((_, by)) = self.transforms.tensors().find(|(name, _)| *name == item.name()) {
                writer.dense(bytemuck::cast_slice(by))?;
                return Ok(0);
            }
            let entry = self.model.entry(item.name()).ok_or_else(|| missing(item))?;
            let mut zeroed = 0;
            match ways.get(item.name()) {
                Some(chosen) => writer.packed(&self.quantize(chosen, &mut zeroed)?)?,
                None => match self.calibrated.as_ref().map_or(Ok(None), |c| c.copied(self.model, entry))? {
                    Some(bytes) => writer.dense(&bytes)?,
                    None => copy(writer, self.model, entry)?,
                },
            }
            self.model.release(entry);
            Ok(zeroed)
        };
        files.write(&self.args.output, "quantize", partial, &bytes, &mut put)
    }

    /// A weight, NaN and infinities replaced by 0 where that is wanted, and how many were.
    fn read(&self, entry: &Entry) -> Result<(Tensor, usize)> {
        let tensor = self.model.tensor(entry)?;
        if self.args.nonfinite == NonFinite::Zero { zero_nonfinite(tensor) } else { Ok((tensor, 0)) }
    }

    /// Quantizes a tensor, by importance or by what is known of its inputs where there is that.
    fn quantize(&self, chosen: &Chosen, zeroed: &mut usize) -> Result<PackedTensor> {
        let Chosen { entry, scheme, recipe, .. } = chosen;
        let (mut tensor, n) = self.read(entry)?;
        *zeroed += n;
        if let Some(calibrated) = &self.calibrated {
            tensor = calibrated.prepared(entry, tensor)?;
        }
        if let Some(by) = self.transforms.of(entry) {
            // A NaN is in all of a row when it has been rotated.
            if let Some(index) = tensor.to_f32().iter().position(|v| !v.is_finite()) {
                let (tensor, value) = (entry.name.clone(), tensor.to_f32()[index]);
                let (scheme, limit) = (scheme.to_string(), f32::MAX);
                return Err(Error::NotRepresentable { tensor, index: index as u64, value, scheme, limit });
            }
            tensor = cpu::transform_weight(&tensor, by)?;
        }
        if let Some(calibrated) = &self.calibrated
            && let Some(packed) = calibrated.quantize(chosen, &tensor)?
        {
            return Ok(packed);
        }
        let importance = self.weights.as_ref().map_or(Ok(None), |w| w.of(entry))?;
        let packed = pollster::block_on(async {
            match importance.filter(|_| recipe.method == Method::Own) {
                Some(values) => self.engine.quantize_weighted(&tensor, &entry.name, scheme, values).await?,
                None => self.engine.quantize_by(&tensor, &entry.name, scheme, recipe.method).await?,
            }
            .into_packed()
            .await
        });
        packed.map_err(|e| e.in_tensor(&entry.name))
    }

    /// Quantizes all, throwing the results away, and parts those that cannot be from those that can.
    fn try_all<'m>(&self, sorted: &mut Sorted<'m>) -> Result<()> {
        for chosen in std::mem::take(&mut sorted.chosen) {
            match self.quantize(&chosen, &mut 0) {
                Ok(_) => sorted.chosen.push(chosen),
                Err(error @ Error::NotRepresentable { .. }) => {
                    sorted.unfit.push(error.to_string());
                    sorted.copied.push((chosen.entry, error.to_string()));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
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

/// The tensor with NaN and infinities replaced by 0, and how many were.
fn zero_nonfinite(tensor: Tensor) -> Result<(Tensor, usize)> {
    let (shape, dtype) = (tensor.shape().to_vec(), tensor.dtype());
    let mut bytes = Vec::from(tensor.into_bytes());
    let mut n = 0;
    // The exponent's bits all set: in the last two bytes of an element, whatever its type.
    let exponent: u16 = match dtype {
        DType::F32 | DType::Bf16 => 0x7f80,
        DType::F16 => 0x7c00,
    };
    for element in bytes.chunks_exact_mut(dtype.size()) {
        if let Some(last) = element.last_chunk::<2>()
            && u16::from_le_bytes(*last) & exponent == exponent
        {
            element.fill(0);
            n += 1;
        }
    }
    Ok((Tensor::from_bytes(shape, dtype, bytes)?, n))
}

/// What is told in the end.
struct Summary<'a> {
    chosen: Vec<Chosen<'a>>,
    copied: Vec<(&'a Entry, String)>,
    names: Vec<String>,
    bytes: u64,
    /// Tensors that an interrupted run had done.
    resumed: usize,
    seconds: f64,
}

/// How the tensors met the importance matrix.
#[derive(Default)]
struct Met<'a> {
    weighted: usize,
    missing: Vec<&'a str>,
    /// With an entry, and a scheme that does not weigh.
    ignored: usize,
}

impl Job<'_> {
    fn met<'s>(&self, weights: &Weights, chosen: &[Chosen<'s>]) -> Result<Met<'s>> {
        let mut met = Met::default();
        for c in chosen {
            match weights.of(c.entry)? {
                None => met.missing.push(&c.entry.name),
                Some(_) if c.scheme.encoder.weighs() && c.recipe.method == Method::Own => met.weighted += 1,
                Some(_) => met.ignored += 1,
            }
        }
        Ok(met)
    }

    /// Prints the summary.
    fn report(&self, summary: &Summary) -> Result<()> {
        let Summary { chosen, copied, bytes, seconds, .. } = summary;
        let bits = |c: &Chosen| self.format.bits_per_weight(&c.scheme, &c.entry.shape);
        let size = |c: &Chosen| {
            let (name, shape) = (c.entry.name.clone(), c.entry.shape.clone());
            self.format.data_bytes(&Item::Packed { name, scheme: c.scheme, shape, source: c.source })
        };
        let mean = |of: &[&Chosen]| -> Result<f64> {
            let weights: f64 = of.iter().map(|c| c.entry.len() as f64).sum();
            let sum = of.iter().map(|c| Ok(bits(c)? * c.entry.len() as f64)).sum::<Result<f64>>()?;
            Ok(sum / weights)
        };
        let all: Vec<&Chosen> = chosen.iter().collect();
        let met = self.weights.as_ref().map(|w| Ok::<_, Error>((w, self.met(w, chosen)?))).transpose()?;
        let (args, before, device) = (self.args, self.model.bytes(), self.engine.info().name);
        if args.json {
            let quantized = chosen.iter().map(|c| {
                let mut one = json!({
                    "name": c.entry.name, "shape": c.entry.shape, "scheme": c.scheme.to_string(), "bits_per_weight": bits(c)?,
                    "bytes_before": c.entry.bytes, "bytes": size(c)?,
                });
                if c.recipe != Recipe::default() {
                    one["method"] = c.recipe.to_string().into();
                }
                if let Some(calibrated) = self.calibrated.as_ref().filter(|_| c.recipe.calibrates()) {
                    let Note { damping, dead, alpha } = calibrated.note(c.entry);
                    one["calibrated"] = calibrated.knows(c.entry)?.into();
                    damping.into_iter().for_each(|d| one["damping"] = d.into());
                    alpha.into_iter().for_each(|a| one["alpha"] = a.into());
                    if dead > 0 {
                        one["dead_channels"] = dead.into();
                    }
                }
                if let Some(told) = self.transforms.told(c.entry) {
                    one["transform"] = told.into();
                }
                if let Some((scheme, _)) = c.instead_of {
                    one["instead_of"] = scheme.to_string().into();
                }
                Ok(one)
            });
            let quantized = quantized.collect::<Result<Vec<Value>>>()?;
            let copied: Vec<_> = copied
                .iter()
                .map(|(e, why)| json!({"name": e.name, "bytes": e.bytes, "reason": why}))
                .collect();
            let mut whole = json!({
                "input": args.input, "output": args.output, "files": summary.names, "scheme": self.chooser.to_string(),
                "device": device, "quantized": quantized, "copied": copied, "bits_per_weight": if all.is_empty() { Value::Null } else { mean(&all)?.into() },
                "bytes_before": before, "bytes_after": bytes, "resumed": summary.resumed, "seconds": seconds,
            });
            let activations =
                self.activations.iter().map(|(name, a)| (name.to_string(), a.to_string().into()));
            let activations: serde_json::Map<_, _> = activations.collect();
            if !activations.is_empty() {
                whole["activations"] = activations.into();
            }
            if let Some((weights, met)) = met {
                whole["imatrix"] = json!({
                    "file": weights.path, "entries": weights.imatrix.weights.len(), "weighted": met.weighted,
                    "ignored": met.ignored, "missing": met.missing,
                });
            }
            return print::json(&whole);
        }
        let mut table = Table::new(&[
            ("", Align::Left),
            ("tensors", Align::Right),
            ("before", Align::Right),
            ("after", Align::Right),
        ]);
        let mut schemes: Vec<(Scheme, Recipe)> = Vec::new();
        all.iter()
            .map(|c| (c.scheme, c.recipe))
            .for_each(|way| schemes.extend(Some(way).filter(|w| !schemes.contains(w))));
        for (scheme, recipe) in &schemes {
            let of: Vec<&Chosen> =
                all.iter().copied().filter(|c| (c.scheme, c.recipe) == (*scheme, *recipe)).collect();
            let after = of.iter().map(|c| size(c)).sum::<Result<u64>>()?;
            let by = if *recipe == Recipe::default() { String::new() } else { format!(" by {recipe}") };
            table.row(vec![
                format!("quantized to {scheme}{by}, {:.3} bits per weight", mean(&of)?),
                of.len().to_string(),
                print::bytes(of.iter().map(|c| c.entry.bytes).sum()),
                print::bytes(after),
            ]);
        }
        let kept = print::bytes(copied.iter().map(|(e, _)| e.bytes).sum());
        table.row(vec!["copied".into(), copied.len().to_string(), kept.clone(), kept]);
        table.rule();
        let mixed = match schemes.len() {
            0 | 1 => String::new(),
            _ => format!("{}, {:.3} bits per weight; ", self.chooser, mean(&all)?),
        };
        let files = match summary.names.len() {
            1 => String::new(),
            n => format!(" in {n} shards"),
        };
        table.row(vec![
            format!(
                "{}{files} ({mixed}{:.2}x smaller, {seconds:.1} s on {device})",
                args.output.display(),
                before as f64 / *bytes as f64
            ),
            (chosen.len() + copied.len()).to_string(),
            print::bytes(before),
            print::bytes(*bytes),
        ]);
        let mut text = table.render();
        if let Some((weights, met)) = met {
            text += &format!(
                "importance of {}: {} weighted, {} without an entry in it, {} to schemes that do not weigh\n",
                weights.path.display(),
                print::count(met.weighted, "tensor"),
                met.missing.len(),
                met.ignored
            );
        }
        text += &activations::told(&self.activations);
        text += &self.transforms.line();
        if let Some(calibrated) =
            self.calibrated.as_ref().filter(|_| all.iter().any(|c| c.recipe.calibrates()))
        {
            let mut counts = [0; 3];
            for c in all.iter().filter(|c| c.recipe.calibrates()) {
                counts[usize::from(!calibrated.knows(c.entry)?)] += 1;
                counts[2] += usize::from(calibrated.note(c.entry).alpha.is_some());
            }
            let [known, unknown, scaled] = counts;
            let part = |n: usize, words: &str| if n > 0 { format!("; {n} {words}") } else { String::new() };
            text += &format!(
                "inputs of {}: known of {}{}{}\n",
                calibrated.path().display(),
                print::count(known, "tensor"),
                part(unknown, "are unknown and rounded to nearest"),
                part(scaled, "have scaled columns")
            );
        }
        if summary.resumed > 0 {
            text +=
                &format!("{} done by an interrupted run before\n", print::count(summary.resumed, "tensor"));
        }
        print::stdout(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nan_and_infinities_become_zero_in_every_type() {
        let odd = [f32::NAN, 1.0, f32::INFINITY, -f32::INFINITY, 65504.0, -0.0];
        let f32s = Tensor::from_f32([6], odd.to_vec()).unwrap();
        let f16s = Tensor::from_f16([6], &odd.map(half::f16::from_f32)).unwrap();
        let bytes = odd.iter().flat_map(|v| half::bf16::from_f32(*v).to_le_bytes()).collect();
        let bf16s = Tensor::from_bytes([6], DType::Bf16, bytes).unwrap();
        for tensor in [f32s, f16s, bf16s] {
            let kept = tensor.to_f32()[4];
            let (finite, n) = zero_nonfinite(tensor).unwrap();
            assert_eq!((n, &*finite.to_f32()), (3, &[0.0, 1.0, 0.0, 0.0, kept, -0.0][..]));
        }
    }
}
