//! Activations as a product wants them: f32, rounded to f16, or int8 with a scale per group.
//!
//! ```text
//! x [M, K] -> Float rows [M, K]
//!          -> Int8: codes i8 [M, K padded to 64], scale f32 [M, groups], zero-point, segments of K
//! ```
//!
//! Int8: `scale = amax * C(127)`, `q = steps(|x|, scale, 127)` with the sign of x, as [`crate::scheme::Encoder::Absmax`]; a group whose
//! `amax` is below 2^-100 is all zero. A group with a NaN or an infinity has the scale NaN, so that every output of its row
//! is NaN. With a scale and a zero-point that are given ([`Int8Scale`]) NaN becomes the zero-point.

use super::encode::{TINY, last_byte, magnitude, steps};
use super::half_float::through_f16;
use super::level::{Work, vectorized};
use super::rows::DenseRows;
use crate::product::{Activation, Int8Group, Int8Scale};
use crate::threads;
use crate::{Error, Result, Tensor};
use std::borrow::Cow;
use std::ops::Range;

/// Rows of codes are padded to this many values, zeros.
pub(super) const PAD: usize = 64;
/// Longest run of products that is summed in integers where a row has several: 512 * 255 * 127 is below 2^24, so that the sum is exact in f32.
const MAX_SEGMENT: usize = 512;
/// Longest row that is summed in integers where neither operand has groups: 65536 * 255 * 128 is below 2^31. Its sum is rounded to f32 once.
const MAX_WHOLE: usize = 1 << 16;

/// All of x as f32, `[M, K]`, each value rounded to f16 where `f16`.
pub(super) fn float_rows(x: &Tensor, f16: bool) -> Vec<f32> {
    struct Round<'a>(&'a mut [f32]);
    impl Work for Round<'_> {
        type Output = ();
        #[inline(always)]
        fn run(self) {
            self.0.iter_mut().for_each(|v| *v = through_f16(*v));
        }
    }
    let mut values = x.to_f32().into_owned();
    if f16 && x.dtype() != crate::DType::F16 {
        let n = values.len();
        threads::for_each(values.chunks_mut(1 << 14).collect(), n, |part| vectorized(Round(part)));
    }
    values
}

/// Activations quantized to int8, `[rows, k]`.
#[derive(Clone, Debug)]
pub struct Int8Rows {
    pub rows: usize,
    pub k: usize,
    /// How they were quantized: one of int8.
    pub activation: Activation,
    /// K padded to a multiple of [`PAD`].
    pub(super) padded: usize,
    /// Values per scale.
    pub(super) group: usize,
    pub(super) groups: usize,
    /// `[rows, padded]`
    pub(super) codes: Vec<i8>,
    /// `[rows, groups]`
    pub(super) scales: Vec<f32>,
    /// The code of 0.
    pub(super) zero: i8,
}

struct QuantizeRow<'a> {
    x: &'a [f32],
    group: usize,
    codes: &'a mut [i8],
    scales: &'a mut [f32],
}

impl Work for QuantizeRow<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { x, group, codes, scales } = self;
        for ((x, codes), scale) in x.chunks(group).zip(codes.chunks_mut(group)).zip(scales) {
            let amax = x.iter().fold(0, |m, &v| magnitude(v).max(m));
            if amax >= 0x7f80_0000 {
                *scale = f32::NAN;
            } else if amax >= TINY {
                let s = f32::from_bits(amax) * (1.0 / 127.0);
                let inverse = 1.0 / s;
                for (c, &v) in codes.iter_mut().zip(x) {
                    let q = steps(v.abs(), s, inverse, 127.0);
                    *c = last_byte(if v < 0.0 { -q } else { q }) as i8;
                }
                *scale = s;
            }
        }
    }
}

/// Codes of values with a scale that is given.
pub(super) struct StaticRow<'a> {
    pub x: &'a [f32],
    pub by: Int8Scale,
    pub codes: &'a mut [i8],
}

impl Work for StaticRow<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let (s, zero) = (self.by.scale(), f32::from(self.by.zero()));
        let inverse = 1.0 / s;
        for (c, &v) in self.codes.iter_mut().zip(self.x) {
            let q = steps(v.abs(), s, inverse, 255.0);
            let q = zero + if v < 0.0 { -q } else { q };
            let q = if q > 127.0 { 127.0 } else { q };
            let q = if q < -128.0 { -128.0 } else { q };
            *c = last_byte(if v.is_nan() { zero } else { q }) as i8;
        }
    }
}

impl Int8Rows {
    /// All zero, of the scale of `activation`.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for activations other than int8, and groups of other sizes than 32 and 128.
    pub fn zeroed(rows: usize, k: usize, activation: Activation) -> Result<Self> {
        let (group, scale, zero) = match activation {
            Activation::Int8(Int8Group::Row) => (k, 0.0, 0),
            Activation::Int8(Int8Group::Cols(g)) if g != 32 && g != 128 => {
                return Err(Error::unsupported(
                    format!("int8 activations in groups of {g}"),
                    "32 and 128 are",
                ));
            }
            Activation::Int8(Int8Group::Cols(g)) => (g as usize, 0.0, 0),
            Activation::Int8Static(by) => (k, by.scale(), by.zero()),
            Activation::F32 | Activation::F16 => {
                return Err(Error::unsupported(format!("{activation:?} as int8"), "give a kind of int8"));
            }
        };
        let (padded, groups) = (k.next_multiple_of(PAD), k.div_ceil(group.max(1)));
        let (codes, scales) = (vec![0; rows * padded], vec![scale; rows * groups]);
        Ok(Self { rows, k, activation, padded, group, groups, codes, scales, zero })
    }

    /// The rows of x, quantized.
    ///
    /// # Errors
    /// As [`Int8Rows::zeroed`].
    pub fn new(x: &Tensor, activation: Activation) -> Result<Self> {
        let x = DenseRows::new(x);
        let mut q = Self::zeroed(x.rows, x.k, activation)?;
        let group = q.group;
        let rows = q.codes.chunks_mut(q.padded.max(1)).zip(q.scales.chunks_mut(q.groups.max(1)));
        threads::for_each(rows.enumerate().collect(), x.rows * x.k * 4, |(row, (codes, scales))| {
            let mut scratch = Vec::new();
            let x = x.row(row, &mut scratch);
            match activation {
                Activation::Int8Static(by) => vectorized(StaticRow { x, by, codes }),
                _ => vectorized(QuantizeRow { x, group, codes, scales }),
            }
        });
        Ok(q)
    }

    /// The rows with their columns in another order: column j of the result is `columns[j]` of these. Groups are those of whole rows.
    /// Some of the rows.
    pub(super) fn part(&self, rows: Range<usize>) -> Cow<'_, Self> {
        if rows == (0..self.rows) {
            return Cow::Borrowed(self);
        }
        let scales = self.scales[rows.start * self.groups..rows.end * self.groups].to_vec();
        let codes = self.codes[rows.start * self.padded..rows.end * self.padded].to_vec();
        Cow::Owned(Self { rows: rows.len(), codes, scales, ..*self })
    }

    pub(super) fn in_order(&self, columns: &[u32]) -> Self {
        let mut other = Self { codes: vec![0; self.codes.len()], scales: self.scales.clone(), ..*self };
        for (to, from) in other.codes.chunks_mut(self.padded).zip(self.codes.chunks(self.padded)) {
            to.iter_mut().zip(columns).for_each(|(q, &c)| *q = from[c as usize]);
        }
        other
    }

    /// The rows, and below them one whose values are all 1: its products are the sums of the weights' rows.
    pub(super) fn with_ones(&self) -> Self {
        let mut all = Self { codes: self.codes.clone(), scales: self.scales.clone(), ..*self };
        all.rows += 1;
        all.codes.extend((0..self.padded).map(|i| i8::from(i < self.k)));
        all.scales.resize(all.rows * self.groups, 1.0);
        all
    }

    /// Codes without padding, `[rows, k]`.
    pub fn codes(&self) -> Vec<i8> {
        self.codes.chunks(self.padded.max(1)).flat_map(|row| &row[..self.k]).copied().collect()
    }

    /// `[rows, groups]`
    pub fn scales(&self) -> &[f32] {
        &self.scales
    }

    pub(super) fn row(&self, row: usize) -> (&[i8], &[f32]) {
        let codes = &self.codes[row * self.padded..(row + 1) * self.padded];
        (codes, &self.scales[row * self.groups..(row + 1) * self.groups])
    }

    /// The values that the codes stand for, `[rows, k]`: what schemes without integer values are multiplied with.
    pub(super) fn dequantized(&self) -> Vec<f32> {
        let mut values = Vec::with_capacity(self.rows * self.k);
        for row in 0..self.rows {
            let (codes, scales) = self.row(row);
            for (codes, scale) in codes[..self.k].chunks(self.group).zip(scales) {
                values.extend(codes.iter().map(|&c| scale * (f32::from(c) - f32::from(self.zero))));
            }
        }
        values
    }
}

/// A run of K within one group of the weights and one of x, short enough for an integer sum. Starts are multiples of 4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    pub start: usize,
    pub end: usize,
    pub w_group: usize,
    pub x_group: usize,
}

/// Cuts `0..k` where a group of either operand ends.
pub(super) fn segments(k: usize, w_group: usize, x_group: usize) -> Vec<Segment> {
    let mut all = Vec::new();
    let mut start = 0;
    if w_group.min(x_group) >= k && k <= MAX_WHOLE {
        return vec![Segment { start, end: k, w_group: 0, x_group: 0 }];
    }
    while start < k {
        let next = |group: usize| (start / group + 1) * group;
        let end = next(w_group).min(next(x_group)).min(start + MAX_SEGMENT).min(k);
        all.push(Segment { start, end, w_group: start / w_group, x_group: start / x_group });
        start = end;
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_cover_k_in_whole_words() {
        for (k, w, x) in
            [(100, 20, 32), (4096, 32, 32), (4096, 4096, 4096), (33, 33, 33), (1, 1, 1), (300, 16, 128)]
        {
            let all = segments(k, w, x);
            assert_eq!((all[0].start, all[all.len() - 1].end), (0, k));
            assert!(all.windows(2).all(|p| p[0].end == p[1].start && p[1].start % 4 == 0));
            for s in all {
                assert!(s.start / w == (s.end - 1) / w && s.start / x == (s.end - 1) / x);
            }
        }
        assert_eq!(segments(100, 20, 32).len(), 8);
        assert_eq!(segments(65536, 65536, 65536).len(), 1);
        assert_eq!(segments(65540, 65540, 65540).len(), 129);
    }

    #[test]
    fn a_row_with_nan_has_a_nan_scale() {
        let x =
            Tensor::from_f32([2, 40], (0..80).map(|i| if i == 75 { f32::NAN } else { i as f32 }).collect());
        let q = Int8Rows::new(&x.unwrap(), Activation::Int8(Int8Group::Cols(32))).unwrap();
        assert_eq!((q.groups, q.padded), (2, 64));
        assert!(q.scales[..3].iter().all(|s| s.is_finite()) && q.scales[3].is_nan());
        assert_eq!((q.codes[31], q.codes[39], q.codes[40]), (127, 127, 0));
    }

    #[test]
    fn static_codes_are_the_definitions() {
        let x: Vec<f32> =
            (-3000..3000).map(|i| i as f32 * 0.01).chain([f32::NAN, f32::INFINITY, -1e30]).collect();
        for (scale, zero) in [(0.125, 0), (0.07, -128), (0.31, 127), (1e-3, 5)] {
            let by = Int8Scale::new(scale, zero).unwrap();
            let tensor = Tensor::from_f32([x.len() / 3, 3], x.clone()).unwrap();
            let q = Int8Rows::new(&tensor, Activation::Int8Static(by)).unwrap();
            assert_eq!(q.codes(), super::super::tests::int8_static(&x, by), "{by:?}");
        }
    }
}
