//! `lowbit report`: what quantization did to a model, as a page that opens anywhere.
//!
//! ```text
//! ORIGINAL, QUANTIZED -> tensors of one name, one at a time -> errors (report::metrics), codes (quantize::census), histograms (report::distribution)
//!   -> measures of all layers, the worst first -> suggestions (report::advice) -> report_page -> HTML | JSON
//! ```
//!
//! Only measures are kept of a tensor, so memory is that of the largest one.

use super::compare::{decoded, is_number};
use super::output::{Output, write_text};
use super::print;
use super::report_page;
use super::{activations, inspect, open_engine, open_for, transforms};
use crate::configuration::exact_key;
use crate::engine::Engine;
use crate::file::hf::Weights;
use crate::file::{Activations, Content, Entry, Model, Transforms};
use crate::product::Activation;
use crate::quantize::census::Codes;
use crate::report::advice::{self, Advice, Known};
use crate::report::distribution::Distribution;
use crate::report::metrics::Errors;
use crate::{Error, Result, Scheme, Tensor, cpu};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Write a page about a quantized model: sizes, errors and histograms of each layer, what clips, what to keep higher
///
/// Everything is in the one file: it needs no network and no scripts, fits a phone and paper, and follows the light or dark of the system. The worst layers come first. Tensors that only
/// one of the models has, or that have another shape there, are named. A HuggingFace folder beside a GGUF file is mapped as `lowbit convert` does it.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
lowbit report model.safetensors small.safetensors -o report.html\n  \
lowbit report all-MiniLM-L6-v2/ minilm-q4_0.gguf -o report.html --force\n  \
lowbit report model.safetensors small.safetensors --json | jq '.layers[0]'\n\n\
JSON: {\"original\", \"quantized\": {\"path\", \"format\", \"tensors\", \"bytes\", \"bits_per_weight\"}, \"total\": {errors as of `lowbit compare`}, \"layers\": [{\"name\", \"shape\", \"scheme\", \"activations\", ..,\n\
\"clipped\": {\"weights\", \"share_of_error\"}, \"codes\", \"entropy\", \"histogram\"}], \"activations\", \"transforms\", \"left\", \"different\", \"only_in_original\", \"only_in_quantized\", \"other_shape\", \"suggestions\", ..}")]
pub struct Args {
    /// The model as it was
    #[arg(value_name = "ORIGINAL")]
    original: PathBuf,
    /// The quantized one
    #[arg(value_name = "QUANTIZED")]
    quantized: PathBuf,
    /// The page to write
    #[arg(short, long, value_name = "OUT", required_unless_present = "json")]
    output: Option<PathBuf>,
    /// Overwrite the page if it exists
    #[arg(short, long)]
    force: bool,
    /// Print the measures as JSON
    #[arg(long)]
    json: bool,
}

/// A tensor of both models whose numbers can be compared.
pub struct Layer {
    pub name: String,
    pub shape: Vec<usize>,
    pub scheme: String,
    /// What the layer takes by the file.
    pub activation: Activation,
    pub packed: Option<Scheme>,
    pub weights: u64,
    pub bits: f64,
    pub bytes: u64,
    pub bytes_before: u64,
    pub errors: Errors,
    pub codes: Codes,
    pub distribution: Distribution,
}

impl Layer {
    /// The share of weights that are clipped, and of the error that they make.
    pub fn clipped(&self) -> (f64, f64) {
        let share = |part: f64, whole: f64| if whole > 0.0 { part / whole } else { 0.0 };
        (
            share(self.codes.clipped as f64, self.weights as f64),
            share(self.codes.clipped_power, self.errors.error_power()),
        )
    }

    fn known(&self) -> Known<'_> {
        Known {
            name: &self.name,
            weights: self.weights,
            packed: self.packed.is_some(),
            bytes: self.bytes,
            sqnr_db: self.errors.sqnr_db(),
            clipped: self.clipped().1,
            bits: self.packed.map_or(0.0, |scheme| f64::from(scheme.bits)),
            entropy: self.codes.entropy(),
        }
    }
}

/// One of the models.
pub struct Side {
    pub path: String,
    pub format: &'static str,
    pub tensors: usize,
    pub bytes: u64,
    pub bits: Option<f64>,
}

impl Side {
    fn of(path: &std::path::Path, model: &Model) -> Self {
        let entries = model.entries();
        Self {
            path: path.display().to_string(),
            format: model.format_name(),
            tensors: entries.len(),
            bytes: model.bytes(),
            bits: inspect::average_bits(entries),
        }
    }

    fn to_json(&self) -> Value {
        json!({"path": self.path, "format": self.format, "tensors": self.tensors, "bytes": self.bytes, "bits_per_weight": self.bits})
    }
}

/// Everything that is told.
pub struct Report {
    pub device: String,
    pub original: Side,
    pub quantized: Side,
    /// As the quantized model says of itself, large values cut.
    pub metadata: Vec<(String, String)>,
    /// Of the quantized model's layers, by the names of their weights.
    pub activations: Activations,
    pub transforms: Transforms,
    pub total: Errors,
    /// The worst first.
    pub layers: Vec<Layer>,
    /// The places of layers in the order of the model.
    pub order: Vec<usize>,
    /// Plain tensors that are the same in both: name, type, bytes.
    pub left: Vec<(String, String, u64)>,
    /// No numbers, and not the same bytes.
    pub different: Vec<String>,
    pub only_original: Vec<String>,
    pub only_quantized: Vec<String>,
    /// Name and both shapes.
    pub other_shape: Vec<(String, String, String)>,
    /// A tensor's name and what to do about it.
    pub suggestions: Vec<(String, String)>,
    /// Lines of a scheme file that keep the worst layers higher.
    pub rules: Vec<String>,
}

/// Runs the subcommand.
pub fn run(args: &Args, device: Option<&str>) -> Result<()> {
    let quantized = Model::open(&args.quantized)?;
    let original = open_for(&args.original, quantized.format(), Weights::AsTheyAre)?;
    let inputs = original.paths().chain(quantized.paths());
    let output = args.output.as_deref().map(|path| Output::create(path, args.force, inputs)).transpose()?;
    let engine = pollster::block_on(open_engine(device))?;
    let report = Report::of(args, &engine, &original, &quantized)?;
    if let Some(output) = output {
        write_text(output, &report_page::html(&report)?)?;
    }
    if args.json {
        return print::json(&report.to_json());
    }
    let transformed = match transforms::stated(&report.transforms) {
        text if text.is_empty() => text,
        text => format!("inputs transformed: {text}\n"),
    };
    let told = report.suggestions.iter().take(TOLD).map(|(name, what)| format!("  {name}: {what}\n"));
    let told: String = told.collect();
    let page = args.output.iter().map(|path| path.display().to_string()).collect::<String>();
    print::stdout(&format!(
        "{page}: {}, SQNR {} dB, {} -> {}; {}\n{}{transformed}{told}",
        print::count(report.layers.len(), "layer"),
        report.total.sqnr_text(),
        print::bytes(report.original.bytes),
        print::bytes(report.quantized.bytes),
        print::count(report.suggestions.len(), "suggestion"),
        activations::told(&report.activations),
    ))
}

/// So many suggestions are printed; the page has all.
const TOLD: usize = 5;
/// Characters of a value of the metadata.
const LONG: usize = 200;

impl Report {
    fn of(args: &Args, engine: &Engine, original: &Model, quantized: &Model) -> Result<Self> {
        let metadata = quantized.metadata().iter();
        let mut report = Self {
            device: engine.info().name,
            original: Side::of(&args.original, original),
            quantized: Side::of(&args.quantized, quantized),
            activations: Activations::of(quantized.metadata(), &args.quantized)?,
            transforms: Transforms::of(quantized)?,
            metadata: metadata.map(|(key, value)| (key.to_string(), cut(&value.to_string()))).collect(),
            total: Errors::default(),
            layers: Vec::new(),
            order: Vec::new(),
            left: Vec::new(),
            different: Vec::new(),
            only_original: Vec::new(),
            only_quantized: Vec::new(),
            other_shape: Vec::new(),
            suggestions: Vec::new(),
            rules: Vec::new(),
        };
        let bar = print::progress(quantized.entries().len() as u64, "report");
        for after in quantized.entries() {
            print::at(&bar, &after.name);
            match original.entry(&after.name) {
                None if report.transforms.has_tensor(&after.name) => {}
                None => report.only_quantized.push(after.name.clone()),
                Some(before) if before.shape != after.shape => {
                    let shapes = [before, after].map(|e| print::shape(&e.shape));
                    let [before, after_shape] = shapes;
                    report.other_shape.push((after.name.clone(), before, after_shape));
                }
                Some(before) => report.take(engine, (original, before), (quantized, after))?,
            }
            bar.inc(1);
        }
        bar.finish_and_clear();
        let only = original.entries().iter().filter(|e| quantized.entry(&e.name).is_none());
        report.only_original = only.map(|e| e.name.clone()).collect();
        if report.layers.is_empty() && report.left.is_empty() {
            let what =
                format!("no float tensor of a name and shape that {} has too", args.original.display());
            return Err(Error::Nothing { path: args.quantized.clone(), what });
        }
        report.rank();
        report.suggest();
        Ok(report)
    }

    /// Takes in a tensor that both have.
    fn take(&mut self, engine: &Engine, a: (&Model, &Entry), b: (&Model, &Entry)) -> Result<()> {
        let (before, after) = (a.1, b.1);
        if !(is_number(before) && is_number(after)) {
            if before.content != after.content || a.0.raw(before) != b.0.raw(after) {
                self.different.push(after.name.clone());
            }
            return Ok(());
        }
        let (x, y) = (decoded(engine, a)?, decoded(engine, b)?);
        let (x, y) = (x.to_f32(), y.to_f32());
        let errors = Errors::of(&x, &y);
        self.total.merge(&errors);
        let packed = match after.content {
            Content::Packed { scheme, .. } => Some(scheme),
            _ => None,
        };
        if packed.is_none() && errors.exact() {
            self.left.push((after.name.clone(), after.scheme_name(), after.bytes));
        } else {
            let codes = match packed {
                Some(_) => codes(b, &x, &y)?,
                None => Codes::default(),
            };
            self.layers.push(Layer {
                name: after.name.clone(),
                shape: after.shape.clone(),
                scheme: after.scheme_name(),
                activation: self.activations.get(&after.name),
                packed,
                weights: after.len() as u64,
                bits: after.bits_per_weight(),
                bytes: after.bytes,
                bytes_before: before.bytes,
                errors,
                codes,
                distribution: Distribution::of(&x, &y),
            });
        }
        a.0.release(before);
        b.0.release(after);
        Ok(())
    }

    /// Brings the worst layers to the front; NaN is worse than all.
    fn rank(&mut self) {
        let mut ranked: Vec<(usize, Layer)> =
            std::mem::take(&mut self.layers).into_iter().enumerate().collect();
        let sqnr = |layer: &Layer| {
            let db = layer.errors.sqnr_db();
            if db.is_nan() { f64::NEG_INFINITY } else { db }
        };
        ranked.sort_by(|a, b| sqnr(&a.1).total_cmp(&sqnr(&b.1)));
        self.order = vec![0; ranked.len()];
        for (rank, (place, _)) in ranked.iter().enumerate() {
            self.order[*place] = rank;
        }
        self.layers = ranked.into_iter().map(|(_, layer)| layer).collect();
    }

    fn suggest(&mut self) {
        let left = self.left.iter().map(|(name, _, bytes)| Known {
            name,
            weights: 0,
            packed: false,
            bytes: *bytes,
            sqnr_db: f64::INFINITY,
            clipped: 0.0,
            bits: 0.0,
            entropy: 0.0,
        });
        let known: Vec<Known> = self.layers.iter().map(Layer::known).chain(left).collect();
        let found = advice::advice(&known);
        let higher = |at: &usize| self.layers.get(*at).and_then(|l| Some((l, higher(&l.packed?, &l.shape)?)));
        let keeps = found.iter().filter(|(_, advice)| matches!(advice, Advice::Keep { .. }));
        let rules: Vec<String> = keeps
            .filter_map(|(at, _)| higher(at))
            .map(|(layer, scheme)| format!("{} = \"{scheme}\"", exact_key(&layer.name)))
            .collect();
        self.suggestions =
            found.iter().map(|(at, advice)| (known[*at].name.to_string(), words(advice))).collect();
        self.rules = rules;
    }

    fn to_json(&self) -> Value {
        let layers: Vec<Value> = self.layers.iter().map(|layer| {
            let (weights, share) = layer.clipped();
            json!({
                "name": layer.name, "shape": layer.shape, "scheme": layer.scheme, "weights": layer.weights, "bits_per_weight": layer.bits,
                "activations": activation_json(&layer.activation), "bytes_before": layer.bytes_before, "bytes": layer.bytes, "errors": layer.errors,
                "clipped": {"weights": weights, "share_of_error": share}, "codes": layer.codes.counts, "entropy": layer.codes.entropy(),
                "histogram": layer.distribution,
            })
        }).collect();
        let named = |(name, what): &(String, String)| json!({"name": name, "what": what});
        json!({
            "lowbit": env!("CARGO_PKG_VERSION"), "device": self.device,
            "original": self.original.to_json(), "quantized": self.quantized.to_json(),
            "total": self.total, "layers": layers,
            "activations": activations::kinds(self.activations.iter().map(|(_, a)| a)).into_iter().collect::<BTreeMap<_, _>>(),
            "transforms": {"scaled": transforms::kinds(&self.transforms).0, "rotated": transforms::kinds(&self.transforms).1},
            "left": self.left.iter().map(|(name, dtype, bytes)| json!({"name": name, "type": dtype, "activations": activation_json(&self.activations.get(name)), "bytes": bytes})).collect::<Vec<_>>(),
            "different": self.different, "only_in_original": self.only_original, "only_in_quantized": self.only_quantized,
            "other_shape": self.other_shape.iter().map(|(name, a, b)| json!({"name": name, "original": a, "quantized": b})).collect::<Vec<_>>(),
            "suggestions": self.suggestions.iter().map(named).collect::<Vec<_>>(),
            "scheme_file": self.rules,
        })
    }
}

/// As the file has it: a precision, or a scale and a zero-point.
fn activation_json(activation: &Activation) -> Value {
    match activation {
        Activation::Int8Static(s) => json!({"scale": s.scale(), "zero_point": s.zero()}),
        other => other.to_string().into(),
    }
}

/// The start of a long text.
fn cut(text: &str) -> String {
    match text.char_indices().nth(LONG) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.into(),
    }
}

fn words(advice: &Advice) -> String {
    let percent = |share: &f64| format!("{:.0} %", 100.0 * share);
    match advice {
        Advice::Keep { below, gain, bytes } => format!(
            "keep it higher: {below:.1} dB below the median; a bit more would take {} off all relative errors, for {}",
            percent(gain),
            print::bytes(*bytes)
        ),
        Advice::Clips { share } => {
            format!(
                "clipped weights make {} of its error: try --method mse, or smaller groups",
                percent(share)
            )
        }
        Advice::Idle { bits, entropy } => format!(
            "its codes of {bits:.0} bits are worth {entropy:.1}: outliers set the scale; try --method mse, or smaller groups"
        ),
        Advice::Left { share } => {
            format!(
                "left as it is, and {} of the file: a scheme that fits it would save most of that",
                percent(share)
            )
        }
    }
}

/// A scheme with a bit more, of the same kind where there is one.
fn higher(scheme: &Scheme, shape: &[usize]) -> Option<Scheme> {
    const LADDERS: [&[&str]; 4] = [
        &["q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "q8_0"],
        &["tq1_0", "tq2_0", "q3_k"],
        &["q1_0", "q2_0", "q4_0", "q5_0", "q8_0"],
        &["q4_1", "q5_1", "q8_0"],
    ];
    let name = scheme.to_string();
    let next = |ladder: &&[&'static str]| {
        let at = ladder.iter().position(|step| *step == name)?;
        ladder.get(at + 1).copied()
    };
    let wider = || -> Option<Scheme> {
        let bits = if scheme.bits == 6 { 8 } else { scheme.bits + 1 };
        let rest = name.strip_prefix(&format!("int{}-", scheme.bits))?;
        format!("int{bits}-{rest}").parse().ok()
    };
    let of_ladder = LADDERS.iter().find_map(next).and_then(|name| name.parse().ok());
    let other = if scheme.ggml.is_some() { "q8_0" } else { "int8-row" };
    let found = of_ladder.or_else(wider).or_else(|| other.parse().ok());
    found.filter(|found| found != scheme && found.bits > scheme.bits && found.check_shape(shape).is_ok())
}

/// The codes of a packed weight, which are those of the transformed one where its inputs are transformed.
fn codes((model, entry): (&Model, &Entry), x: &[f32], y: &[f32]) -> Result<Codes> {
    let packed = model.packed(entry)?;
    let Some(by) = Transforms::of(model)?.read(model, entry)? else { return Ok(Codes::of(&packed, x, y)) };
    let turned = |v: &[f32]| cpu::transform_weight(&Tensor::from_f32(entry.shape.clone(), v.to_vec())?, &by);
    let (x, y) = (turned(x)?, turned(y)?);
    Ok(Codes::of(&packed, &x.to_f32(), &y.to_f32()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bit_more_is_of_the_same_kind() {
        let of = |name: &str, k: usize| {
            higher(&name.parse().unwrap(), &[4, k]).map_or("none".into(), |scheme| scheme.to_string())
        };
        for (name, expected) in [
            ("q4_k", "q5_k"),
            ("q6_k", "q8_0"),
            ("q4_0", "q5_0"),
            ("iq4_nl", "q8_0"),
            ("q8_0", "none"),
            ("int4-g32", "int5-g32"),
            ("int6-g64-asym", "int8-g64-asym"),
            ("int8-row", "none"),
            ("nf4-g64", "int8-row"),
        ] {
            assert_eq!(of(name, 256), expected, "{name}");
        }
        assert_eq!(of("q5_0", 32), "q8_0");
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        assert_eq!(cut("short"), "short");
        let long = cut(&"é".repeat(300));
        assert_eq!(long.chars().count(), 201);
    }
}
