//! One group of weights to a stored scale and codes: lowbit's own encoders and GGUF's, but for those with two levels.
//!
//! ```text
//! x [n] --Stats--> scale, zero, bias (as stored) --> codes [n]
//! ```
//!
//! Every function is the text of its variant of [`Encoder`] in the same order of f32 operations.

use super::{hqq, range};
use crate::cpu::decode::byte_scale;
use crate::cpu::half_float::{bf16_to_f32, f16_saturating, f16_to_f32, f32_to_bf16};
use crate::scheme::codebook::Sorted;
use crate::scheme::method::Range;
use crate::scheme::{Encoder, ScaleType};

/// Bits of 2^-100: magnitudes below are tiny.
pub const TINY: u32 = (127 - 100) << 23;

/// Magnitude as bits, which order as the magnitudes do.
#[inline(always)]
pub fn magnitude(v: f32) -> u32 {
    v.to_bits() & 0x7fff_ffff
}

/// What scales are computed from. `low <= 0 <= high`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stats {
    pub low: f32,
    pub high: f32,
    /// Sum of magnitudes, for the encoders that ask for it.
    pub sum: f32,
}

impl Stats {
    /// Extremes of `x`, without the sum.
    #[inline(always)]
    pub fn extremes(x: &[f32]) -> Self {
        let (low, high) = extremes_from(0.0, x);
        Self { low, high, sum: 0.0 }
    }

    /// Of two parts, without the sum.
    pub fn join(self, other: Self) -> Self {
        Self { low: self.low.min(other.low), high: self.high.max(other.high), sum: 0.0 }
    }

    #[inline(always)]
    pub fn amax(&self) -> f32 {
        self.high.max(-self.low)
    }
}

/// The smallest and the largest of `first` and `x`; which zero of several is not defined.
#[inline(always)]
fn extremes_from(first: f32, x: &[f32]) -> (f32, f32) {
    // Sixteen lanes, as one running extreme would not vectorise.
    let (mut low, mut high) = ([first; 16], [first; 16]);
    let (chunks, rest) = x.as_chunks::<16>();
    for chunk in chunks {
        for l in 0..16 {
            low[l] = if chunk[l] < low[l] { chunk[l] } else { low[l] };
            high[l] = if chunk[l] > high[l] { chunk[l] } else { high[l] };
        }
    }
    for half in [8, 4, 2, 1] {
        for l in 0..half {
            low[l] = if low[l + half] < low[l] { low[l + half] } else { low[l] };
            high[l] = if high[l + half] > high[l] { high[l + half] } else { high[l] };
        }
    }
    rest.iter().fold((low[0], high[0]), |(low, high), &v| {
        (if v < low { v } else { low }, if v > high { v } else { high })
    })
}

/// What a mean of magnitudes counts.
#[inline(always)]
fn counted(v: f32) -> f32 {
    if magnitude(v) < TINY { 0.0 } else { v.abs() }
}

/// The sum of [`Encoder::MeanAbs`] over a group of up to 256.
#[inline(always)]
pub fn sum_in_sequence(x: &[f32]) -> f32 {
    x.iter().fold(0.0, |sum, &v| sum + counted(v))
}

/// The sum of [`Encoder::MeanAbs`] over longer groups, rows, and the sums of rows.
#[inline(always)]
pub fn sum_in_lanes(x: &[f32]) -> f32 {
    let mut lanes = [0f32; 64];
    for chunk in x.chunks(64) {
        lanes.iter_mut().zip(chunk).for_each(|(l, &v)| *l += counted(v));
    }
    for half in [32, 16, 8, 4, 2, 1] {
        for l in 0..half {
            lanes[l] += lanes[l + half];
        }
    }
    lanes[0]
}

/// 2^23: added to and subtracted from a smaller number that is not negative it rounds to an integer, and left in place it puts the
/// integer into the last bits. Conversions by `as` saturate, for which compilers leave vectors.
const INTEGERS: f32 = 8_388_608.0;

/// The last byte of an integer between -2^22 and 2^22.
#[inline(always)]
pub fn last_byte(integer: f32) -> u8 {
    (integer + 1.5 * INTEGERS).to_bits() as u8
}

/// Towards zero, `0 <= v < 2^22`.
#[inline(always)]
fn truncate(v: f32) -> f32 {
    let near = (v + INTEGERS) - INTEGERS;
    if near > v { near - 1.0 } else { near }
}

/// The largest integer `q <= q_max` with `q = 0` or `(q - 0.5) * s <= t`, given `inverse` near `1 / s`.
///
/// The product with the inverse is off by far less than one half, so one step either way mends it.
#[inline(always)]
pub fn steps(t: f32, s: f32, inverse: f32, q_max: f32) -> f32 {
    let quotient = t * inverse;
    let quotient = if quotient < q_max { quotient } else { q_max };
    let guess = (quotient + INTEGERS) - INTEGERS;
    let up = if guess < q_max && (guess + 0.5) * s <= t { guess + 1.0 } else { guess };
    if up > 0.0 && (up - 0.5) * s > t { up - 1.0 } else { up }
}

/// The largest integer `q <= q_max` with `q = 0` or `((q - 0.5) - zero) * s <= v`, given `inverse` near `1 / s`, as [`steps`].
#[inline(always)]
fn steps_from(v: f32, s: f32, inverse: f32, zero: f32, q_max: f32) -> f32 {
    let quotient = v * inverse + zero;
    let quotient = if quotient < q_max { quotient } else { q_max };
    let quotient = if quotient > 0.0 { quotient } else { 0.0 };
    let guess = (quotient + INTEGERS) - INTEGERS;
    let up = if guess < q_max && ((guess + 0.5) - zero) * s <= v { guess + 1.0 } else { guess };
    if up > 0.0 && ((up - 0.5) - zero) * s > v { up - 1.0 } else { up }
}

/// A group's scale and zero (zero-point, float zero or bias) as stored and as decoded.
#[derive(Clone, Copy, Debug, Default)]
pub struct Chosen {
    /// Little-endian, in the first bytes that the scale's type takes.
    pub scale_bytes: [u8; 4],
    pub scale: f32,
    /// Little-endian, in as many bytes as the scheme has for it.
    pub zero_bytes: [u8; 4],
    pub zero: f32,
    /// A group so small that its codes are those of zeros.
    pub tiny: bool,
    /// What GGUF's encoders multiply with instead of the stored scale.
    pub inverse: f32,
    pub low: f32,
}

/// How groups of a scheme are encoded, worked out once per tensor.
pub struct GroupEncoder<'a> {
    pub encoder: Encoder,
    pub range: Range,
    pub scale_type: ScaleType,
    pub bits: u8,
    pub table: Option<&'a Sorted>,
    /// The numbers of table-coded scales; empty for others.
    pub scale_table: &'a [f32],
    /// Lanes instead of a sequence in the sum of magnitudes.
    pub wide: bool,
}

#[inline(always)]
fn store(kind: ScaleType, scale: f32) -> ([u8; 4], f32) {
    match kind {
        ScaleType::F32 => (scale.to_le_bytes(), scale),
        ScaleType::F16 => {
            let bits = f16_saturating(scale);
            let [a, b] = bits.to_le_bytes();
            ([a, b, 0, 0], f16_to_f32(bits))
        }
        ScaleType::Ue4M3 => {
            let byte = e4m3(scale);
            ([byte, 0, 0, 0], byte_scale(kind, byte))
        }
        ScaleType::Bf16 => {
            let bits = f32_to_bf16(scale);
            let [a, b] = bits.to_le_bytes();
            ([a, b, 0, 0], bf16_to_f32(bits))
        }
        // Shared exponents and entries of a table are chosen as bytes, not rounded to them.
        ScaleType::E8M0 | ScaleType::E8M0Half | ScaleType::Table => ([0; 4], 0.0),
    }
}

/// The E4M3 byte that GGUF's NVFP4 stores for a number that is not negative: half up, subnormals at most 7 steps, and 448 for all that
/// rounds to 256 or more.
fn e4m3(v: f32) -> u8 {
    let bits = v.to_bits();
    if bits < 121 << 23 {
        return (v * 512.0 + 0.5).min(7.0) as u8;
    }
    let rounded = (bits - (120 << 23) + (1 << 19)) >> 20;
    if rounded >= 15 << 3 { 0x7e } else { rounded as u8 }
}

/// `1 / d`, or 0 where that is no finite number.
fn inverse_or_zero(d: f32) -> f32 {
    let inverse = 1.0 / d;
    if inverse.is_finite() { inverse } else { 0.0 }
}

/// C-style `round`: half away from zero. |v| < 2^22.
#[inline(always)]
fn round_away(v: f32) -> f32 {
    let whole = truncate(v.abs());
    (if v.abs() - whole >= 0.5 { whole + 1.0 } else { whole }).copysign(v)
}

/// The value of largest magnitude with its sign; the first wins. +0 for all zeros.
#[inline(always)]
pub fn extreme(x: &[f32]) -> f32 {
    // The magnitude first, as a running choice would not vectorise.
    let largest = x.iter().fold(0, |m, &v| magnitude(v).max(m));
    if largest == 0 { 0.0 } else { x.iter().copied().find(|&v| magnitude(v) == largest).unwrap_or(0.0) }
}

impl GroupEncoder<'_> {
    #[inline(always)]
    pub fn levels(&self) -> f32 {
        ((1u32 << self.bits) - 1) as f32
    }

    /// A number of the scale's type, little-endian and as decoded.
    #[inline(always)]
    pub fn store(&self, v: f32) -> ([u8; 4], f32) {
        store(self.scale_type, v)
    }

    /// The same, as decoded.
    #[inline(always)]
    pub fn stored(&self, v: f32) -> f32 {
        self.store(v).1
    }

    /// From the length of a range, or from its larger end where ranges are symmetric, to its scale: `C(n)` of the encoders whose scale is a number.
    #[inline(always)]
    pub fn factor(&self) -> f32 {
        match self.encoder {
            Encoder::Absmax => 1.0 / ((1u32 << (self.bits - 1)) as f32 - 1.0),
            Encoder::Ternary => 1.0,
            Encoder::MinMax | Encoder::MinMaxBias | Encoder::MinMaxZero => 1.0 / self.levels(),
            _ => 1.0 / self.table.map_or(1.0, |t| t.max),
        }
    }

    /// The zero-point, bias or float zero of a range from `low` on, as decoded; 0 for encoders without.
    #[inline(always)]
    pub fn zero_of(&self, low: f32, scale: f32) -> f32 {
        match self.encoder {
            Encoder::MinMax => steps(-low, scale, 1.0 / scale, self.levels()),
            Encoder::MinMaxBias if magnitude(low) >= TINY => self.stored(low),
            Encoder::MinMaxZero => {
                let sixteenth = scale / 16.0;
                self.stored(steps(-low, sixteenth, 1.0 / sixteenth, 16.0 * self.levels()) / 16.0)
            }
            _ => 0.0,
        }
    }

    /// Statistics of one group, with what this encoder needs.
    #[inline(always)]
    pub fn stats(&self, x: &[f32]) -> Stats {
        match self.encoder {
            Encoder::MeanAbs => {
                let sum = if self.wide { sum_in_lanes(x) } else { sum_in_sequence(x) };
                Stats { sum, ..Stats::default() }
            }
            _ => Stats::extremes(x),
        }
    }

    /// The scale of a group of `n` values with these statistics, for the encoders whose scale follows from them: lowbit's own.
    #[inline(always)]
    pub fn choose(&self, stats: &Stats, n: usize) -> Chosen {
        let amax = stats.amax();
        let tiny = magnitude(if self.encoder == Encoder::MeanAbs { stats.sum } else { amax }) < TINY;
        if tiny {
            return Chosen { tiny, ..Chosen::default() };
        }
        match self.encoder {
            Encoder::SharedExponent { emax } => {
                let e = (amax.to_bits() >> 23) as i32 - emax;
                let byte = e.clamp(1, 254) as u8;
                let scale = byte_scale(self.scale_type, byte);
                Chosen { scale_bytes: [byte, 0, 0, 0], scale, ..Chosen::default() }
            }
            Encoder::GlobalScale => {
                let a = amax * (1.0 / 6.0);
                let above = |pair: &&[f32]| a > (pair[0] + pair[1]) * 0.5;
                let byte = self.scale_table[..0x7f].windows(2).take_while(above).count();
                let scale_bytes = [byte as u8, 0, 0, 0];
                Chosen { scale_bytes, scale: self.scale_table[byte], ..Chosen::default() }
            }
            Encoder::MeanAbs => {
                // Of n as f64, as C(n) rounds 1/n and not n.
                let (scale_bytes, scale) = self.store(stats.sum * (1.0 / n as f64) as f32);
                Chosen { scale_bytes, scale, ..Chosen::default() }
            }
            _ => self.choose_range(stats.low, stats.high),
        }
    }

    /// The scale and zero of a range, for the encoders whose scale is a number.
    #[inline(always)]
    pub fn choose_range(&self, low: f32, high: f32) -> Chosen {
        let amax = Stats { low, high, sum: 0.0 }.amax();
        let (scale_bytes, scale) = self.store(match self.encoder {
            Encoder::MinMax | Encoder::MinMaxBias | Encoder::MinMaxZero => (high - low) * self.factor(),
            Encoder::GgmlNvfp4 => amax / 6.0,
            _ => amax * self.factor(),
        });
        let mut chosen = Chosen { scale_bytes, scale, ..Chosen::default() };
        if scale != 0.0 {
            chosen.zero = self.zero_of(low, scale);
            chosen.zero_bytes = match self.encoder {
                Encoder::MinMax => [chosen.zero as u8, 0, 0, 0],
                Encoder::MinMaxBias | Encoder::MinMaxZero => self.store(chosen.zero).0,
                _ => [0; 4],
            };
        }
        chosen
    }

    /// The scale of `n` values with these extremes, and zero, as the method finds them.
    #[inline(always)]
    pub fn find(&self, stats: &Stats, n: usize, values: &impl range::Values) -> Chosen {
        let amax = stats.amax();
        let symmetric = |amax: f32| Stats { low: -amax, high: amax, sum: 0.0 };
        match self.range {
            Range::Own | Range::HalfQuadratic | Range::Trimmed => self.choose(stats, n),
            Range::Symmetric => self.choose(&symmetric(amax), n),
            Range::Whole => {
                let half = (1u32 << (self.bits - 1)) as f32;
                let low = -stats.low * ((half - 1.0) / half);
                self.choose(&symmetric(if low > stats.high { low } else { stats.high }), n)
            }
            Range::Percentile(share) => self.choose(&range::percentile(self, share, &values.all()), n),
            Range::Search => range::search(self, stats, values),
        }
    }

    /// The scale of one group of a GGUF block type.
    #[inline(always)]
    fn choose_ggml(&self, x: &[f32]) -> Chosen {
        let (mut low, mut zero_bytes) = (0.0, [0; 4]);
        let d = match self.encoder {
            Encoder::GgmlExtreme => extreme(x) * (-1.0 / (1u32 << (self.bits - 1)) as f32),
            Encoder::GgmlMinMax => {
                let first = x.first().copied().unwrap_or(0.0);
                let (smallest, largest) = extremes_from(first, x);
                // Of +0 and -0 the first counts.
                let first_of =
                    |v: f32| if v == 0.0 { x.iter().copied().find(|&x| x == v).unwrap_or(v) } else { v };
                let high = first_of(largest);
                low = first_of(smallest);
                (zero_bytes, _) = store(self.scale_type, low);
                (high - low) / self.levels()
            }
            Encoder::GgmlAbsmax => Stats::extremes(x).amax() / 127.0,
            Encoder::GgmlMeanAbs => x.iter().fold(0.0, |sum, v| sum + v.abs()) / x.len() as f32,
            _ => Stats::extremes(x).amax(),
        };
        let (scale_bytes, scale) = store(self.scale_type, d);
        Chosen { scale_bytes, scale, zero_bytes, inverse: inverse_or_zero(d), low, ..Chosen::default() }
    }

    /// Encodes one group of its own: returns its scale and writes its codes.
    #[inline(always)]
    pub fn group(&self, x: &[f32], codes: &mut [u8]) -> Chosen {
        let chosen = match self.encoder {
            Encoder::GgmlExtreme
            | Encoder::GgmlMinMax
            | Encoder::GgmlAbsmax
            | Encoder::GgmlTernary
            | Encoder::GgmlMeanAbs => self.choose_ggml(x),
            _ => {
                let stats = self.stats(x);
                let chosen = self.find(&stats, x.len(), &x);
                match self.range {
                    Range::HalfQuadratic => hqq::optimize(self, x, stats.low, chosen),
                    Range::Trimmed if !chosen.tiny => range::trim(self, x, &stats, chosen),
                    _ => chosen,
                }
            }
        };
        self.codes(&chosen, x, codes);
        chosen
    }

    /// Codes of `x` under a scale.
    #[inline(always)]
    pub fn codes(&self, chosen: &Chosen, x: &[f32], codes: &mut [u8]) {
        let Chosen { scale, zero, inverse, low, .. } = *chosen;
        let half_levels = (1u32 << (self.bits - 1)) as f32;
        let levels = self.levels();
        let out = codes.iter_mut().zip(x);
        match self.encoder {
            Encoder::MeanAbs | Encoder::GgmlMeanAbs => out.for_each(|(c, &v)| *c = u8::from(v >= 0.0)),
            Encoder::GgmlExtreme => {
                let offset = half_levels + 0.5;
                out.for_each(|(c, &v)| *c = last_byte(truncate((v * inverse + offset).min(levels))));
            }
            Encoder::GgmlMinMax => {
                out.for_each(|(c, &v)| *c = last_byte(truncate(((v - low) * inverse + 0.5).min(levels))));
            }
            Encoder::GgmlAbsmax | Encoder::GgmlTernary => {
                let most = if self.encoder == Encoder::GgmlAbsmax { 127.0 } else { 1.0 };
                let offset = if most == 1.0 { half_levels - 1.0 } else { half_levels };
                out.for_each(|(c, &v)| {
                    *c = last_byte(round_away(v * inverse).clamp(-most, most) + offset);
                });
            }
            Encoder::Nearest | Encoder::SharedExponent { .. } | Encoder::GgmlNvfp4 | Encoder::GlobalScale => {
                let Some(table) = self.table else { unreachable!("a table encoder has a table") };
                if chosen.tiny || scale == 0.0 {
                    return codes[..x.len()].fill(table.zero);
                }
                nearest(table, scale, x, codes);
            }
            Encoder::Absmax | Encoder::Ternary => {
                let [below, above] = match self.encoder {
                    Encoder::Ternary => [1.0; 2],
                    _ => [half_levels, half_levels - 1.0],
                };
                if scale == 0.0 {
                    return codes[..x.len()].fill(below as u8);
                }
                let inverse = 1.0 / scale;
                out.for_each(|(c, &v)| {
                    let q = steps(v.abs(), scale, inverse, if v < 0.0 { below } else { above });
                    *c = last_byte(below + if v < 0.0 { -q } else { q });
                });
            }
            Encoder::MinMax => {
                if scale == 0.0 {
                    return codes[..x.len()].fill(0);
                }
                let inverse = 1.0 / scale;
                out.for_each(|(c, &v)| {
                    let q = steps(v.abs(), scale, inverse, levels + 1.0);
                    *c = last_byte((zero + if v < 0.0 { -q } else { q }).clamp(0.0, levels));
                });
            }
            Encoder::MinMaxBias | Encoder::MinMaxZero if scale == 0.0 => codes[..x.len()].fill(0),
            Encoder::MinMaxBias => {
                let inverse = 1.0 / scale;
                out.for_each(|(c, &v)| {
                    let t = v - zero;
                    *c = last_byte(if t <= 0.0 { 0.0 } else { steps(t, scale, inverse, levels) });
                });
            }
            Encoder::MinMaxZero => {
                let inverse = 1.0 / scale;
                out.for_each(|(c, &v)| *c = last_byte(steps_from(v, scale, inverse, zero, levels)));
            }
            Encoder::Round
            | Encoder::Clusters
            | Encoder::GgmlIq4
            | Encoder::GgmlAffine
            | Encoder::GgmlDescent
            | Encoder::GgmlSymmetric => {
                unreachable!("{:?} does not encode groups one by one", self.encoder)
            }
        }
    }
}

/// Codes of the table entries nearest to `x`, intervals split at `mid * scale`. The interval above a boundary begins at the boundary
/// itself for those at or below zero.
#[inline(always)]
fn nearest(table: &Sorted, scale: f32, x: &[f32], codes: &mut [u8]) {
    let codes = &mut codes[..x.len()];
    if table.mids.len() < 16 {
        // Counting boundaries below each value, boundary by boundary: the inner loops vectorise.
        codes.fill(0);
        for &mid in &table.mids {
            let edge = mid * scale;
            if mid <= 0.0 {
                codes.iter_mut().zip(x).for_each(|(c, &v)| *c += u8::from(v >= edge));
            } else {
                codes.iter_mut().zip(x).for_each(|(c, &v)| *c += u8::from(v > edge));
            }
        }
        let mut order = [0u8; 16];
        order[..table.codes.len()].copy_from_slice(&table.codes);
        codes.iter_mut().for_each(|c| *c = order[usize::from(*c & 15)]);
    } else {
        for (code, &v) in codes.iter_mut().zip(x) {
            let above = |&mid: &f32| v > mid * scale || (v == mid * scale && mid <= 0.0);
            *code = table.codes[table.mids.partition_point(above)];
        }
    }
}
