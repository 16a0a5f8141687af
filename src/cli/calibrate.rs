//! `lowbit calibrate`: a model runs over a text, and what goes into its linear layers is counted.
//!
//! ```text
//! MODEL, lines of a text -> batches -> Encoder::forward, a Collector at each linear layer -> Statistics [+ those of --merge] -> OUT (safetensors), OUT.json
//! ```

use super::open_engine;
use super::output::Output;
use super::print::{self, Align, Table};
use super::texts::{self, Run};
use crate::calibrate::{Collector, Grid, Inputs, Rule, Statistics};
use crate::{Error, Result};
use serde_json::{Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Run a model over a text and store what quantizers want to know of the inputs of its linear layers
///
/// For each input: X^T X (the Hessian of GPTQ, whose diagonal has the second moments), least and largest number of each column, a histogram, and a sample of rows.
/// OUT is safetensors (docs/CALIBRATION.md), OUT.json has the small part for reading, and the range that each rule of static calibration finds for int8. Runs of several texts are merged by --merge.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
lowbit calibrate all-MiniLM-L6-v2/ --text sentences.txt -o stats.safetensors\n  \
lowbit calibrate all-MiniLM-L6-v2/ --text more.txt -o both.safetensors --merge stats.safetensors")]
pub struct Args {
    /// A folder, a packed safetensors file or a GGUF file
    #[arg(value_name = "MODEL")]
    model: PathBuf,
    /// The text, a sentence a line; `-` is standard input
    #[arg(long, value_name = "FILE")]
    text: PathBuf,
    /// The file to write; a summary is written beside it with the ending .json
    #[arg(short, long, value_name = "OUT")]
    output: PathBuf,
    /// Statistics of the same model to add (may be given several times)
    #[arg(long, value_name = "FILE")]
    merge: Vec<PathBuf>,
    /// Rows of each input to keep as a sample
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(..=1 << 20))]
    sample: u32,
    /// Overwrite the outputs if they exist
    #[arg(long)]
    force: bool,
    /// Print the summary as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    run: Run,
}

/// Runs the subcommand.
pub fn run(args: &Args, device: Option<&str>) -> Result<()> {
    let found = texts::lines(&texts::read(&args.text)?);
    if found.is_empty() {
        return Err(Error::Nothing {
            path: args.text.clone(),
            what: "no text in it, only blank lines".into(),
        });
    }
    let others = args.merge.iter().map(|path| Statistics::open(path)).collect::<Result<Vec<_>>>()?;
    let beside = args.output.with_extension("json");
    if beside == args.output {
        return Err(Error::Usage(format!(
            "{} is the name of the summary; name another output",
            beside.display()
        )));
    }
    let inputs: Vec<&Path> =
        [&args.model, &args.text].into_iter().chain(&args.merge).map(PathBuf::as_path).collect();
    let mut output = Output::create(&args.output, args.force, inputs.iter().copied())?;
    let mut summary = Output::create(&beside, args.force, inputs.iter().copied())?;
    let engine = pollster::block_on(open_engine(device))?;
    let embedder = args.run.open(&engine, &args.model)?;
    let passages =
        texts::tokenize(&embedder, &found, args.run.long(), |at| format!("line {}", found[at].line))?;
    let bar = print::progress(passages.tokens() as u64, "tokens");
    let mut statistics = pollster::block_on(async {
        let mut collector = Collector::new(&engine, args.sample as usize);
        for batch in embedder.encoder.batches(&passages) {
            let (ids, lengths) = (batch.concat(), batch.iter().map(Vec::len).collect::<Vec<_>>());
            embedder.encoder.forward(&ids, &lengths, &mut |layers, x| collector.see(layers, x))?;
            collector.absorb().await?;
            bar.inc(ids.len() as u64);
        }
        collector.finish().await
    })?;
    bar.finish_and_clear();
    others.iter().try_for_each(|other| statistics.merge(other))?;
    statistics.write(&mut output, &args.output)?;
    let rows = statistics.inputs.iter().map(summary_of).collect::<Result<Vec<Value>>>()?;
    let whole = json!({
        "model": args.model, "text": args.text, "sentences": found.len(), "tokens": passages.tokens(), "merged": args.merge,
        "device": engine.info().name, "inputs": rows,
    });
    let io = |source| Error::Io { path: beside.clone(), source };
    writeln!(summary, "{}", serde_json::to_string_pretty(&whole).map_err(|e| io(e.into()))?).map_err(io)?;
    output.commit()?;
    summary.commit()?;
    if args.json {
        return print::json(&whole);
    }
    let mut table = Table::new(&[
        ("input of", Align::Left),
        ("columns", Align::Right),
        ("rows", Align::Right),
        ("least", Align::Right),
        ("largest", Align::Right),
        ("rms", Align::Right),
        ("percentile", Align::Right),
        ("entropy", Align::Right),
        ("mse", Align::Right),
    ]);
    let rules = [Rule::Percentile(Rule::USUAL), Rule::Entropy, Rule::Mse];
    for inputs in &statistics.inputs {
        let [low, high] = inputs.extremes();
        let more = match inputs.layers.len() {
            1 => String::new(),
            n => format!(" and {} more", n - 1),
        };
        let mut row = vec![
            format!("{}{more}", inputs.layers[0]),
            inputs.k.to_string(),
            inputs.tokens.to_string(),
            format!("{low:.3}"),
            format!("{high:.3}"),
            format!("{:.4}", inputs.rms()),
        ];
        for rule in rules {
            row.push(format!("{:.3}", inputs.range(rule, Grid::INT8)?.high()));
        }
        table.row(row);
    }
    let told = "percentile, entropy and mse: where symmetric int8 would clip";
    print::stdout(&format!("{}{told}\n{}, {}\n", table.render(), args.output.display(), beside.display()))
}

fn summary_of(inputs: &Inputs) -> Result<Value> {
    let [low, high] = inputs.extremes();
    let mut ranges = serde_json::Map::new();
    for rule in Rule::ALL {
        let (symmetric, affine) = (inputs.range(rule, Grid::INT8)?, inputs.range(rule, Grid::INT8_AFFINE)?);
        let of = json!({
            "symmetric": {"clip": symmetric.high(), "scale": symmetric.scale()},
            "affine": {"low": affine.low(), "high": affine.high(), "scale": affine.scale(), "zero_point": affine.zero_point()},
        });
        ranges.insert(rule.to_string(), of);
    }
    Ok(json!({
        "layers": inputs.layers, "columns": inputs.k, "rows": inputs.tokens, "least": low, "largest": high, "rms": inputs.rms(),
        "sample_rows": inputs.sample.len() / inputs.k, "histogram": inputs.histogram, "int8_ranges": ranges,
    }))
}
