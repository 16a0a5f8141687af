//! Counts of numbers in the bins of `bins`: no range has to be known, and counts of any two runs or devices add up exactly.
//!
//! ```text
//! numbers, or counts of a device -> Histogram { first, counts } -> merge -> JSON {"first", "counts": [5, -3, 1]}: -3 stands for three empty bins
//! ```
//!
//! Kept is the span from the first to the last bin that is not empty. Extremes are kept by whoever has the histogram; which range is made of both is `search`'s.

use crate::bins::{BINS, bin};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// Counts of numbers in bins that are about 0.8 % of them wide.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Span", into = "Span")]
pub struct Histogram {
    first: usize,
    counts: Vec<u64>,
}

/// A histogram as it is stored: the first bin that is not empty, and the counts from there; -n stands for n empty bins.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Span {
    first: usize,
    counts: Vec<i64>,
}

/// More than a number of JSON holds.
const TOO_MANY: u64 = 1 << 53;

impl TryFrom<Span> for Histogram {
    type Error = Error;

    fn try_from(Span { first, counts: stored }: Span) -> Result<Self> {
        let bad = |what: String| Err(Error::Check { what });
        let mut counts = Vec::new();
        for n in stored {
            let bins = if n < 0 { n.unsigned_abs() } else { 1 };
            if bins > BINS.saturating_sub(first).saturating_sub(counts.len()) as u64 {
                return bad(format!("a histogram from bin {first} on, of more bins than {BINS}"));
            }
            counts.extend(std::iter::repeat_n(n.max(0) as u64, bins as usize));
        }
        let total = counts.iter().try_fold(0u64, |sum, &n| sum.checked_add(n));
        if total.is_none_or(|total| total >= TOO_MANY) {
            return bad("a histogram of 2^53 numbers or more".into());
        }
        let mut read = Self::default();
        read.add_span(first, counts.into_iter());
        Ok(read)
    }
}

impl From<Histogram> for Span {
    fn from(Histogram { first, counts }: Histogram) -> Self {
        let stored = counts.chunk_by(|a, b| *a == 0 && *b == 0).map(|run| match run[0] {
            0 => -(run.len() as i64),
            n => n as i64,
        });
        Self { first, counts: stored.collect() }
    }
}

impl Histogram {
    /// How many numbers were counted.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The first bin that is kept, and the counts of it and those behind it.
    pub fn span(&self) -> (usize, &[u64]) {
        (self.first, &self.counts)
    }

    /// How many numbers are in a bin.
    pub fn at(&self, bin: usize) -> u64 {
        bin.checked_sub(self.first).and_then(|at| self.counts.get(at)).copied().unwrap_or(0)
    }

    /// Counts numbers.
    pub fn add(&mut self, x: impl Iterator<Item = f32> + Clone) {
        let ends = x.clone().map(bin).fold(None, |ends, bin| match ends {
            None => Some((bin, bin)),
            Some((first, last)) => Some((bin.min(first), bin.max(last))),
        });
        let Some((first, last)) = ends else { return };
        self.widen(first, last);
        for v in x {
            self.counts[bin(v) - self.first] += 1;
        }
    }

    /// Adds the counts of all [`BINS`] bins.
    pub fn add_counts(&mut self, counts: &[u32]) {
        self.add_span(0, counts.iter().map(|&n| u64::from(n)));
    }

    /// Adds another's counts.
    pub fn merge(&mut self, other: &Self) {
        self.add_span(other.first, other.counts.iter().copied());
    }

    /// Adds counts of bins from `first` on; empty ones at the ends are left out.
    fn add_span(
        &mut self,
        first: usize,
        counts: impl DoubleEndedIterator<Item = u64> + ExactSizeIterator + Clone,
    ) {
        let full = |n: u64| n > 0;
        let Some(start) = counts.clone().position(full) else { return };
        let end = counts.clone().rposition(full).unwrap_or(start);
        self.widen(first + start, first + end);
        for (at, n) in counts.enumerate().skip(start).take(end + 1 - start) {
            self.counts[first + at - self.first] += n;
        }
    }

    /// Makes room for bins up to `last`, itself included.
    fn widen(&mut self, first: usize, last: usize) {
        if self.counts.is_empty() {
            self.first = first;
        }
        if first < self.first {
            self.counts.splice(0..0, std::iter::repeat_n(0, self.first - first));
            self.first = first;
        }
        let length = self.counts.len().max(last + 1 - self.first);
        self.counts.resize(length, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bins::{LAST, ZERO, class, least};

    #[test]
    fn bins_are_of_the_bits() {
        assert_eq!(
            (BINS, bin(0.0), bin(-0.0), bin(1e-12), bin(f32::from_bits(1))),
            (16387, ZERO, ZERO, ZERO, ZERO)
        );
        assert_eq!((bin(2f32.powi(-32)), bin(2f32.powi(32)), bin(f32::MAX)), (ZERO + 1, BINS - 1, BINS - 1));
        assert_eq!((bin(f32::INFINITY), bin(-f32::NAN), bin(-f32::MAX)), (BINS - 1, 0, 0));
        // Every number is in the bin whose edges are around it, and the next bin begins where one ends.
        for v in [1.0f32, 1.007, 1.0078125, 3.99, 4.0, 76.2, 1e-9, 2f32.powi(32).next_down()] {
            let class = class(v);
            assert!(least(class) <= f64::from(v) && f64::from(v) < least(class + 1), "{v}");
            assert!(least(class + 1) / least(class) <= 1.0 + 1.0 / 128.0);
            assert_eq!((bin(v), bin(-v)), (ZERO + class, ZERO - class));
        }
        assert_eq!((least(LAST), least(LAST + 1)), (2f64.powi(32), f64::INFINITY));
    }

    #[test]
    fn parts_add_up_to_the_whole() {
        let x = [0.0, 0.3, -0.4, 1.0, -7.9, 0.3, f32::MAX, 1e-20];
        let of = |x: &[f32]| {
            let mut h = Histogram::default();
            h.add(x.iter().copied());
            h
        };
        let whole = of(&x);
        assert_eq!((whole.count(), whole.at(bin(0.3)), whole.at(ZERO), whole.at(bin(5.0))), (8, 2, 2, 0));
        for cut in 0..=x.len() {
            let (mut a, b) = (of(&x[..cut]), of(&x[cut..]));
            a.merge(&b);
            assert_eq!(a, whole, "{cut}");
        }
        let mut counts = vec![0; BINS];
        x.iter().for_each(|&v| counts[bin(v)] += 1);
        let mut counted = Histogram::default();
        counted.add_counts(&counts);
        assert_eq!(counted, whole);
        let text = serde_json::to_string(&whole).unwrap();
        assert_eq!(serde_json::from_str::<Histogram>(&text).unwrap(), whole);
        assert_eq!(text.matches(',').count(), 1 + 10, "{text}");
        for wrong in [
            r#"{"first": 16387, "counts": [1]}"#,
            r#"{"first": 99999, "counts": [-1]}"#,
            r#"{"first": 16386, "counts": [1, 2]}"#,
            r#"{"first": 2, "counts": [1, -16385]}"#,
            r#"{"first": 2, "counts": [1, -9223372036854775808, 1]}"#,
            r#"{"first": 3, "counts": [9007199254740992]}"#,
            r#"{"first": 3, "counts": [9223372036854775807, 9223372036854775807, 9223372036854775807]}"#,
            r#"{"first": 3, "counts": [18446744073709551615]}"#,
            r#"{"first": 3, "counts": [0.5]}"#,
            r#"{"exponent": 3, "counts": [1]}"#,
        ] {
            assert!(serde_json::from_str::<Histogram>(wrong).is_err(), "{wrong}");
        }
        let trimmed: Histogram = serde_json::from_str(r#"{"first": 3, "counts": [0, 2, -3, 0]}"#).unwrap();
        assert_eq!(trimmed.span(), (4, &[2][..]));
    }
}
