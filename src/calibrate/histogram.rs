//! A histogram whose range grows by powers of two, so that histograms of different data have common edges.

use serde::{Deserialize, Serialize};

/// Bins of a histogram.
pub const BINS: usize = 2048;

/// Counts of numbers in bins of equal width over `-2^exponent .. 2^exponent`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Histogram {
    /// Of the power of two that no magnitude reaches.
    pub exponent: i32,
    /// From the lowest bin to the highest; none before the first number.
    pub counts: Vec<u64>,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { exponent: LEAST, counts: Vec::new() }
    }
}

/// The exponent that a histogram begins with: bins of 2^-30.
const LEAST: i32 = -20;

impl Histogram {
    /// The width of a bin.
    pub fn width(&self) -> f64 {
        2f64.powi(self.exponent + 1) / BINS as f64
    }

    /// The lower edge of a bin.
    pub fn edge(&self, bin: usize) -> f64 {
        bin as f64 * self.width() - 2f64.powi(self.exponent)
    }

    /// How many numbers were counted.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Counts finite numbers.
    pub fn add(&mut self, x: &[f32]) {
        let top = x.iter().fold(0f32, |top, v| top.max(v.abs()));
        self.grow(exponent_above(top));
        self.counts.resize(BINS, 0);
        let (shift, scale) = (2f64.powi(self.exponent), 1.0 / self.width());
        for &v in x {
            let bin = ((f64::from(v) + shift) * scale) as usize;
            if let Some(count) = self.counts.get_mut(bin) {
                *count += 1;
            }
        }
    }

    /// Adds another's counts.
    pub fn merge(&mut self, other: &Self) {
        let mut other = other.clone();
        self.grow(other.exponent);
        other.grow(self.exponent);
        self.counts.resize(BINS, 0);
        self.counts.iter_mut().zip(&other.counts).for_each(|(a, b)| *a += b);
    }

    /// Widens the range to `2^exponent` at least: two bins become one, and what is beyond on either side is empty.
    fn grow(&mut self, exponent: i32) {
        while self.exponent < exponent {
            self.exponent += 1;
            if !self.counts.is_empty() {
                let pairs = self.counts.chunks(2).map(|pair| pair.iter().sum());
                let empty = std::iter::repeat_n(0, BINS / 4);
                self.counts = empty.clone().chain(pairs).chain(empty).collect();
            }
        }
    }
}

/// The least exponent of a power of two above a finite magnitude, [`LEAST`] at least.
fn exponent_above(top: f32) -> i32 {
    (LEAST..=128).find(|&e| f64::from(top) < 2f64.powi(e)).unwrap_or(128)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_grow_and_nothing_is_lost() {
        let mut grown = Histogram::default();
        grown.add(&[0.0, 0.3, -0.4]);
        assert_eq!(grown.exponent, -1);
        grown.add(&[1.0, -7.9, 0.3]);
        let mut at_once = Histogram::default();
        at_once.add(&[0.0, 0.3, -0.4, 1.0, -7.9, 0.3]);
        assert_eq!((grown.exponent, grown.count()), (3, 6));
        assert_eq!(grown, at_once);
        // Every number is in the bin whose edges are around it.
        for v in [0.0, 0.3, -0.4, 1.0, -7.9] {
            let bin = (0..BINS).find(|&bin| v < at_once.edge(bin + 1)).unwrap();
            assert!(at_once.edge(bin) <= v && at_once.counts[bin] >= 1, "{v}");
        }
        let mut merged = Histogram::default();
        merged.add(&[0.3, -0.4, 0.0]);
        let mut other = Histogram::default();
        other.add(&[1.0, -7.9, 0.3]);
        other.merge(&merged);
        assert_eq!(other, at_once);
        merged.add(&[f32::MAX, -f32::MAX]);
        assert_eq!((merged.exponent, merged.count()), (128, 5));
    }
}
