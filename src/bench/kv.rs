//! A cache of keys and values: what appending a token takes, and the attention of one query token, in f16, int8 and int4.
//!
//! ```text
//! sides x {tokens} x {heads of q} -> KvCase -> caches of random k and v (as many copies as hardware caches cannot hold)
//!   append      every word beside the reference's  ┐
//!   attention   within the bound of the self-test  ┴-> times -> Measured
//! ```
//!
//! [`HEADS`] heads of [`HEAD`] columns, as in models of 7 to 8 billion weights. In a row of results M is the heads of q, N the tokens, K the columns of a token's keys; the scheme is how keys and
//! values are stored. Tokens are appended one by one, a block of them in a run, since the last one of a block has all of it packed; the time is that of a token.

use super::cases::{Call, Operation};
use super::file::{Ceiling, Demand, Measured, Regime, bound};
use super::sample::{Effort, Times, cache_bytes, dram_bytes, sample};
use crate::engine::kv::Way;
use crate::kv::{GROUP, KvSettings, RECORD, Side};
use crate::selftest::data::Random;
use crate::selftest::kv::bounds;
use crate::{Array, Engine, Error, KvCache, Result, Tensor, kernels, reference};

/// Heads of keys and values, and columns of a head.
pub const HEADS: usize = 8;
pub const HEAD: usize = 128;
/// Heads of q: as many, and four that share one of keys.
pub const QUERY_HEADS: [usize; 2] = [HEADS, 4 * HEADS];
/// Tokens in a cache.
pub const TOKENS: [usize; 2] = [1024, 4096];

/// One thing to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvCase {
    pub operation: Operation,
    pub side: Side,
    pub tokens: usize,
    /// Of attention.
    pub query_heads: Option<usize>,
}

impl std::fmt::Display for KvCase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} ", self.operation.name(), self.side)?;
        self.query_heads.map_or(Ok(()), |m| write!(f, "{m}x"))?;
        write!(f, "{}x{}", self.tokens, HEADS * HEAD)
    }
}

/// Those of the operations, over so many tokens; appending is measured with the most.
pub fn all(operations: &[Operation], tokens: &[usize]) -> Vec<KvCase> {
    let mut all = Vec::new();
    for &operation in operations {
        let case =
            |tokens, query_heads| Side::ALL.map(|side| KvCase { operation, side, tokens, query_heads });
        match operation {
            Operation::KvAppend => all.extend(tokens.iter().max().into_iter().flat_map(|n| case(*n, None))),
            Operation::KvAttention => {
                let sizes = tokens.iter().flat_map(|n| QUERY_HEADS.map(|m| (*n, m)));
                all.extend(sizes.flat_map(|(n, m)| case(n, Some(m))));
            }
            _ => {}
        }
    }
    all
}

/// Verifies a case, then times it.
///
/// # Errors
/// [`Error::Check`] if the engine computes something else than the reference; what the engine cannot do; errors of the device.
pub async fn measure(
    engine: &Engine,
    case: &KvCase,
    ceilings: &[Ceiling],
    effort: &Effort,
) -> Result<Vec<Measured>> {
    Subject::new(engine, case)?.measure(ceilings, effort).await
}

/// What is appended and asked.
struct Subject<'a> {
    engine: &'a Engine,
    case: &'a KvCase,
    settings: KvSettings,
    k: Vec<f32>,
    v: Vec<f32>,
    q: Vec<f32>,
}

impl<'a> Subject<'a> {
    fn new(engine: &'a Engine, case: &'a KvCase) -> Result<Self> {
        let settings = KvSettings::new(HEADS, HEAD, case.side);
        let mut rng = Random::new(case.tokens as u64);
        let mut normal = |n: usize| -> Vec<f32> { (0..n).map(|_| rng.normal()).collect() };
        let numbers = case.tokens * settings.width();
        let (k, v, q) = (normal(numbers), normal(numbers), normal(case.query_heads.unwrap_or(0) * HEAD));
        Ok(Self { engine, case, settings, k, v, q })
    }

    async fn measure(&self, ceilings: &[Ceiling], effort: &Effort) -> Result<Vec<Measured>> {
        match self.case.operation {
            Operation::KvAppend => self.append(ceilings, effort).await,
            _ => self.attention(ceilings, effort).await,
        }
    }

    fn upload(&self, width: usize, values: &[f32]) -> Result<Array> {
        self.engine.upload(&Tensor::from_f32([values.len() / width, width], values.to_vec())?)
    }

    /// Bytes of as many numbers in complete blocks, with their part of the scales.
    fn stored_bytes(&self, numbers: usize) -> u64 {
        let side = self.case.side;
        (numbers * side.bits() / 8 + numbers / (RECORD * GROUP) * side.record_words() * 4) as u64
    }

    async fn append(&self, ceilings: &[Ceiling], effort: &Effort) -> Result<Vec<Measured>> {
        let width = self.settings.width();
        let rows = |x: &[f32]| -> Result<Vec<Array>> {
            x[..GROUP * width].chunks(width).map(|x| self.upload(width, x)).collect()
        };
        let (k, v) = (rows(&self.k)?, rows(&self.v)?);
        let fill = |cache: &mut KvCache| k.iter().zip(&v).try_for_each(|(k, v)| cache.append(k, v));
        let mut cache = self.engine.kv_cache(&self.settings, self.case.tokens)?;
        fill(&mut cache)?;
        // A token of the next block, which stays in the window.
        cache.append(&k[0], &v[0])?;
        let again = |x: &[f32]| [&x[..GROUP * width], &x[..width]].concat();
        let want = reference::kv::cache(&self.settings, self.case.tokens, &again(&self.k), &again(&self.v));
        let got = cache.words().await?;
        if let Some(at) = (0..want.len()).find(|&at| got.get(at) != Some(&want[at])) {
            let what = format!("word {at} is {:x?} instead of {:x}", got.get(at), want[at]);
            return Err(Error::Check { what });
        }
        cache.clear();
        let block = || {
            if cache.len() + GROUP > cache.capacity() {
                cache.clear();
            }
            fill(&mut cache)
        };
        // One block in a sample: more would be submitted while the clock runs.
        let times = sample(self.engine, &Effort { sample: 0.0, ..*effort }, block).await?;
        let token = |seconds: f64| seconds / GROUP as f64;
        let times = Times { median: token(times.median), quartiles: times.quartiles.map(token), ..times };
        // f32 of k and v, and what is left of them.
        let bytes = 8 * width as u64 + self.stored_bytes(2 * width);
        let verified = Verified { values: want.len(), worst: 0.0 };
        Ok(vec![self.result(ceilings, (Regime::Cache, 1), bytes, &times, verified)])
    }

    async fn attention(&self, ceilings: &[Ceiling], effort: &Effort) -> Result<Vec<Measured>> {
        let width = self.settings.width();
        let (k, v) = (self.upload(width, &self.k)?, self.upload(width, &self.v)?);
        let q = self.upload(self.q.len(), &self.q)?;
        let touched = self.stored_bytes(2 * width * self.case.tokens);
        let copies = dram_bytes(self.engine).div_ceil(touched) as usize;
        let filled = || {
            let mut cache = self.engine.kv_cache(&self.settings, self.case.tokens)?;
            cache.append(&k, &v)?;
            Ok(cache)
        };
        let caches = (0..copies).map(|_| filled()).collect::<Result<Vec<KvCache>>>()?;
        let verified = self.verify(&caches, &q).await?;
        let bytes = touched + 8 * self.q.len() as u64;
        let mut all = Vec::new();
        let cache = (bytes <= cache_bytes()).then_some((Regime::Cache, 1));
        for (regime, copies) in [(Regime::Dram, copies)].into_iter().chain(cache) {
            let mut next = 0;
            let run = || {
                next = (next + 1) % copies;
                caches[next].attention(&q).map(drop)
            };
            let times = sample(self.engine, effort, run).await?;
            all.push(self.result(ceilings, (regime, copies), bytes, &times, verified));
        }
        Ok(all)
    }

    /// y of the first copy and the last, within the bound of the self-test.
    async fn verify(&self, caches: &[KvCache], q: &Array) -> Result<Verified> {
        let [keys, values] = reference::kv::decoded(&self.settings, &self.k, &self.v);
        let mut verified = Verified::default();
        let way = self.way();
        for cache in caches.first().into_iter().chain(caches.last()) {
            let roundings = cache.roundings(way, self.case.tokens);
            let right = bounds(&self.settings, [&self.q, &keys, &values], 1, roundings);
            let y = cache.attention(q)?.read().await?;
            let y = y.to_f32();
            let mut telling = false;
            for (i, [want, bound]) in right.iter().enumerate() {
                let error = (f64::from(y[i]) - want).abs();
                // A NaN is not inside.
                let inside = error <= *bound;
                if !inside {
                    let what = format!("y[{i}] is {} instead of {want} +- {bound:e}", y[i]);
                    return Err(Error::Check { what });
                }
                telling |= want.abs() > *bound;
                verified.values += 1;
                verified.worst = verified.worst.max(error / bound);
            }
            if !telling {
                return Err(Error::Check { what: "zeros would pass the bound".into() });
            }
        }
        Ok(verified)
    }

    fn way(&self) -> Way {
        self.engine.gpu().map_or(Way::Host, |gpu| Way::Device(kernels::kv::Form::of(gpu)))
    }

    fn result(
        &self,
        ceilings: &[Ceiling],
        (regime, copies): (Regime, usize),
        bytes: u64,
        times: &Times,
        verified: Verified,
    ) -> Measured {
        let KvCase { operation, side, tokens, query_heads } = *self.case;
        // A multiplication and an addition for each column of each key, and of each value.
        let flops = 4 * (query_heads.unwrap_or(0) * HEAD * tokens) as u64;
        let demand = Demand { operation, call: Call::default(), regime, bytes, flops };
        let limit = bound(ceilings, &demand);
        let kernel = match (self.way(), operation) {
            (Way::Host, _) => "cpu",
            (_, Operation::KvAppend) => "kv_store, kv_pack",
            _ => "kv_attention",
        };
        Measured {
            operation,
            scheme: side.to_string(),
            m: query_heads,
            n: tokens,
            k: self.settings.width(),
            label: format!("{HEADS} heads of {HEAD}"),
            activation: None,
            method: None,
            accumulate: None,
            regime,
            copies,
            kernel: kernel.into(),
            tile: self.engine.info().tier,
            bytes,
            flops,
            median_s: times.median,
            quartiles_s: times.quartiles,
            samples: times.samples,
            runs_per_sample: times.runs,
            clock: times.clock,
            gb_per_s: bytes as f64 / times.median * 1e-9,
            tflop_per_s: flops as f64 / times.median * 1e-12,
            ceiling: limit.map(|(ceiling, _)| ceiling.name.clone()),
            percent: limit.map(|(_, seconds)| 100.0 * seconds / times.median),
            verified: verified.values,
            worst_error: verified.worst,
        }
    }
}

/// How many values were compared, and the largest error as a part of its bound.
#[derive(Clone, Copy, Debug, Default)]
struct Verified {
    values: usize,
    worst: f64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use pollster::block_on;
    use std::time::Duration;

    const ONCE: Effort = Effort { sample: 0.0, budget: Duration::ZERO, least: 1, most: 1 };

    #[test]
    fn cases_are_named() {
        let names: Vec<String> = all(&[Operation::KvAppend, Operation::KvAttention], &[64, 128])
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(names.len(), 3 + 3 * 2 * 2);
        assert_eq!(
            (names[0].as_str(), names[3].as_str()),
            ("kv_append f16 128x1024", "kv_attention f16 8x64x1024")
        );
        assert_eq!(names[14], "kv_attention int4 32x128x1024");
    }

    /// Every case passes as it is, and has no time where another value was appended than the reference is told of.
    #[test]
    fn a_wrong_cache_is_not_timed() {
        let engine = Engine::cpu();
        for case in all(&[Operation::KvAppend, Operation::KvAttention], &[96]) {
            let mut subject = Subject::new(&engine, &case).unwrap();
            let times = block_on(subject.measure(&[], &ONCE)).unwrap();
            assert!(times.iter().all(|m| m.verified > 0 && m.worst_error <= 1.0), "{case}");
            let regimes: Vec<Regime> = times.iter().map(|m| m.regime).collect();
            let attends = case.operation == Operation::KvAttention;
            assert_eq!(
                regimes,
                if attends { vec![Regime::Dram, Regime::Cache] } else { vec![Regime::Cache] }
            );
            if attends {
                let k = subject.upload(1024, &subject.k).unwrap();
                subject.v[17] += 30.0;
                let v = subject.upload(1024, &subject.v).unwrap();
                subject.v[17] -= 30.0;
                let mut cache = engine.kv_cache(&subject.settings, 96).unwrap();
                cache.append(&k, &v).unwrap();
                let q = subject.upload(subject.q.len(), &subject.q).unwrap();
                let error = block_on(subject.verify(&[cache], &q)).unwrap_err();
                assert!(matches!(error, Error::Check { .. }), "{case}: {error}");
            }
        }
    }
}
