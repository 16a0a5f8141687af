//! Activations as a product wants them: f32, rounded to f16, or int8 with a scale per group.
//!
//! ```text
//! x [M, K] -> Float rows [M, K]
//!          -> Int8: codes i8 [M, K padded to 64], scale f32 [M, groups], segments of K
//! ```
//!
//! Int8: `scale = amax * C(127)`, `q = steps(|x|, scale, 127)` with the sign of x, as [`crate::scheme::Encoder::Absmax`]; a group whose
//! `amax` is below 2^-100 is all zero. A group with a NaN or an infinity has the scale NaN, so that every output of its row
//! is NaN.

use super::encode::{TINY, last_byte, magnitude, steps};
use super::half_float::through_f16;
use super::level::{Work, vectorized};
use super::rows::DenseRows;
use crate::Tensor;
use crate::product::Int8Group;
use crate::threads;

/// Rows of codes are padded to this many values, zeros.
pub(super) const PAD: usize = 64;
/// Longest run of products that is summed in integers: 512 * 255 * 127 is below 2^24, so that the sum is exact in f32.
const MAX_SEGMENT: usize = 512;

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

/// Activations quantized to int8.
pub(super) struct Int8Rows {
    pub rows: usize,
    /// K padded to a multiple of [`PAD`].
    pub padded: usize,
    /// Values per scale.
    pub group: usize,
    pub groups: usize,
    /// `[rows, padded]`
    pub codes: Vec<i8>,
    /// `[rows, groups]`
    pub scales: Vec<f32>,
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

impl Int8Rows {
    pub fn new(x: &Tensor, group: Int8Group) -> Self {
        let x = DenseRows::new(x);
        let group = match group {
            Int8Group::Row => x.k,
            Int8Group::Cols(g) => g as usize,
        };
        let (padded, groups) = (x.k.next_multiple_of(PAD), x.k.div_ceil(group));
        let mut q = Self {
            rows: x.rows,
            padded,
            group,
            groups,
            codes: vec![0; x.rows * padded],
            scales: vec![0.0; x.rows * groups],
        };
        let tasks: Vec<_> = q.codes.chunks_mut(padded).zip(q.scales.chunks_mut(groups)).enumerate().collect();
        threads::for_each(tasks, x.rows * x.k * 4, |(row, (codes, scales))| {
            let mut scratch = Vec::new();
            vectorized(QuantizeRow { x: x.row(row, &mut scratch), group, codes, scales });
        });
        q
    }

    pub fn row(&self, row: usize) -> (&[i8], &[f32]) {
        let codes = &self.codes[row * self.padded..(row + 1) * self.padded];
        (codes, &self.scales[row * self.groups..(row + 1) * self.groups])
    }

    /// The values that the codes stand for, `[rows, k]`: what schemes without integer values are multiplied with.
    pub fn dequantized(&self, k: usize) -> Vec<f32> {
        let mut values = Vec::with_capacity(self.rows * k);
        for row in 0..self.rows {
            let (codes, scales) = self.row(row);
            for (codes, scale) in codes[..k].chunks(self.group).zip(scales) {
                values.extend(codes.iter().map(|&c| scale * f32::from(c)));
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
    }

    #[test]
    fn a_row_with_nan_has_a_nan_scale() {
        let x =
            Tensor::from_f32([2, 40], (0..80).map(|i| if i == 75 { f32::NAN } else { i as f32 }).collect());
        let q = Int8Rows::new(&x.unwrap(), Int8Group::Cols(32));
        assert_eq!((q.groups, q.padded), (2, 64));
        assert!(q.scales[..3].iter().all(|s| s.is_finite()) && q.scales[3].is_nan());
        assert_eq!((q.codes[31], q.codes[39], q.codes[40]), (127, 127, 0));
    }
}
