//! Words of static calibration: which rule finds a range of activations, for which grid, and the scale and zero-point that the range becomes.
//!
//! ```text
//! Rule (a user's word) x Grid { bits, symmetric } x what an observer has seen --search--> Range { low <= 0 <= high } -> scale, zero-point
//! ```
//!
//! | rule | the range |
//! |---|---|
//! | `minmax` | of all that was seen |
//! | `moving-average:M` | least and largest of each batch, averaged: `a = a + M * (new - a)` from batch to batch, M = 0.01 |
//! | `percentile:P` | holds P of a hundred numbers, P = 99.99: by magnitude where symmetric, else half of the rest on either side |
//! | `entropy` | the one whose codes tell least else than the numbers (Kullback and Leibler): see `search` |
//! | `mse` | the one whose rounding and clipping errors have the least sum of squares, all numbers counted alike |
//!
//! A symmetric grid has codes `-q..=q`, `q = 2^(bits - 1) - 1`, and the zero-point 0. An affine one has all `2^bits` codes from `-2^(bits - 1)` on, a zero-point among them, and 0 always
//! in its range. Not here: the statistics (`observer`, `Inputs`), how ranges are found (`search`).

use crate::product::Int8Scale;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// How a range is found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rule {
    MinMax,
    /// What a new batch counts, above 0 and at most 1.
    MovingAverage(f64),
    /// Of the numbers, so many in a hundred are within the range; above 50 and at most 100.
    Percentile(f64),
    Entropy,
    Mse,
}

impl Rule {
    /// One of each, in the order in which they are listed.
    pub const ALL: [Self; 5] = [
        Self::MinMax,
        Self::MovingAverage(Self::MOMENTUM),
        Self::Percentile(Self::USUAL),
        Self::Entropy,
        Self::Mse,
    ];

    /// What `moving-average` takes without a number.
    pub const MOMENTUM: f64 = 0.01;
    /// What `percentile` takes without a number.
    pub const USUAL: f64 = 99.99;
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::MinMax => f.pad("minmax"),
            Self::MovingAverage(m) if m == Self::MOMENTUM => f.pad("moving-average"),
            Self::MovingAverage(m) => f.pad(&format!("moving-average:{m}")),
            Self::Percentile(p) if p == Self::USUAL => f.pad("percentile"),
            Self::Percentile(p) => f.pad(&format!("percentile:{p}")),
            Self::Entropy => f.pad("entropy"),
            Self::Mse => f.pad("mse"),
        }
    }
}

impl FromStr for Rule {
    type Err = Error;

    /// Parses a rule's name, in lower or upper case; `percentile:99.9` and `moving-average:0.1` have a number.
    ///
    /// # Errors
    /// [`Error::Usage`] with the nearest name and those there are, or with the numbers that are allowed.
    fn from_str(text: &str) -> Result<Self> {
        let name = text.trim().to_ascii_lowercase();
        if let Some(number) = name.strip_prefix("percentile:") {
            return match number.parse::<f64>() {
                Ok(share) if share > 50.0 && share <= 100.0 => Ok(Self::Percentile(share)),
                _ => Err(Error::Usage(format!("'{text}': a percentile is above 50 and at most 100"))),
            };
        }
        if let Some(number) = name.strip_prefix("moving-average:") {
            return match number.parse::<f64>() {
                Ok(m) if m > 0.0 && m <= 1.0 => Ok(Self::MovingAverage(m)),
                _ => Err(Error::Usage(format!("'{text}': what a new batch counts is above 0 and at most 1"))),
            };
        }
        Self::ALL.into_iter().find(|rule| rule.to_string() == name).ok_or_else(|| {
            let names = Self::ALL.map(|rule| rule.to_string());
            let nearest = names.iter().map(|n| (strsim::levenshtein(&name, n), n)).min();
            let meant = nearest.filter(|(d, n)| *d <= n.len().div_ceil(2));
            let meant = meant.map_or(String::new(), |(_, n)| format!("did you mean '{n}'? "));
            let names = names.join(", ");
            Error::Usage(format!(
                "no calibration rule '{text}'; {meant}there are {names} (percentile:99.9 and moving-average:0.1 with numbers)"
            ))
        })
    }
}

/// The codes that activations get.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Grid {
    /// 2 to 8.
    pub bits: u32,
    /// Whether the range reaches as far down as up, and the zero-point is 0.
    pub symmetric: bool,
}

impl Grid {
    /// Symmetric int8.
    pub const INT8: Self = Self { bits: 8, symmetric: true };
    /// Int8 with a zero-point.
    pub const INT8_AFFINE: Self = Self { bits: 8, symmetric: false };

    /// # Errors
    /// [`Error::Unsupported`] for bits that are not 2 to 8.
    pub fn new(bits: u32, symmetric: bool) -> Result<Self> {
        let grid = Self { bits, symmetric };
        grid.check().map(|()| grid)
    }

    /// # Errors
    /// As [`Self::new`].
    pub(super) fn check(self) -> Result<()> {
        match self.bits {
            2..=8 => Ok(()),
            bits => Err(Error::unsupported(format!("a grid of {bits} bits"), "it has 2 to 8")),
        }
    }

    /// The least and the largest code.
    pub fn codes(self) -> [i32; 2] {
        let half = 1 << (self.bits - 1);
        [if self.symmetric { 1 - half } else { -half }, half - 1]
    }

    /// Steps from the least code to the largest.
    pub fn steps(self) -> i32 {
        let [first, last] = self.codes();
        last - first
    }
}

/// A range of numbers, 0 within it, and the grid that it is for.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Range {
    low: f32,
    high: f32,
    grid: Grid,
}

impl Range {
    /// The range that holds `low` and `high`, and 0; where the grid is symmetric, the magnitude of either on both sides.
    ///
    /// # Errors
    /// [`Error::Check`] for what is not finite or out of order; as [`Grid::new`].
    pub fn new(low: f32, high: f32, grid: Grid) -> Result<Self> {
        grid.check()?;
        if !(low.is_finite() && high.is_finite() && low <= high) {
            return Err(Error::Check { what: format!("a range from {low} to {high}") });
        }
        let (low, high) = (low.min(0.0), high.max(0.0));
        let clip = high.max(-low);
        let (low, high) = if grid.symmetric { (-clip, clip) } else { (low, high) };
        Ok(Self { low, high, grid })
    }

    /// The least number, 0 or less.
    pub fn low(self) -> f32 {
        self.low
    }

    /// The largest number, 0 or more.
    pub fn high(self) -> f32 {
        self.high
    }

    pub fn grid(self) -> Grid {
        self.grid
    }

    /// What a step of a code is worth; 1 for a range that is nothing but 0, where any would do.
    pub fn scale(self) -> f32 {
        let scale = (f64::from(self.high) - f64::from(self.low)) / f64::from(self.grid.steps());
        if scale as f32 > 0.0 { scale as f32 } else { 1.0 }
    }

    /// The code of 0: the one nearest to where the range has it. Other numbers of an affine range move by up to half a step with it.
    pub fn zero_point(self) -> i32 {
        let [first, last] = self.grid.codes();
        if self.grid.symmetric {
            return 0;
        }
        let below = (-f64::from(self.low) / f64::from(self.scale())).round() as i32;
        (first + below).clamp(first, last)
    }

    /// Scale and zero-point of products of int8 activations.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for other than 8 bits, and as [`Int8Scale::new`].
    pub fn int8(self) -> Result<Int8Scale> {
        match i8::try_from(self.zero_point()) {
            Ok(zero) if self.grid.bits == 8 => Int8Scale::new(self.scale(), zero),
            _ => Err(Error::unsupported(
                format!("a static scale of {} bits", self.grid.bits),
                "products take activations of 8",
            )),
        }
    }

    /// The number that stands for `v`: `scale * (clamp(round(v / scale) + zero) - zero)`, in f64.
    pub fn rounded(self, v: f32) -> f64 {
        let [first, last] = self.grid.codes().map(f64::from);
        let (scale, zero) = (f64::from(self.scale()), f64::from(self.zero_point()));
        (((f64::from(v) / scale).round() + zero).clamp(first, last) - zero) * scale
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_print_back() {
        for rule in Rule::ALL.into_iter().chain([Rule::Percentile(99.9), Rule::MovingAverage(0.5)]) {
            assert_eq!(rule.to_string().parse::<Rule>().unwrap(), rule);
        }
        assert_eq!("MSE".parse::<Rule>().unwrap(), Rule::Mse);
        let numbers =
            ["percentile:", "percentile:50", "percentile:nan", "moving-average:0", "moving-average:1.1"];
        for wrong in ["", "ms", "mse:1"].iter().chain(&numbers) {
            assert!(matches!(wrong.parse::<Rule>(), Err(Error::Usage(_))), "{wrong}");
        }
        let nearest = "entropie".parse::<Rule>().unwrap_err().to_string();
        assert!(
            nearest.contains("did you mean 'entropy'?") && nearest.contains("minmax, moving-average"),
            "{nearest}"
        );
    }

    #[test]
    fn ranges_become_scales_and_zero_points() {
        let of = |low, high, bits, symmetric| Range::new(low, high, Grid { bits, symmetric }).unwrap();
        let symmetric = of(-1.0, 2.54, 8, true);
        assert_eq!((symmetric.scale(), symmetric.zero_point(), symmetric.low()), (0.02, 0, -2.54));
        let affine = of(-1.0, 4.1, 8, false);
        assert_eq!((affine.scale(), affine.zero_point()), (0.02, -78));
        assert_eq!((affine.rounded(0.0), affine.rounded(9.0)), (0.0, f64::from(0.02f32) * 205.0));
        // Numbers of one sign: 0 is in the range and has the code at its end.
        assert_eq!(
            (of(1.0, 2.55, 8, false).zero_point(), of(-2.55, -1.0, 8, false).zero_point()),
            (-128, 127)
        );
        assert_eq!((of(1.0, 2.55, 8, false).low(), of(-3.0, -1.0, 4, false).zero_point()), (0.0, 7));
        assert_eq!(
            (of(0.0, 0.0, 8, false).scale(), of(0.0, 0.0, 8, false).int8().unwrap().zero()),
            (1.0, -128)
        );
        assert_eq!(symmetric.int8().unwrap().scale(), 0.02);
        assert!(of(-1.0, 1.0, 4, true).int8().is_err());
        let wide = of(-f32::MAX, f32::MAX, 2, true);
        assert_eq!((wide.scale(), wide.rounded(-f32::MAX)), (f32::MAX, f64::from(-f32::MAX)));
        for (low, high) in [(f32::NAN, 1.0), (0.0, f32::INFINITY), (1.0, -1.0)] {
            assert!(Range::new(low, high, Grid::INT8).is_err(), "{low} {high}");
        }
        assert!(Grid::new(1, true).is_err() && Grid::new(9, false).is_err());
    }
}
