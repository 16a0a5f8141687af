//! Ceilings of the CPU engine: all its threads, with the vector instructions that it uses.

use super::{Probe, at_once, words};
use crate::bench::file::Limit;
use crate::cpu::{Work, int_chains, vectorized, vectors};
use crate::threads;
use std::hint::black_box;
use std::sync::{Arc, Mutex, PoisonError};

/// Steps of a chain.
const STEPS: usize = 20_000;

/// Parts of a run: several for each thread, as in products, for on a busy machine threads do not get equally far.
fn part_count() -> usize {
    8 * std::thread::available_parallelism().map_or(1, usize::from)
}

/// Runs `f` on each part, by whichever thread is free.
fn on_all<T: Send>(parts: Vec<T>, f: impl Fn(T) + Sync + Send) {
    threads::for_each(parts, usize::MAX, f);
}

struct Sum<'a>(&'a [u64]);

impl Work for Sum<'_> {
    type Output = u64;

    #[inline(always)]
    fn run(self) -> u64 {
        self.0.iter().fold(0, |sum, word| sum.wrapping_add(*word))
    }
}

/// Reads or copies `bytes` bytes until `total` bytes have been, every part again and again by itself.
pub(super) fn walk(limit: Limit, bytes: usize, total: usize) -> Probe<'static> {
    let passes = total / bytes;
    let amount = (bytes * passes) as f64;
    let parts = part_count();
    match limit {
        Limit::Copy => {
            let from = words(bytes / 16);
            let to = Arc::new(Mutex::new(vec![0u64; from.len()]));
            let (written, source) = (to.clone(), from.clone());
            let part = from.len().div_ceil(parts);
            Probe {
                limit,
                name: "copy",
                amount,
                run: Box::new(move || {
                    let mut to = to.lock().unwrap_or_else(PoisonError::into_inner);
                    on_all(to.chunks_mut(part).zip(from.chunks(part)).collect(), |(to, from)| {
                        (0..passes).for_each(|_| black_box(&mut *to).copy_from_slice(black_box(from)));
                    });
                    Ok(())
                }),
                check: Box::new(move || {
                    let written = written.lock().unwrap_or_else(PoisonError::into_inner);
                    at_once((*written != source).then(|| "the copy differs".into()))
                }),
            }
        }
        _ => {
            let data = words(bytes / 8);
            let want =
                data.iter().fold(0u64, |sum, word| sum.wrapping_add(*word)).wrapping_mul(passes as u64);
            let found = Arc::new(Mutex::new(0u64));
            let sum = found.clone();
            let part = data.len().div_ceil(parts);
            Probe {
                limit,
                name: "read",
                amount,
                run: Box::new(move || {
                    *sum.lock().unwrap_or_else(PoisonError::into_inner) = 0;
                    on_all(data.chunks(part).collect(), |part| {
                        let own =
                            (0..passes).fold(0u64, |s, _| s.wrapping_add(vectorized(Sum(black_box(part)))));
                        let mut all = sum.lock().unwrap_or_else(PoisonError::into_inner);
                        *all = all.wrapping_add(own);
                    });
                    Ok(())
                }),
                check: Box::new(move || {
                    let found = *found.lock().unwrap_or_else(PoisonError::into_inner);
                    at_once((found != want).then(|| format!("the sum is {found} instead of {want}")))
                }),
            }
        }
    }
}

/// `N` chains v = v * one + one, side by side in vectors: eight vectors hide how long an instruction takes. Integers up to 2^24, so that
/// every step is exact.
struct Chains<const N: usize, const FUSED: bool>;

impl<const N: usize, const FUSED: bool> Work for Chains<N, FUSED> {
    /// What the chains end at; NaN if they do not agree.
    type Output = f32;

    #[inline(always)]
    fn run(self) -> f32 {
        let one = black_box(1f32);
        // Nobody may see that all chains are the same.
        let mut v = black_box([0f32; N]);
        for _ in 0..STEPS {
            for v in &mut v {
                *v = if FUSED { v.mul_add(one, one) } else { *v * one + one };
            }
        }
        if v.iter().all(|other| *other == v[0]) { v[0] } else { f32::NAN }
    }
}

/// What all chains of integers end at; NaN if they do not agree.
fn integers() -> f32 {
    match int_chains(STEPS).as_deref() {
        Some([first, others @ ..]) if others.iter().all(|other| other == first) => *first as f32,
        _ => f32::NAN,
    }
}

/// Multiplications and additions in f32, and of int8 in i32; the other units are not measured.
pub(super) fn arithmetic<'a>(limit: Limit, name: &'static str) -> Result<Probe<'a>, String> {
    // Operations of one step of all chains, what a chain grows by, the chains.
    let (operations, step, work): (usize, usize, fn() -> f32) = match (limit, vectors()) {
        (Limit::F32, (16, _)) => (256, 1, || vectorized(Chains::<128, true>)),
        (Limit::F32, (8, _)) => (128, 1, || vectorized(Chains::<64, true>)),
        (Limit::F32, (_, true)) => (64, 1, || vectorized(Chains::<32, true>)),
        (Limit::F32, (_, false)) => (64, 1, || vectorized(Chains::<32, false>)),
        (Limit::IntDot, _) => match int_chains(0) {
            Some(chains) => (8 * chains.len(), 4, integers),
            None => return Err("no instructions for dot products of bytes are used here".into()),
        },
        _ => return Err("not measured for the CPU engine, which multiplies in f32 and int8".into()),
    };
    let parts = part_count();
    let found = Arc::new(Mutex::new(Vec::new()));
    let steps = found.clone();
    Ok(Probe {
        limit,
        name,
        amount: (operations * STEPS * parts) as f64,
        run: Box::new(move || {
            steps.lock().unwrap_or_else(PoisonError::into_inner).clear();
            on_all(vec![(); parts], |()| {
                let made = work();
                steps.lock().unwrap_or_else(PoisonError::into_inner).push(made);
            });
            Ok(())
        }),
        check: Box::new(move || {
            let found = found.lock().unwrap_or_else(PoisonError::into_inner);
            let want = vec![(step * STEPS) as f32; parts];
            at_once((*found != want).then(|| format!("chains end at {found:?} instead of {want:?}")))
        }),
    })
}
