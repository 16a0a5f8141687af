//! An observer: what static calibration wants to know of activations, per tensor or per channel, fed in batches.
//!
//! ```text
//! rows [T, K], batch by batch -> Observer { extremes, histogram, batches' extremes; of all columns, or of each } -> range(rule, grid) -> Range per tensor, or per column
//!                                     ^ merge <- another Observer                                           -> JSON -> Observer
//! ```
//!
//! All of it is counts and extremes: batches of one run, in whatever cut, give what the run as a whole gives, and observers of two texts merge into what one of both would be. Only
//! moving averages know of batches: those of a run follow each other, and two runs are averaged, each counted as often as it has batches. The JSON is
//! `{"version": 1, "k", "channels": bool, "rows", "of": [{"low", "high", "histogram": {"first", "counts"}, "runs": [[[low, high], ..], ..]}]}`, `of` with one entry or K.

use super::histogram::Histogram;
use super::rule::{Grid, Range, Rule};
use super::search::Seen;
use crate::bins::{BINS, bin};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};

const VERSION: u32 = 1;

/// What was seen of some numbers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Of {
    low: f32,
    high: f32,
    histogram: Histogram,
    runs: Vec<Vec<[f32; 2]>>,
}

impl Of {
    fn seen(&self) -> Seen<'_> {
        Seen { histogram: &self.histogram, extremes: [self.low, self.high], runs: &self.runs }
    }

    /// Counts the numbers of a batch, one at least.
    fn add(&mut self, batch: impl Iterator<Item = f32> + Clone) {
        let ends = batch
            .clone()
            .fold([f32::INFINITY, f32::NEG_INFINITY], |[low, high], v| [low.min(v), high.max(v)]);
        match self.runs.last_mut() {
            Some(run) => run.push(ends),
            None => self.runs.push(vec![ends]),
        }
        (self.low, self.high) = (self.low.min(ends[0]), self.high.max(ends[1]));
        self.histogram.add(batch);
    }

    fn merge(&mut self, other: &Self) {
        (self.low, self.high) = (self.low.min(other.low), self.high.max(other.high));
        self.histogram.merge(&other.histogram);
        self.runs.extend_from_slice(&other.runs);
    }

    /// What is wrong with it, of so many numbers.
    fn fault(&self, numbers: Option<u64>) -> Option<&'static str> {
        let in_order = |[low, high]: [f32; 2]| low.is_finite() && high.is_finite() && low <= high;
        let mut batches = self.runs.iter().flatten();
        let (first, counts) = self.histogram.span();
        let last = first + counts.len().max(1) - 1;
        let whole =
            batches.clone().fold([f32::INFINITY, f32::NEG_INFINITY], |[a, b], [c, d]| [a.min(*c), b.max(*d)]);
        if !in_order([self.low, self.high]) {
            Some("extremes that are none")
        } else if !batches.all(|ends| in_order(*ends)) || whole != [self.low, self.high] {
            Some("batches of other extremes")
        } else if Some(self.histogram.count()) != numbers {
            Some("not as many numbers in its histogram as rows")
        } else if last >= BINS || [first, last] != [bin(self.low), bin(self.high)] {
            Some("a histogram that does not reach from its least to its largest number")
        } else {
            None
        }
    }
}

/// Statistics of activations of K columns.
#[derive(Clone, Debug, PartialEq)]
pub struct Observer {
    k: usize,
    channels: bool,
    rows: u64,
    /// Of all columns, or of each; none before the first row.
    of: Vec<Of>,
}

/// An observer as it is stored.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    version: u32,
    k: usize,
    channels: bool,
    rows: u64,
    of: Vec<Of>,
}

/// What every version has.
#[derive(Deserialize)]
struct Version {
    version: u32,
}

impl Observer {
    /// One that takes all columns together.
    ///
    /// # Errors
    /// [`Error::Shape`] for no column.
    pub fn per_tensor(k: usize) -> Result<Self> {
        Self::new(k, false)
    }

    /// One that takes each of K columns by itself: a histogram for each.
    ///
    /// # Errors
    /// [`Error::Shape`] for no column.
    pub fn per_channel(k: usize) -> Result<Self> {
        Self::new(k, true)
    }

    fn new(k: usize, channels: bool) -> Result<Self> {
        match k {
            0 => Err(Error::shape("columns of an observer", "1 or more", 0)),
            _ => Ok(Self { k, channels, rows: 0, of: Vec::new() }),
        }
    }

    /// Columns.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Whether each column is by itself.
    pub fn is_per_channel(&self) -> bool {
        self.channels
    }

    /// Rows that were seen.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Counts a batch, rows `[.., K]`. One without a row is no batch.
    ///
    /// # Errors
    /// [`Error::Shape`] for a row that is not whole, [`Error::Check`] for NaN and infinities, with row and column; nothing of the batch is counted then.
    pub fn observe(&mut self, x: &[f32]) -> Result<()> {
        if !x.len().is_multiple_of(self.k) {
            return Err(Error::shape(
                "a batch",
                format!("rows of {}", self.k),
                format!("{} numbers", x.len()),
            ));
        }
        finite(x, self.k)?;
        if x.is_empty() {
            return Ok(());
        }
        let parts = if self.channels { self.k } else { 1 };
        self.of.resize_with(parts, || Of {
            low: f32::INFINITY,
            high: f32::NEG_INFINITY,
            histogram: Histogram::default(),
            runs: Vec::new(),
        });
        for (column, of) in self.of.iter_mut().enumerate() {
            of.add(x.iter().skip(column).step_by(parts).copied());
        }
        self.rows += (x.len() / self.k) as u64;
        Ok(())
    }

    /// Adds what another has seen.
    ///
    /// # Errors
    /// [`Error::Shape`] if it is of other columns.
    pub fn merge(&mut self, other: &Self) -> Result<()> {
        if (self.k, self.channels) != (other.k, other.channels) {
            let of = |o: &Self| {
                format!("{} columns {}", o.k, if o.channels { "each by itself" } else { "together" })
            };
            return Err(Error::shape("an observer to merge", of(self), of(other)));
        }
        if self.of.is_empty() {
            self.of.clone_from(&other.of);
        } else {
            self.of.iter_mut().zip(&other.of).for_each(|(a, b)| a.merge(b));
        }
        self.rows += other.rows;
        Ok(())
    }

    /// The range that a rule finds: one of all columns, or one of each.
    ///
    /// # Errors
    /// [`Error::Check`] if nothing was seen; [`Error::Unsupported`] for a grid that there is not.
    pub fn range(&self, rule: Rule, grid: Grid) -> Result<Vec<Range>> {
        if self.of.is_empty() {
            return Err(Error::Check { what: "calibration without a single row".into() });
        }
        self.of.iter().map(|of| of.seen().range(rule, grid)).collect()
    }

    /// As JSON.
    ///
    /// # Errors
    /// [`Error::Check`] if there is no memory for it.
    pub fn to_json(&self) -> Result<String> {
        let Self { k, channels, rows, ref of } = *self;
        let stored = Stored { version: VERSION, k, channels, rows, of: of.clone() };
        serde_json::to_string(&stored).map_err(|e| Error::Check { what: format!("an observer: {e}") })
    }

    /// Of JSON.
    ///
    /// # Errors
    /// [`Error::Check`] for what is no observer, of another version, or says things that do not agree.
    pub fn from_json(text: &str) -> Result<Self> {
        let bad = |what: String| Error::Check { what: format!("an observer: {what}") };
        let invalid = |e: serde_json::Error| bad(e.to_string());
        let Version { version } = serde_json::from_str(text).map_err(invalid)?;
        if version != VERSION {
            return Err(bad(format!("version {version}, {VERSION} is known")));
        }
        let Stored { k, channels, rows, of, .. } = serde_json::from_str(text).map_err(invalid)?;
        let parts = if channels { k } else { 1 };
        if k == 0 || of.len() != if rows == 0 { 0 } else { parts } {
            return Err(bad(format!("{k} columns, {rows} rows, and statistics of {}", of.len())));
        }
        let numbers = rows.checked_mul((k / parts) as u64);
        match of.iter().enumerate().find_map(|(at, of)| Some((at, of.fault(numbers)?))) {
            Some((at, fault)) => Err(bad(format!("statistics {at}: {fault}"))),
            None => Ok(Self { k, channels, rows, of }),
        }
    }
}

/// # Errors
/// [`Error::Check`] for the first of `[.., k]` that is NaN or infinite.
pub(super) fn finite(x: &[f32], k: usize) -> Result<()> {
    match x.iter().position(|v| !v.is_finite()) {
        Some(at) => {
            let what = format!("{} in the input, row {}, column {}", x[at], at / k, at % k);
            Err(Error::Check { what })
        }
        None => Ok(()),
    }
}
