//! How fast an engine is, and what its device allows: behind `lowbit bench`.
//!
//! ```text
//! engine -> ceilings (what reading, copying, multiplying cost here) ─┐
//! operations x schemes x shapes -> cases -> verify -> time ──────────┴-> File -> table | JSON | SVG | comparison of two
//! ```
//!
//! | file | subject |
//! |---|---|
//! | `cases` | operations, shapes of models, which cases there are |
//! | `ceilings/` | small kernels that do one thing as fast as the device can, and their results |
//! | `kv` | a cache of keys and values, the same |
//! | `case` | a case: operands, comparison with the reference, times |
//! | `sample` | medians and quartiles of a repeated run |
//! | `file` | the result file; which ceiling binds; comparing two files |
//! | `plot` | the roofline as SVG |
//!
//! A case whose result is wrong has no time. Nothing here prints or parses arguments.

pub mod case;
pub mod cases;
#[cfg(any(feature = "cli", target_arch = "wasm32"))]
pub mod ceilings;
pub mod file;
#[cfg(any(feature = "cli", target_arch = "wasm32"))]
pub mod kv;
#[cfg(feature = "cli")]
pub mod plot;
pub mod sample;

#[cfg(any(feature = "cli", target_arch = "wasm32"))]
use crate::{Engine, Error, Result};

/// Measures the ceilings of an engine, then the cases. `progress` hears of each as it is begun.
///
/// # Errors
/// The loss of the device. What an engine cannot do is left out, and what is wrong is among the failures.
#[cfg(any(feature = "cli", target_arch = "wasm32"))]
pub async fn run(
    engine: &Engine,
    cases: &[cases::Case],
    caches: &[kv::KvCase],
    effort: &sample::Effort,
    mut progress: impl FnMut(&str),
) -> Result<file::File> {
    let mut file = file::File::new(describe(engine));
    (file.ceilings, file.failures) = ceilings::measure(engine, effort, &mut progress).await?;
    for case in cases {
        progress(&case.to_string());
        let measured = case::measure(engine, case, &file.ceilings, effort).await;
        take(&mut file, case, measured)?;
    }
    for case in caches {
        progress(&case.to_string());
        let measured = kv::measure(engine, case, &file.ceilings, effort).await;
        take(&mut file, case, measured)?;
    }
    Ok(file)
}

/// Puts what became of a case where it belongs.
#[cfg(any(feature = "cli", target_arch = "wasm32"))]
fn take(
    file: &mut file::File,
    case: &dyn std::fmt::Display,
    measured: Result<Vec<file::Measured>>,
) -> Result<()> {
    let note = |why: &Error| file::Note { case: case.to_string(), why: why.to_string() };
    match measured {
        Ok(measured) => file.cases.extend(measured),
        Err(
            why @ (Error::Unsupported { .. }
            | Error::TooLarge { .. }
            | Error::OutOfMemory { .. }
            | Error::GroupMismatch { .. }),
        ) => file.left_out.push(note(&why)),
        Err(lost @ Error::DeviceLost { .. }) => return Err(lost),
        Err(why) => file.failures.push(note(&why)),
    }
    Ok(())
}

#[cfg(any(feature = "cli", target_arch = "wasm32"))]
fn describe(engine: &Engine) -> file::Device {
    let info = engine.info();
    let threads = engine.is_cpu().then(|| std::thread::available_parallelism().map_or(1, usize::from));
    file::Device {
        name: info.name,
        backend: info.backend,
        driver: info.driver,
        software: info.software,
        tier: info.tier,
        threads,
    }
}
