//! `lowbit train-digits`: what quantization after training costs, and what training with it wins back, on handwritten digits.
//!
//! ```text
//! for each seed:  random network -> train in f32 -> f32 ─┬─ each scheme, each method: quantize -> accuracy (PTQ)
//!                                                        └─ each scheme: train on from there, the f32 network its teacher -> pack -> accuracy (QAT)
//! means over the seeds -> table | JSON, SVG; the packed network of the first seed -> a file that `lowbit demo --model` runs
//! ```
//!
//! Accuracy is that of products with packed weights, on digits that training never saw. Seeds run side by side on the CPU. A scheme's training draws its random numbers
//! from its own name, so that its figures do not depend on what else is in the list (but with --gradual, which trains through others of it).

use super::digits::{CLASSES, Digits, WIDTHS, shift};
use super::output::{self, Output, write_text};
use super::print::{self, Align, Table};
use super::{on_threads, open_engine};
use crate::engine::{Engine, MatmulOptions, PackedArray};
use crate::file::{Dtype, Metadata, Plan as FilePlan, Writer, write::FORMATS};
use crate::learning::Distillation;
use crate::product::Function;
use crate::random::Random;
use crate::report::accuracy_plot::{self, Series};
use crate::scheme::Method;
use crate::train::{Examples, Network, Plan, Settings, Trainer, answers, fit};
use crate::{DType, Error, PackedTensor, Result, Scheme};
use indicatif::ProgressBar;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Train handwritten digits in f32, then quantize (PTQ), or train on in few bits (QAT)
///
/// A network of three layers learns 1437 of the digits that lowbit ships and is asked for 360 others. Each scheme's codes and scales are found after training by every method
/// that the scheme takes, and in training: fake-quantized weights, learned steps (LSQ), the f32 network as teacher. Figures are means over the seeds. Needs no file and no
/// network; on the CPU a seed always gives the same result. Ctrl-C prints what is there so far.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
lowbit train-digits\n  \
lowbit train-digits --seeds 1 --schemes int2-row -o digits-int2.safetensors\n  \
lowbit demo --model digits-int2.safetensors\n\n\
JSON: {\"seeds\", \"device\", \"f32\": {\"mean\", \"each\"}, \"schemes\": [{\"scheme\", \"ptq\": {METHOD: {\"mean\", \"each\"}}, \"best_ptq\", \"qat\": {\"mean\", \"each\"}, \"gap_closed\"}],\n\
\"complete\", \"seconds\"}; accuracies are from 0 to 1, gap_closed is the part of what the best PTQ loses that QAT wins back.")]
pub struct Args {
    /// Networks to train, each from its own random weights
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=100))]
    seeds: u64,
    /// Schemes to quantize to, integers with a step for each group
    #[arg(
        long,
        value_name = "SCHEME,..",
        value_delimiter = ',',
        default_value = "int8-row,int4-row,int3-row,int2-row"
    )]
    schemes: Vec<String>,
    /// Epochs of training in f32
    #[arg(long, value_name = "N", default_value_t = 100)]
    epochs: usize,
    /// Epochs of training in each scheme, after that in f32
    #[arg(long, value_name = "N", default_value_t = 30)]
    qat_epochs: usize,
    /// Come to the bits of each scheme gradually, through those of the schemes of more bits before it in the list; epochs are shared out
    #[arg(long)]
    gradual: bool,
    /// T of distillation: scores are divided by it
    #[arg(long, value_name = "T", default_value_t = 3.0)]
    temperature: f32,
    /// The teacher's share of the loss, from 0 to 1
    #[arg(long, value_name = "SHARE", default_value_t = 0.7)]
    share: f32,
    /// Operands of training's products in f16, with a scale of the loss that follows what f16 holds
    #[arg(long)]
    half: bool,
    /// Write the packed network of the first seed and the last scheme (safetensors)
    #[arg(short, long, value_name = "OUT")]
    output: Option<PathBuf>,
    /// Plot accuracy against bits
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Overwrite outputs that exist
    #[arg(short, long)]
    force: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// How a network came to its weights.
#[derive(Clone, Copy, Debug, PartialEq)]
enum How {
    Float,
    Ptq(Method),
    Qat,
}

/// A network that was asked.
struct Outcome {
    seed: u64,
    /// By its place in the list.
    scheme: Option<usize>,
    how: How,
    accuracy: f64,
}

/// What seeds share.
struct Task<'a> {
    args: &'a Args,
    engine: &'a Engine,
    schemes: Vec<Scheme>,
    examples: Examples,
    unseen: Digits,
    bar: ProgressBar,
    outcomes: Mutex<Vec<Outcome>>,
    /// The network to write.
    packed: Mutex<Option<(Network, Vec<PackedTensor>)>>,
}

/// Runs the subcommand.
pub fn run(args: &Args, device: Option<&str>) -> Result<()> {
    let started = Instant::now();
    let schemes = args.schemes.iter().map(|name| name.trim().parse()).collect::<Result<Vec<Scheme>>>()?;
    if !((0.0..=1.0).contains(&args.share) && args.temperature.is_finite() && args.temperature > 0.0) {
        let what = format!(
            "--temperature {} --share {}: T is positive, a share is in 0..=1",
            args.temperature, args.share
        );
        return Err(Error::Usage(what));
    }
    let output = |path: &PathBuf| Output::create(path, args.force, None);
    let file = args.output.as_ref().map(output).transpose()?;
    let svg = args.svg.as_ref().map(output).transpose()?;
    let engine = pollster::block_on(open_engine(device))?;
    let learned = Digits::to_learn_from()?;
    let epochs = args.epochs + schemes.len() * args.qat_epochs;
    let task = Task {
        args,
        engine: &engine,
        examples: Examples::new(&learned.x, &learned.labels, CLASSES)?,
        unseen: Digits::held_out()?,
        bar: print::progress(args.seeds * epochs as u64, "train-digits"),
        schemes,
        outcomes: Mutex::default(),
        packed: Mutex::default(),
    };
    output::stop_between();
    let seeds = on_threads(args.seeds as usize, |seed| pollster::block_on(task.seed(seed as u64)));
    seeds.into_iter().collect::<Result<()>>()?;
    task.bar.finish_and_clear();
    let (device, seconds) = (engine.info().name, started.elapsed().as_secs_f64());
    let rows = Rows::of(&task);
    if let Some(svg) = svg {
        let below = format!(
            "{} held-out digits, {}; {device}",
            task.unseen.labels.len(),
            print::count(args.seeds as usize, "seed")
        );
        let picture = accuracy_plot::svg(
            "Handwritten digits: accuracy against bits",
            &below,
            &rows.series(&task.schemes),
        );
        write_text(svg, &picture.map_err(|what| Error::Check { what: format!("the plot: {what}") })?)?;
    }
    let packed = task.packed.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let (Some(file), Some(path), Some((network, packed))) = (file, &args.output, &packed) {
        write(file, path, network, packed)?;
    }
    match args.json {
        true => print::json(&rows.to_json(&task, &device, seconds))?,
        false => print::stdout(&rows.to_text(&task, &device, seconds))?,
    }
    if output::is_to_stop() {
        output::end_interrupted();
    }
    Ok(())
}

impl Task<'_> {
    fn note(&self, seed: u64, scheme: Option<usize>, how: How, accuracy: f64) {
        let mut outcomes = self.outcomes.lock().unwrap_or_else(PoisonError::into_inner);
        outcomes.push(Outcome { seed, scheme, how, accuracy });
    }

    /// Trains by a plan; None if it was interrupted.
    async fn train(
        &self,
        network: &Network,
        settings: Settings,
        plan: &Plan,
        teacher: Option<&Trainer>,
        random: &mut Random,
    ) -> Result<Option<Trainer>> {
        let mut trainer = Trainer::new(self.engine, network, settings).await?;
        let go_on = || {
            self.bar.inc(1);
            !output::is_to_stop()
        };
        let whole = fit(&mut trainer, &self.examples, plan, random, shift, teacher, go_on).await?;
        Ok(whole.then_some(trainer))
    }

    /// The share of right answers with these weights.
    async fn accuracy(&self, network: &Network, weights: &[PackedArray]) -> Result<f64> {
        let mut x = self.engine.upload(&self.unseen.x)?;
        for (layer, weight) in network.layers.iter().zip(weights) {
            let bias = Some(self.engine.upload(&layer.bias)?);
            let options = MatmulOptions { function: layer.function, bias, ..MatmulOptions::default() };
            x = self.engine.matmul(&x, weight, &options)?;
        }
        let answers = answers(&x.read().await?);
        let right = answers.iter().zip(&self.unseen.labels).filter(|(a, b)| a == b).count();
        Ok(right as f64 / self.unseen.labels.len() as f64)
    }

    async fn quantized(
        &self,
        network: &Network,
        scheme: &Scheme,
        method: Method,
    ) -> Result<Vec<PackedArray>> {
        let mut weights = Vec::with_capacity(network.layers.len());
        for layer in &network.layers {
            weights.push(self.engine.quantize_by(&layer.weight, &layer.name, scheme, method).await?);
        }
        Ok(weights)
    }

    /// The random numbers of a scheme's training.
    fn random_of(seed: u64, scheme: &Scheme) -> Random {
        // FNV-1a.
        let add = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        let start = seed.to_le_bytes().into_iter().chain([scheme.bits]).fold(0xcbf2_9ce4_8422_2325, add);
        Random::new(scheme.to_string().bytes().fold(start, add))
    }

    /// Everything of one seed, as far as nobody interrupts.
    async fn seed(&self, seed: u64) -> Result<()> {
        print::at(&self.bar, &format!("seed {seed}"));
        let mut random = Random::new(seed.wrapping_mul(0x9e37) + 1);
        let network = Network::random(&WIDTHS, Function::Relu, &mut random)?;
        let settings = Settings { decay: 0.02, half: self.args.half, ..Settings::default() };
        let plan = Plan::of(None, self.args.epochs);
        let Some(teacher) = self.train(&network, settings, &plan, None, &mut random).await? else {
            return Ok(());
        };
        let network = teacher.network().await?;
        let float = self.quantized(&network, &"f32".parse()?, Method::Own).await?;
        self.note(seed, None, How::Float, self.accuracy(&network, &float).await?);
        for (i, scheme) in self.schemes.iter().enumerate() {
            for method in Method::of(scheme) {
                let weights = self.quantized(&network, scheme, method).await?;
                self.note(seed, Some(i), How::Ptq(method), self.accuracy(&network, &weights).await?);
            }
        }
        let (temperature, share) = (self.args.temperature, self.args.share);
        for (i, scheme) in self.schemes.iter().enumerate() {
            let settings = Settings {
                scheme: Some(*scheme),
                rate: 1e-3,
                decay: 0.0,
                distillation: Some(Distillation { temperature, share }),
                ..settings
            };
            let Some(trainer) = self
                .train(&network, settings, &self.plan(i), Some(&teacher), &mut Self::random_of(seed, scheme))
                .await?
            else {
                return Ok(());
            };
            let (trained, packed) = (trainer.network().await?, trainer.packed().await?);
            let weights = packed.iter().map(|w| self.engine.upload_packed(w)).collect::<Result<Vec<_>>>()?;
            self.note(seed, Some(i), How::Qat, self.accuracy(&trained, &weights).await?);
            if seed == 0 && i + 1 == self.schemes.len() {
                *self.packed.lock().unwrap_or_else(PoisonError::into_inner) = Some((trained, packed));
            }
        }
        Ok(())
    }

    /// How a scheme is trained for: at once, or through those of more bits before it.
    fn plan(&self, i: usize) -> Plan {
        let scheme = self.schemes[i];
        if !self.args.gradual {
            return Plan::of(Some(scheme), self.args.qat_epochs);
        }
        let mut through: Vec<Scheme> =
            self.schemes[..i].iter().filter(|other| other.bits > scheme.bits).copied().collect();
        through.push(scheme);
        let mut plan = Plan::falling(&through, self.args.qat_epochs / through.len());
        // What does not divide is the last one's.
        let rest = self.args.qat_epochs - plan.epochs();
        if let Some(last) = plan.stages.last_mut() {
            last.epochs += rest;
        }
        plan
    }
}

/// Writes a packed network.
fn write(file: Output, path: &Path, network: &Network, packed: &[PackedTensor]) -> Result<()> {
    let mut plan = FilePlan::new(Metadata::default());
    for (layer, weight) in network.layers.iter().zip(packed) {
        plan.packed(format!("{}.weight", layer.name), *weight.scheme(), weight.shape(), DType::F32)?;
        plan.dense(format!("{}.bias", layer.name), Dtype::F32, layer.bias.shape())?;
    }
    let mut writer = Writer::new(file, path, FORMATS[0], plan)?;
    while let Some(item) = writer.next_item().cloned() {
        let of =
            |ending: &str| network.layers.iter().position(|l| item.name() == format!("{}.{ending}", l.name));
        match (of("weight"), of("bias")) {
            (Some(i), _) => writer.packed(&packed[i])?,
            (_, Some(i)) => writer.dense(network.layers[i].bias.bytes())?,
            _ => break,
        }
    }
    writer.finish()?.commit()
}

/// Accuracies of the seeds.
#[derive(Clone, Debug, Default)]
struct Each(Vec<(u64, f64)>);

impl Each {
    fn of<'a>(outcomes: impl Iterator<Item = &'a Outcome>) -> Self {
        let mut all: Vec<(u64, f64)> = outcomes.map(|o| (o.seed, o.accuracy)).collect();
        all.sort_by_key(|(seed, _)| *seed);
        Self(all)
    }

    /// None if no seed came so far.
    fn mean(&self) -> Option<f64> {
        let sum: f64 = self.0.iter().map(|(_, accuracy)| accuracy).sum();
        (!self.0.is_empty()).then(|| sum / self.0.len() as f64)
    }

    fn text(&self) -> String {
        self.mean().map_or("-".into(), |mean| format!("{:.2}", 100.0 * mean))
    }

    fn to_json(&self) -> Value {
        json!({"mean": self.mean(), "each": self.0.iter().map(|(_, accuracy)| accuracy).collect::<Vec<_>>()})
    }
}

/// The results of a scheme.
struct Row {
    /// In the order of [`Method::ALL`].
    ptq: Vec<(Method, Each)>,
    qat: Each,
}

impl Row {
    fn best(&self) -> Option<(Method, f64)> {
        let means = self.ptq.iter().filter_map(|(method, each)| Some((*method, each.mean()?)));
        // The first of the best.
        means.reduce(|best, other| if other.1 > best.1 { other } else { best })
    }

    /// The part of what the best method leaves to f32 that QAT wins back; None where there is nothing to win.
    fn gap_closed(&self, float: Option<f64>) -> Option<f64> {
        let (float, (_, best), qat) = (float?, self.best()?, self.qat.mean()?);
        (float > best).then(|| (qat - best) / (float - best))
    }
}

/// All results.
struct Rows {
    float: Each,
    rows: Vec<Row>,
    complete: bool,
}

impl Rows {
    fn of(task: &Task<'_>) -> Self {
        let outcomes = task.outcomes.lock().unwrap_or_else(PoisonError::into_inner);
        let of = |scheme: Option<usize>, how: How| {
            Each::of(outcomes.iter().filter(|o| o.scheme == scheme && o.how == how))
        };
        let row = |(i, scheme): (usize, &Scheme)| Row {
            ptq: Method::of(scheme).map(|method| (method, of(Some(i), How::Ptq(method)))).collect(),
            qat: of(Some(i), How::Qat),
        };
        let rows: Vec<Row> = task.schemes.iter().enumerate().map(row).collect();
        let whole = |each: &Each| each.0.len() as u64 == task.args.seeds;
        let float = of(None, How::Float);
        let complete = whole(&float) && rows.iter().all(|row| whole(&row.qat));
        Self { float, rows, complete }
    }

    fn to_text(&self, task: &Task<'_>, device: &str, seconds: f64) -> String {
        let methods: Vec<Method> = Method::ALL
            .into_iter()
            .filter(|method| self.rows.iter().any(|row| row.ptq.iter().any(|(m, _)| m == method)))
            .collect();
        let names: Vec<String> = methods.iter().map(|method| format!("PTQ {method}")).collect();
        let mut columns = vec![("scheme", Align::Left)];
        columns.extend(names.iter().map(|name| (name.as_str(), Align::Right)));
        columns.extend([("QAT", Align::Right), ("QAT - f32", Align::Right), ("gap closed", Align::Right)]);
        let mut table = Table::new(&columns);
        for (row, scheme) in self.rows.iter().zip(&task.schemes) {
            let mut cells = vec![scheme.to_string()];
            for method in &methods {
                let found = row.ptq.iter().find(|(m, _)| m == method);
                cells.push(found.map_or(String::new(), |(_, each)| each.text()));
            }
            let differs = self.float.mean().zip(row.qat.mean()).map(|(float, qat)| 100.0 * (qat - float));
            cells.push(row.qat.text());
            cells.push(differs.map_or("-".into(), |points| format!("{points:+.2}")));
            let closed = row.gap_closed(self.float.mean());
            cells.push(closed.map_or("-".into(), |part| format!("{:.0} %", 100.0 * part)));
            table.row(cells);
        }
        let digits = task.unseen.labels.len();
        let mut text =
            format!("f32: {} % of {digits} held-out digits\n\n{}\n", self.float.text(), table.render());
        if !self.complete {
            text += "Interrupted: means are over the seeds that came so far.\n";
        }
        if let Some(path) = task.args.output.as_ref().filter(|_| self.complete) {
            text += &format!("{path}: lowbit demo --model {path}\n", path = path.display());
        }
        text + &format!(
            "Means of {}, in percent; {seconds:.1} s on {device}\n",
            print::count(task.args.seeds as usize, "seed")
        )
    }

    fn to_json(&self, task: &Task<'_>, device: &str, seconds: f64) -> Value {
        let schemes: Vec<Value> = self
            .rows
            .iter()
            .zip(&task.schemes)
            .map(|(row, scheme)| {
                let ptq: serde_json::Map<String, Value> =
                    row.ptq.iter().map(|(method, each)| (method.to_string(), each.to_json())).collect();
                json!({
                    "scheme": scheme.to_string(), "ptq": ptq, "best_ptq": row.best().map(|(method, _)| method.to_string()),
                    "qat": row.qat.to_json(), "gap_closed": row.gap_closed(self.float.mean()),
                })
            })
            .collect();
        json!({
            "seeds": task.args.seeds, "device": device, "f32": self.float.to_json(), "schemes": schemes,
            "complete": self.complete, "seconds": seconds,
        })
    }

    /// Lines of the plot: f32, the best method, QAT.
    fn series(&self, schemes: &[Scheme]) -> Vec<Series> {
        let line = |name: &str, of: &dyn Fn(&Row) -> Option<f64>| Series {
            name: name.into(),
            points: self
                .rows
                .iter()
                .zip(schemes)
                .filter_map(|(row, scheme)| Some((f64::from(scheme.bits), 100.0 * of(row)?)))
                .collect(),
        };
        vec![
            line("f32", &|_| self.float.mean()),
            line("quantized after training, the best method", &|row| row.best().map(|(_, mean)| mean)),
            line("trained in these bits", &|row| row.qat.mean()),
        ]
    }
}
