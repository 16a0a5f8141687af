//! The differential suite (`lowbit::selftest`) on every adapter and tier that this machine can show.
//!
//! | test | adapter | tier | wgpu's checks |
//! |---|---|---|---|
//! | lavapipe_best | Mesa lavapipe, Vulkan | f16, subgroups | off |
//! | lavapipe_portable | the same | none | on |
//! | swiftshader | Chromium's SwiftShader, Vulkan | subgroups of 4, no f16 | off |
//! | opengl | Mesa, OpenGL | none | off |
//! | real_gpus | every adapter that is no software | best, then none | off, on |
//! | cpu | the CPU engine | | |
//!
//! Every kernel meets every scheme in each of them, shapes and the other axes paired; but lavapipe's two tiers share the schemes, OpenGL, whose compiler is lavapipe's, has every
//! third, and integer dot products and split sums, which take that compiler longest, meet a third of those. `LOWBIT_FULL=1` crosses them. A missing software adapter fails the test where `CI` is set and is printed elsewhere.

mod common;

use common::under_ci;
use lowbit::gpu::{Disable, Found, adapter};
use lowbit::scheme::preset::samples;
use lowbit::selftest::{Options, Report, run};
use lowbit::{Engine, EngineOptions, Scheme};
use std::sync::OnceLock;
use std::time::Instant;

fn adapters() -> &'static [Found] {
    static FOUND: OnceLock<Vec<Found>> = OnceLock::new();
    FOUND.get_or_init(|| pollster::block_on(adapter::list()))
}

/// The adapter that a test is about, or how it is missed.
fn wanted(what: &str, is: impl Fn(&Found) -> bool) -> Option<&'static Found> {
    let found = adapters().iter().find(|f| is(f));
    if found.is_none() {
        let have: Vec<_> = adapters().iter().map(|f| f.info.summary()).collect();
        assert!(!under_ci(), "no {what} under CI; there are {have:?}");
        println!("NOT COVERED: {what} is not on this machine; there are {have:?}");
    }
    found
}

fn full() -> bool {
    std::env::var_os("LOWBIT_FULL").is_some_and(|v| v == "1")
}

fn check(title: &str, engine: &Engine) {
    check_some(title, engine, Options::default());
}

/// Kernels of int8 activations and of split K with the `first` of every third scheme, all others with `schemes`, or all schemes with LOWBIT_FULL=1.
fn check_in_part(title: &str, engine: &Engine, schemes: Vec<Scheme>, first: usize) {
    if full() {
        return check(title, engine);
    }
    let (dot, others): (Vec<_>, Vec<_>) = lowbit::kernels::KERNELS
        .iter()
        .map(|k| k.name.to_string())
        .partition(|name| name.starts_with("dot_") || name == "sum_parts");
    let thirds = schemes.iter().copied().skip(first).step_by(3).collect();
    check_some(title, engine, Options { kernels: others, schemes, ..Options::default() });
    check_some(title, engine, Options { kernels: dot, schemes: thirds, ..Options::default() });
}

/// Every other scheme. lavapipe takes minutes to compile a kernel for all of them, so its two tiers share them; SwiftShader and the CPU have all.
fn half(first: usize) -> Vec<Scheme> {
    samples().into_iter().skip(first).step_by(2).collect()
}

fn check_some(title: &str, engine: &Engine, options: Options) {
    let start = Instant::now();
    let options = Options { full: full(), ..options };
    let report = pollster::block_on(run(engine, &options, |_, _| {})).expect("the device holds out");
    let info = engine.info();
    println!(
        "{title}: {} ({}), {}, {:.0} s",
        info.name,
        info.backend,
        info.tier,
        start.elapsed().as_secs_f64()
    );
    print(&report);
    assert!(
        report.failures.is_empty(),
        "{title}: {} failures, the first: {}",
        report.failures.len(),
        report.failures[0]
    );
    // A run that compared nothing has shown nothing.
    for (kernel, tally) in &report.kernels {
        assert!(
            tally.checks > 0 && (*kernel == "convert" || tally.teeth > 0),
            "{title}: {kernel} showed nothing"
        );
    }
}

fn print(report: &Report) {
    for (kernel, t) in &report.kernels {
        let off = match t.off_by_one {
            (_, 0) => String::new(),
            (n, all) => format!(", {n} of {all} codes differ where the format divides or searches"),
        };
        println!(
            "  {kernel:16} {:5} checks, {:4} planted faults seen, worst {:.3} of its bound{off}",
            t.checks, t.teeth, t.worst
        );
    }
    report.left_out.iter().for_each(|l| println!("  left out: {l}"));
    report.failures.iter().for_each(|f| println!("  FAILED {f}"));
}

fn open(found: &Found, disable: Disable, checked: bool) -> Engine {
    let options = EngineOptions { disable, checked, ..EngineOptions::default() };
    pollster::block_on(Engine::open_adapter(&found.adapter, &options)).expect("the adapter opens")
}

fn lavapipe(f: &Found) -> bool {
    f.info.name.contains("llvmpipe") && f.info.backend == wgpu::Backend::Vulkan
}

#[test]
fn lavapipe_best() {
    if let Some(found) = wanted("lavapipe (Vulkan)", lavapipe) {
        check_in_part("lavapipe, best tier", &open(found, Disable::default(), false), half(0), 0);
    }
}

#[test]
fn lavapipe_portable() {
    if let Some(found) = wanted("lavapipe (Vulkan)", lavapipe) {
        check_in_part("lavapipe, portable tier, checks on", &open(found, Disable::all(), true), half(1), 1);
    }
}

#[test]
fn swiftshader() {
    if let Some(found) = wanted("SwiftShader (Vulkan)", |f| f.info.name.contains("SwiftShader")) {
        check("SwiftShader", &open(found, Disable::default(), false));
    }
}

#[test]
fn opengl() {
    if let Some(found) = wanted("Mesa's OpenGL", |f| f.info.backend == wgpu::Backend::Gl) {
        let schemes = samples().into_iter().step_by(3).collect();
        check_in_part("OpenGL", &open(found, Disable::default(), false), schemes, 2);
    }
}

#[test]
fn real_gpus() {
    let real: Vec<_> = adapters().iter().filter(|f| !f.info.software).collect();
    if real.is_empty() {
        println!("no real GPU on this machine");
    }
    for found in real {
        check("real GPU, best tier", &open(found, Disable::default(), false));
        check("real GPU, portable tier, checks on", &open(found, Disable::all(), true));
    }
}

#[test]
fn cpu() {
    check("CPU engine", &Engine::cpu());
}
