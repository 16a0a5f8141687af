//! `lowbit demo`: real digits through a quantized network, on every device there is.
//!
//! ```text
//! threads, for each device and scheme:    weights -> quantize there -> 3 products there -> answers
//!                                           each product -> beside the f64 reference -> error / bound
//! then one device after the other:        the 3 products again, unread in between -> time
//! -> one table
//! ```
//!
//! A first run on a device compiles its shaders, which software drivers take their time for; hence the threads. What the table says is measured in this run. The engines compute; here is only what to compute and what to tell of it.

use super::digits::{Digits, Layer, network, network_in};
use super::on_threads;
use super::print::{self, Align, Table};
use crate::engine::{Array, Engine, EngineInfo, EngineOptions, MatmulOptions, PackedArray};
use crate::gpu::adapter;
use crate::product::Function;
use crate::reference::{self, matmul::Added};
use crate::report::metrics::Errors;
use crate::train::answers;
use crate::{Error, PackedTensor, Result, Scheme, Tensor};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// Classify handwritten digits with a network quantized in a dozen schemes, on the CPU and on every adapter
///
/// The weights are quantized on the device, 360 digits that training never saw run through them there, and every product is checked
/// against an f64 reference. Needs no file and no network. `--device NAME` limits it to one device.
#[derive(clap::Args, Default)]
#[command(
    after_help = "Example:\n  lowbit demo\n  lowbit demo --device cpu\n  lowbit demo --json | jq .schemes\n  lowbit demo --model digits-int2.safetensors"
)]
pub struct Args {
    /// Run this network instead, as `lowbit train-digits -o` writes it: packed weights as they are, others in all schemes
    #[arg(long, value_name = "FILE")]
    model: Option<std::path::PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What is shown: plain floats first, then from eight bits down to one.
const SCHEMES: [&str; 14] = [
    "f32",
    "f16",
    "q8_0",
    "int8-row",
    "e4m3-row",
    "q6_k",
    "q5_1",
    "q4_k",
    "int4-g32-asym",
    "nf4-g64",
    "mxfp4",
    "q3_k",
    "int2-g32",
    "int1-g32",
];
/// The products are timed this often, and the shortest time counts.
const REPEATS: usize = 3;
/// Roundings of an f32 product beside those of its sum: of the product of two numbers, two of a two-level scale, of the
/// offset or minimum, of the bias, and of the result.
const OTHER_ROUNDINGS: usize = 6;

/// One scheme on one device.
struct Run {
    weights: Vec<PackedArray>,
    options: Vec<MatmulOptions>,
    x: Array,
    answers: Vec<u8>,
    /// For all digits, the shortest of some; infinite until measured.
    milliseconds: f64,
    /// Bits per weight, bytes and errors of the weights as the device quantized them.
    bits: f64,
    bytes: usize,
    errors: Errors,
}

/// What became of the checks of all devices.
#[derive(Default)]
struct Checks {
    /// By scheme and layer.
    known: HashMap<(usize, usize), Arc<Known>>,
    products: usize,
    /// The largest error as a part of its bound.
    worst: f64,
    failures: Vec<String>,
}

/// A reference product, kept because devices that agree ask for the same one.
struct Known {
    w: PackedTensor,
    x: Tensor,
    y: Vec<f64>,
    magnitude: Vec<f64>,
}

/// Runs the subcommand.
pub fn run(args: &Args, device: Option<&str>) -> Result<()> {
    let started = Instant::now();
    let digits = Digits::held_out()?;
    let layers = args.model.as_deref().map_or_else(network, network_in)?;
    let schemes = match layers.iter().find_map(|layer| layer.packed.as_ref()) {
        // Its own, whatever the other layers have.
        Some(packed) => vec![*packed.scheme()],
        None => SCHEMES.iter().map(|name| name.parse()).collect::<Result<Vec<Scheme>>>()?,
    };
    let engines = pollster::block_on(engines(device))?;

    let truth = f32_answers(&digits, &layers)?;
    let bar = print::progress((engines.len() * schemes.len()) as u64, "demo");
    let shared = Mutex::new(Checks::default());
    let run = |task: usize| -> Result<Run> {
        let ((info, engine), i) = (&engines[task % engines.len()], task / engines.len());
        let scheme = &schemes[i];
        print::at(&bar, &format!("{scheme} on {}", info.name));
        let run = pollster::block_on(run_scheme(engine, &digits, &layers, (i, scheme), &shared));
        bar.inc(1);
        run.map_err(|e| Error::Check { what: format!("{scheme} on {}: {e}", info.name) })
    };
    let mut runs: Vec<Vec<Run>> = engines.iter().map(|_| Vec::new()).collect();
    for (task, result) in on_threads(engines.len() * schemes.len(), run).into_iter().enumerate() {
        runs[task % engines.len()].push(result?);
    }
    for ((_, engine), column) in engines.iter().zip(&mut runs) {
        for run in column {
            pollster::block_on(time(engine, run))?;
        }
    }
    bar.finish_and_clear();
    let checks = shared.into_inner().unwrap_or_else(PoisonError::into_inner);

    let seconds = started.elapsed().as_secs_f64();
    if args.json {
        print::json(&to_json(&engines, &schemes, &runs, &digits, &truth, &checks, seconds))?;
    } else {
        print::stdout(&to_text(&engines, &schemes, &runs, &digits, &truth, &checks, seconds))?;
    }
    match checks.failures.as_slice() {
        [] => Ok(()),
        [first, ..] => {
            let n = checks.failures.len();
            let what = format!("{} beyond its bound: {first}", print::count(n, "product"));
            Err(Error::Check { what })
        }
    }
}

/// The devices to run on: the one that is named, or the CPU and every adapter. One that cannot be opened is named and left out.
async fn engines(device: Option<&str>) -> Result<Vec<(EngineInfo, Engine)>> {
    if let Some(name) = device.filter(|d| !d.eq_ignore_ascii_case("auto")) {
        let engine = super::open_engine(Some(name)).await?;
        return Ok(vec![(engine.info(), engine)]);
    }
    let cpu = Engine::cpu();
    let mut engines = vec![(cpu.info(), cpu)];
    for found in adapter::list().await {
        match Engine::open_adapter(&found.adapter, &EngineOptions::default()).await {
            Ok(engine) => engines.push((engine.info(), engine)),
            Err(e) => print::note(&format!("lowbit: left out: {}: {e}", found.info.summary())),
        }
    }
    Ok(engines)
}

/// What the unquantized network answers, by the reference.
fn f32_answers(digits: &Digits, layers: &[Layer]) -> Result<Vec<u8>> {
    let float: Scheme = "f32".parse()?;
    let mut x = digits.x.clone();
    for layer in layers {
        let (rows, k) = layer.weight.matrix();
        let weight = reference::quantize(&layer.weight.to_f32(), rows, k, float, None)?;
        let (y, _) = reference_product(&x, &weight, &layer.bias, layer.function)?;
        x = Tensor::from_f32([x.matrix().0, rows], y.iter().map(|&v| v as f32).collect())?;
    }
    Ok(answers(&x))
}

/// Quantizes, runs, checks and times one scheme on one device.
async fn run_scheme(
    engine: &Engine,
    digits: &Digits,
    layers: &[Layer],
    (index, scheme): (usize, &Scheme),
    checks: &Mutex<Checks>,
) -> Result<Run> {
    let mut weights: Vec<PackedArray> = Vec::new();
    let mut options = Vec::new();
    for layer in layers {
        let weight = match &layer.packed {
            Some(packed) => engine.upload_packed(packed)?,
            None => engine.quantize_named(&layer.weight, &layer.name, scheme).await?,
        };
        weights.push(weight);
        let bias = Some(engine.upload(&layer.bias)?);
        options.push(MatmulOptions { function: layer.function, bias, ..MatmulOptions::default() });
    }
    let x = engine.upload(&digits.x)?;

    // Every result is read, to be checked; this also compiles what is timed later.
    let mut array = x.clone();
    let mut input = digits.x.clone();
    let (mut bits, mut bytes, mut total, mut errors) = (0.0, 0, 0, Errors::default());
    for (l, layer) in layers.iter().enumerate() {
        let packed = weights[l].read().await?;
        errors.add(&layer.weight.to_f32(), &reference::dequantize(&packed));
        bits += packed.bits_per_weight() * packed.len() as f64;
        bytes += stored_bytes(&packed);
        total += packed.len();
        array = engine.matmul(&array, &weights[l], &options[l])?;
        let output = array.read().await?;
        let plan = engine.plan(input.matrix().0, &weights[l], &options[l])?;
        let roundings = plan.summation.chain + plan.summation.depth + OTHER_ROUNDINGS;
        check(&input, packed, layer, &output, roundings, (index, l), checks)?;
        input = output;
    }
    let (answers, bits, milliseconds) = (answers(&input), bits / total as f64, f64::INFINITY);
    Ok(Run { weights, options, x, answers, milliseconds, bits, bytes, errors })
}

/// Times the network as a whole.
async fn time(engine: &Engine, run: &mut Run) -> Result<()> {
    for _ in 0..REPEATS {
        let start = Instant::now();
        let scores = forward(engine, &run.x, &run.weights, &run.options)?.read().await?;
        run.milliseconds = run.milliseconds.min(start.elapsed().as_secs_f64() * 1e3);
        if answers(&scores) != run.answers {
            return Err(Error::Check { what: "the same products gave other answers the second time".into() });
        }
    }
    Ok(())
}

/// The network, recorded as a whole.
fn forward(engine: &Engine, x: &Array, weights: &[PackedArray], options: &[MatmulOptions]) -> Result<Array> {
    weights.iter().zip(options).try_fold(x.clone(), |x, (w, o)| engine.matmul(&x, w, o))
}

/// Bytes of the planes, without the alignment between them.
fn stored_bytes(packed: &PackedTensor) -> usize {
    packed.layout().planes().iter().map(|p| p.len).sum()
}

/// Holds one product of a device to the reference of the same codes and inputs.
#[allow(clippy::too_many_arguments)]
fn check(
    x: &Tensor,
    packed: PackedTensor,
    layer: &Layer,
    y: &Tensor,
    roundings: usize,
    key: (usize, usize),
    checks: &Mutex<Checks>,
) -> Result<()> {
    let lock = || checks.lock().unwrap_or_else(PoisonError::into_inner);
    let seen = lock().known.get(&key).filter(|seen| seen.w == packed && seen.x == *x).cloned();
    let seen = match seen {
        Some(seen) => seen,
        None => {
            let (y, magnitude) = reference_product(x, &packed, &layer.bias, layer.function)?;
            let seen = Arc::new(Known { w: packed, x: x.clone(), y, magnitude });
            lock().known.insert(key, seen.clone());
            seen
        }
    };
    // (1 + u)^n - 1 <= n u / (1 - n u), u = 2^-24: the standard bound for n roundings. ReLU does not enlarge errors.
    let nu = roundings as f64 * f64::from(f32::EPSILON) / 2.0;
    let bound = nu / (1.0 - nu);
    let mut worst = 0.0f64;
    for ((&got, &wanted), &magnitude) in y.to_f32().iter().zip(&seen.y).zip(&seen.magnitude) {
        let part = (f64::from(got) - wanted).abs() / (bound * magnitude);
        // A NaN counts as the worst; 0 / 0 is a sum of nothing that came out right.
        if f64::from(got) != wanted {
            worst = if part <= worst { worst } else { part.max(worst) };
            worst = if part.is_nan() { f64::INFINITY } else { worst };
        }
    }
    let mut checks = lock();
    checks.products += 1;
    checks.worst = checks.worst.max(worst);
    if worst > 1.0 || y.len() != seen.y.len() {
        checks.failures.push(format!("{} in {}: error {worst:.2} of the bound", layer.name, seen.w.scheme()));
    }
    Ok(())
}

/// `function(x * w^T + bias)` and the magnitudes of its sums.
fn reference_product(
    x: &Tensor,
    w: &PackedTensor,
    bias: &Tensor,
    function: Function,
) -> Result<(Vec<f64>, Vec<f64>)> {
    let (m, _) = x.matrix();
    let (x, bias) = (x.to_f32(), bias.to_f32());
    let product = crate::product::Product { function, ..Default::default() };
    let added = Added { bias: Some(&bias), residual: None };
    Ok((
        reference::matmul(&x, m, w, added, &product)?,
        reference::matmul::magnitude(&x, m, w, added, &product)?,
    ))
}

fn differing(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).filter(|(a, b)| a != b).count()
}

/// The answers of a scheme on the first device, their accuracy, and how many differ from f32's.
fn judged<'a>(runs: &'a [Vec<Run>], scheme: usize, digits: &Digits, truth: &[u8]) -> (&'a Run, f64, usize) {
    let run = &runs[0][scheme];
    let right = digits.labels.len() - differing(&run.answers, &digits.labels);
    (run, right as f64 / digits.labels.len() as f64, differing(&run.answers, truth))
}

/// Digits that devices read differently: (scheme, device, how many).
fn disputed(runs: &[Vec<Run>]) -> Vec<(usize, usize, usize)> {
    let mut all = Vec::new();
    for (device, column) in runs.iter().enumerate().skip(1) {
        for (scheme, run) in column.iter().enumerate() {
            let n = differing(&run.answers, &runs[0][scheme].answers);
            if n > 0 {
                all.push((scheme, device, n));
            }
        }
    }
    all
}

fn to_text(
    engines: &[(EngineInfo, Engine)],
    schemes: &[Scheme],
    runs: &[Vec<Run>],
    digits: &Digits,
    truth: &[u8],
    checks: &Checks,
    seconds: f64,
) -> String {
    let n = digits.labels.len();
    let mut text = format!(
        "{n} handwritten digits that training never saw, through a network of 3 layers, quantized on\n"
    );
    for (i, (info, _)) in engines.iter().enumerate() {
        let software = if info.software { ", software" } else { "" };
        let driver = if info.driver.is_empty() { String::new() } else { format!(", {}", info.driver) };
        text += &format!("  [{}] {} ({}{driver}{software}; {})\n", i + 1, info.name, info.backend, info.tier);
    }
    let mut columns = vec![
        ("scheme".to_string(), Align::Left),
        ("bits/weight".into(), Align::Right),
        ("size".into(), Align::Right),
        ("SQNR dB".into(), Align::Right),
        ("accuracy".into(), Align::Right),
        ("differ from f32".into(), Align::Right),
    ];
    columns.extend((1..=engines.len()).map(|i| (format!("[{i}] ms"), Align::Right)));
    let columns: Vec<(&str, Align)> = columns.iter().map(|(name, align)| (name.as_str(), *align)).collect();
    let mut table = Table::new(&columns);
    for (s, scheme) in schemes.iter().enumerate() {
        let (run, accuracy, differ) = judged(runs, s, digits, truth);
        let mut cells = vec![
            scheme.to_string(),
            format!("{:.3}", run.bits),
            print::bytes(run.bytes as u64),
            run.errors.sqnr_text(),
            format!("{:.2} %", accuracy * 100.0),
            format!("{differ} of {n}"),
        ];
        cells.extend(runs.iter().map(|column| format!("{:.2}", column[s].milliseconds)));
        table.row(cells);
    }
    text += "\n";
    text += &table.render();
    text += &format!(
        "\nms: all {n} digits through the 3 products. {} checked against the f64 reference: the largest error is {:.2} of its bound.\n",
        print::count(checks.products, "product"),
        checks.worst,
    );
    let disputed = disputed(runs);
    if disputed.is_empty() && engines.len() > 1 {
        text += "All devices gave the same answers.\n";
    }
    for (s, d, n) in disputed {
        text += &format!(
            "{}: [{}] reads {} differently from [1].\n",
            schemes[s],
            d + 1,
            print::count(n, "digit")
        );
    }
    text + &format!(
        "{seconds:.1} s in all. Next: lowbit quantize model.safetensors -o small.safetensors --scheme q4_k\n"
    )
}

fn to_json(
    engines: &[(EngineInfo, Engine)],
    schemes: &[Scheme],
    runs: &[Vec<Run>],
    digits: &Digits,
    truth: &[u8],
    checks: &Checks,
    seconds: f64,
) -> Value {
    let devices: Vec<Value> = engines
        .iter()
        .map(|(i, _)| json!({"name": i.name, "backend": i.backend, "driver": i.driver, "software": i.software, "tier": i.tier}))
        .collect();
    let rows: Vec<Value> = schemes
        .iter()
        .enumerate()
        .map(|(s, scheme)| {
            let (run, accuracy, differ) = judged(runs, s, digits, truth);
            let times: Vec<f64> = runs.iter().map(|column| column[s].milliseconds).collect();
            json!({"scheme": scheme.to_string(), "bits_per_weight": run.bits, "bytes": run.bytes,
                   "sqnr_db": run.errors.sqnr_db(), "accuracy": accuracy, "disagreement": differ, "milliseconds": times})
        })
        .collect();
    let disputed: Vec<Value> = disputed(runs)
        .into_iter()
        .map(|(s, d, n)| json!({"scheme": schemes[s].to_string(), "device": d, "digits": n}))
        .collect();
    json!({
        "digits": digits.labels.len(), "devices": devices, "schemes": rows,
        "checks": {"products": checks.products, "worst_part_of_bound": checks.worst, "failures": checks.failures},
        "devices_disagree": disputed, "seconds": seconds,
    })
}
