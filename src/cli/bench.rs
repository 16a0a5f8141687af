//! `lowbit bench`: how fast the operations are here, beside what the device allows; and two such results beside each other.
//!
//! ```text
//! ceilings -> cases, each verified before it is timed -> table on stdout, --json FILE, --svg FILE
//! --diff A B: two files of --json -> table
//! ```

use super::open_engine;
use super::output::{Output, write_text};
use super::print::{self, Align, Table};
use super::products::{self, ProductArgs, Products};
use crate::bench;
use crate::bench::cases::{self, Call, Case, FEW_ROWS, Operation};
use crate::bench::ceilings;
use crate::bench::file::{self, Ceiling, Change, Comparison, File, Note, Regime, Verdict};
use crate::bench::kv::{self, KvCase};
use crate::bench::plot;
use crate::bench::sample::Effort;
use crate::scheme::Method;
use crate::{Engine, Error, Result};
use std::path::{Path, PathBuf};

/// Measure matrix products, quantization and its inverse, as a share of what the device allows
///
/// First the device's ceilings: bandwidth of reading and copying, f32 and f16 multiply-adds, int8 dot products, cooperative matrices. Then
/// every operation, scheme and shape: compared with the reference, and only then timed, by the device's own timestamps where it has them.
/// Percentages are of the ceiling that binds: the larger of bytes / bandwidth and operations / arithmetic.
///
/// dram: copies of the weights take turns, more of them than caches hold. cache: the same weights again and again, if they are small enough.
/// M is the number of rows of x, N and K are those of a weight [N, K] (out, in). kv: 8 heads of 128 columns in f16, int8 and int4; M heads of q (8, and 32
/// that share them), N tokens in the cache, K columns of a token.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  lowbit bench\n  lowbit bench matvec --model llama-7b --scheme q4_0 --scheme q8_0\n  \
lowbit bench matmul --shape 512x4096x11008 --accumulate f16-chunked --device radeon\n  \
lowbit bench quantize --scheme int4-g64-fzero --method default,mse,percentile:99.9,hqq\n  \
lowbit bench kv\n  lowbit bench --quick --json before.json --svg roofline.svg\n  lowbit bench --diff before.json after.json\n\n\
JSON: {\"format\": \"lowbit bench\", \"version\", \"lowbit\", \"commit\", \"device\": {..}, \"ceilings\": [{\"limit\", \"name\", \"rate\", ..}],\n\
\"cases\": [{\"operation\", \"scheme\", \"m\", \"n\", \"k\", \"method\", \"regime\", \"kernel\", \"tile\", \"bytes\", \"flops\", \"median_s\", \"quartiles_s\", \"clock\",\n\
\"ceiling\", \"percent\", ..}], \"left_out\": [{\"case\", \"why\"}], \"failures\": [..]}; with --diff the comparison."
)]
pub struct Args {
    /// matvec (M of 1 to 16), matmul (more), quantize, dequantize or all; kv (caches of keys and values: appending a token, and the attention of one query)
    #[arg(value_name = "OPERATION")]
    operations: Vec<String>,
    #[command(flatten)]
    products: ProductArgs,
    /// By what quantize finds scales: default (the scheme's own), absmax, minmax, mse, percentile[:99.9], hqq or kmeans (several are measured one after the other)
    #[arg(long = "method", value_name = "METHOD,METHOD,...", value_delimiter = ',')]
    methods: Vec<String>,
    /// Pin the kernel of products, or kernel and tile: matvec, matmul, matmul:64x64, coop, ... (on a GPU)
    #[arg(long, value_name = "NAME")]
    kernel: Option<String>,
    /// Fewer schemes, smaller shapes, shorter measurements
    #[arg(long)]
    quick: bool,
    /// Write the results to a file, or to stdout (-) instead of the table
    #[arg(long, value_name = "FILE|-")]
    json: Option<PathBuf>,
    /// Write a roofline plot
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Compare two results of --json: A as it was, B as it is
    #[arg(long, num_args = 2, value_names = ["A", "B"])]
    diff: Vec<PathBuf>,
    /// Overwrite files; compare results of different devices
    #[arg(short, long)]
    force: bool,
}

/// Runs the subcommand.
pub fn run(args: &Args, device: Option<&str>) -> Result<()> {
    if let [a, b] = args.diff.as_slice() {
        return diff(args, a, b);
    }
    let asked = Asked::new(args)?;
    let mut outputs = Outputs::create(args)?;
    let engine = pollster::block_on(open_engine(device))?;
    let (cases, caches) = (asked.cases(&engine)?, asked.caches());
    let effort = if args.quick { Effort::QUICK } else { Effort::FULL };

    let bar = print::progress((ceilings::COUNT + cases.len() + caches.len()) as u64, "bench");
    let progress = |what: &str| {
        print::at(&bar, what);
        bar.inc(1);
    };
    let file = pollster::block_on(bench::run(&engine, &cases, &caches, &effort, progress))?;
    bar.finish_and_clear();
    outputs.write(&file)?;
    match file.failures.as_slice() {
        [] if file.cases.is_empty() => {
            let why = file.left_out.first().map(|note| format!(": {}: {}", note.case, note.why));
            Err(Error::Check { what: format!("nothing could be measured{}", why.unwrap_or_default()) })
        }
        [] => Ok(()),
        [first, ..] => {
            let n = print::count(file.failures.len(), "wrong result");
            Err(Error::Check { what: format!("{n}, the first: {}: {}", first.case, first.why) })
        }
    }
}

/// What the command line asks for, before there is a device.
struct Asked {
    operations: Vec<Operation>,
    products: Products,
    methods: Vec<Method>,
    kernel: Option<&'static str>,
    quick: bool,
}

impl Asked {
    fn new(args: &Args) -> Result<Self> {
        let mut operations = Vec::new();
        for name in &args.operations {
            operations.extend(Operation::named(name)?);
        }
        if operations.is_empty() {
            operations.extend(Operation::ALL);
        }
        let kernel = args.kernel.as_deref().map(products::kernel).transpose()?;
        let mut methods = args.methods.iter().map(|name| name.parse()).collect::<Result<Vec<Method>>>()?;
        if methods.is_empty() {
            methods.push(Method::Own);
        } else if !operations.contains(&Operation::Quantize) {
            return Err(Error::Usage("--method is for quantize, which is not among the operations".into()));
        }
        let products = args.products.parse()?;
        let weights = operations.iter().any(|operation| Operation::ALL.contains(operation));
        if !weights && (!args.products.is_empty() || kernel.is_some()) {
            return Err(Error::Usage(
                "kv has caches of its own; schemes, shapes and kernels are for weights".into(),
            ));
        }
        // A scheme that is asked for by name has to take the method; of the usual ones those that do are measured.
        for scheme in products.named() {
            let refused = methods.iter().find_map(|method| method.form(scheme).err());
            if let Some(why) = refused {
                return Err(Error::Usage(why.to_string()));
            }
        }
        Ok(Self { operations, products, methods, kernel, quick: args.quick })
    }

    /// The caches.
    fn caches(&self) -> Vec<KvCase> {
        kv::all(&self.operations, if self.quick { &kv::TOKENS[..1] } else { &kv::TOKENS })
    }

    /// The cases of weights for a device: what is usual on it where nothing is asked for.
    fn cases(&self, engine: &Engine) -> Result<Vec<Case>> {
        let gpu = engine.gpu().filter(|gpu| !gpu.info().software).is_some();
        let names: &[&str] = match (self.quick, gpu) {
            (true, _) => &["q8_0", "q4_0"],
            (false, true) => &["f16", "q8_0", "q4_0", "q4_k", "nf4-g64", "int4-g128"],
            (false, false) => &["f16", "q8_0", "q4_0", "q4_k"],
        };
        let weights: &[[usize; 2]] = match (gpu, engine.is_cpu(), self.quick) {
            (true, _, false) => &[[4096, 4096], [14336, 4096]],
            (true, _, true) | (false, true, false) => &[[4096, 4096]],
            (false, true, true) | (false, false, false) => &[[2048, 2048]],
            (false, false, true) => &[[1024, 1024]],
        };
        let ms = match gpu {
            true if !self.quick => &[1, 8, 128, 1024][..],
            false if engine.gpu().is_some() => &[1, 8, 32],
            _ => &[1, 8, 128],
        };
        if self.kernel.is_some() && engine.is_cpu() {
            return Err(Error::Usage("--kernel is for GPUs; the CPU engine has one for each case".into()));
        }
        let schemes = self.products.schemes(names)?;
        for method in &self.methods {
            let refused: Vec<Error> = schemes.iter().filter_map(|scheme| method.form(scheme).err()).collect();
            if refused.len() == schemes.len() {
                let why = refused.first().map(ToString::to_string).unwrap_or_default();
                let what = format!(
                    "--method {method}: none of the usual schemes takes it ({why}); name others with --scheme"
                );
                return Err(Error::Usage(what));
            }
        }
        let shapes = self.products.shapes(weights, ms)?;
        let call = Call { kernel: self.kernel, ..self.products.call };
        match cases::all(&self.operations, &schemes, &shapes, call, &self.methods) {
            none if none.is_empty() && self.caches().is_empty() => {
                let what = format!("no case is left: matvec takes M of 1 to {FEW_ROWS}, matmul larger ones");
                Err(Error::Usage(what))
            }
            all => Ok(all),
        }
    }
}

/// Where results go besides the terminal. Made before anything is measured: a minute's work is not to end at a file that is there.
struct Outputs {
    json: Option<Output>,
    svg: Option<Output>,
    /// JSON on stdout instead of the table.
    json_on_stdout: bool,
}

impl Outputs {
    fn create(args: &Args) -> Result<Self> {
        let is_stdout = |path: &&Path| *path == Path::new("-");
        let json = args.json.as_deref();
        if json.is_some() && json == args.svg.as_deref() {
            return Err(Error::Usage("--json and --svg name one file".into()));
        }
        let create = |path: &Path| Output::create(path, args.force, []);
        Ok(Self {
            json: json.filter(|path| !is_stdout(path)).map(create).transpose()?,
            svg: args.svg.as_deref().map(create).transpose()?,
            json_on_stdout: json.is_some_and(|path| is_stdout(&path)),
        })
    }

    fn write(&mut self, file: &File) -> Result<()> {
        if let Some(output) = self.json.take() {
            let text =
                serde_json::to_string_pretty(file).map_err(|e| Error::Check { what: e.to_string() })?;
            write_text(output, &(text + "\n"))?;
        }
        if let Some(output) = self.svg.take() {
            write_text(
                output,
                &plot::svg(file).map_err(|what| Error::Check { what: format!("the plot: {what}") })?,
            )?;
        }
        if self.json_on_stdout { print::json(file) } else { print::stdout(&to_text(file)) }
    }
}

fn clock(clock: file::Clock) -> String {
    match clock {
        file::Clock::Gpu => "gpu".into(),
        file::Clock::Host => "host".into(),
    }
}

/// A rate in units of 10^9 or 10^12.
fn rate(ceiling: &Ceiling, rate: f64) -> String {
    if ceiling.limit.is_bandwidth() {
        format!("{:.1} GB/s", rate * 1e-9)
    } else {
        format!("{:.3} TOP/s", rate * 1e-12)
    }
}

fn to_text(file: &File) -> String {
    let device = &file.device;
    let backend = format!("{} {}", device.backend, device.driver);
    let threads = device.threads.map(|n| format!(", {}", print::count(n, "thread"))).unwrap_or_default();
    let commit = file.commit.as_deref().map(|c| format!(", commit {c}")).unwrap_or_default();
    let mut text = format!("{} ({}; {}{threads})\n", device.name, backend.trim_end(), device.tier);
    text += &format!("lowbit {}{commit}\n\n", file.lowbit);

    let right = Align::Right;
    let mut table =
        Table::new(&[("ceiling", Align::Left), ("rate", right), ("+-", right), ("clock", Align::Left)]);
    for c in &file.ceilings {
        let mut cells = vec![c.name.clone()];
        match (c.rate, c.quartiles, c.clock, &c.absent) {
            (Some(r), Some(quartiles), Some(by), _) => {
                cells.extend([rate(c, r), print::spread(quartiles, r), clock(by)])
            }
            (.., why) => cells.extend([
                String::new(),
                String::new(),
                format!("absent: {}", why.as_deref().unwrap_or("unknown")),
            ]),
        }
        table.row(cells);
    }
    text += &table.render();

    let mut table = Table::new(&[
        ("operation", Align::Left),
        ("scheme", Align::Left),
        ("shape", Align::Left),
        ("layers", Align::Left),
        ("in", Align::Left),
        ("kernel", Align::Left),
        ("ms", right),
        ("+-", right),
        ("GB/s", right),
        ("TFLOP/s", right),
        ("reached", right),
        ("of", Align::Left),
        ("clock", Align::Left),
    ]);
    for case in &file.cases {
        table.row(vec![
            case.operation.name().into(),
            case.scheme_and_method(),
            case.shape(),
            case.label.clone(),
            case.regime.name().into(),
            case.kernel.clone(),
            format!("{:.4}", case.median_s * 1e3),
            print::spread(case.quartiles_s, case.median_s),
            format!("{:.2}", case.gb_per_s),
            if case.flops > 0 { format!("{:.4}", case.tflop_per_s) } else { String::new() },
            case.percent.map(|p| format!("{p:.1} %")).unwrap_or_default(),
            case.ceiling.clone().unwrap_or_else(|| "no ceiling".into()),
            clock(case.clock),
        ]);
    }
    if !file.cases.is_empty() {
        text += &format!("\n{}", table.render());
        let walk = file.ceilings.iter().filter(|c| c.regime == Some(Regime::Dram)).find_map(|c| c.bytes);
        let bytes = print::bytes(walk.unwrap_or_default());
        text += &format!(
            "\nin dram: copies of the operands take turns, {bytes} of them or more; in cache: the same again and again\n"
        );
        let verified: usize = file.cases.iter().map(|case| case.verified).sum();
        let worst = file.cases.iter().map(|case| case.worst_error).fold(0.0, f64::max);
        text += &format!(
            "{verified} values were compared with the reference before anything was timed; the largest error is {worst:.4} of its bound.\n"
        );
    }
    text += &beside_f16(file);
    for Note { case, why } in &file.left_out {
        text += &format!("left out: {case}: {why}\n");
    }
    for Note { case, why } in &file.failures {
        text += &format!("WRONG, not timed: {case}: {why}\n");
    }
    text
}

/// Of each cache that is no f16: its time as a part of that of f16.
fn beside_f16(file: &File) -> String {
    let mut lines = String::new();
    for case in file.cases.iter().filter(|case| Operation::KV.contains(&case.operation)) {
        let of = |case: &file::Measured| (case.operation, case.m, case.n, case.regime);
        let f16 = file.cases.iter().find(|other| other.scheme == "f16" && of(other) == of(case));
        if let Some(f16) = f16.filter(|_| case.scheme != "f16") {
            lines += &format!("{}: {:.2} of the time of f16\n", case.key(), case.median_s / f16.median_s);
        }
    }
    if lines.is_empty() { lines } else { format!("\n{lines}") }
}

fn diff(args: &Args, a: &Path, b: &Path) -> Result<()> {
    let asked = !args.operations.is_empty() || !args.products.is_empty() || args.kernel.is_some();
    let asked = asked || !args.methods.is_empty();
    if asked || args.svg.is_some() || args.quick {
        return Err(Error::Usage(
            "--diff compares two files and measures nothing; only --json and --force go with it".into(),
        ));
    }
    let output = match args.json.as_deref() {
        Some(path) if path != Path::new("-") => Some(Output::create(path, args.force, [a, b])?),
        _ => None,
    };
    let (file_a, file_b) = (read(a)?, read(b)?);
    let comparison = file::compare(&file_a, &file_b, args.force)?;
    if let Some(output) = output {
        let text =
            serde_json::to_string_pretty(&comparison).map_err(|e| Error::Check { what: e.to_string() })?;
        write_text(output, &(text + "\n"))?;
    } else if args.json.is_some() {
        return print::json(&comparison);
    }
    print::stdout(&diff_text(&file_a, &file_b, &comparison))
}

fn read(path: &Path) -> Result<File> {
    let text = std::fs::read_to_string(path).map_err(|source| Error::Io { path: path.into(), source })?;
    File::parse(&text).map_err(|what| Error::Format { path: path.into(), what })
}

fn diff_text(a: &File, b: &File, comparison: &Comparison) -> String {
    let source = |name: &str, file: &File| {
        let commit = file.commit.as_deref().unwrap_or("commit unknown");
        format!(
            "{name}: {} ({}; {}), lowbit {} {commit}\n",
            file.device.name, file.device.backend, file.device.tier, file.lowbit
        )
    };
    let mut text = source("A", a) + &source("B", b) + "\n";
    let right = Align::Right;
    let word = |change: &Change| match change.verdict {
        Verdict::Faster => "faster",
        Verdict::Slower => "SLOWER",
        Verdict::Same => "",
    };
    let mut add = |what: &str, changes: &[Change], number: &dyn Fn(f64) -> String| {
        let columns = [
            (what, Align::Left),
            ("A", right),
            ("B", right),
            ("speed", right),
            ("", Align::Left),
            ("kernel", Align::Left),
        ];
        let mut table = Table::new(&columns);
        for change in changes {
            table.row(vec![
                change.what.clone(),
                number(change.a),
                number(change.b),
                format!("{:.3}", change.speed),
                word(change).into(),
                change.kernels.clone().unwrap_or_default(),
            ]);
        }
        text += &format!("{}\n", table.render());
    };
    add("ceiling (10^9 per second)", &comparison.ceilings, &|rate| format!("{:.2}", rate * 1e-9));
    add("case (ms)", &comparison.cases, &|seconds| format!("{:.4}", seconds * 1e3));
    for (name, only) in [("A", &comparison.only_a), ("B", &comparison.only_b)] {
        text.extend(only.iter().map(|case| format!("only in {name}: {case}\n")));
    }
    let count = |verdict| comparison.cases.iter().filter(|change| change.verdict == verdict).count();
    text += &format!(
        "{}: {} faster, {} slower, {} within the spread (the quartiles overlap)\n",
        print::count(comparison.cases.len(), "case"),
        count(Verdict::Faster),
        count(Verdict::Slower),
        count(Verdict::Same)
    );
    text
}
