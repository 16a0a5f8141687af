//! lowbit beside other engines: the same products, compared with each other, then timed in turns.
//!
//! ```text
//! random x, w -> lowbit quantize, convert -> files in all formats -> per case: lowbit and its peers, a process each (serve.rs, process.rs)
//!   each computes once -> y compared with x * w^T in f64, w decoded from the bytes that it read (cases.rs has the bounds)
//!   in turns: lowbit, peer, peer, ..., lowbit, peer, ... -> medians and quartiles -> table, --json
//! ```
//!
//! `scripts/peers.sh` prepares the programs (`bin/NAME` in the folder of peers, or `bin/NAME.why` with the reason why there is none) and starts
//! this. A peer without a program, and one that fails or computes something else, stays in the table with its reason.
//!
//! Times are wall times of one product, from submitting it to having waited for it. Weights of one matrix are multiplied again and again: for few
//! rows of x it is the last-level cache that is measured, unless it is smaller than the weights.

mod cases;
mod process;
#[allow(dead_code, reason = "each program uses a part")]
mod serve;

use cases::{CASES, Case, SHAPES, own_quantizer, tolerance};
use clap::Parser;
use lowbit::file::Model;
use lowbit::{DType, Engine, EngineInfo, EngineOptions, Tensor, cpu};
use process::Process;
use rayon::prelude::*;
use serve::{Anyhow, floats, write_floats};
use std::cell::OnceCell;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

/// Times lowbit beside ggml, onnxruntime, candle, burn and web-rwkv: the same products, compared with each other first.
#[derive(Parser)]
#[command(
    max_term_width = 100,
    after_help = "Examples:
  ./scripts/peers.sh                                      everything: the CPU, and the GPU or lavapipe
  ./scripts/peers.sh --only ggml-cpu --only candle        two of the peers
  ./scripts/peers.sh --device cpu --shape 1x4096x4096 --json rows.json"
)]
struct Args {
    /// This peer and no others (repeatable): ggml-vulkan, onnxruntime-webgpu, web-rwkv, burn; ggml-cpu, candle, onnxruntime
    #[arg(long, value_name = "PEER")]
    only: Vec<String>,
    /// `cpu`, or part of a GPU's name; without it the CPU, and a real GPU or else lavapipe
    #[arg(long)]
    device: Option<String>,
    /// This shape and no others (repeatable)
    #[arg(long, value_name = "MxKxN", value_parser = parse_shape)]
    shape: Vec<[usize; 3]>,
    /// Writes the rows to a file as well
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Fewer rounds
    #[arg(long)]
    quick: bool,
    /// Threads of the engines that compute on the CPU
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Where the peers are
    #[arg(long, default_value = "target/peers", hide = true)]
    peers: PathBuf,
    /// The command `lowbit`, which writes the operands
    #[arg(long, default_value = "target/release/lowbit", hide = true)]
    lowbit: PathBuf,
}

fn parse_shape(text: &str) -> Result<[usize; 3], String> {
    let sizes: Vec<usize> = text.split('x').map_while(|size| size.parse().ok()).collect();
    match <[usize; 3]>::try_from(sizes) {
        Ok([m, k, n]) if m > 0 && n > 0 && k > 0 && k % 256 == 0 => Ok([m, k, n]),
        _ => Err("MxKxN, with a K that 256 divides".into()),
    }
}

/// A line of the table.
struct Row {
    case: String,
    peer: &'static str,
    /// Or why there are no times.
    result: Result<Measured, String>,
}

/// Lowbit's and the peer's.
struct Measured {
    /// What ran, in their own words.
    ran: [String; 2],
    ours: Times,
    peer: Times,
    /// Root mean square of the difference of their results, relative to lowbit's.
    difference: f64,
}

/// In ms.
#[derive(serde::Serialize)]
struct Times {
    median: f64,
    quartiles: [f64; 2],
    /// On a busy machine the one to compare by.
    least: f64,
}

impl Times {
    fn new(times: &[f64]) -> Self {
        let mut times = times.to_vec();
        times.sort_by(f64::total_cmp);
        let [least, low, median, high] = [0, 1, 2, 3].map(|quarter| times[(times.len() - 1) * quarter / 4]);
        Self { median, quartiles: [low, high], least }
    }
}

impl std::fmt::Display for Times {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { median, quartiles: [low, high], .. } = self;
        f.pad(&format!("{median:9.3} ({low:.3} .. {high:.3})"))
    }
}

fn main() -> Anyhow<()> {
    let args = Args::parse();
    let known = CASES.iter().flat_map(|c| c.peers).collect::<Vec<_>>();
    if let Some(name) = args.only.iter().find(|name| !known.contains(&&name.as_str())) {
        return Err(format!("no peer '{name}', see --help").into());
    }
    let gpu = adapter(args.device.as_deref())?;
    let cpu = args.device.as_deref().is_none_or(|d| d == "cpu");
    println!(
        "CPU: {}, {} threads; {}",
        cpu::instructions(),
        args.threads,
        match &gpu {
            Some(info) => format!("GPU: {}, {}, {}", info.name, info.backend, info.driver),
            None => "no GPU".into(),
        }
    );
    println!("Wall times in ms of one product, submit and wait included, in turns: median (quartiles)");
    println!(
        "ratio: lowbit / peer, below 1 lowbit is faster; least: that of the shortest times, for a busy machine"
    );
    println!(
        "{:<32} {:<19} {:>9} {:<22} {:>9} {:<22} {:>6} {:>6}",
        "", "", "lowbit", "", "peer", "", "ratio", "least"
    );
    let mut rows = Vec::new();
    let mut shapes = if args.shape.is_empty() { SHAPES.to_vec() } else { args.shape.clone() };
    // ratio: lowbit / peer. least: that of the shortest times.
    // Shapes of the same w stand beside each other, so that it is made once.
    shapes.sort_by_key(|[m, k, n]| (*k, *n, *m));
    let mut operands: Option<Operands> = None;
    for shape in shapes {
        let [m, k, n] = shape;
        if operands.as_ref().is_none_or(|o| (o.k, o.n) != (k, n)) {
            drop(operands.take());
            operands = Some(Operands::new(&args, k, n)?);
        }
        let Some(operands) = &operands else { continue };
        write_floats(&operands.x_path(m), &noise(m * k, m))?;
        for case in CASES.iter().filter(|c| if c.gpu { gpu.is_some() } else { cpu }) {
            let asked = |name: &&&str| args.only.is_empty() || args.only.iter().any(|only| only == **name);
            let peers: Vec<&str> = case.peers.iter().filter(asked).copied().collect();
            if peers.is_empty() {
                continue;
            }
            let device = gpu.as_ref().filter(|_| case.gpu).map_or("cpu", |info| &info.name);
            let more = Contest::new(&args, operands, shape, case, device)?.rows(&peers);
            more.iter().for_each(print);
            rows.extend(more);
        }
    }
    if let Some(path) = &args.json {
        let lines: Vec<_> = rows.iter().map(json).collect();
        let all = serde_json::json!({"cpu": cpu::instructions(), "threads": args.threads,
            "gpu": gpu.map(|g| format!("{}, {}, {}", g.name, g.backend, g.driver)), "rows": lines});
        std::fs::write(path, serde_json::to_string_pretty(&all)? + "\n")?;
    }
    match rows.iter().filter(|r| r.result.as_ref().is_err_and(|why| why.starts_with("lowbit: "))).count() {
        0 => Ok(()),
        failed => Err(format!("lowbit failed in {failed} rows").into()),
    }
}

/// The GPU that is meant: the named one; a real one; lavapipe. None if the CPU is.
fn adapter(wanted: Option<&str>) -> Anyhow<Option<EngineInfo>> {
    let open = |device: Option<&str>| {
        let options = EngineOptions { device: device.map(String::from), ..EngineOptions::default() };
        pollster::block_on(Engine::open(&options)).map(|engine| engine.info())
    };
    let found = match wanted {
        Some("cpu") => return Ok(None),
        Some(_) => open(wanted)?,
        None => {
            let info = open(None)?;
            if info.backend == "cpu" { open(Some("llvmpipe")).unwrap_or(info) } else { info }
        }
    };
    Ok(Some(found).filter(|info| info.backend != "cpu"))
}

/// Files that everybody reads, for one w [N, K].
struct Operands {
    k: usize,
    n: usize,
    folder: tempfile::TempDir,
    w: Vec<f32>,
}

impl Operands {
    fn new(args: &Args, k: usize, n: usize) -> Anyhow<Self> {
        let folder = tempfile::Builder::new().prefix("operands").tempdir_in(&args.peers)?;
        let w = noise(n * k, 0);
        write_floats(&folder.path().join("w.f32"), &w)?;
        let plain = folder.path().join("w.safetensors");
        let bytes = std::fs::read(folder.path().join("w.f32"))?;
        let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![n, k], &bytes)?;
        safetensors::serialize_to_file([("w.weight", view)], None, &plain)?;
        let lowbit = |words: &[&str]| -> Anyhow<()> {
            let run =
                Command::new(std::path::absolute(&args.lowbit)?).current_dir(&folder).args(words).output()?;
            if !run.status.success() {
                return Err(
                    format!("lowbit {}: {}", words.join(" "), String::from_utf8_lossy(&run.stderr)).into()
                );
            }
            Ok(())
        };
        for scheme in ["q4_0", "q8_0", "q4_k"] {
            let gguf = format!("{scheme}.gguf");
            lowbit(&["quantize", "w.safetensors", "-o", &gguf, "--scheme", scheme, "--device", "cpu"])?;
            if scheme != "q4_k" {
                lowbit(&["convert", &gguf, "-o", &format!("{scheme}.onnx")])?;
            }
        }
        lowbit(&[
            "quantize",
            "w.safetensors",
            "-o",
            "row.safetensors",
            "--scheme",
            "int8-row",
            "--device",
            "cpu",
        ])?;
        lowbit(&["convert", "row.safetensors", "-o", "int8-row", "--to", "ct-int"])?;
        std::fs::remove_file(plain)?;
        Ok(Self { k, n, folder, w })
    }

    fn x_path(&self, m: usize) -> PathBuf {
        self.folder.path().join(format!("x{m}.f32"))
    }

    /// w as the engines that read lowbit's bytes see it.
    fn decoded(&self, scheme: &str) -> Anyhow<Vec<f32>> {
        let folder = self.folder.path().join(scheme);
        let path = if folder.is_dir() { folder } else { folder.with_extension("gguf") };
        let model = Model::open(path)?;
        let packed = model.packed(model.entries().first().ok_or("no weight")?)?;
        Ok(cpu::dequantize(&packed, DType::F32).to_f32().into_owned())
    }

    /// The relative error of w in a scheme. That of a product with random x is the same, near enough.
    fn cost(&self, scheme: &str) -> Anyhow<f64> {
        let w = Tensor::from_f32([self.n, self.k], self.w.clone())?;
        let packed = cpu::quantize(&w, "w", &scheme.parse()?, None)?;
        let decoded = cpu::dequantize(&packed, DType::F32).to_f32().into_owned();
        Ok(distance(&decoded, &self.w))
    }
}

/// One case in one shape: who takes part computes the product of the same files.
struct Contest<'a> {
    args: &'a Args,
    operands: &'a Operands,
    shape: [usize; 3],
    case: &'a Case,
    device: &'a str,
    x: Vec<f32>,
    /// What readers of lowbit's bytes should compute.
    want: Vec<f32>,
    /// What those with a quantizer of their own should; worked out when it is needed.
    want_exact: OnceCell<Vec<f32>>,
}

/// Who has computed the right thing.
struct Entrant {
    process: Process,
    y: Vec<f32>,
    times: Vec<f64>,
}

impl<'a> Contest<'a> {
    fn new(
        args: &'a Args,
        operands: &'a Operands,
        shape: [usize; 3],
        case: &'a Case,
        device: &'a str,
    ) -> Anyhow<Self> {
        let x = floats(&operands.x_path(shape[0]))?;
        let want = product(&x, &operands.decoded(case.scheme)?, shape);
        Ok(Self { args, operands, shape, case, device, x, want, want_exact: OnceCell::new() })
    }

    /// Starts a program, `lowbit` or a peer, and compares its product. The error is why it does not take part.
    fn enter(&self, name: &str) -> Result<Entrant, String> {
        let (folder, [m, k, n]) = (self.operands.folder.path(), self.shape);
        let mut command = program(self.args, name)?;
        let out = folder.join("y.f32");
        command.arg(self.device).args([m, k, n].map(|v| v.to_string()));
        command.args([self.case.scheme, self.case.activation]).args([folder, &out]);
        let threads = self.args.threads.to_string();
        command.env("PEERS_THREADS", &threads).env("RAYON_NUM_THREADS", &threads);
        if self.case.gpu {
            choose_driver(&mut command, self.device);
        }
        let process = Process::start(&mut command, &folder.join(format!("{name}.stderr")))?;
        let y = floats(&out).map_err(|e| e.to_string())?;
        std::fs::remove_file(&out).map_err(|e| e.to_string())?;
        let mut bound = tolerance(name, self.case.activation, k);
        let want = match own_quantizer(name, self.case.scheme) {
            None => &self.want,
            Some(like) => {
                // Rounding in another order is allowed a tenth more than lowbit's encoder.
                bound = bound.hypot(1.1 * self.operands.cost(like).map_err(|e| e.to_string())?);
                self.want_exact.get_or_init(|| product(&self.x, &self.operands.w, self.shape))
            }
        };
        let off = distance(&y, want);
        if off > bound {
            return Err(format!(
                "computes something else: its relative error is {off:.1e}, the bound {bound:.1e}"
            ));
        }
        Ok(Entrant { process, y, times: Vec::new() })
    }

    /// The rows of this case: everybody enters, then all of them are timed in turns.
    fn rows(&self, peers: &[&'static str]) -> Vec<Row> {
        let mut all: Vec<Result<Entrant, String>> =
            std::iter::once(&"lowbit").chain(peers).map(|name| self.enter(name)).collect();
        let begin = Instant::now();
        let (least, most, limit) = if self.args.quick { (3, 5, 2) } else { (5, 100, 8) };
        for round in 0..most {
            if round >= least && begin.elapsed() > Duration::from_secs(limit) {
                break;
            }
            for entrant in &mut all {
                // Threads that wait for more work in a loop give up meanwhile.
                std::thread::sleep(Duration::from_millis(50));
                if let Ok(taking_part) = entrant {
                    match taking_part.process.time() {
                        Ok(ms) => taking_part.times.push(ms),
                        Err(why) => *entrant = Err(why),
                    }
                }
            }
        }
        let (ours, others) = all.split_at(1);
        let row = |(peer, theirs): (&&'static str, &Result<Entrant, String>)| {
            let result = match (&ours[0], theirs) {
                (Err(why), _) => Err(format!("lowbit: {why}")),
                (_, Err(why)) => Err(why.clone()),
                (Ok(ours), Ok(theirs)) => Ok(Measured {
                    ran: [&ours.process.what, &theirs.process.what].map(String::clone),
                    ours: Times::new(&ours.times),
                    peer: Times::new(&theirs.times),
                    difference: distance(&theirs.y, &ours.y),
                }),
            };
            Row { case: self.name(), peer, result }
        };
        peers.iter().zip(others).map(row).collect()
    }

    fn name(&self) -> String {
        let [m, k, n] = self.shape;
        let device = if self.case.gpu { self.device.split(' ').next().unwrap_or("gpu") } else { "cpu" };
        format!("{device} {m}x{k}x{n} {} {}", self.case.scheme, self.case.activation)
    }
}

/// The command that starts `lowbit` or a peer.
fn program(args: &Args, name: &str) -> Result<Command, String> {
    // One program of ggml's has both.
    let file = args.peers.join("bin").join(name.trim_end_matches("-cpu").trim_end_matches("-vulkan"));
    if file.exists() {
        return std::path::absolute(file).map(Command::new).map_err(|e| e.to_string());
    }
    let why = std::fs::read_to_string(file.with_extension("why"));
    Err(why.map_or_else(|_| format!("{} is not there", file.display()), |why| why.trim().into()))
}

/// Lets a process see no other Vulkan drivers than those of this adapter: not every peer can be told which to take.
fn choose_driver(command: &mut Command, adapter: &str) {
    let kind = |text: &str| {
        let software =
            ["lvp", "llvmpipe", "swiftshader", "SwiftShader"].iter().position(|s| text.contains(s));
        software.map(|at| at / 2)
    };
    if let Ok(files) = std::env::var("VK_DRIVER_FILES") {
        let files: Vec<&str> = files.split(':').filter(|file| kind(file) == kind(adapter)).collect();
        command.env("VK_DRIVER_FILES", files.join(":"));
    }
    command.env("WGPU_BACKEND", "vulkan");
    if kind(adapter).is_some() {
        // ggml passes over software adapters that are not asked for.
        command.env("GGML_VK_VISIBLE_DEVICES", "0");
    }
}

/// `x [m, k]` times the transpose of `w [n, k]`, summed in f64.
fn product(x: &[f32], w: &[f32], [m, k, n]: [usize; 3]) -> Vec<f32> {
    (0..m * n)
        .into_par_iter()
        .map(|i| {
            let (x, w) = (&x[i / n * k..][..k], &w[i % n * k..][..k]);
            x.iter().zip(w).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>() as f32
        })
        .collect()
}

/// Root mean square of the difference relative to that of `want`; infinite for NaN and for another number of values.
fn distance(y: &[f32], want: &[f32]) -> f64 {
    let (mut off, mut power) = (0.0, 0.0);
    for (y, w) in y.iter().zip(want) {
        off += (f64::from(*y) - f64::from(*w)).powi(2);
        power += f64::from(*w).powi(2);
    }
    if off.is_nan() || y.len() != want.len() { f64::INFINITY } else { (off / power).sqrt() }
}

/// Numbers of a normal distribution, near enough: sums of four uniform ones, variance 1.
fn noise(n: usize, seed: usize) -> Vec<f32> {
    let mut state = (seed as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..n)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let uniform = |shift: u32| ((state >> shift) & 0xffff) as f32 / 65536.0 - 0.5;
            (uniform(0) + uniform(16) + uniform(32) + uniform(48)) * 3f32.sqrt()
        })
        .collect()
}

fn print(Row { case, peer, result }: &Row) {
    match result {
        Ok(Measured { ours, peer: theirs, .. }) => {
            let (ratio, least) = (ours.median / theirs.median, ours.least / theirs.least);
            println!("{case:<32} {peer:<19} {ours:<32} {theirs:<32} {ratio:6.2} {least:6.2}");
        }
        Err(why) => println!("{case:<32} {peer:<19} - {why}"),
    }
}

fn json(Row { case, peer, result }: &Row) -> serde_json::Value {
    match result {
        Ok(Measured { ran: [ours_ran, peer_ran], ours, peer: theirs, difference }) => serde_json::json!({
            "case": case, "peer": peer,
            "ours_ms": ours.median, "peer_ms": theirs.median, "ratio": ours.median / theirs.median,
            "ours": ours, "theirs": theirs, "ratio_of_least": ours.least / theirs.least,
            "ours_ran": ours_ran, "peer_ran": peer_ran, "difference": difference,
        }),
        Err(why) => serde_json::json!({
            "case": case, "peer": peer, "ours_ms": null, "peer_ms": null, "ratio": null, "why": why,
        }),
    }
}
