//! `lowbit selftest`: the differential suite on a user's own device.

use super::open_engine_without;
use super::print::{self, Align, Table};
use crate::gpu::Disable;
use crate::kernels::{self, KERNELS};
use crate::scheme::preset::samples;
use crate::selftest::{self, Options, Report};
use crate::{Error, Result, Scheme};
use std::time::Instant;

/// Check every kernel and scheme of a device against the reference
///
/// Products are compared bit for bit on inputs whose sums are exact, and within a bound derived from the kernel's own order of
/// summation on random ones; dequantize bit for bit, and quantize too but where a GGUF format divides or searches. Exit code 1 if anything is off.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  lowbit selftest\n  lowbit selftest --device llvmpipe --scheme q4_k --scheme int4-g32\n  \
lowbit selftest --full --json > report.json"
)]
pub struct Args {
    /// Only this scheme (may be given several times)
    #[arg(long = "scheme", value_name = "SCHEME")]
    schemes: Vec<String>,
    /// Only this kernel (may be given several times)
    #[arg(long = "kernel", value_name = "KERNEL")]
    kernels: Vec<String>,
    /// Every combination of shapes, types and policies instead of pairs of them; takes long
    #[arg(long)]
    full: bool,
    /// Without f16, subgroups and whatever else WebGPU does not promise
    #[arg(long)]
    portable: bool,
    /// Other random sizes and numbers
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand.
pub fn run(args: &Args, device: Option<&str>) -> Result<()> {
    let started = Instant::now();
    let schemes = args.schemes.iter().map(|name| name.parse()).collect::<Result<Vec<Scheme>>>()?;
    kernels::check_names(&args.kernels)?;
    let disable = if args.portable { Disable::all() } else { Disable::default() };
    let engine = pollster::block_on(open_engine_without(device, disable))?;
    let info = engine.info();
    let all = if schemes.is_empty() { samples().len() } else { schemes.len() };
    let kernels = if args.kernels.is_empty() { KERNELS.len() } else { args.kernels.len() };
    let bar = print::progress((all * kernels) as u64, "selftest");
    let options = Options { full: args.full, schemes, kernels: args.kernels.clone(), seed: args.seed };
    let report = pollster::block_on(selftest::run(&engine, &options, |kernel, scheme| {
        print::at(&bar, &format!("{kernel} {scheme}"));
        bar.inc(1);
    }))?;
    bar.finish_and_clear();

    let seconds = started.elapsed().as_secs_f64();
    let backend = format!("{} {}", info.backend, info.driver);
    let device = format!("{} ({}; {})", info.name, backend.trim_end(), info.tier);
    if args.json {
        print::json(&report.to_json(&device, seconds))?;
    } else {
        print::stdout(&to_text(&device, &report, seconds))?;
    }
    match report.failures.as_slice() {
        [] if report.checks() == 0 => Err(Error::Check { what: "nothing was checked".into() }),
        [] => Ok(()),
        [first, ..] => {
            let what = format!("{} failed, the first: {first}", print::count(report.failures.len(), "check"));
            Err(Error::Check { what })
        }
    }
}

fn to_text(device: &str, report: &Report, seconds: f64) -> String {
    let mut table = Table::new(&[
        ("kernel", Align::Left),
        ("checks", Align::Right),
        ("worst error / bound", Align::Right),
        ("codes that differ", Align::Right),
        ("planted faults seen", Align::Right),
        ("worst case", Align::Left),
    ]);
    for (kernel, t) in &report.kernels {
        let off = match t.off_by_one {
            (_, 0) => "-".to_string(),
            (off, of) => format!("{off} of {of}"),
        };
        table.row(vec![
            kernel.to_string(),
            t.checks.to_string(),
            format!("{:.3}", t.worst),
            off,
            t.teeth.to_string(),
            t.worst_case.clone(),
        ]);
    }
    let mut text = format!("{device}\n{}", table.render());
    for line in &report.left_out {
        text += &format!("left out: {line}\n");
    }
    for line in &report.failures {
        text += &format!("FAILED: {line}\n");
    }
    let verdict = match report.failures.len() {
        0 if report.checks() == 0 => "nothing was checked".to_string(),
        0 => "all passed".to_string(),
        n => format!("{n} failed"),
    };
    text + &format!("{} in {seconds:.1} s: {verdict}\n", print::count(report.checks(), "check"))
}
