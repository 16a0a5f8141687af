//! `lowbit tune`: times the variants of the kernels for products and remembers which is fastest here.
//!
//! ```text
//! products -> their classes -> tune::run (verify, then time) -> table on stdout, --json FILE; winners -> the cache folder
//! ```

use super::open_engine;
use super::output::{Output, write_text};
use super::print::{self, Align, Table};
use super::products::{ProductArgs, Products};
use crate::bench::case::{Contestant, Timed};
use crate::bench::sample::Effort;
use crate::kernels::choice::Shape;
use crate::tune::{self, Contest};
use crate::{Engine, Error, Result};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Find the fastest kernel for products on a device, and remember it
///
/// Every variant of the kernels that the device runs is compared with the reference and then timed, by the device's own timestamps where it has them. The
/// default stays unless another is faster beyond the spread of both. Winners are remembered for products of a class (scheme, precisions, M of 1, 2 to 4,
/// 5 to 8, 9 to 16, 17 to 64, 65 to 256 or more, N and K between powers of two), per adapter, driver and version of lowbit, in the user's cache folder;
/// engines that are opened later use them. Nothing else should run on the device meanwhile.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  lowbit tune\n  lowbit tune --model llama-3-8b --scheme q4_k --m 1,8,512\n  \
lowbit tune --shape 512x4096x11008 --accumulate f16-chunked --device radeon\n  lowbit tune --shape 1x4096x4096 --dry-run --json -\n  \
lowbit tune --forget\n\n\
JSON: {\"device\", \"file\", \"remembered\", \"products\": [{\"scheme\", \"activation\", \"accumulate\", \"m\", \"n\", \"k\", \"class\", \"default\", \"winner\",\n\
\"gain\", \"variants\": [{\"variant\", \"median_s\", \"quartiles_s\", \"samples\", \"regime\", \"clock\", \"verified\"} or {\"variant\", \"wrong\" or \"left_out\"}]}],\n\
\"left_out\": [{\"product\", \"why\"}]}. The file: docs/TUNING.md."
)]
pub struct Args {
    #[command(flatten)]
    products: ProductArgs,
    /// Shorter measurements
    #[arg(long)]
    quick: bool,
    /// Time and tell, but remember nothing
    #[arg(long)]
    dry_run: bool,
    /// Forget what is remembered for the device, and time nothing
    #[arg(long, conflicts_with_all = ["dry_run", "quick", "json"])]
    forget: bool,
    /// Write the results to a file, or to stdout (-) instead of the table
    #[arg(long, value_name = "FILE|-")]
    json: Option<PathBuf>,
    /// Overwrite the file
    #[arg(short, long)]
    force: bool,
}

/// Runs the subcommand.
pub fn run(args: &Args, device: Option<&str>) -> Result<()> {
    let asked = args.products.parse()?;
    if args.forget && !args.products.is_empty() {
        return Err(Error::Usage("--forget is about all that is remembered for a device".into()));
    }
    let file = args.json.as_deref().filter(|path| *path != Path::new("-"));
    let output = file.map(|path| Output::create(path, args.force, [])).transpose()?;
    let engine = pollster::block_on(open_engine(device))?;
    if engine.is_cpu() {
        let why = "it has one kernel for each kind of activations; name an adapter with --device";
        return Err(Error::unsupported("tuning on the CPU engine", why));
    }
    if args.forget {
        return forget(&engine);
    }
    if engine.tuning_file().is_none() && !args.dry_run {
        let what =
            "there is no cache folder to remember winners in: set XDG_CACHE_HOME or HOME, or use --dry-run";
        return Err(Error::Usage(what.into()));
    }
    let shapes = shapes(&asked, &engine, args.quick)?;
    let effort = if args.quick { Effort::QUICK } else { Effort::FULL };
    let bar = print::progress(shapes.len() as u64, "tune");
    let (mut contests, mut left_out) = (Vec::new(), Vec::new());
    for shape in shapes {
        let at = |variant: &str| print::at(&bar, &format!("{shape} {variant}"));
        match tune::run(&engine, &shape, &effort, &mut { at }) {
            Ok(contest) => contests.push(contest),
            Err(
                why @ (Error::Unsupported { .. }
                | Error::TooLarge { .. }
                | Error::OutOfMemory { .. }
                | Error::GroupMismatch { .. }),
            ) => left_out.push((shape, why)),
            Err(why) => return Err(why),
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    let remembered = match args.dry_run || contests.is_empty() {
        true => Ok(()),
        false => {
            let winners: Vec<_> = contests.iter().map(|contest| contest.winner.clone()).collect();
            engine.remember(&winners)
        }
    };
    // What was measured is told, wherever it could not be kept.
    let kept = !args.dry_run && !contests.is_empty() && remembered.is_ok();
    match (output, &args.json) {
        (Some(output), _) => {
            let text = serde_json::to_string_pretty(&to_json(&engine, &contests, &left_out, kept));
            let text = text.map_err(|e| Error::Check { what: e.to_string() })?;
            write_text(output, &(text + "\n"))?;
            print::stdout(&to_text(&engine, &contests, &left_out, kept))?;
        }
        (None, Some(_)) => print::json(&to_json(&engine, &contests, &left_out, kept))?,
        (None, None) => print::stdout(&to_text(&engine, &contests, &left_out, kept))?,
    }
    remembered?;
    match contests.iter().find_map(wrong) {
        Some((shape, variant, why)) => Err(Error::Check { what: format!("{shape}: {variant}: {why}") }),
        None if contests.is_empty() => {
            let why = left_out.first().map(|(shape, why)| format!(": {shape}: {why}")).unwrap_or_default();
            Err(Error::Check { what: format!("nothing could be timed{why}") })
        }
        None => Ok(()),
    }
}

/// One shape of each class that is asked for, or what is usual on the device.
fn shapes(asked: &Products, engine: &Engine, quick: bool) -> Result<Vec<Shape>> {
    let software = engine.info().software;
    let (schemes, weights, ms): (&[&str], &[[usize; 2]], &[usize]) = match (software, quick) {
        (true, _) => (&["q4_0"], &[[1024, 1024]], &[1, 4, 32]),
        (false, true) => (&["q4_0", "q4_k"], &[[4096, 4096]], &[1, 8, 512]),
        (false, false) => {
            (&["q8_0", "q4_0", "q4_k"], &[[4096, 4096], [14336, 4096]], &[1, 4, 8, 16, 64, 256, 512])
        }
    };
    let call = asked.call;
    let mut all: Vec<Shape> = Vec::new();
    for scheme in asked.schemes(schemes)? {
        for (weight, ms) in asked.shapes(weights, ms)? {
            for m in ms {
                let (n, k) = (weight.n, weight.k);
                let shape =
                    Shape { m, n, k, scheme, activation: call.activation, accumulate: call.accumulate };
                if all.iter().all(|other| other.class() != shape.class()) {
                    all.push(shape);
                }
            }
        }
    }
    Ok(all)
}

fn forget(engine: &Engine) -> Result<()> {
    let name = engine.info().name;
    let Some(path) = engine.tuning_file().filter(|path| path.exists()) else {
        return print::stdout(&format!("nothing is remembered for {name}\n"));
    };
    std::fs::remove_file(path).map_err(|source| Error::Io { path: path.into(), source })?;
    print::stdout(&format!("forgotten for {name}: {}\n", path.display()))
}

/// A variant that computes something else than the reference, or does not compile.
fn wrong(contest: &Contest) -> Option<(Shape, &'static str, &Error)> {
    let check = |c: &Contestant| matches!(c.outcome, Err(Error::Check { .. } | Error::Shader { .. }));
    let found = contest.contestants.iter().find(|c| check(c))?;
    Some((contest.winner.shape, found.variant, found.outcome.as_ref().err()?))
}

/// Where winners are, in words.
fn place(engine: &Engine, kept: bool) -> String {
    match engine.tuning_file().filter(|_| kept) {
        Some(path) => format!("remembered in {}", path.display()),
        None => "nothing was remembered".into(),
    }
}

fn to_text(engine: &Engine, contests: &[Contest], left_out: &[(Shape, Error)], kept: bool) -> String {
    let info = engine.info();
    let mut text = format!("{} ({} {}; {})\n\n", info.name, info.backend, info.driver, info.tier);
    let right = Align::Right;
    let mut table = Table::new(&[
        ("product", Align::Left),
        ("variant", Align::Left),
        ("ms", right),
        ("+-", right),
        ("in", Align::Left),
        ("speed", right),
        ("", Align::Left),
    ]);
    for (i, contest) in contests.iter().enumerate() {
        let winner = &contest.winner;
        if i > 0 {
            table.rule();
        }
        for (row, Contestant { variant, outcome }) in contest.contestants.iter().enumerate() {
            let product = if row == 0 { winner.shape.to_string() } else { String::new() };
            let mut cells = vec![product, variant.to_string()];
            match outcome {
                Ok(Timed { times, regime, .. }) => cells.extend([
                    format!("{:.4}", times.median * 1e3),
                    print::spread(times.quartiles, times.median),
                    regime.name().into(),
                    format!("{:.2}", winner.default_seconds / times.median),
                ]),
                Err(_) => cells.extend(std::iter::repeat_n(String::new(), 4)),
            }
            let is_default = *variant == winner.default;
            cells.push(match outcome {
                Err(why) => format!("WRONG: {why}"),
                Ok(_) if *variant == winner.variant && is_default => "winner, the default".into(),
                Ok(_) if *variant == winner.variant => "winner".into(),
                Ok(_) if is_default => "default".into(),
                Ok(_) => String::new(),
            });
            table.row(cells);
        }
        for (variant, why) in &contest.left_out {
            let mut cells = vec![String::new(), variant.to_string()];
            cells.extend(std::iter::repeat_n(String::new(), 4));
            cells.push(format!("left out: {}", reason(why)));
            table.row(cells);
        }
    }
    text += &table.render();
    text += "\nspeed: in terms of the default. The default stays unless another is faster beyond the spread (+-) of both.\n";
    for (shape, why) in left_out {
        text += &format!("left out: {shape}: {why}\n");
    }
    text + &format!("{}: {}\n", print::count(contests.len(), "product"), place(engine, kept))
}

/// An error without what it is about, which stands beside it.
fn reason(error: &Error) -> String {
    match error {
        Error::Unsupported { why, .. } if !why.is_empty() => why.clone(),
        other => other.to_string(),
    }
}

fn to_json(engine: &Engine, contests: &[Contest], left_out: &[(Shape, Error)], kept: bool) -> Value {
    let product = |contest: &Contest| {
        let (winner, shape) = (&contest.winner, &contest.winner.shape);
        let timed = contest.contestants.iter().map(|Contestant { variant, outcome }| match outcome {
            Ok(Timed { times, regime, verified }) => json!({
                "variant": variant, "median_s": times.median, "quartiles_s": times.quartiles, "samples": times.samples,
                "regime": regime, "clock": times.clock, "verified": verified,
            }),
            Err(why) => json!({"variant": variant, "wrong": why.to_string()}),
        });
        let out = contest
            .left_out
            .iter()
            .map(|(variant, why)| json!({"variant": variant, "left_out": reason(why)}));
        json!({
            "scheme": shape.scheme.to_string(), "activation": shape.activation.to_string(), "accumulate": shape.accumulate.name(),
            "m": shape.m, "n": shape.n, "k": shape.k, "class": shape.class().to_string(),
            "default": winner.default, "winner": winner.variant, "gain": winner.default_seconds / winner.seconds,
            "variants": timed.chain(out).collect::<Vec<_>>(),
        })
    };
    let info = engine.info();
    json!({
        "device": {"name": info.name, "backend": info.backend, "driver": info.driver, "tier": info.tier},
        "file": engine.tuning_file(),
        "remembered": kept,
        "products": contests.iter().map(product).collect::<Vec<_>>(),
        "left_out": left_out.iter().map(|(shape, why)| json!({"product": shape.to_string(), "why": why.to_string()})).collect::<Vec<_>>(),
    })
}
