//! `lowbit plan`: which scheme each layer gets, so that the error is least within a budget.
//!
//! ```text
//! MODEL, --schemes -> for each layer: the schemes that fit it, their bytes in a file, their errors (quantize::sensitivity) -> a table
//! table, budget -> quantize::plan -> a scheme file, for `quantize --config`
//! table, budgets from the smallest to the largest -> the error-size curve -> table | JSON, SVG
//! ```
//!
//! One layer at a time is in memory, once for each scheme. Nothing is written of the model.

use super::assign::{Assignment, Chooser, Chosen, Reason};
use super::output::{Output, write_text};
use super::print::{self, Align, Table};
use super::quantize::plan_copy;
use super::stream::parse_size;
use super::{Compiled, Filter, open_engine, open_for, output_format};
use crate::calibrate::Statistics;
use crate::configuration::{self, exact_key};
use crate::engine::Engine;
use crate::file::hf::Weights;
use crate::file::{Entry, Format, Item, Model, Plan};
use crate::quantize::plan::{Allocation, Candidate, allocate, smallest};
use crate::quantize::sensitivity::Layer;
use crate::quantize::{Algorithm, Recipe};
use crate::report::size_plot::{self, Point};
use crate::scheme::Method;
use crate::scheme::mix::Choice;
use crate::{DType, Error, Result, Scheme};
use regex::Regex;
use serde_json::{Value, json};
use std::fmt;
use std::path::{Path, PathBuf};

/// Choose a scheme for each layer: the least error within a budget of bits or bytes
///
/// Each layer is quantized in each of the schemes and compared with what it was. Its error is the noise as a share of the signal: |W - W'|^2 / |W|^2, or, with the statistics of
/// `lowbit calibrate`, that of the layer's outputs, tr(D H D^T) / tr(W H W^T) with H = X^T X (layers without statistics, such as tables of words, keep the first). The plan has the
/// least sum of errors that the budget allows, exactly: sizes are those in the file, groups and scales and padding included. OUT is for `lowbit quantize --config`.
///
/// The table shows what other budgets would give; a layer that no scheme fits stays as it is and is named.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
lowbit plan model.safetensors --budget 4.25 -o plan.toml\n  \
lowbit quantize model.safetensors -o small.safetensors --config plan.toml\n  \
lowbit plan all-MiniLM-L6-v2/ --budget 4.25 --calibration stats.safetensors -o plan.toml --svg curve.svg\n  \
lowbit plan model.safetensors --bytes 12MB --schemes int2-g32:mse,int3-g32:mse,int4-g128:mse,int8-row\n  \
lowbit plan llama-folder/ --to gguf --budget 4.5 --schemes q3_k,q4_k,q5_k,q6_k,q8_0 --pin 'output\\.weight=q6_k'\n\n\
JSON: {\"budget\": {\"bits_per_weight\", \"bytes\"}, \"plan\": {\"bits_per_weight\", \"bytes\", \"error\", \"exact\", \"bound\"}, \"layers\": [{\"name\", \"shape\", \"scheme\", \"bytes\", \"error\",\n\
\"calibrated\", \"schemes\": [{\"scheme\", \"bytes\", \"error\"}]}], \"curve\": [{\"bits_per_weight\", \"bytes\", \"error\"}], \"uniform\": [{\"scheme\", ..}], \"copied\": {\"tensors\", \"bytes\"}}")]
pub struct Args {
    /// A safetensors, GGUF or ONNX file, an index of shards, or a folder with one of them
    #[arg(value_name = "MODEL")]
    model: PathBuf,
    /// Bits per weight of the layers that are planned, their scales included
    #[arg(long, value_name = "BITS", required_unless_present = "bytes", conflicts_with = "bytes")]
    budget: Option<f64>,
    /// Bytes of all tensors of the file, those that stay as they are included: 12MB, 4GiB
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    bytes: Option<u64>,
    /// The schemes to choose from, each with a method if need be (int4-g128:mse); default: a dozen steps from 2 to 8 bits that the format has
    #[arg(long, value_name = "SCHEMES", value_delimiter = ',')]
    schemes: Vec<String>,
    /// Statistics of `lowbit calibrate` for this model: errors are those of the layers' outputs
    #[arg(long, value_name = "FILE")]
    calibration: Option<PathBuf>,
    /// The scheme of the layers whose name matches, RE=SCHEME (may be given several times)
    #[arg(long, value_name = "RE=SCHEME")]
    pin: Vec<String>,
    #[command(flatten)]
    filter: Filter,
    /// The scheme file to write
    #[arg(short, long, value_name = "OUT")]
    output: Option<PathBuf>,
    /// The format that the model will be quantized into, `lowbit` (safetensors), `gguf` or `onnx`: it decides names and sizes
    #[arg(long, value_name = "FORMAT", default_value = "lowbit")]
    to: String,
    /// Plot the error against the size
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Overwrite outputs that exist
    #[arg(short, long)]
    force: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Steps of the error-size curve.
const STEPS: u32 = 16;
/// So many tensors that no scheme fits are named on stderr, the others counted.
const NAMED: usize = 10;

/// What is chosen from where nothing is named, by the format.
fn usual(format: &Format) -> &'static [&'static str] {
    match format.name {
        "gguf" => &["q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0"],
        "onnx" => &["int2-g32:mse", "int4-g128:mse", "int4-g32:mse", "int8-g128", "int8-g32"],
        _ => &[
            "int2-g32:mse",
            "int3-g64:mse",
            "int3-g32:mse",
            "int4-g128:mse",
            "int4-g32:mse",
            "int5-g64",
            "int6-g64",
            "int8-row",
        ],
    }
}

/// A scheme and how its scales are found.
#[derive(Clone, Copy, PartialEq)]
struct Way {
    scheme: Scheme,
    method: Method,
}

impl Way {
    fn parse(words: &str) -> Result<Self> {
        let configuration::Weights::To(choice, Recipe { algorithm, method }) = words.parse()? else {
            return Err(Error::Usage(format!("'{words}' is no scheme; a plan chooses from those")));
        };
        if algorithm != Algorithm::Nearest {
            let why = "a plan takes methods that look at weights alone; gptq and awq may be added to the lines of the scheme file that it writes";
            return Err(Error::Usage(format!("'{words}': {why}")));
        }
        let Choice::Scheme(scheme) = choice else {
            return Err(Error::Usage(format!("'{words}' is a mix; a plan chooses from schemes")));
        };
        method.form(&scheme)?;
        Ok(Self { scheme, method })
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.method {
            Method::Own => write!(f, "{}", self.scheme),
            method => write!(f, "{}:{method}", self.scheme),
        }
    }
}

/// A layer's scheme, stated.
struct Pin {
    text: String,
    pattern: Regex,
    way: Way,
}

impl Pin {
    fn parse(text: &str) -> Result<Self> {
        let wrong = |why: String| Error::Usage(format!("--pin '{text}': {why}"));
        let (pattern, way) = text.rsplit_once('=').ok_or_else(|| wrong("RE=SCHEME is wanted".into()))?;
        let pattern = Regex::new(pattern).map_err(|e| wrong(e.to_string()))?;
        Ok(Self { text: text.into(), pattern, way: Way::parse(way)? })
    }

    /// The scheme that the pins state for a name.
    fn of(pins: &[Self], name: &str) -> Result<Option<Way>> {
        let mut found: Option<&Self> = None;
        for pin in pins.iter().filter(|pin| pin.pattern.is_match(name)) {
            match found {
                Some(first) if first.way != pin.way => {
                    let both = format!("--pin '{}' and --pin '{}'", first.text, pin.text);
                    return Err(Error::Usage(format!("{both} contradict each other for '{name}'")));
                }
                _ => found = Some(pin),
            }
        }
        Ok(found.map(|pin| pin.way))
    }
}

/// A layer that is planned: what it can be, and what that costs.
struct Planned<'a> {
    entry: &'a Entry,
    source: DType,
    ways: Vec<Way>,
    /// Of each way; errors are 0 until they are measured.
    candidates: Vec<Candidate>,
    calibrated: bool,
}

/// The layers of a model, and what is left of it.
struct Layers<'a> {
    layers: Vec<Planned<'a>>,
    weights: u64,
    copied: usize,
    copied_bytes: u64,
}

/// Bytes for a number of bits per weight, rounded down.
fn bytes_of(bits: f64, weights: u64) -> u64 {
    (bits * weights as f64 / 8.0) as u64
}

/// A sum of errors for people.
fn sum(error: f64) -> String {
    if error >= 1e-4 { format!("{error:.6}") } else { format!("{error:.3e}") }
}

fn bits_of(bytes: u64, weights: u64) -> f64 {
    8.0 * bytes as f64 / weights as f64
}

/// Runs the subcommand.
pub fn run(args: &Args, device: Option<&str>) -> Result<()> {
    let format = output_format(Some(&args.to), Path::new(""))?;
    let filter = args.filter.compile()?;
    let pins = args.pin.iter().map(|text| Pin::parse(text)).collect::<Result<Vec<_>>>()?;
    let ways = match args.schemes.as_slice() {
        [] => usual(format).iter().map(|words| Way::parse(words)).collect::<Result<Vec<_>>>()?,
        named => named.iter().map(|words| Way::parse(words)).collect::<Result<Vec<_>>>()?,
    };
    if let Some(bits) = args.budget.filter(|bits| !(bits.is_finite() && *bits > 0.0)) {
        return Err(Error::Usage(format!("--budget {bits}: bits per weight are above 0")));
    }
    let statistics = args.calibration.as_deref().map(Statistics::open).transpose()?;
    let model = open_for(&args.model, format, Weights::AsTheyAre)?;
    let mut table = sort(args, format, &model, &filter, &ways, &pins)?;
    let budget = budget(args, &table)?;
    let inputs = || model.paths().chain(args.calibration.as_deref());
    let create = |path: &Path| Output::create(path, args.force, inputs());
    let output = args.output.as_deref().map(create).transpose()?;
    let svg = args.svg.as_deref().map(create).transpose()?;
    let engine = pollster::block_on(open_engine(device))?;
    measure(&engine, &model, statistics.as_ref(), &mut table.layers)?;
    if statistics.is_some() && !table.layers.iter().any(|layer| layer.calibrated) {
        let what = format!("of no layer that is planned of {}", args.model.display());
        return Err(Error::Nothing { path: args.calibration.clone().unwrap_or_default(), what });
    }
    let result = Outcome::of(table, budget)?;
    if let Some(output) = output {
        write_text(output, &result.scheme_file(args))?;
    }
    if let Some(svg) = svg {
        write_text(svg, &result.picture(args)?)?;
    }
    result.report(args, &engine.info().name)
}

/// Parts layers from what stays as it is, and finds the schemes and sizes of each.
fn sort<'a>(
    args: &Args,
    format: &'static Format,
    model: &'a Model,
    filter: &Compiled,
    ways: &[Way],
    pins: &[Pin],
) -> Result<Layers<'a>> {
    let mut table = Layers { layers: Vec::new(), weights: 0, copied: 0, copied_bytes: 0 };
    let mut unfit = Vec::new();
    let chooser = |way: &Way| Chooser::One(Choice::Scheme(way.scheme), way.method.into());
    let choosers: Vec<Chooser> = ways.iter().map(chooser).collect();
    let assign = |chooser| Assignment::new(chooser, filter, model, false);
    let assignments: Vec<Assignment> = choosers.iter().map(assign).collect();
    for (i, entry) in model.entries().iter().enumerate() {
        let pinned = Pin::of(pins, &entry.name)?;
        let chosen: Vec<_> = match pinned {
            Some(way) => {
                let chooser = chooser(&way);
                vec![(way, Assignment::new(&chooser, filter, model, false).choose(i, entry))]
            }
            None => ways.iter().zip(&assignments).map(|(way, a)| (*way, a.choose(i, entry))).collect(),
        };
        let mut layer = Planned {
            entry,
            source: DType::F32,
            ways: Vec::new(),
            candidates: Vec::new(),
            calibrated: false,
        };
        let mut why = None;
        for (way, chosen) in chosen {
            let fits = match chosen {
                Ok(chosen) => packed_bytes(format, &chosen).map(|bytes| (chosen.source, bytes)),
                Err(Reason::Unfit(error)) => Err(error.in_tensor(&entry.name)),
                Err(Reason::NotSelected(_)) => continue,
            };
            match fits {
                Ok((source, bytes)) => {
                    layer.source = source;
                    layer.ways.push(way);
                    layer.candidates.push(Candidate { bytes, error: 0.0 });
                }
                Err(error) if pinned.is_some() => return Err(error),
                Err(error) => why = Some(error),
            }
        }
        if layer.ways.is_empty() {
            unfit.extend(why.map(|why| why.to_string()));
            table.copied += 1;
            table.copied_bytes += bytes_as_it_is(format, entry)?;
        } else {
            table.weights += entry.len() as u64;
            table.layers.push(layer);
        }
    }
    warn(args, model, filter, pins, &table.layers);
    unfit.iter().take(NAMED).for_each(|line| print::note(&format!("lowbit: left as it is: {line}")));
    if let Some(more) = unfit.len().checked_sub(NAMED).filter(|&n| n > 0) {
        print::note(&format!("lowbit: and {more} more that no scheme fits"));
    }
    if table.layers.is_empty() {
        let example = unfit.first().map_or(String::new(), |line| format!("; for example {line}"));
        let what = format!("no layer to plan{example}");
        return Err(Error::Nothing { path: args.model.clone(), what });
    }
    Ok(table)
}

/// What a layer takes in a file that can hold it in its scheme.
fn packed_bytes(format: &Format, chosen: &Chosen) -> Result<u64> {
    let (name, shape) = (chosen.entry.name.clone(), chosen.entry.shape.clone());
    let item = Item::Packed { name, scheme: chosen.scheme, shape, source: chosen.source };
    format.check(&item)?;
    format.data_bytes(&item)
}

/// What an entry takes in a file that holds it as it is.
fn bytes_as_it_is(format: &Format, entry: &Entry) -> Result<u64> {
    let mut plan = Plan::default();
    plan_copy(&mut plan, entry)?;
    plan.items().iter().map(|item| format.data_bytes(item)).sum()
}

/// Tells of patterns that match nothing.
fn warn(args: &Args, model: &Model, filter: &Compiled, pins: &[Pin], layers: &[Planned]) {
    let names = || model.entries().iter().map(|e| e.name.as_str());
    let sieves = [
        ("--include", &args.filter.include, &filter.include),
        ("--exclude", &args.filter.exclude, &filter.exclude),
    ];
    for (option, text, pattern) in sieves {
        if let (Some(text), Some(pattern)) = (text, pattern)
            && !names().any(|name| pattern.is_match(name))
        {
            print::note(&format!("lowbit: {option} '{text}' matches no tensor"));
        }
    }
    for pin in pins {
        if !layers.iter().any(|layer| pin.pattern.is_match(&layer.entry.name)) {
            print::note(&format!("lowbit: --pin '{}' matches no layer that is planned", pin.text));
        }
    }
}

/// The bytes that the layers may have.
fn budget(args: &Args, table: &Layers) -> Result<u64> {
    let candidates: Vec<_> = table.layers.iter().map(|layer| layer.candidates.clone()).collect();
    let least = smallest(&candidates).ok_or_else(|| Error::Check { what: "sizes beyond count".into() })?;
    let wanted = match args.bytes {
        Some(bytes) => bytes.checked_sub(table.copied_bytes),
        None => Some(bytes_of(args.budget.unwrap_or_default(), table.weights)),
    };
    match wanted.filter(|bytes| *bytes >= least) {
        Some(bytes) => Ok(bytes),
        None => Err(Error::Usage(match args.bytes {
            Some(bytes) => {
                let all = least + table.copied_bytes;
                format!("--bytes {bytes}: the smallest that these schemes allow is {all}")
            }
            // Rounded up, so that it is one that passes.
            None => format!(
                "--budget {}: the smallest that these schemes allow is {:.4} bits per weight",
                args.budget.unwrap_or_default(),
                (bits_of(least, table.weights) * 1e4).ceil() / 1e4
            ),
        })),
    }
}

/// Finds the errors of all layers.
fn measure(
    engine: &Engine,
    model: &Model,
    statistics: Option<&Statistics>,
    layers: &mut [Planned],
) -> Result<()> {
    let steps: usize = layers.iter().map(|layer| layer.ways.len()).sum();
    let bar = print::progress(steps as u64, "plan");
    for layer in layers {
        let entry = layer.entry;
        print::at(&bar, &entry.name);
        let of = |statistics: &'_ Statistics| {
            let found = statistics.of(&entry.name).or_else(|| statistics.of(entry.name_in_file()));
            found.map(|inputs| inputs.moments.clone())
        };
        let moments = statistics.and_then(of);
        layer.calibrated = moments.is_some();
        let tensor = model.tensor(entry)?;
        pollster::block_on(async {
            let measured = Layer::new(engine, &entry.name, &tensor, moments.as_deref()).await?;
            let (mut held, mut why) = (Vec::new(), None);
            for (way, mut candidate) in layer.ways.iter().copied().zip(layer.candidates.iter().copied()) {
                match measured.error(&way.scheme, way.method).await {
                    Ok(error) => {
                        candidate.error = error;
                        held.push((way, candidate));
                    }
                    // Beyond what the scheme's scales hold: another one may hold it.
                    Err(error @ Error::NotRepresentable { .. }) => why = Some(error),
                    Err(error) => return Err(error),
                }
                bar.inc(1);
            }
            if let Some(error) = why.filter(|_| held.is_empty()) {
                return Err(error);
            }
            (layer.ways, layer.candidates) = held.into_iter().unzip();
            Ok(())
        })?;
        model.release(entry);
    }
    bar.finish_and_clear();
    Ok(())
}

/// A point of the error-size curve.
struct Step {
    bytes: u64,
    error: f64,
    exact: bool,
}

/// What is told in the end.
struct Outcome<'a> {
    table: Layers<'a>,
    budget: u64,
    plan: Allocation,
    curve: Vec<Step>,
    /// One way for all layers: its bytes and its error.
    uniform: Vec<(Way, u64, f64)>,
}

impl<'a> Outcome<'a> {
    fn of(table: Layers<'a>, budget: u64) -> Result<Self> {
        let candidates: Vec<_> = table.layers.iter().map(|layer| layer.candidates.clone()).collect();
        let plan = allocate(&candidates, budget)?;
        let largest: u64 = candidates.iter().flat_map(|c| c.iter().map(|c| c.bytes).max()).sum();
        let least = smallest(&candidates).unwrap_or(budget);
        let mut curve: Vec<Step> = Vec::new();
        for i in 0..=STEPS {
            let bytes = least + (u128::from(largest - least) * u128::from(i) / u128::from(STEPS)) as u64;
            let Allocation { bytes, error, exact, .. } = allocate(&candidates, bytes)?;
            if curve.last().is_none_or(|last| last.bytes < bytes) {
                curve.push(Step { bytes, error, exact });
            }
        }
        let mut uniform: Vec<(Way, u64, f64)> = Vec::new();
        for way in table.layers.iter().flat_map(|layer| &layer.ways) {
            if uniform.iter().any(|(seen, ..)| seen == way) {
                continue;
            }
            let of = |layer: &Planned| {
                let at = layer.ways.iter().position(|w| w == way)?;
                Some((layer.candidates[at].bytes, layer.candidates[at].error))
            };
            let of_all: Option<Vec<(u64, f64)>> = table.layers.iter().map(of).collect();
            uniform.extend(
                of_all.map(|all| (*way, all.iter().map(|a| a.0).sum(), all.iter().map(|a| a.1).sum())),
            );
        }
        Ok(Self { table, budget, plan, curve, uniform })
    }

    /// Each layer with what it gets.
    fn picked(&self) -> impl Iterator<Item = (&Planned<'a>, Way, Candidate)> {
        let layers = self.table.layers.iter().zip(&self.plan.picked);
        layers.map(|(layer, &at)| (layer, layer.ways[at], layer.candidates[at]))
    }

    fn bits(&self, bytes: u64) -> f64 {
        bits_of(bytes, self.table.weights)
    }

    /// The noise of the mean layer, as an SQNR.
    fn decibels(&self, error: f64) -> String {
        match error {
            0.0 => "exact".into(),
            _ => format!("{:.2}", -10.0 * (error / self.table.layers.len() as f64).log10()),
        }
    }

    fn scheme_file(&self, args: &Args) -> String {
        let mut text = format!(
            "# lowbit {} plan of {}: {:.3} bits per weight, sum of errors {}\ndefault = \"copy\"\n[tensors]\n",
            env!("CARGO_PKG_VERSION"),
            print::visible(&args.model.display().to_string()).replace('\n', " "),
            self.bits(self.plan.bytes),
            sum(self.plan.error)
        );
        for (layer, way, _) in self.picked() {
            text += &format!("{} = \"{way}\"\n", exact_key(&layer.entry.name));
        }
        text
    }

    fn picture(&self, args: &Args) -> Result<String> {
        let mut points: Vec<Point> = self
            .uniform
            .iter()
            .map(|(way, bytes, error)| Point { name: way.to_string(), bytes: *bytes, error: *error })
            .collect();
        points.push(Point { name: "the plan".into(), bytes: self.plan.bytes, error: self.plan.error });
        let curve: Vec<(u64, f64)> = self.curve.iter().map(|step| (step.bytes, step.error)).collect();
        let title = format!("Error against size of {}", args.model.display());
        let below = format!(
            "{}; {} weights; the line is the best plan of each size",
            print::count(self.table.layers.len(), "layer"),
            self.table.weights
        );
        let picture = size_plot::svg(&title, &below, "sum of the layers' errors", &points, &curve);
        picture.map_err(|what| Error::Check { what: format!("the plot: {what}") })
    }

    fn report(&self, args: &Args, device: &str) -> Result<()> {
        if args.json {
            return print::json(&self.to_json(args, device));
        }
        let mut curve = Table::new(&[
            ("best plans", Align::Left),
            ("bits/weight", Align::Right),
            ("size", Align::Right),
            ("error", Align::Right),
            ("SQNR dB", Align::Right),
        ]);
        let row = |name: &str, bytes: u64, error: f64| {
            let (bits, error_text) = (format!("{:.3}", self.bits(bytes)), sum(error));
            vec![name.to_string(), bits, print::bytes(bytes), error_text, self.decibels(error)]
        };
        let Allocation { bytes, error, .. } = self.plan;
        let (below, above): (Vec<&Step>, Vec<&Step>) =
            self.curve.iter().filter(|s| s.bytes != bytes).partition(|s| s.bytes < bytes);
        below.iter().for_each(|step| curve.row(row("", step.bytes, step.error)));
        curve.row(row("this plan", bytes, error));
        above.iter().for_each(|step| curve.row(row("", step.bytes, step.error)));
        if !self.uniform.is_empty() {
            curve.rule();
            self.uniform.iter().for_each(|(way, bytes, error)| {
                curve.row(row(&format!("all {way}"), *bytes, *error));
            });
        }
        let mut chosen = Table::new(&[
            ("scheme", Align::Left),
            ("layers", Align::Right),
            ("weights", Align::Right),
            ("size", Align::Right),
            ("error", Align::Right),
        ]);
        let mut ways: Vec<Way> = Vec::new();
        self.picked().for_each(|(_, way, _)| ways.extend(Some(way).filter(|way| !ways.contains(way))));
        for way in ways {
            let of: Vec<_> = self.picked().filter(|(_, w, _)| *w == way).collect();
            let weights: u64 = of.iter().map(|(layer, ..)| layer.entry.len() as u64).sum();
            chosen.row(vec![
                way.to_string(),
                of.len().to_string(),
                format!("{:.1} %", 100.0 * weights as f64 / self.table.weights as f64),
                print::bytes(of.iter().map(|(.., c)| c.bytes).sum()),
                sum(of.iter().map(|(.., c)| c.error).sum()),
            ]);
        }
        let calibrated = self.table.layers.iter().filter(|layer| layer.calibrated).count();
        let how = match calibrated {
            0 => "errors of weights".to_string(),
            n => format!("errors of outputs for {n} of {} layers", self.table.layers.len()),
        };
        let best = match self.plan.exact {
            true => "no plan within the budget has less".to_string(),
            false => {
                format!("no plan has less than {}; there are too many to know more", sum(self.plan.bound))
            }
        };
        let all = print::bytes(bytes + self.table.copied_bytes);
        let copied = print::count(self.table.copied, "tensor");
        let mut text = format!("{}\n{}", curve.render(), chosen.render());
        text += &format!(
            "{:.3} bits per weight; {all} with {copied} that stay as they are; {how}; {best}; {device}\n",
            self.bits(bytes)
        );
        if let Some(output) = &args.output {
            text += &format!("{}: for lowbit quantize --config\n", output.display());
        }
        print::stdout(&text)
    }

    fn to_json(&self, args: &Args, device: &str) -> Value {
        let of = |bytes: u64, error: f64| json!({"bits_per_weight": self.bits(bytes), "bytes": bytes, "error": error});
        let with = |mut value: Value, key: &str, what: Value| {
            value[key] = what;
            value
        };
        let layers: Vec<Value> = self
            .picked()
            .map(|(layer, way, candidate)| {
                let measured = layer.ways.iter().zip(&layer.candidates);
                let schemes: Vec<Value> = measured
                    .map(|(w, c)| json!({"scheme": w.to_string(), "bytes": c.bytes, "error": c.error}))
                    .collect();
                json!({
                    "name": layer.entry.name, "shape": layer.entry.shape, "dtype": layer.source.to_string(), "scheme": way.to_string(),
                    "bytes": candidate.bytes, "error": candidate.error, "calibrated": layer.calibrated, "schemes": schemes,
                })
            })
            .collect();
        let plan = of(self.plan.bytes, self.plan.error);
        let plan = with(plan, "exact", self.plan.exact.into());
        let curve: Vec<Value> =
            self.curve.iter().map(|s| with(of(s.bytes, s.error), "exact", s.exact.into())).collect();
        let uniform: Vec<Value> = self
            .uniform
            .iter()
            .map(|(way, bytes, error)| with(of(*bytes, *error), "scheme", way.to_string().into()))
            .collect();
        json!({
            "model": args.model, "output": args.output, "calibration": args.calibration, "device": device,
            "budget": {"bits_per_weight": self.bits(self.budget), "bytes": self.budget},
            "plan": with(plan, "bound", self.plan.bound.into()),
            "layers": layers, "curve": curve, "uniform": uniform,
            "copied": {"tensors": self.table.copied, "bytes": self.table.copied_bytes},
        })
    }
}
