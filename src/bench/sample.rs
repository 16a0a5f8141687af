//! Repeating a run until its median is known well enough, and how much it has to walk over to be about memory or about a cache.
//!
//! ```text
//! once (compiles, touches memory), once (how long?) -> n runs per sample -> samples until the budget is spent -> quartiles
//! ```

use super::file::Clock;
use crate::clock::now;
use crate::{Engine, Result};
use std::time::Duration;

/// Dispatches are submitted by themselves after 256; a sample of up to eight per run stays below, so that no submission lies within one.
const MOST_RUNS: f64 = 32.0;

/// Bytes that cases and ceilings walk over so that nothing is left of them in a cache: on software adapters and the CPU engine less, where
/// walking takes long.
pub fn dram_bytes(engine: &Engine) -> u64 {
    match engine.gpu() {
        Some(gpu) if !gpu.info().software => 256 << 20,
        _ => 128 << 20,
    }
}

/// Bytes of the walks that may stay in a cache. Which do is for the rates to tell: no API says how large caches are.
pub const CACHE_BYTES: [u64; 3] = [1 << 20, 8 << 20, 32 << 20];

/// The longest of them.
pub fn cache_bytes() -> u64 {
    CACHE_BYTES[CACHE_BYTES.len() - 1]
}

/// How much time a measurement may take.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Of one sample, seconds; runs are repeated to reach it.
    pub sample: f64,
    /// Of all samples.
    pub budget: Duration,
    /// Samples, whatever they take.
    pub least: usize,
    pub most: usize,
}

impl Effort {
    /// For figures.
    pub const FULL: Self = Self { sample: 4e-3, budget: Duration::from_millis(400), least: 5, most: 25 };
    /// For a first look.
    pub const QUICK: Self = Self { sample: 2e-3, budget: Duration::from_millis(60), least: 3, most: 9 };
}

/// Seconds of one run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Times {
    pub median: f64,
    /// First and third quartile.
    pub quartiles: [f64; 2],
    pub samples: usize,
    /// Runs in a sample, whose time is divided by them.
    pub runs: u64,
    pub clock: Clock,
}

/// Measures `run`: by timestamps of the device around several runs where there are some, else by the host's clock.
///
/// # Errors
/// Those of `run` and of the device.
pub async fn sample(engine: &Engine, effort: &Effort, mut run: impl FnMut() -> Result<()>) -> Result<Times> {
    let mut time = async |n: u64| time(engine, || (0..n).try_for_each(|_| run())).await;
    time(1).await?;
    let (once, clock) = time(1).await?;
    let runs = (effort.sample / once.max(1e-9)).clamp(1.0, MOST_RUNS) as u64;
    let started = now();
    let mut all = Vec::new();
    while all.len() < effort.least || (all.len() < effort.most && now() - started < effort.budget) {
        all.push(time(runs).await?.0 / runs as f64);
    }
    all.sort_by(f64::total_cmp);
    let [q1, median, q3] = [0.25, 0.5, 0.75].map(|part| quantile(&all, part));
    Ok(Times { median, quartiles: [q1, q3], samples: all.len(), runs, clock })
}

async fn time(engine: &Engine, work: impl FnOnce() -> Result<()>) -> Result<(f64, Clock)> {
    match engine.gpu() {
        Some(gpu) => {
            let ((), elapsed) = gpu.time(work).await?;
            Ok((elapsed.time.as_secs_f64(), elapsed.clock.into()))
        }
        None => {
            let start = now();
            work()?;
            Ok(((now() - start).as_secs_f64(), Clock::Host))
        }
    }
}

/// The quantile of sorted numbers, between neighbours by proportion.
pub fn quantile(sorted: &[f64], part: f64) -> f64 {
    let at = part * (sorted.len() - 1) as f64;
    let (low, high) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    low + (high - low) * at.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_lie_between_neighbours() {
        assert_eq!(quantile(&[1.0, 2.0, 4.0], 0.5), 2.0);
        assert_eq!(quantile(&[1.0, 2.0, 4.0], 0.25), 1.5);
        assert_eq!(quantile(&[1.0, 2.0, 4.0, 8.0], 0.75), 5.0);
        assert_eq!(quantile(&[3.0], 0.25), 3.0);
    }

    #[test]
    fn runs_are_repeated_as_the_effort_says() {
        let mut count = 0;
        let effort = Effort { sample: 0.0, budget: Duration::ZERO, least: 3, most: 9 };
        let run = || {
            count += 1;
            Ok(())
        };
        let times = pollster::block_on(sample(&Engine::cpu(), &effort, run)).unwrap();
        // Two to begin with, then one for each sample.
        assert_eq!((times.samples, times.runs, count), (3, 1, 5));
        assert!(times.quartiles[0] <= times.median && times.median <= times.quartiles[1]);
        assert_eq!(times.clock, Clock::Host);
    }
}
