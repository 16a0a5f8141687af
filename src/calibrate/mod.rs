//! What is known of the inputs of linear layers: moments, ranges, histograms, a sample; and the static ranges that follow.
//!
//! ```text
//! inputs x [T, K] of a layer, batch by batch -> Collector: X^T X and histogram on the engine; ranges of columns and batches, sample on the host
//!                                                  -> Statistics of all layers -> merge -> file (store)
//! any activations [T, K], batch by batch     -> Observer, per tensor or per channel -> merge -> JSON
//! Inputs | Observer -> range(Rule, Grid) -> Range -> scale, zero-point
//! ```
//!
//! Layers that share an input share its statistics. Everything but the sample is a sum or a range, so that statistics of two texts are those of both; the
//! sample is a reservoir with a fixed seed. Not here: which scales of weights are made of it (`quantize`), how a model runs (`model`).

mod histogram;
mod observer;
mod rule;
mod search;
mod store;

pub use crate::bins::{BINS, ZERO, bin};
pub use histogram::Histogram;
pub use observer::Observer;
pub use rule::{Grid, Range, Rule};
pub use store::Stored;

use crate::engine::{Array, Counts, Engine};
use crate::{Error, Result, Transform, cpu};

/// What is known of one input, and of which layers it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Inputs {
    /// The names of the layers' weights.
    pub layers: Vec<String>,
    /// Columns of the input.
    pub k: usize,
    /// Rows that were seen.
    pub tokens: u64,
    /// X^T X `[K, K]`; the second moments of the columns are its diagonal.
    pub moments: Vec<f32>,
    /// The least and the largest number of each column `[K]`.
    pub low: Vec<f32>,
    pub high: Vec<f32>,
    pub histogram: Histogram,
    /// The least and the largest number of each batch, of each run that was merged.
    pub runs: Vec<Vec<[f32; 2]>>,
    /// Some of the rows `[.., K]`, each as likely as any other.
    pub sample: Vec<f32>,
}

impl Inputs {
    fn new(layers: Vec<String>, k: usize) -> Self {
        Self {
            layers,
            k,
            tokens: 0,
            moments: vec![0.0; k * k],
            low: vec![f32::INFINITY; k],
            high: vec![f32::NEG_INFINITY; k],
            histogram: Histogram::default(),
            runs: vec![Vec::new()],
            sample: Vec::new(),
        }
    }

    /// The least and the largest number of all.
    pub fn extremes(&self) -> [f32; 2] {
        extremes(&self.low, &self.high)
    }

    /// The range that a rule finds for all columns together.
    ///
    /// # Errors
    /// [`Error::Check`] if nothing was seen; [`Error::Unsupported`] for a grid that there is not. Both with the first layer's name.
    pub fn range(&self, rule: Rule, grid: Grid) -> Result<Range> {
        let seen = search::Seen { histogram: &self.histogram, extremes: self.extremes(), runs: &self.runs };
        let range = match self.tokens {
            0 => Err(Error::Check { what: "calibration without a single row".into() }),
            _ => seen.range(rule, grid),
        };
        let name = self.layers.first().map_or("", String::as_str);
        range.map_err(|e| e.in_tensor(name))
    }

    /// What is known of the transformed inputs: moments as they are; ranges of columns too where they are but multiplied, else those of the sample; the histogram of the sample's rows
    /// alone, and one batch.
    ///
    /// # Errors
    /// [`Error::Shape`] for a transform of another K; [`Error::Check`] if there is no sample.
    pub fn transformed(&self, by: &Transform) -> Result<Self> {
        let name = self.layers.first().map_or("", String::as_str);
        if by.k() != self.k {
            return Err(Error::shape("columns to transform", by.k(), self.k).in_tensor(name));
        }
        if self.sample.is_empty() {
            let what = "the calibration has no sample of rows, of which transformed ranges are found".into();
            return Err(Error::Check { what }.in_tensor(name));
        }
        let sample = cpu::transform(&self.sample, by);
        let mut histogram = Histogram::default();
        histogram.add(sample.iter().copied());
        let (mut low, mut high) = (vec![f32::INFINITY; self.k], vec![f32::NEG_INFINITY; self.k]);
        let mut see = |row: &[f32]| widen([&mut low, &mut high], [row, row]);
        if by.only_scales() {
            // A number below 0 turns the range.
            see(&cpu::transform(&self.low, by));
            see(&cpu::transform(&self.high, by));
        } else {
            sample.chunks(self.k).for_each(see);
        }
        let moments = cpu::transform_moments(&self.moments, by);
        let runs = vec![vec![extremes(&low, &high)]];
        Ok(Self { layers: self.layers.clone(), moments, low, high, histogram, runs, sample, ..*self })
    }

    /// The root mean square of all numbers.
    pub fn rms(&self) -> f64 {
        let sum: f64 = (0..self.k).map(|i| f64::from(self.moments[i * self.k + i])).sum();
        (sum / (self.tokens.max(1) as f64 * self.k as f64)).sqrt()
    }

    /// Adds rows to all but the moments and the histogram; `rows` of the sample are kept at most.
    fn add(&mut self, x: &[f32], rows: usize, random: &mut Random) -> Result<()> {
        observer::finite(x, self.k).map_err(|e| e.in_tensor(&self.layers[0]))?;
        if x.is_empty() {
            return Ok(());
        }
        let (mut low, mut high) = (vec![f32::INFINITY; self.k], vec![f32::NEG_INFINITY; self.k]);
        for row in x.chunks(self.k) {
            widen([&mut low, &mut high], [row, row]);
            self.tokens += 1;
            let kept = self.sample.len() / self.k;
            if kept < rows {
                self.sample.extend_from_slice(row);
            } else if let Some(at) = Some(random.below(self.tokens)).filter(|at| *at < rows as u64) {
                self.sample[at as usize * self.k..][..self.k].copy_from_slice(row);
            }
        }
        match self.runs.last_mut() {
            Some(run) => run.push(extremes(&low, &high)),
            None => self.runs.push(vec![extremes(&low, &high)]),
        }
        widen([&mut self.low, &mut self.high], [&low, &high]);
        Ok(())
    }

    /// Adds what another text gave.
    fn merge(&mut self, other: &Self, rows: usize, random: &mut Random) -> Result<()> {
        if (&self.layers, self.k) != (&other.layers, other.k) {
            let of = |inputs: &Self| format!("K = {} for {}", inputs.k, inputs.layers.join(", "));
            return Err(Error::shape("statistics to merge", of(self), of(other)));
        }
        // Each row of the joint sample is of either text as likely as a row of both is.
        let (mut own, mut theirs) = (rows_of(&self.sample, self.k), rows_of(&other.sample, self.k));
        let (mut left, mut right) = (self.tokens, other.tokens);
        let mut sample = Vec::new();
        while sample.len() < rows * self.k && !(own.is_empty() && theirs.is_empty()) {
            let take_own = theirs.is_empty() || (!own.is_empty() && random.below(left + right) < left);
            let (from, rest) = if take_own { (&mut own, &mut left) } else { (&mut theirs, &mut right) };
            sample.extend_from_slice(from.swap_remove(random.below(from.len() as u64) as usize));
            *rest = rest.saturating_sub(1);
        }
        self.sample = sample;
        self.tokens += other.tokens;
        self.moments.iter_mut().zip(&other.moments).for_each(|(a, b)| *a += b);
        widen([&mut self.low, &mut self.high], [&other.low, &other.high]);
        self.runs.extend_from_slice(&other.runs);
        self.histogram.merge(&other.histogram);
        Ok(())
    }
}

/// The least and the largest of columns' extremes.
fn extremes(low: &[f32], high: &[f32]) -> [f32; 2] {
    [
        low.iter().copied().fold(f32::INFINITY, f32::min),
        high.iter().copied().fold(f32::NEG_INFINITY, f32::max),
    ]
}

/// Widens ranges of columns to others.
fn widen([low, high]: [&mut [f32]; 2], [lower, higher]: [&[f32]; 2]) {
    low.iter_mut().zip(lower).for_each(|(a, b)| *a = a.min(*b));
    high.iter_mut().zip(higher).for_each(|(a, b)| *a = a.max(*b));
}

fn rows_of(sample: &[f32], k: usize) -> Vec<&[f32]> {
    sample.chunks(k.max(1)).collect()
}

/// What is known of all layers of a model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Statistics {
    pub inputs: Vec<Inputs>,
    /// Rows that a sample has at most.
    pub sample_rows: usize,
}

impl Statistics {
    /// What is known of the input of a layer.
    pub fn of(&self, layer: &str) -> Option<&Inputs> {
        self.inputs.iter().find(|inputs| inputs.layers.iter().any(|name| name == layer))
    }

    /// Adds what another text gave of the same model.
    ///
    /// # Errors
    /// [`Error::Shape`] if it is of other layers.
    pub fn merge(&mut self, other: &Self) -> Result<()> {
        if self.inputs.len() != other.inputs.len() {
            let counts = [self, other].map(|s| format!("{} inputs", s.inputs.len()));
            return Err(Error::shape("statistics to merge", &counts[0], &counts[1]));
        }
        let mut random = Random(self.inputs.iter().map(|i| i.tokens).sum::<u64>() + 1);
        let rows = self.sample_rows;
        self.inputs.iter_mut().zip(&other.inputs).try_for_each(|(a, b)| a.merge(b, rows, &mut random))
    }
}

/// What an engine adds up of an input.
#[derive(Default)]
struct Sums {
    /// X^T X.
    moments: Option<Array>,
    counts: Option<Counts>,
    /// Numbers in `counts`: below 2^32, since each may be in one bin.
    counted: u64,
}

impl Sums {
    /// Moves counts to where they are u64.
    async fn flush(&mut self, histogram: &mut Histogram) -> Result<()> {
        self.counted = 0;
        if let Some(counts) = self.counts.take() {
            histogram.add_counts(&counts.read().await?);
        }
        Ok(())
    }
}

/// Collects statistics while a model runs.
pub struct Collector {
    engine: Engine,
    statistics: Statistics,
    /// What the engine has of each input so far.
    sums: Vec<Sums>,
    /// Inputs of the batch that is running: which, and x.
    pending: Vec<(usize, Array)>,
    random: Random,
}

impl Collector {
    /// One that keeps up to `sample_rows` rows of each input.
    pub fn new(engine: &Engine, sample_rows: usize) -> Self {
        Self {
            engine: engine.clone(),
            statistics: Statistics { inputs: Vec::new(), sample_rows },
            sums: Vec::new(),
            pending: Vec::new(),
            random: Random(1),
        }
    }

    /// Notes the input `[.., K]` of layers by these names, to be counted by [`Self::absorb`].
    ///
    /// # Errors
    /// [`Error::Shape`] if an input of the same layers had another K; those of the device.
    pub fn see(&mut self, layers: &[&str], x: &Array) -> Result<()> {
        let k = x.shape().last().copied().unwrap_or(0);
        let known = self.statistics.inputs.iter().position(|inputs| inputs.layers == layers);
        let at = known.unwrap_or_else(|| {
            let layers = layers.iter().map(|name| name.to_string()).collect();
            self.statistics.inputs.push(Inputs::new(layers, k));
            self.sums.push(Sums::default());
            self.sums.len() - 1
        });
        let expected = self.statistics.inputs[at].k;
        if expected != k {
            return Err(Error::shape("columns of an input", expected, k).in_tensor(layers[0]));
        }
        let sums = &mut self.sums[at];
        sums.moments = Some(self.engine.gram(x, sums.moments.as_ref())?);
        sums.counts = Some(self.engine.histogram(x, sums.counts.as_ref())?);
        sums.counted += x.shape().iter().product::<usize>() as u64;
        self.pending.push((at, x.clone()));
        Ok(())
    }

    /// Counts what a batch has shown.
    ///
    /// # Errors
    /// [`Error::Tensor`] for NaN and infinities, with the layer's name; those of the device.
    pub async fn absorb(&mut self) -> Result<()> {
        let rows = self.statistics.sample_rows;
        for (at, x) in std::mem::take(&mut self.pending) {
            let x = x.read().await?;
            self.statistics.inputs[at].add(&x.to_f32(), rows, &mut self.random)?;
            // Room for as much again.
            if self.sums[at].counted >= 1 << 31 {
                self.sums[at].flush(&mut self.statistics.inputs[at].histogram).await?;
            }
        }
        Ok(())
    }

    /// What was collected.
    ///
    /// # Errors
    /// [`Error::Check`] if nothing was; those of the device.
    pub async fn finish(mut self) -> Result<Statistics> {
        self.absorb().await?;
        if self.statistics.inputs.is_empty() {
            return Err(Error::Check { what: "calibration without a single input".into() });
        }
        for (inputs, sums) in self.statistics.inputs.iter_mut().zip(&mut self.sums) {
            if let Some(moments) = &sums.moments {
                inputs.moments = moments.read().await?.to_f32().into_owned();
            }
            sums.flush(&mut inputs.histogram).await?;
        }
        Ok(self.statistics)
    }
}

/// Marsaglia's xorshift64*.
struct Random(u64);

impl Random {
    /// A number from 0 to `n - 1`.
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16) % n.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Tensor;
    use crate::threads::wait;

    /// Numbers that differ from each other.
    fn values(n: usize, seed: u64) -> Vec<f32> {
        let mut random = Random(seed);
        (0..n).map(|_| random.below(2001) as f32 / 500.0 - 2.0).collect()
    }

    async fn collected(batches: &[&[f32]], k: usize, sample: usize) -> Statistics {
        let engine = Engine::cpu();
        let mut collector = Collector::new(&engine, sample);
        for x in batches {
            let x = engine.upload(&Tensor::from_f32([x.len() / k, k], x.to_vec()).unwrap()).unwrap();
            collector.see(&["a", "b"], &x).unwrap();
            collector.absorb().await.unwrap();
        }
        collector.finish().await.unwrap()
    }

    #[test]
    fn batches_and_merged_texts_are_one() {
        let (k, x) = (5, values(60 * 5, 3));
        let whole = wait(collected(&[&x], k, 8));
        let of = whole.of("b").unwrap();
        let column = |i: usize| x.iter().skip(i).step_by(k).copied();
        assert_eq!((of.tokens, of.k), (60, k));
        assert_eq!(of.low[2], column(2).fold(f32::INFINITY, f32::min));
        assert_eq!(of.high[4], column(4).fold(f32::NEG_INFINITY, f32::max));
        let product: f64 = column(1).zip(column(3)).map(|(a, b)| f64::from(a) * f64::from(b)).sum();
        assert!((f64::from(of.moments[k + 3]) - product).abs() < 1e-4);
        assert_eq!(of.histogram.count(), 300);
        // Every row of the sample is one of x.
        assert_eq!(of.sample.len(), 8 * k);
        assert!(of.sample.chunks(k).all(|row| x.chunks(k).any(|other| other == row)));
        let (a, b) = x.split_at(23 * k);
        let batches = wait(collected(&[a, b], k, 8));
        let mut merged = wait(collected(&[a], k, 8));
        merged.merge(&wait(collected(&[b], k, 8))).unwrap();
        for other in [&batches, &merged] {
            let other = other.of("a").unwrap();
            assert_eq!((other.tokens, &other.low, &other.high), (60, &of.low, &of.high));
            assert_eq!(other.histogram, of.histogram);
            assert!(other.moments.iter().zip(&of.moments).all(|(a, b)| (a - b).abs() < 1e-3));
            assert!(
                other.sample.len() == 8 * k
                    && other.sample.chunks(k).all(|row| x.chunks(k).any(|o| o == row))
            );
        }
        let other = wait(collected(&[&x[..6]], 6, 8));
        assert!(merged.merge(&other).is_err());
        assert!(whole.of("c").is_none());
    }

    #[test]
    fn the_sample_is_of_all_rows() {
        let x: Vec<f32> = (0..4000).map(|i| i as f32).collect();
        let statistics = wait(collected(&[&x], 1, 200));
        let sample = &statistics.inputs[0].sample;
        // The mean of 200 of 4000 has a standard deviation of 80.
        let mean = sample.iter().sum::<f32>() / 200.0;
        assert!((mean - 2000.0).abs() < 320.0, "{mean}");
        let mut sorted = sample.clone();
        sorted.sort_by(f32::total_cmp);
        sorted.dedup();
        assert_eq!(sorted.len(), 200);
    }

    #[test]
    fn what_is_no_number_is_an_error() {
        let engine = Engine::cpu();
        let mut collector = Collector::new(&engine, 4);
        let x = Tensor::from_f32([2, 2], vec![1.0, 2.0, f32::NAN, 3.0]).unwrap();
        collector.see(&["layer"], &engine.upload(&x).unwrap()).unwrap();
        let error = wait(collector.absorb()).unwrap_err().to_string();
        assert_eq!(error, "tensor 'layer': NaN in the input, row 1, column 0");
        assert!(wait(Collector::new(&engine, 4).finish()).is_err());
    }
}
