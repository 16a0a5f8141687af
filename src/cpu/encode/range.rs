//! Ranges of values that scales are made from: percentiles, and the searches for the range of least squared error and of least mean error.
//!
//! ```text
//! extremes --round: 64 candidates (a * low, b * high)--> scale, zero of each, as stored --every value meets all 64, a lane each--> squares --> the best
//! ```
//!
//! A candidate is a lane, so that its sum stays in sequence, as [`crate::scheme::method`] says, whatever the length of a group, and nothing has to be
//! transposed or added across lanes. Scales and codes of the range that was found are `group`'s.

use super::group::{Chosen, GroupEncoder, Stats, TINY, magnitude};
use super::search::whole;
use crate::cpu::decode::byte_scale;
use crate::cpu::half_float::{bf16_to_f32, f16_saturating, f16_to_f32, f32_to_bf16};
use crate::scheme::codebook::Sorted;
use crate::scheme::method::{CANDIDATES, ROUNDS, RUN, SHARES, STEPS, TRIM, TRIM_OUTSIDE};
use crate::scheme::{Encoder, ScaleType};

/// Candidates that meet a value together.
const LANES: usize = 16;
/// Longest table that is walked from end to end for each value.
const WALKED: usize = 16;

/// One number of each candidate.
type Each = [f32; CANDIDATES];

/// The candidates of a round: `t = x * inverse + shift`, rounded to integers from `first` to `last` or to an entry of the table.
#[derive(Clone, Debug)]
pub struct Candidates {
    scale: Each,
    inverse: Each,
    shift: Each,
    first: Each,
    last: Each,
}

impl Candidates {
    fn new(scale: Each) -> Self {
        let mut inverse = scale;
        inverse.iter_mut().for_each(|s| *s = 1.0 / *s);
        Self { scale, inverse, shift: [0.0; CANDIDATES], first: [0.0; CANDIDATES], last: [0.0; CANDIDATES] }
    }

    /// Adds the squared errors of `x`, a row or a part of one, in steps of each candidate's scale.
    #[inline(always)]
    pub fn add_squares(&self, e: &GroupEncoder, x: &[f32], totals: &mut [f64; CANDIDATES]) {
        for run in x.chunks(RUN) {
            for at in (0..CANDIDATES).step_by(LANES) {
                let squares = match e.table {
                    Some(table) if table.values.len() <= WALKED => self.table_squares(table, run, at),
                    Some(table) => self.long_table_squares(table, run, at),
                    None if matches!(e.encoder, Encoder::MinMaxBias | Encoder::MinMaxZero) => {
                        self.linear_errors::<true, false>(run, at)
                    }
                    None => self.linear_errors::<false, false>(run, at),
                };
                for l in 0..LANES {
                    totals[at + l] += f64::from(squares[l]);
                }
            }
        }
    }

    #[inline(always)]
    fn lanes(of: &Each, at: usize) -> [f32; LANES] {
        std::array::from_fn(|l| of[at + l])
    }

    /// The sums of the errors' magnitudes of `x`, in steps of each candidate's scale; of candidates with an integer zero-point.
    #[inline(always)]
    fn magnitudes(&self, x: &[f32]) -> [f64; CANDIDATES] {
        let mut totals = [0.0; CANDIDATES];
        for run in x.chunks(RUN) {
            for at in (0..CANDIDATES).step_by(LANES) {
                let sums = self.linear_errors::<false, true>(run, at);
                for l in 0..LANES {
                    totals[at + l] += f64::from(sums[l]);
                }
            }
        }
        totals
    }

    /// Squares, or magnitudes.
    #[inline(always)]
    fn linear_errors<const SHIFTED: bool, const MAGNITUDES: bool>(
        &self,
        x: &[f32],
        at: usize,
    ) -> [f32; LANES] {
        let [inverse, shift, first, last] =
            [&self.inverse, &self.shift, &self.first, &self.last].map(|of| Self::lanes(of, at));
        let mut sums = [0.0; LANES];
        for &v in x {
            for l in 0..LANES {
                let t = v * inverse[l];
                let t = if SHIFTED { t + shift[l] } else { t };
                let above = if t > first[l] { t } else { first[l] };
                let within = if above < last[l] { above } else { last[l] };
                let d = t - whole(within);
                sums[l] += if MAGNITUDES { d.abs() } else { d * d };
            }
        }
        sums
    }

    #[inline(always)]
    fn table_squares(&self, table: &Sorted, x: &[f32], at: usize) -> [f32; LANES] {
        let inverse = Self::lanes(&self.inverse, at);
        let mut squares = [0.0; LANES];
        for &v in x {
            let t: [f32; LANES] = std::array::from_fn(|l| v * inverse[l]);
            let mut q = [table.values[0]; LANES];
            for (&mid, &value) in table.mids.iter().zip(&table.values[1..]) {
                for l in 0..LANES {
                    q[l] = if t[l] > mid { value } else { q[l] };
                }
            }
            for l in 0..LANES {
                let d = t[l] - q[l];
                squares[l] += d * d;
            }
        }
        squares
    }

    /// By halving: where the entry is, the last entry at or below `t` of a table padded to a power of two.
    #[inline(always)]
    fn long_table_squares(&self, table: &Sorted, x: &[f32], at: usize) -> [f32; LANES] {
        let inverse = Self::lanes(&self.inverse, at);
        let mut mids = [f32::INFINITY; 256];
        mids[1..table.values.len()].copy_from_slice(&table.mids);
        let mut values = [0.0; 256];
        values[..table.values.len()].copy_from_slice(&table.values);
        let mut squares = [0.0; LANES];
        for &v in x {
            for l in 0..LANES {
                let t = v * inverse[l];
                let mut entry = 0usize;
                for half in [128, 64, 32, 16, 8, 4, 2, 1] {
                    entry += if t > mids[entry + half] { half } else { 0 };
                }
                let d = t - values[entry];
                squares[l] += d * d;
            }
        }
        squares
    }
}

/// Whether ranges are symmetric.
fn symmetric(encoder: Encoder) -> bool {
    matches!(encoder, Encoder::Absmax | Encoder::Ternary | Encoder::Nearest)
}

/// Whether scales are bytes of a few values.
fn byte_scaled(encoder: Encoder) -> bool {
    matches!(encoder, Encoder::SharedExponent { .. } | Encoder::GgmlNvfp4 | Encoder::GlobalScale)
}

/// The candidates of ranges `low` to `high`. What they have in common is decided outside of loops, so that these become vectors.
#[inline(always)]
fn candidates(e: &GroupEncoder, low: &Each, high: &Each) -> Candidates {
    let (factor, one) = (e.factor(), symmetric(e.encoder));
    let spans: Each = std::array::from_fn(|c| if one { high[c] } else { high[c] - low[c] });
    let scale = match e.scale_type {
        ScaleType::F16 => spans.map(|v| f16_to_f32(f16_saturating(v * factor))),
        ScaleType::Bf16 => spans.map(|v| bf16_to_f32(f32_to_bf16(v * factor))),
        _ => spans.map(|v| v * factor),
    };
    let mut all = Candidates::new(scale);
    let levels = e.levels();
    let half = 0.5 * (levels + 1.0);
    let zeros: Each = match e.encoder {
        Encoder::MinMax | Encoder::MinMaxBias | Encoder::MinMaxZero => {
            std::array::from_fn(|c| e.zero_of(low[c], all.scale[c]))
        }
        _ => [0.0; CANDIDATES],
    };
    (all.first, all.last) = match e.encoder {
        Encoder::Absmax => ([-half; CANDIDATES], [half - 1.0; CANDIDATES]),
        Encoder::Ternary => ([-1.0; CANDIDATES], [1.0; CANDIDATES]),
        Encoder::MinMax => (zeros.map(|z| -z), zeros.map(|z| levels - z)),
        _ => ([0.0; CANDIDATES], [levels; CANDIDATES]),
    };
    match e.encoder {
        Encoder::MinMaxBias => {
            all.shift = std::array::from_fn(|c| -(zeros[c] * all.inverse[c]));
        }
        Encoder::MinMaxZero => all.shift = zeros,
        _ => {}
    }
    all
}

/// The values that share a scale.
pub trait Values {
    /// All of them.
    fn all(&self) -> Vec<f32>;
    /// Their squared errors under each candidate, in steps of its scale.
    fn squares(&self, e: &GroupEncoder, candidates: &Candidates) -> [f64; CANDIDATES];
}

impl Values for &[f32] {
    fn all(&self) -> Vec<f32> {
        self.to_vec()
    }

    #[inline(always)]
    fn squares(&self, e: &GroupEncoder, candidates: &Candidates) -> [f64; CANDIDATES] {
        let mut totals = [0.0; CANDIDATES];
        candidates.add_squares(e, self, &mut totals);
        totals
    }
}

/// The first candidate with the least error, where that is below `least`, which becomes it.
#[inline(always)]
fn better(e: &GroupEncoder, values: &impl Values, all: &Candidates, least: &mut f64) -> Option<usize> {
    let squares = values.squares(e, all);
    let errors: [f64; CANDIDATES] = std::array::from_fn(|c| {
        let s = f64::from(all.scale[c]);
        squares[c] * (s * s)
    });
    first_of_the_least(&errors, least)
}

/// A scale of 0 has NaN, which is not less.
#[inline(always)]
fn first_of_the_least(errors: &[f64; CANDIDATES], least: &mut f64) -> Option<usize> {
    let lowest = errors.iter().fold(f64::INFINITY, |m, &error| if error < m { error } else { m });
    let found = (lowest < *least).then(|| errors.iter().position(|&error| error == lowest))?;
    *least = lowest;
    found
}

/// The scale and zero-point of least mean error for a group with these extremes, whose own are `start`.
#[inline(always)]
pub fn trim(e: &GroupEncoder, x: &[f32], stats: &Stats, start: Chosen) -> Chosen {
    let step = ((stats.high - stats.low) * e.factor()) * TRIM;
    let by = |i: usize| (i as f32 - TRIM_OUTSIDE as f32) * step;
    let lows: Each = std::array::from_fn(|c| {
        let low = stats.low + by(c / 8);
        if low < 0.0 { low } else { 0.0 }
    });
    let highs: Each = std::array::from_fn(|c| {
        let high = stats.high - by(c % 8);
        if high > 0.0 { high } else { 0.0 }
    });
    let all = candidates(e, &lows, &highs);
    let sums = all.magnitudes(x);
    let errors: [f64; CANDIDATES] = std::array::from_fn(|c| sums[c] * f64::from(all.scale[c]));
    let mut least = f64::INFINITY;
    match first_of_the_least(&errors, &mut least) {
        Some(c) => e.choose_range(lows[c], highs[c]),
        None => start,
    }
}

/// The scale and zero of least squared error for values with these extremes.
#[inline(always)]
pub fn search(e: &GroupEncoder, stats: &Stats, values: &impl Values) -> Chosen {
    let amax = stats.amax();
    if magnitude(amax) < TINY {
        return Chosen { tiny: true, ..Chosen::default() };
    }
    let mut least = f64::INFINITY;
    if byte_scaled(e.encoder) {
        let own = i32::from(e.choose(stats, 0).scale_bytes[0]);
        let most = if matches!(e.encoder, Encoder::SharedExponent { .. }) { 254 } else { 0x7e };
        let byte = |c: usize| (own + 31 - c as i32).clamp(1, most) as u8;
        let scale = |byte: u8| match e.scale_type {
            ScaleType::Table => e.scale_table[usize::from(byte)],
            kind => byte_scale(kind, byte),
        };
        let all = Candidates::new(std::array::from_fn(|c| scale(byte(c))));
        return match better(e, values, &all, &mut least) {
            Some(c) => {
                let scale_bytes = [byte(c), 0, 0, 0];
                Chosen { scale_bytes, scale: scale(byte(c)), ..Chosen::default() }
            }
            None => e.choose(stats, 0),
        };
    }
    let one = symmetric(e.encoder);
    let (low, high) = if one { (-amax, amax) } else { (stats.low, stats.high) };
    let mut found = [1.0; 2];
    let mut gaps = [0.0; 2];
    for round in 0..ROUNDS[usize::from(!one)] {
        // Which factor of either end a candidate has.
        let factors = |c: usize| match (one, round) {
            (true, 0) => [STEPS[c]; 2],
            (true, _) => [found[0] + ((c as f32 - 32.0) / 32.0) * gaps[0]; 2],
            (false, 0) => [SHARES[c / 8], SHARES[c % 8]],
            (false, _) => {
                let [i, j] = [c / 8, c % 8].map(|i| (i as f32 - 4.0) / 4.0);
                [found[0] + i * gaps[0], found[1] + j * gaps[1]].map(|f| if f > 0.0 { f } else { 0.0 })
            }
        };
        let factors: [[f32; 2]; CANDIDATES] = std::array::from_fn(factors);
        let lows = std::array::from_fn(|c| low * factors[c][0]);
        let highs = std::array::from_fn(|c| high * factors[c][1]);
        let won = better(e, values, &candidates(e, &lows, &highs), &mut least);
        if let Some(c) = won {
            found = factors[c];
        }
        gaps = match (round, won) {
            (0, None) => return e.choose(stats, 0),
            (0, Some(c)) if one => [gap(&STEPS, c); 2],
            (0, Some(c)) => [gap(&SHARES, c / 8), gap(&SHARES, c % 8)],
            _ => gaps.map(|g| g * 0.25),
        };
    }
    e.choose_range(low * found[0], high * found[1])
}

/// The distance from an entry to the next one; of the last from the one before.
fn gap(of: &[f32], at: usize) -> f32 {
    let at = at.min(of.len() - 2);
    of[at] - of[at + 1]
}

/// The range without the outermost values; see [`crate::scheme::method`].
pub fn percentile(e: &GroupEncoder, share: f64, x: &[f32]) -> Stats {
    let n = x.len();
    // What is left of 100 - 99.9 is no whole part of a thousand.
    let cut = (n as f64 * (100.0 - share) / 100.0 + 1e-6) as usize;
    if symmetric(e.encoder) || byte_scaled(e.encoder) {
        let mut keys: Vec<u32> = x.iter().copied().map(magnitude).collect();
        let amax = f32::from_bits(*keys.select_nth_unstable(n - 1 - cut).1);
        return Stats { low: -amax, high: amax, sum: 0.0 };
    }
    // Bits that order as the numbers do.
    let key = |v: f32| v.to_bits() ^ if v.is_sign_negative() { u32::MAX } else { 1 << 31 };
    let value = |key: u32| f32::from_bits(key ^ if key >> 31 == 0 { u32::MAX } else { 1 << 31 });
    let mut keys: Vec<u32> = x.iter().copied().map(key).collect();
    let low = value(*keys.select_nth_unstable(cut / 2).1);
    let high = value(*keys.select_nth_unstable(n - 1 - cut / 2).1);
    Stats { low: if low < 0.0 { low } else { 0.0 }, high: if high > 0.0 { high } else { 0.0 }, sum: 0.0 }
}
