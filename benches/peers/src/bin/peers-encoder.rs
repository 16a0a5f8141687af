//! lowbit's sentence encoder beside onnxruntime's, on the CPU, in turns of one run.
//!
//! ```text
//! MODEL -> f32; int8-row weights with int8 activations (W8A8); int4-g32 -> compared with tests/data/minilm.safetensors
//! onnxruntime-encoder.py --serve: f32, int8 (dynamic)                   -> compares its own
//!   in turns: lowbit, onnxruntime, lowbit, ... -> medians and quartiles -> table, --json
//! ```
//!
//! A run is the embeddings of B sentences of T tokens each, random ids, from ids to vectors in memory. `scripts/peers-encoder.sh` prepares what is needed.

#[path = "../process.rs"]
#[allow(dead_code, reason = "each program uses a part")]
mod process;

use clap::Parser;
use lowbit::file::{Content, Model};
use lowbit::model::{Encoder, Settings, Source};
use lowbit::product::{Activation, Int8Group};
use lowbit::{Engine, PackedArray, Scheme};
use pollster::block_on;
use process::Process;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

type Anyhow<T> = Result<T, Box<dyn std::error::Error>>;

/// Times lowbit's sentence encoder beside onnxruntime's on the CPU.
#[derive(Parser)]
#[command(max_term_width = 100)]
struct Args {
    /// The folder of a BERT encoder
    #[arg(default_value = "target/test-data")]
    model: PathBuf,
    /// Writes the rows to a file as well
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Turns of each shape
    #[arg(long, default_value_t = 21)]
    runs: usize,
    /// Threads of both
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Where onnxruntime is
    #[arg(long, default_value = "target/peers", hide = true)]
    peers: PathBuf,
}

const SHAPES: [(usize, usize); 3] = [(32, 64), (1, 64), (1, 16)];
/// What of lowbit, in which scheme, and what of onnxruntime it stands beside.
const KINDS: [(&str, Option<&str>, Activation, &str, f64); 3] = [
    ("f32", None, Activation::F32, "f32", 0.99999),
    ("int8-row, int8 activations", Some("int8-row"), Activation::Int8(Int8Group::Row), "int8", 0.9),
    ("int4-g32, int8-g32 activations", Some("int4-g32"), Activation::Int8(Int8Group::Cols(32)), "int8", 0.5),
];
/// Weights come back into the caches and threads awake in this time before a run that counts.
const WARM: Duration = Duration::from_millis(4);

fn main() -> Anyhow<()> {
    let args = Args::parse();
    rayon::ThreadPoolBuilder::new().num_threads(args.threads).build_global()?;
    let scratch = tempfile::tempdir()?;
    let file = args.peers.join("bin/onnxruntime-encoder");
    if !file.exists() {
        let why = std::fs::read_to_string(file.with_extension("why"));
        return Err(why.unwrap_or_else(|_| format!("{} is not there", file.display())).into());
    }
    let mut command = Command::new(std::path::absolute(file)?);
    command.arg(&args.model).arg("--serve").env("PEERS_THREADS", args.threads.to_string());
    let mut peer = Process::start(&mut command, &scratch.path().join("stderr"))?;
    let encoders: Vec<Encoder> = KINDS
        .iter()
        .map(|(_, scheme, activation, _, _)| encoder(&args.model, *scheme, *activation))
        .collect::<Anyhow<_>>()?;
    println!("lowbit {}, {} threads; {}", Engine::cpu().info().tier, args.threads, peer.what);
    for (encoder, (name, .., least)) in encoders.iter().zip(KINDS) {
        let (worst, mean) = beside_golden(encoder)?;
        println!("lowbit {name}: cosines from {worst:.7}, {mean:.6} in the mean");
        if worst.is_nan() || mean < least {
            return Err(format!("{name}: embeddings are not the golden ones").into());
        }
    }
    println!(
        "\n{:<8} {:<32} {:>26}  {:<12} {:>26}  {:>6}",
        "B x T", "lowbit", "ms", "onnxruntime", "ms", "ratio"
    );
    let mut rows = Vec::new();
    for (batch, tokens) in SHAPES {
        let (ids, lengths) = sentences(batch, tokens);
        let mut ours = vec![Vec::new(); KINDS.len()];
        let mut theirs = vec![Vec::new(); KINDS.len()];
        for _ in 0..args.runs {
            for (i, (encoder, (_, _, _, kind, _))) in encoders.iter().zip(KINDS).enumerate() {
                // Threads that wait for more work in a loop give up meanwhile.
                std::thread::sleep(Duration::from_millis(50));
                ours[i].push(time(encoder, &ids, &lengths)? * 1e3);
                std::thread::sleep(Duration::from_millis(50));
                let line = peer.ask(&format!("time {kind} {batch} {tokens}"))?;
                let answer: serde_json::Value = serde_json::from_str(&line)?;
                theirs[i].push(answer["seconds"].as_f64().ok_or_else(|| format!("no time: {line}"))? * 1e3);
            }
        }
        for (i, (name, _, _, kind, _)) in KINDS.iter().enumerate() {
            let (a, b) = (quartiles(&mut ours[i]), quartiles(&mut theirs[i]));
            let text = |[low, median, high]: [f64; 3]| format!("{median:.2} ({low:.2} .. {high:.2})");
            let shape = format!("{batch}x{tokens}");
            println!(
                "{shape:<8} {name:<32} {:>26}  {kind:<12} {:>26}  {:>6.2}",
                text(a),
                text(b),
                a[1] / b[1]
            );
            rows.push(json!({
                "batch": batch, "tokens": tokens, "lowbit": name, "peer": kind, "ours_ms": a, "peer_ms": b,
                "ratio": a[1] / b[1], "tokens_per_s": (batch * tokens) as f64 / a[1] * 1e3,
            }));
        }
    }
    if let Some(path) = &args.json {
        std::fs::write(path, serde_json::to_string_pretty(&json!({"peer": peer.what, "rows": rows}))?)?;
    }
    Ok(())
}

/// The model on the CPU engine, its matrices in a scheme.
fn encoder(folder: &Path, scheme: Option<&str>, activation: Activation) -> Anyhow<Encoder> {
    let engine = Engine::cpu();
    let source = Source::open(folder)?;
    let scheme: Option<Scheme> = scheme.map(str::parse).transpose()?;
    let made = Encoder::load_with(&engine, &source.model, Settings { activation }, |model, entry| {
        let packed: Option<PackedArray> = match (scheme, &entry.content) {
            (Some(scheme), Content::Dense(_)) => {
                Some(block_on(engine.quantize(&model.tensor(entry)?, &scheme))?)
            }
            _ => None,
        };
        Ok(packed)
    });
    Ok(block_on(made)?)
}

fn time(encoder: &Encoder, ids: &[u32], lengths: &[usize]) -> Anyhow<f64> {
    let run = || block_on(async { encoder.embed(ids, lengths)?.read().await });
    let start = Instant::now();
    while start.elapsed() < WARM {
        run()?;
    }
    let start = Instant::now();
    run()?;
    Ok(start.elapsed().as_secs_f64())
}

/// Sentences of random words between [CLS] and [SEP].
fn sentences(batch: usize, tokens: usize) -> (Vec<u32>, Vec<usize>) {
    let mut state = 1u32;
    let ids = (0..batch * tokens).map(|at| match at % tokens {
        0 => 101,
        last if last + 1 == tokens => 102,
        _ => {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            1000 + (state >> 8) % 29000
        }
    });
    (ids.collect(), vec![tokens; batch])
}

/// The worst cosine with transformers' embeddings, and the mean.
fn beside_golden(encoder: &Encoder) -> Anyhow<(f64, f64)> {
    let golden =
        Model::open(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/minilm.safetensors"))?;
    let entry = |name: &str| golden.entry(name).ok_or_else(|| format!("no '{name}' among the golden data"));
    let ints = |name: &str| -> Anyhow<Vec<u32>> {
        Ok(golden
            .raw(entry(name)?)
            .chunks_exact(4)
            .map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect())
    };
    let lengths: Vec<usize> = ints("lengths")?.into_iter().map(|n| n as usize).collect();
    let got = block_on(encoder.embed(&ints("ids")?, &lengths)?.read())?;
    let want = golden.tensor(entry("embeddings")?)?;
    let (got, want, width) = (got.to_f32(), want.to_f32(), encoder.sizes().hidden);
    let cosines: Vec<f64> = got
        .chunks(width)
        .zip(want.chunks(width))
        .map(|(a, b)| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum())
        .collect();
    let worst = cosines.iter().copied().fold(1.0, f64::min);
    Ok((worst, cosines.iter().sum::<f64>() / cosines.len() as f64))
}

fn quartiles(times: &mut [f64]) -> [f64; 3] {
    times.sort_by(f64::total_cmp);
    [1, 2, 3].map(|part| times[(times.len() - 1) * part / 4])
}
