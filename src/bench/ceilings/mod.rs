//! What a device allows: bandwidths and rates of arithmetic, measured by kernels that do nothing else.
//!
//! ```text
//! walk over more than caches hold -> read, copy of DRAM          walk over 1, 8, 32 MiB again and again -> of caches
//! chains of operations in registers -> f32, f16, int8 dot products, cooperative matrices
//! ```
//!
//! What every kernel computes is known and compared first, so that no compiler can have left the work out: sums of random words, copies,
//! chains that count their steps. What a device cannot run is listed with the reason.

mod cpu;
mod gpu;

use super::file::{Ceiling, Limit, Note, Regime};
use super::sample::{CACHE_BYTES, Effort, dram_bytes, sample};
use crate::gpu::Gpu;
use crate::selftest::data::Random;
use crate::{Engine, Error, Result};
use gpu::Order;
use std::pin::Pin;

/// A kernel ready to run.
struct Probe<'a> {
    limit: Limit,
    name: &'static str,
    /// Bytes or operations of one run.
    amount: f64,
    run: Box<dyn Fn() -> Result<()> + 'a>,
    /// After a run: what is wrong with what it left, in words.
    check: Box<dyn Fn() -> Checked<'a> + 'a>,
}

/// What a check will say.
type Checked<'a> = Pin<Box<dyn Future<Output = Result<Option<String>>> + 'a>>;

/// A check that waits for nothing.
fn at_once<'a>(why: Option<String>) -> Checked<'a> {
    Box::pin(std::future::ready(Ok(why)))
}

impl Probe<'_> {
    /// # Errors
    /// [`Error::Check`] if the result is wrong; those of the device.
    async fn measure(&self, engine: &Engine, effort: &Effort) -> Result<Ceiling> {
        (self.run)()?;
        if let Some(wrong) = (self.check)().await? {
            return Err(Error::Check { what: format!("not to be trusted: {wrong}") });
        }
        let times = sample(engine, effort, &self.run).await?;
        Ok(Ceiling::measured(self.limit, self.name, self.amount, &times))
    }
}

/// Measures every ceiling of the engine's device. `progress` hears the name of each as it is begun. One whose kernel does not compile or
/// computes something else is absent, and noted beside.
///
/// # Errors
/// Errors of the device.
pub async fn measure(
    engine: &Engine,
    effort: &Effort,
    mut progress: impl FnMut(&str),
) -> Result<(Vec<Ceiling>, Vec<Note>)> {
    let (mut all, mut failures) = (Vec::new(), Vec::new());
    let mut note = |limit, name: &str, measured: Result<Ceiling>| match measured {
        Err(error @ (Error::Check { .. } | Error::Shader { .. })) => {
            failures.push(Note { case: name.into(), why: error.to_string() });
            Ok(Ceiling::absent(limit, name, error.to_string()))
        }
        other => other,
    };
    let total = dram_bytes(engine);
    let walks = std::iter::once((Regime::Dram, total)).chain(CACHE_BYTES.map(|bytes| (Regime::Cache, bytes)));
    for (regime, bytes) in walks {
        for (limit, what) in [(Limit::Read, "read"), (Limit::Copy, "copy")] {
            let name = match regime {
                Regime::Dram => format!("{what}, DRAM"),
                Regime::Cache => format!("{what}, {} MiB", bytes >> 20),
            };
            progress(&name);
            let measured = match engine.gpu() {
                Some(gpu) => better_walk(gpu, engine, limit, bytes, total, effort).await,
                None => cpu::walk(limit, bytes as usize, total as usize).measure(engine, effort).await,
            };
            let ceiling = note(limit, &name, measured)?;
            all.push(Ceiling { name, ..ceiling.over(regime, bytes) });
        }
    }
    for (limit, name) in ARITHMETIC {
        progress(name);
        let probe = match engine.gpu() {
            Some(gpu) => gpu::arithmetic(gpu, limit, name),
            None => Ok(cpu::arithmetic(limit, name)),
        };
        let measured = match probe {
            Ok(Ok(probe)) => probe.measure(engine, effort).await,
            Ok(Err(why)) => Ok(Ceiling::absent(limit, name, why)),
            Err(error) => Err(error),
        };
        all.push(note(limit, name, measured)?);
    }
    Ok((all, failures))
}

/// A walk in both orders of threads: the better one is the ceiling.
async fn better_walk(
    gpu: &Gpu,
    engine: &Engine,
    limit: Limit,
    bytes: u64,
    total: u64,
    effort: &Effort,
) -> Result<Ceiling> {
    let together = gpu::walk(gpu, limit, Order::Together, bytes, total)?.measure(engine, effort).await?;
    let apart = gpu::walk(gpu, limit, Order::Apart, bytes, total)?.measure(engine, effort).await?;
    Ok(if together.rate > apart.rate { together } else { apart })
}

/// Rates of arithmetic and their names.
const ARITHMETIC: [(Limit, &str); 4] = [
    (Limit::F32, "f32 FMA"),
    (Limit::F16, "f16 FMA"),
    (Limit::IntDot, "int8 dot4"),
    (Limit::CoopMatrix, "coop. matrix"),
];

/// How many ceilings [`measure`] goes through.
pub const COUNT: usize = 2 * (1 + CACHE_BYTES.len()) + ARITHMETIC.len();

/// Random words.
fn words(n: usize) -> Vec<u64> {
    let mut rng = Random::new(n as u64);
    (0..n).map(|_| rng.bits()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use pollster::block_on;
    use std::cell::Cell;

    #[test]
    fn a_probe_that_computes_something_else_is_not_timed() {
        let runs = Cell::new(0);
        let probe = |wrong: Option<&str>| Probe {
            limit: Limit::F32,
            name: "f32 FMA",
            amount: 1.0,
            run: Box::new(|| {
                runs.set(runs.get() + 1);
                Ok(())
            }),
            check: Box::new({
                let wrong = wrong.map(str::to_string);
                move || at_once(wrong.clone())
            }),
        };
        let engine = Engine::cpu();
        let error = block_on(probe(Some("7 instead of 8")).measure(&engine, &Effort::QUICK)).unwrap_err();
        assert!(error.to_string().contains("7 instead of 8"), "{error}");
        assert_eq!(runs.get(), 1);
        assert!(block_on(probe(None).measure(&engine, &Effort::QUICK)).unwrap().rate > Some(0.0));
    }

    #[test]
    fn the_cpu_has_its_ceilings() {
        let mut begun = 0;
        let (all, failures) = block_on(measure(&Engine::cpu(), &Effort::QUICK, |_| begun += 1)).unwrap();
        assert_eq!((begun, all.len(), failures.len()), (COUNT, COUNT, 0));
        let of = |limit| all.iter().filter(move |c| c.limit == limit);
        assert_eq!((of(Limit::Read).count(), of(Limit::Copy).count()), (4, 4));
        for c in &all {
            let int_dot = c.limit == Limit::IntDot && crate::cpu::int_chains(0).is_some();
            let there = c.limit.is_bandwidth() || c.limit == Limit::F32 || int_dot;
            assert_eq!((c.rate.is_some(), c.absent.is_none()), (there, there), "{}", c.name);
            assert!(c.rate.is_none_or(|rate| rate > 1e6 && rate.is_finite()), "{}: {:?}", c.name, c.rate);
        }
    }
}
