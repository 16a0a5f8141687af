//! The command line: one file per subcommand, and what they share.
//!
//! ```text
//! arguments -> clap -> subcommand -> engine and files -> terminal (print), files (output) | Error -> main.rs -> exit code
//! ```
//!
//! Results go to stdout, everything else (progress, warnings, the one line of an error) to stderr. No arithmetic on weights here.

mod activations;
mod assign;
mod bench;
mod calibrate;
mod calibrated;
mod calibration;
mod compare;
mod convert;
mod demo;
mod dequantize;
mod devices;
mod digits;
mod embed;
mod eval;
mod inspect;
mod model_output;
mod output;
mod partial;
mod plan;
mod print;
mod products;
mod quantize;
mod report;
mod report_page;
mod same;
mod schemes;
mod search;
mod selftest;
mod shaders;
mod stream;
mod texts;
mod train_digits;
mod transforms;
mod tune;

use crate::engine::{Engine, EngineOptions};
use crate::file::hf::{self, Files, Tokens, Weights};
use crate::file::write::{FORMATS, Format};
use crate::file::{Model, checkpoint};
use crate::gpu::Disable;
use crate::{DType, Error, Result};
use clap::{Parser, Subcommand};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Quantize models and run low-bit matrix products on any GPU, or on the CPU.
#[derive(Parser)]
#[command(name = "lowbit", version, max_term_width = 100)]
#[command(
    after_help = "Without a command, `lowbit demo` runs: real digits through a quantized network, on every device found.\n\
Schemes: q4_0 q4_k q8_0 int4-g32 int4-g128-asym int8-row nf4-g64 mxfp4 ..., mixes q4_k_m q5_k_m ... (`lowbit schemes` lists them).\n\
Exit codes: 0 done, 1 failed, 2 the command line is wrong, 130 interrupted (nothing half written is left, unless `--resume` is to go on with it)."
)]
struct Cli {
    /// Where to compute: `cpu`, `auto` (a real GPU if there is one, else the CPU), or part of an adapter's name
    /// (see `lowbit devices`), with a backend before it if need be, as in `gl:llvmpipe`
    #[arg(long, global = true, value_name = "NAME|cpu|auto")]
    device: Option<String>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    Demo(demo::Args),
    Devices(devices::Args),
    Schemes(schemes::Args),
    Quantize(quantize::Args),
    Dequantize(dequantize::Args),
    Inspect(inspect::Args),
    Compare(compare::Args),
    Convert(convert::Args),
    Embed(embed::Args),
    Search(search::Args),
    Eval(eval::Args),
    Calibrate(calibrate::Args),
    Plan(plan::Args),
    Report(report::Args),
    Shaders(shaders::Args),
    Selftest(selftest::Args),
    Bench(bench::Args),
    Tune(tune::Args),
    TrainDigits(train_digits::Args),
}

/// Which tensors, by name.
#[derive(clap::Args)]
struct Filter {
    /// Only tensors whose name matches this regular expression (anywhere in it)
    #[arg(long, value_name = "RE")]
    include: Option<String>,
    /// Not tensors whose name matches this one
    #[arg(long, value_name = "RE")]
    exclude: Option<String>,
}

/// A [`Filter`] ready to use.
struct Compiled {
    include: Option<regex::Regex>,
    exclude: Option<regex::Regex>,
}

impl Filter {
    fn compile(&self) -> Result<Compiled> {
        let compile = |option: &str, text: &Option<String>| match text {
            None => Ok(None),
            Some(text) => match regex::Regex::new(text) {
                Ok(re) => Ok(Some(re)),
                Err(e) => Err(Error::Usage(format!("{option} '{text}': {e}"))),
            },
        };
        Ok(Compiled {
            include: compile("--include", &self.include)?,
            exclude: compile("--exclude", &self.exclude)?,
        })
    }
}

impl Compiled {
    fn selects(&self, name: &str) -> bool {
        self.include.as_ref().is_none_or(|re| re.is_match(name))
            && !self.exclude.as_ref().is_some_and(|re| re.is_match(name))
    }
}

/// The format of an output: the one that `--to` names, else that of the extension, else safetensors.
fn output_format(to: Option<&str>, path: &Path) -> Result<&'static Format> {
    match to {
        Some(name) => Format::named(name),
        None => Ok(Format::of_path(path).unwrap_or(FORMATS[0])),
    }
}

/// An element type, as `--dtype` takes it.
#[derive(Clone, Copy, clap::ValueEnum)]
enum Float {
    F32,
    F16,
    Bf16,
}

impl Float {
    fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::F16 => DType::F16,
            Self::Bf16 => DType::Bf16,
        }
    }
}

/// Whether a HuggingFace folder is mapped on its way into a file of this format. A quantized checkpoint that names no architecture is none.
fn is_mapped(input: &Path, format: &Format) -> bool {
    let unnamed = |config: checkpoint::Config| !config.root.contains_key("architectures");
    format.runs && hf::is_one(input) && !checkpoint::settings(input).ok().flatten().is_some_and(unnamed)
}

/// Opens what is to be written in `format`: as it is, or mapped, then with weights of these types. What lowbit's own files are to carry of a
/// folder is in the metadata.
fn open_for(input: &Path, format: &Format, weights: Weights) -> Result<Model> {
    if is_mapped(input, format) {
        return hf::open(input, weights);
    }
    let mut model = Model::open(input)?;
    match Files::carried_by(&model) {
        Some(files) if format.runs => hf::map(model, &files, weights, Tokens::Described),
        _ => {
            if std::ptr::eq(format, FORMATS[0]) && hf::is_one(input) {
                Files::in_folder(input).carry(model.metadata_mut())?;
            }
            Ok(model)
        }
    }
}

/// The engine that `--device` names.
async fn open_engine(device: Option<&str>) -> Result<Engine> {
    open_engine_without(device, Disable::default()).await
}

/// The engine that `--device` names, doing without capabilities of it.
async fn open_engine_without(device: Option<&str>, disable: Disable) -> Result<Engine> {
    let device = device.filter(|d| !d.eq_ignore_ascii_case("auto")).map(str::to_string);
    let engine = Engine::open(&EngineOptions { device, disable, ..EngineOptions::default() }).await?;
    note_warnings(&engine);
    Ok(engine)
}

/// Says on stderr what the engine warns of.
fn note_warnings(engine: &Engine) {
    engine.warnings().iter().for_each(|warning| print::note(&format!("lowbit: {warning}")));
}

/// The results of `task(0)`, `task(1)`, ..., worked off by as many threads as the machine has.
fn on_threads<T: Send>(tasks: usize, task: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        loop {
            match next.fetch_add(1, Ordering::Relaxed) {
                i if i < tasks => done.push((i, task(i))),
                _ => return done,
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(tasks);
    let mut all: Vec<(usize, T)> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let join = |t: std::thread::ScopedJoinHandle<'_, _>| {
            t.join().unwrap_or_else(|p| std::panic::resume_unwind(p))
        };
        threads.into_iter().flat_map(join).collect()
    });
    all.sort_by_key(|(i, _)| *i);
    all.into_iter().map(|(_, result)| result).collect()
}

/// Runs the command line of this process. Wrong arguments, `--help` and `--version` end the process as clap does (exit codes 2 and 0).
///
/// # Errors
/// What the subcommand could not do; see [`fail`].
pub fn run() -> Result<()> {
    let Cli { device, command } = Cli::parse();
    let device = device.as_deref();
    match command.unwrap_or(Command::Demo(demo::Args::default())) {
        Command::Demo(args) => demo::run(&args, device),
        Command::Devices(args) => devices::run(&args, device),
        Command::Schemes(args) => schemes::run(&args),
        Command::Quantize(args) => quantize::run(&args, device),
        Command::Dequantize(args) => dequantize::run(&args, device),
        Command::Inspect(args) => inspect::run(&args),
        Command::Compare(args) => compare::run(&args, device),
        Command::Convert(args) => convert::run(&args),
        Command::Calibrate(args) => calibrate::run(&args, device),
        Command::Plan(args) => plan::run(&args, device),
        Command::Report(args) => report::run(&args, device),
        Command::Embed(args) => embed::run(&args, device),
        Command::Search(args) => search::run(&args, device),
        Command::Eval(args) => eval::run(&args, device),
        Command::Shaders(args) => shaders::run(&args),
        Command::Selftest(args) => selftest::run(&args, device),
        Command::Bench(args) => bench::run(&args, device),
        Command::Tune(args) => tune::run(&args, device),
        Command::TrainDigits(args) => train_digits::run(&args, device),
    }
}

/// Tells of an error in one line on stderr and returns its exit code: 2 if the command line is wrong, 1 if what it asks for failed.
pub fn fail(error: &Error) -> u8 {
    print::failure(error);
    match error {
        Error::Usage(_) | Error::UnknownScheme { .. } | Error::BadScheme { .. } => 2,
        _ => 1,
    }
}
