//! Super-groups of the two-level schemes Q2_K to Q6_K by plain min-max and absmax.
//!
//! ```text
//! x [256] -> per group: s_g (and m_g) -> d (and dm), f16 -> integer sub-scales -> codes
//! ```
//!
//! The text is that of [`Encoder::SuperMinMax`] and [`Encoder::SuperAbsmax`](crate::scheme::Encoder::SuperAbsmax).

#[cfg(doc)]
use crate::scheme::Encoder;

use super::group::{Stats, TINY, extreme, last_byte, magnitude, steps};
use crate::cpu::half_float::{f16_saturating, f16_to_f32};
use crate::scheme::SubScale;

/// Where the parts of one super-group go.
pub struct SuperOut<'a> {
    /// One byte per group.
    pub scales: &'a mut [u8],
    /// One byte per group for `U8Min`, else empty.
    pub mins: &'a mut [u8],
    pub codes: &'a mut [u8],
}

/// Most groups in a super-group.
const MAX_GROUPS: usize = 16;

/// Encodes a super-group with minima; returns the f16 bits of the super-scale and the super-minimum.
#[inline(always)]
pub fn min_max(x: &[f32], group: usize, bits: u8, sub: SubScale, out: SuperOut) -> (u16, u16) {
    let levels = ((1u32 << bits) - 1) as f32;
    let most = if sub == SubScale::U4Min { 15.0 } else { 63.0 };
    let (mut scale, mut min) = ([0f32; MAX_GROUPS], [0f32; MAX_GROUPS]);
    let (mut scale_max, mut min_max) = (0f32, 0f32);
    for (g, x) in x.chunks(group).enumerate() {
        let Stats { low, high, .. } = Stats::extremes(x);
        if magnitude(high.max(-low)) >= TINY {
            scale[g] = (high - low) * (1.0 / levels);
            min[g] = -low;
        }
        scale_max = scale_max.max(scale[g]);
        min_max = min_max.max(min[g]);
    }
    let d_bits = f16_saturating(scale_max * (1.0 / most));
    let dm_bits = f16_saturating(min_max * (1.0 / most));
    let (d, dm) = (f16_to_f32(d_bits), f16_to_f32(dm_bits));
    for (g, (x, codes)) in x.chunks(group).zip(out.codes.chunks_mut(group)).enumerate() {
        let sc = if d > 0.0 { steps(scale[g], d, 1.0 / d, most) } else { 0.0 };
        let m = if dm > 0.0 { steps(min[g], dm, 1.0 / dm, most) } else { 0.0 };
        match sub {
            SubScale::U4Min => out.scales[g] = sc as u8 | (m as u8) << 4,
            _ => (out.scales[g], out.mins[g]) = (sc as u8, m as u8),
        }
        let (s, offset) = (d * sc, dm * m);
        if s == 0.0 {
            codes.fill(0);
            continue;
        }
        let inverse = 1.0 / s;
        for (c, &v) in codes.iter_mut().zip(x) {
            let t = v + offset;
            *c = last_byte(if t <= 0.0 { 0.0 } else { steps(t, s, inverse, levels) });
        }
    }
    (d_bits, dm_bits)
}

/// Encodes a super-group with signed sub-scales; returns the f16 bits of the super-scale.
#[inline(always)]
pub fn absmax(x: &[f32], group: usize, bits: u8, out: SuperOut) -> u16 {
    let half_levels = (1u32 << (bits - 1)) as f32;
    let most = if bits == 3 { 32.0 } else { 128.0 };
    let mut scale = [0f32; MAX_GROUPS];
    let mut largest = 0f32;
    for (g, x) in x.chunks(group).enumerate() {
        let v = extreme(x);
        if magnitude(v) >= TINY {
            scale[g] = v * (-1.0 / half_levels);
        }
        if magnitude(scale[g]) > magnitude(largest) {
            largest = scale[g];
        }
    }
    // A zero is +0, whatever its sign.
    let d_bits = match f16_saturating(largest * (-1.0 / most)) {
        0x8000 => 0,
        bits => bits,
    };
    let d = f16_to_f32(d_bits);
    for (g, (x, codes)) in x.chunks(group).zip(out.codes.chunks_mut(group)).enumerate() {
        let signed_steps = |t: f32, s: f32, inverse: f32, half: f32| {
            let negative = (t < 0.0) != (s < 0.0);
            let q = steps(t.abs(), s.abs(), inverse, if negative { half } else { half - 1.0 });
            if negative { -q } else { q }
        };
        let sc = if d == 0.0 { 0.0 } else { signed_steps(scale[g], d, 1.0 / d.abs(), most) };
        out.scales[g] = sc as i32 as i8 as u8;
        let s = d * sc;
        if s == 0.0 {
            codes.fill(half_levels as u8);
            continue;
        }
        let inverse = 1.0 / s.abs();
        for (c, &v) in codes.iter_mut().zip(x) {
            *c = last_byte(half_levels + signed_steps(v, s, inverse, half_levels));
        }
    }
    d_bits
}
